//! The node's HTTP face on loopback: `/health`, `/readyz`, `/metrics`.
//!
//! It outlives the gateway actor: the listener is bound once, by the node, and served until the
//! face is dropped. While no gateway runs, every answer is 503, at once.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use parking_lot::Mutex;
use serde_json::json;
use tokio::task::JoinHandle;
use weft_protocol::{
    ActorTree, EventFilter, ListComponents, QueryEvents, ReadAgreement, ReadHost,
    ReadSessionFigures, ReadState, VERSION,
};

use crate::around::Asker;
use crate::macp::counted::Counted;
use crate::{nodes, readiness};

/// How long one actor may take for a probe or a scrape.
const PROBE: Duration = Duration::from_secs(1);

/// Proof that a gateway runs: its incarnation holds it.
#[derive(Debug)]
pub(crate) struct Alive;

/// A bound listener and its server. Clones are the same face.
#[derive(Debug, Clone)]
pub struct HttpFace(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    listener: TcpListener,
    address: SocketAddr,
    alive: Arc<Mutex<Weak<Alive>>>,
    operations: Arc<AtomicU64>,
    server: Mutex<Option<JoinHandle<()>>>,
}

impl HttpFace {
    /// Binds; port 0 asks the OS.
    ///
    /// # Errors
    /// What the OS says, such as that the port is in use.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        Self::from_listener(TcpListener::bind(address)?)
    }

    /// Takes a listener that is bound already.
    ///
    /// # Errors
    /// What the OS says.
    pub fn from_listener(listener: TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok(Self(Arc::new(Inner {
            listener,
            address,
            alive: Arc::default(),
            operations: Arc::default(),
            server: Mutex::new(None),
        })))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// `http://ip:port`.
    pub fn url(&self) -> String {
        format!("http://{}", self.0.address)
    }

    /// Requests the gateway is working on.
    pub(crate) fn operations(&self) -> &Arc<AtomicU64> {
        &self.0.operations
    }

    /// A gateway runs for as long as `alive` does; serves, if nothing serves yet. Must be called
    /// within the tokio runtime.
    ///
    /// # Errors
    /// What the OS says.
    pub(crate) fn open(
        &self,
        alive: &Arc<Alive>,
        asker: Asker,
        macp: Option<Arc<Counted>>,
    ) -> io::Result<()> {
        *self.0.alive.lock() = Arc::downgrade(alive);
        let mut server = self.0.server.lock();
        if server.as_ref().is_some_and(|server| !server.is_finished()) {
            return Ok(());
        }
        let listener = tokio::net::TcpListener::from_std(self.0.listener.try_clone()?)?;
        let face = Face {
            alive: self.0.alive.clone(),
            operations: self.0.operations.clone(),
            asker,
            macp,
        };
        let router = Router::new()
            .route("/health", get(health))
            .route("/readyz", get(ready))
            .route("/metrics", get(metrics))
            .with_state(face);
        *server = Some(tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "the gateway's HTTP server ended");
            }
        }));
        Ok(())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(server) = self.server.lock().take() {
            server.abort();
        }
    }
}

#[derive(Clone)]
struct Face {
    alive: Arc<Mutex<Weak<Alive>>>,
    operations: Arc<AtomicU64>,
    asker: Asker,
    /// What MACP clients sent, if they are served here.
    macp: Option<Arc<Counted>>,
}

