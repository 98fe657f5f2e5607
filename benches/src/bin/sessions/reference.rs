//! The published reference runtime, installed once beside what cargo builds here.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Its crate and its program.
const NAME: &str = "macp-runtime";
/// What Weft is compared with.
const VERSION: &str = "0.13.0";
/// A compiler of proto files in Rust, whose command line is that of `protoc` as far as the
/// reference's build script goes.
const PROTOX: (&str, &str) = ("protox", "0.10.0");

/// The program, built in release with the newest dependencies it accepts; the first time takes
/// minutes. `target`: where cargo builds; it is kept there, by version.
///
/// # Errors
/// If cargo cannot install it.
pub(crate) fn installed(target: &Path) -> Result<PathBuf, String> {
    let root = target.join(format!("{NAME}-{VERSION}"));
    let program = root.join("bin").join(NAME);
    if program.is_file() {
        return Ok(program);
    }
    let mut command = install(&root, NAME, VERSION);
    if !have_protoc() {
        let (name, version) = PROTOX;
        let protox = root.join("bin").join(name);
        if !protox.is_file() {
            eprintln!("installing {name} {version}: there is no protoc");
            succeed(install(&root, name, version).args(["--features", "bin"]))?;
        }
        command.env("PROTOC", protox);
    }
    eprintln!("installing {NAME} {VERSION}");
    succeed(&mut command)?;
    if program.is_file() {
        return Ok(program);
    }
    Err(format!("cargo installed {NAME} {VERSION}, but there is no {}", program.display()))
}

fn install(root: &Path, name: &str, version: &str) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["install", name, "--quiet", "--version", &format!("={version}"), "--root"]);
    // Standard output is for the tables.
    command.arg(root).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn succeed(command: &mut Command) -> Result<(), String> {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{command:?}: {status}")),
        Err(error) => Err(format!("{command:?}: {error}")),
    }
}

fn have_protoc() -> bool {
    let told = std::env::var_os("PROTOC").is_some();
    let path = std::env::var_os("PATH").unwrap_or_default();
    told || std::env::split_paths(&path).any(|dir| dir.join("protoc").is_file())
}
