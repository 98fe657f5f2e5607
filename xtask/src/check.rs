//! Checks on the tree itself: who may know whom, who may name what (docs/architecture.md).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Runs every check; the error lists all that is wrong.
pub(crate) fn tidy(root: &Path) -> Result<(), String> {
    let mut wrong = Vec::new();
    let metadata = metadata(root)?;
    wrong.extend(dependencies(&metadata));
    wrong.extend(cli_is_light(root)?);
    wrong.extend(one_tls_provider(root));
    wrong.extend(sources(root)?);
    if wrong.is_empty() { Ok(()) } else { Err(format!("tidy:\n  {}", wrong.join("\n  "))) }
}

fn metadata(root: &Path) -> Result<serde_json::Value, String> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(root)
        .args(["metadata", "--format-version=1", "--no-deps"])
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cargo metadata: {error}"))?;
    serde_json::from_slice(&output.stdout).map_err(|error| format!("cargo metadata: {error}"))
}

/// Invariant 1: dependencies point one way. For each of our crates, which of our crates it may use.
const MAY_USE: &[(&str, &[&str])] = &[
    ("weft-wire", &[]),
    ("weft-identity", &["weft-wire"]),
    ("weft-store", &[]),
    ("weft-link", &["weft-wire", "weft-identity"]),
    ("weft-agreement", &["weft-wire", "weft-link", "weft-store"]),
    ("weft-protocol", &["weft-wire"]),
    ("weft-config", &["weft-protocol", "weft-wire"]),
    ("weft-supervision", &["weft-wire", "weft-link", "weft-protocol"]),
    (
        "weft-registry",
        &[
            "weft-wire",
            "weft-agreement",
            "weft-identity",
            "weft-link",
            "weft-protocol",
            "weft-store",
            "weft-supervision",
        ],
    ),
    ("weft-engine", &["weft-wire", "weft-protocol"]),
    (
        "weft-runtime",
        &["weft-engine", "weft-wire", "weft-link", "weft-protocol", "weft-supervision"],
    ),
    ("weft-monitor", &["weft-wire", "weft-link", "weft-protocol", "weft-supervision"]),
    (
        "weft-gateway",
        // The kernel is a library without state: what it says of an envelope, both ends must.
        &[
            "weft-wire",
            "weft-link",
            "weft-macp",
            "weft-protocol",
            "weft-session",
            "weft-supervision",
        ],
    ),
    ("weft-macp", &[]),
    ("weft-session", &["weft-macp", "weft-wire"]),
    (
        "weft-session-actor",
        &[
            "weft-wire",
            "weft-agreement",
            "weft-link",
            "weft-macp",
            "weft-protocol",
            "weft-session",
            "weft-store",
            "weft-supervision",
        ],
    ),
    ("weft-cli", &["weft-config", "weft-wire", "weft-identity", "weft-link", "weft-protocol"]),
    ("weft-hello", &[]),
    ("xtask", &[]),
];

fn dependencies(metadata: &serde_json::Value) -> Vec<String> {
    let mut wrong = Vec::new();
    let may: BTreeMap<_, _> = MAY_USE.iter().copied().collect();
    let empty = Vec::new();
    for package in metadata["packages"].as_array().unwrap_or(&empty) {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(allowed) = may.get(name) else { continue };
        for dependency in package["dependencies"].as_array().unwrap_or(&empty) {
            let used = dependency["name"].as_str().unwrap_or_default();
            let is_dev = dependency["kind"].as_str() == Some("dev");
            if used.starts_with("weft-") && !is_dev && !allowed.contains(&used) {
                wrong.push(format!(
                    "{name} depends on {used}: it may use {allowed:?} (invariant 1)"
                ));
            }
        }
    }
    wrong
}

/// Invariant 5: the CLI compiles no SQLite and no consensus engine.
fn cli_is_light(root: &Path) -> Result<Vec<String>, String> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(root)
        .args(["tree", "-p", "weft-cli", "--edges", "normal,build", "--prefix", "none"])
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cargo tree: {error}"))?;
    let names: BTreeSet<&str> = std::str::from_utf8(&output.stdout)
        .map_err(|error| format!("cargo tree: {error}"))?
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    Ok(["sqlx", "libsqlite3-sys", "openraft", "foca", "actix"]
        .into_iter()
        .filter(|name| names.contains(name))
        .map(|name| format!("weft-cli compiles {name} (invariant 5)"))
        .collect())
}

