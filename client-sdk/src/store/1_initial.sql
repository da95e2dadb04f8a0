-- The device: one row.
CREATE TABLE device (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    servers TEXT NOT NULL,              -- JSON
    signature_key BLOB NOT NULL,        -- public; the private one is with openmls's tables
    user_id TEXT,                       -- NULL until enrolled, like all that follows
    device_id TEXT,
    chain TEXT,                         -- JSON: certificates, leaf first
    trust_bundle TEXT,                  -- JSON: certificates
    external_sender BLOB,               -- TLS-encoded
    retention INTEGER,                  -- seconds
    inbox_cursor INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE groups (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    group_id BLOB NOT NULL UNIQUE,
    status TEXT NOT NULL,
    name TEXT NOT NULL,
    suite INTEGER NOT NULL,
    position INTEGER NOT NULL,          -- the last entry applied
    entry_id BLOB NOT NULL,             -- empty before the first
    ephemerals INTEGER NOT NULL DEFAULT 0 -- generations spent on ephemeral messages since the last stored one
) STRICT;

-- What was asked for and is not in the log yet.
CREATE TABLE intents (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    group_id BLOB NOT NULL,
    urgent INTEGER NOT NULL,            -- before all that are not
    kind TEXT NOT NULL,
    payload BLOB,                       -- of messages: what is encrypted
    detail TEXT,                        -- of others: JSON
    -- Prepared: the exact request, and the MLS epoch that it is for.
    idempotency_key BLOB,
    epoch INTEGER,
    message BLOB,
    group_info BLOB,
    welcome BLOB,                       -- of a creation: the ratchet tree
    digest BLOB                         -- SHA-256 of message
) STRICT;
CREATE INDEX intents_by_group ON intents (group_id, urgent DESC, id);
CREATE INDEX intents_by_digest ON intents (digest) WHERE digest IS NOT NULL;

-- What the app has not confirmed.
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    group_id BLOB NOT NULL,
    position INTEGER NOT NULL,
    at INTEGER NOT NULL,                -- milliseconds since 1970-01-01 UTC
    detail TEXT NOT NULL,               -- JSON
    body BLOB                           -- of messages
) STRICT;

-- Key packages whose private keys this device has.
CREATE TABLE key_packages (
    reference BLOB PRIMARY KEY,         -- KeyPackageRef
    suite INTEGER NOT NULL,
    last_resort INTEGER NOT NULL,
    not_after INTEGER NOT NULL,         -- seconds since 1970-01-01 UTC
    message BLOB,                       -- MLSMessage; NULL once published
    tried INTEGER NOT NULL DEFAULT 0    -- publishing was tried, its outcome is not known
) STRICT;
