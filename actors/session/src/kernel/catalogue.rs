//! Which modes and policies there are (§12, §14): replicated, so that a restart forgets none and
//! every node offers the same.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use weft_wire::codec;

use super::policy::{DEFAULT, STANDARD};
use super::stored::{self, FormatError};
use super::{GROUPS_MAX, ModeKind, Policy, SlotMap};

/// The modes of the standard, in the order in which they are listed.
pub const MODES: [&str; 5] = [
    "macp.mode.decision.v1",
    "macp.mode.proposal.v1",
    "macp.mode.task.v1",
    "macp.mode.handoff.v1",
    "macp.mode.quorum.v1",
];
/// The extension that is always there.
const MULTI_ROUND: &str = "ext.multi_round.v1";
/// Ids beneath this belong to the standard.
const RESERVED: &str = "macp.mode.";
/// The one type that ends a session.
const COMMITMENT: &str = "Commitment";

/// What a mode says of itself (§4.2).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    /// Its id.
    pub mode: String,
    /// Its version, which sessions are bound to.
    pub mode_version: String,
    /// For people.
    pub title: String,
    /// For people.
    pub description: String,
    /// How far the same messages give the same outcome.
    pub determinism_class: String,
    /// How its participants relate.
    pub participant_model: String,
    /// All message types.
    pub message_types: Vec<String>,
    /// Those that end a session.
    pub terminal_message_types: Vec<String>,
    /// Where its schemas are.
    pub schema_uris: BTreeMap<String, String>,
}

impl From<weft_macp::macp::v1::ModeDescriptor> for Descriptor {
    fn from(d: weft_macp::macp::v1::ModeDescriptor) -> Self {
        Self {
            mode: d.mode,
            mode_version: d.mode_version,
            title: d.title,
            description: d.description,
            determinism_class: d.determinism_class,
            participant_model: d.participant_model,
            message_types: d.message_types,
            terminal_message_types: d.terminal_message_types,
            schema_uris: d.schema_uris.into_iter().collect(),
        }
    }
}

impl From<Descriptor> for weft_macp::macp::v1::ModeDescriptor {
    fn from(d: Descriptor) -> Self {
        Self {
            mode: d.mode,
            mode_version: d.mode_version,
            title: d.title,
            description: d.description,
            determinism_class: d.determinism_class,
            participant_model: d.participant_model,
            message_types: d.message_types,
            terminal_message_types: d.terminal_message_types,
            schema_uris: d.schema_uris.into_iter().collect(),
        }
    }
}

impl From<weft_macp::macp::v1::PolicyDescriptor> for Policy {
    fn from(p: weft_macp::macp::v1::PolicyDescriptor) -> Self {
        Self {
            policy_id: p.policy_id,
            mode: p.mode,
            description: p.description,
            rules: p.rules,
            schema_version: p.schema_version,
        }
    }
}

impl From<Policy> for weft_macp::macp::v1::PolicyDescriptor {
    fn from(p: Policy) -> Self {
        Self {
            policy_id: p.policy_id,
            mode: p.mode,
            description: p.description,
            rules: p.rules,
            schema_version: p.schema_version,
            registered_at_unix_ms: 0,
        }
    }
}

/// How a mode came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// One of the five.
    Standard,
    /// An extension that is always there.
    BuiltIn,
    /// Registered while running.
    Extension,
    /// An extension that counts as a standard mode now.
    Promoted,
}

/// A mode that is registered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ModeEntry {
    pub(crate) descriptor: Descriptor,
    pub(crate) kind: ModeKind,
    pub(crate) standing: Standing,
}

impl ModeEntry {
    /// Whether its starts follow the canonical contract (§7 step 4).
    pub(crate) fn is_canonical(&self) -> bool {
        self.standing != Standing::Extension
    }
}

