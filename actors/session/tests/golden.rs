//! Pins the bytes of entries, sessions and the catalogue: what is in a log or a checkpoint must
//! stay readable for ever.
//!
//! `WEFT_UPDATE_GOLDEN=1 cargo test -p weft-session --test golden` adds what is not there yet. A
//! file that is there is never changed: a new layout gets a new version and a file of its own, and
//! the old file must still read.

use std::path::PathBuf;

use weft_session::*;

fn hex(bytes: &[u8]) -> String {
    let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.chunks(40).map(|line| line.concat() + "\n").collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal"))
        .collect()
}

/// The bytes in the file; they must be these.
fn pinned(name: &str, bytes: &[u8]) -> Vec<u8> {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests", "golden", name].iter().collect();
    if !path.exists() && std::env::var_os("WEFT_UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, hex(bytes)).expect("writes");
    }
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(text, hex(bytes), "{name}: the layout changed: give it a new version");
    unhex(&text)
}

fn message(kind: &str, id: &str, payload: &[u8], at: Millis) -> Message {
    Message {
        message_type: kind.into(),
        message_id: id.into(),
        sender: "a".into(),
        timestamp_ms: 5,
        payload: payload.into(),
        accepted_ms: at,
    }
}

/// Every kind of record, in an order that makes sense.
fn records() -> Vec<Record> {
    let stamp = Stamp {
        kind: ModeKind::Handoff,
        mode_version: "1.0.0".into(),
        policy: Policy {
            policy_id: "p".into(),
            mode: "*".into(),
            description: "d".into(),
            rules: r#"{"acceptance":{"implicit_accept_timeout_ms":9}}"#.into(),
            schema_version: 3,
        },
        deadline_ms: 60_000,
        max_suspend_ms: 1000,
        semantics: SEMANTICS,
    };
    // Participants `a` and `b`; an offer `h` to `b`.
    let start = message("SessionStart", "m1", b"\x12\x01a\x12\x01b\x30\xc0\xd4\x03", 10);
    let offer = message("HandoffOffer", "m2", b"\x0a\x01h\x12\x01b", 11);
    let accept = message("HandoffAccept", "implicit-accept:h", b"\x0a\x01h", 20);
    let (by, reason) = ("a".to_owned(), "r".to_owned());
    vec![
        Record::Start {
            mode: "macp.mode.handoff.v1".into(),
            message: start,
            stamp: Box::new(stamp),
        },
        Record::Message(offer),
        Record::Implicit(Message { sender: "b".into(), ..accept }),
        Record::Suspend { at: 21, by: by.clone(), reason: reason.clone() },
        Record::Resume {
            at: 25,
            by: by.clone(),
            reason: reason.clone(),
            banked_ms: 59_979,
            deadline_ms: 60_004,
        },
        Record::Cancel { at: 26, by, reason },
        Record::Expire { at: 27 },
        Record::Receipt { at: 28, json: "{}".into() },
    ]
}

fn entry() -> Entry {
    Entry::Records { session: "session-000000000000000001".into(), base: 0, records: records() }
}

fn session() -> Session {
    let mut sessions = Sessions::default();
    sessions.apply(entry());
    sessions.page(None, 1)[0].clone()
}

#[test]
fn entries_keep_their_bytes() {
    for (name, entry) in [
        ("entry-records.v1.hex", entry()),
        ("entry-archive.v1.hex", Entry::Archive { sessions: vec!["s".into()] }),
        ("entry-seal.v1.hex", Entry::Seal { slots: vec![1, 200] }),
        ("entry-recall.v1.hex", Entry::Recall { session: Box::new(session()) }),
    ] {
        let bytes = pinned(name, &encode_entry(&entry).expect("encodes"));
        assert_eq!(decode_entry(&bytes), Ok(entry));
    }
}

#[test]
fn every_kind_of_mode_keeps_its_bytes() {
    let kinds = [
        ModeKind::Decision,
        ModeKind::Proposal,
        ModeKind::Task,
        ModeKind::Handoff,
        ModeKind::Quorum,
        ModeKind::MultiRound,
        ModeKind::Dynamic { message_types: vec!["Bid".into()] },
    ];
    let bytes = weft_wire::codec::encode(&kinds).expect("encodes");
    let bytes = pinned("mode-kinds.v1.hex", &bytes);
    assert_eq!(weft_wire::codec::decode(&bytes), Ok(kinds));
}

#[test]
fn a_session_keeps_its_bytes_and_its_meaning() {
    let mut sessions = Sessions::default();
    sessions.apply(entry());
    sessions.apply(Entry::Seal { slots: vec![7, 255] });
    let session = session();
    let bytes = pinned("session.v1.hex", &session.to_bytes().expect("encodes"));
    assert_eq!(Session::from_bytes(&bytes).as_ref(), Ok(&session));
    let bytes = pinned("sessions.v1.hex", &sessions.to_bytes().expect("encodes"));
    assert_eq!(Sessions::from_bytes(&bytes).as_ref(), Ok(&sessions));
    // What these records mean must not change either.
    pinned("session-fingerprint.v1.hex", &session.fingerprint());
    assert_eq!(session.state(), SessionState::Cancelled);
    assert_eq!(session.last_ordinal(), 3);
    assert_eq!(session.receipt(), Some("{}"));
}

#[test]
fn the_catalogue_keeps_its_bytes() {
    let mut catalogue = Catalogue::default();
    catalogue
        .apply(CatalogueChange::RegisterMode(Descriptor {
            mode: "ext.auction.v1".into(),
            mode_version: "1".into(),
            message_types: vec!["Bid".into(), "Commitment".into()],
            terminal_message_types: vec!["Commitment".into()],
            ..Descriptor::default()
        }))
        .expect("registers");
    catalogue.apply(CatalogueChange::RaiseGroups { count: 2 }).expect("raises");
    let bytes = pinned("catalogue.v1.hex", &catalogue.to_bytes().expect("encodes"));
    assert_eq!(Catalogue::from_bytes(&bytes), Ok(catalogue));
}

#[test]
fn changes_of_the_catalogue_keep_their_bytes() {
    let policy = Policy {
        policy_id: "p".into(),
        mode: "*".into(),
        description: "d".into(),
        rules: "{}".into(),
        schema_version: 1,
    };
    let changes = [
        CatalogueChange::RegisterMode(Descriptor { mode: "m".into(), ..Descriptor::default() }),
        CatalogueChange::UnregisterMode { mode: "m".into() },
        CatalogueChange::PromoteMode { mode: "m".into(), name: "n".into() },
        CatalogueChange::RegisterPolicy(policy),
        CatalogueChange::UnregisterPolicy { policy_id: "p".into() },
        CatalogueChange::RaiseGroups { count: 3 },
    ];
    let bytes = weft_wire::codec::encode(&changes).expect("encodes");
    let bytes = pinned("catalogue-changes.v1.hex", &bytes);
    assert_eq!(weft_wire::codec::decode(&bytes), Ok(changes));
}
