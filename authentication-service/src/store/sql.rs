//! The statements that mean the same to both backends.

pub(super) const FIND_SECRET: &str = "SELECT value FROM secrets WHERE name = $1";

pub(super) const ENSURE_USER: &str =
    "INSERT INTO users (user_id, created_at) VALUES ($1, $2) ON CONFLICT (user_id) DO NOTHING";

pub(super) const IS_SUSPENDED: &str = "SELECT suspended FROM users WHERE user_id = $1";

pub(super) const SET_SUSPENDED: &str =
    "UPDATE users SET suspended = $2 WHERE user_id = $1 AND suspended <> $2";

pub(super) const USER: &str = "SELECT user_id, suspended, created_at, (SELECT count(*) FROM devices
         WHERE devices.user_id = users.user_id AND revoked_at IS NULL) AS active_devices
     FROM users WHERE user_id = $1";

pub(super) const USERS: &str = "SELECT user_id, suspended, created_at, (SELECT count(*) FROM devices
         WHERE devices.user_id = users.user_id AND revoked_at IS NULL) AS active_devices
     FROM users WHERE user_id > $1 ORDER BY user_id LIMIT $2";

pub(super) const ADD_CODE: &str = "INSERT INTO enrolment_codes (code_hash, user_id, kind, bootstrap, expires_at) VALUES ($1, $2, $3, $4, $5)";

pub(super) const CODE: &str =
    "SELECT enrolment_codes.user_id, kind, suspended FROM enrolment_codes JOIN users USING (user_id)
     WHERE code_hash = $1 AND expires_at > $2";

pub(super) const TAKE_CODE: &str = "DELETE FROM enrolment_codes WHERE code_hash = $1 RETURNING expires_at";

pub(super) const KEEP_ANSWER: &str = "INSERT INTO enrolment_answers (code_hash, device_id, public_key, chain, expires_at) VALUES ($1, $2, $3, $4, $5)";

/// The key must be the one that enrolled, and that of the device still.
pub(super) const ANSWER: &str =
    "SELECT device_id, devices.user_id, name, kind, devices.public_key, enrolled_at, certificate_expires_at, revoked_at, suspended, chain
     FROM enrolment_answers JOIN devices USING (device_id) JOIN users USING (user_id)
     WHERE code_hash = $1 AND enrolment_answers.public_key = $2 AND devices.public_key = $2 AND expires_at > $3";

pub(super) const VOID_BOOTSTRAP_CODES: &str = "DELETE FROM enrolment_codes WHERE bootstrap";

pub(super) const ADD_DEVICE: &str =
    "INSERT INTO devices (device_id, user_id, name, kind, public_key, enrolled_at, certificate_expires_at)
     VALUES ($1, $2, $3, $4, $5, $6, $7)";

pub(super) const COUNT_DEVICES: &str = "SELECT count(*) FROM devices WHERE user_id = $1";

pub(super) const ANY_ADMINISTRATOR: &str = "SELECT 1 FROM devices WHERE kind = 'administrator' LIMIT 1";

pub(super) const DEVICE: &str =
    "SELECT device_id, devices.user_id, name, kind, public_key, enrolled_at, certificate_expires_at, revoked_at, suspended
     FROM devices JOIN users USING (user_id) WHERE device_id = $1";

pub(super) const DEVICES: &str =
    "SELECT device_id, devices.user_id, name, kind, public_key, enrolled_at, certificate_expires_at, revoked_at, suspended
     FROM devices JOIN users USING (user_id) WHERE devices.user_id = $1 ORDER BY enrolled_at, device_id";

pub(super) const RENEW: &str = "UPDATE devices SET public_key = $2, certificate_expires_at = $3 WHERE device_id = $1 AND revoked_at IS NULL";

pub(super) const RENAME: &str = "UPDATE devices SET name = $3 WHERE device_id = $1 AND user_id = $2";

pub(super) const REVOKE: &str =
    "UPDATE devices SET revoked_at = $2 WHERE device_id = $1 AND revoked_at IS NULL";

pub(super) const FIND_KEY: &str = "SELECT 1 FROM keys WHERE public_key = $1";

pub(super) const ADD_KEY: &str = "INSERT INTO keys (public_key, device_id, service_name) VALUES ($1, $2, $3)
     ON CONFLICT (public_key) DO NOTHING";

/// Whose key it is, after [`ADD_KEY`].
pub(super) const KEY_OWNER: &str = "SELECT device_id, service_name FROM keys WHERE public_key = $1";

pub(super) const ADD_SERVICE_CERTIFICATE: &str = "INSERT INTO service_certificates (public_key, service_name, certificate, expires_at) VALUES ($1, $2, $3, $4)";

pub(super) const SERVICE_KEYS: &str =
    "SELECT public_key, max(expires_at) AS until FROM service_certificates WHERE service_name = $1 AND expires_at > $2
     GROUP BY public_key ORDER BY until DESC, public_key LIMIT 64";

/// The next number is one above the newest: no two at the same time.
pub(super) const ADD_AUDIT_EVENT: &str = "INSERT INTO audit_events (number, at, actor, action, subject)
     SELECT coalesce(max(number), 0) + 1, $1, $2, $3, $4 FROM audit_events";

pub(super) const AUDIT_EVENTS: &str =
    "SELECT number, at, actor, action, subject FROM audit_events WHERE number > $1 ORDER BY number LIMIT $2";

/// The next number is one above the newest: no two at the same time.
pub(super) const ADD_REVOCATION: &str = "INSERT INTO revocations (number, kind, user_id, device_id, at)
     SELECT coalesce(max(number), 0) + 1, $1, $2, $3, $4 FROM revocations";

pub(super) const NEWEST_REVOCATION: &str = "SELECT coalesce(max(number), 0) FROM revocations";

pub(super) const REVOCATIONS: &str =
    "SELECT number, kind, user_id, device_id, at FROM revocations WHERE number > $1 ORDER BY number LIMIT $2";
