//! Who is there, and what all agree on (design §6): membership by SWIM, consensus by Raft.
//!
//! Knows nothing of what is agreed about. Only `consensus::engine` names openraft, only
//! `membership::swim` names foca.
#![forbid(unsafe_code)]

pub mod consensus;
pub mod door;
pub mod membership;

pub use consensus::{
    Consensus, ConsensusConfig, ConsensusError, Group, GroupStatus, Image, Machine, MachineError,
    ProposeError, Proposed, Role, Timing,
};
pub use door::Door;
pub use membership::{
    Liveness, Member, Members, Membership, MembershipConfig, MembershipError, Profile,
};
