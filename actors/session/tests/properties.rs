//! Properties of the kernel over generated courses: what is acknowledged stays, ordinals have no
//! gap, the log makes the same session everywhere, and nothing that comes in is a panic.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use proptest::prelude::*;
use prost::Message as _;
use weft_macp::macp::modes::{
    decision::v1 as decision, handoff::v1 as handoff, multi_round::v1 as multi_round,
    proposal::v1 as proposal, quorum::v1 as quorum, task::v1 as task,
};
use weft_macp::macp::v1 as pb;
use weft_session::*;

const ID: &str = "session-000000000000000001";
const T0: Millis = 1_800_000_000_000;
const PEOPLE: [&str; 4] = ["i", "a", "b", "x"];
const DYNAMIC: &str = "ext.auction.v1";

/// A step: what, by whom, of which kind, with which argument.
type Op = (u8, u8, u8, u8);

/// Modes with participants, rules of a policy (empty: the default) and own message types.
type Setup = (&'static str, &'static [&'static str], &'static str, &'static [&'static str]);
const SETUPS: [Setup; 12] = [
    ("macp.mode.decision.v1", &["a", "b"], "", DECISION),
    (
        "macp.mode.decision.v1",
        &["a", "b", "i"],
        r#"{"voting":{"algorithm":"majority","quorum":{"value":2}},
            "objection_handling":{"critical_severity_vetoes":true,
                                  "critical_objection_action":"finalize_decline"},
            "commitment":{"authority":"any_participant","require_vote_quorum":true}}"#,
        DECISION,
    ),
    ("macp.mode.proposal.v1", &["a", "b"], "", PROPOSAL),
    (
        "macp.mode.proposal.v1",
        &["a", "b"],
        r#"{"acceptance":{"criterion":"counterparty"},"counter_proposal":{"max_rounds":2}}"#,
        PROPOSAL,
    ),
    ("macp.mode.task.v1", &["i", "a", "b"], "", TASK),
    (
        "macp.mode.task.v1",
        &["a", "b"],
        r#"{"assignment":{"allow_reassignment_on_reject":true},
            "completion":{"require_output":true}}"#,
        TASK,
    ),
    ("macp.mode.handoff.v1", &["i", "a", "b"], "", HANDOFF),
    (
        "macp.mode.handoff.v1",
        &["i", "a", "b"],
        r#"{"acceptance":{"implicit_accept_timeout_ms":700}}"#,
        HANDOFF,
    ),
    ("macp.mode.quorum.v1", &["a", "b", "i"], "", QUORUM),
    (
        "macp.mode.quorum.v1",
        &["a", "b"],
        r#"{"threshold":{"type":"percentage","value":60}}"#,
        QUORUM,
    ),
    ("ext.multi_round.v1", &["a", "b"], "", &["Contribute", "Commitment"]),
    (DYNAMIC, &["a"], "", &["Bid", "Commitment"]),
];
const DECISION: &[&str] = &["Proposal", "Evaluation", "Objection", "Vote", "Commitment"];
const PROPOSAL: &[&str] =
    &["Proposal", "CounterProposal", "Accept", "Reject", "Withdraw", "Commitment"];
const TASK: &[&str] = &[
    "TaskRequest",
    "TaskAccept",
    "TaskReject",
    "TaskUpdate",
    "TaskComplete",
    "TaskFail",
    "Commitment",
];
const HANDOFF: &[&str] =
    &["HandoffOffer", "HandoffContext", "HandoffAccept", "HandoffDecline", "Commitment"];
const QUORUM: &[&str] = &["ApprovalRequest", "Approve", "Reject", "Abstain", "Commitment"];

