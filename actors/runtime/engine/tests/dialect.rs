//! Engines that are not there to be tested against: Docker's way of saying things, and engines
//! that talk nonsense or hang up. A thread answers with what is written here.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use weft_engine::{ContainerSpec, Engine, Error, Flavour, Notice, Search};

type Answer = fn(&str) -> Option<(u16, &'static str)>;

struct Fake {
    _dir: tempfile::TempDir,
    socket: PathBuf,
    /// `METHOD path` and body of each request.
    asked: Arc<Mutex<Vec<(String, String)>>>,
}

impl Fake {
    /// `None` as an answer: it hangs up.
    fn start(answer: Answer) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("engine.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let seen = seen.clone();
                std::thread::spawn(move || serve(stream, answer, &seen));
            }
        });
        Self { _dir: dir, socket, asked }
    }

    fn body_of(&self, start: &str) -> serde_json::Value {
        let asked = self.asked.lock().unwrap();
        let (_, body) = asked.iter().find(|(line, _)| line.starts_with(start)).expect(start);
        serde_json::from_str(body).unwrap()
    }
}

fn serve(stream: UnixStream, answer: Answer, seen: &Mutex<Vec<(String, String)>>) {
    let mut out = stream.try_clone().unwrap();
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = String::new();
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
            if head.is_empty() {
                head = line;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let request = head.trim_end_matches("HTTP/1.1\r\n").trim().to_owned();
        seen.lock().unwrap().push((request.clone(), String::from_utf8(body).unwrap()));
        let Some((status, text)) = answer(&request) else { return };
        let length = if status == 304 {
            String::new()
        } else {
            format!("Content-Length: {}\r\n", text.len())
        };
        let head = format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{length}\r\n");
        if out.write_all(head.as_bytes()).and_then(|()| out.write_all(text.as_bytes())).is_err() {
            return;
        }
    }
}

const VERSION: &str =
    r#"{"Version":"27.1","ApiVersion":"1.46","Components":[{"Name":"Engine","Version":"27.1"}]}"#;
const HELD: &str = r#"{"Id":"0123456789abcdef","Name":"/web","State":{"Status":"running","Pid":7},
    "Config":{"Labels":{"weft.node":"n9","weft.service":"web","weft.replica":"1",
    "weft.component":"web"}}}"#;

