-- Version 1 of the delivery service's embedded store.

CREATE TABLE groups (
    number INTEGER PRIMARY KEY,
    group_id BLOB NOT NULL UNIQUE,
    idempotency_key BLOB NOT NULL,
    origin BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    position INTEGER NOT NULL,
    commit_position INTEGER NOT NULL,
    proposal_position INTEGER NOT NULL,
    accepted_at INTEGER NOT NULL,
    frozen INTEGER NOT NULL
) STRICT;

-- The current epoch's GroupInfo, apart from the row that every append changes.
CREATE TABLE group_infos (
    group_number INTEGER PRIMARY KEY,
    epoch INTEGER NOT NULL,
    commit_position INTEGER NOT NULL,
    group_info BLOB NOT NULL
) STRICT;

-- Append-only: rows are written in the order of acceptance, whatever their group.
CREATE TABLE entries (
    number INTEGER PRIMARY KEY,
    group_number INTEGER NOT NULL,
    position INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    accepted_at INTEGER NOT NULL,
    entry_id BLOB NOT NULL,
    idempotency_key BLOB NOT NULL,
    sender BLOB,
    bytes BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX entries_by_position ON entries (group_number, position);
-- Keys are each sender's own: nobody can use up another's.
CREATE UNIQUE INDEX entries_by_key ON entries (group_number, idempotency_key, sender);
-- What a group's state is folded from: commits (1) and proposals (2).
CREATE INDEX entries_handshakes ON entries (group_number, position) WHERE kind < 3;

-- Who reads what: after joined_at (exclusive), up to left_at (inclusive).
CREATE TABLE windows (
    group_number INTEGER NOT NULL,
    device BLOB NOT NULL,
    user_id TEXT NOT NULL,
    joined_at INTEGER NOT NULL,
    left_at INTEGER,
    PRIMARY KEY (group_number, device, joined_at)
) STRICT, WITHOUT ROWID;
CREATE INDEX windows_by_user ON windows (user_id, group_number) WHERE left_at IS NULL;

-- Each Welcome once, whatever the number of its joiners.
CREATE TABLE welcomes (
    number INTEGER PRIMARY KEY,
    group_id BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    position INTEGER NOT NULL,
    entry_id BLOB NOT NULL,
    welcome BLOB NOT NULL
) STRICT;

CREATE TABLE inbox_heads (
    device BLOB PRIMARY KEY,
    newest INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE inbox_items (
    device BLOB NOT NULL,
    number INTEGER NOT NULL,
    accepted_at INTEGER NOT NULL,
    welcome_number INTEGER,
    cipher_suite INTEGER,
    one_time INTEGER,
    PRIMARY KEY (device, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX inbox_welcomes ON inbox_items (welcome_number) WHERE welcome_number IS NOT NULL;

-- Notices of the last day, so that the same one does not come twice.
CREATE TABLE notice_keys (
    device BLOB NOT NULL,
    deduplication_key TEXT NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (device, deduplication_key)
) STRICT, WITHOUT ROWID;
CREATE INDEX notice_keys_by_age ON notice_keys (at);

CREATE TABLE acknowledgements (
    device BLOB NOT NULL,
    group_number INTEGER NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (device, group_number)
) STRICT, WITHOUT ROWID;

CREATE TABLE snapshots (
    group_id BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    anchor BLOB NOT NULL,
    position INTEGER NOT NULL,
    state BLOB NOT NULL,
    PRIMARY KEY (group_id, epoch, anchor)
) STRICT;