fn payload(mode: &str, kind: &str, arg: u8) -> Vec<u8> {
    let id = ["p1", "p2", "p3", ""][usize::from(arg % 4)].to_owned();
    let other = ["p1", "p2"][usize::from(arg / 4 % 2)].to_owned();
    let who = PEOPLE[usize::from(arg / 4 % 4)].to_owned();
    if arg > 250 {
        return vec![0xff, arg, 0x0a];
    }
    match (mode, kind) {
        (_, "Commitment") => {
            let outcome_positive = arg.is_multiple_of(2);
            pb::CommitmentPayload {
                commitment_id: "c".into(),
                action: ["x.approved", "x.declined"][usize::from(arg % 2)].into(),
                authority_scope: "s".into(),
                reason: if arg % 16 == 15 { String::new() } else { "r".into() },
                mode_version: "1.0.0".into(),
                configuration_version: "c".into(),
                outcome_positive,
                ..Default::default()
            }
            .encode_to_vec()
        }
        ("macp.mode.decision.v1", "Proposal") => {
            decision::ProposalPayload { proposal_id: id, option: "o".into(), ..Default::default() }
                .encode_to_vec()
        }
        (_, "Evaluation") => decision::EvaluationPayload {
            proposal_id: id,
            recommendation: ["APPROVE", "REVIEW", "BLOCK", "bad"][usize::from(arg / 4 % 4)].into(),
            confidence: f64::from(arg % 11) / 10.0,
            reason: String::new(),
        }
        .encode_to_vec(),
        (_, "Objection") => decision::ObjectionPayload {
            proposal_id: id,
            severity: ["critical", "low"][usize::from(arg / 4 % 2)].into(),
            reason: String::new(),
        }
        .encode_to_vec(),
        (_, "Vote") => decision::VotePayload {
            proposal_id: id,
            vote: ["APPROVE", "REJECT", "ABSTAIN"][usize::from(arg / 4 % 3)].into(),
            reason: String::new(),
        }
        .encode_to_vec(),
        ("macp.mode.proposal.v1", "Reject") => proposal::RejectPayload {
            proposal_id: id,
            terminal: (arg / 4).is_multiple_of(2),
            reason: String::new(),
        }
        .encode_to_vec(),
        (_, "CounterProposal") => proposal::CounterProposalPayload {
            proposal_id: id,
            supersedes_proposal_id: other,
            ..Default::default()
        }
        .encode_to_vec(),
        ("macp.mode.proposal.v1", _) => {
            // All of these have the id in field 1.
            proposal::AcceptPayload { proposal_id: id, reason: String::new() }.encode_to_vec()
        }
        (_, "TaskRequest") => task::TaskRequestPayload {
            task_id: "t".into(),
            requested_assignee: ["", "a"][usize::from(arg % 2)].into(),
            ..Default::default()
        }
        .encode_to_vec(),
        (_, "TaskComplete") => task::TaskCompletePayload {
            task_id: "t".into(),
            output: vec![1; usize::from(arg % 2)],
            ..Default::default()
        }
        .encode_to_vec(),
        ("macp.mode.task.v1", _) => task::TaskAcceptPayload {
            task_id: ["t", "t", "t", "u"][usize::from(arg % 4)].into(),
            ..Default::default()
        }
        .encode_to_vec(),
        (_, "HandoffOffer") => handoff::HandoffOfferPayload {
            handoff_id: id,
            target_participant: who,
            ..Default::default()
        }
        .encode_to_vec(),
        ("macp.mode.handoff.v1", _) => {
            handoff::HandoffAcceptPayload { handoff_id: id, ..Default::default() }.encode_to_vec()
        }
        (_, "ApprovalRequest") => quorum::ApprovalRequestPayload {
            request_id: "r".into(),
            required_approvals: u32::from(arg % 4),
            ..Default::default()
        }
        .encode_to_vec(),
        ("macp.mode.quorum.v1", _) => {
            quorum::ApprovePayload { request_id: "r".into(), reason: String::new() }.encode_to_vec()
        }
        _ => multi_round::ContributePayload { value: format!("v{}", arg % 3) }.encode_to_vec(),
    }
}

