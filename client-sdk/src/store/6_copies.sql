-- Entries as they came, in case that the service loses them before they are archived: a ring, bounded by age and bytes.
CREATE TABLE copies (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    group_id BLOB NOT NULL,
    position INTEGER NOT NULL,
    accepted_at INTEGER NOT NULL,       -- milliseconds since 1970-01-01 UTC
    size INTEGER NOT NULL,              -- bytes of what follows
    offer BLOB NOT NULL                 -- OfferedEntry, protobuf
) STRICT;
CREATE UNIQUE INDEX copies_by_position ON copies (group_id, position);
ALTER TABLE device ADD COLUMN entry_copies INTEGER NOT NULL DEFAULT 86400; -- seconds
-- What a group's status was before its log went back in time.
ALTER TABLE groups ADD COLUMN status_before TEXT;
