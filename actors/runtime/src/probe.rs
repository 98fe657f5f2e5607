//! Probes: a connection, or a GET that must be answered with 2xx or 3xx.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;
use weft_protocol::{HealthCheck, HealthKind};

/// Before its first good answer a component is asked this soon, then less and less often.
const FIRST: Duration = Duration::from_millis(20);

/// Probes for ever. Good answers are told as they come; bad ones once an interval, so that asking
/// more often during the start does not use up the retries.
pub(crate) async fn watch(
    check: HealthCheck,
    host: IpAddr,
    port: u16,
    tell: impl Fn(Result<(), String>) -> bool,
) {
    let interval = check.interval.max(Duration::from_millis(10));
    let mut wait = FIRST.min(interval);
    let mut good = false;
    let mut due = Instant::now() + interval;
    loop {
        tokio::time::sleep(wait).await;
        let answer = match tokio::time::timeout(check.timeout, once(&check, host, port)).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer from {host}:{port} within {:?}", check.timeout)),
        };
        good |= answer.is_ok();
        wait = if good { interval } else { (wait * 2).min(interval) };
        if answer.is_err() && Instant::now() < due {
            continue;
        }
        due = Instant::now() + interval.mul_f64(0.9);
        if !tell(answer) {
            return;
        }
    }
}

async fn once(check: &HealthCheck, host: IpAddr, port: u16) -> Result<(), String> {
    let address = SocketAddr::new(host, port);
    let stream =
        TcpStream::connect(address).await.map_err(|error| format!("connect {address}: {error}"))?;
    if check.kind != HealthKind::Http {
        return Ok(());
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
