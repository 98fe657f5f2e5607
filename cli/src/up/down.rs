//! `down`: finds daemons and shims by their state files and stops them, then removes what `up`
//! made. Also how a failed or interrupted `up` cleans up.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde::Serialize;
use weft_protocol::files::{ProcessFile, ShimFile};

use super::process::{session_of, signal, started_on, wait_gone};
use super::state::{UpFile, containers, daemon, forget, has_containers, last, shims};
use crate::args::Down;
use crate::commands::App;
use crate::error::{CliError, Exit, Result};
use crate::paths::absolute;

/// A daemon has this long between SIGTERM and SIGKILL (orchestration §27 allows 30 s; nothing is
/// kept here).
const DAEMON_GRACE: Duration = Duration::from_secs(10);
/// A shim has this long: it gives its component the component's own grace, 10 s by default.
const SHIM_GRACE: Duration = Duration::from_secs(15);
/// After SIGKILL.
const KILL_GRACE: Duration = Duration::from_secs(5);

#[derive(Debug, Serialize)]
struct View {
    dir: String,
    daemons: Vec<String>,
    components: Vec<String>,
    removed: bool,
}

/// What runs in a directory.
#[derive(Debug, Default)]
struct Found {
    daemons: Vec<(String, ProcessFile)>,
    shims: Vec<ShimFile>,
    containers: Vec<String>,
}

impl Found {
    fn components(&self) -> Vec<String> {
        let processes = self.shims.iter().map(|shim| shim.key.to_string());
        processes.chain(self.containers.iter().cloned()).collect()
    }
}

fn find(dir: &Path, nodes: &[String]) -> Found {
    let mut found = Found::default();
    for node in nodes {
        let data = dir.join(node);
        found
            .daemons
            .extend(daemon(&data).filter(ProcessFile::is_running).map(|d| (node.clone(), d)));
        found.containers.extend(containers(&data));
        // A component may outlive its shim.
        found.shims.extend(
            shims(&data)
                .into_iter()
                .filter(|s| s.shim.is_running() || !session_of(&s.shim).is_empty()),
        );
    }
    found
}

pub(crate) async fn run(app: &App, args: &Down) -> Result<Exit> {
    let dir = match &args.dir {
        Some(dir) => absolute(dir)?,
        None => last(&app.env).ok_or_else(|| {
            CliError::failed("no cluster of `weft up` is remembered")
                .help("name its directory with --dir")
        })?,
    };
    let Some(file) = UpFile::read(&dir)? else {
        return Err(CliError::failed(format!("{} was not made by `weft up`", dir.display()))
            .help("name the directory that `weft up` printed"));
    };
    let found = find(&dir, &file.nodes);
    let what = destroys(&dir, &file, &found);
    let view = |removed| View {
        dir: dir.display().to_string(),
        daemons: found.daemons.iter().map(|(name, _)| name.clone()).collect(),
        components: found.components(),
        removed,
    };
    if args.dry_run {
        app.output.result(&view(false), format!("would {what}"))?;
        return Ok(Exit::Ok);
    }
    // Scripts say `weft down` without more (design §10 wants a question where there is a person):
    // all it destroys was made by `weft up` for this.
    if std::io::IsTerminal::is_terminal(&std::io::stdin()) {
        app.output.confirm(&what)?;
    } else {
        app.output.progress(format!("weft down will {what}"));
    }
    stop(&dir, &file.nodes, &[]).await?;
    let removed = remove(app, &dir, &file)?;
    let text = if removed {
        format!("stopped, and removed {}", dir.display())
    } else {
        format!("stopped; {} stays, `weft up --dir` starts it again", dir.display())
    };
    app.output.result(&view(removed), text)?;
    Ok(Exit::Ok)
}

fn destroys(dir: &Path, file: &UpFile, found: &Found) -> String {
    let plural = |n: usize, what: &str| {
        if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
    };
    let names: Vec<&str> = found.daemons.iter().map(|(name, _)| name.as_str()).collect();
    let mut text = format!(
        "stop {}{} and {}",
        plural(names.len(), "daemon"),
        if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) },
        plural(found.components().len(), "component"),
    );
    if file.made_dir {
        text.push_str(&format!(", and remove {} with all data in it", dir.display()));
    }
    text
}

/// Removes the directory if `up` made it, and forgets it. Whether it is gone.
///
/// # Errors
/// Names the directory.
pub(crate) fn remove(app: &App, dir: &Path, file: &UpFile) -> Result<bool> {
    forget(&app.env, dir);
    if !file.made_dir {
        return Ok(false);
    }
    std::fs::remove_dir_all(dir).map_err(|error| CliError::io("remove", dir, &error))?;
    Ok(true)
}

