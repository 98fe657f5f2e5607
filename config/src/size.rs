//! Byte sizes as people write them: `512`, `64KiB`, `256MiB`, `2GB`.

const UNITS: [(&str, u64); 10] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1000),
    ("KB", 1000),
];

/// Why a text is no size; the message says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// Nothing there.
    #[error("a size is missing: write a number and a unit, like `256MiB`")]
    Empty,
    /// Something other than digits where the number belongs.
    #[error("`{0}` is not a size: write a whole number and a unit, like `256MiB`")]
    Number(String),
    /// Not one of the units.
    #[error(
        "`{unit}` in `{text}` is no unit of size: use B, KiB, MiB, GiB, TiB (1024) or kB, MB, GB, TB (1000)"
    )]
    Unit {
        /// What stands for the unit.
        unit: String,
        /// The whole.
        text: String,
    },
    /// More than 2^63 bytes.
    #[error("`{0}` is more than any machine has")]
    TooLarge(String),
}

/// Parses `<number>[unit]` into bytes; without a unit the number is bytes. At most 2^63 - 1.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    if text.trim().is_empty() {
        return Err(SizeError::Empty);
    }
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if digits == 0 || unit.starts_with(['.', ',']) {
        return Err(SizeError::Number(text.to_owned()));
    }
    let scale = if unit.is_empty() {
        1
    } else {
        UNITS.iter().find(|(name, _)| *name == unit).map(|(_, scale)| *scale).ok_or_else(|| {
            SizeError::Unit { unit: unit.trim().to_owned(), text: text.to_owned() }
        })?
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(scale))
        .filter(|bytes| i64::try_from(*bytes).is_ok())
        .ok_or_else(|| SizeError::TooLarge(text.to_owned()))
}

/// Writes bytes with the largest binary unit that is exact (`256MiB`, `1500B`); [`parse_size`]
/// reads it back.
pub fn format_size(bytes: u64) -> String {
    let exact = UNITS.iter().take(5).find(|(_, scale)| bytes > 0 && bytes.is_multiple_of(*scale));
    let (unit, scale) = exact.copied().unwrap_or(("B", 1));
    format!("{}{unit}", bytes / scale)
}
