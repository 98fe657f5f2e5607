//! MACP sessions, as `session` prints them. Field names are promises.

use serde::Serialize;
use serde_json::Value;
use weft_protocol::{
    SessionActivity, SessionDetail, SessionGroup, SessionLifecycle, SessionPayload, SessionRecord,
    SessionRow, SessionView, base64, format_time,
};
use weft_wire::WallTime;

use super::Table;
use super::table::cut;
use super::views::some;

/// Width of a list of names in a table.
const NAMES: usize = 40;
/// Width of a payload in a table.
const PAYLOAD: usize = 100;

/// MACP's milliseconds as times are printed.
pub(crate) fn time(ms: i64) -> String {
    format_time(WallTime::from_micros(ms.saturating_mul(1000)))
}

#[derive(Debug, Serialize)]
struct ActivityView<'a> {
    participant: &'a str,
    last_at: String,
    messages: u32,
}

impl<'a> From<&'a SessionActivity> for ActivityView<'a> {
    fn from(activity: &'a SessionActivity) -> Self {
        Self {
            participant: &activity.participant,
            last_at: time(activity.last_ms),
            messages: activity.count,
        }
    }
}

/// A session, as `session list --json` has it.
#[derive(Debug, Serialize)]
pub(crate) struct RowView<'a> {
    id: &'a str,
    mode: &'a str,
    state: &'static str,
    started_at: String,
    expires_at: String,
    initiator: &'a str,
    participants: &'a [String],
    messages: u64,
    records: u64,
    policy: &'a str,
    mode_version: &'a str,
    configuration_version: &'a str,
    context_id: Option<String>,
    extensions: &'a [String],
    activity: Vec<ActivityView<'a>>,
}

impl<'a> From<&'a SessionRow> for RowView<'a> {
    fn from(row: &'a SessionRow) -> Self {
        let session = &row.session;
        Self {
            id: &session.session_id,
            mode: &session.mode,
            state: session.state.as_str(),
            started_at: time(session.started_ms),
            expires_at: time(session.expires_ms),
            initiator: &session.initiator,
            participants: &session.participants,
            messages: row.messages,
            records: row.records,
            policy: &session.policy_version,
            mode_version: &session.mode_version,
            configuration_version: &session.configuration_version,
            context_id: some(&session.context_id),
            extensions: &session.extension_keys,
            activity: session.activity.iter().map(ActivityView::from).collect(),
        }
    }
}

/// A group, as `session groups --json` has it.
#[derive(Debug, Serialize)]
pub(crate) struct GroupView<'a> {
    group: &'a str,
    slots: u32,
    handing_over: u32,
    open: bool,
    live: u64,
    ended: u64,
    archived: u64,
}

impl<'a> From<&'a SessionGroup> for GroupView<'a> {
    fn from(group: &'a SessionGroup) -> Self {
        Self {
            group: &group.name,
            slots: group.slots,
            handing_over: group.handing_over,
            open: group.is_open,
            live: group.live,
            ended: group.ended,
            archived: group.archived,
        }
    }
}

/// The groups, as `session groups` has them.
pub(crate) fn groups_table(groups: &[SessionGroup]) -> Table {
    let header = ["GROUP", "SLOTS", "HANDING-OVER", "OPEN", "LIVE", "ENDED", "ARCHIVED"];
    let mut table = Table::new(header);
    for group in groups {
        table.row([
            group.name.clone(),
            group.slots.to_string(),
            group.handing_over.to_string(),
            if group.is_open { "yes" } else { "no" }.to_owned(),
            group.live.to_string(),
            group.ended.to_string(),
            group.archived.to_string(),
        ]);
    }
    table
}

/// A payload: `payload` if it could be read, else `payload_b64`.
fn payload(of: &SessionPayload) -> (Option<Value>, Option<String>) {
    match of {
        SessionPayload::Json(text) => match serde_json::from_str(text) {
            Ok(value) => (Some(value), None),
            Err(_) => (None, Some(base64(text.as_bytes()))),
        },
        SessionPayload::Bytes(bytes) => (None, Some(base64(&bytes.0))),
    }
}

fn payload_text(of: &SessionPayload) -> String {
    match of {
        SessionPayload::Json(text) => text.clone(),
        SessionPayload::Bytes(bytes) => base64(&bytes.0),
    }
}

/// A record, as `session watch ID --json` has it.
#[derive(Debug, Serialize)]
pub(crate) struct HistoryView<'a> {
    position: u64,
    ordinal: Option<u64>,
    time: String,
    #[serde(rename = "type")]
    kind: &'a str,
    message_id: Option<String>,
    sender: Option<String>,
    payload: Option<Value>,
    payload_b64: Option<String>,
}

