-- What the devices were answered that have used up a code: whoever has not heard the answer asks again with the same code
-- and the same key. Kept until the code or the certificate would have ended.
CREATE TABLE enrolment_answers (
    code_hash  BYTEA PRIMARY KEY CHECK (length(code_hash) = 32),
    device_id  TEXT COLLATE "C" NOT NULL REFERENCES devices (device_id),
    public_key BYTEA NOT NULL,
    chain      BYTEA NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX enrolment_answers_by_end ON enrolment_answers (expires_at);
