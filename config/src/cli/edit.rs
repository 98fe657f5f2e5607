//! Changing the CLI file in place: comments, order and what is not touched stay as they are.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};

use toml_edit::{Array, DocumentMut, InlineTable, Item, Table, Value, value};

use super::{Context, NodeEntry, context_name};

/// Why the CLI file could not be changed. The file on disk is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// Reading or writing failed.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// The file is not TOML; parse it with [`super::CliConfig`] for the place.
    #[error("{path} is not valid TOML: {reason}")]
    Syntax {
        /// The file.
        path: String,
        /// In one line.
        reason: String,
    },
    /// A key holds something else than it should.
    #[error("{path}: `{key}` has the wrong type; repair it by hand")]
    Shape {
        /// The file.
        path: String,
        /// The key.
        key: String,
    },
    /// A context that is not there.
    #[error("there is no context `{0}` in the CLI file")]
    NoContext(String),
    /// A node that is not there.
    #[error("there is no node `{0}` in this context")]
    NoNode(String),
    /// A name that cannot be used.
    #[error("{0}")]
    Name(String),
}

/// A CLI file open for changes; [`CliFile::save`] writes them.
#[derive(Debug)]
pub struct CliFile {
    path: PathBuf,
    document: DocumentMut,
}

impl CliFile {
    /// Opens a file, or starts an empty one if there is none.
    pub fn open(path: &Path) -> Result<Self, EditError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(io_error("read", path, source)),
        };
        let document = text.parse::<DocumentMut>().map_err(|error| EditError::Syntax {
            path: path.display().to_string(),
            reason: error.message().to_owned(),
        })?;
        Ok(Self { path: path.to_owned(), document })
    }

    /// Adds or replaces a context. A path below the file's directory is written relative to it.
    pub fn set_context(&mut self, name: &str, context: &Context) -> Result<(), EditError> {
        context_name(name).map_err(EditError::Name)?;
        let dir = self.path.parent().unwrap_or(Path::new("")).to_owned();
        let relative = |path: &Path| {
            let inside = path.strip_prefix(&dir).ok().filter(|p| !p.as_os_str().is_empty());
            value(inside.unwrap_or(path).to_string_lossy().into_owned())
        };
        let contexts = self.contexts()?;
        let entry = contexts.entry(name).or_insert_with(|| Item::Table(Table::new()));
        let shape = EditError::Shape { path: String::new(), key: format!("contexts.{name}") };
        let Some(table) = entry.as_table_like_mut() else { return Err(self.named(shape)) };
        set(table, "cluster", value(context.cluster.clone()));
        if context.identity_dir.as_os_str().is_empty() {
            table.remove("identity_dir");
        } else {
            set(table, "identity_dir", relative(&context.identity_dir));
        }
        match &context.socket {
            Some(socket) => set(table, "socket", relative(socket)),
            None => {
                table.remove("socket");
            }
        }
        if context.nodes.is_empty() {
            table.remove("nodes");
        } else {
            set(table, "nodes", node_list(&context.nodes));
        }
        Ok(())
    }

    /// Removes a context; it is also no longer the current one.
    pub fn remove_context(&mut self, name: &str) -> Result<(), EditError> {
        if self.contexts()?.remove(name).is_none() {
            return Err(EditError::NoContext(name.to_owned()));
        }
        if self.document.get("current_context").and_then(Item::as_str) == Some(name) {
            self.document.remove("current_context");
        }
        Ok(())
    }

    /// Makes a context the current one.
    pub fn use_context(&mut self, name: &str) -> Result<(), EditError> {
        if !self.contexts()?.contains_key(name) {
            return Err(EditError::NoContext(name.to_owned()));
        }
        set(self.document.as_table_mut(), "current_context", value(name));
        Ok(())
    }

    /// Adds a node to a context, or replaces the one of that name.
    pub fn set_node(&mut self, context: &str, node: &NodeEntry) -> Result<(), EditError> {
        let mut nodes = self.context_nodes(context)?;
        match nodes.iter_mut().find(|other| other.name == node.name) {
            Some(other) => other.clone_from(node),
            None => nodes.push(node.clone()),
        }
        self.write_nodes(context, &nodes)
    }

    /// Removes a node from a context.
    pub fn remove_node(&mut self, context: &str, name: &str) -> Result<(), EditError> {
        let mut nodes = self.context_nodes(context)?;
        let before = nodes.len();
        nodes.retain(|node| node.name != name);
        if nodes.len() == before {
            return Err(EditError::NoNode(name.to_owned()));
        }
        self.write_nodes(context, &nodes)
    }

    /// The text as it would be written.
    pub fn text(&self) -> String {
        self.document.to_string()
    }

    /// Writes the file: to a temporary one beside it (0600), synced, then renamed over it. The
    /// directory is made (0700) if it is missing.
    pub fn save(&self) -> Result<(), EditError> {
        // Through a symbolic link, as dotfile managers make them, to what it points at.
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let dir = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
            _ => PathBuf::from("."),
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(|source| io_error("create the directory", &dir, source))?;
        let stem = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = dir.join(format!(".{stem}.{}.tmp", std::process::id()));
        let write = || -> io::Result<()> {
            // A leftover of a crashed process with the same id.
            match fs::remove_file(&temporary) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
            file.set_permissions(fs::Permissions::from_mode(0o600))?;
            file.write_all(self.text().as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(&dir)?.sync_all()
        };
        write().map_err(|source| {
            // Nothing half-made stays; that it may not exist is fine.
            let _ = fs::remove_file(&temporary);
            io_error("write", &path, source)
        })
    }

    fn contexts(&mut self) -> Result<&mut dyn toml_edit::TableLike, EditError> {
        let path = self.path.display().to_string();
        let entry = self.document.entry("contexts").or_insert_with(|| {
            let mut table = Table::new();
            table.set_implicit(true);
            Item::Table(table)
        });
        entry
            .as_table_like_mut()
            .ok_or_else(|| EditError::Shape { path, key: "contexts".to_owned() })
    }

    fn context_nodes(&mut self, context: &str) -> Result<Vec<NodeEntry>, EditError> {
        let contexts = self.contexts()?;
        let item = contexts.get(context).ok_or_else(|| EditError::NoContext(context.to_owned()))?;
        let text = |table: &dyn toml_edit::TableLike, key: &str| {
            table.get(key).and_then(Item::as_str).unwrap_or_default().to_owned()
        };
        let entry = |table: &dyn toml_edit::TableLike| NodeEntry {
            name: text(table, "name"),
            address: text(table, "address"),
            ssh: text(table, "ssh"),
            arch: text(table, "arch"),
        };
        Ok(match item.get("nodes") {
            Some(Item::ArrayOfTables(tables)) => tables.iter().map(|table| entry(table)).collect(),
            Some(Item::Value(Value::Array(items))) => {
                items.iter().filter_map(Value::as_inline_table).map(|table| entry(table)).collect()
            }
            None => Vec::new(),
            Some(_) => {
                let key = format!("contexts.{context}.nodes");
                return Err(self.named(EditError::Shape { path: String::new(), key }));
            }
        })
    }

    fn write_nodes(&mut self, context: &str, nodes: &[NodeEntry]) -> Result<(), EditError> {
        let contexts = self.contexts()?;
        let Some(table) = contexts.get_mut(context).and_then(Item::as_table_like_mut) else {
            return Err(EditError::NoContext(context.to_owned()));
        };
        if nodes.is_empty() {
            table.remove("nodes");
        } else {
            set(table, "nodes", node_list(nodes));
        }
        Ok(())
    }

    /// Puts the file's name into an error made while the document was borrowed.
    fn named(&self, error: EditError) -> EditError {
        match error {
            EditError::Shape { key, .. } => {
                EditError::Shape { path: self.path.display().to_string(), key }
            }
            other => other,
        }
    }
}

