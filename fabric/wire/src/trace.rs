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
    /// The beginning of a trace, at the entry of a request. `random`: a fresh UUID of version 4,
    /// whose bits name the trace and, its lower half, the first span; neither is ever zero.
    pub const fn begin(random: uuid::Uuid) -> Self {
        let (_, span) = random.as_u64_pair();
        Self { trace: random.as_u128(), span }
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_begins_with_a_name_and_a_span_and_shows_as_32_hex_digits() {
        let random = uuid::Uuid::from_u128(0x0123_4567_89ab_4def_8123_4567_89ab_cdef);
        let trace = TraceContext::begin(random);
        assert!(trace.is_some() && trace.span == 0x8123_4567_89ab_cdef);
        assert_eq!(trace.to_string(), "0123456789ab4def8123456789abcdef");
        assert!(!TraceContext::default().is_some());
    }
}
