-- Messages that have done what they do: those that change others, and those that were removed here. One that comes again, as its sender
-- could not learn whether it had been accepted, does nothing more.
CREATE TABLE seen_messages (
    group_id BLOB NOT NULL,
    message_id BLOB NOT NULL,
    PRIMARY KEY (group_id, message_id)
) STRICT, WITHOUT ROWID;
INSERT OR IGNORE INTO seen_messages
    SELECT group_id, version_id FROM message_versions JOIN messages ON number = message;
INSERT OR IGNORE INTO seen_messages
    SELECT group_id, reaction_id FROM reactions JOIN messages ON number = message;
