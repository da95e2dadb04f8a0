-- Times are milliseconds since 1970-01-01 UTC. Ids are compared byte by byte, as SQLite does.

-- Keys and certificates of the service itself.
CREATE TABLE secrets (
    name  TEXT PRIMARY KEY,
    value BYTEA NOT NULL
);

CREATE TABLE users (
    user_id    TEXT COLLATE "C" PRIMARY KEY,
    suspended  BOOLEAN NOT NULL DEFAULT FALSE,
    created_at BIGINT NOT NULL
);

-- Codes that can still be used; only their hashes.
CREATE TABLE enrolment_codes (
    code_hash  BYTEA PRIMARY KEY CHECK (length(code_hash) = 32),
    user_id    TEXT COLLATE "C" NOT NULL REFERENCES users (user_id),
    kind       TEXT NOT NULL CHECK (kind IN ('device', 'administrator')),
    bootstrap  BOOLEAN NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX enrolment_codes_by_end ON enrolment_codes (expires_at);

CREATE TABLE devices (
    device_id              TEXT COLLATE "C" PRIMARY KEY,
    user_id                TEXT COLLATE "C" NOT NULL REFERENCES users (user_id),
    name                   TEXT NOT NULL,
    kind                   TEXT NOT NULL CHECK (kind IN ('device', 'administrator')),
    public_key             BYTEA NOT NULL,
    enrolled_at            BIGINT NOT NULL,
    certificate_expires_at BIGINT NOT NULL,
    revoked_at             BIGINT
);
CREATE INDEX devices_by_user ON devices (user_id, enrolled_at, device_id);

-- Every key that a certificate was ever issued for, so that no two holders ever have the same.
CREATE TABLE keys (
    public_key   BYTEA PRIMARY KEY,
    device_id    TEXT COLLATE "C" REFERENCES devices (device_id),
    service_name TEXT,
    CHECK ((device_id IS NULL) <> (service_name IS NULL))
);

CREATE TABLE service_certificates (
    public_key   BYTEA NOT NULL REFERENCES keys (public_key),
    service_name TEXT NOT NULL,
    certificate  BYTEA NOT NULL,
    expires_at   BIGINT NOT NULL
);
CREATE INDEX service_certificates_by_name ON service_certificates (service_name, expires_at);

-- Until they expire, so that none is taken twice.
CREATE TABLE used_assertions (
    subject    TEXT NOT NULL,
    jti        TEXT NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (subject, jti)
);
CREATE INDEX used_assertions_by_end ON used_assertions (expires_at);

-- The feed that all services follow: 1, 2, 3... without a gap, and visible in that order. Not a sequence, which leaves
-- gaps and hands out a number before its row is visible: the writer holds a lock until it has committed.
CREATE TABLE revocations (
    number    BIGINT PRIMARY KEY,
    kind      TEXT NOT NULL CHECK (kind IN ('device', 'suspended', 'resumed')),
    user_id   TEXT NOT NULL,
    device_id TEXT CHECK ((device_id IS NOT NULL) = (kind = 'device')),
    at        BIGINT NOT NULL
);

-- 1, 2, 3... without a gap, in the same way.
CREATE TABLE audit_events (
    number  BIGINT PRIMARY KEY,
    at      BIGINT NOT NULL,
    actor   TEXT NOT NULL,
    action  TEXT NOT NULL,
    subject TEXT NOT NULL
);

-- What was written there stays.
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME;
END
$$;
CREATE TRIGGER revocations_are_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON revocations
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER audit_events_are_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_events
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
