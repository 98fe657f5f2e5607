//! A probe's command beside a process: in the component's environment and directory, in a process
//! group of its own, which ends with it.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

use super::SAID;
use crate::disk::read_json;
use crate::process;
use crate::shim::{SPEC_FILE, ShimSpec};

/// What is left in the pipes of a command that has ended is read no longer than this.
const REST: Duration = Duration::from_millis(100);

/// All that the command started, unless that left its group on purpose. Killed when dropped: the
/// number of a group whose first process was waited for a moment ago is nobody else's yet.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Runs it to its end; dropping the future kills it.
pub(super) async fn once(argv: &[String], dir: &Path) -> Result<(), String> {
    let Some((program, arguments)) = argv.split_first() else { return Err("no command".into()) };
    let path = dir.join(SPEC_FILE);
    let spec = tokio::task::spawn_blocking(move || read_json::<ShimSpec>(&path));
    let spec = match spec.await {
        Ok(Ok(Some(spec))) => spec,
        Ok(Ok(None)) => return Err("the component is not started".into()),
        Ok(Err(error)) => return Err(format!("{SPEC_FILE}: {error}")),
        Err(error) => return Err(error.to_string()),
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(spec.env)
        .current_dir(&spec.workdir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let mut child =
        command.spawn().map_err(|error| format!("`{program}` cannot be started: {error}"))?;
    let group = Group(child.id().and_then(process::to_pid));
    let (mut out, mut err) = (Said::default(), Said::default());
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let mut reading = Box::pin(async { tokio::join!(out.read(stdout), err.read(stderr)) });
    let (status, read) = tokio::select! {
        status = child.wait() => (status, false),
        _ = &mut reading => (child.wait().await, true),
    };
    let status = status.map_err(|error| error.to_string())?;
    drop(group);
    if !read {
        let _ = tokio::time::timeout(REST, &mut reading).await;
    }
    drop(reading);
    if status.success() {
        return Ok(());
    }
    let said = if err.text.is_empty() { out.text } else { err.text };
    Err(format!("`{program}` ended with {status}: {}", String::from_utf8_lossy(&said).trim()))
}

/// The head of what it writes; the rest is read and dropped, so that it never waits.
#[derive(Default)]
struct Said {
    text: Vec<u8>,
    over: bool,
}

impl Said {
    async fn read(&mut self, pipe: Option<impl AsyncRead + Unpin>) {
        let Some(mut pipe) = pipe else { return };
        let mut piece = [0; 4096];
        while !self.over {
            let read = pipe.read(&mut piece).await.unwrap_or(0);
            let room = SAID.saturating_sub(self.text.len());
            self.text.extend(piece.iter().take(read.min(room)));
            self.over = read == 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Durable, write_json};

    #[tokio::test]
    async fn a_command_that_ends_at_once_is_heard_whichever_of_its_ends_comes_first() {
        let dir = tempfile::tempdir().unwrap();
        let spec = ShimSpec {
            env: vec![("PATH".into(), std::env::var("PATH").unwrap()), ("A".into(), "b c".into())],
            workdir: dir.path().into(),
            ..ShimSpec::for_tests(dir.path())
        };
        write_json(&dir.path().join(SPEC_FILE), &spec, Durable::No).unwrap();
        let run =
            async |script: &str| once(&["sh", "-c", script].map(str::to_owned), dir.path()).await;
        for _ in 0..50 {
            assert_eq!(run("exec >&- 2>&-; exit 0").await, Ok(()));
            assert_eq!(run("echo $A; exit 0").await, Ok(()));
        }
        let told = run("echo out; echo \"$A\" >&2; exit 3").await.unwrap_err();
        assert!(told.contains("exit status: 3") && told.ends_with(": b c"), "{told}");
        // What it leaves behind ends with it.
        assert_eq!(run("sleep 1000 & exit 0").await, Ok(()));
        assert!(once(&["/no/such".to_owned()], dir.path()).await.is_err());
    }
}
