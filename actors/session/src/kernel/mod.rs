//! The kernel: everything that decides, nothing that reads a clock, a file or a socket.
//!
//! ```text
//! envelope ─► shape, rights, rates ─► Speculation ─► Entry ─► agreed ─► Sessions::apply ─► effects
//!             (envelope, limits)      checks, stamps                    every replica
//! ```

mod catalogue;
mod envelope;
mod limits;
mod modes;
mod policy;
mod receipt;
mod reference;
mod refusal;
#[cfg(test)]
mod rig;
mod session;
mod sessions;
mod slots;
mod speculation;
mod stored;
mod what_if;

use serde::{Deserialize, Serialize};

pub use catalogue::{Catalogue, CatalogueChange, CatalogueError, Descriptor, MODES, Standing};
pub use envelope::{Audience, Envelope, PAYLOAD_MAX, Rights, ambient, shape, valid_session_id};
pub use limits::{Limits, MESSAGES_PER_MINUTE, STARTS_PER_MINUTE};
pub use modes::ModeKind;
pub use policy::Policy;
pub use receipt::{Receipt, ReceiptError, commitment_hash};
pub use reference::{ImportError, Imported, ReferenceFiles, ReferenceLog};
pub use refusal::{Code, Denial, DenialCode, Refusal, Surface};
pub use session::{Lifecycle, Message, Record, Session, SessionState, Stamp, StartRights};
pub use sessions::{Effect, Effects, Progress, Sessions};
pub use slots::{GROUPS_MAX, SLOTS, SlotMap, id_hash, slot};
pub use speculation::{Admission, Known, Speculation};
pub use stored::{Entry, FORMAT, FormatError, decode_entry, encode_entry, entry_about};
pub use what_if::what_if;

/// A time in milliseconds since the Unix epoch, or a span in milliseconds.
pub type Millis = i64;

/// Revision of the rules in here, stamped into each session. Raised when the same log would make
/// another state; the old rules then stay for sessions that began under them.
pub const SEMANTICS: u32 = 1;

/// What an Ack says of an accepted request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// Whether it was accepted before, and nothing is done now.
    pub duplicate: bool,
    /// Where the session stands now.
    pub state: SessionState,
}

/// Accepted or not.
pub type Answer = Result<Accepted, Refusal>;
