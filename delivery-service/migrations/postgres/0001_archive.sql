-- Version 1 of the delivery service's PostgreSQL database: snapshots, and the archive of every group's log.
-- Order is decided in Redis; what is here was copied from there by the holder of a partition's lease.

-- The replicas that archive, each for as long as it says so again in time.
CREATE TABLE archivers (
    holder bytea PRIMARY KEY,
    expires_at timestamptz NOT NULL
);

-- Who archives which partition. The token grows with each holder, and every write names it.
CREATE TABLE leases (
    partition smallint PRIMARY KEY,
    holder bytea,
    token bigint NOT NULL DEFAULT 0,
    -- The change of the partition up to which everything is archived.
    change bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 70);
INSERT INTO leases (partition) SELECT generate_series(0, 1023);
CREATE INDEX leases_by_holder ON leases (holder);

CREATE TABLE groups (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    group_id bytea NOT NULL UNIQUE,
    partition smallint NOT NULL,
    creation_key bytea,
    origin bytea NOT NULL,
    -- The newest archived entry (its id is the origin while there is none), and where the group stands after it.
    position bigint NOT NULL DEFAULT 0,
    entry_id bytea NOT NULL,
    epoch bigint NOT NULL DEFAULT 0,
    commit_position bigint NOT NULL DEFAULT 0,
    proposal_position bigint NOT NULL DEFAULT 0,
    accepted_at bigint NOT NULL,
    -- Up to here (inclusive) messages are gone for good.
    deleted bigint NOT NULL DEFAULT 0,
    -- Up to here (inclusive) entries are here alone.
    trimmed bigint NOT NULL DEFAULT 0,
    -- When to look again, in milliseconds since 1970: NULL where there is nothing to do.
    trim_at bigint,
    sweep_at bigint,
    -- Since when its log in Redis is known to be another one.
    regressed_at timestamptz,
    repairs integer NOT NULL DEFAULT 0
) WITH (fillfactor = 70);
CREATE INDEX groups_by_partition ON groups (partition, number);
CREATE INDEX groups_to_trim ON groups (partition, trim_at) WHERE trim_at IS NOT NULL;
CREATE INDEX groups_to_sweep ON groups (partition, sweep_at) WHERE sweep_at IS NOT NULL;
CREATE INDEX groups_marked ON groups (number) WHERE regressed_at IS NOT NULL OR repairs > 0;

CREATE TABLE entries (
    group_number bigint NOT NULL,
    position bigint NOT NULL,
    kind smallint NOT NULL,
    epoch bigint NOT NULL,
    accepted_at bigint NOT NULL,
    entry_id bytea NOT NULL,
    idempotency_key bytea NOT NULL,
    -- Empty for the service itself: to a unique index no two NULLs are alike.
    sender bytea NOT NULL,
    bytes bytea NOT NULL,
    PRIMARY KEY (group_number, position)
);
-- Keys are each sender's own: nobody can use up another's.
CREATE UNIQUE INDEX entries_by_key ON entries (group_number, idempotency_key, sender);
-- What a group's state is folded from: commits (1) and proposals (2).
CREATE INDEX entries_handshakes ON entries (group_number, position) WHERE kind < 3;
CREATE UNIQUE INDEX entries_commits ON entries (group_number, epoch) WHERE kind = 1;
-- Ciphertext does not compress.
ALTER TABLE entries ALTER COLUMN bytes SET STORAGE EXTERNAL;

-- Who reads what, as of the newest archived entry: after joined_at (exclusive), up to left_at (inclusive).
CREATE TABLE windows (
    group_number bigint NOT NULL,
    device bytea NOT NULL,
    user_id text NOT NULL,
    joined_at bigint NOT NULL,
    left_at bigint,
    PRIMARY KEY (group_number, device, joined_at)
);

-- The GroupInfo of the epoch that the newest archived commit began.
CREATE TABLE group_infos (
    group_number bigint PRIMARY KEY,
    epoch bigint NOT NULL,
    commit_position bigint NOT NULL,
    group_info bytea NOT NULL
);

CREATE TABLE acknowledgements (
    group_number bigint NOT NULL,
    device bytea NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (group_number, device)
) WITH (fillfactor = 70);

CREATE TABLE snapshots (
    group_id bytea NOT NULL,
    epoch bigint NOT NULL,
    anchor bytea NOT NULL,
    position bigint NOT NULL,
    state bytea NOT NULL,
    PRIMARY KEY (group_id, epoch, anchor)
);
ALTER TABLE snapshots ALTER COLUMN state SET STORAGE EXTERNAL;
