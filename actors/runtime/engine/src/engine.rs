//! The engine's calls on containers. Each has a time limit; what the engine says becomes an
//! [`Error`].

use std::collections::HashMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bollard::query_parameters::{
    CreateContainerOptionsBuilder, KillContainerOptionsBuilder, RemoveContainerOptionsBuilder,
    RenameContainerOptionsBuilder, StopContainerOptionsBuilder, WaitContainerOptionsBuilder,
};
use bollard::{API_DEFAULT_VERSION, ClientVersion, Docker};
use futures_util::StreamExt;
use serde::Deserialize;
use weft_wire::{Clock, SystemClock};

use crate::container::{Container, ContainerState, Ended, Summary};
use crate::error::{Error, NameHolder};
use crate::exit::ExitWatch;
use crate::raw::{Ask, encode};
use crate::spec::ContainerSpec;

/// bollard's own limit, out of the way of ours. Seconds.
pub(crate) const NEVER_SECS: u64 = 86_400;
/// Log targets below this crate that tell all that is sent to an engine, variables of containers
/// included, at level `debug`: no log is to take them (orchestration §28).
pub const TALKATIVE: [&str; 4] = ["bollard", "bollard::docker", "bollard::read", "bollard::uri"];
/// A look takes no longer. An engine forks its runtime for some answers, and may be busy.
pub(crate) const LOOK: Duration = Duration::from_secs(15);
/// A change takes no longer.
pub(crate) const CHANGE: Duration = Duration::from_secs(60);
/// Podman takes seconds for its version on a busy machine.
const VERSION: Duration = Duration::from_secs(15);
/// Between looks while a container's end is being written down.
const SETTLE: [u64; 9] = [1, 1, 2, 3, 5, 10, 20, 50, 100];
/// An end takes no longer to be written down.
const SETTLE_LIMIT: Duration = Duration::from_secs(15);

/// Which engine it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flavour {
    /// Podman.
    Podman,
    /// Docker.
    Docker,
}

impl Flavour {
    /// The command's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Podman => "podman",
            Self::Docker => "docker",
        }
    }
}

