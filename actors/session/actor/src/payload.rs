//! Payloads as people read them: by the compiled proto files, so that no message is spelled out
//! here.

use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, DynamicMessage, MapKey, ReflectMessage as _, Value};
use serde_json::{Map, json};
use weft_protocol::{Octets, SessionPayload, base64};
use weft_session::MODES;

/// All messages of MACP.
static MESSAGES: LazyLock<Option<DescriptorPool>> =
    LazyLock::new(|| DescriptorPool::decode(weft_macp::DESCRIPTORS).ok());

/// A payload of that type in a session of that mode. Fields that are not set are left out, if that
/// can be told; bytes are base64.
pub(crate) fn readable(mode: &str, message_type: &str, payload: &[u8]) -> SessionPayload {
    // Modes beyond the standard take and make JSON too (§13.6, §13.7).
    let is_standard = MODES.contains(&mode);
    let text = || {
        let text = std::str::from_utf8(payload).ok()?;
        let value = serde_json::from_str::<serde_json::Value>(text).ok()?;
        value.is_object().then(|| value.to_string())
    };
    let json = if is_standard || message_type == "SessionStart" {
        message(mode, message_type, payload).or_else(text)
    } else {
        text().or_else(|| message(mode, message_type, payload))
    };
    json.map_or_else(|| SessionPayload::Bytes(Octets(payload.to_vec())), SessionPayload::Json)
}

/// As the protobuf of that type; `None`: there is none, or it is no such thing.
fn message(mode: &str, message_type: &str, payload: &[u8]) -> Option<String> {
    let package = match message_type {
        "SessionStart" | "Commitment" => "macp.v1".to_owned(),
        _ => {
            let mode = mode.strip_prefix("macp.mode.").or_else(|| mode.strip_prefix("ext."))?;
            format!("macp.modes.{mode}")
        }
    };
    let pool = MESSAGES.as_ref()?;
    let what = pool.get_message_by_name(&format!("{package}.{message_type}Payload"))?;
    let message = DynamicMessage::decode(what, payload).ok()?;
    Some(object(&message).to_string())
}

fn object(message: &DynamicMessage) -> serde_json::Value {
    let mut out = Map::new();
    for field in message.descriptor().fields() {
        let is_left_out = field.supports_presence() || field.is_list() || field.is_map();
        if !is_left_out || message.has_field(&field) {
            out.insert(field.name().to_owned(), value(&message.get_field(&field)));
        }
    }
    out.into()
}

fn value(of: &Value) -> serde_json::Value {
    match of {
        Value::Bool(value) => json!(value),
        Value::I32(value) | Value::EnumNumber(value) => json!(value),
        Value::I64(value) => json!(value),
        Value::U32(value) => json!(value),
        Value::U64(value) => json!(value),
        Value::F32(value) => json!(value),
        Value::F64(value) => json!(value),
        Value::String(value) => json!(value),
        Value::Bytes(value) => json!(base64(value)),
        Value::Message(value) => object(value),
        Value::List(values) => values.iter().map(value).collect(),
        Value::Map(values) => {
            let name = |key: &MapKey| match key {
                MapKey::Bool(key) => key.to_string(),
                MapKey::I32(key) => key.to_string(),
                MapKey::I64(key) => key.to_string(),
                MapKey::U32(key) => key.to_string(),
                MapKey::U64(key) => key.to_string(),
                MapKey::String(key) => key.clone(),
            };
            let mut members: Vec<_> = values.iter().map(|(k, v)| (name(k), value(v))).collect();
            members.sort_by(|a, b| a.0.cmp(&b.0));
            members.into_iter().collect::<Map<_, _>>().into()
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use serde_json::Value as Json;
    use weft_macp::macp::modes::{decision::v1 as decision, multi_round::v1 as multi_round};
    use weft_macp::macp::v1 as pb;

    use super::*;

    fn read(mode: &str, kind: &str, payload: &[u8]) -> Json {
        match readable(mode, kind, payload) {
            SessionPayload::Json(text) => serde_json::from_str(&text).expect("JSON"),
            SessionPayload::Bytes(bytes) => json!({ "bytes": bytes.0 }),
        }
    }

    #[test]
    fn payloads_are_read_by_their_type_and_what_is_unknown_stays_bytes() {
        let proposal = decision::ProposalPayload {
            proposal_id: "p1".into(),
            option: "blue".into(),
            supporting_data: vec![1, 2, 3],
            ..decision::ProposalPayload::default()
        };
        assert_eq!(
            read("macp.mode.decision.v1", "Proposal", &proposal.encode_to_vec()),
            json!({ "proposal_id": "p1", "option": "blue", "rationale": "",
                    "supporting_data": "AQID" })
        );
        let start = pb::SessionStartPayload {
            participants: vec!["a".into()],
            ttl_ms: 9,
            extensions: [("k".to_owned(), b"v".to_vec())].into(),
            ..pb::SessionStartPayload::default()
        };
        let start = read("ext.anything", "SessionStart", &start.encode_to_vec());
        assert_eq!((&start["ttl_ms"], &start["extensions"]), (&json!(9), &json!({ "k": "dg==" })));
        let commitment = pb::CommitmentPayload { action: "x".into(), ..Default::default() };
        let commitment = read("macp.mode.task.v1", "Commitment", &commitment.encode_to_vec());
        assert_eq!(commitment["outcome_positive"], json!(false));
        assert_eq!(commitment.get("supersedes"), None, "what is not set is left out");

        let value = multi_round::ContributePayload { value: "v".into() }.encode_to_vec();
        assert_eq!(read("ext.multi_round.v1", "Contribute", &value), json!({ "value": "v" }));
        let text = br#"{"value": "w"}"#;
        assert_eq!(read("ext.multi_round.v1", "Contribute", text), json!({ "value": "w" }));
        assert_eq!(read("ext.mine", "Say", text), json!({ "value": "w" }));
        for (mode, kind) in [("macp.mode.decision.v1", "Vote"), ("ext.mine", "Say"), ("", "")] {
            assert_eq!(read(mode, kind, &[0xff, 0xff]), json!({ "bytes": [255, 255] }), "{kind}");
        }
    }
}
