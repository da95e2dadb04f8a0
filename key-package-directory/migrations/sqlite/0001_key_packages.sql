-- Devices that have ever published. A revoked one stays as a mark, so that a late publish cannot bring it back and a
-- claim can say why there is nothing.
CREATE TABLE device (
    id            BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    user_id       TEXT    NOT NULL,
    -- The MLS signature key of all its stored packages; another one replaces them (RFC 9750 §5.1).
    signature_key BLOB    NOT NULL,
    revoked       INTEGER NOT NULL DEFAULT 0 CHECK (revoked IN (0, 1))
) STRICT, WITHOUT ROWID;

CREATE INDEX device_by_user ON device (user_id, id);

-- What can be handed out. Times are seconds since 1970-01-01 UTC.
CREATE TABLE key_package (
    number                INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    device                BLOB    NOT NULL REFERENCES device (id),
    suite                 INTEGER NOT NULL,
    last_resort           INTEGER NOT NULL CHECK (last_resort IN (0, 1)),
    -- The end of the leaf's lifetime.
    not_after             INTEGER NOT NULL,
    certificate_not_after INTEGER NOT NULL,
    message               BLOB    NOT NULL
) STRICT;

CREATE INDEX key_package_to_hand_out ON key_package (device, suite, last_resort, not_after, certificate_not_after);
CREATE UNIQUE INDEX key_package_of_last_resort ON key_package (device, suite) WHERE last_resort = 1;
CREATE INDEX key_package_by_end ON key_package (not_after);
CREATE INDEX key_package_by_certificate_end ON key_package (certificate_not_after);

-- Suites that a device has published, also when nothing is left of them.
CREATE TABLE published_suite (
    device BLOB    NOT NULL REFERENCES device (id),
    suite  INTEGER NOT NULL,
    PRIMARY KEY (device, suite)
) STRICT, WITHOUT ROWID;

-- SHA-256 of the init keys of everything that a device has published, handed out or not, until its lifetime ends.
CREATE TABLE seen_init_key (
    device    BLOB    NOT NULL REFERENCES device (id),
    digest    BLOB    NOT NULL CHECK (length(digest) = 32),
    not_after INTEGER NOT NULL,
    PRIMARY KEY (device, digest)
) STRICT, WITHOUT ROWID;

CREATE INDEX seen_init_key_by_end ON seen_init_key (not_after);
