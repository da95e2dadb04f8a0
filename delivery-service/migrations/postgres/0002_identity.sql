-- Which keys and certificates the replicas have: every group names those of its kind as its external sender. SHA-256 of the
-- ExternalSender (RFC 9420 §12.1.8.1). A row for each kind of key, written by the first replica that starts with one.
CREATE TABLE identity (
    key_kind text PRIMARY KEY CHECK (key_kind IN ('ed25519', 'p256')),
    fingerprint bytea NOT NULL CHECK (length(fingerprint) = 32)
);
