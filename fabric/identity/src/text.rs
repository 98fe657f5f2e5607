//! Hexadecimal, base64 and lengths of time as text; small enough not to need a crate each.

use std::time::Duration;

const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|nibble| char::from_digit(u32::from(nibble), 16).unwrap_or('?'))
        .collect()
}

/// Reads lower-case hexadecimal of exactly `N` bytes.
pub(crate) fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N
        || !text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    {
        return None;
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(out)
}

fn encode(bytes: &[u8], alphabet: &[u8; 64]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk
            .iter()
            .enumerate()
            .fold(0u32, |all, (i, &b)| all | (u32::from(b) << (16 - 8 * i)));
        for digit in 0..=chunk.len() {
            let index = (group >> (18 - 6 * digit)) & 63;
            out.push(alphabet.get(index as usize).copied().map_or('?', char::from));
        }
    }
    out
}

/// Base64 for URLs, without padding.
pub(crate) fn base64url(bytes: &[u8]) -> String {
    encode(bytes, URL)
}

/// Reads base64 for URLs without padding. Only the one canonical spelling is accepted.
pub(crate) fn unbase64url(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for chunk in text.as_bytes().chunks(4) {
        if chunk.len() == 1 {
            return None;
        }
        let mut group = 0u32;
        for (i, &byte) in chunk.iter().enumerate() {
            let digit = URL.iter().position(|&known| known == byte)?;
            group |= u32::try_from(digit).ok()? << (18 - 6 * i);
        }
        let [_, a, b, c] = group.to_be_bytes();
        let (whole, rest) = match chunk.len() {
            2 => (1, group & 0xffff),
            3 => (2, group & 0xff),
            _ => (3, 0),
        };
        if rest != 0 {
            return None;
        }
        out.extend([a, b, c].into_iter().take(whole));
    }
    Some(out)
}

/// One PEM section.
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let mut body = encode(der, STANDARD);
    while !body.len().is_multiple_of(4) {
        body.push('=');
    }
    let mut out = format!("-----BEGIN {label}-----\n");
    for (at, character) in body.chars().enumerate() {
        if at > 0 && at.is_multiple_of(64) {
            out.push('\n');
        }
        out.push(character);
    }
    out.push_str(&format!("\n-----END {label}-----\n"));
    out
}

/// A length of time for people: the two largest units.
pub(crate) fn span(length: Duration) -> String {
    let seconds = length.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lengths_of_time_read_well() {
        let got: Vec<_> =
            [0, 59, 600, 3_725, 90_061].map(|s| span(Duration::from_secs(s))).into_iter().collect();
        assert_eq!(got, ["0 s", "59 s", "10 min 0 s", "1 h 2 min", "1 d 1 h"]);
    }

    proptest! {
        #[test]
        fn base64_reads_back(bytes: Vec<u8>) {
            prop_assert_eq!(unbase64url(&base64url(&bytes)), Some(bytes));
        }

        #[test]
        fn base64_has_one_spelling(text in "[A-Za-z0-9_-]{0,12}") {
            if let Some(bytes) = unbase64url(&text) {
                prop_assert_eq!(base64url(&bytes), text);
            }
        }

        #[test]
        fn arbitrary_text_never_panics(text: String) {
            let _ = unbase64url(&text);
            let _ = unhex::<8>(&text);
        }
    }
}
