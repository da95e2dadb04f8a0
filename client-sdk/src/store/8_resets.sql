-- Groups that an administrator has ended, and how far this device is in going on under the new id. `old`: what the old group was here at
-- its end, as JSON.
CREATE TABLE resets (
    group_id BLOB PRIMARY KEY,
    successor BLOB NOT NULL,
    last_position INTEGER NOT NULL,
    step TEXT NOT NULL,
    old TEXT
) STRICT;
CREATE INDEX resets_by_successor ON resets (successor);
