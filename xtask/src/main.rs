//! The README's commands: `cargo xtask up`, `cargo xtask test`, `cargo xtask bench`.
#![forbid(unsafe_code)]

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

mod check;

const USAGE: &str = "\
usage: cargo xtask <command>

  up [--release] [args...]   build, then `weft up` with the given arguments
  test [--quick]             formats, lints, all tests, docs; what CI runs (--quick: no docs build)
  bench <name> [args...]     run a benchmark in release: remote, mailbox, propose, failover,
                             services, idle, sessions
  image [tag]                the container image of weftd, by podman, in release; nothing is pulled
  tidy                       only the checks on the tree itself (who may know whom, and so on)
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match args.split_first() {
        Some((command, rest)) => match command.as_str() {
            "up" => up(rest),
            "test" => test(rest),
            "bench" => bench(rest),
            "image" => image(rest),
            "tidy" => check::tidy(&root()).map(|()| 0),
            "help" | "--help" | "-h" => {
                print!("{USAGE}");
                Ok(0)
            }
            other => Err(format!("unknown command `{other}`\n\n{USAGE}")),
        },
        None => Err(USAGE.to_owned()),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

/// The workspace's root: this crate's parent.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| ".".into(), Path::to_owned)
}

fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Runs a step and says what it is; fails with its name.
fn step(name: &str, command: &mut Command) -> Result<(), String> {
    eprintln!("\n== {name}");
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{name}: {status}")),
        Err(error) => Err(format!("{name}: cannot run {:?}: {error}", command.get_program())),
    }
}

/// Where cargo puts binaries, as cargo itself says.
fn target_dir() -> Result<PathBuf, String> {
    let output = cargo()
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cargo metadata: {error}"))?;
    let value: serde_json::Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("cargo metadata printed no JSON: {error}"))?;
    value["target_directory"]
        .as_str()
        .map(PathBuf::from)
        .ok_or_else(|| "cargo metadata names no target directory".to_owned())
}

fn up(args: &[String]) -> Result<u8, String> {
    let release = args.iter().any(|arg| arg == "--release");
    let rest: Vec<_> = args.iter().filter(|arg| *arg != "--release").collect();
    let mut build = cargo();
    build.args(["build", "--quiet", "--bins"]).args(PROGRAMS);
    if release {
        build.arg("--release");
    }
    // Standard output belongs to `weft up` (it may be asked for JSON).
    eprintln!("building weftd, weft and hello; the first time takes some minutes");
    match build.stdout(Stdio::null()).status() {
        Ok(status) if status.success() => {}
        Ok(status) => return Err(format!("build: {status}")),
        Err(error) => return Err(format!("build: {error}")),
    }
    let weft = target_dir()?.join(if release { "release" } else { "debug" }).join("weft");
    // In this process's place: Ctrl-C then reaches nobody but `weft`, the shell waits for its
    // clean-up, and the exit code is its own.
    let error = Command::new(&weft).arg("up").args(rest).exec();
    Err(format!("{}: {error}", weft.display()))
}

fn have(program: &str, args: &[&str]) -> bool {
    Command::new(program)
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn test(args: &[String]) -> Result<u8, String> {
    let quick = args.iter().any(|arg| arg == "--quick");
    let ci = std::env::var_os("CI").is_some_and(|value| value == "true");

    eprintln!("== tidy");
    check::tidy(&root())?;
    step("format", cargo().args(["fmt", "--all", "--", "--check"]))?;
    step(
        "clippy",
        cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]),
    )?;
    // The whole-system tests start these.
    step("build", cargo().args(["build", "--workspace", "--bins"]))?;
    if have("cargo", &["nextest", "--version"]) {
        let profile = if ci { "ci" } else { "default" };
        step("tests", cargo().args(["nextest", "run", "--workspace", "--profile", profile]))?;
    } else {
        eprintln!("\ncargo-nextest is not installed: running the tests with cargo's own runner");
        step(
            "tests",
            cargo().args([
                "test",
                "--workspace",
                "--lib",
                "--bins",
                "--tests",
                "--",
                "--test-threads=2",
            ]),
        )?;
    }
    step("doc tests", cargo().args(["test", "--workspace", "--doc", "--quiet"]))?;
    if !quick {
        step(
            "docs",
            cargo()
                .args(["doc", "--workspace", "--no-deps", "--document-private-items"])
                .env("RUSTDOCFLAGS", "-D warnings"),
        )?;
    }
    if have("cargo", &["deny", "--version"]) {
        // The advisory database comes from outside; without it the other checks still count.
        step(
            "licences, bans, sources",
            cargo().args(["deny", "--offline", "check", "licenses", "bans", "sources"]),
        )?;
    } else {
        eprintln!("\nskipped: licences, bans, sources (cargo-deny is not installed)");
    }
    eprintln!("\nall checks passed");
    Ok(0)
}

/// Each is a binary of weft-bench.
const BENCHES: [&str; 7] =
    ["remote", "mailbox", "propose", "failover", "services", "idle", "sessions"];
/// Those of them that start real nodes.
const ON_NODES: [&str; 4] = ["failover", "services", "idle", "sessions"];
/// What a cluster needs built: `weftd`, `weft-shim`, `weft` and `hello`.
const PROGRAMS: [&str; 8] =
    ["-p", "weft-node", "-p", "weft-runtime", "-p", "weft-cli", "-p", "weft-hello"];

fn bench(args: &[String]) -> Result<u8, String> {
    let all = BENCHES.join(", ");
    let Some((name, rest)) = args.split_first() else {
        return Err(format!("bench: which? {all}"));
    };
    if !BENCHES.contains(&name.as_str()) {
        return Err(format!("bench: `{name}` is not a benchmark: expected one of {all}"));
    }
    if ON_NODES.contains(&name.as_str()) {
        step("build", cargo().args(["build", "--release", "--quiet", "--bins"]).args(PROGRAMS))?;
    }
    step(
        name,
        cargo()
            .args(["run", "--release", "--quiet", "-p", "weft-bench", "--bin", name, "--"])
            .args(rest),
    )?;
    Ok(0)
}

/// The context, then the image (node/container).
fn image(args: &[String]) -> Result<u8, String> {
    let tag = match args {
        [] => format!("localhost/weft:{}", env!("CARGO_PKG_VERSION")),
        [tag] if !tag.starts_with('-') => tag.clone(),
        _ => return Err("image: expected at most a tag, such as localhost/weft:1".into()),
    };
    step("build", cargo().args(["build", "--release", "--quiet", "--bins"]).args(PROGRAMS))?;
    let (recipe, target) = (root().join("node/container"), target_dir()?);
    let context = target.join("image");
    let programs = target.join("release");
    step("context", Command::new(recipe.join("context.sh")).arg(programs).arg(&context))?;
    let file = recipe.join("Containerfile");
    let build = ["build", "--pull=never", "-t", &tag];
    step("image", Command::new("podman").args(build).arg("-f").arg(file).arg(context))?;
    eprintln!("{tag} is made; node/container/Containerfile says how to run it");
    Ok(0)
}
