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

    /// From the text of a `traceparent` header: a version, the trace, the sender's span and flags,
    /// lower-case hexadecimal between dashes. `None`: it is not of that form, or all zero, and so
    /// to be ignored (W3C Trace Context §3.2). Versions to come may say more after the flags.
    pub fn of_traceparent(text: &str) -> Option<Self> {
        let mut parts = text.trim().split('-');
        let (version, trace, span) = (parts.next()?, parts.next()?, parts.next()?);
        let (flags, more) = (parts.next()?, parts.next());
        let is_hex = |text: &str, digits: usize| {
            let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            text.len() == digits && text.bytes().all(digit)
        };
        let is_formed = is_hex(version, 2)
            && version != "ff"
            && (more.is_none() || version != "00")
            && is_hex(trace, 32)
            && is_hex(span, 16)
            && is_hex(flags, 2);
        let (trace, span) =
            (u128::from_str_radix(trace, 16).ok()?, u64::from_str_radix(span, 16).ok()?);
        (is_formed && trace != 0 && span != 0).then_some(Self { trace, span })
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

    #[test]
    fn a_traceparent_is_read_as_its_specification_says() {
        let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        let read = TraceContext::of_traceparent;
        let good = read(&format!("00-{trace}-{span}-01")).expect("the specification's example");
        assert_eq!((good.to_string().as_str(), good.span), (trace, 0xb7ad_6b71_6920_3331));
        assert_eq!(
            read(&format!("cc-{trace}-{span}-01-what-comes")),
            Some(good),
            "a later version"
        );
        for bad in [
            String::new(),
            "00".to_owned(),
            format!("00-{trace}-{span}"),
            format!("00-{trace}-{span}-01-more"),
            format!("ff-{trace}-{span}-01"),
            format!("00-{}-{span}-01", trace.to_uppercase()),
            format!("00-{}-{span}-01", "0".repeat(32)),
            format!("00-{trace}-{}-01", "0".repeat(16)),
            format!("00-+{}-{span}-01", &trace[1..]),
            format!("00-{trace}-{span}-1"),
        ] {
            assert_eq!(read(&bad), None, "{bad}");
        }
    }
}