impl Face {
    /// The answer while no gateway runs.
    fn dead(&self) -> Option<Response> {
        if self.alive.lock().strong_count() > 0 {
            return None;
        }
        let body = json!({
            "status": "down",
            "node": self.asker.fabric.name(),
            "version": VERSION,
            "reasons": ["the gateway is being restarted"],
        });
        Some((StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response())
    }
}

async fn health(State(face): State<Face>) -> Response {
    face.dead().unwrap_or_else(|| {
        Json(json!({"status": "ok", "node": face.asker.fabric.name(), "version": VERSION}))
            .into_response()
    })
}

async fn ready(State(face): State<Face>) -> Response {
    if let Some(dead) = face.dead() {
        return dead;
    }
    let asker = face.asker.traced();
    let (mut reasons, host) =
        tokio::join!(readiness::reasons(&asker), asker.ask(ReadHost {}, PROBE));
    let full = host.is_ok_and(|host| nodes::is_disk_full(&host));
    let (code, status) = verdict(&mut reasons, full);
    let body = json!({
        "status": status,
        "node": asker.fabric.name(),
        "version": VERSION,
        "reasons": reasons,
    });
    (code, Json(body)).into_response()
}

/// A full disk makes a node `degraded`, not unready: what runs goes on and reads are answered, so
/// whoever routes by this probe must not take it out.
fn verdict(reasons: &mut Vec<String>, disk_full: bool) -> (StatusCode, &'static str) {
    let ready = reasons.is_empty();
    if disk_full {
        reasons.push(nodes::DISK_FULL_REASON.to_owned());
    }
    match (ready, disk_full) {
        (false, _) => (StatusCode::SERVICE_UNAVAILABLE, "not-ready"),
        (true, true) => (StatusCode::OK, "degraded"),
        (true, false) => (StatusCode::OK, "ready"),
    }
}

async fn metrics(State(face): State<Face>) -> Response {
    if let Some(dead) = face.dead() {
        return dead;
    }
    let asker = &face.asker.traced();
    let hour = EventFilter {
        since: Some(asker.clock.wall().minus(Duration::from_secs(3_600))),
        limit: 10_000,
        ..EventFilter::default()
    };
    let sessions = async {
        match &face.macp {
            Some(_) => asker.ask(ReadSessionFigures {}, PROBE).await.ok(),
            None => None,
        }
    };
    let (actors, state, agreement, components, host, events, signs, sessions) = tokio::join!(
        asker.ask(ActorTree {}, PROBE),
        asker.ask(ReadState { consistent: false }, PROBE),
        asker.ask(ReadAgreement {}, PROBE),
        asker.ask(ListComponents {}, PROBE),
        asker.ask(ReadHost {}, PROBE),
        asker.ask(QueryEvents { filter: hour }, PROBE),
        nodes::signs(asker),
        sessions,
    );
    let up = [
        ("registry", state.is_ok()),
        ("runtime", components.is_ok()),
        ("monitor", host.is_ok()),
        ("gateway", true),
    ];
    let agreement = agreement.ok();
    let here = asker.fabric.node();
    let rows = nodes::rows(state.as_ref(), agreement.as_ref(), &signs, here, |_| String::new());
    let figures = crate::metrics::Figures {
        node: asker.fabric.name().to_owned(),
        version: VERSION.to_owned(),
        up: up.map(|(actor, up)| (actor.to_owned(), up)).to_vec(),
        actors: actors.ok(),
        components: components.ok(),
        nodes: Some(rows),
        host: host.ok(),
        events: events.ok(),
        state_index: state.ok().map(|state| state.index),
        operations: face.operations.load(Ordering::Relaxed),
        in_flight: signs
            .iter()
            .filter(|sign| sign.member.id != asker.fabric.node())
            .map(|sign| (sign.member.name.clone(), sign.in_flight as u64))
            .collect(),
        door: asker.fabric.stats(),
        sessions,
        envelopes: face.macp.as_ref().map(|counted| counted.all()),
    };
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (kind, crate::metrics::render(&figures)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_degraded_and_still_ready() {
        let mut reasons = Vec::new();
        assert_eq!(verdict(&mut reasons, false), (StatusCode::OK, "ready"));
        assert_eq!(verdict(&mut reasons, true), (StatusCode::OK, "degraded"));
        assert_eq!(reasons, [nodes::DISK_FULL_REASON]);
        let mut reasons = vec!["the runtime does not answer".to_owned()];
        let (code, status) = verdict(&mut reasons, true);
        assert_eq!((code, status), (StatusCode::SERVICE_UNAVAILABLE, "not-ready"));
        assert_eq!(reasons.len(), 2);
    }
}