/// Stops every daemon, then every shim and with it its component; SIGTERM first, SIGKILL when the
/// grace is over. Daemons first: a living one would start again what is stopped. `own` are daemons
/// that the caller itself started.
///
/// # Errors
/// Names the processes that would not go.
pub(crate) async fn stop(dir: &Path, nodes: &[String], own: &[ProcessFile]) -> Result<()> {
    let data: Vec<PathBuf> = nodes.iter().map(|node| dir.join(node)).collect();
    let mut daemons: Vec<ProcessFile> = data.iter().filter_map(|d| daemon(d)).collect();
    // One of ours that has not come as far as its state file.
    daemons.extend(
        own.iter().filter(|o| !daemons.iter().any(|d| d.pid == o.pid)).cloned().collect::<Vec<_>>(),
    );
    let mut left = end(&daemons, DAEMON_GRACE).await;
    // What was started but has not written its state file: nothing starts anything any more,
    // so what is there now is all there will be.
    let (mut known, mut strays) = (Vec::new(), Vec::new());
    for dir in &data {
        known.extend(shims(dir).into_iter().map(|s| s.shim));
        strays.extend(started_on(dir));
    }
    strays.retain(|s| !known.iter().any(|k| k.pid == s.pid && k.start_ticks == s.start_ticks));
    let shims: Vec<ProcessFile> = known.into_iter().chain(strays).collect();
    left.extend(end(&shims, SHIM_GRACE).await);
    // Components whose shim is gone; their grace is over, or there is nobody to give it.
    let orphans: Vec<ProcessFile> = shims.iter().flat_map(session_of).collect();
    left.extend(end(&orphans, Duration::from_secs(2)).await);
    for dir in data.iter().filter(|dir| has_containers(dir)) {
        remove_containers(dir).await?;
    }
    if left.is_empty() {
        return Ok(());
    }
    let pids: Vec<String> = left.iter().map(|p| p.pid.to_string()).collect();
    Err(CliError::failed(format!("processes {} would not end", pids.join(", ")))
        .help("look at them with `ps`; then run `weft down` again"))
}

/// Has `weftd`, which knows container engines, remove a node's containers.
///
/// # Errors
/// It is not there, or says why not.
async fn remove_containers(data: &Path) -> Result<()> {
    let weft = std::env::current_exe()
        .map_err(|error| CliError::failed("cannot tell where weft itself is").cause(error))?;
    let done = tokio::process::Command::new(weft.with_file_name("weftd"))
        .arg("remove-containers")
        .arg("--config")
        .arg(data.join("node.toml"))
        .stdin(std::process::Stdio::null())
        .output()
        .await
        .map_err(|error| CliError::failed("cannot start weftd").cause(error))?;
    if done.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&done.stderr);
    Err(CliError::failed(format!("containers of {} are left", data.display()))
        .cause(words.trim())
        .help("remove them by their label: `podman ps --all --filter label=weft.node`"))
}

/// SIGTERM, then SIGKILL. Returns what is still there.
async fn end(processes: &[ProcessFile], grace: Duration) -> Vec<ProcessFile> {
    for process in processes {
        signal(process, Signal::TERM);
    }
    let left = wait_gone(processes, grace).await;
    for process in &left {
        signal(process, Signal::KILL);
    }
    wait_gone(&left, KILL_GRACE).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_protocol::ComponentKey;
    use weft_protocol::files::FILES_VERSION;
    use weft_wire::WallTime;

    fn spawn(program: &str, arguments: &[&str]) -> std::process::Child {
        std::process::Command::new(program)
            .args(arguments)
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("spawns")
    }

    #[tokio::test]
    async fn daemons_and_shims_are_found_by_their_files_and_stopped() {
        let dir = tempfile::tempdir().expect("temp dir");
        let data = dir.path().join("n1");
        let component = data.join("components/web/1/api");
        std::fs::create_dir_all(&component).expect("makes");
        let mut daemon_child = spawn("sleep", &["60"]);
        // One that ignores SIGTERM would take the grace; `sleep` does not.
        let mut shim_child = spawn("sleep", &["60"]);
        let daemon_file = ProcessFile::of(daemon_child.id()).expect("named");
        let shim = ShimFile {
            version: FILES_VERSION,
            key: ComponentKey { service: "web".into(), replica: 1, component: "api".into() },
            spec_hash: String::new(),
            epoch: 0,
            revision: 1,
            generation: 1,
            shim: ProcessFile::of(shim_child.id()).expect("named"),
            child: None,
            started_at: WallTime::from_micros(0),
            ports: vec![],
            limits: String::new(),
            lease: None,
            exit: None,
        };
        let write = |path: PathBuf, text: String| std::fs::write(path, text).expect("writes");
        write(data.join("weftd.json"), serde_json::to_string(&daemon_file).expect("JSON"));
        write(component.join("shim.json"), serde_json::to_string(&shim).expect("JSON"));

        let nodes = ["n1".to_owned()];
        let found = find(dir.path(), &nodes);
        assert_eq!((found.daemons.len(), found.shims.len()), (1, 1));
        stop(dir.path(), &nodes, &[]).await.expect("stops");
        assert!(find(dir.path(), &nodes).daemons.is_empty());
        for child in [&mut daemon_child, &mut shim_child] {
            assert!(child.wait().expect("reaped").code().is_none(), "ended by a signal");
        }
    }

    #[tokio::test]
    async fn a_state_file_of_a_process_that_is_gone_stops_nothing() {
        let dir = tempfile::tempdir().expect("temp dir");
        std::fs::create_dir(dir.path().join("n1")).expect("makes");
        let mut bystander = spawn("sleep", &["60"]);
        let mut file = ProcessFile::of(bystander.id()).expect("named");
        file.start_ticks = 1;
        let text = serde_json::to_string(&file).expect("JSON");
        std::fs::write(dir.path().join("n1/weftd.json"), text).expect("writes");
        stop(dir.path(), &["n1".to_owned()], &[]).await.expect("nothing to stop");
        assert!(bystander.try_wait().expect("asks").is_none());
        bystander.kill().expect("kills");
        bystander.wait().expect("reaped");
    }

    #[test]
    fn what_is_destroyed_is_named() {
        let file =
            UpFile { version: 1, made_dir: true, nodes: vec!["n1".into()], service: String::new() };
        let text = destroys(Path::new("/d"), &file, &Found::default());
        assert_eq!(text, "stop 0 daemons and 0 components, and remove /d with all data in it");
        let kept = UpFile { made_dir: false, ..file };
        assert!(!destroys(Path::new("/d"), &kept, &Found::default()).contains("remove"));
    }
}
