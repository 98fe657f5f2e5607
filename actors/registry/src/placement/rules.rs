//! Label expressions and tiers: what `[placement]` and `tier` ask of a node (orchestration §3.1).

use weft_protocol::Tier;

use super::NodeFacts;

/// One parsed expression: `ssd`, `zone=a` or `arch!=arm64`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expr {
    key: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    Has,
    Is(String),
    IsNot(String),
}

impl Expr {
    /// Reads what the definition file's parser lets through; `None` for anything else.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let word = |part: &str| {
            let fits = |b: u8| b.is_ascii_alphanumeric() || b"._-/".contains(&b);
            (!part.is_empty() && part.bytes().all(fits)).then(|| part.to_owned())
        };
        let (key, test) = if let Some((key, value)) = text.split_once("!=") {
            (key, Test::IsNot(word(value)?))
        } else if let Some((key, value)) = text.split_once('=') {
            (key, Test::Is(word(value)?))
        } else {
            (text, Test::Has)
        };
        Some(Self { key: word(key)?, test })
    }

    /// Whether it holds for the node. `name` and `zone` are also the node's own fields; a key the
    /// node does not have is unlike every value.
    pub(super) fn holds(&self, node: &NodeFacts) -> bool {
        let mut values = values(node, &self.key);
        match &self.test {
            Test::Has => values.next().is_some(),
            Test::Is(wanted) => values.any(|value| value == Some(wanted)),
            Test::IsNot(unwanted) => values.all(|value| value != Some(unwanted)),
        }
    }

    /// What the node has instead, for people: `zone=b`, `no ssd`.
    pub(super) fn instead(&self, node: &NodeFacts) -> String {
        match values(node, &self.key).next() {
            None => format!("no {}", self.key),
            Some(None) => self.key.clone(),
            Some(Some(value)) => format!("{}={value}", self.key),
        }
    }
}

impl std::fmt::Display for Expr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.key)?;
        match &self.test {
            Test::Has => Ok(()),
            Test::Is(value) => write!(f, "={value}"),
            Test::IsNot(value) => write!(f, "!={value}"),
        }
    }
}

/// The values a node has for a key; `None` for a label without one.
fn values<'a>(node: &'a NodeFacts, key: &'a str) -> impl Iterator<Item = Option<&'a str>> {
    let own = match key {
        "name" => Some(node.name.as_str()),
        "zone" if !node.zone.is_empty() => Some(node.zone.as_str()),
        _ => None,
    };
    let labels = node.labels.iter().filter_map(move |label| match label.split_once('=') {
        Some((name, value)) => (name == key).then_some(Some(value)),
        None => (label == key).then_some(None),
    });
    own.map(Some).into_iter().chain(labels)
}

/// Whether the node takes services of the tier: its `tier=` labels name it, or there are none.
pub(super) fn takes(node: &NodeFacts, tier: Tier) -> bool {
    let name = tier_name(tier);
    let mut tiers = node.labels.iter().filter_map(|label| label.strip_prefix("tier=")).peekable();
    tiers.peek().is_none() || tiers.any(|tier| tier == name)
}

/// The tier as definition files write it.
pub(super) const fn tier_name(tier: Tier) -> &'static str {
    match tier {
        Tier::Core => "core",
        Tier::Worker => "worker",
    }
}
