//! The rules of a policy: which keys there are, what they may hold, and the values that are in
//! force (§14).

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Who may commit (§8.2).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Authority {
    /// The initiator.
    #[default]
    Initiator,
    /// The initiator or any participant.
    Participants,
    /// Exactly these.
    Designated(Vec<String>),
}

/// How votes are counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Algorithm {
    #[default]
    None,
    Majority,
    Supermajority,
    Unanimous,
    Weighted,
    Plurality,
}

/// How many must have voted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Quorum {
    Count(f64),
    Percentage(f64),
}

/// What enough critical objections do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum ObjectionAction {
    #[default]
    Deny,
    FinalizeDecline,
    Hold,
}

/// When a proposal counts as agreed (§13.2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Criterion {
    #[default]
    AllParties,
    Counterparty,
    Initiator,
}

/// How many approvals a quorum session needs (§13.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Threshold {
    /// So many.
    Count(u64),
    /// So many of a hundred participants, rounded up.
    Percentage(u64),
    /// A type that this build does not know.
    Unknown,
}

/// All rules with their defaults; a mode reads its own.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rules {
    pub(crate) algorithm: Algorithm,
    pub(crate) threshold: f64,
    pub(crate) quorum: Quorum,
    pub(crate) weights: BTreeMap<String, f64>,
    pub(crate) vetoes: bool,
    pub(crate) veto_threshold: u64,
    pub(crate) objection_action: ObjectionAction,
    pub(crate) evaluation_required: bool,
    pub(crate) minimum_confidence: f64,
    pub(crate) require_vote_quorum: bool,
    pub(crate) allow_decline_over_approval: bool,
    pub(crate) authority: Authority,
    pub(crate) criterion: Criterion,
    pub(crate) max_rounds: u64,
    pub(crate) terminal_on_any_reject: bool,
    pub(crate) allow_reassignment: bool,
    pub(crate) require_output: bool,
    pub(crate) implicit_accept_ms: u64,
    pub(crate) approvals: Option<Threshold>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            algorithm: Algorithm::None,
            threshold: 0.5,
            quorum: Quorum::Count(0.0),
            weights: BTreeMap::new(),
            vetoes: false,
            veto_threshold: 1,
            objection_action: ObjectionAction::Deny,
            evaluation_required: false,
            minimum_confidence: 0.0,
            require_vote_quorum: false,
            allow_decline_over_approval: false,
            authority: Authority::Initiator,
            criterion: Criterion::AllParties,
            max_rounds: 0,
            terminal_on_any_reject: false,
            allow_reassignment: false,
            require_output: false,
            implicit_accept_ms: 0,
            approvals: None,
        }
    }
}

/// The mode's part of its id and the keys that it has beside the `commitment` ones all share.
const KEYS: &[(&str, &[&str])] = &[
    (
        "decision",
        &[
            "voting.algorithm",
            "voting.threshold",
            "voting.quorum.type",
            "voting.quorum.value",
            "voting.weights",
            "objection_handling.critical_severity_vetoes",
            "objection_handling.veto_threshold",
            "objection_handling.critical_objection_action",
            "evaluation.required_before_voting",
            "evaluation.minimum_confidence",
            "commitment.require_vote_quorum",
            "commitment.allow_decline_over_approval",
        ],
    ),
    (
        "proposal",
        &[
            "acceptance.criterion",
            "counter_proposal.max_rounds",
            "rejection.terminal_on_any_reject",
        ],
    ),
    ("task", &["assignment.allow_reassignment_on_reject", "completion.require_output"]),
    ("handoff", &["acceptance.implicit_accept_timeout_ms"]),
    (
        "quorum",
        &[
            "threshold.type",
            "threshold.value",
            "abstention.counts_toward_quorum",
            "abstention.interpretation",
        ],
    ),
];
const COMMON: [&str; 2] = ["commitment.authority", "commitment.designated_roles"];

/// Checks rules for a mode: no key that is not defined, no value outside its domain. Policies of
/// extension modes may hold anything.
pub(super) fn check(mode: &str, rules: &Value) -> Result<(), String> {
    let name = mode.strip_prefix("macp.mode.").and_then(|rest| rest.strip_suffix(".v1"));
    let mut keys: Vec<&str> = KEYS
        .iter()
        .filter(|(of, _)| mode == "*" || name == Some(of))
        .flat_map(|(_, keys)| keys.iter().copied())
        .collect();
    if keys.is_empty() {
        return Ok(());
    }
    keys.extend(COMMON);
    closed("", rules, &keys)?;
    let read = Rules::read(rules)?;
    if read.approvals == Some(Threshold::Unknown) {
        return Err("threshold.type: expected n_of_m, percentage or count".into());
    }
    Ok(())
}

