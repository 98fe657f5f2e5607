//! Which cluster this command is about: the CLI file, the context, the operator's identity.

use std::path::{Path, PathBuf};

use weft_config::cli::{CliConfig, NodeEntry, config_path};
use weft_config::service::ParseOptions;
use weft_identity::{DenyList, IdentityFiles, StoredIdentity, Trust};
use weft_wire::{Clock, ClusterId, SystemClock, WallTime};

use crate::args::Global;
use crate::commands::definition::invalid;
use crate::error::{CliError, Exit, Result};
use crate::paths::{Env, absolute};

/// One cluster as this operator knows it.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    /// The CLI file it was read from.
    pub(crate) file: PathBuf,
    /// Its name in that file.
    pub(crate) name: String,
    /// The cluster's id; empty if the file does not say.
    pub(crate) cluster: String,
    /// Where definitions lie.
    pub(crate) services_dir: PathBuf,
    /// From which an omitted `image` is derived (`[build] registry`); may be empty.
    pub(crate) registry: String,
    /// Nodes to try, in order.
    pub(crate) nodes: Vec<NodeEntry>,
    /// The operator's certificate, key and trust bundle; empty: none.
    pub(crate) identity_dir: PathBuf,
    /// The local socket of a node on this machine, as configured.
    pub(crate) socket: Option<PathBuf>,
}

/// The CLI file that flags and environment select.
///
/// # Errors
/// When there is no home to find it in.
pub(crate) fn file_of(global: &Global, env: &Env) -> Result<PathBuf> {
    let variable = |name: &str| match name {
        "HOME" => env.home.as_ref().map(|p| p.to_string_lossy().into_owned()),
        "XDG_CONFIG_HOME" => env.config_home.as_ref().map(|p| p.to_string_lossy().into_owned()),
        other => std::env::var(other).ok(),
    };
    match config_path(global.config.as_deref(), variable) {
        Some(path) => absolute(&path),
        None => Err(CliError::usage("neither HOME nor XDG_CONFIG_HOME is set")
            .help("set one of them, or name a configuration file with --config")),
    }
}

/// Where definitions lie; needs no context.
///
/// # Errors
/// Exit 2: mistakes in the CLI file.
pub(crate) fn services_dir(global: &Global, env: &Env) -> Result<PathBuf> {
    Ok(load(global, env, &file_of(global, env)?)?.services_dir)
}

/// From which an omitted `image` is derived; needs no context. May be empty.
///
/// # Errors
/// Exit 2: mistakes in the CLI file.
pub(crate) fn registry(global: &Global, env: &Env) -> Result<String> {
    Ok(load(global, env, &file_of(global, env)?)?.registry)
}

/// How definitions are read where images come from that registry.
pub(crate) fn parse_options(registry: &str) -> ParseOptions<'_> {
    ParseOptions { registry: (!registry.is_empty()).then_some(registry), ..ParseOptions::default() }
}

fn load(global: &Global, env: &Env, file: &Path) -> Result<CliConfig> {
    // A file that was named must exist; the default one may not.
    if global.config.is_some() && !file.exists() {
        return Err(CliError::usage(format!("{} does not exist", file.display()))
            .help("--config names a CLI file, such as the one `weft up` prints"));
    }
    let mut config =
        CliConfig::load(file, env.home.as_deref()).map_err(|errors| invalid(&errors))?;
    config.apply_env(|name| std::env::var(name).ok());
    Ok(config)
}

impl Context {
    /// Reads the selected context.
    ///
    /// # Errors
    /// Exit 2: mistakes in the file, or no context to be had from it.
    pub(crate) fn load(global: &Global, env: &Env) -> Result<Self> {
        let file = file_of(global, env)?;
        let config = load(global, env, &file)?;
        let (name, context) = config.context(global.context.as_deref()).map_err(|error| {
            CliError::new(Exit::Usage, "no-context", error.to_string())
                .help(format!("the CLI file is {}", file.display()))
        })?;
        Ok(Self {
            file,
            name,
            cluster: context.cluster,
            services_dir: config.services_dir,
            registry: config.registry,
            nodes: context.nodes,
            identity_dir: context.identity_dir,
            socket: context.socket,
        })
    }