impl<'a> From<&'a SessionRecord> for HistoryView<'a> {
    fn from(record: &'a SessionRecord) -> Self {
        let (payload, payload_b64) = payload(&record.payload);
        Self {
            position: record.position,
            ordinal: record.ordinal,
            time: time(record.at_ms),
            kind: &record.message_type,
            message_id: some(&record.message_id),
            sender: some(&record.sender),
            payload,
            payload_b64,
        }
    }
}

#[derive(Debug, Serialize)]
struct PolicyView<'a> {
    id: &'a str,
    mode: &'a str,
    description: &'a str,
    schema_version: u32,
    rules: Value,
}

/// A session whole, as `session show --json` has it.
#[derive(Debug, Serialize)]
pub(crate) struct ShowView<'a> {
    session: RowView<'a>,
    policy: PolicyView<'a>,
    resolution: Option<Value>,
    resolution_b64: Option<String>,
    receipt: Option<Value>,
    history: Vec<HistoryView<'a>>,
}

impl<'a> ShowView<'a> {
    pub(crate) fn new(detail: &'a SessionDetail, history: &'a [SessionRecord]) -> Self {
        let policy = &detail.policy;
        let (resolution, resolution_b64) =
            detail.resolution.as_ref().map(payload).unwrap_or_default();
        Self {
            session: RowView::from(&detail.row),
            policy: PolicyView {
                id: &policy.policy_id,
                mode: &policy.mode,
                description: &policy.description,
                schema_version: policy.schema_version,
                rules: rules(&policy.rules),
            },
            resolution,
            resolution_b64,
            receipt: detail.receipt.as_ref().and_then(|text| serde_json::from_str(text).ok()),
            history: history.iter().map(HistoryView::from).collect(),
        }
    }
}

/// Rules that are not JSON count as none (§14).
fn rules(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::Object(serde_json::Map::new()))
}

/// What happened to a session, as `session watch --json` has it.
#[derive(Debug, Serialize)]
pub(crate) struct EventView<'a> {
    time: String,
    event: &'static str,
    id: &'a str,
    mode: &'a str,
    state: &'static str,
    initiator: &'a str,
}

impl<'a> EventView<'a> {
    pub(crate) fn new(what: SessionLifecycle, session: &'a SessionView, at_ms: i64) -> Self {
        Self {
            time: time(at_ms),
            event: event(what),
            id: &session.session_id,
            mode: &session.mode,
            state: session.state.as_str(),
            initiator: &session.initiator,
        }
    }
}

const fn event(what: SessionLifecycle) -> &'static str {
    match what {
        SessionLifecycle::Created => "created",
        SessionLifecycle::Resolved => "resolved",
        SessionLifecycle::Expired => "expired",
        SessionLifecycle::Suspended => "suspended",
        SessionLifecycle::Resumed => "resumed",
        SessionLifecycle::Cancelled => "cancelled",
    }
}

pub(crate) fn event_line(what: SessionLifecycle, session: &SessionView, at_ms: i64) -> String {
    format!(
        "{}  {:<9}  {}  {}  {}",
        time(at_ms),
        event(what),
        session.session_id,
        session.mode,
        session.initiator
    )
}

pub(crate) fn record_line(record: &SessionRecord) -> String {
    format!(
        "{:>4}  {}  {}  {}  {}",
        ordinal(record),
        time(record.at_ms),
        record.message_type,
        if record.sender.is_empty() { "-" } else { &record.sender },
        payload_text(&record.payload)
    )
}

fn ordinal(record: &SessionRecord) -> String {
    record.ordinal.map_or_else(|| "-".to_owned(), |ordinal| ordinal.to_string())
}

pub(crate) fn sessions_table<'a>(rows: impl Iterator<Item = &'a SessionRow>) -> Table {
    let mut table = Table::new([
        "ID",
        "MODE",
        "STATE",
        "STARTED",
        "EXPIRES",
        "INITIATOR",
        "PARTICIPANTS",
        "MESSAGES",
    ]);
    for row in rows {
        let session = &row.session;
        // What has ended expires no more.
        let expires = (!session.state.is_final()).then(|| time(session.expires_ms));
        table.row([
            session.session_id.clone(),
            session.mode.clone(),
            session.state.as_str().to_owned(),
            time(session.started_ms),
            expires.unwrap_or_default(),
            session.initiator.clone(),
            cut(&session.participants.join(","), NAMES),
            row.messages.to_string(),
        ]);
    }
    table
}

