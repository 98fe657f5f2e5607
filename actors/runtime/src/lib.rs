//! Components of this node.
#![forbid(unsafe_code)]

mod disk;
mod process;
pub mod shim;
