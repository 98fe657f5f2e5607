//! What can go wrong with an engine, as few typed errors.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::find::Passed;
use crate::names::Owner;

/// What an engine says is cut here (orchestration §28).
const CUT: usize = 2048;

/// Who holds a name that was to be given to a new container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameHolder {
    /// Its id; empty: it could not be found out.
    pub id: String,
    /// Whose it is by its labels; `None`: not Weft's.
    pub owner: Option<Owner>,
}

impl std::fmt::Display for NameHolder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let id = self.id.get(..12).unwrap_or(&self.id);
        match &self.owner {
            _ if id.is_empty() => f.write_str("a container that could not be looked at"),
            Some(owner) => write!(f, "container {id} of {} on node {}", owner.key, owner.node),
            None => write!(f, "container {id}, which is not Weft's"),
        }
    }
}

/// Why an engine did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No engine was found.
    #[error(
        "no container engine answers: {}. Install podman, or start the engine's socket \
         (systemctl enable --now podman.socket), or set [engine] socket in the node file",
        listed(.0)
    )]
    NoEngine(Vec<Passed>),
    /// `DOCKER_HOST` or `[engine] socket` is not a Unix socket.
    #[error("{origin}: `{value}`: only unix:///path/to/socket or a path is understood")]
    NotASocket {
        /// Where it is set.
        origin: &'static str,
        /// What it says.
        value: String,
    },
    /// The engine of the operator's choice does not answer.
    #[error(
        "{origin} names {}, but {detail}. Start that engine, or remove the setting", socket.display()
    )]
    Chosen {
        /// Where it is set.
        origin: &'static str,
        /// The socket.
        socket: PathBuf,
        /// What was wrong.
        detail: String,
    },
    /// `podman system service` could not be started.
    #[error("podman's API service could not be started: {0}")]
    Service(String),
    /// The socket is gone, nobody listens, or the connection broke.
    #[error("the container engine at {} does not answer: {detail}", socket.display())]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// What the system says.
        detail: String,
    },
    /// No answer within the call's time.
    #[error("{what}: the container engine has not answered within {after:?}")]
    Timeout {
        /// What was asked.
        what: String,
        /// How long was waited.
        after: Duration,
    },
    /// A value of a spec that no engine can be given.
    #[error("{field}: `{value}`: {problem}")]
    Spec {
        /// The key of the definition.
        field: &'static str,
        /// The value.
        value: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// No container of that name or id.
    #[error("{what}: no such container")]
    NotFound {
        /// What was asked.
        what: String,
    },
    /// The container does not run, or is in another state that forbids it.
    #[error("{what}: {message}")]
    Conflict {
        /// What was asked.
        what: String,
        /// What the engine says.
        message: String,
    },
    /// The container's name is taken.
    #[error("the container name `{name}` is taken by {holder}. Remove or rename that one")]
    NameTaken {
        /// The name.
        name: String,
        /// By whom.
        holder: Box<NameHolder>,
    },
    /// A published port is not free.
    #[error("{what}: a port is taken: {message}")]
    PortTaken {
        /// What was asked.
        what: String,
        /// What the engine says.
        message: String,
    },
    /// The program, a mount's source, the user or the like is not there: trying again helps only
    /// after somebody has done something.
    #[error("{what}: it cannot run: {message}")]
    CannotRun {
        /// What was asked.
        what: String,
        /// What the engine says.
        message: String,
    },
    /// The engine does not have the image.
    #[error("image {image} is not on this node")]
    ImageMissing {
        /// The reference.
        image: String,
    },
    /// The registry does not have the image.
    #[error("image {image} is not in its registry: {message}. Check name and tag")]
    ImageNotFound {
        /// The reference.
        image: String,
        /// What the engine says.
        message: String,
    },
    /// The registry refuses.
    #[error("the registry of {image} refuses: {message}. Log in to it on this node")]
    ImageDenied {
        /// The reference.
        image: String,
        /// What the engine says.
        message: String,
    },
    /// The registry cannot be reached.
    #[error("the registry of {image} cannot be reached: {message}")]
    RegistryUnreachable {
        /// The reference.
        image: String,
        /// What the engine says.
        message: String,
    },
    /// No room.
    #[error("{what}: the disk is full: {message}. Make room (podman image prune)")]
    DiskFull {
        /// What was asked.
        what: String,
        /// What the engine says.
        message: String,
    },
    /// The engine refused otherwise.
    #[error("{what}: the container engine says ({status}): {message}")]
    Refused {
        /// What was asked.
        what: String,
        /// HTTP status.
        status: u16,
        /// What the engine says.
        message: String,
    },
    /// The engine's answer is not understood.
    #[error("{what}: the container engine's answer is not understood: {message}")]
    Answer {
        /// What was asked.
        what: String,
        /// What is wrong with it.
        message: String,
    },
}

