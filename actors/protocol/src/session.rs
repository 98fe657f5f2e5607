//! What the owner of MACP sessions answers to gateways (spec macp-sessions).
//!
//! The same values as the kernel's, as plain data: nothing here says what is accepted. Times are
//! milliseconds since the Unix epoch, as MACP has them.

use serde::{Deserialize, Serialize};
use weft_wire::{ActorKind, Allow, Class, Message, MessageId, Subscription};

use crate::Octets;

/// An envelope whose sender is known (§4.1); the protocol version is always 1.0.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionEnvelope {
    /// Id of the mode.
    pub mode: String,
    /// What the payload is.
    pub message_type: String,
    /// Unique in its session.
    pub message_id: String,
    /// The session.
    pub session_id: String,
    /// Who sent it, as authenticated.
    pub sender: String,
    /// The client's clock; 0 if not set.
    pub timestamp_ms: i64,
    /// The protobuf of the mode.
    pub payload: Vec<u8>,
}

/// Where a session stands. The order is that of the wire numbers of MACP, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SessionState {
    /// Takes messages.
    Open,
    /// Has a commitment; final.
    Resolved,
    /// Its time is over; final.
    Expired,
    /// Takes no messages until it is resumed.
    Suspended,
    /// Somebody ended it; final.
    Cancelled,
}

impl SessionState {
    /// All of them, as lists name them.
    pub const ALL: [Self; 5] =
        [Self::Open, Self::Suspended, Self::Resolved, Self::Expired, Self::Cancelled];

    /// Its name in tables and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Suspended => "suspended",
            Self::Resolved => "resolved",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing can change any more.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Resolved | Self::Expired | Self::Cancelled)
    }

    /// The number on MACP's wire (§4.1).
    pub const fn number(self) -> i32 {
        match self {
            Self::Open => 1,
            Self::Resolved => 2,
            Self::Expired => 3,
            Self::Suspended => 4,
            Self::Cancelled => 5,
        }
    }
}

/// What an Ack says of something accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionAck {
    /// It was accepted before, and nothing was done now.
    pub duplicate: bool,
    /// Where the session stands now.
    pub state: SessionState,
}

/// Why something is not accepted, as clients see it (§6.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRefusal {
    /// The code that clients branch on.
    pub code: String,
    /// For people.
    pub message: String,
    /// `MACPError.details`.
    pub details: Vec<u8>,
    /// Whether a unary call tells it as its status rather than in an Ack.
    pub is_status: bool,
}

/// Accepted or not.
pub type SessionAnswer = Result<SessionAck, SessionRefusal>;

/// Who wants to read a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionReader {
    /// As authenticated.
    pub sender: String,
    /// Whether it may read every session.
    pub is_observer: bool,
}

/// What a participant did in a session after its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionActivity {
    /// Who.
    pub participant: String,
    /// When it last sent something that was accepted.
    pub last_ms: i64,
    /// How much.
    pub count: u32,
}

/// What is told of a session (§4.2, SessionMetadata).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionView {
    /// Its id.
    pub session_id: String,
    /// Its mode.
    pub mode: String,
    /// Where it stands.
    pub state: SessionState,
    /// When it was accepted.
    pub started_ms: i64,
    /// When it expires.
    pub expires_ms: i64,
    /// As bound at its start.
    pub mode_version: String,
    /// As bound at its start.
    pub configuration_version: String,
    /// Id of the policy it is bound to.
    pub policy_version: String,
    /// In the order of its start.
    pub participants: Vec<String>,
    /// Of those who sent something after the start.
    pub activity: Vec<SessionActivity>,
    /// Who started it.
    pub initiator: String,
    /// As given.
    pub context_id: String,
    /// Names of its extensions.
    pub extension_keys: Vec<String>,
}

/// How much a sender may send in a minute (§6), through all nodes together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SenderRates {
    /// Starts of sessions.
    pub starts: u32,
    /// Other messages.
    pub messages: u32,
}

/// An envelope for a session: a start or a message (§7, §8). Checked before: its shape, its sender
/// and what the sender sent through the node that asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendEnvelope {
    /// The envelope.
    pub envelope: SessionEnvelope,
    /// Most sessions of this sender that are open at a time.
    pub max_open: Option<u32>,
    /// What the session's owner holds the sender to; `None`: there is no other node, and it was
    /// checked.
    pub rates: Option<SenderRates>,
}

impl Message for SendEnvelope {
    const ID: MessageId = MessageId(400);
    const ACTOR: ActorKind = ActorKind::Session;
    const NAME: &'static str = "session.send";
    const ALLOW: Allow = Allow::NODES;
    // Its message id makes a second one a duplicate.
    const IDEMPOTENT: bool = true;
    type Reply = SessionAnswer;
}

