-- Times are milliseconds since 1970-01-01 UTC.

-- Keys and certificates of the service itself.
CREATE TABLE secrets (
    name  TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT;

CREATE TABLE users (
    user_id    TEXT PRIMARY KEY,
    suspended  INTEGER NOT NULL DEFAULT 0 CHECK (suspended IN (0, 1)),
    created_at INTEGER NOT NULL
) STRICT;

-- Codes that can still be used; only their hashes.
CREATE TABLE enrolment_codes (
    code_hash  BLOB PRIMARY KEY CHECK (length(code_hash) = 32),
    user_id    TEXT NOT NULL REFERENCES users (user_id),
    kind       TEXT NOT NULL CHECK (kind IN ('device', 'administrator')),
    bootstrap  INTEGER NOT NULL CHECK (bootstrap IN (0, 1)),
    expires_at INTEGER NOT NULL
) STRICT;
CREATE INDEX enrolment_codes_by_end ON enrolment_codes (expires_at);

CREATE TABLE devices (
    device_id              TEXT PRIMARY KEY,
    user_id                TEXT NOT NULL REFERENCES users (user_id),
    name                   TEXT NOT NULL,
    kind                   TEXT NOT NULL CHECK (kind IN ('device', 'administrator')),
    public_key             BLOB NOT NULL,
    enrolled_at            INTEGER NOT NULL,
    certificate_expires_at INTEGER NOT NULL,
    revoked_at             INTEGER
) STRICT;
CREATE INDEX devices_by_user ON devices (user_id, enrolled_at, device_id);

-- Every key that a certificate was ever issued for, so that no two holders ever have the same.
CREATE TABLE keys (
    public_key   BLOB PRIMARY KEY,
    device_id    TEXT REFERENCES devices (device_id),
    service_name TEXT,
    CHECK ((device_id IS NULL) <> (service_name IS NULL))
) STRICT;

CREATE TABLE service_certificates (
    public_key   BLOB NOT NULL REFERENCES keys (public_key),
    service_name TEXT NOT NULL,
    certificate  BLOB NOT NULL,
    expires_at   INTEGER NOT NULL
) STRICT;
CREATE INDEX service_certificates_by_name ON service_certificates (service_name, expires_at);

-- Until they expire, so that none is taken twice.
CREATE TABLE used_assertions (
    subject    TEXT NOT NULL,
    jti        TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (subject, jti)
) STRICT;
CREATE INDEX used_assertions_by_end ON used_assertions (expires_at);

-- The feed that all services follow: 1, 2, 3... without a gap.
CREATE TABLE revocations (
    number    INTEGER PRIMARY KEY,
    kind      TEXT NOT NULL CHECK (kind IN ('device', 'suspended', 'resumed')),
    user_id   TEXT NOT NULL,
    device_id TEXT CHECK ((device_id IS NOT NULL) = (kind = 'device')),
    at        INTEGER NOT NULL
) STRICT;

-- 1, 2, 3... without a gap.
CREATE TABLE audit_events (
    number  INTEGER PRIMARY KEY,
    at      INTEGER NOT NULL,
    actor   TEXT NOT NULL,
    action  TEXT NOT NULL,
    subject TEXT NOT NULL
) STRICT;

-- What was written there stays.
CREATE TRIGGER revocations_are_not_changed BEFORE UPDATE ON revocations
BEGIN SELECT RAISE(ABORT, 'revocations are append-only'); END;
CREATE TRIGGER revocations_are_not_deleted BEFORE DELETE ON revocations
BEGIN SELECT RAISE(ABORT, 'revocations are append-only'); END;
CREATE TRIGGER audit_events_are_not_changed BEFORE UPDATE ON audit_events
BEGIN SELECT RAISE(ABORT, 'audit events are append-only'); END;
CREATE TRIGGER audit_events_are_not_deleted BEFORE DELETE ON audit_events
BEGIN SELECT RAISE(ABORT, 'audit events are append-only'); END;
