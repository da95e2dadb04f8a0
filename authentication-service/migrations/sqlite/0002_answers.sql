-- What the devices were answered that have used up a code: whoever has not heard the answer asks again with the same code
-- and the same key. Kept until the code or the certificate would have ended.
CREATE TABLE enrolment_answers (
    code_hash  BLOB PRIMARY KEY CHECK (length(code_hash) = 32),
    device_id  TEXT NOT NULL REFERENCES devices (device_id),
    public_key BLOB NOT NULL,
    chain      BLOB NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;
CREATE INDEX enrolment_answers_by_end ON enrolment_answers (expires_at);
