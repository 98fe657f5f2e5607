//! What ended sessions cost: the time until a server that has them serves again, and memory.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use weft_bench::figures::Three;
use weft_macp::macp::v1::SessionState;
use weft_wire::{Clock, SystemClock};

use crate::Fatal;
use crate::client::Agents;
use crate::load::decide;
use crate::server::{Kind, Programs, Server};
use crate::usage::usage;

/// Who makes them.
const WORKERS: usize = 64;
/// A server may take so long to serve again.
const STARTS: Duration = Duration::from_secs(30 * 60);
/// A start that took longer is not repeated.
const LONG: Duration = Duration::from_secs(60);
/// Starts of which the middle one counts.
const TIMES: usize = 3;
/// Memory is taken when it has not fallen for so long,
const SETTLED: Duration = Duration::from_secs(2);
/// and after so long at the latest.
const AT_LEAST_NOW: Duration = Duration::from_secs(30);
const KIB: f64 = 1024.0;

/// One server with so many ended sessions.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) kind: Kind,
    pub(crate) sessions: usize,
    /// Seconds from its start until it shows the last of them as resolved.
    pub(crate) start: Three,
    /// MiB after a start with nothing.
    pub(crate) empty: f64,
    /// MiB after a start with them.
    pub(crate) with: f64,
    /// KiB more for each of them: after such a start, and in the process that took them.
    pub(crate) each: f64,
    pub(crate) each_live: f64,
}

/// Memory in bytes, once it does not fall any more.
async fn settled(server: &Server) -> f64 {
    let pids = server.pids();
    let begun = SystemClock.now();
    let (mut least, mut since) = (f64::INFINITY, begun);
    while since.elapsed() < SETTLED && begun.elapsed() < AT_LEAST_NOW {
        let rss = usage(&pids).rss;
        // A hundredth is noise.
        if rss < least * 0.99 {
            (least, since) = (rss, SystemClock.now());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    usage(&pids).rss
}

/// # Errors
/// If a server does not take the sessions, does not stop, or has lost them.
pub(crate) async fn measure(
    programs: &Programs,
    kind: Kind,
    sessions: usize,
    data: &Path,
) -> Result<Row, Fatal> {
    let agents = Agents::new("ended")?;
    let server = Server::start(programs, kind, data)?;
    drop(server.client(0, STARTS).await?);
    let empty = settled(&server).await;
    let begun = SystemClock.now();
    let last = decide(&server, sessions, WORKERS).await?;
    let live = settled(&server).await;
    eprintln!(
        "{}: {sessions} sessions decided in {:.0} s",
        kind.name(),
        begun.elapsed().as_secs_f64()
    );
    server.stop()?;

    let (mut starts, mut with) = (Vec::new(), 0.0);
    while starts.len() < TIMES && starts.last().is_none_or(|took| *took < LONG) {
        let begun = SystemClock.now();
        let server = Server::start(programs, kind, data)?;
        let mut client = server.client(0, STARTS).await?;
        // It may listen before it has everything.
        while let Err(why) = resolved(&mut client, &agents, &last).await {
            if begun.elapsed() > STARTS {
                return Err(format!("a session is lost: {why}").into());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        starts.push(begun.elapsed());
        drop(client);
        with = settled(&server).await;
        server.stop()?;
    }
    let each = |rss: f64| (rss - empty) / sessions as f64 / KIB;
    Ok(Row {
        kind,
        sessions,
        start: Three::seconds(&starts),
        empty: empty / KIB / KIB,
        with: with / KIB / KIB,
        each: each(with),
        each_live: each(live),
    })
}

async fn resolved(
    client: &mut crate::client::Client,
    agents: &Agents,
    session: &str,
) -> Result<(), Fatal> {
    let metadata = agents.look(client, session).await?;
    if metadata.state == i32::from(SessionState::Resolved) {
        return Ok(());
    }
    Err(format!("session {session} is in state {}", metadata.state).into())
}