/// A leader, a follower, and what the leader's clients were told.
struct World {
    mode: &'static str,
    types: &'static [&'static str],
    leader: Sessions,
    follower: Sessions,
    catalogue: Catalogue,
    speculation: Speculation,
    now: Millis,
    /// Admitted and not applied yet: the entry, and the id to acknowledge if there is one.
    waiting: Vec<(Entry, Option<String>)>,
    /// Ids of acknowledged messages, in order.
    acknowledged: Vec<String>,
    /// Ordinals as subscribers got them.
    published: Vec<u64>,
    next: u32,
    resets: u32,
}

impl World {
    fn new(setup: u8) -> Self {
        let (mode, participants, rules, types) = SETUPS[usize::from(setup) % SETUPS.len()];
        static BUILT_IN: LazyLock<Catalogue> = LazyLock::new(Catalogue::default);
        let mut catalogue = BUILT_IN.clone();
        let register = CatalogueChange::RegisterMode(Descriptor {
            mode: DYNAMIC.into(),
            mode_version: "1.0.0".into(),
            message_types: vec!["Bid".into(), "Commitment".into()],
            terminal_message_types: vec!["Commitment".into()],
            ..Descriptor::default()
        });
        catalogue.check(&register).expect("a good mode");
        catalogue.apply(register).expect("a new mode");
        if !rules.is_empty() {
            let policy = Policy {
                policy_id: "p".into(),
                mode: mode.into(),
                description: String::new(),
                rules: rules.into(),
                schema_version: 3,
            };
            let register = CatalogueChange::RegisterPolicy(policy);
            catalogue.check(&register).expect("a good policy");
            catalogue.apply(register).expect("a new policy");
        }
        let mut world = Self {
            mode,
            types,
            leader: Sessions::default(),
            follower: Sessions::default(),
            catalogue,
            speculation: Speculation::default(),
            now: T0,
            waiting: Vec::new(),
            acknowledged: Vec::new(),
            published: Vec::new(),
            next: 0,
            resets: 0,
        };
        let payload = pb::SessionStartPayload {
            participants: participants.iter().map(|id| (*id).to_owned()).collect(),
            mode_version: "1.0.0".into(),
            configuration_version: "c".into(),
            policy_version: if rules.is_empty() { String::new() } else { "p".into() },
            ttl_ms: 20_000,
            max_suspend_ms: 9_000,
            ..Default::default()
        };
        world.send("i", "SessionStart", payload.encode_to_vec(), "start".into());
        world.flush(usize::MAX);
        world
    }

    fn session(&self) -> &Session {
        self.leader.get(ID).expect("started")
    }

