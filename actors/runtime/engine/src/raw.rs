//! Requests to the engine's socket without bollard, for answers it does not read (see
//! `container`) and connections it does not keep byte for byte (see `exec`).

use std::path::Path;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use crate::error::{Error, chain};

/// An answer may be no longer: a list of some ten thousand containers.
const ANSWER_MOST: usize = 64 * 1024 * 1024;

pub(crate) struct Ask<'a> {
    pub(crate) socket: &'a Path,
    /// What is asked, for errors.
    pub(crate) what: &'a str,
    pub(crate) method: Method,
    /// Path and query, encoded.
    pub(crate) path: String,
    pub(crate) body: Option<Vec<u8>>,
    /// Ask for a connection of raw bytes.
    pub(crate) upgrade: bool,
}

impl<'a> Ask<'a> {
    pub(crate) fn get(socket: &'a Path, what: &'a str, path: String) -> Self {
        Self { socket, what, method: Method::GET, path, body: None, upgrade: false }
    }

    fn unreachable(&self, detail: String) -> Error {
        Error::Unreachable { socket: self.socket.to_owned(), detail }
    }

    /// Sends it; an answer that is an error is an error.
    pub(crate) async fn send(&self) -> Result<Response<Incoming>, Error> {
        let stream = UnixStream::connect(self.socket)
            .await
            .map_err(|error| self.unreachable(error.to_string()))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.unreachable(chain(&error)))?;
        // Ends with the answer's body, or with the upgraded connection.
        tokio::spawn(connection.with_upgrades());
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(&self.path)
            .header(HOST, "engine")
            .header(CONTENT_TYPE, "application/json");
        if self.upgrade {
            request = request.header(CONNECTION, "Upgrade").header(UPGRADE, "tcp");
        }
        let body = Full::new(Bytes::from(self.body.clone().unwrap_or_default()));
        let request = request.body(body).map_err(|error| Error::Answer {
            what: self.what.to_owned(),
            message: error.to_string(),
        })?;
        let response =
            sender.send_request(request).await.map_err(|error| self.unreachable(chain(&error)))?;
        let status = response.status();
        if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        let what = self.what;
        let text = self.whole(response).await?;
        let text = String::from_utf8_lossy(&text);
        let message = serde_json::from_str::<serde_json::Value>(&text)
            .ok()
            .and_then(|json| Some(json.get("message")?.as_str()?.to_owned()))
            .unwrap_or_else(|| text.into_owned());
        Err(Error::answered(what, status.as_u16(), &message))
    }

    async fn whole(&self, response: Response<Incoming>) -> Result<Bytes, Error> {
        let body = Limited::new(response.into_body(), ANSWER_MOST).collect().await;
        body.map(http_body_util::Collected::to_bytes)
            .map_err(|error| self.unreachable(chain(&*error)))
    }

    /// Sends it and reads all of the answer.
    pub(crate) async fn bytes(self) -> Result<Bytes, Error> {
        let response = self.send().await?;
        self.whole(response).await
    }
}

/// Percent-encoded, but for what is unreserved.
pub(crate) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::encode;

    #[test]
    fn what_is_not_plain_is_encoded() {
        assert_eq!(encode("a-b_c.d~1"), "a-b_c.d~1");
        assert_eq!(encode("{\"a b\"}/ä"), "%7B%22a%20b%22%7D%2F%C3%A4");
    }
}
