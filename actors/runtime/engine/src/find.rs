//! Which engine: the one that is named, else the first that answers, else one of our own.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::engine::{Engine, Flavour};
use crate::error::Error;
use crate::service::OwnService;

const NODE_FILE: &str = "[engine] socket";
const DOCKER_HOST: &str = "DOCKER_HOST";

/// Where to look; [`Search::of_environment`] fills it in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Search {
    /// `[engine] socket` of the node file: a path or `unix://`; empty: not set.
    pub configured: String,
    /// `[agent] container_runtime`: only that engine will do; `None`: either.
    pub flavour: Option<Flavour>,
    /// `DOCKER_HOST`; empty: not set.
    pub docker_host: String,
    /// `XDG_RUNTIME_DIR`.
    pub runtime_dir: Option<PathBuf>,
    /// The `podman` command, if there is one.
    pub podman: Option<PathBuf>,
    /// Where a service of our own keeps its socket and state: a directory of this node alone, with
    /// a path short enough for a socket. `None`: none is started.
    pub own_dir: Option<PathBuf>,
    /// Options of `podman` before `system service`, such as `--root`.
    pub podman_options: Vec<String>,
    /// Sockets looked at when nothing names one, after the one beneath `runtime_dir`.
    pub system: Vec<PathBuf>,
}

/// Where a candidate comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The node file.
    NodeFile,
    /// `DOCKER_HOST`.
    DockerHost,
    /// Podman of this user.
    RootlessPodman,
    /// A socket of the system.
    System,
    /// A `podman system service` that this daemon starts.
    Own,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NodeFile => NODE_FILE,
            Self::DockerHost => DOCKER_HOST,
            Self::RootlessPodman => "this user's podman",
            Self::System => "the system's socket",
            Self::Own => "podman system service, started by weftd",
        })
    }
}

/// A socket that may have an engine behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Who says so.
    pub origin: Origin,
    /// The socket.
    pub socket: PathBuf,
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.socket.display(), self.origin)
    }
}

/// A candidate that was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passed {
    /// Which.
    pub candidate: Candidate,
    /// Why not.
    pub why: String,
}

impl fmt::Display for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.candidate, self.why)
    }
}

/// An engine, and how it came to be chosen.
#[derive(Debug)]
pub struct Found {
    /// The engine.
    pub engine: Engine,
    /// Which candidate it was.
    pub chosen: Candidate,
    /// Those looked at before.
    pub passed: Vec<Passed>,
    /// Our own service behind it, to be ended with the daemon; containers outlive it.
    pub service: Option<OwnService>,
}

impl Found {
    /// For people: which engine, and why not another.
    pub fn describe(&self) -> String {
        let mut text =
            format!("{} {} at {}", self.engine.flavour(), self.engine.version(), self.chosen);
        for passed in &self.passed {
            text.push_str(&format!("; not {passed}"));
        }
        text
    }
}

impl Search {
    /// From the environment of this process. `configured` is `[engine] socket`, `own_dir` as the
    /// field.
    pub fn of_environment(configured: &str, own_dir: Option<PathBuf>) -> Self {
        let var = |name: &str| std::env::var(name).unwrap_or_default();
        Self {
            configured: configured.to_owned(),
            flavour: None,
            docker_host: var(DOCKER_HOST),
            runtime_dir: std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from),
            podman: program("podman"),
            own_dir,
            podman_options: Vec::new(),
            system: vec!["/run/podman/podman.sock".into(), "/var/run/docker.sock".into()],
        }
    }

    /// What to try, in order. One that an operator names is the only one.
    ///
    /// # Errors
    /// [`Error::NotASocket`] if what is named is none.
    pub fn candidates(&self) -> Result<Vec<Candidate>, Error> {
        let named = [
            (&self.configured, Origin::NodeFile, NODE_FILE),
            (&self.docker_host, Origin::DockerHost, DOCKER_HOST),
        ];
        for (value, origin, name) in named {
            if !value.is_empty() {
                let socket = socket_of(value)
                    .ok_or_else(|| Error::NotASocket { origin: name, value: value.clone() })?;
                return Ok(vec![Candidate { origin, socket }]);
            }
        }
        let rootless = self.runtime_dir.iter().map(|dir| Candidate {
            origin: Origin::RootlessPodman,
            socket: dir.join("podman/podman.sock"),
        });
        let system = self
            .system
            .iter()
            .map(|socket| Candidate { origin: Origin::System, socket: socket.clone() });
        Ok(rootless.chain(system).collect())
    }
}

/// `unix:///path` or `/path`.
fn socket_of(value: &str) -> Option<PathBuf> {
    let path = value.strip_prefix("unix://").unwrap_or(value);
    (path.starts_with('/') && path.len() > 1).then(|| PathBuf::from(path))
}

fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| {
        use std::os::unix::fs::PermissionsExt;
        file.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    })
}

