//! What a node's interface drops, as a classic BPF program for `tc filter … bpf da bytecode`.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// What is dropped of what arrives at one node; ARP always passes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Filter {
    /// Packets from these.
    pub(super) from: BTreeSet<Ipv4Addr>,
    /// UDP packets to these ports.
    pub(super) refused: BTreeSet<u16>,
    /// So many of 100.
    pub(super) loss: u8,
}

/// Where a comparison goes on.
#[derive(Clone, Copy)]
enum To {
    Next,
    Pass,
    Drop,
}

/// One instruction; `k` is its operand.
struct Line {
    code: u16,
    yes: To,
    no: To,
    k: u32,
}

// linux/filter.h: class, size and mode of each instruction used.
const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const LOAD_HALF_AT_X: u16 = 0x48;
const LOAD_IP_LENGTH_TO_X: u16 = 0xb1;
const EQUAL: u16 = 0x15;
const AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;

// Offsets from the Ethernet header.
const ETHERTYPE: u32 = 12;
const IP: u32 = 14;
const IP_PROTOCOL: u32 = IP + 9;
const IP_SOURCE: u32 = IP + 12;
/// A random word: `SKF_AD_OFF + SKF_AD_RANDOM`.
const RANDOM: u32 = 0xffff_f000 + 56;

/// `TC_ACT_UNSPEC`: on to whatever comes after.
const PASS: u32 = u32::MAX;
/// `TC_ACT_SHOT`.
const SHOT: u32 = 2;

const IPV4: u32 = 0x0800;
const UDP: u32 = 17;

impl Filter {
    /// The program, as `tc` reads it: the number of instructions, then each one.
    pub(super) fn program(&self) -> String {
        let load = |code, k| Line { code, yes: To::Next, no: To::Next, k };
        let is = |k, yes, no| Line { code: EQUAL, yes, no, k };
        let mut lines = vec![load(LOAD_HALF, ETHERTYPE), is(IPV4, To::Next, To::Pass)];
        if !self.from.is_empty() {
            lines.push(load(LOAD_WORD, IP_SOURCE));
            lines.extend(self.from.iter().map(|a| is(a.to_bits(), To::Drop, To::Next)));
        }
        if self.loss > 0 {
            let below = u64::from(self.loss) * (1 << 32) / 100;
            lines.push(load(LOAD_WORD, RANDOM));
            let k = u32::try_from(below).unwrap_or(u32::MAX);
            lines.push(Line { code: AT_LEAST, yes: To::Next, no: To::Drop, k });
        }
        if !self.refused.is_empty() {
            lines.push(load(LOAD_BYTE, IP_PROTOCOL));
            lines.push(is(UDP, To::Next, To::Pass));
            lines.push(load(LOAD_IP_LENGTH_TO_X, IP));
            lines.push(load(LOAD_HALF_AT_X, IP + 2));
            lines.extend(self.refused.iter().map(|p| is(u32::from(*p), To::Drop, To::Next)));
        }
        let pass = lines.len();
        let mut text = format!("{}", pass + 2);
        for (at, line) in lines.iter().enumerate() {
            let skip = |to: To| match to {
                To::Next => 0,
                To::Pass => pass - at - 1,
                To::Drop => pass - at,
            };
            let (yes, no) = (skip(line.yes), skip(line.no));
            assert!(yes.max(no) < 256, "a jump is a byte: fewer nodes or ports");
            text.push_str(&format!(",{} {yes} {no} {}", line.code, line.k));
        }
        text.push_str(&format!(",{RETURN} 0 0 {PASS},{RETURN} 0 0 {SHOT}"));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_of_nothing_passes_everything() {
        let text = Filter::default().program();
        assert_eq!(text, "4,40 0 0 12,21 0 0 2048,6 0 0 4294967295,6 0 0 2");
    }

    #[test]
    fn jumps_lead_to_the_last_two_lines() {
        let filter = Filter {
            from: BTreeSet::from([Ipv4Addr::new(10, 77, 0, 2)]),
            refused: BTreeSet::from([7443]),
            loss: 20,
        };
        assert_eq!(
            filter.program(),
            "13,40 0 0 12,21 0 9 2048,32 0 0 26,21 8 0 172818434,32 0 0 4294963256,\
             53 0 6 858993459,48 0 0 23,21 0 3 17,177 0 0 14,72 0 0 16,21 1 0 7443,\
             6 0 0 4294967295,6 0 0 2"
        );
    }
}