fn listed(passed: &[Passed]) -> String {
    passed.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl Error {
    /// Whether the same call may do better later without anybody doing something about it. A
    /// component's driver tries again then, and gives up otherwise.
    pub fn is_passing(&self) -> bool {
        self.is_engine_away()
            || matches!(
                self,
                Self::PortTaken { .. }
                    | Self::Conflict { .. }
                    | Self::RegistryUnreachable { .. }
                    | Self::DiskFull { .. }
                    | Self::Refused { .. }
                    | Self::Answer { .. }
            )
    }

    /// Whether the engine itself could not be asked: nothing is known then about the container.
    pub fn is_engine_away(&self) -> bool {
        matches!(
            self,
            Self::NoEngine(_)
                | Self::Chosen { .. }
                | Self::Service(_)
                | Self::Unreachable { .. }
                | Self::Timeout { .. }
        )
    }

    /// From an answer that is an error.
    pub(crate) fn answered(what: &str, status: u16, message: &str) -> Self {
        let (what, message) = (what.to_owned(), cut(message));
        let text = message.to_ascii_lowercase();
        let has = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
        if has(&["no space left on device", "disk quota exceeded"]) {
            return Self::DiskFull { what, message };
        }
        if status == 404 && has(&["no such image", "image not known", "unable to find image"]) {
            return Self::ImageMissing { image: what };
        }
        if status == 404 && has(&["no such container", "no container with", "no such exec"]) {
            return Self::NotFound { what };
        }
        if has(&["address already in use", "port is already allocated", "ports are not available"])
        {
            return Self::PortTaken { what, message };
        }
        if has(&[
            "executable file not found",
            "exec format error",
            "oci permission denied",
            "oci runtime attempted to invoke a command that was not found",
            "bind source path does not exist",
            "statfs ",
            "unable to find user",
            "no matching entries in passwd",
            "unable to find network",
            "network not found",
        ]) || (has(&["oci runtime", "runc create failed", "crun:"])
            && has(&["no such file or directory", "permission denied", "not a directory"]))
        {
            return Self::CannotRun { what, message };
        }
        if has(&["container state improper", "is not running", "can only kill running"]) {
            return Self::Conflict { what, message };
        }
        match status {
            404 if text.contains("container") => Self::NotFound { what },
            409 => Self::Conflict { what, message },
            _ => Self::Refused { what, status, message },
        }
    }

    /// From what a pull says.
    pub(crate) fn pulling(image: &str, message: &str) -> Self {
        let (image, message) = (image.to_owned(), cut(message));
        let text = message.to_ascii_lowercase();
        let has = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
        if has(&["no space left on device", "disk quota exceeded"]) {
            return Self::DiskFull { what: format!("pull {image}"), message };
        }
        // Before the others: Docker says "denied: requested access" for what does not exist, too,
        // and cannot know which.
        if has(&[
            "unauthorized",
            "authentication required",
            "denied",
            "403 (forbidden)",
            "no basic",
        ]) {
            return Self::ImageDenied { image, message };
        }
        if has(&["manifest unknown", "name unknown", "not found", "404", "name invalid"]) {
            return Self::ImageNotFound { image, message };
        }
        if has(&[
            "connection refused",
            "no such host",
            "i/o timeout",
            "timeout exceeded",
            "tls handshake",
            "network is unreachable",
            "no route to host",
            "server misbehaving",
            "connection reset",
            "unexpected eof",
            "pinging container registry",
            "503",
            "502",
            "500 internal",
        ]) {
            return Self::RegistryUnreachable { image, message };
        }
        Self::Refused { what: format!("pull {image}"), status: 500, message }
    }

    /// From bollard.
    pub(crate) fn of(what: &str, socket: &Path, error: bollard::errors::Error) -> Self {
        use bollard::errors::Error as Theirs;
        match error {
            Theirs::DockerResponseServerError { status_code, message } => {
                Self::answered(what, status_code, &message)
            }
            Theirs::DockerStreamError { error } => Self::answered(what, 500, &error),
            Theirs::RequestTimeoutError => Self::Timeout {
                what: what.to_owned(),
                after: Duration::from_secs(crate::engine::NEVER_SECS),
            },
            Theirs::JsonDataError { message, .. } => {
                Self::Answer { what: what.to_owned(), message: cut(&message) }
            }
            Theirs::JsonSerdeError { .. }
            | Theirs::StrParseError { .. }
            | Theirs::APIVersionParseError {}
            | Theirs::URLEncodedError { .. }
            | Theirs::URLParseError { .. }
            | Theirs::InvalidURIError { .. } => {
                Self::Answer { what: what.to_owned(), message: cut(&error.to_string()) }
            }
            other => Self::Unreachable { socket: socket.to_owned(), detail: cut(&chain(&other)) },
        }
    }
}

/// An error and what caused it, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

pub(crate) fn cut(text: &str) -> String {
    let text = text.trim();
    text.get(..text.floor_char_boundary(CUT)).unwrap_or(text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    type Is = fn(&Error) -> bool;

    #[test]
    fn what_engines_say_becomes_the_error_that_says_what_to_do() {
        let cases: &[(u16, &str, Is)] = &[
            (404, r#"no container with name or ID "x" found: no such container"#, |e| {
                matches!(e, Error::NotFound { .. })
            }),
            (404, "No such image: x:1", |e| matches!(e, Error::ImageMissing { .. })),
            (
                500,
                "cannot listen on the TCP port: listen tcp4 :80: bind: address already in use",
                |e| matches!(e, Error::PortTaken { .. }),
            ),
            (500, "driver failed: Bind for 0.0.0.0:80 failed: port is already allocated", |e| {
                matches!(e, Error::PortTaken { .. })
            }),
            (
                500,
                r#"runc: exec: "nope": executable file not found in $PATH: OCI runtime error"#,
                |e| matches!(e, Error::CannotRun { .. }),
            ),
            (500, "statfs /not/there: no such file or directory", |e| {
                matches!(e, Error::CannotRun { .. })
            }),
            (500, "write /x: no space left on device", |e| matches!(e, Error::DiskFull { .. })),
            (409, "container is not running", |e| matches!(e, Error::Conflict { .. })),
            (500, "something else", |e| matches!(e, Error::Refused { status: 500, .. })),
        ];
        for (status, message, is) in cases {
            let error = Error::answered("start x", *status, message);
            assert!(is(&error), "{message} became {error:?}");
        }
    }

    #[test]
    fn pulls_that_fail_say_whether_name_rights_or_network_are_to_blame() {
        let cases: &[(&str, Is)] = &[
            ("reading manifest 9 in r/x: manifest unknown", |e| {
                matches!(e, Error::ImageNotFound { .. })
            }),
            ("unauthorized: authentication required", |e| matches!(e, Error::ImageDenied { .. })),
            ("requested access to the resource is denied", |e| {
                matches!(e, Error::ImageDenied { .. })
            }),
            (
                "pinging container registry 127.0.0.1:1: dial tcp 127.0.0.1:1: connection refused",
                |e| matches!(e, Error::RegistryUnreachable { .. }),
            ),
            ("lookup r.test: no such host", |e| matches!(e, Error::RegistryUnreachable { .. })),
            ("writing blob: no space left on device", |e| matches!(e, Error::DiskFull { .. })),
        ];
        for (message, is) in cases {
            let error = Error::pulling("r/x:9", message);
            assert!(is(&error), "{message} became {error:?}");
        }
    }

    #[test]
    fn long_answers_are_cut_at_a_character() {
        let error = Error::answered("x", 500, &"ä".repeat(5000)).to_string();
        assert!(error.len() < CUT + 100);
    }
}
