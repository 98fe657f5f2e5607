//! The CLI file: contexts, where service files live, how to sign in (orchestration §26).
//!
//! [`CliConfig`] is what the file says, with paths resolved. [`CliFile`] edits the file itself and
//! keeps comments and order.

mod edit;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::reader::{Reader, Section};
use crate::service::values;

pub use edit::{CliFile, EditError, readable_by_others};

/// One node that can be dialled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeEntry {
    /// The node's name.
    pub name: String,
    /// `host:port`.
    pub address: String,
    /// How to reach the machine by ssh, as written; may be empty.
    pub ssh: String,
    /// Processor architecture, as written; may be empty.
    pub arch: String,
}

/// One cluster as this operator knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Context {
    /// The cluster's id.
    pub cluster: String,
    /// Directory of the operator's certificate, key and trust bundle; empty: none.
    pub identity_dir: PathBuf,
    /// Nodes to try, in order; any one is enough, the rest are discovered.
    pub nodes: Vec<NodeEntry>,
    /// The local socket of a node on this machine.
    pub socket: Option<PathBuf>,
}

/// The CLI file, paths resolved against its directory and `~` expanded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CliConfig {
    /// Used when no flag or variable names one; may be empty.
    pub current_context: String,
    /// By name.
    pub contexts: BTreeMap<String, Context>,
    /// `[services] dir`; `services` beside the file if not written.
    pub services_dir: PathBuf,
    /// `[build] workspace`.
    pub workspace: Option<PathBuf>,
    /// `[build] registry`: from which an omitted `image` is derived; may be empty.
    pub registry: String,
    /// `[auth] token_path`.
    pub token_path: Option<PathBuf>,
    /// `[auth] username`; may be empty.
    pub username: String,
    /// `[auth] password_file`.
    pub password_file: Option<PathBuf>,
    /// Top-level `[[nodes]]`, as the seed writes them: for every context without nodes.
    pub nodes: Vec<NodeEntry>,
    /// Accepted, but worth a line each.
    pub warnings: Diagnostics,
}

/// Why no context could be chosen; the message says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContextError {
    /// A name that is not in the file.
    #[error("there is no context `{name}` in the CLI file; it has: {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// Nothing chosen and nothing obvious.
    #[error(
        "no context is chosen; name one with --context or WEFT_CONTEXT, or write `current_context = \"<name>\"` into the CLI file; there are: {0}"
    )]
    NoneChosen(String),
    /// An empty file.
    #[error(
        "no cluster is configured; make one with `weft up` or `weft init`, or sign in with `weft login`"
    )]
    NoneAtAll,
}

