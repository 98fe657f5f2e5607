//! The one codec: bincode 2, always with a limit, never with bytes left over.
//!
//! No other module names bincode (docs/architecture.md, invariant 3). Without a limit a nine-byte
//! message can ask for a terabyte; with left-over bytes a new struct passes for an old one.

use serde::{Serialize, de::DeserializeOwned};

/// No body is larger (design §4), in bytes.
pub const BODY_MAX: usize = 16 * 1024 * 1024;

/// Why bytes are not what they should be. The bytes are untouched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The value cannot be written; a defect of the type.
    #[error("cannot encode: {0}")]
    Encode(String),
    /// The bytes are not such a value.
    #[error("cannot decode: {0}")]
    Decode(String),
    /// There are bytes behind the value: written by another version.
    #[error("cannot decode: {extra} bytes left over after {used}")]
    LeftOver {
        /// Bytes the value took.
        used: usize,
        /// Bytes behind it.
        extra: usize,
    },
    /// Over [`BODY_MAX`].
    #[error("too large: {0} bytes, the limit is 16 MiB")]
    TooLarge(usize),
}

#[allow(clippy::disallowed_methods, reason = "the one module that names bincode")]
const fn config() -> bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<BODY_MAX>,
> {
    bincode::config::standard().with_limit::<BODY_MAX>()
}

/// CRC-32 (IEEE) of what is stored, against disks and cables that change a bit; no protection
/// against anybody.
pub fn checksum(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// Takes the [`checksum`] in front of `bytes`, 4 bytes little endian; `None`: it is not that of the
/// rest, or there is none.
pub fn checked(bytes: &[u8]) -> Option<&[u8]> {
    let (sum, body) = bytes.split_first_chunk::<4>()?;
    (u32::from_le_bytes(*sum) == checksum(body)).then_some(body)
}

/// Writes the [`checksum`] of what is behind `at + 4` in `out` to `at`.
pub fn seal(out: &mut [u8], at: usize) {
    let Some((place, body)) = out.get_mut(at..).and_then(<[u8]>::split_first_chunk_mut::<4>) else {
        return;
    };
    *place = checksum(body).to_le_bytes();
}

/// Appends the encoded value to `out` and returns how many bytes it took.
///
/// # Errors
/// [`CodecError::Encode`] or [`CodecError::TooLarge`]; `out` is as it was before.
#[allow(clippy::disallowed_methods, reason = "the one module that names bincode")]
pub fn encode_into<T: Serialize>(value: &T, out: &mut Vec<u8>) -> Result<usize, CodecError> {
    let before = out.len();
    match bincode::serde::encode_into_std_write(value, out, config()) {
        Ok(used) if used <= BODY_MAX => Ok(used),
        Ok(used) => {
            out.truncate(before);
            Err(CodecError::TooLarge(used))
        }
        Err(error) => {
            out.truncate(before);
            Err(CodecError::Encode(error.to_string()))
        }
    }
}

/// Encodes a value.
///
/// # Errors
/// As [`encode_into`].
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    let mut out = Vec::new();
    encode_into(value, &mut out)?;
    Ok(out)
}

/// Decodes a value that takes all of `bytes`.
///
/// # Errors
/// [`CodecError`]; never panics and never allocates more than the limit, whatever the bytes.
#[allow(clippy::disallowed_methods, reason = "the one module that names bincode")]
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    if bytes.len() > BODY_MAX {
        return Err(CodecError::TooLarge(bytes.len()));
    }
    let (value, used) = bincode::serde::decode_from_slice(bytes, config())
        .map_err(|error| CodecError::Decode(error.to_string()))?;
    match bytes.len() - used {
        0 => Ok(value),
        extra => Err(CodecError::LeftOver { used, extra }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Sample {
        name: String,
        numbers: Vec<u64>,
        inner: Option<(u8, i32)>,
    }

    #[test]
    fn a_length_prefix_of_a_terabyte_is_an_error_not_an_abort() {
        let bytes = encode(&(1u64 << 40)).expect("encodes");
        assert!(matches!(decode::<Vec<u8>>(&bytes), Err(CodecError::Decode(_))));
        assert!(matches!(decode::<String>(&bytes), Err(CodecError::Decode(_))));
    }

    #[test]
    fn bytes_left_over_are_an_error() {
        let bytes = encode(&(1u8, 2u8)).expect("encodes");
        assert_eq!(decode::<u8>(&bytes), Err(CodecError::LeftOver { used: 1, extra: 1 }));
    }

    proptest! {
        #[test]
        fn what_was_encoded_decodes(name in ".*", numbers: Vec<u64>, inner: Option<(u8, i32)>) {
            let sample = Sample { name, numbers, inner };
            let bytes = encode(&sample).expect("encodes");
            prop_assert_eq!(decode::<Sample>(&bytes).expect("decodes"), sample);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = decode::<Sample>(&bytes);
            let _ = decode::<crate::AskError>(&bytes);
            let _ = decode::<crate::Caller>(&bytes);
        }
    }
}
