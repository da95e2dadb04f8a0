//! Enrolment codes: 120 random bits that people can read to each other.

use std::fmt;

use sha2::{Digest, Sha256};
use zeroize::Zeroize;

use crate::random;
use crate::store::CodeHash;

/// Crockford's base 32: no I, L, O or U.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const SYMBOLS: usize = 24;
/// Longest text that is looked at: a code, with room for more hyphens than there need to be.
pub(crate) const MAX_CODE_BYTES: usize = 64;

/// A one-time code with which one device enrols, for example `7K3Q-…`. It is shown once and kept nowhere.
pub struct EnrolmentCode(String);

impl EnrolmentCode {
    /// A new one.
    pub(crate) fn generate() -> Self {
        let mut bytes = random::<15>();
        let mut text = String::with_capacity(SYMBOLS + SYMBOLS / 4 - 1);
        let bits = bytes
            .iter()
            .fold(0_u128, |bits, byte| bits << 8 | u128::from(*byte));
        bytes.zeroize();
        for symbol in 0..SYMBOLS {
            if symbol > 0 && symbol % 4 == 0 {
                text.push('-');
            }
            let shift = 5 * (SYMBOLS - 1 - symbol);
            text.push(char::from(ALPHABET[(bits >> shift) as usize & 31]));
        }
        Self(text)
    }

    /// To show to whoever is to enrol.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn hash(&self) -> CodeHash {
        // One of ours: it reads as itself.
        read(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for EnrolmentCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EnrolmentCode(…)")
    }
}

impl Drop for EnrolmentCode {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// The hash of a code as somebody typed it: in any case, with or without hyphens and spaces, `O` for `0`, `I` or `L` for
/// `1`. `None` where it cannot be one.
pub(crate) fn read(text: &str) -> Option<CodeHash> {
    let mut symbols = [0; SYMBOLS];
    let mut count = 0;
    for byte in text.bytes().filter(|byte| !matches!(byte, b'-' | b' ')) {
        let symbol = match byte.to_ascii_uppercase() {
            b'O' => b'0',
            b'I' | b'L' => b'1',
            symbol => symbol,
        };
        if !ALPHABET.contains(&symbol) {
            return None;
        }
        *symbols.get_mut(count)? = symbol;
        count += 1;
    }
    let hash = (count == SYMBOLS).then(|| Sha256::digest(symbols).into());
    symbols.zeroize();
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_read_however_it_is_written() {
        let code = EnrolmentCode::generate();
        assert_eq!(code.as_str().len(), 29);
        assert!(code.as_str().split('-').all(|group| group.len() == 4));
        let hash = code.hash();
        assert_ne!(hash, [0; 32]);
        for text in [
            code.as_str().to_lowercase(),
            code.as_str().replace('-', ""),
            code.as_str().replace('-', " - "),
        ] {
            assert_eq!(read(&text), Some(hash));
        }
        assert_eq!(
            read("OIL0-0000-0000-0000-0000-0000"),
            read("0110-0000-0000-0000-0000-0000")
        );
    }

    #[test]
    fn no_two_are_alike() {
        let codes: std::collections::HashSet<_> =
            (0..1000).map(|_| EnrolmentCode::generate().hash()).collect();
        assert_eq!(codes.len(), 1000);
        // The whole alphabet is in use.
        let text: String = (0..200)
            .map(|_| EnrolmentCode::generate().as_str().to_owned())
            .collect();
        assert!(ALPHABET.iter().all(|symbol| text.contains(char::from(*symbol))));
    }

    #[test]
    fn what_cannot_be_a_code_is_none() {
        for text in [
            "",
            "-",
            "0000-0000-0000-0000-0000-000",
            "0000-0000-0000-0000-0000-0000-0",
            "UUUU-0000-0000-0000-0000-0000",
            "é000-0000-0000-0000-0000-0000",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn debug_does_not_show_it() {
        let code = EnrolmentCode::generate();
        assert!(!format!("{code:?}").contains(&code.as_str()[..4]));
    }
}
