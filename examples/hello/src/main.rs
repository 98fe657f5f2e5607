//! `hello`: a small HTTP service that says where it runs.
//!
//! It listens on `127.0.0.1:$PORT` (0 or none: the OS chooses, and it prints what it got) and
//! answers `/` with its node, service, replica and pid, `/health` with 200, and, so that one can
//! watch it being healed, `/exit?code=3`, `/panic`, `/hang` (no answers from then on) and
//! `/sick` (`/health` fails from then on). SIGTERM ends it well.
//!
//! For tests: `HELLO_START_DELAY_MS` waits before listening, `HELLO_EXIT_AT_START=<code>` ends at
//! once, `HELLO_IGNORE_TERM=1` makes SIGTERM do nothing, `HELLO_GREETING` replaces "hello".

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// What `/` answers.
#[derive(Debug, Clone, Serialize)]
struct Hello {
    greeting: String,
    node: String,
    service: String,
    replica: String,
    component: String,
    pid: u32,
    /// Requests answered so far, this one included.
    requests: u64,
}

struct Shared {
    hello: Hello,
    requests: AtomicU64,
    hung: AtomicBool,
    sick: AtomicBool,
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn main() -> ExitCode {
    if let Some(code) = number("HELLO_EXIT_AT_START") {
        eprintln!("ending at once with {code}, as told");
        return ExitCode::from(u8::try_from(code).unwrap_or(1));
    }
    let port = match std::env::var("PORT") {
        Err(_) => 0,
        Ok(text) => match text.parse() {
            Ok(port) => port,
            Err(_) => {
                eprintln!("hello: PORT=`{text}`: expected a number from 0 to 65535");
                return ExitCode::from(2);
            }
        },
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("hello: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(serve(port)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hello: port {port}: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(port: u16) -> std::io::Result<()> {
    if let Some(delay) = number("HELLO_START_DELAY_MS") {
        tokio::time::sleep(Duration::from_millis(delay)).await;
    }
    let greeting = variable("HELLO_GREETING");
    let shared = Arc::new(Shared {
        hello: Hello {
            greeting: if greeting.is_empty() { "hello".to_owned() } else { greeting },
            node: variable("WEFT_NODE"),
            service: variable("WEFT_SERVICE"),
            replica: variable("WEFT_REPLICA"),
            component: variable("WEFT_COMPONENT"),
            pid: std::process::id(),
            requests: 0,
        },
        requests: AtomicU64::new(0),
        hung: AtomicBool::new(false),
        sick: AtomicBool::new(false),
    });
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
    println!("listening on http://{} (pid {})", listener.local_addr()?, shared.hello.pid);
    let app = Router::new()
        .route("/", get(hello))
        .route("/health", get(health))
        .route("/exit", get(exit))
        .route("/panic", get(abort))
        .route("/hang", get(hang))
        .route("/sick", get(sick))
        .layer(axum::middleware::from_fn_with_state(shared.clone(), log))
        .with_state(shared);
    let ignore = number("HELLO_IGNORE_TERM") == Some(1);
    let stop = async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => println!("SIGTERM"),
                _ = interrupt.recv() => println!("SIGINT"),
            }
            if !ignore {
                break;
            }
        }
    };
    axum::serve(listener, app).with_graceful_shutdown(stop).await?;
    println!("bye");
    Ok(())
}

/// A line per request, and silence once it hangs. A good probe is no news.
async fn log(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let line = format!("{} {}", request.method(), request.uri());
    if shared.hung.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
    let probe = request.uri().path() == "/health";
    let response = next.run(request).await;
    if !probe || !response.status().is_success() {
        println!("{line} {}", response.status().as_u16());
    }
    response
}

async fn hello(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    let requests = shared.requests.fetch_add(1, Ordering::Relaxed) + 1;
    let hello = Hello { requests, ..shared.hello.clone() };
    let json = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("application/json"));
    if json {
        return axum::Json(hello).into_response();
    }
    format!(
        "{} from node {}, service {}, replica {}, pid {}\n",
        hello.greeting, hello.node, hello.service, hello.replica, hello.pid
    )
    .into_response()
}

async fn health(State(shared): State<Arc<Shared>>) -> (StatusCode, &'static str) {
    if shared.sick.load(Ordering::Relaxed) {
        (StatusCode::SERVICE_UNAVAILABLE, "sick\n")
    } else {
        (StatusCode::OK, "ok\n")
    }
}

#[derive(Deserialize)]
struct Exit {
    #[serde(default)]
    code: u8,
}

async fn exit(Query(exit): Query<Exit>) -> &'static str {
    println!("exiting with {}, as asked", exit.code);
    tokio::spawn(async move {
        // The answer first.
        tokio::time::sleep(Duration::from_millis(20)).await;
        std::process::exit(i32::from(exit.code));
    });
    "exiting\n"
}

async fn abort() -> &'static str {
    eprintln!("aborting, as asked");
    std::process::abort()
}

async fn hang(State(shared): State<Arc<Shared>>) -> &'static str {
    shared.hung.store(true, Ordering::Relaxed);
    "no more answers from now on\n"
}

async fn sick(State(shared): State<Arc<Shared>>) -> &'static str {
    shared.sick.store(true, Ordering::Relaxed);
    "/health fails from now on\n"
}
