//! `top`: the cluster at a glance, drawn again every second.

use std::io::{IsTerminal, Read};

use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use weft_protocol::{ClusterUsage, UsageView};
use weft_wire::{ActorKind, Address};

use super::App;
use crate::attach::Attached;
use crate::error::{CliError, Exit, Result};
use crate::output;
use crate::output::top::{Choice, Key, lines};
use crate::output::usage::{UseView, uses};
use crate::output::views::{ComponentView, EventView, NodeView};
use crate::terminal::{self, Raw, Screen};

/// Between two readings on a terminal.
const EVERY_MS: u32 = 1000;

#[derive(Serialize)]
struct HostView<'a> {
    node: &'a str,
    cores: u32,
    cpu_percent: f64,
    load1: f64,
    memory_total_bytes: u64,
    memory_available_bytes: u64,
    disk_total_bytes: u64,
    disk_free_bytes: u64,
}

#[derive(Serialize)]
struct View<'a> {
    nodes: Vec<NodeView>,
    hosts: Vec<HostView<'a>>,
    components: Vec<ComponentView>,
    usage: Vec<UseView>,
    events: Vec<EventView>,
}

pub(crate) async fn run(app: &App) -> Result<Exit> {
    let live =
        !app.output.json && std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    let attached = app.attach().await?;
    let message = ClusterUsage {
        target: None,
        every_ms: EVERY_MS,
        rounds: if live { 0 } else { 2 },
        overview: true,
    };
    let gateway = Address::here(ActorKind::Gateway);
    let mut items = attached.subscribe(gateway, message, app.question()).await?;
    if live {
        return watch(app, &attached, &mut items).await;
    }
    let (mut before, mut now) = (None, None);
    while let Some(view) = attached.next(&mut items, true, app.question()).await? {
        before = now.replace(view);
    }
    let Some(now) = now else { return Err(ended(&attached)) };
    if !app.output.json {
        let lines = lines(&now, before.as_ref(), Choice::new(), attached.node(), None);
        app.output.line(lines.join("\n"))?;
        return Ok(Exit::Ok);
    }
    let overview = now.overview.as_ref();
    app.output.document(&View {
        nodes: overview.into_iter().flat_map(|o| &o.nodes).map(NodeView::from).collect(),
        hosts: overview
            .into_iter()
            .flat_map(|o| &o.hosts)
            .map(|(node, host)| HostView {
                node,
                cores: host.cores,
                cpu_percent: host.cpu_percent,
                load1: host.load1,
                memory_total_bytes: host.memory_total,
                memory_available_bytes: host.memory_available,
                disk_total_bytes: host.disk_total,
                disk_free_bytes: host.disk_free,
            })
            .collect(),
        components: overview
            .into_iter()
            .flat_map(|o| &o.ps.rows)
            .map(ComponentView::from)
            .collect(),
        usage: uses(&now, before.as_ref()),
        events: overview.into_iter().flat_map(|o| &o.events).map(EventView::from).collect(),
    })?;
    Ok(Exit::Ok)
}

fn ended(attached: &Attached) -> CliError {
    CliError::new(Exit::NoNode, "ended", "the node ended it").node(attached.node())
}

/// Draws until somebody leaves. What it changed of the terminal is put back before anything else is
/// said.
async fn watch(
    app: &App,
    attached: &Attached,
    items: &mut weft_link::Items<UsageView>,
) -> Result<Exit> {
    let _raw = Raw::enter();
    let _screen = Screen::enter().map_err(|error| output::broken(&error))?;
    let mut keys = read_keys();
    let listen = |kind| signal(kind).map_err(|error| CliError::failed("signals").cause(error));
    let mut resized = listen(SignalKind::window_change())?;
    let mut terminated = listen(SignalKind::terminate())?;
    let mut hung_up = listen(SignalKind::hangup())?;
    let mut choice = Choice::new();
    let (mut before, mut now): (Option<UsageView>, Option<UsageView>) = (None, None);
    loop {
        tokio::select! {
            view = attached.next(items, true, app.question()) => match view? {
                Some(view) => before = now.replace(view),
                None => return Err(ended(attached)),
            },
            typed = keys.recv() => match typed.map(|bytes| choice.typed(&bytes)) {
                Some(Key::Leave) | None => return Ok(Exit::Ok),
                Some(Key::Draw) => {}
                Some(Key::Ignore) => continue,
            },
            _ = resized.recv() => {}
            _ = terminated.recv() => return Ok(Exit::Ok),
            _ = hung_up.recv() => return Ok(Exit::Ok),
        }
        let Some(now) = &now else { continue };
        let size = terminal::size().unwrap_or((80, 24));
        let lines = lines(now, before.as_ref(), choice, attached.node(), Some(size.1));
        terminal::draw(&lines, size).map_err(|error| output::broken(&error))?;
    }
}

/// What is typed, read on a thread of its own that ends with the process.
fn read_keys() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(8);
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok(read @ 1..) = std::io::stdin().lock().read(&mut buffer) {
            let typed = buffer.get(..read).unwrap_or_default().to_vec();
            if sender.blocking_send(typed).is_err() {
                return;
            }
        }
    });
    receiver
}
