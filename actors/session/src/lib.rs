//! MACP sessions: the kernel, which is pure.
//!
//! A session is a deterministic state machine fed by a log of records. The leader of a group checks
//! what comes in ([`Speculation`]), stamps time, deadline and policy into an [`Entry`] and has it
//! agreed; every replica applies it ([`Sessions::apply`]) and so holds the same state. Nothing here
//! reads a clock, opens a file or draws a random number; times are arguments, in milliseconds.
//!
//! What clients may rely on is `spec/macp-sessions.md`; comments name its sections as "§7".
#![forbid(unsafe_code)]

mod kernel;

pub use kernel::{
    Accepted, Admission, Answer, Audience, Catalogue, CatalogueChange, CatalogueError, Code,
    Denial, DenialCode, Descriptor, Effect, Effects, Entry, Envelope, FORMAT, FormatError,
    GROUPS_MAX, ImportError, Imported, Known, Lifecycle, Limits, MESSAGES_PER_MINUTE, MODES,
    Message, Millis, ModeKind, PAYLOAD_MAX, Policy, Progress, Receipt, ReceiptError, Record,
    ReferenceFiles, ReferenceLog, Refusal, Rights, SEMANTICS, SLOTS, STARTS_PER_MINUTE, Session,
    SessionState, Sessions, SlotMap, Speculation, Stamp, Standing, StartRights, Surface, ambient,
    commitment_hash, decode_entry, encode_entry, entry_about, id_hash, shape, slot,
    valid_session_id, what_if,
};