/// What is done to a session as a whole (§9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionControl {
    /// Ends it.
    Cancel,
    /// Stops its time.
    Suspend,
    /// Lets its time go on.
    Resume,
}

/// Cancels, suspends or resumes a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlSession {
    /// The session.
    pub session_id: String,
    /// What to do.
    pub control: SessionControl,
    /// Who wants it.
    pub sender: String,
    /// Why.
    pub reason: String,
}

impl Message for ControlSession {
    const ID: MessageId = MessageId(401);
    const ACTOR: ActorKind = ActorKind::Session;
    const NAME: &'static str = "session.control";
    const ALLOW: Allow = Allow::NODES;
    type Reply = SessionAnswer;
}

/// One session, for somebody who may read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadSession {
    /// The session.
    pub session_id: String,
    /// Who reads.
    pub reader: SessionReader,
}

impl Message for ReadSession {
    const ID: MessageId = MessageId(402);
    const ACTOR: ActorKind = ActorKind::Session;
    const NAME: &'static str = "session.read";
    const ALLOW: Allow = Allow::NODES;
    const IDEMPOTENT: bool = true;
    type Reply = Result<SessionView, SessionRefusal>;
}

/// What the owner of a stream must know of its session before each envelope (§10).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionHead {
    /// Its mode.
    pub mode: String,
    /// Where it stands.
    pub state: SessionState,
    /// Ordinal of its last envelope.
    pub ordinal: u64,
}

/// Mode, state and length of a session; `None`: there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadSessionHead {
    /// The session.
    pub session_id: String,
}

impl Message for ReadSessionHead {
    const ID: MessageId = MessageId(403);
    const ACTOR: ActorKind = ActorKind::Session;
    const NAME: &'static str = "session.head";
    const ALLOW: Allow = Allow::NODES;
    const IDEMPOTENT: bool = true;
    type Reply = Option<SessionHead>;
}

/// Sessions by id (§11, ListSessions).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListSessions {
    /// Those with an id over this, in byte order; `None`: from the first.
    pub after: Option<String>,
    /// At most so many.
    pub size: u32,
}

/// A page of sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionPage {
    /// By id.
    pub sessions: Vec<SessionView>,
    /// Whether there are more.
    pub more: bool,
}

impl Message for ListSessions {
    const ID: MessageId = MessageId(404);
    const ACTOR: ActorKind = ActorKind::Session;
    const NAME: &'static str = "session.list";
    const ALLOW: Allow = Allow::NODES;
    const IDEMPOTENT: bool = true;
    type Reply = SessionPage;
}

/// What a mode says of itself (§4.2, ModeDescriptor).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModeView {
    /// Its id.
    pub mode: String,
    /// Its version.
    pub mode_version: String,
    /// For people.
    pub title: String,
    /// For people.
    pub description: String,
    /// How far the same messages give the same outcome.
    pub determinism_class: String,
    /// How its participants relate.
    pub participant_model: String,
    /// All message types.
    pub message_types: Vec<String>,
    /// Those that end a session.
    pub terminal_message_types: Vec<String>,
    /// Where its schemas are, by kind.
    pub schema_uris: Vec<(String, String)>,
}

/// All modes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModesView {
    /// Those of the standard, then the promoted ones by name.
    pub standard: Vec<ModeView>,
    /// By name.
    pub extensions: Vec<ModeView>,
    /// Whether policies are read from files, and cannot be registered (§14).
    pub policies_fixed: bool,
}

/// Which modes there are (§12).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadModes {}

impl Message for ReadModes {
    const ID: MessageId = MessageId(405);
    const ACTOR: ActorKind = ActorKind::Session;
    const NAME: &'static str = "session.modes";
    const ALLOW: Allow = Allow::NODES;
    const IDEMPOTENT: bool = true;
    type Reply = ModesView;
}

/// A policy as registered (§4.3, PolicyDescriptor).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyView {
    /// Its id.
    pub policy_id: String,
    /// The mode it is for; `*`: all.
    pub mode: String,
    /// For people.
    pub description: String,
    /// JSON text, as given.
    pub rules: String,
    /// 1, 2 or 3.
    pub schema_version: u32,
}

/// Policies by id (§14).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadPolicies {
    /// Only those of this mode and of every mode; empty: all.
    pub mode: String,
    /// Only the one of this id; empty: all.
    pub policy_id: String,
}

