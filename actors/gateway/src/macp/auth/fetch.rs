//! GET of one small document over HTTP/1.1, with or without TLS.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Until there is a connection, with TLS where that is asked for (§5).
const CONNECT: Duration = Duration::from_secs(3);
/// Until all is read (§5).
const TOTAL: Duration = Duration::from_secs(5);
/// Largest document, in bytes.
pub(super) const BODY: usize = 1024 * 1024;
/// Where systems keep the certificates that they trust.
const ROOTS: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// An address that is read again and again.
pub(super) struct Url {
    host: String,
    port: u16,
    /// Host and port as they are written.
    authority: String,
    path: String,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    /// Until all is read.
    total: Duration,
}

impl Url {
    /// `https`, trusting whom the system trusts (`SSL_CERT_FILE`), or `http`.
    pub(super) fn new(text: &str) -> Result<Self, String> {
        Self::trusting(text, system_roots)
    }

    fn trusting(
        text: &str,
        roots: impl FnOnce() -> Result<RootCertStore, String>,
    ) -> Result<Self, String> {
        let uri: hyper::Uri = text.trim().parse().map_err(|error| format!("no URL: {error}"))?;
        let host = uri.host().unwrap_or_default();
        // In a URL an IPv6 address is in brackets.
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
        if host.is_empty() || authority.contains('@') {
            return Err("a URL must have a host, and neither user nor password".to_owned());
        }
        let (tls, port) = match uri.scheme_str() {
            Some("https") => {
                let name = ServerName::try_from(host.clone())
                    .map_err(|_| format!("`{host}` is no name that a certificate can have"))?;
                (Some((connector(roots()?)?, name)), 443)
            }
            Some("http") => (None, 80),
            _ => return Err("a URL must begin with https:// or http://".to_owned()),
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let port = uri.port_u16().unwrap_or(port);
        Ok(Self { host, port, authority, path, tls, total: TOTAL })
    }

    /// The document; anything but 200 is an error, also a redirection.
    pub(super) async fn get(&self) -> Result<Vec<u8>, String> {
        tokio::time::timeout(self.total, self.exchange())
            .await
            .map_err(|_| format!("no answer within {:?}", self.total))?
    }

    async fn exchange(&self) -> Result<Vec<u8>, String> {
        let connected = async {
            let stream = TcpStream::connect((self.host.as_str(), self.port)).await;
            let stream = stream.map_err(|error| format!("cannot connect: {error}"))?;
            let Some((connector, name)) = &self.tls else { return Ok(Stream::Plain(stream)) };
            let stream = connector.connect(name.clone(), stream).await;
            let stream = stream.map_err(|error| format!("no TLS: {error}"))?;
            Ok::<_, String>(Stream::Tls(Box::new(stream)))
        };
        let connected = tokio::time::timeout(CONNECT, connected)
            .await
            .map_err(|_| format!("no connection within {} s", CONNECT.as_secs()))??;
        match connected {
            Stream::Plain(stream) => self.ask(stream).await,
            Stream::Tls(stream) => self.ask(*stream).await,
        }
    }

    async fn ask(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send,
    ) -> Result<Vec<u8>, String> {
        let request = hyper::Request::get(&self.path)
            .header("host", &self.authority)
            .header("accept", "application/json")
            .header("user-agent", "weft")
            .header("connection", "close")
            .body(Empty::<Bytes>::new())
            .map_err(|error| error.to_string())?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        let exchange = async {
            let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
            if answer.status() != hyper::StatusCode::OK {
                return Err(format!("the answer is {}, expected 200", answer.status()));
            }
            let body = Limited::new(answer.into_body(), BODY).collect().await;
            Ok(body.map_err(|error| error.to_string())?.to_bytes().to_vec())
        };
        let mut exchange = std::pin::pin!(exchange);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            answer = &mut exchange => answer,
            _ = &mut connection => exchange.await,
        }
    }
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

fn connector(roots: RootCertStore) -> Result<TlsConnector, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

fn system_roots() -> Result<RootCertStore, String> {
    let named = std::env::var("SSL_CERT_FILE").ok().filter(|path| !path.is_empty());
    let paths = match &named {
        Some(path) => vec![path.as_str()],
        None => ROOTS.to_vec(),
    };
    for path in &paths {
        let Ok(certificates) = CertificateDer::pem_file_iter(path) else { continue };
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(certificates.filter_map(Result::ok));
        if added > 0 {
            return Ok(roots);
        }
    }
    Err(format!(
        "whom to trust over https is not known: no certificates in {}; let SSL_CERT_FILE name a PEM file of them",
        paths.join(", ")
    ))
}

#[cfg(test)]
mod tests;
