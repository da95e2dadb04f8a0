-- Version 2: groups that were reset, and what members reported.

ALTER TABLE groups ADD COLUMN successor BLOB;
CREATE UNIQUE INDEX groups_by_successor ON groups (successor) WHERE successor IS NOT NULL;

-- Set where the item tells of a reset: the group that ended.
ALTER TABLE inbox_items ADD COLUMN reset_group INTEGER;

-- Each device once for each commit.
CREATE TABLE commit_reports (
    group_id BLOB NOT NULL,
    position INTEGER NOT NULL,
    reporter BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    sender BLOB,
    fault INTEGER NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (group_id, position, reporter)
) STRICT, WITHOUT ROWID;
CREATE INDEX commit_reports_by_reporter ON commit_reports (group_id, reporter, position);
