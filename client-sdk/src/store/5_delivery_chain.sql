-- The hash chain over what was shown of a group's log in this epoch, by position: first the value of the commit that began it. A group
-- that was entered before this table was there has no rows until its next commit.
CREATE TABLE delivery_chain (
    group_id BLOB NOT NULL REFERENCES groups (group_id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (group_id, position)
) STRICT, WITHOUT ROWID;

-- Devices that were shown another history, each with the newest entry that said so.
CREATE TABLE delivery_forks (
    group_id BLOB NOT NULL REFERENCES groups (group_id) ON DELETE CASCADE,
    device_id TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (group_id, device_id)
) STRICT, WITHOUT ROWID;
