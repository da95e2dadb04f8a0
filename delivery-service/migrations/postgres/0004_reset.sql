-- Groups that were reset: the id under which each goes on, and since when, in milliseconds since 1970.
ALTER TABLE groups ADD COLUMN successor bytea, ADD COLUMN reset_at bigint;
CREATE UNIQUE INDEX groups_by_successor ON groups (successor) WHERE successor IS NOT NULL;

-- What members reported of commits: each device once for each.
CREATE TABLE commit_reports (
    group_id bytea NOT NULL,
    position bigint NOT NULL,
    reporter bytea NOT NULL,
    epoch bigint NOT NULL,
    sender bytea,
    fault integer NOT NULL,
    at bigint NOT NULL,
    PRIMARY KEY (group_id, position, reporter)
);
CREATE INDEX commit_reports_by_reporter ON commit_reports (group_id, reporter, position);
