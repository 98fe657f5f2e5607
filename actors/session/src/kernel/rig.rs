//! A group of one for tests: what is admitted is encoded, decoded, applied and settled at once.

use prost::Message as _;
use weft_macp::macp::modes::{
    decision::v1 as decision, handoff::v1 as handoff, multi_round::v1 as multi_round,
    proposal::v1 as proposal, quorum::v1 as quorum, task::v1 as task,
};
use weft_macp::macp::v1 as pb;

use super::*;

/// When every rig begins, in milliseconds since the Unix epoch.
pub(crate) const T0: Millis = 1_800_000_000_000;
/// The session of most tests.
pub(crate) const ID: &str = "session-000000000000000001";
/// Who starts it.
pub(crate) const I: &str = "agent://initiator";

/// A group and its leader.
#[derive(Debug, Clone)]
pub(crate) struct Rig {
    pub(crate) sessions: Sessions,
    pub(crate) catalogue: Catalogue,
    pub(crate) speculation: Speculation,
    pub(crate) now: Millis,
    pub(crate) effects: Vec<Effect>,
    /// Every entry that was applied.
    pub(crate) entries: Vec<Entry>,
    next: u64,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self {
            sessions: Sessions::default(),
            catalogue: Catalogue::default(),
            speculation: Speculation::default(),
            now: T0,
            effects: Vec::new(),
            entries: Vec::new(),
            next: 0,
        }
    }

    /// With the session [`ID`] of a mode, started by [`I`].
    pub(crate) fn with(mode: &str, participants: &[&str]) -> Self {
        Self::under(mode, participants, "")
    }

    /// The same under a policy with these rules, of schema 3.
    pub(crate) fn under(mode: &str, participants: &[&str], rules: &str) -> Self {
        Self::schema(mode, participants, rules, 3)
    }

    pub(crate) fn schema(mode: &str, participants: &[&str], rules: &str, schema: u32) -> Self {
        let mut rig = Self::new();
        let mut payload = start(participants);
        if !rules.is_empty() {
            payload.policy_version = "p".into();
            let policy = policy(mode, rules, schema);
            let change = CatalogueChange::RegisterPolicy(policy);
            rig.catalogue.check(&change).expect("a good policy");
            rig.catalogue.apply(change).expect("a new policy");
        }
        let envelope = rig.envelope(mode, "SessionStart", I, payload.encode_to_vec());
        rig.send(&envelope).expect("starts");
        rig
    }

    pub(crate) fn envelope(
        &mut self,
        mode: &str,
        message_type: &str,
        sender: &str,
        payload: Vec<u8>,
    ) -> Envelope {
        self.next += 1;
        Envelope {
            mode: mode.into(),
            message_type: message_type.into(),
            message_id: format!("m{}", self.next),
            session_id: ID.into(),
            sender: sender.into(),
            timestamp_ms: 0,
            payload,
        }
    }

    pub(crate) fn session(&self) -> &Session {
        self.sessions.get(ID).expect("in memory")
    }

    pub(crate) fn state(&self) -> SessionState {
        self.session().state()
    }

    pub(crate) fn apply(&mut self, entry: Entry) -> Progress {
        let bytes = encode_entry(&entry).expect("encodes");
        let entry = decode_entry(&bytes).expect("decodes");
        self.entries.push(entry.clone());
        let id = match &entry {
            Entry::Records { session, .. } => session.clone(),
            Entry::Archive { .. } | Entry::Recall { .. } | Entry::Seal { .. } => String::new(),
        };
        let done = self.sessions.apply(entry);
        self.effects.extend(done.effects);
        self.speculation.settle(&self.sessions, &id);
        done.progress
    }

    pub(crate) fn finish(&mut self, admission: Admission) -> Answer {
        if let Some(entry) = admission.entry {
            let progress = self.apply(entry);
            assert_eq!(progress, Progress::Applied { position: admission.after });
        }
        assert_eq!(self.speculation.in_flight(), 0, "nothing is left on its way");
        admission.answer
    }

    /// Works with what the leader knows.
    pub(crate) fn lead(
        &mut self,
        work: impl FnOnce(&mut Speculation, Known<'_>, Millis) -> Admission,
    ) -> Answer {
        let known = Known { sessions: &self.sessions, catalogue: &self.catalogue, archived: None };
        let admission = work(&mut self.speculation, known, self.now);
        self.finish(admission)
    }

    pub(crate) fn send(&mut self, envelope: &Envelope) -> Answer {
        self.lead(|leader, known, now| leader.send(known, envelope, StartRights::default(), now))
    }

    /// A message of the session's own mode.
    pub(crate) fn say<M: prost::Message>(
        &mut self,
        sender: &str,
        kind: &str,
        payload: &M,
    ) -> Answer {
        let mode = self.session().mode().to_owned();
        let envelope = self.envelope(&mode, kind, sender, payload.encode_to_vec());
        self.send(&envelope)
    }

    /// The code of the refusal of such a message.
    pub(crate) fn refused<M: prost::Message>(
        &mut self,
        sender: &str,
        kind: &str,
        payload: &M,
    ) -> Code {
        let before = self.session().clone();
        let refusal = self.say(sender, kind, payload).expect_err("is refused");
        assert_eq!(self.session(), &before, "a refused message changes nothing");
        refusal.code
    }

    pub(crate) fn ok<M: prost::Message>(&mut self, sender: &str, kind: &str, payload: &M) {
        self.say(sender, kind, payload).unwrap_or_else(|refusal| panic!("{kind}: {refusal}"));
    }

    /// The initiator commits.
    pub(crate) fn commit(&mut self, positive: bool) -> Answer {
        self.say(I, "Commitment", &commitment(positive))
    }

    /// Codes of the policy's reasons against it.
    pub(crate) fn denied(&mut self, positive: bool) -> Vec<&'static str> {
        let refusal = self.commit(positive).expect_err("is denied");
        assert_eq!(refusal.code, Code::PolicyDenied, "{refusal}");
        refusal.denials.iter().map(|denial| denial.code.as_str()).collect()
    }

    pub(crate) fn cancel(&mut self, sender: &str) -> Answer {
        self.lead(|leader, known, now| leader.cancel(known, ID, sender, "r", now))
    }

    pub(crate) fn suspend(&mut self, sender: &str) -> Answer {
        self.lead(|leader, known, now| leader.suspend(known, ID, sender, "r", now))
    }

    pub(crate) fn resume(&mut self, sender: &str) -> Answer {
        self.lead(|leader, known, now| leader.resume(known, ID, sender, "r", now))
    }

    /// The sweep, for every session that is due.
    pub(crate) fn sweep(&mut self) {
        let due: Vec<String> = self.sessions.due(self.now).map(str::to_owned).collect();
        for id in due {
            let known =
                Known { sessions: &self.sessions, catalogue: &self.catalogue, archived: None };
            if let Some(entry) = self.speculation.sweep(known, &id, self.now) {
                self.apply(entry);
            }
        }
    }

    /// What happened to sessions since the last call.
    pub(crate) fn events(&mut self) -> Vec<Lifecycle> {
        self.effects
            .drain(..)
            .filter_map(|effect| match effect {
                Effect::Lifecycle { event, .. } => Some(event),
                _ => None,
            })
            .collect()
    }
}