/// Which file to read: the flag, else `WEFT_CONFIG`, else `$XDG_CONFIG_HOME/weft/weft.toml`, else
/// `~/.config/weft/weft.toml`. Empty variables count as unset; `None` if there is no home either.
pub fn config_path(flag: Option<&Path>, env: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let set = |name: &str| env(name).filter(|value| !value.is_empty());
    if let Some(path) = flag {
        return Some(path.to_owned());
    }
    if let Some(path) = set("WEFT_CONFIG") {
        return Some(PathBuf::from(path));
    }
    // The base directory standard: a relative value is to be ignored.
    let xdg = set("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let base = xdg.or_else(|| set("HOME").map(|home| Path::new(&home).join(".config")))?;
    Some(base.join("weft").join("weft.toml"))
}

impl CliConfig {
    /// Parses a CLI file. `dir`: the file's directory, for relative paths; `home`: for `~`.
    pub fn parse(
        text: &str,
        file_name: &str,
        dir: &Path,
        home: Option<&Path>,
    ) -> Result<Self, Diagnostics> {
        let reader = Reader::new(file_name, text);
        let config = reader.document().map(|table| {
            let root = Section::root(&reader, &table);
            read(&root, &Paths { dir, home })
        });
        let (errors, warnings) = reader.finish();
        match config {
            Some(config) if errors.is_empty() => Ok(Self { warnings, ..config }),
            None if errors.is_empty() => {
                Err(Diagnostic::elsewhere(file_name, "not a CLI configuration").into())
            }
            _ => Err(errors),
        }
    }

    /// Reads and parses a file; one that does not exist gives the configuration of an empty file.
    pub fn load(path: &Path, home: Option<&Path>) -> Result<Self, Diagnostics> {
        let name = path.display().to_string();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                let message = format!("cannot read the CLI file: {error}");
                return Err(Diagnostic::elsewhere(&name, message)
                    .help("check its permissions, or name another with --config")
                    .into());
            }
        };
        Self::parse(&text, &name, path.parent().unwrap_or(Path::new("")), home)
    }

    /// Overrides from the environment: `WEFT_CONTEXT`, `WEFT_SERVICES_DIR`,
    /// `WEFT_BUILD_WORKSPACE`, `WEFT_BUILD_REGISTRY`, `WEFT_AUTH_TOKEN_PATH`,
    /// `WEFT_AUTH_USERNAME`, `WEFT_AUTH_PASSWORD_FILE`. Empty variables count as unset; paths are
    /// taken as they are.
    pub fn apply_env(&mut self, env: impl Fn(&str) -> Option<String>) {
        let set = |name: &str| env(name).filter(|value| !value.is_empty());
        if let Some(context) = set("WEFT_CONTEXT") {
            self.current_context = context;
        }
        if let Some(dir) = set("WEFT_SERVICES_DIR") {
            self.services_dir = PathBuf::from(dir);
        }
        if let Some(dir) = set("WEFT_BUILD_WORKSPACE") {
            self.workspace = Some(PathBuf::from(dir));
        }
        if let Some(registry) = set("WEFT_BUILD_REGISTRY") {
            self.registry = registry;
        }
        if let Some(path) = set("WEFT_AUTH_TOKEN_PATH") {
            self.token_path = Some(PathBuf::from(path));
        }
        if let Some(username) = set("WEFT_AUTH_USERNAME") {
            self.username = username;
        }
        if let Some(path) = set("WEFT_AUTH_PASSWORD_FILE") {
            self.password_file = Some(PathBuf::from(path));
        }
    }

    /// The context to use: the one asked for (a flag), else the current one, else the only one.
    /// Its nodes are the file's top-level ones if it has none of its own.
    pub fn context(&self, wanted: Option<&str>) -> Result<(String, Context), ContextError> {
        let names = || self.contexts.keys().cloned().collect::<Vec<_>>().join(", ");
        let current = Some(self.current_context.as_str()).filter(|name| !name.is_empty());
        let (name, context) = match (wanted.or(current), self.contexts.len()) {
            (Some(name), _) => {
                let context = self.contexts.get(name).ok_or_else(|| ContextError::Unknown {
                    name: name.to_owned(),
                    known: if self.contexts.is_empty() { "none".to_owned() } else { names() },
                })?;
                (name, context)
            }
            (None, 0) => return Err(ContextError::NoneAtAll),
            (None, 1) => match self.contexts.iter().next() {
                Some((name, context)) => (name.as_str(), context),
                None => return Err(ContextError::NoneAtAll),
            },
            (None, _) => return Err(ContextError::NoneChosen(names())),
        };
        let mut context = context.clone();
        if context.nodes.is_empty() {
            context.nodes.clone_from(&self.nodes);
        }
        Ok((name.to_owned(), context))
    }
}

/// How paths in the file are meant.
struct Paths<'a> {
    dir: &'a Path,
    home: Option<&'a Path>,
}

impl Paths<'_> {
    fn resolve(&self, text: &str) -> PathBuf {
        match (text.strip_prefix('~'), self.home) {
            (Some(""), Some(home)) => home.to_owned(),
            (Some(rest), Some(home)) if rest.starts_with('/') => {
                home.join(rest.trim_start_matches('/'))
            }
            _ => self.dir.join(text),
        }
    }

    fn read(&self, section: &Section<'_>, key: &str) -> Option<PathBuf> {
        let text = section.text(key)?;
        if text.value.is_empty() {
            section.error(
                key,
                format!("`{key}` must not be empty"),
                "write a path, or remove the key",
            );
            return None;
        }
        Some(self.resolve(&text.value))
    }
}

