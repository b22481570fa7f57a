//! Values that open a door: how they look, and the hashes under which they are kept.

use sha2::{Digest, Sha256};

use super::AccessError;
use crate::api::TokenKind;
use crate::secret::Secret;

/// Base62 digits of 256 bits.
pub(super) const RANDOM_DIGITS: usize = 43;
/// Base62 digits of a CRC-32.
const CHECK_DIGITS: usize = 6;
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// What an enrolment token begins with.
pub(super) const ENROLMENT: &str = "sdpe_";
const PREFIXES: [&str; 4] = ["sdp_", "sdpb_", "sdpa_", ENROLMENT];

/// What a token of this kind begins with.
pub(super) fn prefix(kind: TokenKind) -> &'static str {
    match kind {
        TokenKind::Admin | TokenKind::Deploy | TokenKind::Read => "sdp_",
        TokenKind::Bot => "sdpb_",
        TokenKind::Agent => "sdpa_",
    }
}

/// A new value with a checksum behind it, by which scanners and typing errors are told from real ones.
pub(super) fn new_value(prefix: &str) -> Result<Secret, AccessError> {
    let body = format!("{prefix}{}", random()?.expose());
    let check = base62(&crc32fast::hash(body.as_bytes()).to_be_bytes(), CHECK_DIGITS);
    Ok(Secret::new(body + &check))
}

/// Whether a text has the form of a token, checksum included. Nothing is said of whether it opens anything.
#[must_use]
pub fn is_token(text: &str) -> bool {
    let Some((_, digits)) = text.split_once('_') else { return false };
    let known = PREFIXES.iter().any(|prefix| text.starts_with(prefix));
    if !known
        || digits.len() != RANDOM_DIGITS + CHECK_DIGITS
        || !digits.bytes().all(|b| b.is_ascii_alphanumeric())
    {
        return false;
    }
    let (body, check) = text.split_at(text.len() - CHECK_DIGITS);
    base62(&crc32fast::hash(body.as_bytes()).to_be_bytes(), CHECK_DIGITS) == check
}

/// 256 random bits.
pub(super) fn random() -> Result<Secret, AccessError> {
    let mut bytes = zeroize::Zeroizing::new([0; 32]);
    getrandom::fill(&mut *bytes).map_err(|_| AccessError::NoRandom)?;
    Ok(Secret::new(base62(&*bytes, RANDOM_DIGITS)))
}

/// A big-endian number in base 62, with leading zeros up to `width` digits.
pub(super) fn base62(number: &[u8], width: usize) -> String {
    let mut rest = zeroize::Zeroizing::new(number.to_vec());
    let mut digits = vec![0; width];
    for digit in digits.iter_mut().rev() {
        let mut remainder = 0u32;
        for byte in rest.iter_mut() {
            let value = (remainder << 8) | u32::from(*byte);
            *byte = u8::try_from(value / 62).unwrap_or(u8::MAX);
            remainder = value % 62;
        }
        *digit = BASE62[remainder as usize];
    }
    digits.into_iter().map(char::from).collect()
}

/// Under which a value is kept and looked up.
pub(super) fn hash(value: &str) -> [u8; 32] {
    Sha256::digest(value.as_bytes()).into()
}
