//! Receipts of decisions and the hash of a commitment (§16): canonical JSON (RFC 8785), so that
//! anybody can compute the same bytes.

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use weft_macp::macp::v1::CommitmentPayload;

use super::envelope::decode;
use super::{Code, Millis, Refusal, SEMANTICS, Session, SessionState};

/// What is hashed begins with this.
const LABEL: &str = "macp-commitment-hash/1:";
/// How hashes begin.
const SHA256: &str = "sha256:";
/// Highest field of a commitment and of its reference.
const FIELDS: (u32, u32) = (9, 2);

/// Why a commitment has no hash. Nothing is changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// The bytes are no commitment.
    #[error("the payload is no commitment: {0}")]
    Payload(String),
    /// They hold a field that the hash would not cover.
    #[error("the payload has field {0}, which the hash does not cover")]
    Field(u32),
}

/// Whether it is a commitment hash in canonical form (§8.2).
pub(crate) fn is_hash(text: &str) -> bool {
    text.strip_prefix(SHA256).is_some_and(|digits| {
        digits.len() == 64 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// The hash of a commitment's payload (RFC-MACP-0013).
///
/// # Errors
/// [`ReceiptError`] if the bytes are no commitment or hold more than one.
pub fn commitment_hash(payload: &[u8]) -> Result<String, ReceiptError> {
    Ok(hash(&commitment_json(payload)?))
}

fn hash(commitment: &Value) -> String {
    let mut text = LABEL.to_owned();
    canonical(commitment, &mut text);
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().fold(SHA256.to_owned(), |out, byte| out + &format!("{byte:02x}"))
}

fn commitment_json(payload: &[u8]) -> Result<Value, ReceiptError> {
    let commitment: CommitmentPayload =
        decode(payload).map_err(|refusal| ReceiptError::Payload(refusal.message))?;
    only_known_fields(payload)?;
    let mut object = json!({
        "action": commitment.action,
        "authority_scope": commitment.authority_scope,
        "commitment_id": commitment.commitment_id,
        "configuration_version": commitment.configuration_version,
        "mode_version": commitment.mode_version,
        "outcome_positive": commitment.outcome_positive,
        "policy_version": commitment.policy_version,
        "reason": commitment.reason,
    });
    if let (Some(superseded), Some(object)) = (commitment.supersedes, object.as_object_mut()) {
        object.insert(
            "supersedes".into(),
            json!({
                "commitment_hash": superseded.commitment_hash,
                "session_id": superseded.session_id,
            }),
        );
    }
    Ok(object)
}

/// What is done about a field and its bytes.
type Each<'a> = dyn FnMut(u32, &[u8]) -> Result<(), ReceiptError> + 'a;

/// Walks the wire format; the bytes were decoded before, so lengths are right.
fn only_known_fields(payload: &[u8]) -> Result<(), ReceiptError> {
    walk(payload, FIELDS.0, &mut |field, body| match field {
        9 => walk(body, FIELDS.1, &mut |_, _| Ok(())),
        _ => Ok(()),
    })
}

fn walk(bytes: &[u8], highest: u32, each: &mut Each<'_>) -> Result<(), ReceiptError> {
    use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
    let broken = |error: prost::DecodeError| ReceiptError::Payload(error.to_string());
    let mut rest = bytes;
    while !rest.is_empty() {
        let (field, wire) = decode_key(&mut rest).map_err(broken)?;
        if field > highest {
            return Err(ReceiptError::Field(field));
        }
        if wire == WireType::LengthDelimited {
            let length = decode_varint(&mut rest).map_err(broken)?;
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let body = rest.get(..length);
            let body =
                body.ok_or_else(|| ReceiptError::Payload("it ends within a field".into()))?;
            each(field, body)?;
            rest = rest.get(length..).unwrap_or_default();
        } else {
            skip_field(wire, field, &mut rest, DecodeContext::default()).map_err(broken)?;
        }
    }
    Ok(())
}

/// The receipt of a resolved session before it is signed.
#[derive(Debug, Clone, PartialEq)]
pub struct Receipt {
    body: Map<String, Value>,
}

impl Receipt {
    /// The receipt that `runtime` issues at `issued_ms` (milliseconds since the Unix epoch).
    ///
    /// # Errors
    /// RECEIPT_UNAVAILABLE, as a status: not resolved, or a mode whose commitments have none.
    pub fn new(session: &Session, runtime: &str, issued_ms: Millis) -> Result<Self, Refusal> {
        let unavailable = |why: String| Refusal::new(Code::ReceiptUnavailable, why).into_status();
        if session.state() != SessionState::Resolved || !session.head.bound.is_governed() {
            let why = "only resolved sessions of the standard modes have receipts";
            return Err(unavailable(why.into()));
        }
        let payload = session.resolution().unwrap_or_default();
        let commitment =
            commitment_json(payload).map_err(|error| unavailable(error.to_string()))?;
        let body = json!({
            "commitment_hash": hash(&commitment),
            "commitment": commitment,
            "commitment_wire_b64": base64(payload, STANDARD),
            "issued_at": rfc3339(issued_ms),
            "issuer": format!("runtime:{runtime}"),
            "mode": session.mode(),
            "receipt_format": "macp-receipt/1",
            "semantics_rev": { "implementation": "weft", "rev": SEMANTICS },
            "session_id": session.id(),
        });
        match body {
            Value::Object(body) => Ok(Self { body }),
            _ => Err(unavailable("no receipt".into())),
        }
    }

    /// The document without a signature.
    pub fn unsigned(&self) -> String {
        self.with(json!([]))
    }

    /// The bytes to sign with the Ed25519 key `kid`.
    pub fn signing_input(&self, kid: &str) -> String {
        let mut body = String::new();
        canonical(&Value::Object(self.body.clone()), &mut body);
        format!("{}.{}", base64(header(kid).as_bytes(), URL), base64(body.as_bytes(), URL))
    }

    /// The document with the signature of [`Receipt::signing_input`].
    pub fn signed(&self, kid: &str, signature: &[u8]) -> String {
        let jws = format!("{}..{}", base64(header(kid).as_bytes(), URL), base64(signature, URL));
        self.with(json!([{ "jws": jws, "type": "jws" }]))
    }

    fn with(&self, attestations: Value) -> String {
        let mut body = self.body.clone();
        body.insert("attestations".into(), attestations);
        let mut text = String::new();
        canonical(&Value::Object(body), &mut text);
        text
    }
}

fn header(kid: &str) -> String {
    let mut text = String::new();
    canonical(&json!({ "alg": "EdDSA", "kid": kid }), &mut text);
    text
}

/// RFC 8785, for values without fractions: keys sorted by UTF-16, no spaces.
fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(object) => {
            let mut members: Vec<_> = object.iter().collect();
            members.sort_by_cached_key(|(key, _)| key.encode_utf16().collect::<Vec<_>>());
            out.push('{');
            for (at, (key, value)) in members.into_iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                // Strings come out of serde_json as RFC 8785 wants them.
                out.push_str(&Value::String(key.clone()).to_string());
                out.push(':');
                canonical(value, out);
            }
            out.push('}');
        }
        Value::Array(values) => {
            out.push('[');
            for (at, value) in values.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                canonical(value, out);
            }
            out.push(']');
        }
        plain => out.push_str(&plain.to_string()),
    }
}

/// Alphabet beyond letters and digits, and whether the end is padded.
type Base64 = (u8, u8, bool);
const STANDARD: Base64 = (b'+', b'/', true);
const URL: Base64 = (b'-', b'_', false);

fn base64(bytes: &[u8], (plus, slash, padded): Base64) -> String {
    let digit = |six: u32| -> char {
        let six = (six & 63) as u8;
        char::from(match six {
            0..=25 => b'A' + six,
            26..=51 => b'a' + six - 26,
            52..=61 => b'0' + six - 52,
            62 => plus,
            _ => slash,
        })
    };
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for at in 0..4 {
            if at <= chunk.len() {
                out.push(digit(word >> (18 - 6 * at)));
            } else if padded {
                out.push('=');
            }
        }
    }
    out
}

/// Whole seconds, UTC; the days are counted as in the proleptic Gregorian calendar.
fn rfc3339(ms: Millis) -> String {
    let seconds = ms.div_euclid(1000);
    let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Years begin in March, so that a leap day is a year's last day.
    let shifted = days + 719_468;
    let (era, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day_of_month:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests;