/// Invariant 6: one TLS provider.
fn one_tls_provider(root: &Path) -> Vec<String> {
    let lock = std::fs::read_to_string(root.join("Cargo.lock")).unwrap_or_default();
    ["aws-lc-rs", "aws-lc-sys", "openssl-sys", "rusqlite"]
        .into_iter()
        .filter(|name| lock.contains(&format!("name = \"{name}\"")))
        .map(|name| format!("Cargo.lock holds {name} (invariant 6)"))
        .collect()
}

/// A word only some files may hold.
struct Only {
    word: &'static str,
    /// Path prefixes, relative to the root.
    within: &'static [&'static str],
    why: &'static str,
}

const ONLY: &[Only] = &[
    Only {
        word: "quinn::",
        within: &["fabric/link/", "benches/", "xtask/src/check.rs"],
        why: "only link and the benches name quinn (invariant 2)",
    },
    Only {
        word: "bincode::",
        within: &["fabric/wire/src/codec.rs", "xtask/src/check.rs"],
        why: "one module names bincode (invariant 3)",
    },
    Only {
        word: "openraft::",
        within: &["fabric/agreement/src/consensus/engine/", "xtask/src/check.rs"],
        why: "one module names openraft (invariant 2)",
    },
    Only {
        word: "foca::",
        within: &["fabric/agreement/src/membership/swim", "xtask/src/check.rs"],
        why: "one module names foca (invariant 2)",
    },
    Only {
        word: "bollard::",
        within: &["actors/runtime/engine/", "xtask/src/check.rs"],
        why: "one crate names bollard (invariant 2)",
    },
    Only {
        word: "tonic::",
        within: &[
            "actors/gateway/src/macp/",
            "benches/",
            "xtask/src/check.rs",
            "tests/src/macp.rs",
        ],
        why: "only the gateway's gRPC face and clients in benches and tests name tonic",
    },
    Only { word: "unsafe ", within: &["xtask/src/check.rs"], why: "no unsafe code" },
];

/// Words a pure state module must not hold (invariant 4).
const NOT_IN_STATE: &[&str] = &[
    "Instant::now",
    "SystemTime::now",
    "Timestamp::now",
    "SystemClock",
    "rand::",
    "SystemRandom",
    "Uuid::new_v4",
    "Uuid::now_v7",
    "std::fs",
    "tokio::",
    "std::net",
];

fn sources(root: &Path) -> Result<Vec<String>, String> {
    let mut wrong = Vec::new();
    let mut files = Vec::new();
    for dir in
        ["config", "fabric", "actors", "node", "cli", "examples", "benches", "tests", "xtask"]
    {
        walk(&root.join(dir), &mut files).map_err(|error| format!("{dir}: {error}"))?;
    }
    for file in files {
        let name = file.strip_prefix(root).unwrap_or(&file).to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&file).map_err(|error| format!("{name}: {error}"))?;
        if !text.starts_with("//!") {
            wrong.push(format!("{name}:1: a file opens with a //! line that says what it is for"));
        }
        let is_state = is_pure_state(&name);
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for only in ONLY {
                if code.contains(only.word) && !only.within.iter().any(|p| name.starts_with(p)) {
                    wrong.push(format!("{name}:{}: {}", number + 1, only.why));
                }
            }
            if is_state && let Some(word) = NOT_IN_STATE.iter().find(|word| code.contains(**word)) {
                wrong.push(format!(
                    "{name}:{}: `{word}` in a pure state machine (invariant 4)",
                    number + 1
                ));
            }
        }
    }
    Ok(wrong)
}

/// `actors/*/src/state.rs` and everything beneath `state/`, `placement/`, `steward/` and `kernel/`,
/// tests apart.
fn is_pure_state(name: &str) -> bool {
    let parts: Vec<_> = name.split('/').collect();
    matches!(parts.as_slice(), ["actors", _, "src", "state.rs"])
        || (matches!(
            parts.as_slice(),
            ["actors", _, "src", "state" | "placement" | "steward" | "kernel", ..]
        ) && !name.ends_with("tests.rs"))
}

fn walk(dir: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                walk(&path, files)?;
            }
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            files.push(path);
        }
    }
    Ok(())
}
