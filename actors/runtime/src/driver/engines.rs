//! The node's container engine: looked for when the first container needs it, looked for again
//! while there is none, its events passed on, and a full pass now and then should one be missed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, broadcast, watch};
use weft_engine::{Candidate, Engine, Error, Fact, Notice, Origin, Owner, Search, Summary};
use weft_protocol::EngineFacts;
use weft_wire::Backoff;

/// Between two looks for an engine where there is none.
const AGAIN: Backoff =
    Backoff { base: Duration::from_secs(1), max: Duration::from_secs(15), jitter: 0.0 };
/// Everything of this node is looked at this often, whatever events said.
const FULL_PASS: Duration = Duration::from_secs(60);
/// An engine that has been away for so long is looked for as if there had been none.
const GIVEN_UP: Duration = Duration::from_secs(20);
/// After a call that failed, the engine is looked at so soon.
const DOUBT: Duration = Duration::from_millis(200);
/// Between looks at one that did not answer.
const AWAY: Duration = Duration::from_secs(2);
/// News that a slow listener may be behind.
const NEWS: usize = 1024;

/// What is heard of the engine and of this node's containers.
#[derive(Debug, Clone)]
pub(crate) enum News {
    /// All of this node's containers: the watch began, there was a gap, or it is time.
    Everything(Arc<Vec<Summary>>),
    /// Something happened to a container of this node.
    Fact(Arc<Fact>),
    /// The engine does not answer, and why.
    Away(String),
}

#[derive(Debug, Clone)]
enum State {
    Unsought,
    Here(Engine),
    Away(String),
}

/// The node's engine, shared by all its components.
#[derive(Debug)]
pub(crate) struct Engines {
    search: Option<Search>,
    node: String,
    begun: AtomicBool,
    /// A call has failed: it is time to look.
    doubt: Arc<Notify>,
    state: watch::Sender<State>,
    news: broadcast::Sender<News>,
}

impl Engines {
    /// `search`: how to look; `None`: this node has processes only. `node`: its id.
    pub(crate) fn new(search: Option<Search>, node: String) -> Arc<Self> {
        Arc::new(Self {
            search,
            node,
            begun: AtomicBool::new(false),
            doubt: Arc::default(),
            state: watch::Sender::new(State::Unsought),
            news: broadcast::Sender::new(NEWS),
        })
    }

    /// Whether this node runs processes only.
    pub(crate) const fn are_none(&self) -> bool {
        self.search.is_none()
    }

    /// News from now on.
    pub(crate) fn listen(&self) -> broadcast::Receiver<News> {
        self.news.subscribe()
    }

    /// The engine, as far as it is known now: `Err` says why there is none. Waits for the first
    /// look only.
    pub(crate) async fn engine(self: &Arc<Self>) -> Result<Engine, String> {
        self.begin()?;
        let mut state = self.state.subscribe();
        let state = state.wait_for(|state| !matches!(state, State::Unsought)).await;
        match state.as_deref() {
            Ok(State::Here(engine)) => Ok(engine.clone()),
            Ok(State::Away(why)) => Err(why.clone()),
            _ => Err("the look for a container engine was broken off".into()),
        }
    }

    /// The engine, if one is known by now. The first time an engine is looked for where a socket of
    /// one is there already; none is started for it.
    pub(crate) fn known(self: &Arc<Self>) -> Option<Engine> {
        if !self.begun.load(Ordering::Relaxed) {
            let candidates = self.search.as_ref()?.candidates().ok()?;
            let there = |candidate: &Candidate| {
                candidate.origin != Origin::Own && candidate.socket.exists()
            };
            if candidates.iter().any(there) {
                self.begin().ok()?;
            }
        }
        match &*self.state.borrow() {
            State::Here(engine) => Some(engine.clone()),
            State::Unsought | State::Away(_) => None,
        }
    }

    /// What is known of it now; it is looked for as by [`Self::known`].
    pub(crate) fn facts(self: &Arc<Self>) -> EngineFacts {
        let known = self.known();
        let problem = match &*self.state.borrow() {
            State::Away(why) => why.clone(),
            State::Here(_) | State::Unsought => String::new(),
        };
        match known {
            Some(engine) => EngineFacts {
                kind: engine.flavour().to_string().to_lowercase(),
                version: engine.version().to_owned(),
                problem,
            },
            None => EngineFacts { kind: "process".to_owned(), version: String::new(), problem },
        }
    }

