//! Desired state as the `control` group's machine: what consensus feeds, and what readers see.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use weft_agreement::{Image, Machine, MachineError};
use weft_protocol::{Applied, Event, Proposal};
use weft_wire::{Failure, FailureKind, NodeId, codec};

use crate::state::{ClusterState, SNAPSHOT_VERSION};

/// Name of the group that desired state is agreed in.
pub const GROUP: &str = "control";
/// Events that wait to be stored, at most; older ones are left to the other nodes.
const EVENTS_WAITING: usize = 10_000;
/// Layout of a stored proposal.
pub const PROPOSAL_VERSION: u16 = 1;

/// Desired state of this node, fed by consensus. It outlives the registry's incarnations. Cheap
/// to clone.
#[derive(Clone)]
pub struct Control(Arc<Inner>);

struct Inner {
    state: RwLock<ClusterState>,
    /// Position of the newest change.
    head: watch::Sender<u64>,
    /// What followed from entries and is not stored yet.
    events: Mutex<VecDeque<Event>>,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("index", &*self.0.head.borrow()).finish_non_exhaustive()
    }
}

impl Default for Control {
    fn default() -> Self {
        let state = RwLock::new(ClusterState::default());
        Self(Arc::new(Inner { state, head: watch::Sender::new(0), events: Mutex::default() }))
    }
}

impl Control {
    /// The machine to give to consensus; one per node.
    pub fn machine(&self) -> Box<dyn Machine> {
        Box::new(self.clone())
    }

    /// Desired state as it is here now. To be let go of at once: changes wait meanwhile.
    pub fn read(&self) -> RwLockReadGuard<'_, ClusterState> {
        // One that holds it already may look again, even while a change waits.
        self.0.state.read_recursive()
    }

    /// Events that followed from entries since they were taken last, at most `max`, oldest first.
    pub(crate) fn take_events(&self, max: usize) -> Vec<Event> {
        let mut events = self.0.events.lock();
        let count = events.len().min(max);
        events.drain(..count).collect()
    }

    /// Position of the newest change; told again at each.
    pub fn head(&self) -> watch::Receiver<u64> {
        self.0.head.subscribe()
    }
}

/// What a proposal gave, as consensus hands it back.
pub(crate) type Answer = Result<Applied, Failure>;

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u16,
    body: Vec<u8>,
}

/// A proposal as it is agreed and stored.
pub(crate) fn encode(proposal: &Proposal) -> Result<Vec<u8>, codec::CodecError> {
    let body = codec::encode(proposal)?;
    codec::encode(&Stored { version: PROPOSAL_VERSION, body })
}

fn decode(bytes: &[u8]) -> Result<Proposal, Failure> {
    let unreadable = |cause: String| {
        Failure::new(FailureKind::Unsupported, "an agreed change cannot be read")
            .cause(cause)
            .help("run a version of weft at least as new as the one that proposed it")
    };
    let stored: Stored = codec::decode(bytes).map_err(|error| unreadable(error.to_string()))?;
    if stored.version != PROPOSAL_VERSION {
        return Err(unreadable(format!(
            "it has layout {}, this program reads {PROPOSAL_VERSION}",
            stored.version
        )));
    }
    codec::decode(&stored.body).map_err(|error| unreadable(error.to_string()))
}

/// What became of a proposal.
pub(crate) fn answer(bytes: &[u8]) -> Answer {
    codec::decode(bytes).unwrap_or_else(|error| {
        Err(Failure::new(FailureKind::Internal, "the answer to a change cannot be read")
            .cause(error))
    })
}