/// Finds the engine, starting a service of our own if nothing else answers.
///
/// # Errors
/// [`Error::NotASocket`], [`Error::Chosen`] if the one that is named does not answer,
/// [`Error::Service`] if a service of our own does not come up, [`Error::NoEngine`] with all that
/// was tried.
pub async fn find(search: &Search) -> Result<Found, Error> {
    let mut passed = Vec::new();
    for candidate in search.candidates()? {
        match attempt(&candidate.socket, search.flavour).await {
            Ok(engine) => {
                return Ok(Found { engine, chosen: candidate, passed, service: None });
            }
            Err(why) => match candidate.origin {
                Origin::NodeFile | Origin::DockerHost => {
                    let origin =
                        if candidate.origin == Origin::NodeFile { NODE_FILE } else { DOCKER_HOST };
                    return Err(Error::Chosen { origin, socket: candidate.socket, detail: why });
                }
                _ => passed.push(Passed { candidate, why }),
            },
        }
    }
    let own = |socket: &Path| Candidate { origin: Origin::Own, socket: socket.to_owned() };
    let (podman, dir) = match (&search.podman, &search.own_dir, search.flavour) {
        (_, _, Some(Flavour::Docker)) => return Err(Error::NoEngine(passed)),
        (None, _, _) => {
            let why = "there is no `podman` command on PATH".to_owned();
            passed.push(Passed { candidate: own(Path::new("podman")), why });
            return Err(Error::NoEngine(passed));
        }
        (_, None, _) => return Err(Error::NoEngine(passed)),
        (Some(podman), Some(dir), _) => (podman, dir),
    };
    let service = OwnService::start(podman, &search.podman_options, dir).await?;
    let engine = Engine::connect(service.socket()).await?;
    let chosen = own(service.socket());
    Ok(Found { engine, chosen, passed, service: Some(service) })
}

async fn attempt(socket: &Path, flavour: Option<Flavour>) -> Result<Engine, String> {
    match std::fs::metadata(socket) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err("there is no such socket".into());
        }
        Err(error) => return Err(error.to_string()),
        Ok(_) => {}
    }
    let engine = Engine::connect(socket).await.map_err(|error| match error {
        Error::Unreachable { detail, .. } => detail,
        other => other.to_string(),
    })?;
    match flavour {
        Some(wanted) if wanted != engine.flavour() => {
            Err(format!("it is {}, and {wanted} is asked for", engine.flavour()))
        }
        _ => Ok(engine),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sockets(search: &Search) -> Vec<(Origin, String)> {
        let all = search.candidates().unwrap().into_iter();
        all.map(|c| (c.origin, c.socket.display().to_string())).collect()
    }

    #[test]
    fn what_is_named_is_the_only_candidate() {
        let mut search = Search {
            configured: "/a.sock".into(),
            docker_host: "unix:///b.sock".into(),
            runtime_dir: Some("/run/user/7".into()),
            system: vec!["/s.sock".into()],
            ..Search::default()
        };
        assert_eq!(sockets(&search), [(Origin::NodeFile, "/a.sock".to_owned())]);
        search.configured.clear();
        assert_eq!(sockets(&search), [(Origin::DockerHost, "/b.sock".to_owned())]);
        search.docker_host.clear();
        assert_eq!(
            sockets(&search),
            [
                (Origin::RootlessPodman, "/run/user/7/podman/podman.sock".to_owned()),
                (Origin::System, "/s.sock".to_owned()),
            ]
        );
    }

    #[test]
    fn anything_but_a_unix_socket_is_refused_by_name() {
        for value in ["tcp://127.0.0.1:2375", "ssh://host", "npipe://x", "unix://", "relative.sock"]
        {
            let search = Search { docker_host: value.into(), ..Search::default() };
            let error = search.candidates().unwrap_err().to_string();
            assert!(error.contains("DOCKER_HOST") && error.contains(value), "{error}");
        }
    }

    #[tokio::test]
    async fn one_that_is_named_and_does_not_answer_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("gone.sock");
        let search = Search { configured: socket.display().to_string(), ..Search::default() };
        let error = find(&search).await.unwrap_err();
        assert!(matches!(error, Error::Chosen { origin: NODE_FILE, .. }), "{error}");
        assert!(error.is_passing(), "it may be started yet");
    }

    #[tokio::test]
    async fn where_there_is_none_the_error_says_what_was_tried_and_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let dead = dir.path().join("dead.sock");
        drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
        let search = Search {
            runtime_dir: Some(dir.path().join("none")),
            system: vec![dead.clone()],
            own_dir: Some(dir.path().to_owned()),
            ..Search::default()
        };
        let error = find(&search).await.unwrap_err().to_string();
        for part in ["no such socket", "dead.sock", "refused", "no `podman` command", "Install"] {
            assert!(error.contains(part), "{part} in {error}");
        }
    }
}