/// A change of modes or policies, or of what shares sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CatalogueChange {
    /// Adds an extension mode.
    RegisterMode(Descriptor),
    /// Removes one.
    UnregisterMode {
        /// Its id.
        mode: String,
    },
    /// Makes an extension a standard mode.
    PromoteMode {
        /// Its id.
        mode: String,
        /// Its id from then on; empty: the same.
        name: String,
    },
    /// Adds a policy.
    RegisterPolicy(Policy),
    /// Removes one; sessions keep theirs.
    UnregisterPolicy {
        /// Its id.
        policy_id: String,
    },
    /// So many groups share the sessions that begin from now on.
    RaiseGroups {
        /// Not fewer than now, at most [`GROUPS_MAX`].
        count: u8,
    },
}

/// Why modes and policies stay as they are; its text is what clients get in `error` (§12, §14).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum CatalogueError {
    /// The definition of a mode is wrong, or the mode is not one that can be changed so.
    #[error("{0}")]
    Mode(String),
    /// The definition of a policy is wrong.
    #[error("INVALID_POLICY_DEFINITION: {0}")]
    Policy(String),
    /// There is such a policy.
    #[error("policy `{0}` is registered already")]
    PolicyExists(String),
    /// There is no such policy, or it is built in.
    #[error("policy `{0}` is {1}")]
    PolicyFixed(String, String),
    /// No policy can be changed.
    #[error("REGISTRY_READ_ONLY: policies are read from files, and only those change them")]
    ReadOnly,
    /// That number of groups cannot be had.
    #[error("{0}")]
    Groups(String),
}

/// All modes and policies, and the map of slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalogue {
    modes: BTreeMap<String, ModeEntry>,
    policies: BTreeMap<String, Policy>,
    slots: SlotMap,
    /// Those of this node's files, with the built-in ones, in place of `policies`. What is agreed on
    /// and stored is without them.
    fixed: Option<BTreeMap<String, Policy>>,
}

#[derive(Serialize, Deserialize)]
struct Version1 {
    modes: Vec<ModeEntry>,
    policies: Vec<Policy>,
    slots: SlotMap,
}

impl Default for Catalogue {
    fn default() -> Self {
        let mut catalogue = Self {
            modes: BTreeMap::new(),
            policies: BTreeMap::new(),
            slots: SlotMap::default(),
            fixed: None,
        };
        catalogue.fill();
        let entry = ModeEntry {
            descriptor: descriptor(MULTI_ROUND, "semantic-deterministic", "peer", &["Contribute"]),
            kind: ModeKind::MultiRound,
            standing: Standing::BuiltIn,
        };
        catalogue.modes.insert(MULTI_ROUND.into(), entry);
        catalogue
    }
}

impl Catalogue {
    /// Adds what is always there, if it is not.
    fn fill(&mut self) {
        for (mode, kind, class, model, types) in STANDARD_MODES {
            self.modes.entry(mode.into()).or_insert_with(|| ModeEntry {
                descriptor: descriptor(mode, class, model, types),
                kind,
                standing: Standing::Standard,
            });
        }
        for policy in Policy::built_in() {
            self.policies.entry(policy.policy_id.clone()).or_insert(policy);
        }
    }

    /// Policies are the built-in ones and those of [`Catalogue::fix_policy`] from now on (§14, file
    /// loading); no change of policies is possible.
    pub fn fix_policies(&mut self) {
        let built_in = Policy::built_in().into_iter();
        let built_in = built_in.map(|policy| (policy.policy_id.clone(), policy));
        self.fixed.get_or_insert_with(|| built_in.collect());
    }

    /// Adds a policy of a file.
    ///
    /// # Errors
    /// [`CatalogueError`] if it is wrong in itself, or there is one of its id.
    pub fn fix_policy(&mut self, policy: Policy) -> Result<(), CatalogueError> {
        self.fix_policies();
        self.check_policy(&policy)?;
        if self.registered().contains_key(&policy.policy_id) {
            return Err(CatalogueError::PolicyExists(policy.policy_id));
        }
        if let Some(fixed) = &mut self.fixed {
            fixed.insert(policy.policy_id.clone(), policy);
        }
        Ok(())
    }

