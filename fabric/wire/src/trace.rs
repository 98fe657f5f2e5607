//! Trace context, as W3C Trace Context numbers it.

use serde::{Deserialize, Serialize};

/// Identifies a request across nodes. All zero means "no trace".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TraceContext {
    /// 16 bytes that name the whole trace.
    pub trace: u128,
    /// 8 bytes that name the sender's span.
    pub span: u64,
}

impl TraceContext {
    /// Whether there is a trace at all.
    pub const fn is_some(&self) -> bool {
        self.trace != 0
    }
}

impl std::fmt::Display for TraceContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.trace)
    }
}
