//! A container registry of one image, in plain HTTP: enough for pulls, and for those that fail.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use sha2::{Digest, Sha256};

/// It answers until the test's process ends.
pub(crate) struct Registry {
    pub(crate) address: String,
    pub(crate) digest: String,
    pub(crate) manifests_asked: Arc<AtomicU32>,
}

struct Content {
    manifest: Vec<u8>,
    blobs: Vec<(String, Vec<u8>)>,
    asked: Arc<AtomicU32>,
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

impl Registry {
    /// Serves `app:1` to anybody and `private:1` to `user` with `secret`.
    pub(crate) fn start(layer: Vec<u8>) -> Self {
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux",
            "config": {"Cmd": ["/bin/echo", "pulled"], "Env": ["FROM_IMAGE=1"]},
            "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
        })
        .to_string()
        .into_bytes();
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": digest(&config), "size": config.len()},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": digest(&layer), "size": layer.len()}],
        })
        .to_string()
        .into_bytes();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(AtomicU32::new(0));
        let registry = Self { address, digest: digest(&manifest), manifests_asked: asked.clone() };
        let blobs = [config, layer].map(|bytes| (digest(&bytes), bytes)).into();
        let content = Arc::new(Content { manifest, blobs, asked });
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let content = content.clone();
                std::thread::spawn(move || serve(stream, &content));
            }
        });
        registry
    }
}

fn serve(stream: TcpStream, content: &Content) {
    let Ok(mut out) = stream.try_clone() else { return };
    let mut lines = BufReader::new(stream).lines();
    // "user:secret"
    let login = "authorization: basic dxnlcjpzzwnyzxq=";
    while let Some(Ok(request)) = lines.next() {
        let mut known = false;
        for header in lines.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty()) {
            known |= header.to_ascii_lowercase() == login;
        }
        let mut words = request.split(' ');
        let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let json = "application/json";
        let (status, kind, extra, body): (_, _, String, &[u8]) =
            if (path.contains("/private/") || path == "/v2/") && !known {
                let ask = "WWW-Authenticate: Basic realm=\"test\"\r\n".to_owned();
                ("401 Unauthorized", json, ask, br#"{"errors":[{"code":"UNAUTHORIZED"}]}"#)
            } else if path == "/v2/" {
                ("200 OK", json, String::new(), b"{}")
            } else if let Some((_, wanted)) = path.split_once("/manifests/") {
                content.asked.fetch_add(1, Ordering::Relaxed);
                let name = digest(&content.manifest);
                if wanted == "1" || wanted == name {
                    let kind = "application/vnd.oci.image.manifest.v1+json";
                    let extra = format!("Docker-Content-Digest: {name}\r\n");
                    ("200 OK", kind, extra, &content.manifest)
                } else {
                    let body: &[u8] =
                        br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
                    ("404 Not Found", json, String::new(), body)
                }
            } else if let Some((_, wanted)) = path.split_once("/blobs/")
                && let Some((_, blob)) = content.blobs.iter().find(|(name, _)| name == wanted)
            {
                ("200 OK", "application/octet-stream", String::new(), blob)
            } else {
                ("404 Not Found", json, String::new(), b"{}")
            };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n{extra}\
             Docker-Distribution-Api-Version: registry/2.0\r\n\r\n",
            body.len()
        );
        if out.write_all(head.as_bytes()).is_err()
            || (method != "HEAD" && out.write_all(body).is_err())
        {
            return;
        }
    }
}