pub(crate) fn policy(mode: &str, rules: &str, schema_version: u32) -> Policy {
    Policy {
        policy_id: "p".into(),
        mode: mode.into(),
        description: "d".into(),
        rules: rules.into(),
        schema_version,
    }
}

pub(crate) fn start(participants: &[&str]) -> pb::SessionStartPayload {
    pb::SessionStartPayload {
        intent: "decide".into(),
        participants: participants.iter().map(|id| (*id).to_owned()).collect(),
        mode_version: "1.0.0".into(),
        configuration_version: "config.default".into(),
        ttl_ms: 60_000,
        ..Default::default()
    }
}

pub(crate) fn commitment(positive: bool) -> pb::CommitmentPayload {
    pb::CommitmentPayload {
        commitment_id: "c-1".into(),
        action: if positive { "it.approved" } else { "it.declined" }.into(),
        authority_scope: "fleet".into(),
        reason: "because".into(),
        mode_version: "1.0.0".into(),
        configuration_version: "config.default".into(),
        outcome_positive: positive,
        ..Default::default()
    }
}

pub(crate) fn option(id: &str) -> decision::ProposalPayload {
    decision::ProposalPayload {
        proposal_id: id.into(),
        option: "deploy".into(),
        ..Default::default()
    }
}

pub(crate) fn vote(id: &str, vote: &str) -> decision::VotePayload {
    decision::VotePayload { proposal_id: id.into(), vote: vote.into(), reason: String::new() }
}

pub(crate) fn evaluation(id: &str, how: &str, confidence: f64) -> decision::EvaluationPayload {
    decision::EvaluationPayload {
        proposal_id: id.into(),
        recommendation: how.into(),
        confidence,
        reason: String::new(),
    }
}

pub(crate) fn objection(id: &str, severity: &str) -> decision::ObjectionPayload {
    decision::ObjectionPayload {
        proposal_id: id.into(),
        severity: severity.into(),
        reason: String::new(),
    }
}

pub(crate) fn offer(id: &str, target: &str) -> handoff::HandoffOfferPayload {
    handoff::HandoffOfferPayload {
        handoff_id: id.into(),
        target_participant: target.into(),
        ..Default::default()
    }
}

pub(crate) fn contribute(value: &str) -> multi_round::ContributePayload {
    multi_round::ContributePayload { value: value.into() }
}

pub(crate) fn bid(id: &str) -> proposal::ProposalPayload {
    proposal::ProposalPayload { proposal_id: id.into(), ..Default::default() }
}

pub(crate) fn request(required_approvals: u32) -> quorum::ApprovalRequestPayload {
    quorum::ApprovalRequestPayload {
        request_id: "r".into(),
        required_approvals,
        ..Default::default()
    }
}

pub(crate) fn work(assignee: &str) -> task::TaskRequestPayload {
    task::TaskRequestPayload {
        task_id: "t".into(),
        requested_assignee: assignee.into(),
        ..Default::default()
    }
}
