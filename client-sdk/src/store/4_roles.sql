-- Who added this device, until the group's name is known: from that device it is believed.
ALTER TABLE groups ADD COLUMN added_by TEXT;
