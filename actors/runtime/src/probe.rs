//! Probes: a connection, a GET that must be answered with 2xx or 3xx, a gRPC health check that must
//! be answered with SERVING, or a command that must end with 0, in the container or beside the
//! process.

mod command;
mod grpc;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;
use weft_engine::ExecSpec;
use weft_protocol::{HealthCheck, HealthKind};

use crate::driver::engines::Engines;

/// Before its first good answer a component is asked this soon, then less and less often.
const FIRST: Duration = Duration::from_millis(20);

/// Of a command's output so much is kept, in bytes.
const SAID: usize = 512;
/// A command may go on for so long after its time before it is given up; until then no other one is
/// started beside it.
const HANGS: Duration = Duration::from_secs(60);

/// What is probed.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    /// An address of this node.
    Net(SocketAddr),
    /// A container, from inside.
    Container { engines: Arc<Engines>, id: String },
    /// A process of this node, by its component's directory.
    Process(PathBuf),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Net(address) => address.fmt(f),
            Self::Container { .. } | Self::Process(_) => f.write_str("the command"),
        }
    }
}

/// Probes for ever. Good answers are told as they come; bad ones once an interval, so that asking
/// more often during the start does not use up the retries.
pub(crate) async fn watch(
    check: HealthCheck,
    target: Target,
    tell: impl Fn(Result<(), String>) -> bool,
) {
    let interval = check.interval.max(Duration::from_millis(10));
    let mut pace = FIRST.min(interval);
    let mut wait = pace;
    let mut good = false;
    let mut due = Instant::now() + interval;
    let mut command = Command::default();
    loop {
        tokio::time::sleep(wait).await;
        let began = Instant::now();
        let asked = async {
            match &target {
                Target::Net(address) => once(&check, *address).await,
                Target::Container { engines, id } => command.once(&check, engines, id).await,
                Target::Process(dir) => command::once(&check.command, dir).await,
            }
        };
        let answer = match tokio::time::timeout(check.timeout, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer from {target} within {:?}", check.timeout)),
        };
        good |= answer.is_ok();
        pace = if good { interval } else { (pace * 2).min(interval) };
        // From start to start: one that hangs is noticed within interval times threshold, however
        // long each probe waits for it.
        wait = pace.saturating_sub(began.elapsed());
        if answer.is_err() && Instant::now() < due {
            continue;
        }
        due = began + interval.mul_f64(0.9);
        if !tell(answer) {
            return;
        }
    }
}

/// A command that is run in a container; at most one at a time, since one that hangs cannot be
/// ended from outside.
#[derive(Default)]
struct Command {
    running: Option<tokio::task::JoinHandle<Result<(), String>>>,
}

impl Command {
    async fn once(
        &mut self,
        check: &HealthCheck,
        engines: &Arc<Engines>,
        id: &str,
    ) -> Result<(), String> {
        let (engines, id) = (engines.clone(), id.to_owned());
        let spec = ExecSpec { cmd: check.command.clone(), ..ExecSpec::default() };
        let limit = check.timeout + HANGS;
        // The one that is still under way is asked again: what it says late says how it is now.
        let running = self.running.get_or_insert_with(|| {
            tokio::spawn(async move {
                let engine = engines.engine().await?;
                let done = engine.exec_output(&id, &spec, SAID, limit).await;
                let done = done.map_err(|error| error.to_string())?;
                if done.code == 0 {
                    return Ok(());
                }
                let said = if done.stderr.is_empty() { done.stdout } else { done.stderr };
                let said = String::from_utf8_lossy(&said);
                let program = spec.cmd.first().map_or("", String::as_str);
                Err(format!("`{program}` ended with {}: {}", done.code, said.trim()))
            })
        });
        let answer = running.await.unwrap_or_else(|error| Err(error.to_string()));
        self.running = None;
        answer
    }
}

impl Drop for Command {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.abort();
        }
    }
}

async fn once(check: &HealthCheck, address: SocketAddr) -> Result<(), String> {
    let stream =
        TcpStream::connect(address).await.map_err(|error| format!("connect {address}: {error}"))?;
    match check.kind {
        HealthKind::Http => {}
        HealthKind::Grpc => return grpc::once(stream, address).await,
        HealthKind::Tcp | HealthKind::Exec => return Ok(()),
    }
    let url = format!("http://{address}{}", check.path);
    let path = if check.path.is_empty() { "/" } else { &check.path };
    let request = hyper::Request::get(path)
        .header("host", address.to_string())
        .header("user-agent", "weft-probe")
        .header("connection", "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| format!("{url}: {error}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| format!("{url}: {error}"))?;
    let exchange = async {
        let answer =
            sender.send_request(request).await.map_err(|error| format!("{url}: {error}"))?;
        let status = answer.status();
        // Read a little of it, so that the server does not see a reset.
        let mut body = answer.into_body();
        let _ = body.frame().await;
        if status.is_success() || status.is_redirection() {
            Ok(())
        } else {
            Err(format!("{url} answered {}", status.as_u16()))
        }
    };
    tokio::pin!(exchange);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        answer = &mut exchange => answer,
        _ = &mut connection => exchange.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener};

    #[test]
    fn a_component_that_hangs_is_noticed_within_interval_times_threshold() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        // Answers once, then takes connections and says nothing.
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 512]);
            let _ = write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
            let _silent: Vec<_> = listener.incoming().collect();
        });
        let check = HealthCheck {
            kind: HealthKind::Http,
            port: String::new(),
            path: "/".into(),
            command: Vec::new(),
            interval: Duration::from_millis(400),
            timeout: Duration::from_millis(400),
            retries: 3,
            start_period: Duration::ZERO,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let took = runtime.block_on(async move {
            let target = Target::Net((Ipv4Addr::LOCALHOST, port).into());
            tokio::spawn(watch(check, target, move |answer| tell.send(answer).is_ok()));
            assert_eq!(told.recv().await.unwrap(), Ok(()));
            let healthy = Instant::now();
            for _ in 0..3 {
                assert!(told.recv().await.unwrap().is_err());
            }
            healthy.elapsed()
        });
        // Three intervals and the last timeout are 1.6 s; with the waits added up, 2.4 s.
        assert!(took < Duration::from_millis(2100), "{took:?}");
    }
}
