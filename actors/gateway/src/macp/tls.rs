//! TLS that asks clients for certificates. Without that, tonic's own is used.
//!
//! tonic reads whom to believe once; the cluster's trust bundle and deny list change while it runs.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::ClientCertVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// A client must have connected within this.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Clients that connect at a time.
const HANDSHAKES: usize = 256;
/// After an error of the listener (no file descriptor is left, say).
const PAUSE: Duration = Duration::from_millis(100);

/// TLS 1.3 with this certificate chain and key (PEM), and clients that `verifier` believes.
pub(super) fn acceptor(
    certificate: &[u8],
    key: &[u8],
    verifier: Arc<dyn ClientCertVerifier>,
) -> io::Result<TlsAcceptor> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate).collect();
    let chain = chain.map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(io::Error::other)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(io::Error::other)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would outlive a certificate that was denied.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Connections whose handshake is done. Slow ones hold up nobody.
pub(super) fn incoming(
    listener: TcpListener,
    acceptor: TlsAcceptor,
) -> impl Stream<Item = io::Result<TlsStream<TcpStream>>> {
    let (connected, waiting) = mpsc::channel(HANDSHAKES);
    tokio::spawn(accept(listener, acceptor, connected));
    stream::unfold(waiting, |mut waiting| async move {
        let connection = waiting.recv().await?;
        Some((Ok(connection), waiting))
    })
}

/// Accepts until the server is gone.
async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    connected: mpsc::Sender<TlsStream<TcpStream>>,
) {
    let slots = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = connected.closed() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a client of sessions could not be accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let (acceptor, connected) = (acceptor.clone(), connected.clone());
        tokio::spawn(async move {
            let _slot = slot;
            let _ = stream.set_nodelay(true);
            match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => {
                    let _ = connected.send(stream).await;
                }
                Ok(Err(error)) => tracing::debug!(%error, "a client of sessions did not connect"),
                Err(_) => tracing::debug!("a client of sessions took too long to connect"),
            }
        });
    }
}

#[cfg(test)]
mod tests;