    /// The engine, once there is one; says why it waits, whenever there is something new to say.
    pub(crate) async fn wait(self: &Arc<Self>, say: impl Fn(String)) -> Engine {
        if let Err(why) = self.begin() {
            say(why);
            return std::future::pending().await;
        }
        let mut state = self.state.subscribe();
        let mut said = String::new();
        loop {
            match state.borrow_and_update().clone() {
                State::Here(engine) => return engine,
                State::Away(why) if why != said => {
                    say(why.clone());
                    said = why;
                }
                _ => {}
            }
            if state.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// A call has failed because the engine did not answer: it counts as away until it does.
    pub(crate) fn failed(&self, error: &Error) {
        // One that is slow is there: whoever asked tries again.
        if matches!(error, Error::Timeout { .. }) {
            return;
        }
        self.state.send_if_modified(|state| {
            let was_here = matches!(state, State::Here(_));
            if was_here {
                *state = State::Away(error.to_string());
            }
            was_here
        });
        self.doubt.notify_one();
    }

    fn begin(self: &Arc<Self>) -> Result<(), String> {
        let Some(search) = &self.search else {
            return Err(NO_DRIVER.to_owned());
        };
        if !self.begun.swap(true, Ordering::Relaxed) {
            // Not an actor's task: it outlives their incarnations.
            tokio::spawn(keep(Arc::downgrade(self), search.clone()));
        }
        Ok(())
    }
}

/// Of a node whose file says `driver = "process"`.
pub(crate) const NO_DRIVER: &str =
    "this node runs processes only: set [node] driver to `auto`, `podman` or `docker`";

/// Looks for an engine and watches it, until nobody needs one any more.
async fn keep(engines: std::sync::Weak<Engines>, search: Search) {
    let mut attempt = 0;
    loop {
        let found = match weft_engine::find(&search).await {
            Ok(found) => found,
            Err(error) => {
                let Some(engines) = engines.upgrade() else { return };
                let why = error.to_string();
                tracing::warn!(error = %why, "no container engine");
                engines.state.send_replace(State::Away(why));
                drop(engines);
                tokio::time::sleep(AGAIN.delay(attempt, 0.5)).await;
                attempt = attempt.saturating_add(1);
                continue;
            }
        };
        attempt = 0;
        tracing::info!(engine = found.describe(), "container engine");
        if !follow(&engines, &found.engine).await {
            return;
        }
        // Its own service, if it is one, ends here and is started again.
        drop(found);
    }
}

/// Follows an engine's events; `false`: nobody needs them any more.
async fn follow(engines: &std::sync::Weak<Engines>, engine: &Engine) -> bool {
    let known = engines.upgrade();
    let known = known.map(|engines| (Owner::of_node(&engines.node), engines.doubt.clone()));
    let Some((label, doubt)) = known else { return false };
    let mut watch = engine.watch(vec![label.clone()]);
    let mut pass = tokio::time::interval(FULL_PASS);
    pass.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    pass.reset();
    let mut away_since: Option<tokio::time::Instant> = None;
    loop {
        let mut look = false;
        tokio::select! {
            notice = watch.next() => match notice {
                Some(Notice::LookAtEverything) => look = true,
                Some(Notice::Fact(fact)) => {
                    let Some(engines) = engines.upgrade() else { return false };
                    let _ = engines.news.send(News::Fact(Arc::new(fact)));
                }
                Some(Notice::Lost(why)) => {
                    tracing::warn!(error = %why, "the container engine has gone away");
                    let Some(engines) = engines.upgrade() else { return false };
                    engines.state.send_replace(State::Away(why.clone()));
                    let _ = engines.news.send(News::Away(why));
                    away_since.get_or_insert_with(tokio::time::Instant::now);
                }
                None => return false,
            },
            _ = pass.tick() => look = true,
            () = doubt.notified() => pass.reset_after(DOUBT),
            () = given_up(away_since) => return true,
        }
        if !look {
            continue;
        }
        match engine.list(std::slice::from_ref(&label)).await {
            Ok(all) => {
                away_since = None;
                let Some(engines) = engines.upgrade() else { return false };
                engines.state.send_if_modified(|state| {
                    let was = matches!(state, State::Here(_));
                    *state = State::Here(engine.clone());
                    !was
                });
                let _ = engines.news.send(News::Everything(Arc::new(all)));
            }
            Err(error) => {
                tracing::warn!(%error, "containers cannot be listed");
                let Some(engines) = engines.upgrade() else { return false };
                let why = error.to_string();
                engines.state.send_replace(State::Away(why.clone()));
                let _ = engines.news.send(News::Away(why));
                away_since.get_or_insert_with(tokio::time::Instant::now);
                pass.reset_after(AWAY);
            }
        }
    }
}

async fn given_up(since: Option<tokio::time::Instant>) {
    match since {
        Some(since) => tokio::time::sleep_until(since + GIVEN_UP).await,
        None => std::future::pending().await,
    }
}
