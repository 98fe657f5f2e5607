//! What the runtime answers and does at once, beside being told what is wanted: lists, checks, logs,
//! and starts that somebody asks for.

use std::path::Path;
use std::time::Duration;

use tokio::sync::broadcast;
use weft_link::{ItemSink, Reply};
use weft_protocol::{
    CheckSpec, ClaimContainers, ComponentKey, ComponentState, Desired, Driver, Duty, FindForeign,
    ListComponents, LogLine, ReadDuty, ReadEngine, ReadLogs, RestartComponents,
    RestartedComponents, SpecProblem, StartComponents, WatchComponents, valid_name,
};
use weft_supervision::{Handle, Scope, Serve};
use weft_wire::{AskError, Failure, FailureKind};

use super::{Entry, Runtime};
use crate::adopt;
use crate::driver::recipe;
use crate::launch::spec_problem;
use crate::logs::Merged;

/// How often a followed log is looked at.
const FOLLOW_EVERY: Duration = Duration::from_millis(100);
const LINES_AT_ONCE: usize = 500;
/// A container engine that does not answer a check so soon is not waited for.
const ENGINE_WITHIN: Duration = Duration::from_secs(3);

impl Handle<ListComponents> for Runtime {
    fn handle(&mut self, _: ListComponents, reply: Reply<ListComponents>, _: &Scope<Self>) {
        let rows = self.shared.board.lock().values().cloned().collect();
        reply.ok(rows);
    }
}

impl Handle<ReadDuty> for Runtime {
    fn handle(&mut self, _: ReadDuty, reply: Reply<ReadDuty>, _: &Scope<Self>) {
        let index = self.shared.taken.lock().as_ref().map(|(index, _)| *index);
        let board = self.shared.board.lock();
        let runs = |key: &ComponentKey| board.get(key).is_some_and(|status| status.pid != 0);
        let undecided = |entry: &Entry| {
            let wanted = entry.wanted.lock();
            wanted.assignment.as_ref().is_some_and(|assignment| {
                !assignment.leaving.is_empty() && assignment.desired == Desired::Ignore
            })
        };
        reply.ok(Duty {
            index,
            stale: self.shared.stale.lock().iter().cloned().collect(),
            undecided: self
                .entries
                .iter()
                .filter(|(key, entry)| undecided(entry) && runs(key))
                .map(|(key, _)| key.clone())
                .collect(),
        });
    }
}

impl Handle<StartComponents> for Runtime {
    fn handle(&mut self, message: StartComponents, reply: Reply<StartComponents>, _: &Scope<Self>) {
        let mut keys = Vec::new();
        for (key, entry) in self.entries.iter().filter(|(_, entry)| !entry.leaving) {
            let desired = entry.wanted.lock().assignment.as_ref().map(|a| a.desired);
            let state = self.shared.board.lock().get(key).map(|status| status.state);
            let down = matches!(
                state,
                Some(ComponentState::Exited | ComponentState::Failed | ComponentState::Removed)
            );
            if message.matches(key)
                && down
                && desired == Some(Desired::Running)
                && (message.dry_run || entry.child.post(|actor, scope| actor.revive(scope)).is_ok())
            {
                keys.push(key.clone());
            }
        }
        reply.ok(RestartedComponents { keys });
    }
}

impl Handle<RestartComponents> for Runtime {
    fn handle(
        &mut self,
        message: RestartComponents,
        reply: Reply<RestartComponents>,
        _: &Scope<Self>,
    ) {
        let target = &message.target;
        let mut keys = Vec::new();
        let mut stopped = 0;
        for (key, entry) in &self.entries {
            let meant = key.service == target.service
                && (target.component.is_empty() || key.component == target.component);
            if !meant || entry.leaving {
                continue;
            }
            let desired = entry.wanted.lock().assignment.as_ref().map(|a| a.desired);
            if desired != Some(Desired::Running) {
                stopped += 1;
                continue;
            }
            match entry.child.post(|actor, scope| actor.restart(scope)) {
                Ok(()) => keys.push(key.clone()),
                Err(_) => {
                    return reply.fail(
                        Failure::new(FailureKind::Busy, "a component's actor is being restarted")
                            .service(&key.service)
                            .component(&key.component)
                            .step("restart")
                            .help("try again"),
                    );
                }
            }
        }
        if keys.is_empty() && stopped == 0 {
            return reply.fail(
                Failure::new(FailureKind::NotFound, format!("nothing of `{target}` is here"))
                    .service(&target.service)
                    .component(&target.component)
                    .step("restart")
                    .help("`weft ps` shows what runs where"),
            );
        }
        if keys.is_empty() {
            return reply.fail(
                Failure::new(FailureKind::Conflict, format!("`{target}` is stopped"))
                    .service(&target.service)
                    .component(&target.component)
                    .step("restart")
                    .help("start it with `weft start`"),
            );
        }
        reply.ok(RestartedComponents { keys });
    }
}