fn docker(request: &str) -> Option<(u16, &'static str)> {
    let (method, path) = request.split_once(' ')?;
    let path = path.strip_prefix("/v1.46").unwrap_or(path);
    Some(match (method, path) {
        ("GET", "/version") => (200, VERSION),
        ("GET", "/_ping") => (200, "OK"),
        ("POST", "/containers/create?name=web&platform=") => (
            409,
            r#"{"message":"Conflict. The container name \"/web\" is already in use by container \"0123456789abcdef\"."}"#,
        ),
        ("POST", "/containers/create?name=new&platform=") => {
            (201, r#"{"Id":"fedcba9876543210","Warnings":["no swap"]}"#)
        }
        ("POST", "/containers/create?name=lost&platform=") => {
            (404, r#"{"message":"No such image: not/here:1"}"#)
        }
        ("GET", "/containers/web/json") => (200, HELD),
        ("POST", "/containers/new/start") => (304, ""),
        ("POST", "/containers/new/stop?t=2") => (304, ""),
        ("POST", "/containers/new/kill?signal=KILL") => {
            (409, r#"{"message":"container fedc is not running"}"#)
        }
        ("POST", "/containers/busy/start") => (
            500,
            r#"{"message":"driver failed programming external connectivity: Bind for 0.0.0.0:80 failed: port is already allocated"}"#,
        ),
        ("DELETE", _) if path.starts_with("/containers/going") => {
            (409, r#"{"message":"removal of container going is already in progress"}"#)
        }
        ("DELETE", _) => (404, r#"{"message":"No such container: gone"}"#),
        _ => return None,
    })
}

fn spec(name: &str) -> ContainerSpec {
    ContainerSpec { name: name.into(), image: "not/here:1".into(), ..ContainerSpec::default() }
}

#[tokio::test]
async fn dockers_answers_mean_the_same_as_podmans() {
    let fake = Fake::start(docker);
    let engine = Engine::connect(&fake.socket).await.unwrap();
    assert_eq!((engine.flavour(), engine.version()), (Flavour::Docker, "27.1"));
    engine.ping().await.unwrap();
    assert_eq!(engine.create(&spec("new")).await.unwrap(), "fedcba9876543210");
    let sent = fake.body_of("POST /v1.46/containers/create?name=new");
    assert_eq!(sent["HostConfig"]["LogConfig"]["Type"], "json-file");
    assert_eq!(sent["HostConfig"]["RestartPolicy"]["Name"], "no");
    match engine.create(&spec("web")).await {
        Err(Error::NameTaken { name, holder }) => {
            assert_eq!(name, "web");
            assert_eq!(holder.id, "0123456789abcdef");
            assert_eq!(holder.owner.unwrap().node, "n9");
        }
        other => panic!("{other:?}"),
    }
    let error = engine.create(&spec("lost")).await.unwrap_err();
    assert!(matches!(&error, Error::ImageMissing { image } if image == "not/here:1"), "{error:?}");
    engine.start("new").await.unwrap();
    // Rounded up: a grace is never cut short.
    engine.stop("new", Duration::from_millis(1001)).await.unwrap();
    engine.kill("new", "KILL").await.unwrap();
    let error = engine.start("busy").await.unwrap_err();
    assert!(matches!(error, Error::PortTaken { .. }), "{error:?}");
    engine.remove("gone").await.unwrap();
    engine.remove("going").await.unwrap();
}

#[tokio::test]
async fn a_name_that_is_none_never_reaches_the_engine() {
    let fake = Fake::start(docker);
    let engine = Engine::connect(&fake.socket).await.unwrap();
    let before = fake.asked.lock().unwrap().len();
    for bad in ["", "../images/x", "a/b", "a?force=1", "a b", "a%2f"] {
        assert!(matches!(engine.start(bad).await, Err(Error::Spec { .. })), "{bad}");
        assert!(matches!(engine.remove(bad).await, Err(Error::Spec { .. })), "{bad}");
        assert!(matches!(engine.inspect(bad).await, Err(Error::Spec { .. })), "{bad}");
    }
    assert_eq!(fake.asked.lock().unwrap().len(), before);
}

#[tokio::test]
async fn an_engine_that_hangs_up_or_talks_nonsense_is_an_error_that_passes() {
    let silent = Fake::start(|_| None);
    let error = Engine::connect(&silent.socket).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    let other = Fake::start(|_| Some((200, "<html>hello</html>")));
    let error = Engine::connect(&other.socket).await.unwrap_err();
    assert!(matches!(error, Error::Answer { .. }) && error.is_passing(), "{error:?}");
    let named =
        Search { docker_host: format!("unix://{}", other.socket.display()), ..Search::default() };
    let error = weft_engine::find(&named).await.unwrap_err().to_string();
    assert!(error.contains("DOCKER_HOST"), "{error}");

    // It answers its version, and then no more.
    let dying = Fake::start(|request| request.contains("/version").then_some((200, VERSION)));
    let engine = Engine::connect(&dying.socket).await.unwrap();
    for error in [
        engine.start("x").await.unwrap_err(),
        engine.inspect("x").await.unwrap_err(),
        engine.wait("x").await.unwrap_err(),
        engine.list(&[]).await.unwrap_err(),
        engine.pull("a/b:1", None, |_| {}).await.unwrap_err(),
    ] {
        assert!(error.is_engine_away(), "{error:?}");
    }
    let mut watch = engine.watch(Vec::new());
    let first = tokio::time::timeout(Duration::from_secs(10), watch.next()).await.unwrap();
    assert!(matches!(first, Some(Notice::Lost(_))), "{first:?}");
}
