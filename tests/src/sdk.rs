//! The published Python SDK of MACP, in a virtual environment.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::fs::FlockOperation;
use weft_wire::{Clock, SystemClock};

/// Who issues the JSON Web Tokens of tests.
pub const ISSUER: &str = "https://issuer.example";
/// What signs them (HS256).
pub const SECRET: &str = "a secret of thirty-two octets !!";
/// [`SECRET`] as a JSON Web Key Set.
pub const JWKS: &str = r#"{"keys":[{"kty":"oct","kid":"k","alg":"HS256","k":"YSBzZWNyZXQgb2YgdGhpcnR5LXR3byBvY3RldHMgISE"}]}"#;
/// The client, as published.
const SDK: &str = "macp-sdk-python==0.22.0";
/// Installing it from the package index may take so long.
const INSTALL: Duration = Duration::from_secs(300);
/// One run of the script may take so long.
pub const SHOW: Duration = Duration::from_secs(180);

/// A file beside the script.
pub fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk").join(name)
}

/// Runs a program to its end, or kills it at the deadline; what it printed, or why it failed.
///
/// # Errors
/// How it ended, with what it printed.
///
/// # Panics
/// If there is no temporary directory.
pub fn bounded(command: &mut Command, within: Duration) -> Result<String, String> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("out");
    let out = File::create(&path).expect("a file");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(out.try_clone().expect("a second handle"))
        .stderr(out)
        .spawn()
        .map_err(|error| error.to_string())?;
    let start = SystemClock.now();
    let status = loop {
        match child.try_wait().expect("a child can be waited for") {
            Some(status) => break Some(status),
            None if start.elapsed() > within => {
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
            None => std::thread::park_timeout(Duration::from_millis(10)),
        }
    };
    let printed = fs::read_to_string(path).unwrap_or_default();
    match status {
        Some(status) if status.success() => Ok(printed),
        Some(status) => Err(format!("{status}\n{printed}")),
        None => Err(format!("not within {within:?}\n{printed}")),
    }
}

/// A Python that has the SDK, installed once into a virtual environment in `home`; `None`: the test
/// is to be skipped, which was said.
///
/// # Panics
/// With `CI=true`, where a test that is skipped is a failure.
pub fn python(home: &Path) -> Option<PathBuf> {
    match installed(home) {
        Ok(python) => Some(python),
        Err(why) => {
            crate::skip(&why);
            None
        }
    }
}

fn installed(home: &Path) -> Result<PathBuf, String> {
    fs::create_dir_all(home).map_err(|error| error.to_string())?;
    // Tests run in processes of their own: one installs, the others wait.
    let lock = File::create(home.join("macp-sdk.lock")).map_err(|error| error.to_string())?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(|error| error.to_string())?;
    let (venv, done) = (home.join("macp-sdk"), home.join("macp-sdk.done"));
    let python = venv.join("bin/python");
    if fs::read_to_string(&done).is_ok_and(|which| which == SDK) && python.is_file() {
        return Ok(python);
    }
    bounded(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv), INSTALL)
        .map_err(|error| format!("no virtual environment of python3: {error}"))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", SDK];
    bounded(Command::new(&python).args(pip), INSTALL)
        .map_err(|error| format!("{SDK} cannot be installed: {error}"))?;
    fs::write(done, SDK).map_err(|error| error.to_string())?;
    Ok(python)
}