    /// Policies are fixed as they are in another.
    #[must_use]
    pub fn fixed_as_in(mut self, other: &Self) -> Self {
        self.fixed.clone_from(&other.fixed);
        self
    }

    /// Whether policies can only be changed by files.
    pub const fn has_fixed_policies(&self) -> bool {
        self.fixed.is_some()
    }

    fn registered(&self) -> &BTreeMap<String, Policy> {
        self.fixed.as_ref().unwrap_or(&self.policies)
    }

    pub(crate) fn mode(&self, id: &str) -> Option<&ModeEntry> {
        self.modes.get(id)
    }

    /// The policy of that id.
    pub fn policy(&self, id: &str) -> Option<&Policy> {
        self.registered().get(id)
    }

    /// Policies by id; with a mode, those of it and of every mode (§14).
    pub fn policies(&self, mode: &str) -> Vec<&Policy> {
        let all = self.registered().values();
        all.filter(|p| mode.is_empty() || p.mode == mode || p.mode == "*").collect()
    }

    /// Ids of all modes, sorted (§3).
    pub fn mode_ids(&self) -> Vec<&str> {
        self.modes.keys().map(String::as_str).collect()
    }

    /// The standard modes in their order, then the promoted ones by name (§12).
    pub fn standard_modes(&self) -> Vec<&Descriptor> {
        let standard = MODES.iter().filter_map(|mode| self.modes.get(*mode));
        let promoted = self.modes.values().filter(|m| m.standing == Standing::Promoted);
        standard.chain(promoted).map(|mode| &mode.descriptor).collect()
    }

    /// The extensions, by name (§12).
    pub fn extension_modes(&self) -> Vec<&Descriptor> {
        let extension =
            |m: &&ModeEntry| matches!(m.standing, Standing::BuiltIn | Standing::Extension);
        self.modes.values().filter(extension).map(|mode| &mode.descriptor).collect()
    }

    /// Which group has which slots.
    pub const fn slots(&self) -> &SlotMap {
        &self.slots
    }

    /// How a mode came to be.
    pub fn standing(&self, mode: &str) -> Option<Standing> {
        self.modes.get(mode).map(|mode| mode.standing)
    }

    /// Whether the change can be made; the leader asks this before it proposes one.
    ///
    /// # Errors
    /// [`CatalogueError`], with the text for the client.
    pub fn check(&self, change: &CatalogueChange) -> Result<(), CatalogueError> {
        match change {
            CatalogueChange::RegisterPolicy(_) | CatalogueChange::UnregisterPolicy { .. }
                if self.has_fixed_policies() =>
            {
                return Err(CatalogueError::ReadOnly);
            }
            CatalogueChange::RegisterMode(descriptor) => {
                definition(descriptor)?;
            }
            CatalogueChange::RegisterPolicy(policy) => self.check_policy(policy)?,
            _ => {}
        }
        self.possible(change)
    }

    fn check_policy(&self, policy: &Policy) -> Result<(), CatalogueError> {
        let wrong = |why: String| Err(CatalogueError::Policy(why));
        let id = &policy.policy_id;
        if id.trim().is_empty() {
            return wrong("policy_id must not be blank".into());
        }
        if id == DEFAULT {
            return wrong(format!("`{DEFAULT}` is built in"));
        }
        if id.starts_with(STANDARD) && self.policies.get(id) != Some(policy) {
            return wrong(format!("ids beneath `{STANDARD}` are built in"));
        }
        policy.check().map_err(CatalogueError::Policy)
    }