/// Refuses keys that are not defined. `path` ends in a dot unless it is empty.
fn closed(path: &str, value: &Value, keys: &[&str]) -> Result<(), String> {
    let object = value
        .as_object()
        .ok_or_else(|| format!("{}: expected an object", path.trim_end_matches('.')))?;
    for (key, value) in object {
        if key.starts_with(['_', '$']) {
            continue;
        }
        let here = format!("{path}{key}");
        let beneath = format!("{here}.");
        if keys.contains(&here.as_str()) {
            continue;
        }
        if !keys.iter().any(|known| known.starts_with(&beneath)) {
            return Err(format!("{here}: there is no such rule for this mode"));
        }
        closed(&beneath, value, keys)?;
    }
    Ok(())
}

/// One object of the rules.
struct Section<'a> {
    path: &'static str,
    object: Option<&'a Map<String, Value>>,
}

impl<'a> Section<'a> {
    fn of(rules: &'a Value, path: &'static str) -> Result<Self, String> {
        let mut value = Some(rules);
        for key in path.split('.') {
            value = value.and_then(|value| value.get(key));
        }
        let object = value
            .map(|value| value.as_object().ok_or_else(|| format!("{path}: expected an object")))
            .transpose()?;
        Ok(Self { path, object })
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.and_then(|object| object.get(key))
    }

    fn wrong(&self, key: &str, expected: &str) -> String {
        format!("{}.{key}: expected {expected}", self.path)
    }

    fn flag(&self, key: &str) -> Result<bool, String> {
        self.get(key)
            .map_or(Ok(false), |v| v.as_bool().ok_or_else(|| self.wrong(key, "true or false")))
    }

    fn number(
        &self,
        key: &str,
        default: f64,
        expected: &str,
        domain: impl Fn(f64) -> bool,
    ) -> Result<f64, String> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_f64().filter(|n| domain(*n)).ok_or_else(|| self.wrong(key, expected))
    }

    /// A whole number of at least `least`; `2.0` is one.
    fn whole(&self, key: &str, least: u64) -> Result<Option<u64>, String> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value
            .as_u64()
            .or_else(|| {
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                value
                    .as_f64()
                    .filter(|n| n.fract() == 0.0 && (0.0..9e15).contains(n))
                    .map(|n| n as u64)
            })
            .filter(|n| *n >= least)
            .map(Some)
            .ok_or_else(|| self.wrong(key, &format!("a whole number of at least {least}")))
    }

    fn choice<T: Copy>(&self, key: &str, default: T, choices: &[(&str, T)]) -> Result<T, String> {
        let Some(value) = self.get(key) else { return Ok(default) };
        choices
            .iter()
            .find(|(name, _)| value.as_str() == Some(name))
            .map(|(_, choice)| *choice)
            .ok_or_else(|| {
                let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
                self.wrong(key, &format!("one of {}", names.join(", ")))
            })
    }
}

