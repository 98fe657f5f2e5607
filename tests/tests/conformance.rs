//! The published conformance runner, with the fixtures that the published reference runtime is
//! tested with, against a durable node with default settings.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use weft_tests::macp::{free_address, sessions_only};
use weft_tests::sdk::{SHOW, bounded};
use weft_tests::{eventually, published, skip};

const RUNNER: (&str, &str) = ("macp-conform", "0.13.0");
/// Has the fixtures.
const REFERENCE: (&str, &str) = ("macp-runtime", "0.13.0");
/// Those of sessions; of one more the runner says that it needs a server's clock.
const SESSIONS: usize = 39;

struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The runner and the fixtures.
fn published() -> Result<(PathBuf, PathBuf), String> {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let sources = published::sources(home, REFERENCE.0, REFERENCE.1)?;
    let options = ["--debug", "--features", "grpc"];
    let runner = published::program(home, RUNNER.0, RUNNER.1, &options)?;
    Ok((runner, sources.join("tests/conformance")))
}

#[test]
fn the_published_conformance_runner_passes_all_fixtures_of_sessions() {
    let (runner, fixtures) = match published() {
        Ok(both) => both,
        Err(why) => return skip(&why),
    };
    let dir = tempfile::tempdir().expect("a temporary directory");
    let address = free_address();
    let log = std::fs::File::create(dir.path().join("log")).expect("a file");
    let mut weftd = sessions_only();
    weftd
        .env("MACP_ALLOW_INSECURE", "1")
        .env("MACP_DATA_DIR", dir.path().join("data"))
        .env("MACP_BIND_ADDR", &address)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    let _daemon = Daemon(weftd.spawn().expect("weftd starts"));
    eventually("it listens", || TcpStream::connect(&address).ok());

    let report = dir.path().join("report.json");
    let mut run = Command::new(runner);
    run.arg("--target").arg(format!("grpc://{address}")).arg("--fixtures").arg(fixtures);
    run.args(["--level", "standard", "--multi-round", "--report"]).arg(&report);
    let printed = bounded(&mut run, SHOW).unwrap_or_else(|error| panic!("{error}"));
    eprintln!("{printed}");
    let report = std::fs::read_to_string(report).expect("a report");
    let report: Value = serde_json::from_str(&report).expect("JSON");
    let results = report["fixtures"].as_array().cloned().unwrap_or_default();
    let sessions = || results.iter().filter(|result| result["kind"] == "session");
    let of = |outcome: &str| sessions().filter(|result| result["outcome"] == outcome).count();
    eprintln!("measured: {} of {} fixtures of sessions passed", of("pass"), sessions().count());
    for result in sessions() {
        let excused = result["outcome"] == "skipped" && result["reason"] == "needs-clock-control";
        assert!(result["outcome"] == "pass" || excused, "{result}");
    }
    assert_eq!(of("pass"), SESSIONS, "{printed}");
}
