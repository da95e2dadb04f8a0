-- When this device gives itself new keys in a group.
CREATE TABLE key_updates (
    group_id BLOB PRIMARY KEY,
    due INTEGER NOT NULL                -- seconds since 1970-01-01 UTC
) STRICT, WITHOUT ROWID;

-- Key packages at the directory carry a certificate that this device has replaced.
ALTER TABLE device ADD COLUMN packages_outdated INTEGER NOT NULL DEFAULT 0;