impl Message for ReadPolicies {
    const ID: MessageId = MessageId(406);
    const ACTOR: ActorKind = ActorKind::Session;
    const NAME: &'static str = "session.policies";
    const ALLOW: Allow = Allow::NODES;
    const IDEMPOTENT: bool = true;
    type Reply = Vec<PolicyView>;
}

/// A change of modes or policies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CatalogueEdit {
    /// Adds an extension mode.
    RegisterMode(ModeView),
    /// Removes one.
    UnregisterMode {
        /// Its id.
        mode: String,
    },
    /// Makes an extension a standard mode.
    PromoteMode {
        /// Its id.
        mode: String,
        /// Its id from then on; empty: the same.
        name: String,
    },
    /// Adds a policy.
    RegisterPolicy(PolicyView),
    /// Removes one; sessions keep theirs.
    UnregisterPolicy {
        /// Its id.
        policy_id: String,
    },
}

/// Changes modes or policies (§12, §14). The answer: the mode's final name, empty for policies; or
/// the text for the client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EditCatalogue {
    /// The change.
    pub edit: CatalogueEdit,
}

impl Message for EditCatalogue {
    const ID: MessageId = MessageId(407);
    const ACTOR: ActorKind = ActorKind::Session;
    const NAME: &'static str = "session.catalogue-edit";
    const ALLOW: Allow = Allow::NODES;
    type Reply = Result<String, String>;
}

/// What would have become of a session under another policy (§15). The answer: an encoded
/// `macp.v1.WhatIfReplayResponse`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskWhatIf {
    /// The session.
    pub session_id: String,
    /// Who reads.
    pub reader: SessionReader,
    /// The other policy.
    pub candidate: PolicyView,
}

impl Message for AskWhatIf {
    const ID: MessageId = MessageId(408);
    const ACTOR: ActorKind = ActorKind::Session;
    const NAME: &'static str = "session.what-if";
    const ALLOW: Allow = Allow::NODES;
    const IDEMPOTENT: bool = true;
    type Reply = Result<Vec<u8>, SessionRefusal>;
}

/// The receipt of a session's decision, issued at the first request (§16).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssueReceipt {
    /// The session.
    pub session_id: String,
    /// Who reads.
    pub reader: SessionReader,
    /// Who issues it.
    pub issuer: String,
    /// Who signs it, if there is none yet.
    pub signer: ReceiptSigner,
}

/// Who signs a receipt: never the session's owner, which has no key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReceiptSigner {
    /// Nobody.
    Nobody,
    /// Whoever asks: it is told what to sign, and nothing is kept yet.
    Asks {
        /// Its key.
        kid: String,
    },
    /// It did.
    Signed {
        /// With this key.
        kid: String,
        /// The time that it was told, in milliseconds since the Unix epoch.
        issued_ms: i64,
        /// The signature of what it was told.
        signature: Vec<u8>,
    },
}

/// A receipt, or what is needed for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum IssuedReceipt {
    /// The document, the same from now on.
    Kept(String),
    /// There is none yet.
    ToSign {
        /// What is to be signed.
        input: String,
        /// The time in it, in milliseconds since the Unix epoch.
        issued_ms: i64,
    },
}

impl Message for IssueReceipt {
    const ID: MessageId = MessageId(409);
    const ACTOR: ActorKind = ActorKind::Session;
    const NAME: &'static str = "session.receipt";
    const ALLOW: Allow = Allow::NODES;
    const IDEMPOTENT: bool = true;
    type Reply = Result<IssuedReceipt, SessionRefusal>;
}

/// A Signal or Progress that another node took, for whoever watches them here (§11.1). Told, not
/// asked: nobody waits for it, and nothing keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelaySignal {
    /// The envelope.
    pub envelope: SessionEnvelope,
    /// Whether its sender proved who it is.
    pub is_authenticated: bool,
}

impl Message for RelaySignal {
    const ID: MessageId = MessageId(570);
    const ACTOR: ActorKind = ActorKind::Gateway;
    const NAME: &'static str = "gateway.signal";
    const ALLOW: Allow = Allow::NODES;
    type Reply = ();
}

/// The envelopes of one session in order, each once (§10).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowSession {
    /// The session.
    pub session_id: String,
    /// Who reads. One that may not read it gets nothing.
    pub reader: SessionReader,
    /// Those with an ordinal over this; `None`: those accepted from now on, also of a session that
    /// is yet to begin.
    pub after: Option<u64>,
    /// Whether to go on with what is accepted later.
    pub follow: bool,
}