impl Rules {
    /// Reads the values that any mode knows; keys that no mode knows are not looked at.
    pub(super) fn read(rules: &Value) -> Result<Self, String> {
        let voting = Section::of(rules, "voting")?;
        let quorum = Section::of(rules, "voting.quorum")?;
        let objections = Section::of(rules, "objection_handling")?;
        let evaluation = Section::of(rules, "evaluation")?;
        let commitment = Section::of(rules, "commitment")?;
        let acceptance = Section::of(rules, "acceptance")?;
        let algorithm = voting.choice(
            "algorithm",
            Algorithm::None,
            &[
                ("none", Algorithm::None),
                ("majority", Algorithm::Majority),
                ("supermajority", Algorithm::Supermajority),
                ("unanimous", Algorithm::Unanimous),
                ("weighted", Algorithm::Weighted),
                ("plurality", Algorithm::Plurality),
            ],
        )?;
        let threshold = match algorithm {
            Algorithm::Majority => {
                voting.number("threshold", 0.5, "0.5 to 1", |n| (0.5..=1.0).contains(&n))?
            }
            // It must say how many; half of them would be a majority.
            Algorithm::Supermajority if voting.get("threshold").is_none() => {
                return Err(voting.wrong("threshold", "over 0.5 and up to 1"));
            }
            Algorithm::Supermajority => {
                voting.number("threshold", 0.5, "over 0.5 and up to 1", |n| n > 0.5 && n <= 1.0)?
            }
            _ => voting.number("threshold", 0.5, "over 0 and up to 1", |n| n > 0.0 && n <= 1.0)?,
        };
        let value = quorum.number("value", 0.0, "at least 0", |n| n >= 0.0)?;
        let percentage = quorum.choice("type", false, &[("count", false), ("percentage", true)])?;
        Ok(Self {
            algorithm,
            threshold,
            quorum: if percentage { Quorum::Percentage(value) } else { Quorum::Count(value) },
            weights: weights(&voting, algorithm)?,
            vetoes: objections.flag("critical_severity_vetoes")?,
            veto_threshold: objections.whole("veto_threshold", 1)?.unwrap_or(1),
            objection_action: objections.choice(
                "critical_objection_action",
                ObjectionAction::Deny,
                &[
                    ("deny", ObjectionAction::Deny),
                    ("finalize_decline", ObjectionAction::FinalizeDecline),
                    ("hold", ObjectionAction::Hold),
                ],
            )?,
            evaluation_required: evaluation.flag("required_before_voting")?,
            minimum_confidence: evaluation
                .number("minimum_confidence", 0.0, "0 to 1", |n| (0.0..=1.0).contains(&n))?,
            require_vote_quorum: commitment.flag("require_vote_quorum")?,
            allow_decline_over_approval: commitment.flag("allow_decline_over_approval")?,
            authority: authority(&commitment)?,
            criterion: acceptance.choice(
                "criterion",
                Criterion::AllParties,
                &[
                    ("all_parties", Criterion::AllParties),
                    ("counterparty", Criterion::Counterparty),
                    ("initiator", Criterion::Initiator),
                ],
            )?,
            max_rounds: Section::of(rules, "counter_proposal")?
                .whole("max_rounds", 0)?
                .unwrap_or(0),
            terminal_on_any_reject: Section::of(rules, "rejection")?
                .flag("terminal_on_any_reject")?,
            allow_reassignment: Section::of(rules, "assignment")?
                .flag("allow_reassignment_on_reject")?,
            require_output: Section::of(rules, "completion")?.flag("require_output")?,
            implicit_accept_ms: acceptance.whole("implicit_accept_timeout_ms", 0)?.unwrap_or(0),
            approvals: approvals(rules)?,
        })
    }
}

fn weights(voting: &Section<'_>, algorithm: Algorithm) -> Result<BTreeMap<String, f64>, String> {
    let expected = "participants with numbers over 0, at least one";
    let Some(value) = voting.get("weights") else {
        return match algorithm {
            Algorithm::Weighted => Err("voting.weights: required by algorithm weighted".into()),
            _ => Ok(BTreeMap::new()),
        };
    };
    let wrong = || voting.wrong("weights", expected);
    let object = value.as_object().filter(|object| !object.is_empty()).ok_or_else(wrong)?;
    object
        .iter()
        .map(|(id, weight)| {
            let weight = weight.as_f64().filter(|w| *w > 0.0).ok_or_else(wrong)?;
            Ok((id.clone(), weight))
        })
        .collect()
}

fn authority(commitment: &Section<'_>) -> Result<Authority, String> {
    let expected = "a list of participants";
    let wrong = || commitment.wrong("designated_roles", expected);
    let roles = match commitment.get("designated_roles") {
        None => Vec::new(),
        Some(value) => value
            .as_array()
            .ok_or_else(wrong)?
            .iter()
            .map(|role| role.as_str().map(str::to_owned).ok_or_else(wrong))
            .collect::<Result<_, _>>()?,
    };
    let kind = commitment.choice(
        "authority",
        0,
        &[("initiator_only", 0), ("any_participant", 1), ("designated_role", 2)],
    )?;
    match kind {
        2 if roles.is_empty() => {
            Err("commitment.designated_roles: designated_role needs at least one".into())
        }
        2 => Ok(Authority::Designated(roles)),
        1 => Ok(Authority::Participants),
        _ => Ok(Authority::Initiator),
    }
}

fn approvals(rules: &Value) -> Result<Option<Threshold>, String> {
    let threshold = Section::of(rules, "threshold")?;
    let abstention = Section::of(rules, "abstention")?;
    abstention.flag("counts_toward_quorum")?;
    abstention.choice(
        "interpretation",
        (),
        &[("neutral", ()), ("implicit_reject", ()), ("ignored", ())],
    )?;
    let kind = match threshold.get("type") {
        None => "n_of_m",
        Some(value) => {
            value.as_str().ok_or_else(|| threshold.wrong("type", "n_of_m or percentage"))?
        }
    };
    let value = threshold.whole("value", 1)?;
    Ok(match (kind, value) {
        ("n_of_m" | "count", value) => value.map(Threshold::Count),
        ("percentage", Some(value)) if value > 100 => {
            return Err("threshold.value: expected at most 100 for percentage".into());
        }
        ("percentage", value) => value.map(Threshold::Percentage),
        _ => Some(Threshold::Unknown),
    })
}
