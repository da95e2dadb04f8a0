-- What was said, as far as this device keeps it.
CREATE TABLE messages (
    number INTEGER PRIMARY KEY,
    group_id BLOB NOT NULL,
    message_id BLOB NOT NULL,
    user_id TEXT NOT NULL,              -- the sender
    device_id TEXT NOT NULL,
    genuine INTEGER NOT NULL,           -- 0: only an edit of it was seen, and what message_id names may be another's
    intent INTEGER,                     -- of an own message that is not in the log yet
    position INTEGER,                   -- NULL: it is queued, or has failed
    at INTEGER NOT NULL,                -- milliseconds since 1970-01-01 UTC: accepted, or queued
    failure TEXT,                       -- JSON: why it was not sent, and what to do
    content BLOB,                       -- CBOR, as last edited; NULL: deleted
    text TEXT,                          -- what of it can be found
    edited INTEGER NOT NULL DEFAULT 0,
    expires_after INTEGER,              -- seconds after it is read
    expires INTEGER,                    -- milliseconds since 1970-01-01 UTC
    event INTEGER                       -- the event that tells of it
) STRICT;
CREATE UNIQUE INDEX messages_by_id ON messages (group_id, message_id, user_id);
CREATE INDEX messages_by_position ON messages (group_id, position);
CREATE INDEX messages_by_intent ON messages (intent) WHERE intent IS NOT NULL;
CREATE INDEX messages_by_expiry ON messages (expires) WHERE expires IS NOT NULL;

-- Edits: whoever answers one of them answers the message.
CREATE TABLE message_versions (
    message INTEGER NOT NULL REFERENCES messages (number) ON DELETE CASCADE,
    version_id BLOB NOT NULL,
    event INTEGER
) STRICT;
CREATE INDEX message_versions_by_id ON message_versions (version_id);
CREATE INDEX message_versions_by_message ON message_versions (message);

CREATE TABLE reactions (
    message INTEGER NOT NULL REFERENCES messages (number) ON DELETE CASCADE,
    reaction_id BLOB NOT NULL,          -- of the message that made it
    user_id TEXT NOT NULL,
    emoji TEXT NOT NULL,
    event INTEGER
) STRICT;
CREATE UNIQUE INDEX reactions_by_message ON reactions (message, user_id, emoji);
CREATE INDEX reactions_by_id ON reactions (reaction_id);

CREATE TABLE receipts (
    message INTEGER NOT NULL REFERENCES messages (number) ON DELETE CASCADE,
    user_id TEXT NOT NULL,
    status INTEGER NOT NULL,
    PRIMARY KEY (message, user_id)
) STRICT, WITHOUT ROWID;

-- The words of messages. What is taken out of the index is overwritten at once.
CREATE VIRTUAL TABLE messages_text USING fts5 (
    text, content = 'messages', content_rowid = 'number', tokenize = 'unicode61 remove_diacritics 2'
);
INSERT INTO messages_text (messages_text, rank) VALUES ('secure-delete', 1);
CREATE TRIGGER messages_text_insert AFTER INSERT ON messages WHEN new.text IS NOT NULL BEGIN
    INSERT INTO messages_text (rowid, text) VALUES (new.number, new.text);
END;
CREATE TRIGGER messages_text_delete AFTER DELETE ON messages WHEN old.text IS NOT NULL BEGIN
    INSERT INTO messages_text (messages_text, rowid, text) VALUES ('delete', old.number, old.text);
END;
CREATE TRIGGER messages_text_update AFTER UPDATE OF text ON messages BEGIN
    INSERT INTO messages_text (messages_text, rowid, text) SELECT 'delete', old.number, old.text WHERE old.text IS NOT NULL;
    INSERT INTO messages_text (rowid, text) SELECT new.number, new.text WHERE new.text IS NOT NULL;
END;
