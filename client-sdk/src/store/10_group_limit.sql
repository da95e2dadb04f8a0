-- Most groups that the service takes on the device's stream; NULL until it was asked.
ALTER TABLE device ADD COLUMN group_limit INTEGER;