    /// The operator's files; `None` if the context has no place for them.
    pub(crate) fn identity_files(&self) -> Option<IdentityFiles> {
        (!self.identity_dir.as_os_str().is_empty())
            .then(|| IdentityFiles::operator(&self.identity_dir))
    }

    /// The operator's identity, whether or not it is still valid.
    ///
    /// # Errors
    /// Exit 3: there is none, it may be read by others, or its parts do not fit together.
    pub(crate) fn identity(&self) -> Result<Operator> {
        let files = self.identity_files().ok_or_else(|| {
            unauthenticated(format!("context {} names no operator identity", self.name))
                .help("set identity_dir in the CLI file, or run on a node's machine")
        })?;
        let stored = files
            .load()
            .map_err(|error| unauthenticated("cannot use the operator certificate").cause(error))?;
        let cluster = match self.cluster.parse::<ClusterId>() {
            Ok(named) if named != stored.own.cluster => {
                return Err(unauthenticated(format!(
                    "the operator certificate is of cluster {}, context {} is of cluster {named}",
                    stored.own.cluster, self.name
                )));
            }
            _ => stored.own.cluster,
        };
        Ok(Operator { stored, cluster })
    }

    /// The local socket that is live: the configured one, or the one its daemon says it chose.
    pub(crate) fn live_socket(&self) -> Option<PathBuf> {
        let configured = self.socket.as_ref()?;
        if configured.exists() {
            return Some(configured.clone());
        }
        let ports = read_ports(configured.parent()?)?;
        let chosen = PathBuf::from(ports.socket);
        chosen.exists().then_some(chosen)
    }
}

/// `ports.json` of a data directory, if there is a readable one.
pub(crate) fn read_ports(data: &Path) -> Option<weft_protocol::files::PortsFile> {
    let text = std::fs::read_to_string(data.join("ports.json")).ok()?;
    serde_json::from_str(&text).ok()
}

/// An operator's identity as stored.
#[derive(Debug)]
pub(crate) struct Operator {
    /// Key, certificate, bundle.
    pub(crate) stored: StoredIdentity,
    /// The cluster.
    pub(crate) cluster: ClusterId,
}

impl Operator {
    /// What this operator believes.
    ///
    /// # Errors
    /// Exit 3, for a bundle that cannot be used.
    pub(crate) fn trust(&self) -> Result<Trust> {
        Trust::new(
            self.cluster,
            self.stored.bundle.clone(),
            DenyList::new(),
            std::sync::Arc::new(SystemClock),
        )
        .map_err(|error| unauthenticated("cannot use the trust bundle").cause(error))
    }

    /// Until when the certificate is valid.
    pub(crate) fn not_after(&self) -> WallTime {
        self.stored.own.not_after
    }

    /// Whether it is not valid any more.
    pub(crate) fn expired(&self) -> bool {
        SystemClock.wall() > self.not_after()
    }
}

/// Exit 3.
pub(crate) fn unauthenticated(message: impl Into<String>) -> CliError {
    CliError::new(Exit::Unauthenticated, "unauthenticated", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn global(config: &Path) -> Global {
        Global { config: Some(config.to_owned()), ..Global::default() }
    }

    #[test]
    fn a_named_file_that_is_not_there_is_a_usage_error() {
        let error = Context::load(&global(Path::new("/nowhere/weft.toml")), &Env::default())
            .expect_err("refused");
        assert_eq!(error.exit, Exit::Usage);
        assert!(error.to_string().contains("/nowhere/weft.toml"), "{error}");
    }

    #[test]
    fn without_any_context_the_way_to_one_is_shown() {
        let dir = tempfile::tempdir().expect("temp dir");
        let file = dir.path().join("weft.toml");
        std::fs::write(&file, "").expect("writes");
        let error = Context::load(&global(&file), &Env::default()).expect_err("refused");
        let text = error.to_string();
        assert!(text.contains("weft up") && text.contains("weft.toml"), "{text}");
    }

    #[test]
    fn mistakes_in_the_file_are_drawn() {
        let dir = tempfile::tempdir().expect("temp dir");
        let file = dir.path().join("weft.toml");
        std::fs::write(&file, "[service]\ndir = \"x\"\n").expect("writes");
        let error = Context::load(&global(&file), &Env::default()).expect_err("refused");
        assert_eq!(error.exit, Exit::Usage);
        assert!(error.to_string().contains("weft.toml:1:"), "{error}");
    }
}