    fn lead(&mut self, work: impl FnOnce(&mut Speculation, Known<'_>, Millis) -> Admission) {
        let known = Known { sessions: &self.leader, catalogue: &self.catalogue, archived: None };
        let admission = work(&mut self.speculation, known, self.now);
        self.waiting.extend(admission.entry.map(|entry| (entry, None)));
    }

    fn send(&mut self, sender: &str, kind: &str, payload: Vec<u8>, message_id: String) {
        let envelope = Envelope {
            mode: self.mode.into(),
            message_type: kind.into(),
            message_id: message_id.clone(),
            session_id: ID.into(),
            sender: sender.into(),
            timestamp_ms: 0,
            payload,
        };
        let known = Known { sessions: &self.leader, catalogue: &self.catalogue, archived: None };
        let rights = StartRights::default();
        let Admission { entry, answer, after } =
            self.speculation.send(known, &envelope, rights, self.now);
        let position = self.leader.get(ID).map_or(0, Session::position);
        match answer {
            Ok(Accepted { duplicate: false, .. }) => {
                let entry = entry.expect("what is accepted is recorded");
                self.waiting.push((entry, Some(message_id)));
            }
            Ok(Accepted { duplicate: true, .. }) => {
                assert_eq!(entry, None);
                if after <= position {
                    assert!(self.acknowledged.contains(&message_id), "it was accepted before");
                }
            }
            Err(_) => {
                if after <= position && entry.is_none() {
                    assert!(!self.acknowledged.contains(&message_id), "it would be a duplicate");
                }
                self.waiting.extend(entry.map(|entry| (entry, None)));
            }
        }
    }

    /// Applies the first `most` entries that wait.
    fn flush(&mut self, most: usize) {
        let most = most.min(self.waiting.len());
        for (entry, id) in self.waiting.drain(..most).collect::<Vec<_>>() {
            let bytes = encode_entry(&entry).expect("encodes");
            let before = self.leader.get(ID).map(Session::state);
            let done = self.leader.apply(entry);
            let copy = self.follower.apply(decode_entry(&bytes).expect("decodes"));
            assert_eq!(done, copy, "followers see what the leader sees");
            self.speculation.settle(&self.leader, ID);
            if matches!(done.progress, Progress::Stale { .. }) {
                assert!(done.effects.is_empty());
                self.speculation.forget(ID);
                continue;
            }
            self.acknowledged.extend(id);
            for effect in done.effects {
                if let Effect::Published { ordinal, record, .. } = effect {
                    self.published.push(ordinal);
                    if let Record::Implicit(message) = &*record {
                        self.acknowledged
                            .insert(self.published.len() - 1, message.message_id.clone());
                    }
                }
            }
            if let Some(before) = before.filter(|state| state.is_final()) {
                assert_eq!(self.session().state(), before, "final is final");
            }
        }
    }

    fn step(&mut self, (what, who, kind, arg): Op) {
        let sender = PEOPLE[usize::from(who) % PEOPLE.len()];
        match what {
            0..160 => {
                let types = self.types;
                let kind = if kind > 248 {
                    "SessionCancel"
                } else {
                    types[usize::from(kind) % types.len()]
                };
                self.next += 1;
                let id = match what % 8 {
                    0 => format!("m{}", u32::from(arg) % self.next.max(1)),
                    _ => format!("m{}", self.next),
                };
                self.send(sender, kind, payload(self.mode, kind, arg), id);
            }
            160..175 => self.lead(|leader, known, now| leader.suspend(known, ID, sender, "", now)),
            175..195 => self.lead(|leader, known, now| leader.resume(known, ID, sender, "", now)),
            195..197 => self.lead(|leader, known, now| leader.cancel(known, ID, sender, "", now)),
            // Now and then beyond every session's time.
            197..215 if arg >= 240 => self.now += 30_000,
            197..215 => self.now += Millis::from(arg) * 8,
            215..220 => self.now -= Millis::from(arg) * 8,
            220..235 => {
                let known =
                    Known { sessions: &self.leader, catalogue: &self.catalogue, archived: None };
                let entry = self.speculation.sweep(known, ID, self.now);
                self.waiting.extend(entry.map(|entry| (entry, None)));
            }
            235..240 => {
                // The lead is lost: some of what waits was agreed, the rest is gone.
                self.flush(usize::from(arg) % (self.waiting.len() + 1));
                self.waiting.clear();
                self.speculation.clear();
                self.resets += 1;
            }
            _ => {
                // One proposal fails, those after it were checked in vain.
                if !self.waiting.is_empty() {
                    self.waiting.remove(usize::from(arg) % self.waiting.len());
                }
            }
        }
        // Often several are on their way.
        if !kind.is_multiple_of(3) {
            self.flush(usize::MAX);
        }
    }

    fn check(&mut self) {
        self.flush(usize::MAX);
        let session = self.leader.get(ID).expect("started");
        let count = session.last_ordinal();
        assert_eq!(self.published, (1..=count).collect::<Vec<_>>(), "no gap, none twice");
        let history: Vec<String> =
            session.envelopes(0).map(|(_, envelope)| envelope.message_id).collect();
        assert_eq!(history, self.acknowledged, "all that was acknowledged, in its order");
        assert_eq!(history.iter().collect::<BTreeSet<_>>().len(), history.len(), "each once");
        assert_eq!(self.leader, self.follower);
        let bytes = self.leader.to_bytes().expect("encodes");
        assert_eq!(Some(&bytes), self.follower.to_bytes().ok().as_ref());
        let restored = Sessions::from_bytes(&bytes).expect("decodes");
        assert_eq!(restored, self.leader, "a snapshot is the group");
        let replayed = Session::replay(ID, session.log().map(Arc::clone)).expect("replays");
        assert_eq!(&replayed, session, "the log is the session");
        assert_eq!(replayed.fingerprint(), session.fingerprint());
        let accepted_at =
            session.log().filter_map(|record| record.message()).map(|m| m.accepted_ms);
        assert!(accepted_at.is_sorted(), "time does not go back");
    }

    fn compare(&self) {
        let session = self.session();
        let before = session.clone();
        let same = what_if(session, session.policy()).expect("its own policy fits");
        assert_eq!(same.first_divergence, None);
        assert_eq!(same.entries.len() as u64, session.last_ordinal());
        for (mode, _, rules, _) in SETUPS {
            if mode == session.mode() {
                let candidate = Policy { rules: rules.into(), ..session.policy().clone() };
                what_if(session, &candidate).expect("replays");
            }
        }
        assert_eq!(session, &before);
    }
}

fn ops(most: usize) -> impl Strategy<Value = Vec<Op>> {
    proptest::collection::vec(any::<Op>(), 0..most)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_the_log_is_what_was_acknowledged(setup: u8, ops in ops(80)) {
        let mut world = World::new(setup);
        for op in ops {
            world.step(op);
        }
        world.check();
        world.compare();
    }

    #[test]
    fn whatever_was_accepted_is_a_duplicate_ever_after(setup: u8, ops in ops(40)) {
        let mut world = World::new(setup);
        for op in ops {
            world.step(op);
        }
        world.flush(usize::MAX);
        let log = world.session().clone();
        for id in world.acknowledged.clone() {
            world.send("x", "Anything", vec![1, 2, 3], id);
        }
        prop_assert!(world.waiting.is_empty());
        prop_assert_eq!(world.session(), &log);
    }

    #[test]
    fn arbitrary_envelopes_are_never_a_panic(
        setup: u8,
        wild: Vec<(u8, u8, Vec<u8>, Millis, Millis)>,
        strange in "\\PC{0,8}",
    ) {
        let mut world = World::new(setup);
        for (n, (who, kind, payload, timestamp_ms, now)) in wild.into_iter().enumerate() {
            let types = world.types;
            let start = kind.is_multiple_of(8);
            let envelope = Envelope {
                mode: world.mode.into(),
                message_type: match kind % 8 {
                    0 => "SessionStart".into(),
                    1 => strange.clone(),
                    _ => types[usize::from(kind) % types.len()].into(),
                },
                message_id: format!("{strange}{n}"),
                session_id: if start { format!("{ID}{n}") } else { ID.into() },
                sender: PEOPLE[usize::from(who) % PEOPLE.len()].into(),
                timestamp_ms,
                payload,
            };
            let (sessions, catalogue) = (&world.leader, &world.catalogue);
            let known = Known { sessions, catalogue, archived: None };
            let rights = StartRights { max_open: Some(3), open_elsewhere: 0 };
            let admission = world.speculation.send(known, &envelope, rights, now);
            let fresh = admission.answer.is_ok_and(|accepted| !accepted.duplicate);
            let id = (fresh && !start).then(|| envelope.message_id.clone());
            world.waiting.extend(admission.entry.map(|entry| (entry, id)));
        }
        world.waiting.retain(|(entry, _)| {
            matches!(entry, Entry::Records { session, .. } if session == ID)
        });
        world.check();
    }

    #[test]
    fn arbitrary_bytes_are_never_a_panic(bytes: Vec<u8>) {
        let mut version = FORMAT.to_le_bytes().to_vec();
        version.extend_from_slice(&bytes);
        for bytes in [&bytes, &version] {
            let _ = decode_entry(bytes).map(|entry| Sessions::default().apply(entry));
            let _ = Session::from_bytes(bytes);
            let _ = Sessions::from_bytes(bytes);
            let _ = Catalogue::from_bytes(bytes);
        }
        let _ = commitment_hash(&bytes);
        let _ = ambient("Signal", &bytes);
        let policy = Policy {
            policy_id: "p".into(),
            mode: "*".into(),
            description: String::new(),
            rules: String::from_utf8_lossy(&bytes).into_owned(),
            schema_version: 3,
        };
        let _ = policy.check();
    }

    #[test]
    fn a_damaged_entry_is_never_a_panic(setup: u8, ops in ops(30), cuts: Vec<(u16, u8)>) {
        let mut world = World::new(setup);
        for op in ops {
            world.step(op);
        }
        world.flush(usize::MAX);
        let mut bytes = world.leader.to_bytes().expect("encodes");
        for (at, value) in cuts {
            let at = usize::from(at) % bytes.len();
            bytes[at] = value;
        }
        if let Ok((sessions, _)) = Sessions::salvage(&bytes) {
            for session in sessions.iter() {
                let _ = session.metadata();
                let _ = session.fingerprint();
                let _ = session.envelopes(0).count();
                let _ = what_if(session, session.policy());
                let _ = Receipt::new(session, "r", 0);
            }
        }
    }

    #[test]
    fn records_in_any_order_are_never_a_panic(
        setup: u8,
        ops in ops(30),
        order: Vec<prop::sample::Index>,
        times: Vec<Millis>,
    ) {
        let mut world = World::new(setup);
        for op in ops {
            world.step(op);
        }
        world.flush(usize::MAX);
        let log: Vec<Record> = world.session().log().map(|record| Record::clone(record)).collect();
        let mut wild: Vec<Record> = order.iter().map(|at| at.get(&log).clone()).collect();
        wild.extend(times.iter().flat_map(|at| {
            let (by, reason) = (String::new(), String::new());
            [
                Record::Suspend { at: *at, by: by.clone(), reason: reason.clone() },
                Record::Resume { at: at.wrapping_neg(), by, reason, banked_ms: *at, deadline_ms: *at },
            ]
        }));
        let base = world.session().position();
        let entry = Entry::Records { session: ID.into(), base, records: wild.clone() };
        world.leader.apply(entry);
        let entry = Entry::Records { session: "other".into(), base: 0, records: wild };
        world.leader.apply(entry);
        let bytes = world.leader.to_bytes().expect("encodes");
        prop_assert_eq!(Sessions::from_bytes(&bytes).expect("decodes"), world.leader);
    }
}

/// And the generator reaches every state of every mode.
#[test]
fn ten_thousand_sessions_of_all_modes_replay_to_what_they_were() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let mut ends = std::collections::BTreeMap::<(&str, &str), u32>::new();
    let mut stale = 0;
    for n in 0..10_000u32 {
        let mut world = World::new((n % 251) as u8);
        for _ in 0..random() % 40 {
            let [a, b, c, d, ..] = random().to_le_bytes();
            world.step((a, b, c, d));
        }
        world.flush(usize::MAX);
        stale += world.resets;
        let session = world.session();
        let replayed = Session::from_bytes(&session.to_bytes().expect("encodes")).expect("decodes");
        assert_eq!(&replayed, session);
        assert_eq!(replayed.fingerprint(), session.fingerprint());
        let state = match session.state() {
            SessionState::Open => "open",
            SessionState::Resolved => "resolved",
            SessionState::Expired => "expired",
            SessionState::Suspended => "suspended",
            SessionState::Cancelled => "cancelled",
        };
        *ends.entry((world.mode, state)).or_default() += 1;
    }
    for (mode, ..) in SETUPS {
        for state in ["open", "resolved", "expired", "suspended", "cancelled"] {
            assert!(ends.contains_key(&(mode, state)), "no session of {mode} is {state}: {ends:?}");
        }
    }
    assert!(stale > 100);
}
