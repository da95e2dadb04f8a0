-- Users who are to be added to a group, from the wish until each of their devices has been added or has failed.
CREATE TABLE adds (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    group_id BLOB NOT NULL,
    users TEXT NOT NULL,                    -- JSON: whose key packages are still to be claimed
    added INTEGER NOT NULL DEFAULT 0,       -- devices that are members by now
    failed TEXT NOT NULL DEFAULT '[]'       -- JSON: who could not be added, and why
) STRICT;

-- Which intents are commits of an add.
CREATE TABLE add_commits (
    intent INTEGER PRIMARY KEY,
    add_id INTEGER NOT NULL
) STRICT;
CREATE INDEX add_commits_by_add ON add_commits (add_id);

-- Commits that the service has to be told about, until it has answered.
CREATE TABLE reports (
    group_id BLOB NOT NULL,
    position INTEGER NOT NULL,
    fault INTEGER NOT NULL,                 -- valise.delivery.v1.CommitFault
    PRIMARY KEY (group_id, position, fault)
) STRICT;
