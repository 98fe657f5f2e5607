//! Tests of GET.

use std::net::Ipv4Addr;

use rustls::pki_types::PrivateKeyDer;
use tokio::io::AsyncWriteExt as _;

use super::super::testing::Served;
use super::*;

async fn get(url: &str) -> Result<Vec<u8>, String> {
    Url::trusting(url, || Err("no roots".to_owned()))?.get().await
}

#[tokio::test]
async fn a_document_is_read_and_anything_else_is_an_error() {
    let served = Served::new("{}").await;
    assert_eq!(get(&served.url()).await.as_deref(), Ok(b"{}".as_slice()));
    served.say("302 Found", "");
    let error = get(&served.url()).await.expect_err("refused");
    assert!(error.contains("302"), "{error}");
    served.say("200 OK", &"x".repeat(BODY + 1));
    assert!(get(&served.url()).await.is_err());
    for wrong in ["", "/keys", "ftp://a/", "http://", "http://u:p@a/", "https://a/", "http://a b/"]
    {
        assert!(get(wrong).await.is_err(), "{wrong}");
    }
}

#[tokio::test]
async fn who_says_nothing_is_not_waited_for() {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    let mut url = Url::trusting(&format!("http://{address}/"), || Err(String::new()));
    if let Ok(url) = &mut url {
        url.total = Duration::from_millis(50);
    }
    let error = url.expect("a URL").get().await.expect_err("silent");
    assert!(error.contains("no answer within"), "{error}");
}

#[tokio::test]
async fn over_https_only_who_has_a_certificate_that_is_trusted_is_believed() {
    let own = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("issues");
    let der = own.cert.der().clone();
    let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|config| config.with_no_client_auth().with_single_cert(vec![der.clone()], key))
        .expect("a server");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let server = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
            let _ = stream.write_all(answer).await;
            let _ = stream.shutdown().await;
        }
    });
    let url = format!("https://localhost:{port}/keys");
    let trusting = |roots: RootCertStore| Url::trusting(&url, || Ok(roots)).expect("a URL");
    let mut roots = RootCertStore::empty();
    roots.add(der).expect("a root");
    assert_eq!(trusting(roots).get().await.as_deref(), Ok(b"{}".as_slice()));
    let error = trusting(RootCertStore::empty()).get().await.expect_err("a stranger");
    assert!(error.contains("no TLS"), "{error}");
    server.abort();
}