impl Handle<CheckSpec> for Runtime {
    fn handle(&mut self, mut message: CheckSpec, reply: Reply<CheckSpec>, scope: &Scope<Self>) {
        let shared = self.shared.clone();
        for spec in &mut message.components {
            recipe::fill(&shared.config, spec);
        }
        let names = message.components.iter().map(|spec| &spec.name);
        if let Some(bad) = names.chain([&message.service]).find(|name| !valid_name(name)) {
            let node = &shared.config.node_name;
            return reply.fail(
                Failure::new(FailureKind::Invalid, format!("`{bad}` is not a name")).node(node),
            );
        }
        let taken = self.ports_taken(&message);
        let boxed = message.components.iter().any(|spec| spec.driver == Driver::Container);
        let engines = shared.engines.clone();
        let check = move || {
            let problem = |spec: &weft_protocol::ComponentSpec| {
                let of = (message.service.as_str(), message.replica);
                let problem = spec_problem(&shared.config, spec, of, &message.files)
                    .or_else(|| taken.get(&spec.name).cloned())?;
                Some(SpecProblem { component: spec.name.clone(), problem })
            };
            let problems: Vec<SpecProblem> =
                message.components.iter().filter_map(problem).collect();
            (message, problems)
        };
        scope.spawn(async move {
            let (message, mut problems) = match tokio::task::spawn_blocking(check).await {
                Ok(checked) => checked,
                Err(error) => {
                    return reply.fail(Failure::new(FailureKind::Internal, error.to_string()));
                }
            };
            // One that takes long to say whether it is there objects to nothing.
            let engine = async { if boxed { engines.engine().await.map(drop) } else { Ok(()) } };
            if let Ok(Err(why)) = tokio::time::timeout(ENGINE_WITHIN, engine).await {
                for spec in message.components.iter().filter(|s| s.driver == Driver::Container) {
                    if !problems.iter().any(|known| known.component == spec.name) {
                        let problem = why.clone();
                        problems.push(SpecProblem { component: spec.name.clone(), problem });
                    }
                }
            }
            reply.ok(problems);
        });
    }
}

impl Handle<FindForeign> for Runtime {
    fn handle(&mut self, message: FindForeign, reply: Reply<FindForeign>, scope: &Scope<Self>) {
        let found = adopt::find(self.shared.clone(), message);
        scope.spawn(async move { reply.result(found.await.map_err(AskError::Failed)) });
    }
}

impl Handle<ClaimContainers> for Runtime {
    fn handle(
        &mut self,
        message: ClaimContainers,
        reply: Reply<ClaimContainers>,
        scope: &Scope<Self>,
    ) {
        let claimed = adopt::claim(self.shared.clone(), message);
        scope.spawn(async move { reply.result(claimed.await.map_err(AskError::Failed)) });
    }
}

impl Handle<ReadEngine> for Runtime {
    fn handle(&mut self, _: ReadEngine, reply: Reply<ReadEngine>, _: &Scope<Self>) {
        reply.ok(self.shared.engines.facts());
    }
}

impl Serve<WatchComponents> for Runtime {
    fn serve(
        &mut self,
        message: WatchComponents,
        sink: ItemSink<WatchComponents>,
        scope: &Scope<Self>,
    ) {
        let shared = self.shared.clone();
        scope.spawn(async move {
            let meant =
                |key: &ComponentKey| message.service.is_empty() || key.service == message.service;
            let mut news = shared.news.subscribe();
            loop {
                // First, and again after it fell behind: every row as it is.
                let rows: Vec<_> = {
                    let board = shared.board.lock();
                    board.values().filter(|row| meant(&row.key)).cloned().collect()
                };
                for row in rows {
                    if sink.send(row).await.is_err() {
                        return;
                    }
                }
                loop {
                    let row = tokio::select! {
                        row = news.recv() => row,
                        () = sink.closed() => return,
                    };
                    match row {
                        Ok(row) if meant(&row.key) => {
                            if sink.send(row).await.is_err() {
                                return;
                            }
                        }
                        Ok(_) => {}
                        Err(broadcast::error::RecvError::Lagged(_)) => break,
                        Err(broadcast::error::RecvError::Closed) => return,
                    }
                }
            }
        });
    }
}

impl Serve<ReadLogs> for Runtime {
    fn serve(&mut self, message: ReadLogs, sink: ItemSink<ReadLogs>, scope: &Scope<Self>) {
        let data = self.shared.config.data_dir.clone();
        scope.spawn(async move {
            if let Err(error) = read_logs(&data, message, &sink).await {
                let failure = Failure::new(FailureKind::Unavailable, "the log cannot be read")
                    .step("logs")
                    .cause(error);
                sink.fail(AskError::Failed(failure)).await;
            }
        });
    }
}

/// Ends when everything was sent, the consumer is gone, or reading fails.
async fn read_logs(
    data: &Path,
    request: ReadLogs,
    sink: &ItemSink<ReadLogs>,
) -> Result<(), std::io::Error> {
    let follow = request.follow;
    let data = data.to_owned();
    let mut merged = tokio::task::spawn_blocking(move || Merged::open(&data, request)).await??;
    loop {
        let (back, lines) = tokio::task::spawn_blocking(move || {
            let lines: std::io::Result<Vec<LogLine>> = (|| {
                // A component may have come that was not there before.
                if follow {
                    merged.look_again()?;
                }
                merged.read(LINES_AT_ONCE)
            })();
            (merged, lines)
        })
        .await?;
        merged = back;
        let lines = lines?;
        let more = lines.len() == LINES_AT_ONCE;
        for line in lines {
            if sink.send(line).await.is_err() {
                return Ok(());
            }
        }
        if more {
            continue;
        }
        if !follow {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(FOLLOW_EVERY) => {}
            () = sink.closed() => return Ok(()),
        }
    }
}