/// What comes of [`FollowSession`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionItem {
    /// First: it has begun; whatever is accepted after this ordinal comes.
    Attached {
        /// The ordinal.
        ordinal: u64,
    },
    /// The next envelope.
    Envelope {
        /// Its place in the session.
        ordinal: u64,
        /// It.
        envelope: SessionEnvelope,
    },
    /// Last: it cannot be followed.
    Refused(SessionRefusal),
}

impl Message for FollowSession {
    const ID: MessageId = MessageId(410);
    const ACTOR: ActorKind = ActorKind::Session;
    const NAME: &'static str = "session.follow";
    const ALLOW: Allow = Allow::NODES;
    const IDEMPOTENT: bool = true;
    type Reply = ();
}

impl Subscription for FollowSession {
    type Item = SessionItem;
}

/// What happens to a session (§11).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SessionLifecycle {
    /// It began, or was there already.
    Created,
    /// It was committed.
    Resolved,
    /// Its time was over.
    Expired,
    /// It was suspended.
    Suspended,
    /// It goes on.
    Resumed,
    /// It was ended.
    Cancelled,
}

/// Something that happened to a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionEvent {
    /// First: whatever happens from now on comes.
    Attached,
    /// It happened.
    Happened {
        /// What.
        what: SessionLifecycle,
        /// The session after it.
        session: Box<SessionView>,
        /// When.
        at_ms: i64,
    },
    /// Last: the reader was too slow and missed some.
    Lagged,
}

/// All sessions that are there, then what happens to any.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowSessions {}

impl Message for FollowSessions {
    const ID: MessageId = MessageId(411);
    const ACTOR: ActorKind = ActorKind::Session;
    const NAME: &'static str = "session.follow-all";
    const ALLOW: Allow = Allow::NODES;
    const IDEMPOTENT: bool = true;
    type Reply = ();
}

impl Subscription for FollowSessions {
    type Item = SessionEvent;
}

/// What is in the catalogue after a change; the first one comes at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogueItem {
    /// Counts changes of modes.
    pub modes: u64,
    /// Counts changes of policies.
    pub policies: u64,
    /// All policies by id.
    pub all: Vec<PolicyView>,
}

/// How many sessions there are on this node, and what happened to those that it led.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadSessionFigures {}

/// What [`ReadSessionFigures`] finds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionFigures {
    /// What happened, by mode, since the daemon started, while this node led.
    pub happened: Vec<(String, SessionLifecycle, u64)>,
    /// Sessions in memory, by state.
    pub in_memory: Vec<(SessionState, u64)>,
    /// Ended sessions on disk.
    pub archived: u64,
    /// Ended sessions that this node lacks and its peers may have.
    pub missing: u64,
    /// Sessions in memory or the log of which this node's disk has lost something.
    pub damaged: u64,
}

impl Message for ReadSessionFigures {
    const ID: MessageId = MessageId(422);
    const ACTOR: ActorKind = ActorKind::Session;
    const NAME: &'static str = "session.figures";
    const ALLOW: Allow = Allow::NODES;
    const IDEMPOTENT: bool = true;
    type Reply = SessionFigures;
}

/// Most bytes of one [`ArchiveItem::Piece`].
pub const ARCHIVE_PIECE: usize = 256 << 10;

/// Ended sessions that have left a group's memory, by their places, as another node of the group
/// has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadArchive {
    /// The group.
    pub group: String,
    /// The first place, from 1.
    pub first: u64,
    /// The last place.
    pub last: u64,
}

/// What comes of [`ReadArchive`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ArchiveItem {
    /// The next bytes of a session.
    Piece {
        /// Its place; ascending.
        place: u64,
        /// At most [`ARCHIVE_PIECE`].
        bytes: Octets,
        /// No more of this one comes.
        is_last: bool,
    },
    /// Last.
    Done {
        /// The node lacks none of them itself.
        is_whole: bool,
    },
}

impl Message for ReadArchive {
    const ID: MessageId = MessageId(421);
    const ACTOR: ActorKind = ActorKind::Session;
    const NAME: &'static str = "session.read-archive";
    const CLASS: Class = Class::Bulk;
    const ALLOW: Allow = Allow::NODES;
    const IDEMPOTENT: bool = true;
    type Reply = ();
}

impl Subscription for ReadArchive {
    type Item = ArchiveItem;
}

/// Changes of modes and policies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowCatalogue {}

impl Message for FollowCatalogue {
    const ID: MessageId = MessageId(412);
    const ACTOR: ActorKind = ActorKind::Session;
    const NAME: &'static str = "session.follow-catalogue";
    const ALLOW: Allow = Allow::NODES;
    const IDEMPOTENT: bool = true;
    type Reply = ();
}

impl Subscription for FollowCatalogue {
    type Item = CatalogueItem;
}
