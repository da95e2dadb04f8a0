-- Version 2: what devices give back of a group's log that went back in time, until the group is repaired.

CREATE TABLE offered_entries (
    group_number bigint NOT NULL,
    position bigint NOT NULL,
    -- SHA-256 over all that an entry is: two that differ in anything are two.
    digest bytea NOT NULL,
    kind smallint NOT NULL,
    epoch bigint NOT NULL,
    accepted_at bigint NOT NULL,
    entry_id bytea NOT NULL,
    -- Empty for the service itself.
    sender bytea NOT NULL,
    bytes bytea NOT NULL,
    -- Of a commit, where its committer has offered it.
    group_info bytea,
    -- Who brought it first: on that device's account.
    first_device bytea NOT NULL,
    size bigint NOT NULL,
    PRIMARY KEY (group_number, position, digest)
);
ALTER TABLE offered_entries ALTER COLUMN bytes SET STORAGE EXTERNAL;
ALTER TABLE offered_entries ALTER COLUMN group_info SET STORAGE EXTERNAL;

-- Which device offers which entry for which position: one, and it stays.
CREATE TABLE offers (
    group_number bigint NOT NULL,
    position bigint NOT NULL,
    device bytea NOT NULL,
    user_id text NOT NULL,
    digest bytea NOT NULL,
    PRIMARY KEY (group_number, device, position)
);
CREATE INDEX offers_by_position ON offers (group_number, position);