impl Machine for Control {
    fn apply(&mut self, index: u64, commands: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut state = self.0.state.write();
        let mut told = Vec::new();
        let answers = commands
            .iter()
            .map(|bytes| {
                let answer = decode(bytes).and_then(|proposal| {
                    let next = state.index().saturating_add(1);
                    let (applied, events) = state.apply_told(&proposal, next)?;
                    told.extend(events);
                    Ok(applied)
                });
                if let Err(failure) = &answer
                    && failure.kind == FailureKind::Unsupported
                {
                    tracing::error!(index, %failure, "this node may differ from the others now");
                }
                codec::encode(&answer).unwrap_or_default()
            })
            .collect();
        let head = state.index();
        drop(state);
        if !told.is_empty() {
            let mut events = self.0.events.lock();
            events.extend(told);
            let surplus = events.len().saturating_sub(EVENTS_WAITING);
            events.drain(..surplus);
        }
        self.0.head.send_if_modified(|known| std::mem::replace(known, head) != head);
        answers
    }

    fn snapshot(&self) -> Result<Image, MachineError> {
        let bytes =
            self.0.state.read().snapshot().map_err(|error| MachineError(error.to_string()))?;
        Ok(Image { version: SNAPSHOT_VERSION, bytes })
    }

    fn restore(&mut self, image: &Image) -> Result<(), MachineError> {
        let state = ClusterState::restore(image.version, &image.bytes)
            .map_err(|error| MachineError(error.to_string()))?;
        let head = state.index();
        *self.0.state.write() = state;
        self.0.head.send_replace(head);
        Ok(())
    }

    fn membership_changed(&mut self, _: &BTreeSet<NodeId>, _: &BTreeSet<NodeId>) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_protocol::{Command, NodeRecord, OperatorRecord};
    use weft_wire::{Caller, OperatorId, RequestId, Role, WallTime};

    fn bootstrap(request: u128) -> Proposal {
        let at = WallTime::from_micros(1_800_000_000_000_000);
        let id = NodeId::new(uuid::Uuid::from_u128(1));
        Proposal {
            request: RequestId::new(uuid::Uuid::from_u128(request)),
            at,
            caller: Caller::node(id),
            leader: id,
            command: Command::Bootstrap {
                node: NodeRecord {
                    id,
                    name: "n1".into(),
                    address: String::new(),
                    zone: String::new(),
                    labels: vec![],
                    version: String::new(),
                    key_fingerprint: String::new(),
                    ca: String::new(),
                    capacity: weft_protocol::Capacity::default(),
                    format: 1,
                    extra_labels: vec![],
                    draining: false,
                    joined_at: at,
                },
                operator: OperatorRecord {
                    id: OperatorId::new(uuid::Uuid::from_u128(2)),
                    name: "ann".into(),
                    role: Role::Admin,
                    key_fingerprint: String::new(),
                    created_at: at,
                },
                ca: "CA".into(),
            },
        }
    }

    #[test]
    fn a_batch_answers_each_and_a_retry_applies_once() {
        let mut control = Control::default();
        let first = encode(&bootstrap(1)).expect("encodes");
        let again = encode(&bootstrap(2)).expect("encodes");
        let answers = control.apply(7, &[first.clone(), again, first]);
        let answers: Vec<Answer> = answers.iter().map(|bytes| answer(bytes)).collect();
        assert_eq!(answers[0].as_ref().map(|applied| applied.index), Ok(1));
        assert_eq!(answers[1].as_ref().map_err(|f| f.kind), Err(FailureKind::Conflict));
        assert_eq!(answers[2], answers[0]);
        assert_eq!((control.read().index(), *control.head().borrow()), (1, 1));
    }

    #[test]
    fn an_image_of_one_node_makes_the_same_state_on_another() {
        let mut one = Control::default();
        one.apply(1, &[encode(&bootstrap(1)).expect("encodes")]);
        let mut other = Control::default();
        other.restore(&one.snapshot().expect("image")).expect("restores");
        assert!(*one.read() == *other.read());
    }

    #[test]
    fn a_change_of_a_newer_layout_is_refused_and_changes_nothing() {
        let mut control = Control::default();
        let bytes = codec::encode(&Stored { version: PROPOSAL_VERSION + 1, body: vec![] });
        let answers = control.apply(1, &[bytes.expect("encodes"), vec![255; 9]]);
        for bytes in &answers {
            assert_eq!(answer(bytes).map_err(|f| f.kind), Err(FailureKind::Unsupported));
        }
        assert!(control.read().is_empty());
    }
}