/// Whether others than the owner may read a file; for files that hold secrets.
pub fn readable_by_others(path: &Path) -> io::Result<bool> {
    Ok(fs::metadata(path)?.mode() & 0o077 != 0)
}

/// Replaces a value and keeps the comment at its end, if the old one was a value too.
fn set(table: &mut dyn toml_edit::TableLike, key: &str, mut item: Item) {
    match table.get_mut(key) {
        Some(old) => {
            if let (Some(old), Some(new)) = (old.as_value(), item.as_value_mut()) {
                *new.decor_mut() = old.decor().clone();
            }
            *old = item;
        }
        None => {
            table.insert(key, item);
        }
    }
}

/// One inline table a line.
fn node_list(nodes: &[NodeEntry]) -> Item {
    let mut list = Array::new();
    for node in nodes {
        let mut table = InlineTable::new();
        table.insert("name", Value::from(node.name.as_str()));
        table.insert("address", Value::from(node.address.as_str()));
        for (key, text) in [("ssh", &node.ssh), ("arch", &node.arch)] {
            if !text.is_empty() {
                table.insert(key, Value::from(text.as_str()));
            }
        }
        let mut entry = Value::InlineTable(table);
        entry.decor_mut().set_prefix("\n    ");
        list.push_formatted(entry);
    }
    list.set_trailing("\n");
    list.set_trailing_comma(true);
    value(list)
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> EditError {
    EditError::Io { action, path: path.display().to_string(), source }
}
