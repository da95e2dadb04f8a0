-- Largest application message (MLSMessage) that the service takes, in bytes; NULL until it was asked.
ALTER TABLE device ADD COLUMN message_limit INTEGER;