    /// Whether the change fits what is there: all that `apply` asks, now and in later versions.
    fn possible(&self, change: &CatalogueChange) -> Result<(), CatalogueError> {
        let mode_error = |text: String| Err(CatalogueError::Mode(text));
        match change {
            CatalogueChange::RegisterMode(descriptor) => {
                if self.modes.contains_key(&descriptor.mode) {
                    return mode_error(format!("mode `{}` is registered already", descriptor.mode));
                }
            }
            CatalogueChange::UnregisterMode { mode } => match self.standing(mode) {
                Some(Standing::Extension) => {}
                Some(Standing::Promoted) => {
                    return mode_error(format!("mode `{mode}` was promoted, it stays"));
                }
                Some(_) => return mode_error(format!("mode `{mode}` is built in")),
                None => return mode_error(format!("mode `{mode}` is not registered")),
            },
            CatalogueChange::PromoteMode { mode, name } => {
                match self.standing(mode) {
                    Some(Standing::Extension | Standing::BuiltIn) => {}
                    Some(_) => {
                        return mode_error(format!("mode `{mode}` is a standard mode already"));
                    }
                    None => return mode_error(format!("mode `{mode}` is not registered")),
                }
                if !name.is_empty() {
                    if name.trim().is_empty() {
                        return mode_error("promoted_mode_name must not be blank".into());
                    }
                    if name.starts_with(RESERVED) {
                        return mode_error(format!("names beneath `{RESERVED}` are reserved"));
                    }
                    if name != mode && self.modes.contains_key(name) {
                        return mode_error(format!("mode `{name}` is registered already"));
                    }
                }
            }
            CatalogueChange::RegisterPolicy(policy) => {
                if self.policies.contains_key(&policy.policy_id) {
                    return Err(CatalogueError::PolicyExists(policy.policy_id.clone()));
                }
            }
            CatalogueChange::UnregisterPolicy { policy_id } => {
                let fixed =
                    |why: &str| Err(CatalogueError::PolicyFixed(policy_id.clone(), why.to_owned()));
                if policy_id == DEFAULT || policy_id.starts_with(STANDARD) {
                    return fixed("built in");
                }
                if !self.policies.contains_key(policy_id) {
                    return fixed("not registered");
                }
            }
            CatalogueChange::RaiseGroups { count } => {
                let now = self.slots.groups();
                if !(now..=GROUPS_MAX).contains(count) {
                    return Err(CatalogueError::Groups(format!(
                        "{count} groups: there are {now}, which stay, and at most {GROUPS_MAX}"
                    )));
                }
            }
        }
        Ok(())
    }

    /// Makes the change and says which mode it is about, under its final name; empty for policies.
    ///
    /// # Errors
    /// [`CatalogueError`] if it no longer fits; nothing is changed then.
    pub fn apply(&mut self, change: CatalogueChange) -> Result<String, CatalogueError> {
        self.possible(&change)?;
        match change {
            CatalogueChange::RegisterMode(descriptor) => {
                let mode = descriptor.mode.clone();
                let kind = ModeKind::Dynamic { message_types: descriptor.message_types.clone() };
                let entry = ModeEntry { descriptor, kind, standing: Standing::Extension };
                self.modes.insert(mode.clone(), entry);
                Ok(mode)
            }
            CatalogueChange::UnregisterMode { mode } => {
                self.modes.remove(&mode);
                Ok(mode)
            }
            CatalogueChange::PromoteMode { mode, name } => {
                let name = if name.is_empty() { mode.clone() } else { name };
                if let Some(mut entry) = self.modes.remove(&mode) {
                    entry.standing = Standing::Promoted;
                    entry.descriptor.mode.clone_from(&name);
                    self.modes.insert(name.clone(), entry);
                }
                Ok(name)
            }
            CatalogueChange::RegisterPolicy(policy) => {
                self.policies.insert(policy.policy_id.clone(), policy);
                Ok(String::new())
            }
            CatalogueChange::UnregisterPolicy { policy_id } => {
                self.policies.remove(&policy_id);
                Ok(String::new())
            }
            CatalogueChange::RaiseGroups { count } => {
                while self.slots.groups() < count {
                    self.slots.add();
                }
                Ok(String::new())
            }
        }
    }

    /// Everything as bytes, with the version of their layout in front.
    ///
    /// # Errors
    /// [`FormatError`] over 16 MiB.
    pub fn to_bytes(&self) -> Result<Vec<u8>, FormatError> {
        let body = Version1 {
            modes: self.modes.values().cloned().collect(),
            policies: self.policies.values().cloned().collect(),
            slots: self.slots.clone(),
        };
        let mut out = stored::versioned();
        codec::encode_into(&body, &mut out)?;
        Ok(out)
    }