impl std::fmt::Display for Flavour {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A container engine. Cheap to clone; holds no connection.
#[derive(Debug, Clone)]
pub struct Engine {
    pub(crate) docker: Docker,
    socket: Arc<Path>,
    flavour: Flavour,
    version: Arc<str>,
    api: ClientVersion,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Version {
    version: Option<String>,
    api_version: Option<String>,
    components: Option<Vec<Component>>,
}

/// How Podman names what is storage and no container.
const STORAGE: &str = "storage";

/// A container as Podman's own API lists it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct External {
    id: String,
    #[serde(default)]
    names: Option<Vec<String>>,
    #[serde(default)]
    command: Option<Vec<String>>,
    #[serde(default)]
    state: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Component {
    name: String,
}

impl Engine {
    /// Connects to the engine behind a socket and agrees on an API version with it, as bollard's
    /// `negotiate_version` does, but with one question instead of two: it is a slow one.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Timeout`] after 15 s, [`Error::Answer`] if it is no engine.
    pub async fn connect(socket: &Path) -> Result<Self, Error> {
        let what = "ask the container engine for its version";
        let ask = Ask::get(socket, what, "/version".to_owned());
        let json = limited(what, VERSION, ask.bytes()).await?;
        let answer = |message: String| Error::Answer { what: what.to_owned(), message };
        let version: Version =
            serde_json::from_slice(&json).map_err(|error| answer(error.to_string()))?;
        let spoken = version.api_version.unwrap_or_default();
        let api = api_version(&spoken)
            .ok_or_else(|| answer(format!("`{spoken}` is no version of the API")))?;
        let api = if api < *API_DEFAULT_VERSION { api } else { *API_DEFAULT_VERSION };
        let podman = version
            .components
            .unwrap_or_default()
            .iter()
            .any(|component| component.name.to_ascii_lowercase().contains("podman"));
        let path = socket.to_str().ok_or_else(|| Error::NotASocket {
            origin: "the engine's socket",
            value: socket.display().to_string(),
        })?;
        let docker = Docker::connect_with_unix(path, NEVER_SECS, &api)
            .map_err(|error| Error::of(what, socket, error))?;
        // bollard 0.21 agrees on a version and then leaves it out of every path, which asks for
        // the engine's newest.
        let prefix = format!("/v{}.{}", api.major_version, api.minor_version);
        let docker = docker.with_request_modifier(move |mut request| {
            let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
            if !path.starts_with(&prefix) {
                let mut parts = request.uri().clone().into_parts();
                parts.path_and_query = format!("{prefix}{path}").parse().ok();
                if let Ok(uri) = hyper::Uri::from_parts(parts) {
                    *request.uri_mut() = uri;
                }
            }
            request
        });
        Ok(Self {
            docker,
            socket: socket.into(),
            flavour: if podman { Flavour::Podman } else { Flavour::Docker },
            version: version.version.unwrap_or_default().into(),
            api,
        })
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Which engine.
    pub fn flavour(&self) -> Flavour {
        self.flavour
    }

    /// The engine's version, as it says it.
    pub fn version(&self) -> &str {
        &self.version
    }

    pub(crate) fn path(&self, rest: &str) -> String {
        format!("/v{}.{}{rest}", self.api.major_version, self.api.minor_version)
    }

    /// Within a time; errors are ours.
    pub(crate) async fn call<T>(
        &self,
        what: &str,
        limit: Duration,
        future: impl Future<Output = Result<T, bollard::errors::Error>>,
    ) -> Result<T, Error> {
        let ours = async { future.await.map_err(|error| Error::of(what, &self.socket, error)) };
        limited(what, limit, ours).await
    }

    /// Whether it answers; cheap.
    ///
    /// # Errors
    /// [`Error::Unreachable`] or [`Error::Timeout`] after 15 s.
    pub async fn ping(&self) -> Result<(), Error> {
        self.call("ping the container engine", LOOK, self.docker.ping()).await.map(drop)
    }

    /// Makes a container; it does not run yet. The image must be there. The equivalent command
    /// line goes to the debug log.
    ///
    /// # Errors
    /// [`Error::Spec`] before anything is sent, [`Error::NameTaken`], [`Error::ImageMissing`],
    /// [`Error::CannotRun`], the engine's others.
    pub async fn create(&self, spec: &ContainerSpec) -> Result<String, Error> {
        spec.check()?;
        tracing::debug!(command = %spec.command_line(self.flavour), "container");
        let what = format!("create container {}", spec.name);
        let options = CreateContainerOptionsBuilder::new().name(&spec.name).build();
        let made = self.docker.create_container(Some(options), spec.body(self.flavour));
        match self.call(&what, CHANGE, made).await {
            Ok(created) => {
                for warning in created.warnings {
                    tracing::warn!(container = spec.name, %warning, "container engine");
                }
                Ok(created.id)
            }
            // Docker says 409, Podman 500.
            Err(Error::Refused { message, .. } | Error::Conflict { message, .. })
                if message.contains("already in use") =>
            {
                let holder = self.holder(&spec.name).await;
                Err(Error::NameTaken { name: spec.name.clone(), holder: Box::new(holder) })
            }
            Err(Error::ImageMissing { .. }) => {
                Err(Error::ImageMissing { image: spec.image.clone() })
            }
            Err(error) => Err(error),
        }
    }

    async fn holder(&self, name: &str) -> NameHolder {
        match self.inspect(name).await {
            Ok(container) => NameHolder { id: container.id, owner: container.owner },
            Err(_) => NameHolder { id: String::new(), owner: None },
        }
    }

    /// Starts it; if it runs already, that is fine.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::PortTaken`], [`Error::CannotRun`], the engine's others.
    pub async fn start(&self, id: &str) -> Result<(), Error> {
        let what = format!("start container {}", checked(id)?);
        self.call(&what, CHANGE, self.docker.start_container(id, None)).await
    }

    /// Stops it: its stop signal, then after `grace`, rounded up to whole seconds, SIGKILL. If it
    /// does not run, that is fine. Podman reports it as `stopping` meanwhile.
    ///
    /// # Errors
    /// [`Error::NotFound`], the engine's others. Said again it does no harm.
    pub async fn stop(&self, id: &str, grace: Duration) -> Result<(), Error> {
        let what = format!("stop container {}", checked(id)?);
        let seconds = grace.as_secs() + u64::from(grace.subsec_nanos() > 0);
        let seconds = i32::try_from(seconds).unwrap_or(i32::MAX);
        let options = StopContainerOptionsBuilder::new().t(seconds).build();
        let limit = grace.saturating_add(CHANGE);
        let stop =
            || self.call(&what, limit, self.docker.stop_container(id, Some(options.clone())));
        let mut stopped = stop().await;
        if self.was_paused(id, &stopped).await {
            stopped = stop().await;
        }
        match stopped {
            Err(Error::Conflict { .. }) => Ok(()),
            other => other,
        }
    }

    /// After a refusal: lets a container go on that somebody has paused, since engines stop and
    /// signal none that are.
    async fn was_paused(&self, id: &str, refusal: &Result<(), Error>) -> bool {
        let Err(error) = refusal else { return false };
        if error.is_engine_away() || matches!(error, Error::NotFound { .. }) {
            return false;
        }
        let there = self.inspect(id).await;
        if !there.is_ok_and(|container| container.state == ContainerState::Paused) {
            return false;
        }
        let what = format!("unpause container {id}");
        self.call(&what, CHANGE, self.docker.unpause_container(id)).await.is_ok()
    }

    /// Sends it a signal by name or number; if it does not run, that is fine.
    ///
    /// # Errors
    /// [`Error::NotFound`], the engine's others.
    pub async fn kill(&self, id: &str, signal: &str) -> Result<(), Error> {
        let what = format!("kill container {}", checked(id)?);
        let options = KillContainerOptionsBuilder::new().signal(signal).build();
        let kill =
            || self.call(&what, CHANGE, self.docker.kill_container(id, Some(options.clone())));
        let mut killed = kill().await;
        if self.was_paused(id, &killed).await {
            killed = kill().await;
        }
        match killed {
            Err(Error::Conflict { .. }) => Ok(()),
            other => other,
        }
    }

    /// Removes it with its anonymous volumes, killing it if it runs; if there is none, that is
    /// fine.
    ///
    /// # Errors
    /// The engine's.
    pub async fn remove(&self, id: &str) -> Result<(), Error> {
        let what = format!("remove container {}", checked(id)?);
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        match self.call(&what, CHANGE, self.docker.remove_container(id, Some(options))).await {
            Err(Error::NotFound { .. }) => Ok(()),
            // Somebody removes it at this moment.
            Err(Error::Conflict { message, .. }) if message.contains("in progress") => Ok(()),
            other => other,
        }
    }

    /// Gives it another name.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NameTaken`], the engine's others.
    pub async fn rename(&self, id: &str, name: &str) -> Result<(), Error> {
        let what = format!("rename container {} to {}", checked(id)?, checked(name)?);
        let options = RenameContainerOptionsBuilder::new().name(name).build();
        match self.call(&what, CHANGE, self.docker.rename_container(id, options)).await {
            Err(Error::Refused { message, .. } | Error::Conflict { message, .. })
                if message.contains("already in use") =>
            {
                let holder = self.holder(name).await;
                Err(Error::NameTaken { name: name.to_owned(), holder: Box::new(holder) })
            }
            other => other,
        }
    }

    /// Waits until it does not run, and gives its exit code. [`Engine::ended`] is faster.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Unreachable`] if the engine goes away meanwhile.
    pub async fn wait(&self, id: &str) -> Result<i64, Error> {
        use bollard::errors::Error as Theirs;
        let what = format!("wait for container {}", checked(id)?);
        let options = WaitContainerOptionsBuilder::new().condition("not-running").build();
        let mut stream = self.docker.wait_container(id, Some(options));
        match stream.next().await {
            Some(Ok(response)) => Ok(response.status_code),
            // Every code but 0 comes as an error; it is none.
            Some(Err(Theirs::DockerContainerWaitError { code, .. })) => Ok(code),
            Some(Err(error)) => Err(Error::of(&what, &self.socket, error)),
            None => Err(Error::Unreachable {
                socket: self.socket.to_path_buf(),
                detail: "it hung up while a container was waited for".into(),
            }),
        }
    }

    /// Waits until a container that runs has ended, and says how. Notices at once, by the
    /// container's process where this host can see it; events take Podman some 0.2 s. It may end
    /// early when the engine goes away, and then says so: nothing is known then.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it is removed meanwhile, [`Error::Unreachable`] and the like.
    pub async fn ended(&self, container: &Container) -> Result<Ended, Error> {
        match container.pid.map(ExitWatch::of) {
            // It has ended already.
            Some(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {}
            Some(Ok(watch)) => watch.ended().await,
            Some(Err(error)) => {
                tracing::debug!(%error, container = container.name, "cannot watch its process");
                self.wait(&container.id).await?;
            }
            None if container.state.is_live() => {
                self.wait(&container.id).await?;
            }
            None => {}
        }
        let settled = self.settled(&container.id, container);
        limited("wait for a container's end", SETTLE_LIMIT, settled).await
    }

    /// Its process is gone: asks until the engine has noticed, too.
    async fn settled(&self, id: &str, before: &Container) -> Result<Ended, Error> {
        let mut waits = SETTLE.into_iter().chain(std::iter::repeat(200));
        loop {
            let now = self.inspect(id).await?;
            if let Some(ended) = now.ended {
                return Ok(ended);
            }
            if now.started_at != before.started_at && before.started_at.is_some() {
                // Somebody has started it again.
                return Ok(Ended { code: 0, oom_flag: false, at: None, error: String::new() });
            }
            tokio::time::sleep(Duration::from_millis(waits.next().unwrap_or(200))).await;
        }
    }

    /// What it is and does.
    ///
    /// # Errors
    /// [`Error::NotFound`], the engine's others.
    pub async fn inspect(&self, id: &str) -> Result<Container, Error> {
        let what = format!("inspect container {}", checked(id)?);
        let path = self.path(&format!("/containers/{}/json", encode(id)));
        let json = limited(&what, LOOK, Ask::get(&self.socket, &what, path).bytes()).await?;
        Container::read(&json).map_err(|error| Error::Answer { what, message: error.to_string() })
    }

    /// What an engine that was killed left of the container of that name: storage that holds the
    /// name, and no container. [`Engine::remove`] takes its id. Podman's alone, from its version 4
    /// on; what Buildah works on is none.
    ///
    /// # Errors
    /// The engine's.
    pub async fn remains(&self, name: &str) -> Result<Option<String>, Error> {
        if self.flavour != Flavour::Podman {
            return Ok(None);
        }
        let what = format!("look for what is left of container {name}");
        let path = "/v4.0.0/libpod/containers/json?all=true&external=true".to_owned();
        let json = limited(&what, LOOK, Ask::get(&self.socket, &what, path).bytes()).await?;
        let all: Vec<External> = serde_json::from_slice(&json)
            .map_err(|error| Error::Answer { what, message: error.to_string() })?;
        let is_left = |one: &External| {
            one.state == STORAGE
                && one.command.as_deref().is_some_and(|command| command == [STORAGE])
                && one.names.iter().flatten().any(|own| own == name)
        };
        Ok(all.into_iter().find(is_left).map(|one| one.id))
    }

    /// All containers, also those that do not run, that bear all of these labels (`name` or
    /// `name=value`).
    ///
    /// # Errors
    /// The engine's.
    pub async fn list(&self, labels: &[String]) -> Result<Vec<Summary>, Error> {
        let what = "list containers";
        let filters = HashMap::from([("label", labels)]);
        let filters = serde_json::to_string(&filters).unwrap_or_default();
        let path = self.path(&format!("/containers/json?all=true&filters={}", encode(&filters)));
        let json = limited(what, LOOK, Ask::get(&self.socket, what, path).bytes()).await?;
        Summary::read_all(&json)
            .map_err(|error| Error::Answer { what: what.into(), message: error.to_string() })
    }
}

/// An id or name that can stand in a path.
pub(crate) fn checked(id: &str) -> Result<&str, Error> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    if !id.is_empty() && id.bytes().all(plain) {
        return Ok(id);
    }
    Err(Error::Spec {
        field: "container",
        value: id.escape_debug().to_string(),
        problem: "expected a container's name or id",
    })
}

/// Within a time.
pub(crate) async fn limited<T>(
    what: &str,
    limit: Duration,
    future: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let begun = SystemClock.now();
    let answer = tokio::time::timeout(limit, future)
        .await
        .unwrap_or_else(|_| Err(Error::Timeout { what: what.to_owned(), after: limit }));
    tracing::debug!(what, ok = answer.is_ok(), took = ?begun.elapsed(), "asked the engine");
    answer
}

fn api_version(text: &str) -> Option<ClientVersion> {
    let (major, minor) = text.split_once('.')?;
    Some(ClientVersion { major_version: major.parse().ok()?, minor_version: minor.parse().ok()? })
}

/// For errors that need the path owned.
impl Engine {
    pub(crate) fn hung_up(&self, detail: impl Into<String>) -> Error {
        Error::Unreachable { socket: PathBuf::from(&*self.socket), detail: detail.into() }
    }
}
