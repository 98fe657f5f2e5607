//! Tests of clients that have certificates, over a real listener.

use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls::pki_types::ServerName;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;
use weft_link::{AuditSink, Fabric, FabricConfig};
use weft_wire::{NodeId, SystemClock};

use super::super::auth::{Auth, Certificates, Holder};
use super::super::{MacpConfig, MacpFace};
use super::*;

type Leaf = (CertificateDer<'static>, PrivateKeyDer<'static>);

/// Whoever issues certificates of clients.
struct Ca(Issuer<'static, KeyPair>, CertificateDer<'static>);

impl Ca {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let der = params.self_signed(&key).expect("issues").der().clone();
        Self(Issuer::new(params, key), der)
    }

    fn leaf(&self) -> Leaf {
        let params = CertificateParams::new(vec!["client".to_owned()]).expect("a name");
        let key = KeyPair::generate().expect("a key");
        let der = params.signed_by(&key, &self.0).expect("issues").der().clone();
        (der, PrivateKeyDer::try_from(key.serialize_der()).expect("a key"))
    }
}

/// Believes whom the CA issued for, and knows the one that it is told of.
struct Known {
    root: CertificateDer<'static>,
    holder: Mutex<Option<CertificateDer<'static>>>,
}

impl Certificates for Known {
    fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .allow_unauthenticated()
            .build()
            .expect("a verifier")
    }

    fn holder(&self, certificate: &[u8]) -> Option<Holder> {
        let known = self.holder.lock();
        let is_known = known.as_ref().is_some_and(|known| known.as_ref() == certificate);
        is_known.then(|| Holder { sender: "spiffe://c/service/s".into(), is_admin: false })
    }
}

struct Client(SendRequest<Full<Bytes>>);

impl Client {
    async fn new(
        to: SocketAddr,
        server: CertificateDer<'static>,
        leaf: Option<Leaf>,
    ) -> Option<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(server).expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let mut config = match leaf {
            Some((der, key)) => config.with_client_auth_cert(vec![der], key).expect("a leaf"),
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TcpStream::connect(to).await.expect("it listens");
        let name = ServerName::try_from("localhost").expect("a name");
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.ok()?;
        let (sender, connection) =
            handshake(TokioExecutor::new(), TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection);
        Some(Self(sender))
    }

    /// Status with which WatchSignals, which needs nothing but a caller, is refused; `Ok(None)`: it
    /// is not.
    async fn watch(&mut self) -> Result<Option<String>, hyper::Error> {
        let request =
            hyper::Request::post("https://localhost/macp.v1.MACPRuntimeService/WatchSignals")
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(Full::new(Bytes::from_static(&[0; 5])))
                .expect("a request");
        let answer = self.0.send_request(request).await?;
        assert_eq!(answer.status(), hyper::StatusCode::OK);
        let status = answer.headers().get("grpc-status");
        Ok(status.map(|status| status.to_str().expect("digits").to_owned()))
    }
}

#[tokio::test]
async fn a_client_is_who_its_certificate_says_for_as_long_as_that_is_believed() {
    let own = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("issues");
    let server = own.cert.der().clone();
    let ca = Ca::new();
    let (known, stranger) = (ca.leaf(), ca.leaf());
    let holder = Mutex::new(Some(known.0.clone()));
    let certificates = Arc::new(Known { root: ca.1.clone(), holder });
    let config = MacpConfig {
        tls: Some((own.cert.pem().into_bytes(), own.signing_key.serialize_pem().into_bytes())),
        ..MacpConfig::new(Auth::bearer(None, None).certificates(Some(certificates.clone())))
    };
    let face = MacpFace::bind((Ipv4Addr::LOCALHOST, 0).into(), config.clone()).expect("binds");
    let (audit, _) = AuditSink::channel(1);
    let node = NodeId::new(uuid::Uuid::new_v4());
    let fabric = Fabric::local(FabricConfig { node, name: "n".to_owned(), audit });
    face.serve(fabric, Arc::new(SystemClock)).expect("serves");

    let to = face.address();
    let client = async |leaf| Client::new(to, server.clone(), leaf).await;
    let mut known = client(Some(known)).await.expect("connects");
    assert_eq!(known.watch().await.expect("an answer"), None);
    let refused = Some("16".to_owned());
    let mut stranger = client(Some(stranger)).await.expect("connects");
    assert_eq!(stranger.watch().await.expect("an answer"), refused);
    let mut without = client(None).await.expect("connects");
    assert_eq!(without.watch().await.expect("an answer"), refused);
    // A certificate of somebody else is refused while it connects, which the client may hear of
    // only when it asks.
    if let Some(mut foreign) = client(Some(Ca::new().leaf())).await {
        assert!(foreign.watch().await.is_err());
    }
    // On the same connection.
    *certificates.holder.lock() = None;
    assert_eq!(known.watch().await.expect("an answer"), refused);
    face.drain(Duration::ZERO).await;

    let wrong = MacpConfig { tls: Some((b"no PEM".to_vec(), b"none".to_vec())), ..config };
    let error = MacpFace::bind((Ipv4Addr::LOCALHOST, 0).into(), wrong).expect_err("no key");
    assert!(error.to_string().contains("certificate or its key"), "{error}");
}