pub(crate) fn show_text(detail: &SessionDetail, history: &[SessionRecord]) -> String {
    let (row, policy) = (&detail.row, &detail.policy);
    let session = &row.session;
    let mut facts = vec![
        ("id", session.session_id.clone()),
        ("mode", format!("{} {}", session.mode, session.mode_version)),
        ("state", session.state.as_str().to_owned()),
        ("started", time(session.started_ms)),
        ("expires", time(session.expires_ms)),
        ("initiator", session.initiator.clone()),
        ("participants", session.participants.join(", ")),
        ("configuration", session.configuration_version.clone()),
        ("context", session.context_id.clone()),
        ("extensions", session.extension_keys.join(", ")),
        ("policy", format!("{} (schema {})", policy.policy_id, policy.schema_version)),
        ("rules", rules(&policy.rules).to_string()),
    ];
    facts.extend(detail.resolution.as_ref().map(|of| ("resolution", payload_text(of))));
    facts.extend(detail.receipt.as_ref().map(|text| ("receipt", text.clone())));
    let facts: Vec<String> = facts
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{:<14} {value}", format!("{name}:")))
        .collect();
    let mut table = Table::new(["ORDINAL", "TIME", "TYPE", "SENDER", "MESSAGE ID", "PAYLOAD"]);
    for record in history {
        table.row([
            ordinal(record),
            time(record.at_ms),
            record.message_type.clone(),
            record.sender.clone(),
            record.message_id.clone(),
            cut(&payload_text(&record.payload), PAYLOAD),
        ]);
    }
    format!("{}\n\n{table}", facts.join("\n"))
}

#[cfg(test)]
mod tests {
    use weft_protocol::{Octets, PolicyView as Policy, SessionState};

    use super::*;

    fn detail() -> SessionDetail {
        let session = SessionView {
            session_id: "s1".into(),
            mode: "macp.mode.decision.v1".into(),
            state: SessionState::Resolved,
            started_ms: 1_800_000_000_000,
            expires_ms: 1_800_000_060_000,
            mode_version: "1.0.0".into(),
            configuration_version: "c".into(),
            policy_version: "p".into(),
            participants: vec!["agent://a".into(), "agent://b".into()],
            activity: vec![SessionActivity {
                participant: "agent://a".into(),
                last_ms: 1,
                count: 2,
            }],
            initiator: "agent://a".into(),
            context_id: String::new(),
            extension_keys: Vec::new(),
        };
        SessionDetail {
            row: SessionRow { session, messages: 3, records: 4 },
            policy: Policy {
                policy_id: "p".into(),
                mode: "*".into(),
                description: String::new(),
                rules: r#"{"a": 1}"#.into(),
                schema_version: 3,
            },
            resolution: Some(SessionPayload::Json(r#"{"action":"x"}"#.into())),
            receipt: None,
        }
    }

    fn record(ordinal: Option<u64>, payload: SessionPayload) -> SessionRecord {
        SessionRecord {
            position: 4,
            ordinal,
            at_ms: 1_800_000_000_001,
            message_type: "Vote".into(),
            message_id: "m".into(),
            sender: "agent://b".into(),
            payload,
        }
    }

    #[test]
    fn a_payload_that_cannot_be_read_is_base64_and_the_other_field_null() {
        let known = record(Some(2), SessionPayload::Json(r#"{"vote":"APPROVE"}"#.into()));
        let unknown = record(None, SessionPayload::Bytes(Octets(vec![1, 2, 3])));
        let json = |record| serde_json::to_value(HistoryView::from(record)).expect("JSON");
        assert_eq!(json(&known)["payload"]["vote"], "APPROVE");
        assert_eq!(json(&known)["payload_b64"], Value::Null);
        assert_eq!(json(&known)["ordinal"], 2);
        assert_eq!(json(&unknown)["payload"], Value::Null);
        assert_eq!(json(&unknown)["payload_b64"], "AQID");
        assert!(record_line(&unknown).ends_with("AQID"), "{}", record_line(&unknown));
        assert_eq!(json(&known)["time"], "2027-01-15T08:00:00.001000Z");
    }

    #[test]
    fn the_list_shows_no_expiry_of_what_has_ended_and_show_names_the_policy_in_force() {
        let detail = detail();
        let table = sessions_table(std::iter::once(&detail.row)).to_string();
        let row = table.lines().nth(1).expect("a row").split_whitespace().collect::<Vec<_>>();
        assert_eq!(row.get(4), Some(&"-"), "{table}");
        assert_eq!(row.last(), Some(&"3"), "{table}");
        let text = show_text(&detail, &[record(Some(1), SessionPayload::Json("{}".into()))]);
        for part in ["p (schema 3)", r#"{"a":1}"#, "resolution:", "agent://a, agent://b"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("context:"), "what is empty is left out: {text}");
        let view = serde_json::to_value(ShowView::new(&detail, &[])).expect("JSON");
        assert_eq!(view["policy"]["rules"]["a"], 1);
        assert_eq!(view["session"]["activity"][0]["messages"], 2);
    }
}
