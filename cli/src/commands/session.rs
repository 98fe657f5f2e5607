//! `session`: MACP sessions as operators see them. Every node answers for the copies it holds;
//! the copy that is furthest counts.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use weft_link::Items;
use weft_protocol::{
    ClusterNodes, EndSession, FollowHistory, FollowLifecycle, HistoryItem, InspectSession,
    NodeState, ReadSessionGroups, SURVEY_MAX, ScaleSessions, SessionDetail, SessionEvent,
    SessionGroup, SessionRow, SessionState, SurveySessions,
};
use weft_wire::{ActorKind, Address, Clock, FailureKind, Message, SystemClock, Target};

use super::{App, follow, session_files};
use crate::args::{SessionCancel, SessionList, SessionScale, SessionVerb, SessionWatch};
use crate::attach::Attached;
use crate::error::{CliError, Exit, Result, clean};
use crate::output::sessions::{
    EventView, GroupView, HistoryView, RowView, ShowView, event_line, groups_table, record_line,
    sessions_table, show_text,
};

/// Between two tries at what needs a leader or a stream that broke off.
const AGAIN: Duration = Duration::from_millis(200);

pub(crate) async fn run(app: &App, verb: &SessionVerb) -> Result<Exit> {
    match verb {
        SessionVerb::List(args) => list(app, args).await,
        SessionVerb::Show(args) => show(app, &args.id).await,
        SessionVerb::Watch(SessionWatch { id: Some(id) }) => watch(app, id).await,
        SessionVerb::Watch(SessionWatch { id: None }) => watch_all(app).await,
        SessionVerb::Cancel(args) => cancel(app, args).await,
        SessionVerb::Groups => groups(app).await,
        SessionVerb::Scale(args) => scale(app, args).await,
        SessionVerb::Export(args) => session_files::export(app, args).await,
        SessionVerb::Import(args) => session_files::import(app, args).await,
    }
}

/// The nodes that may hold sessions, the attached one first.
pub(crate) struct Holders<'a> {
    app: &'a App,
    pub(crate) attached: &'a Attached,
    nodes: Vec<(String, Address)>,
}

impl<'a> Holders<'a> {
    pub(crate) async fn find(app: &'a App, attached: &'a Attached) -> Self {
        let here = Address::here(ActorKind::Session);
        let mut nodes = vec![(attached.node().to_owned(), here)];
        let gateway = Address::here(ActorKind::Gateway);
        // Who may not ask for the nodes sees the attached one's copies.
        let rows = attached.ask(gateway, ClusterNodes {}, app.question()).await.unwrap_or_default();
        let is_out =
            |state| matches!(state, NodeState::Left | NodeState::Lost | NodeState::DaemonDown);
        let others = rows.into_iter().filter(|row| !is_out(row.state));
        nodes.extend(others.filter(|row| row.name != attached.node()).map(|row| {
            let target = Target::Named(row.name.clone());
            (row.name, Address { actor: ActorKind::Session, target })
        }));
        Self { app, attached, nodes }
    }

    /// Asks all at once; who does not answer is named.
    ///
    /// # Errors
    /// When nobody answers.
    pub(crate) async fn each<M: Message>(&self, message: &M) -> Result<Vec<(Address, M::Reply)>> {
        let asked = self.nodes.iter().map(|(node, to)| async move {
            let answer = self.attached.ask(to.clone(), message.clone(), self.app.question()).await;
            (node, to, answer)
        });
        let (mut answers, mut failed) = (Vec::new(), Vec::new());
        for (node, to, answer) in join_all(asked).await {
            match answer {
                Ok(answer) => answers.push((to.clone(), answer)),
                // It serves none.
                Err(error) if error.code == "not-found" => {}
                Err(error) => failed.push((node, error)),
            }
        }
        if answers.is_empty() {
            return Err(failed.into_iter().next().map_or_else(nobody, |(_, error)| error));
        }
        for (node, error) in failed {
            let why = if error.failure.cause.is_empty() {
                error.failure.message
            } else {
                error.failure.cause
            };
            self.app.output.notice(clean(&format!("node {node} did not answer: {why}")));
        }
        Ok(answers)
    }

