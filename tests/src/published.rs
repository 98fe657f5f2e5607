//! Programs of the crate registry that tests and benchmarks are run with, as published.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::fs::FlockOperation;
use serde_json::Value;

use crate::sdk::bounded;

/// A compiler of proto files in Rust, whose command line is that of `protoc` as far as the build
/// scripts of these programs go.
const PROTOX: (&str, &str) = ("protox", "0.10.0");
/// Building a program may take so long.
const BUILD: Duration = Duration::from_secs(900);
/// Fetching crates may take so long.
const FETCH: Duration = Duration::from_secs(300);

/// A crate's program of that name, installed into a directory of its own in `home`; the first time
/// takes minutes. `options`: further ones of `cargo install`, such as `--debug`, or `--locked`,
/// without which it gets the newest dependencies that it accepts.
///
/// # Errors
/// If cargo cannot install it.
pub fn program(
    home: &Path,
    name: &str,
    version: &str,
    options: &[&str],
) -> Result<PathBuf, String> {
    fs::create_dir_all(home).map_err(|error| error.to_string())?;
    // One installs, the others wait.
    let lock =
        File::create(home.join(format!("{name}.lock"))).map_err(|error| error.to_string())?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(|error| error.to_string())?;
    let root = home.join(format!("{name}-{version}"));
    let program = root.join("bin").join(name);
    if program.is_file() {
        return Ok(program);
    }
    let mut install = install(&root, name, version);
    install.args(options);
    if !have_protoc() {
        let (name, version) = PROTOX;
        let protox = root.join("bin").join(name);
        if !protox.is_file() {
            eprintln!("installing {name} {version}: there is no protoc");
            let mut install = self::install(&root, name, version);
            bounded(install.args(["--debug", "--features", "bin"]), BUILD)?;
        }
        install.env("PROTOC", protox);
    }
    eprintln!("installing {name} {version}");
    bounded(&mut install, BUILD)?;
    if program.is_file() {
        return Ok(program);
    }
    Err(format!("cargo installed {name} {version}, but there is no {}", program.display()))
}

/// Where a crate's sources are, all files of it, as published. They are cargo's: not to be changed.
///
/// # Errors
/// If cargo cannot fetch it.
pub fn sources(home: &Path, name: &str, version: &str) -> Result<PathBuf, String> {
    // A package that depends on it has it fetched; nothing of it is built.
    let package = home.join(format!("{name}-{version}-sources"));
    let manifest = format!(
        "[package]\nname = \"sources\"\nedition = \"2024\"\n\n[dependencies]\n\
         {name} = \"={version}\"\n\n[workspace]\n"
    );
    let made = fs::create_dir_all(package.join("src"))
        .and_then(|()| fs::write(package.join("Cargo.toml"), manifest))
        .and_then(|()| fs::write(package.join("src/lib.rs"), ""));
    made.map_err(|error| format!("{}: {error}", package.display()))?;
    let mut metadata = cargo();
    metadata.args(["metadata", "--quiet", "--format-version", "1", "--manifest-path"]);
    let printed = bounded(metadata.arg(package.join("Cargo.toml")), FETCH)?;
    // Standard error is in it, too.
    let json = printed.lines().find(|line| line.starts_with('{')).unwrap_or_default();
    let json: Value = serde_json::from_str(json).map_err(|error| format!("{error}: {printed}"))?;
    let packages = json["packages"].as_array().into_iter().flatten();
    packages
        .filter(|package| package["name"] == name && package["version"] == version)
        .find_map(|package| {
            Some(Path::new(package["manifest_path"].as_str()?).parent()?.to_owned())
        })
        .ok_or_else(|| format!("cargo fetched {name} {version}, and does not say where it is"))
}

fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What is built here is built for somebody else.
    for name in ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET_DIR", "CARGO_BUILD_TARGET", "RUSTFLAGS"] {
        command.env_remove(name);
    }
    command
}

fn install(root: &Path, name: &str, version: &str) -> Command {
    let mut command = cargo();
    command.args(["install", name, "--quiet", "--version", &format!("={version}"), "--root"]);
    command.arg(root);
    command
}

fn have_protoc() -> bool {
    let told = std::env::var_os("PROTOC").is_some();
    let path = std::env::var_os("PATH").unwrap_or_default();
    told || std::env::split_paths(&path).any(|dir| dir.join("protoc").is_file())
}