    /// What [`Catalogue::to_bytes`] wrote, with whatever this build has beyond it.
    ///
    /// # Errors
    /// [`FormatError`]; arbitrary bytes never panic.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        let body: Version1 = codec::decode(stored::body(bytes)?)?;
        let modes = body.modes.into_iter().map(|m| (m.descriptor.mode.clone(), m)).collect();
        let policies = body.policies.into_iter().map(|p| (p.policy_id.clone(), p)).collect();
        let mut catalogue = Self { modes, policies, slots: body.slots, fixed: None };
        catalogue.fill();
        Ok(catalogue)
    }
}

/// Refuses a mode that is wrong in itself (§12).
fn definition(descriptor: &Descriptor) -> Result<(), CatalogueError> {
    let wrong = |why: &str| Err(CatalogueError::Mode(why.into()));
    let terminal = &descriptor.terminal_message_types;
    if descriptor.mode.trim().is_empty() {
        return wrong("mode must not be blank");
    }
    if descriptor.mode.starts_with(RESERVED) {
        return wrong("names beneath `macp.mode.` are reserved");
    }
    if descriptor.message_types.is_empty() {
        return wrong("message_types must not be empty");
    }
    if descriptor.mode_version.trim().is_empty() {
        return wrong("mode_version must not be blank");
    }
    if terminal.is_empty() || terminal.iter().any(|kind| kind != COMMITMENT) {
        return wrong("terminal_message_types must be `Commitment`");
    }
    if !descriptor.message_types.iter().any(|kind| kind == COMMITMENT) {
        return wrong("message_types must list the terminal types too");
    }
    Ok(())
}

/// Id, rules, determinism, model and own types of each standard mode (§12).
type StandardMode = (&'static str, ModeKind, &'static str, &'static str, &'static [&'static str]);
const STANDARD_MODES: [StandardMode; 5] = [
    (
        MODES[0],
        ModeKind::Decision,
        "semantic-deterministic",
        "declared",
        &["Proposal", "Evaluation", "Objection", "Vote"],
    ),
    (
        MODES[1],
        ModeKind::Proposal,
        "semantic-deterministic",
        "peer",
        &["Proposal", "CounterProposal", "Accept", "Reject", "Withdraw"],
    ),
    (
        MODES[2],
        ModeKind::Task,
        "structural-only",
        "orchestrated",
        &["TaskRequest", "TaskAccept", "TaskReject", "TaskUpdate", "TaskComplete", "TaskFail"],
    ),
    (
        MODES[3],
        ModeKind::Handoff,
        "context-frozen",
        "delegated",
        &["HandoffOffer", "HandoffContext", "HandoffAccept", "HandoffDecline"],
    ),
    (
        MODES[4],
        ModeKind::Quorum,
        "semantic-deterministic",
        "quorum",
        &["ApprovalRequest", "Approve", "Reject", "Abstain"],
    ),
];

fn descriptor(mode: &str, class: &str, model: &str, types: &[&str]) -> Descriptor {
    let name = mode.trim_start_matches("ext.").trim_start_matches(RESERVED);
    let name = name.trim_end_matches(".v1");
    let mut message_types = vec!["SessionStart".to_owned()];
    message_types.extend(types.iter().map(|kind| (*kind).to_owned()));
    message_types.push(COMMITMENT.into());
    Descriptor {
        mode: mode.into(),
        mode_version: "1.0.0".into(),
        title: format!("{} mode", name.replace('_', " ")),
        description: format!("The {} mode of MACP", name.replace('_', " ")),
        determinism_class: class.into(),
        participant_model: model.into(),
        message_types,
        terminal_message_types: vec![COMMITMENT.into()],
        schema_uris: BTreeMap::from([(
            "protobuf".into(),
            format!("macp/modes/{name}/v1/{name}.proto"),
        )]),
    }
}

#[cfg(test)]
mod tests;
