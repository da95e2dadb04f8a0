-- The last epoch of which this device had the keys, in a group that it has left or was removed from.
ALTER TABLE groups ADD COLUMN left_epoch INTEGER NOT NULL DEFAULT 0;
