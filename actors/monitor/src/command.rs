//! Running the alert command (orchestration §12): its argv directly, no shell, a minimal
//! environment, 30 s, its process group killed at the end, the head of its output kept.

use std::ffi::OsString;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use weft_protocol::{Alert, AlertRun};

/// Of its output, both streams together, so much is kept.
const HEAD: usize = 4096;
/// One that writes more than this is not read any more.
const FLOOD: usize = 1 << 20;
/// How often it is looked at whether it has ended.
const LOOK: Duration = Duration::from_millis(20);
/// What it left in the pipes is read no longer than this once it is gone.
const REST: Duration = Duration::from_millis(500);
/// One that was killed has so long to be gone.
const REAP: Duration = Duration::from_secs(5);
/// Where programs are looked for when the daemon itself has no `PATH`.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the command finds in its environment beside `PATH` and `HOME`: the names of §12 under
/// `MCP_`, the same and some more under `WEFT_`. What does not apply is empty.
pub(crate) fn variables(alert: &Alert) -> Vec<(String, String)> {
    let known = [
        ("COMPONENT", alert.component.clone()),
        ("SERVICE", alert.service.clone()),
        ("NODE", alert.node.clone()),
        ("DESIRED", alert.desired.map(|d| d.as_str().to_owned()).unwrap_or_default()),
        ("OBSERVED", alert.observed.map(|o| o.as_str().to_owned()).unwrap_or_default()),
        ("PREV_STATE", alert.prev_state.map(|o| o.as_str().to_owned()).unwrap_or_default()),
        ("ALERT_TYPE", alert.kind.as_str().to_owned()),
        ("TRANSITIONS", alert.transitions.to_string()),
    ];
    let own = [
        ("REPLICA", alert.replica.to_string()),
        ("ALERT_ID", alert.id.to_string()),
        ("ALERT_TIME", weft_protocol::format_time(alert.time)),
        ("ALERT_REASON", alert.reason.clone()),
    ];
    let mut all = Vec::new();
    for (name, value) in known {
        all.push((format!("MCP_{name}"), value.clone()));
        all.push((format!("WEFT_{name}"), value));
    }
    all.extend(own.map(|(name, value)| (format!("WEFT_{name}"), value)));
    for (_, value) in &mut all {
        // No environment can hold one.
        value.retain(|c| c != '\0');
    }
    all
}

/// Runs it to its end. Dropping the future kills all of it.
pub(crate) async fn run(argv: &[String], alert: &Alert, within: Duration) -> AlertRun {
    let Some((program, arguments)) = argv.split_first() else { return AlertRun::default() };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| OsString::from(PATH)))
        .envs(std::env::var_os("HOME").map(|home| ("HOME", home)))
        .envs(variables(alert))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    match command.spawn() {
        Ok(child) => attend(child, within).await,
        Err(error) => AlertRun {
            problem: format!("{program} cannot be started: {error}"),
            ..AlertRun::default()
        },
    }
}

/// All that it started, unless that left its process group on purpose.
struct Group(Option<Pid>);

impl Group {
    fn kill(&self) {
        if let Some(pid) = self.0 {
            // Gone already, most times.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }

    /// Whether its first process has ended. It is not waited for here: while it is not, nobody
    /// else can get its number, and with it its group.
    fn has_ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        self.0.is_none_or(|pid| !matches!(waitid(WaitId::Pid(pid), options), Ok(None)))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn attend(mut child: Child, within: Duration) -> AlertRun {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let mut group = Group(pid);
    let mut head = Head::default();
    let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
    let ended = {
        let watch = async {
            while !group.has_ended() {
                tokio::time::sleep(LOOK).await;
            }
        };
        let read = async {
            drain(&mut out, &mut err, &mut head).await;
            std::future::pending().await
        };
        tokio::select! {
            ended = tokio::time::timeout(within, watch) => ended.is_ok(),
            ended = read => ended,
        }
    };
    // Its first process has not been waited for: the group is still its own.
    group.kill();
    let _ = tokio::time::timeout(REST, drain(&mut out, &mut err, &mut head)).await;
    let status = tokio::time::timeout(REAP, child.wait()).await;
    group.0 = None;
    let (exit, mut problem) = match status {
        _ if !ended => (None, format!("stopped after {}", weft_protocol::uptime(within))),
        Ok(Ok(status)) => outcome(status),
        Ok(Err(error)) => (None, error.to_string()),
        Err(_) => (None, "killed, and has not ended yet".to_owned()),
    };
    if head.flooded {
        let more = "it wrote more than 1 MiB and was not read to the end";
        problem = if problem.is_empty() { more.to_owned() } else { format!("{problem}; {more}") };
    }
    AlertRun { exit, problem, output: head.text() }
}

/// Reads both to their ends; one that floods is closed, and ends by that unless it does not care.
async fn drain(out: &mut Option<ChildStdout>, err: &mut Option<ChildStderr>, head: &mut Head) {
    let (mut one, mut two) = (vec![0; 8192], vec![0; 8192]);
    while out.is_some() || err.is_some() {
        tokio::select! {
            read = next(out, &mut one) => match read {
                Some(read) => head.take(one.get(..read).unwrap_or_default()),
                None => *out = None,
            },
            read = next(err, &mut two) => match read {
                Some(read) => head.take(two.get(..read).unwrap_or_default()),
                None => *err = None,
            },
        }
        if head.seen > FLOOD {
            head.flooded = true;
            (*out, *err) = (None, None);
        }
    }
}

/// How much was read; `None`: it has ended.
async fn next<R: AsyncRead + Unpin>(from: &mut Option<R>, into: &mut [u8]) -> Option<usize> {
    match from {
        Some(from) => from.read(into).await.ok().filter(|read| *read > 0),
        None => std::future::pending().await,
    }
}

fn outcome(status: ExitStatus) -> (Option<i32>, String) {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => (Some(code), String::new()),
        (None, Some(signal)) => (None, format!("signal {signal}")),
        (None, None) => (None, status.to_string()),
    }
}

/// What is kept of the output.
#[derive(Default)]
struct Head {
    kept: Vec<u8>,
    seen: usize,
    flooded: bool,
}

impl Head {
    fn take(&mut self, bytes: &[u8]) {
        self.seen = self.seen.saturating_add(bytes.len());
        let room = HEAD.saturating_sub(self.kept.len()).min(bytes.len());
        self.kept.extend_from_slice(bytes.get(..room).unwrap_or_default());
    }

    fn text(self) -> String {
        let mut text = String::from_utf8_lossy(&self.kept).into_owned();
        text.truncate(text.floor_char_boundary(HEAD));
        text
    }
}

#[cfg(test)]
mod tests;