    /// The node with the copy that is furthest, and what it says.
    ///
    /// # Errors
    /// When no node has the session.
    pub(crate) async fn inspect(&self, id: &str) -> Result<(Address, Box<SessionDetail>)> {
        let all = self.each(&InspectSession { session_id: id.to_owned() }).await?;
        let found = all.into_iter().filter_map(|(at, detail)| Some((at, detail?)));
        // The attached one, where several are as far.
        let best = found.reduce(
            |best, next| {
                if next.1.row.records > best.1.row.records { next } else { best }
            },
        );
        best.ok_or_else(|| missing(id))
    }

    /// Asks one after the other until somebody leads, for as long as a change may take.
    ///
    /// # Errors
    /// What the leader says, or that there is none.
    pub(crate) async fn leader<M: Message>(&self, message: &M) -> Result<M::Reply> {
        let end = SystemClock.now() + self.app.change();
        let unavailable = FailureKind::Unavailable.as_str();
        loop {
            let mut last = nobody();
            for (_, to) in &self.nodes {
                match self.attached.ask(to.clone(), message.clone(), self.app.change()).await {
                    Ok(answer) => return Ok(answer),
                    Err(error) if error.code == "not-found" => {}
                    Err(error) if error.code == unavailable || error.exit == Exit::NoNode => {
                        last = error;
                    }
                    Err(error) => return Err(error),
                }
            }
            if last.code == NOBODY || SystemClock.now() + AGAIN >= end {
                return Err(last);
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    pub(crate) fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.nodes.iter().map(|(_, at)| at)
    }
}

pub(crate) const NOBODY: &str = "no-sessions";

fn nobody() -> CliError {
    CliError::new(Exit::Failed, NOBODY, "no node serves MACP sessions")
        .help("set `[sessions] bind` in a node's file and start its daemon again")
}

pub(crate) fn missing(id: &str) -> CliError {
    CliError::new(Exit::Failed, "not-found", format!("there is no session `{id}`"))
        .help("`weft session list` shows those that are there")
}

/// All sessions that are wanted, by id, each as the node has it that is furthest.
pub(crate) async fn survey(
    holders: &Holders<'_>,
    states: &[SessionState],
    mode: &str,
) -> Result<BTreeMap<String, (Address, SessionRow)>> {
    let question = |after| SurveySessions {
        states: states.to_vec(),
        mode: mode.to_owned(),
        after,
        size: SURVEY_MAX,
    };
    let mut all: BTreeMap<String, (Address, SessionRow)> = BTreeMap::new();
    for (at, mut page) in holders.each(&question(None)).await? {
        loop {
            let last = page.rows.last().map(|row| row.session.session_id.clone());
            for row in page.rows {
                match all.get(&row.session.session_id) {
                    Some((_, known)) if known.records >= row.records => {}
                    _ => {
                        all.insert(row.session.session_id.clone(), (at.clone(), row));
                    }
                }
            }
            if !page.more || last.is_none() {
                break;
            }
            let within = holders.app.question();
            page = holders.attached.ask(at.clone(), question(last), within).await?;
        }
    }
    Ok(all)
}

async fn list(app: &App, args: &SessionList) -> Result<Exit> {
    let attached = app.attach().await?;
    let holders = Holders::find(app, &attached).await;
    let mode = args.mode.as_deref().unwrap_or_default();
    let all = survey(&holders, &args.states, mode).await?;
    if app.output.json {
        let views: Vec<RowView<'_>> = all.values().map(|(_, row)| RowView::from(row)).collect();
        app.output.document(&views)?;
    } else {
        app.output.line(sessions_table(all.values().map(|(_, row)| row)))?;
    }
    Ok(Exit::Ok)
}

async fn show(app: &App, id: &str) -> Result<Exit> {
    let attached = app.attach().await?;
    let holders = Holders::find(app, &attached).await;
    let (at, detail) = holders.inspect(id).await?;
    let message = FollowHistory { session_id: id.to_owned(), after: 0, follow: false };
    let mut items = attached.subscribe(at, message, app.question()).await?;
    let mut history = Vec::new();
    while let Some(item) = attached.next(&mut items, true, app.question()).await? {
        match item {
            HistoryItem::Record(record) => history.push(*record),
            HistoryItem::Ended { .. } => {}
            HistoryItem::Missing => return Err(missing(id)),
        }
    }
    if app.output.json {
        app.output.document(&ShowView::new(&detail, &history))?;
    } else {
        app.output.line(clean(&show_text(&detail, &history)))?;
    }
    Ok(Exit::Ok)
}

async fn watch(app: &App, id: &str) -> Result<Exit> {
    let mut attached = app.attach().await?;
    let mut after = 0;
    loop {
        let broke = match stretch(app, &attached, id, &mut after).await {
            Ok(true) => return Ok(Exit::Ok),
            Ok(false) => "the node ended it".to_owned(),
            Err(error) if follow::may_pass(&error) => error.failure.message,
            Err(error) => return Err(error),
        };
        app.output.notice(clean(&format!(
            "the stream from {} ended: {broke}; attaching again",
            attached.node()
        )));
        tokio::time::sleep(AGAIN).await;
        attached = follow::attach_again(app).await?;
    }
}

/// From one attachment to its end; whether that is the session's end.
async fn stretch(app: &App, attached: &Attached, id: &str, after: &mut u64) -> Result<bool> {
    let holders = Holders::find(app, attached).await;
    let (at, _) = holders.inspect(id).await?;
    let message = FollowHistory { session_id: id.to_owned(), after: *after, follow: true };
    let mut items = attached.subscribe(at, message, app.question()).await?;
    while let Some(item) = attached.item(&mut items).await? {
        match item {
            HistoryItem::Record(record) => {
                *after = record.position;
                if app.output.json {
                    app.output.document(&HistoryView::from(&*record))?;
                } else {
                    app.output.line(clean(&record_line(&record)))?;
                }
            }
            HistoryItem::Ended { state } => {
                app.output.progress(format!("the session is {}", state.as_str()));
                return Ok(true);
            }
            HistoryItem::Missing => return Err(missing(id)),
        }
    }
    Ok(false)
}

async fn watch_all(app: &App) -> Result<Exit> {
    let mut attached = app.attach().await?;
    loop {
        let broke = match all_stretch(app, &attached).await {
            Ok(why) => why.to_owned(),
            Err(error) if follow::may_pass(&error) => error.failure.message,
            Err(error) => return Err(error),
        };
        app.output.notice(clean(&format!(
            "the stream through {} ended: {broke}; what happens until it goes on is not shown",
            attached.node()
        )));
        tokio::time::sleep(AGAIN).await;
        attached = follow::attach_again(app).await?;
    }
}

/// From one attachment to the end of any node's stream; why.
async fn all_stretch(app: &App, attached: &Attached) -> Result<&'static str> {
    let holders = Holders::find(app, attached).await;
    let mut streams = FuturesUnordered::new();
    for at in holders.addresses() {
        match attached.subscribe(at.clone(), FollowLifecycle {}, app.question()).await {
            Ok(items) => streams.push(next(attached, items)),
            Err(error) if error.code == "not-found" => {}
            Err(error) => return Err(error),
        }
    }
    if streams.is_empty() {
        return Err(nobody());
    }
    while let Some((items, item)) = streams.next().await {
        match item? {
            Some(SessionEvent::Attached) => {}
            Some(SessionEvent::Happened { what, session, at_ms }) => {
                if app.output.json {
                    app.output.document(&EventView::new(what, &session, at_ms))?;
                } else {
                    app.output.line(clean(&event_line(what, &session, at_ms)))?;
                }
            }
            Some(SessionEvent::Lagged) => return Ok("this command was too slow"),
            None => return Ok("a node ended it"),
        }
        streams.push(next(attached, items));
    }
    Ok("every node ended it")
}

async fn next(
    attached: &Attached,
    mut items: Items<SessionEvent>,
) -> (Items<SessionEvent>, Result<Option<SessionEvent>>) {
    let item = attached.item(&mut items).await;
    (items, item)
}

async fn cancel(app: &App, args: &SessionCancel) -> Result<Exit> {
    let attached = app.attach().await?;
    let holders = Holders::find(app, &attached).await;
    let (_, detail) = holders.inspect(&args.id).await?;
    let session = &detail.row.session;
    let what = format!(
        "cancel session {} of {}, which is {}",
        args.id,
        session.initiator,
        session.state.as_str()
    );
    if args.dry_run {
        app.output.would(clean(&what))?;
        return Ok(Exit::Ok);
    }
    app.output.confirm(&clean(&what))?;
    let message = EndSession { session_id: args.id.clone(), reason: args.reason.clone() };
    let ack = holders.leader(&message).await?.map_err(|refusal| {
        CliError::failed(format!("session {} is not cancelled", args.id)).cause(refusal.message)
    })?;
    let view = serde_json::json!({ "id": args.id, "state": ack.state.as_str() });
    let text = if session.state.is_final() {
        format!("session {} had ended before: {}", args.id, ack.state.as_str())
    } else {
        format!("session {} is {}", args.id, ack.state.as_str())
    };
    app.output.result(&view, clean(&text))?;
    Ok(Exit::Ok)
}

async fn groups(app: &App) -> Result<Exit> {
    let attached = app.attach().await?;
    let here = Address::here(ActorKind::Session);
    let groups = match attached.ask(here, ReadSessionGroups {}, app.question()).await {
        Err(error) if error.code == "not-found" => return Err(nobody()),
        groups => groups?,
    };
    if app.output.json {
        app.output.document(&groups.iter().map(GroupView::from).collect::<Vec<_>>())?;
    } else {
        app.output.line(groups_table(&groups))?;
    }
    Ok(Exit::Ok)
}

/// Whether sessions begin in all groups that there are to be, as one node sees it.
fn is_scaled(groups: &[SessionGroup], count: u8) -> bool {
    // A node that keeps sessions by itself, in memory, has no part in them.
    groups.is_empty()
        || groups.len() >= usize::from(count)
            && groups.iter().all(|group| group.is_open && group.handing_over == 0)
}

async fn scale(app: &App, args: &SessionScale) -> Result<Exit> {
    let attached = app.attach().await?;
    let holders = Holders::find(app, &attached).await;
    let nodes = holders.each(&ReadSessionGroups {}).await?;
    let now = nodes.iter().map(|(_, groups)| groups.len()).max().unwrap_or_default();
    let count = args.groups;
    if now == 0 {
        return Err(CliError::failed("sessions are kept in memory only, each node's by itself")
            .help("there is nothing to share: unset `sessions.memory_only` (MACP_MEMORY_ONLY)"));
    }
    if usize::from(count) < now {
        return Err(CliError::failed("the number of groups stays as it is")
            .cause(format!("{count} groups: there are {now}, which stay")));
    }
    let what = format!(
        "have {count} groups, which stay, share the sessions that begin from now on; there are {now}"
    );
    if args.dry_run {
        app.output.would(&what)?;
        return Ok(Exit::Ok);
    }
    if usize::from(count) > now {
        app.output.confirm(&what)?;
    }
    let kept = |why| CliError::failed("the number of groups stays as it is").cause(why);
    holders.leader(&ScaleSessions { groups: count }).await?.map_err(kept)?;
    let end = SystemClock.now() + app.change();
    for (node, _) in nodes {
        loop {
            let seen = attached.ask(node.clone(), ReadSessionGroups {}, app.question()).await;
            match seen {
                Ok(groups) if is_scaled(&groups, count) => break,
                _ if SystemClock.now() + AGAIN < end => tokio::time::sleep(AGAIN).await,
                _ => {
                    let late = format!("not all of {count} groups are in use yet");
                    return Err(CliError::new(Exit::Timeout, "timeout", late)
                        .help("it goes on by itself: `weft session groups` shows how far it is"));
                }
            }
        }
    }
    let view = serde_json::json!({ "groups": count });
    app.output.result(&view, format!("sessions begin in {count} groups"))?;
    Ok(Exit::Ok)
}
