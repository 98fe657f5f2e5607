//! The standard gRPC health check (`grpc.health.v1.Health/Check`), of the server as a whole, without
//! TLS: one request with an empty message, one answer with one field.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

/// An answer is a few bytes; a longer one is none.
const LONGEST: usize = 4096;
/// Not compressed, of length 0.
const EMPTY: &[u8] = &[0; 5];
const SERVING: u8 = 1;

pub(super) async fn once(stream: TcpStream, address: SocketAddr) -> Result<(), String> {
    let url = format!("http://{address}/grpc.health.v1.Health/Check");
    let told = |error: &dyn std::fmt::Display| format!("{url}: {error}");
    let request = hyper::Request::post(&url)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "weft-probe")
        .body(Full::new(Bytes::from_static(EMPTY)))
        .map_err(|error| told(&error))?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(|error| told(&error))?;
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(|error| told(&error))?;
        if !answer.status().is_success() {
            return Err(told(&format!("answered {}", answer.status().as_u16())));
        }
        let early = code(answer.headers());
        let body = Limited::new(answer.into_body(), LONGEST);
        let body = body.collect().await.map_err(|error| told(&error))?;
        let late = body.trailers().and_then(code);
        match late.or(early).as_deref() {
            Some("0") => {}
            Some(code) => return Err(told(&format!("answered gRPC status {code}"))),
            None => return Err(told(&"its answer is not gRPC")),
        }
        match serving(&body.to_bytes()) {
            Some(SERVING) => Ok(()),
            Some(status) => Err(told(&format!("answered {}", name(status)))),
            None => Err(told(&"its answer is not that of a health check")),
        }
    };
    tokio::pin!(exchange);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        answer = &mut exchange => answer,
        _ = &mut connection => exchange.await,
    }
}

fn code(headers: &hyper::HeaderMap) -> Option<String> {
    Some(headers.get("grpc-status")?.to_str().ok()?.to_owned())
}

/// The status in a framed `HealthCheckResponse`; an empty message has the default.
fn serving(framed: &[u8]) -> Option<u8> {
    let [0, a, b, c, d, message @ ..] = framed else { return None };
    if u32::from_be_bytes([*a, *b, *c, *d]) as usize != message.len() {
        return None;
    }
    match message {
        [] => Some(0),
        // Field 1, a varint.
        [0x08, status] => Some(*status),
        _ => None,
    }
}

const fn name(status: u8) -> &'static str {
    match status {
        2 => "NOT_SERVING",
        3 => "SERVICE_UNKNOWN",
        _ => "UNKNOWN",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_framed_health_answer_says_whether_it_serves() {
        assert_eq!(serving(&[0, 0, 0, 0, 2, 8, 1]), Some(SERVING));
        assert_eq!(serving(&[0, 0, 0, 0, 2, 8, 2]).map(name), Some("NOT_SERVING"));
        assert_eq!(serving(&[0, 0, 0, 0, 0]), Some(0));
        for bad in [&[][..], &[1, 0, 0, 0, 0], &[0, 0, 0, 0, 3, 8, 1], &[0, 0, 0, 0, 2, 9, 1]] {
            assert_eq!(serving(bad), None, "{bad:?}");
        }
    }
}
