-- When the newest entry that this device has applied was accepted, in seconds since 1970-01-01 UTC, as the service says; 0 before the
-- first.
ALTER TABLE groups ADD COLUMN accepted_at INTEGER NOT NULL DEFAULT 0;
