//! Commands run beside a component (`weft exec`, orchestration §7).
//!
//! An operator subscribes to [`ClusterExec`] at the gateway of any node, which finds the one that
//! runs the component and subscribes to [`Exec`] there. What comes back are output and the end;
//! input and sizes of the terminal go to that node's runtime directly, by the id the operator
//! chose. The end of the subscription is the end of the command.

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use weft_wire::{ActorKind, Allow, Message, MessageId, NodeId, Subscription};

use crate::{CommandRef, ComponentKey, Octets};

/// No piece of input is longer, in bytes.
pub const EXEC_PIECE: usize = 32 << 10;
/// Program and arguments together are not longer, in bytes.
pub const EXEC_ARGV_MAX: usize = 128 << 10;

/// A terminal's size, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecSize {
    /// Across.
    pub columns: u16,
    /// Down.
    pub rows: u16,
}

/// What to run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecCommand {
    /// Program and arguments, at least the program; no shell.
    pub argv: Vec<String>,
    /// Environment, on top of the component's.
    pub env: Vec<(String, String)>,
    /// As whom; empty: as the component.
    pub user: String,
    /// Where; empty: where the component starts; relative: to that.
    pub workdir: String,
    /// With a terminal of that size.
    pub tty: Option<ExecSize>,
    /// With input.
    pub stdin: bool,
}

impl ExecCommand {
    /// Why it can be run nowhere, or `None`.
    pub fn problem(&self) -> Option<String> {
        if self.argv.first().is_none_or(String::is_empty) {
            return Some("the command is empty: it needs a program".into());
        }
        if self.argv.iter().map(String::len).sum::<usize>() > EXEC_ARGV_MAX {
            return Some(format!("the command is longer than {EXEC_ARGV_MAX} bytes"));
        }
        let bad = |name: &str| name.is_empty() || name.contains(['=', '\0']);
        if let Some((name, _)) = self.env.iter().find(|(name, _)| bad(name)) {
            return Some(format!("`{}` is no name of a variable", name.escape_debug()));
        }
        let texts = self.argv.iter().chain(self.env.iter().map(|(_, value)| value));
        let mut texts = texts.chain([&self.user, &self.workdir]);
        texts.any(|text| text.contains('\0')).then(|| "it has a NUL byte in it".to_owned())
    }

    /// What the audit says: the program, whose arguments may hold secrets. At most 512 characters.
    fn about(&self, whose: &str) -> String {
        let program = self.argv.first().map_or("", String::as_str);
        format!("{whose} {program}").escape_debug().take(512).collect()
    }
}

/// Runs a command beside a component of this node, until it ends or nobody listens any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// Chosen by the caller; input and sizes name it.
    pub id: Uuid,
    /// Beside which.
    pub key: ComponentKey,
    /// What.
    pub command: ExecCommand,
}

impl Message for Exec {
    const ID: MessageId = MessageId(250);
    const ACTOR: ActorKind = ActorKind::Runtime;
    const NAME: &'static str = "runtime.exec";
    const ALLOW: Allow = Allow::ADMINS;
    type Reply = ();
}

impl Subscription for Exec {
    type Item = ExecItem;

    fn about(&self) -> String {
        self.command.about(&self.key.to_string())
    }
}

/// What comes back of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExecItem {
    /// It is about to run; the first item.
    Started {
        /// The node it runs on: where input goes.
        node: NodeId,
        /// Its name.
        name: String,
        /// Beside which component.
        key: ComponentKey,
    },
    /// It wrote something.
    Output {
        /// To standard error; with a terminal everything is standard output.
        error: bool,
        /// As it was written.
        bytes: Octets,
    },
    /// It has ended; the last item.
    Ended {
        /// Its exit code; 128 and the number of the signal that ended it; 126: it could not be
        /// run; 127: it is not there.
        code: u8,
        /// Why it could not be run; empty: it could.
        reason: String,
    },
}

/// Input of a command that runs. Pieces are taken once and in order: one that comes again, or
/// whose predecessor has not come, changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecInput {
    /// As in [`Exec`], by the same caller.
    pub id: Uuid,
    /// From 0, one more with each piece.
    pub sequence: u64,
    /// At most [`EXEC_PIECE`].
    pub bytes: Octets,
    /// Nothing comes after these.
    pub end: bool,
}

impl Message for ExecInput {
    const ID: MessageId = MessageId(251);
    const ACTOR: ActorKind = ActorKind::Runtime;
    const NAME: &'static str = "runtime.exec-input";
    const ALLOW: Allow = Allow::ADMINS;
    const IDEMPOTENT: bool = true;
    const PART: bool = true;
    type Reply = ExecTaken;
}

/// What became of a piece of input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExecTaken {
    /// The command gets it.
    Yes,
    /// It does not read: nothing was taken, ask again.
    Later,
    /// It reads no more: send nothing more.
    Closed,
}

/// A command's terminal has another size now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecResize {
    /// As in [`Exec`], by the same caller.
    pub id: Uuid,
    /// The size.
    pub size: ExecSize,
}

impl Message for ExecResize {
    const ID: MessageId = MessageId(252);
    const ACTOR: ActorKind = ActorKind::Runtime;
    const NAME: &'static str = "runtime.exec-resize";
    const ALLOW: Allow = Allow::ADMINS;
    const IDEMPOTENT: bool = true;
    const PART: bool = true;
    type Reply = ();
}

/// [`Exec`] on whichever node runs the component that is meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterExec {
    /// Chosen by the caller; input and sizes name it.
    pub id: Uuid,
    /// The component; of a service with one component, the service is enough.
    pub target: CommandRef,
    /// Which replica; 0: the only one that runs.
    pub replica: u32,
    /// Only on this node, by name; empty: wherever it runs.
    pub node: String,
    /// What.
    pub command: ExecCommand,
}

impl Message for ClusterExec {
    const ID: MessageId = MessageId(550);
    const ACTOR: ActorKind = ActorKind::Gateway;
    const NAME: &'static str = "gateway.exec";
    const ALLOW: Allow = Allow::ADMINS;
    type Reply = ();
}

impl Subscription for ClusterExec {
    type Item = ExecItem;

    fn about(&self) -> String {
        let replica = if self.replica == 0 { String::new() } else { format!("#{}", self.replica) };
        self.command.about(&format!("{}{replica}", self.target))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(argv: &[&str]) -> ExecCommand {
        ExecCommand { argv: argv.iter().map(ToString::to_string).collect(), ..Default::default() }
    }

    #[test]
    fn the_audit_names_the_program_and_not_its_arguments() {
        let exec = ClusterExec {
            id: Uuid::nil(),
            target: "web/api".parse().unwrap(),
            replica: 2,
            node: String::new(),
            command: command(&["psql\n", "--password", "secret"]),
        };
        assert_eq!(exec.about(), "web/api#2 psql\\n");
    }

    #[test]
    fn what_no_system_can_run_is_refused() {
        assert_eq!(command(&["true"]).problem(), None);
        let with = |name: &str, value: &str| ExecCommand {
            env: vec![(name.into(), value.into())],
            ..command(&["true"])
        };
        assert_eq!(with("A", "=\n").problem(), None);
        let long = "a".repeat(EXEC_ARGV_MAX);
        for bad in [
            command(&[]),
            command(&[""]),
            command(&["a", "b\0"]),
            command(&["echo", &long]),
            with("", "x"),
            with("A=B", "x"),
            with("A", "\0"),
        ] {
            assert!(bad.problem().is_some(), "{bad:?}");
        }
    }
}
