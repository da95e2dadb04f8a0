-- Groups with entries in Redis that were not to leave it, however old: they are looked at soon.
UPDATE groups SET trim_at = 0 WHERE trim_at IS NULL AND position - trimmed > 1 AND regressed_at IS NULL;
