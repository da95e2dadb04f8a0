-- Devices that have ever published. A revoked one stays as a mark, so that a late publish cannot bring it back and a
-- claim can say why there is nothing. Whoever changes many rows of a device locks its row here first.
CREATE TABLE device (
    id            BYTEA   NOT NULL PRIMARY KEY CHECK (octet_length(id) = 16),
    -- Compared by its bytes: an index must not depend on the system's collations.
    user_id       TEXT    COLLATE "C" NOT NULL,
    -- The MLS signature key of all its stored packages; another one replaces them (RFC 9750 §5.1).
    signature_key BYTEA   NOT NULL,
    revoked       BOOLEAN NOT NULL DEFAULT false
);

CREATE INDEX device_by_user ON device (user_id, id);

-- What can be handed out. Rows are inserted and deleted, never updated. Times are seconds since 1970-01-01 UTC.
CREATE TABLE key_package (
    number                BIGINT  NOT NULL GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device                BYTEA   NOT NULL REFERENCES device (id),
    suite                 INTEGER NOT NULL,
    last_resort           BOOLEAN NOT NULL,
    -- The end of the leaf's lifetime.
    not_after             BIGINT  NOT NULL,
    certificate_not_after BIGINT  NOT NULL,
    message               BYTEA   NOT NULL
);

-- Keys and signatures do not get smaller.
ALTER TABLE key_package ALTER COLUMN message SET STORAGE EXTERNAL;

CREATE INDEX key_package_to_hand_out ON key_package (device, suite, last_resort, not_after, certificate_not_after);
CREATE UNIQUE INDEX key_package_of_last_resort ON key_package (device, suite) WHERE last_resort;
CREATE INDEX key_package_by_end ON key_package (not_after);
CREATE INDEX key_package_by_certificate_end ON key_package (certificate_not_after);

-- Suites that a device has published, also when nothing is left of them.
CREATE TABLE published_suite (
    device BYTEA   NOT NULL REFERENCES device (id),
    suite  INTEGER NOT NULL,
    PRIMARY KEY (device, suite)
);

-- SHA-256 of the init keys of everything that a device has published, handed out or not, until its lifetime ends.
CREATE TABLE seen_init_key (
    device    BYTEA  NOT NULL REFERENCES device (id),
    digest    BYTEA  NOT NULL CHECK (octet_length(digest) = 32),
    not_after BIGINT NOT NULL,
    PRIMARY KEY (device, digest)
);

CREATE INDEX seen_init_key_by_end ON seen_init_key (not_after);