fn read(root: &Section<'_>, paths: &Paths<'_>) -> CliConfig {
    root.only(
        &["current_context", "contexts", "services", "identity", "mcias", "auth", "build", "nodes"],
        |key| (key == "context").then(|| "contexts are written as [contexts.<name>]".to_owned()),
    );
    let mut config = CliConfig {
        services_dir: paths.dir.join("services"),
        nodes: nodes(root),
        ..CliConfig::default()
    };
    if let Some(section) = root.table("contexts", "[contexts]") {
        for name in section.keys() {
            let Some(table) = section.table(&name.value, &format!("[contexts.{}]", name.value))
            else {
                continue;
            };
            match context_name(&name.value) {
                Ok(_) => {
                    config.contexts.insert(name.value, context(&table, paths));
                }
                Err(error) => root.reader.report(root.reader.at(name.span, error)),
            }
        }
    }
    if let Some(current) = root.text("current_context") {
        if !current.value.is_empty() && !root.has_entry("contexts", &current.value) {
            let known: Vec<&str> = config.contexts.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            root.error(
                "current_context",
                format!("there is no context `{}`", current.value),
                format!("the file has: {known}"),
            );
        }
        config.current_context = current.value;
    }
    if let Some(section) = root.table("services", "[services]") {
        section.only(&["dir"], |_| None);
        if let Some(dir) = paths.read(&section, "dir") {
            config.services_dir = dir;
        }
    }
    if let Some(section) = root.table("auth", "[auth]") {
        section.only(&["token_path", "username", "password_file"], |key| {
            (key == "password" || key == "token")
                .then(|| "secrets are given by file only: token_path, password_file".to_owned())
        });
        config.token_path = paths.read(&section, "token_path");
        config.username = section.text("username").map(|at| at.value).unwrap_or_default();
        config.password_file = paths.read(&section, "password_file");
    }
    if let Some(section) = root.table("build", "[build]") {
        section.only(&["workspace", "registry"], |_| None);
        config.workspace = paths.read(&section, "workspace");
        config.registry = section.text("registry").map(|at| at.value).unwrap_or_default();
    }
    for name in ["identity", "mcias"] {
        let Some(section) = root.table(name, &format!("[{name}]")) else { continue };
        let keys = ["server_url", "ca_cert", "service_name"];
        section.only(&keys, |_| None);
        for key in keys {
            // Read for its type only.
            let _ = section.text(key);
        }
        let message =
            format!("[{name}] is accepted and unused: this version asks no identity service");
        root.reader.report(root.reader.at(section.span.clone(), message).warning());
    }
    config
}

/// A context's name: letters, digits, `.`, `_` and `-`.
fn context_name(name: &str) -> Result<&str, String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if !name.is_empty() && name.len() <= 64 && name.bytes().all(good) {
        Ok(name)
    } else {
        Err(format!(
            "`{name}` is not the name of a context: 1 to 64 letters, digits, `.`, `_` and `-`"
        ))
    }
}

fn context(section: &Section<'_>, paths: &Paths<'_>) -> Context {
    section.only(&["cluster", "identity_dir", "socket", "nodes"], |_| None);
    Context {
        cluster: section.text("cluster").map(|at| at.value).unwrap_or_default(),
        identity_dir: paths.read(section, "identity_dir").unwrap_or_default(),
        nodes: nodes(section),
        socket: paths.read(section, "socket"),
    }
}

fn nodes(section: &Section<'_>) -> Vec<NodeEntry> {
    let mut out: Vec<NodeEntry> = Vec::new();
    for mut table in section.tables("nodes", |i| format!("node {}", i + 1)) {
        if let Some(name) = table.peek("name") {
            table.title = format!("node `{name}`");
        }
        table.only(&["name", "address", "ssh", "arch"], |_| None);
        for key in ["name", "address"] {
            if !table.has(key) {
                table.missing(key, format!("a node has name and address: add {key} = \"…\""));
            }
        }
        let entry = NodeEntry {
            name: table.parsed("name", values::name).map(|at| at.value).unwrap_or_default(),
            address: table.parsed("address", address).map(|at| at.value).unwrap_or_default(),
            ssh: table.text("ssh").map(|at| at.value).unwrap_or_default(),
            arch: table.text("arch").map(|at| at.value).unwrap_or_default(),
        };
        if !entry.name.is_empty() && out.iter().any(|other| other.name == entry.name) {
            table.error("name", format!("two nodes are called `{}`", entry.name), "");
        }
        out.push(entry);
    }
    out
}

/// `host:port`; an IPv6 host in brackets.
fn address(text: &str) -> Result<String, String> {
    let good = text.parse::<std::net::SocketAddr>().is_ok_and(|address| address.port() > 0)
        || text.rsplit_once(':').is_some_and(|(host, port)| {
            let digits = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
            !digits
                && values::hostname(host).is_ok()
                && port.parse::<u16>().is_ok_and(|port| port > 0)
        });
    if good {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` is not an address: write host:port"))
    }
}
