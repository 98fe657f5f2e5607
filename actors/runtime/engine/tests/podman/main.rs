//! The engine client against a real Podman: rootful, with runc, on storage of its own.

mod harness;
mod registry;

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use futures_util::StreamExt;
use harness::{IMAGE, Podman};
use weft_engine::{
    Container, ContainerSpec, ContainerState, Credentials, Error, ExecSpec, Happened, LeaseTarget,
    Limits, LogQuery, MemoryCgroup, MemoryWatch, Notice, Origin, Owner, Stream, TtySize, Watch,
    ran_out_of_memory, read_file_line,
};
use weft_protocol::{PortMapping, VolumeMapping};

const SOON: Duration = Duration::from_secs(20);

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

/// The whole output of a container that has ended.
async fn output(podman: &Podman, id: &str) -> String {
    let mut lines = podman.engine().logs(id, LogQuery::default()).unwrap();
    let mut all = String::new();
    while let Some(line) = soon("output", lines.next()).await {
        all.push_str(&line.unwrap().text);
        all.push('\n');
    }
    all
}

async fn end_of(podman: &Podman, id: &str) -> weft_engine::Ended {
    let container = podman.engine().inspect(id).await.unwrap();
    soon("its end", podman.engine().ended(&container)).await.unwrap()
}

/// Waits until its output holds a text.
async fn said(podman: &Podman, id: &str, text: &str) {
    let mut lines =
        podman.engine().logs(id, LogQuery { follow: true, ..LogQuery::default() }).unwrap();
    soon(text, async {
        loop {
            let line = lines.next().await.expect("it goes on").unwrap();
            if line.text.contains(text) {
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn every_value_reaches_the_container_as_one_argument() {
    let Some(podman) = Podman::start().await else { return };
    let engine = podman.engine();
    let odd = [
        "two words",
        "'single'",
        "\"double\"",
        "$(touch /tmp/evil)",
        "`touch /tmp/evil`",
        "${HOME}",
        "line\nbreak",
        "tab\there",
        "back\\slash",
        "",
        "*",
        "a=b",
        "--privileged",
        ";ls",
        "ümlaut",
        "a,b:c",
        "%s",
        "#x",
        "\u{1}",
    ];
    let mut cmd = vec![
        "/bin/sh",
        "-c",
        r#"for a in "$@"; do printf '%s\0' "$a"; done; env -0; test ! -e /tmp/evil"#,
        "sh",
    ];
    cmd.extend(odd);
    let mut spec = podman.spec("odd", &cmd);
    spec.env = odd.iter().enumerate().map(|(n, v)| (format!("V{n}"), (*v).to_owned())).collect();
    spec.env.push(("V0".into(), "last wins".into()));
    spec.labels = BTreeMap::from([("odd label".into(), "a, \"b\" $(c)\n=d".into())]);
    let id = engine.create(&spec).await.unwrap();
    let made = engine.inspect(&id).await.unwrap();
    assert_eq!(made.state, ContainerState::Created);
    assert_eq!(made.cmd, spec.cmd);
    assert_eq!(made.labels["odd label"], spec.labels["odd label"]);
    assert_eq!(made.owner, spec.owner);
    assert_eq!(made.ended, None);
    let own: BTreeMap<_, _> = made.own_env(None).into_iter().collect();
    let wanted: BTreeMap<_, _> = spec.env.iter().cloned().collect();
    assert_eq!(own, wanted);
    engine.start(&id).await.unwrap();
    let ended = end_of(&podman, &id).await;
    assert_eq!(ended.code, 0, "nothing was run by a shell");
    // Read from its file: lines would be cut at line ends.
    let mut said = Vec::new();
    let mut lines = engine.logs(&id, LogQuery::default()).unwrap();
    while let Some(line) = lines.next().await {
        said.push(line.unwrap().text);
    }
    let said = said.join("\n");
    let values: Vec<&str> = said.split('\0').collect();
    assert_eq!(&values[..odd.len()], &odd);
    let env: BTreeMap<_, _> = values.iter().filter_map(|pair| pair.split_once('=')).collect();
    for (name, value) in &wanted {
        assert_eq!(env.get(name.as_str()), Some(&value.as_str()), "{name}");
    }
    engine.remove(&id).await.unwrap();
}

#[tokio::test]
async fn what_a_killed_engine_left_of_a_container_is_found_by_its_name_and_removed() {
    let Some(podman) = Podman::start().await else { return };
    let engine = podman.engine();
    let whole = engine.create(&podman.spec("whole", &["/bin/true"])).await.unwrap();
    assert_eq!(engine.remains("whole").await.unwrap(), None, "a container is none");
    // Killed at later and later a moment, it is at some time between taking the name and noting it.
    let mut left = None;
    for after in (20..2000).step_by(2).map(|ms| format!("{:.3}", f64::from(ms) / 1000.0)) {
        podman.killed(&after, &["create", "--name", "left", IMAGE, "/bin/true"]);
        left = engine.remains("left").await.unwrap();
        if left.is_some() {
            break;
        }
        engine.remove("left").await.unwrap();
    }
    let left = left.expect("it was killed at every moment");
    match engine.create(&podman.spec("left", &["/bin/true"])).await {
        Err(Error::NameTaken { holder, .. }) => assert_eq!(holder.id, "", "nobody can look at it"),
        other => panic!("{other:?}"),
    }
    assert_eq!(engine.remains("lef").await.unwrap(), None);
    engine.remove(&left).await.unwrap();
    assert_eq!(engine.remains("left").await.unwrap(), None);
    let id = engine.create(&podman.spec("left", &["/bin/true"])).await.unwrap();
    for id in [id, whole] {
        engine.remove(&id).await.unwrap();
    }
}

#[tokio::test]
async fn a_life_from_create_to_remove_and_each_step_twice() {
    let Some(podman) = Podman::start().await else { return };
    let engine = podman.engine();
    let script = "trap 'exit 3' TERM; echo up; while :; do sleep 0.05; done";
    let id = podman.run("polite", script).await;
    engine.start(&id).await.unwrap();
    said(&podman, &id, "up").await;
    let running = engine.inspect("polite").await.unwrap();
    assert_eq!((running.id.as_str(), running.state), (id.as_str(), ContainerState::Running));
    assert_eq!(running.restart, weft_protocol::RestartPolicy::No);
    assert!(running.pid.is_some() && running.started_at.is_some());
    assert!(running.image_id.starts_with("sha256:"));
    let image = engine.image(IMAGE).await.unwrap().unwrap();
    assert_eq!(image.id, running.image_id);

    // Someone else's look and ours at the list.
    let foreign = ContainerSpec { owner: None, ..podman.spec("foreign", &["/bin/true"]) };
    engine.create(&foreign).await.unwrap();
    let all = engine.list(&[]).await.unwrap();
    assert_eq!(all.len(), 2);
    let own = engine.list(&[Owner::of_node("node-1")]).await.unwrap();
    assert_eq!(own.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["polite"]);
    assert_eq!(own[0].owner, running.owner);
    assert!(engine.list(&[Owner::of_node("node-2")]).await.unwrap().is_empty());

    // A name that is taken says by whom.
    for (name, owner) in [("polite", running.owner.clone()), ("foreign", None)] {
        match engine.create(&podman.spec(name, &["/bin/true"])).await {
            Err(error @ Error::NameTaken { .. }) => {
                let text = error.to_string();
                let Error::NameTaken { holder, .. } = error else { unreachable!() };
                assert_eq!(holder.owner, owner);
                assert!(!holder.id.is_empty() && text.contains(&holder.id[..12]), "{text}");
            }
            other => panic!("{other:?}"),
        }
    }

    engine.stop(&id, Duration::from_secs(10)).await.unwrap();
    engine.stop(&id, Duration::from_secs(10)).await.unwrap();
    let stopped = engine.inspect(&id).await.unwrap();
    assert_eq!(stopped.ended.as_ref().map(|ended| ended.code), Some(3), "it ended by itself");
    assert!(stopped.pid.is_none() && stopped.ended.unwrap().at.is_some());
    assert_eq!(engine.wait(&id).await.unwrap(), 3, "a code is no error");
    engine.kill(&id, "KILL").await.unwrap();

    engine.rename(&id, "polite-2").await.unwrap();
    assert!(matches!(engine.rename(&id, "foreign").await, Err(Error::NameTaken { .. })));
    engine.start(&id).await.unwrap();
    engine.remove("polite-2").await.unwrap();
    engine.remove("polite-2").await.unwrap();
    assert!(matches!(engine.inspect(&id).await, Err(Error::NotFound { .. })));
    assert!(matches!(engine.start(&id).await, Err(Error::NotFound { .. })));
    assert!(matches!(engine.stop(&id, SOON).await, Err(Error::NotFound { .. })));
    assert!(matches!(engine.wait(&id).await, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn one_that_ignores_sigterm_is_killed_after_its_grace() {
    let Some(podman) = Podman::start().await else { return };
    let id = podman.run("stubborn", "trap '' TERM; echo up; while :; do sleep 0.05; done").await;
    said(&podman, &id, "up").await;
    let engine = podman.engine();
    let container = engine.inspect(&id).await.unwrap();
    let watching = tokio::spawn({
        let engine = engine.clone();
        async move { engine.ended(&container).await }
    });
    // Meanwhile it can be looked at.
    let stopping = tokio::spawn({
        let (engine, id) = (engine.clone(), id.clone());
        async move { engine.stop(&id, Duration::from_secs(1)).await }
    });
    let seen = soon("a state while it is stopped", async {
        loop {
            let state = engine.inspect(&id).await.unwrap().state;
            if state != ContainerState::Running {
                return state;
            }
        }
    })
    .await;
    assert!(matches!(seen, ContainerState::Stopping | ContainerState::Exited), "{seen:?}");
    soon("stop", stopping).await.unwrap().unwrap();
    let ended = soon("end", watching).await.unwrap().unwrap();
    assert_eq!((ended.code, ended.signal()), (137, Some(9)));
}

#[tokio::test]
async fn ends_are_noticed_at_once_and_what_cannot_run_says_so() {
    let Some(podman) = Podman::start().await else { return };
    let engine = podman.engine();
    for (name, script, code) in [("zero", "exit 0", 0), ("seven", "exit 7", 7)] {
        let id = podman.run(name, script).await;
        assert_eq!(end_of(&podman, &id).await.code, code);
        assert_eq!(engine.wait(&id).await.unwrap(), code);
    }
    let id = podman.run("killed", "while :; do sleep 1; done").await;
    let container = engine.inspect(&id).await.unwrap();
    let target = LeaseTarget::of(&container).unwrap();
    let watching = tokio::spawn({
        let engine = engine.clone();
        async move { engine.ended(&container).await }
    });
    let begin = tokio::time::Instant::now();
    target.kill().unwrap();
    let ended = soon("its end", watching).await.unwrap().unwrap();
    println!("a killed container's end was known after {:?}", begin.elapsed());
    assert_eq!(ended.code, 137);
    engine.start(&id).await.unwrap();
    println!("and it ran again after {:?}", begin.elapsed());
    target.kill().unwrap();
    let again = engine.inspect(&id).await.unwrap();
    assert_eq!(again.state, ContainerState::Running, "only that run of it was meant");
    engine.remove(&id).await.unwrap();

    let missing = engine.create(&podman.spec("nope", &["/no/such/program"])).await.unwrap();
    let error = engine.start(&missing).await.unwrap_err();
    assert!(matches!(error, Error::CannotRun { .. }), "{error:?}");
    assert!(!error.is_passing());
    let nobody = ContainerSpec { user: "nobody-here".into(), ..podman.spec("who", &["/bin/true"]) };
    let error = match engine.create(&nobody).await {
        Ok(id) => engine.start(&id).await.unwrap_err(),
        Err(error) => error,
    };
    assert!(matches!(error, Error::CannotRun { .. }), "{error:?}");
    let unknown = ContainerSpec {
        image: "localhost/not-here:1".into(),
        ..podman.spec("imageless", &["/bin/true"])
    };
    let error = engine.create(&unknown).await.unwrap_err();
    assert!(matches!(error, Error::ImageMissing { .. }), "{error:?}");
}

/// Facts until one matches; also the kinds of the others, in order.
async fn until(watch: &mut Watch, what: &str, is: impl Fn(&Notice) -> bool) -> Vec<Notice> {
    soon(what, async {
        let mut all = Vec::new();
        loop {
            let notice = watch.next().await.expect("the watch goes on");
            let done = is(&notice);
            all.push(notice);
            if done {
                return all;
            }
        }
    })
    .await
}

fn is(id: &str, what: &Happened) -> impl Fn(&Notice) -> bool {
    move |notice| matches!(notice, Notice::Fact(fact) if fact.id == id && fact.what == *what)
}

#[tokio::test]
async fn events_survive_the_death_of_the_service_and_containers_do_too() {
    let Some(podman) = Podman::start().await else { return };
    let engine = podman.engine();
    let mut watch = engine.watch(vec![Owner::of_node("node-1")]);
    let first = until(&mut watch, "the first word", |_| true).await;
    assert_eq!(first, [Notice::LookAtEverything]);
    let id = podman.run("one", "while :; do sleep 1; done").await;
    let begun = until(&mut watch, "start", is(&id, &Happened::Started)).await;
    assert!(begun.iter().any(is(&id, &Happened::Created)), "{begun:?}");
    // Another node's are not told.
    let mut other = podman.spec("other", &["/bin/true"]);
    other.owner.as_mut().unwrap().node = "node-2".into();
    let other = engine.create(&other).await.unwrap();

    let before = podman.service().pid();
    let pid = i32::try_from(before).ok().and_then(rustix::process::Pid::from_raw).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    // While the service is away, a container ends: by the command, which needs no service.
    let done = podman.command(&["kill", "one"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let gap = until(&mut watch, "the end", is(&id, &Happened::Died(Some(137)))).await;
    assert!(gap.contains(&Notice::LookAtEverything), "{gap:?}");
    assert!(gap.iter().any(|notice| matches!(notice, Notice::Lost(_))), "{gap:?}");
    let again = gap.iter().filter(|notice| begun.contains(notice)).count();
    assert_eq!(again, 0, "nothing is told twice: {gap:?}");
    // It may answer before the one who started it has said so.
    let another = async {
        while podman.service().pid() == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon("it was started again", another).await;
    engine.start(&id).await.unwrap();
    engine.remove(&id).await.unwrap();
    let last = until(&mut watch, "removal", is(&id, &Happened::Removed)).await;
    assert!(
        !last
            .iter()
            .chain(&gap)
            .any(|notice| matches!(notice, Notice::Fact(fact) if fact.id == other))
    );
}

#[tokio::test]
async fn output_is_followed_line_by_line_with_its_stream_and_time() {
    let Some(podman) = Podman::start().await else { return };
    let engine = podman.engine();
    let script = "/bin/busybox mkfifo /tmp/go; echo one; echo two >&2; echo three; \
                  read x < /tmp/go; echo four; echo end";
    let id = podman.run("talker", script).await;
    let query = LogQuery { follow: true, ..LogQuery::default() };
    let mut lines = engine.logs(&id, query).unwrap();
    let mut got = Vec::new();
    while got.len() < 3 {
        got.push(soon("three lines", lines.next()).await.unwrap().unwrap());
    }
    let texts: std::collections::BTreeSet<_> =
        got.iter().map(|line| (line.stream, line.text.as_str())).collect();
    assert_eq!(
        texts.into_iter().collect::<Vec<_>>(),
        [(Stream::Stdout, "one"), (Stream::Stdout, "three"), (Stream::Stderr, "two")]
    );
    assert!(got.iter().all(|line| line.at.is_some()));
    // A fifo, so that what follows is written only now.
    let go = ExecSpec {
        cmd: vec!["/bin/sh".into(), "-c".into(), "echo > /tmp/go".into()],
        ..ExecSpec::default()
    };
    engine.exec_output(&id, &go, 100, SOON).await.unwrap();
    let mut rest = Vec::new();
    while let Some(line) = soon("the rest", lines.next()).await {
        rest.push(line.unwrap().text);
    }
    assert_eq!(rest, ["four", "end"]);
    let file = engine.inspect(&id).await.unwrap().log_file;
    let kept = std::fs::read(file).unwrap();
    let kept: Vec<_> = kept
        .split_inclusive(|byte| *byte == b'\n')
        .map(|line| read_file_line(line).expect("a line of the file").0)
        .collect();
    assert_eq!(kept.len(), 5);
    assert!(kept.iter().any(|line| line.stream == Stream::Stderr && line.text == "two"));
    assert!(kept.iter().any(|line| line.at.unwrap().as_micros() % 1_000_000 != 0));
    let query = LogQuery { tail: Some(1), ..LogQuery::default() };
    let mut tail = engine.logs("talker", query).unwrap();
    assert_eq!(soon("the last line", tail.next()).await.unwrap().unwrap().text, "end");
    assert!(soon("no more", tail.next()).await.is_none());
    let mut errors =
        podman.engine().logs("talker", LogQuery { stdout: false, ..LogQuery::default() }).unwrap();
    assert_eq!(soon("error line", errors.next()).await.unwrap().unwrap().text, "two");
    assert!(soon("end", errors.next()).await.is_none());
    let later = got[0].at.unwrap().plus(Duration::from_secs(3600));
    let mut none = podman
        .engine()
        .logs("talker", LogQuery { since: Some(later), ..LogQuery::default() })
        .unwrap();
    assert!(soon("nothing since", none.next()).await.is_none());
    let mut missing = podman.engine().logs("not-here", LogQuery::default()).unwrap();
    let error = soon("error", missing.next()).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
}

#[tokio::test]
async fn commands_run_in_a_container_with_and_without_a_terminal() {
    let Some(podman) = Podman::start().await else { return };
    let engine = podman.engine();
    let id = podman.run("host", "while :; do sleep 1; done").await;
    let sh = |script: &str| ExecSpec {
        cmd: vec!["/bin/sh".into(), "-c".into(), script.into()],
        ..ExecSpec::default()
    };
    let spec = ExecSpec {
        env: vec![("A".into(), "b c$(d)\n".into())],
        user: "1000".into(),
        workdir: "/tmp".into(),
        ..sh("printf '%s|' \"$A\"; pwd; id -u; echo bad >&2; exit 5")
    };
    let got = engine.exec_output(&id, &spec, 1000, SOON).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&got.stdout), "b c$(d)\n|/tmp\n1000\n");
    assert_eq!((got.stderr.as_slice(), got.code), (b"bad\n".as_slice(), 5));
    let flood = engine.exec_output(&id, &sh("seq 1 200000"), 10, SOON).await.unwrap();
    assert_eq!((flood.stdout.as_slice(), flood.code), (b"1\n2\n3\n4\n5\n".as_slice(), 0));
    let hang = engine.exec_output(&id, &sh("sleep 60"), 10, Duration::from_millis(300)).await;
    assert!(matches!(hang, Err(Error::Timeout { .. })), "{hang:?}");
    let none = ExecSpec { cmd: vec!["/no/such".into()], ..ExecSpec::default() };
    match engine.exec_output(&id, &none, 1000, SOON).await {
        Ok(output) => assert!([126, 127].contains(&output.code), "{output:?}"),
        Err(error) => assert!(matches!(error, Error::CannotRun { .. }), "{error:?}"),
    }

    // Input of any bytes, to its end.
    let spec = ExecSpec { stdin: true, ..sh("cat; echo done >&2") };
    let mut session = engine.exec(&id, &spec).await.unwrap();
    let mut input = session.take_input().unwrap();
    let sent: Vec<u8> = (0..100_000u32).map(|n| (n % 256) as u8).collect();
    let writing = {
        let sent = sent.clone();
        tokio::spawn(async move {
            input.write(&sent).await.unwrap();
            input.close().await.unwrap();
        })
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while let Some(chunk) = soon("what was sent", session.next()).await.unwrap() {
        match chunk.stream {
            Stream::Stdout => out.extend(chunk.bytes),
            Stream::Stderr => err.extend(chunk.bytes),
        }
    }
    writing.await.unwrap();
    assert!(out == sent, "{} of {} bytes came back", out.len(), sent.len());
    assert_eq!((err.as_slice(), session.exit_code().await.unwrap()), (b"done\n".as_slice(), 0));

    // A terminal: its size, its bytes as they are, input, another size, an exit code.
    let spec = ExecSpec {
        tty: Some(TtySize { columns: 91, rows: 33 }),
        stdin: true,
        ..sh("printf '\\001\\002\\000|'; read a; stty size; read b; stty size; exit 4")
    };
    let mut session = engine.exec(&id, &spec).await.unwrap();
    let mut input = session.take_input().unwrap();
    let mut text = Vec::new();
    let mut read = async |session: &mut weft_engine::ExecSession, until: &[u8]| {
        soon("the terminal", async {
            while !text.windows(until.len()).any(|window| window == until) {
                let chunk = session.next().await.unwrap().expect("more output");
                text.extend(chunk.bytes);
            }
        })
        .await;
        std::mem::take(&mut text)
    };
    assert!(read(&mut session, b"|").await.starts_with(&[1, 2, 0]));
    input.write(b"go\r").await.unwrap();
    read(&mut session, b"33 91").await;
    session.resize(TtySize { columns: 77, rows: 22 }).await.unwrap();
    input.write(b"go\r").await.unwrap();
    read(&mut session, b"22 77").await;
    while soon("its end", session.next()).await.unwrap().is_some() {}
    assert_eq!(session.exit_code().await.unwrap(), 4);

    engine.stop(&id, Duration::ZERO).await.unwrap();
    let stopped = engine.exec(&id, &sh("true")).await.unwrap_err();
    assert!(matches!(stopped, Error::Conflict { .. }), "{stopped:?}");
}

#[tokio::test]
async fn files_go_in_and_come_out_and_figures_can_be_read() {
    let Some(podman) = Podman::start().await else { return };
    let engine = podman.engine();
    let id = podman.run("files", "while :; do :; done").await;
    let dir = podman.dir().join("up");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("in.txt"), "carried in").unwrap();
    let tar = std::process::Command::new("tar")
        .arg("-C")
        .arg(&dir)
        .args(["-cf", "-", "in.txt"])
        .output()
        .unwrap();
    let body = futures_util::stream::iter([bytes::Bytes::from(tar.stdout)]);
    engine.upload(&id, "/tmp", body).await.unwrap();
    let mut items = engine.download(&id, "/tmp/in.txt").unwrap();
    let mut got = Vec::new();
    while let Some(item) = soon("archive", items.next()).await {
        got.extend(item.unwrap());
    }
    assert!(got.windows(10).any(|window| window == b"carried in"));
    let mut items = engine.download(&id, "/not/there").unwrap();
    assert!(soon("error", items.next()).await.unwrap().is_err());

    let one = engine.stats(&id).await.unwrap();
    assert!(one.pids >= 1 && one.memory > 0, "{one:?}");
    let two = soon("work done", async {
        loop {
            let now = engine.stats(&id).await.unwrap();
            if now.cpu > one.cpu && now.at > one.at {
                return now;
            }
        }
    })
    .await;
    assert!(weft_engine::cpu_percent(&one, &two) > 0.0);
}

#[tokio::test]
async fn limits_are_in_force_and_running_out_of_memory_is_known() {
    let Some(podman) = Podman::start().await else { return };
    let engine = podman.engine();
    let data = podman.dir().join("data dir");
    std::fs::create_dir_all(&data).unwrap();
    std::fs::write(data.join("file"), "x").unwrap();
    let script = "cat /proc/self/status; id; pwd; touch /x && echo writable; \
                  touch /data/y && echo data writable; cat /data/file; ls /named";
    let spec = ContainerSpec {
        user: "app".into(),
        workdir: "/tmp".into(),
        limits: Limits { memory: Some(64 << 20), cpu_millis: Some(500), pids: Some(50) },
        read_only: true,
        cap_drop: vec!["ALL".into()],
        no_new_privileges: true,
        volumes: vec![
            VolumeMapping {
                host: data.display().to_string(),
                container: "/data".into(),
                options: "ro".into(),
            },
            VolumeMapping { host: "named".into(), container: "/named".into(), options: "".into() },
        ],
        ..podman.spec("hard", &["/bin/sh", "-c", script])
    };
    let id = engine.create(&spec).await.unwrap();
    engine.start(&id).await.unwrap();
    end_of(&podman, &id).await;
    let text = output(&podman, &id).await;
    for part in ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(text.contains("uid=1000") && text.contains("\n/tmp\n"), "{text}");
    assert!(!text.contains("writable"), "{text}");
    let read: Container = engine.inspect(&id).await.unwrap();
    assert_eq!(read.limits, spec.limits);
    assert_eq!(read.network, "none");
    let mut volumes = read.volumes.clone();
    volumes.sort_by(|a, b| a.container.cmp(&b.container));
    assert_eq!(volumes, spec.volumes);

    // Memory: what it asks for is more than it may have.
    let spec = ContainerSpec {
        limits: Limits { memory: Some(16 << 20), ..Limits::default() },
        ..podman.spec(
            "hungry",
            &[
                "/bin/sh",
                "-c",
                "/bin/busybox mkfifo /tmp/go; read x < /tmp/go; exec tail /dev/zero",
            ],
        )
    };
    let id = engine.create(&spec).await.unwrap();
    engine.start(&id).await.unwrap();
    let container = engine.inspect(&id).await.unwrap();
    let group = MemoryCgroup::of(container.pid.unwrap()).expect("its memory cgroup");
    let watch = MemoryWatch::start(group.clone()).unwrap();
    assert_eq!(watch.kills(), 0);
    let feed = ExecSpec {
        cmd: vec![
            "/bin/sh".into(),
            "-c".into(),
            "while ! test -p /tmp/go; do :; done; echo > /tmp/go".into(),
        ],
        ..ExecSpec::default()
    };
    engine.exec_output(&id, &feed, 100, SOON).await.unwrap();
    let ended = soon("its end", engine.ended(&container)).await.unwrap();
    assert_eq!(ended.code, 137);
    println!("the engine's own flag says {}", ended.oom_flag);
    soon("the kernel's word", async {
        while watch.kills() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(ran_out_of_memory(ended.code, false, watch.kills()));

    // A kill that is none.
    engine.remove(&id).await.unwrap();
    let id = podman.run("plain", "while :; do sleep 1; done").await;
    let container = engine.inspect(&id).await.unwrap();
    let watch = MemoryWatch::start(MemoryCgroup::of(container.pid.unwrap()).unwrap()).unwrap();
    engine.kill(&id, "KILL").await.unwrap();
    let ended = soon("its end", engine.ended(&container)).await.unwrap();
    engine.remove(&id).await.unwrap();
    assert!(!ran_out_of_memory(ended.code, ended.oom_flag, watch.kills()));
}

#[tokio::test]
async fn images_are_pulled_when_they_are_not_there_and_failures_have_their_reason() {
    let layer_dir = std::env::temp_dir().join(format!("weft-layer-{}", std::process::id()));
    std::fs::create_dir_all(&layer_dir).unwrap();
    std::fs::write(layer_dir.join("hello"), "hello").unwrap();
    let tar = std::process::Command::new("tar")
        .arg("-C")
        .arg(&layer_dir)
        .args(["-cf", "-", "."])
        .output();
    let layer = tar.unwrap().stdout;
    std::fs::remove_dir_all(&layer_dir).unwrap();
    let registry = registry::Registry::start(layer);
    let Some(podman) = Podman::start_with(Some(&registry.address)).await else { return };
    let engine = podman.engine();
    let asked = || registry.manifests_asked.load(std::sync::atomic::Ordering::Relaxed);
    let app = format!("{}/test/app", registry.address);
    let tagged = format!("{app}:1");
    assert_eq!(engine.image(&tagged).await.unwrap(), None);
    let mut steps = Vec::new();
    let image = engine.ensure_image(&tagged, "", None, |step| steps.push(step)).await.unwrap();
    assert!(!steps.is_empty());
    assert_eq!(image.digest(&tagged), registry.digest);
    assert_eq!(image.env, [("FROM_IMAGE".to_owned(), "1".to_owned())]);
    assert_eq!(image.cmd, ["/bin/echo", "pulled"]);
    let before = asked();
    let by_digest = format!("{app}@{}", registry.digest);
    for reference in [&tagged, &by_digest] {
        let again = engine.ensure_image(reference, &registry.digest, None, |_| {}).await.unwrap();
        assert_eq!(again.id, image.id);
    }
    assert_eq!(asked(), before, "what is there is not asked for");
    let other = format!("sha256:{}", "0".repeat(64));
    let error = engine.ensure_image(&tagged, &other, None, |_| {}).await.unwrap_err();
    assert!(matches!(error, Error::ImageNotFound { .. }), "{error:?}");

    let error = engine.pull(&format!("{app}:9"), None, |_| {}).await.unwrap_err();
    assert!(matches!(error, Error::ImageNotFound { .. }), "{error:?}");
    assert!(!error.is_passing());
    let private = format!("{}/private/app:1", registry.address);
    let error = engine.pull(&private, None, |_| {}).await.unwrap_err();
    assert!(matches!(error, Error::ImageDenied { .. }), "{error:?}");
    let login = |password: &str| Credentials {
        username: "user".into(),
        password: password.into(),
        registry: registry.address.clone(),
    };
    let error = engine.pull(&private, Some(login("wrong")), |_| {}).await.unwrap_err();
    assert!(matches!(error, Error::ImageDenied { .. }), "{error:?}");
    engine.pull(&private, Some(login("secret")), |_| {}).await.unwrap();
    let error = engine.pull("127.0.0.1:1/x:1", None, |_| {}).await.unwrap_err();
    assert!(matches!(error, Error::RegistryUnreachable { .. }), "{error:?}");
    assert!(error.is_passing());

    // From a file, another name, and away with it.
    let tar = std::fs::read(podman.dir().join("image.tar")).unwrap();
    let body = futures_util::stream::iter([bytes::Bytes::from(tar)]);
    engine.import(body, "localhost/imported", "2").await.unwrap();
    let imported = engine.image("localhost/imported:2").await.unwrap().unwrap();
    engine.tag("localhost/imported:2", "localhost/more", "3").await.unwrap();
    assert_eq!(engine.image("localhost/more:3").await.unwrap().unwrap().id, imported.id);
    engine.remove_image("localhost/imported:2").await.unwrap();
    engine.remove_image("localhost/imported:2").await.unwrap();
    assert_eq!(engine.image("localhost/imported:2").await.unwrap(), None);

    // Saved and loaded again: the same image.
    let file = podman.dir().join("saved.tar");
    let saved = podman.command(&["save", "-o", file.to_str().unwrap(), "localhost/more:3"]);
    assert!(saved.status.success(), "{}", String::from_utf8_lossy(&saved.stderr));
    engine.remove_image("localhost/more:3").await.unwrap();
    let archive = bytes::Bytes::from(std::fs::read(&file).unwrap());
    engine.load(futures_util::stream::iter([Ok(archive)])).await.unwrap();
    assert_eq!(engine.image("localhost/more:3").await.unwrap().unwrap().id, imported.id);
}

#[tokio::test]
async fn published_ports_are_reached_and_taken_ones_are_named() {
    let Some(podman) = Podman::start().await else { return };
    let engine = podman.engine();
    // A bridge of the test's own: several Podmans would quarrel about the default one.
    let number = std::process::id();
    let (second, third) = (100 + number % 100, (number / 100) % 250);
    let subnet = format!("10.{second}.{third}.0/24");
    let gateway = format!("10.{second}.{third}.1");
    let interface = format!("weft{number}");
    let config = serde_json::json!({
        "name": "weftnet", "id": format!("{number:064x}"), "driver": "bridge",
        "network_interface": interface, "created": "2026-01-01T00:00:00Z",
        "subnets": [{"subnet": subnet, "gateway": gateway}],
        "ipv6_enabled": false, "internal": false, "dns_enabled": false,
        "ipam_options": {"driver": "host-local"},
    });
    // Written, because the command of 4.3 cannot name the interface.
    let networks = podman.dir().join("networks");
    std::fs::create_dir_all(&networks).unwrap();
    std::fs::write(networks.join("weftnet.json"), config.to_string()).unwrap();
    let port =
        |host: u16| PortMapping { host_ip: "127.0.0.1".into(), host, container: 8080, udp: false };
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let serve = "while :; do echo hello | nc -l -p 8080; done";
    let mut spec = podman.spec("served", &["/bin/sh", "-c", serve]);
    spec.network = "weftnet".into();
    spec.ports = vec![port(free)];
    let id = engine.create(&spec).await.unwrap();
    engine.start(&id).await.unwrap();
    let read = engine.inspect(&id).await.unwrap();
    assert_eq!((read.network.as_str(), read.ports.as_slice()), ("weftnet", &[port(free)][..]));
    soon("an answer", async {
        loop {
            let answer = async {
                let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", free)).await.ok()?;
                let mut text = String::new();
                tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut text).await.ok()?;
                Some(text)
            };
            let limit = Duration::from_millis(500);
            if let Ok(Some(text)) = tokio::time::timeout(limit, answer).await
                && text.contains("hello")
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;

    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap().port();
    let mut spec = podman.spec("unlucky", &["/bin/true"]);
    spec.network = "weftnet".into();
    spec.ports = vec![port(taken)];
    let id = engine.create(&spec).await.unwrap();
    let error = engine.start(&id).await.unwrap_err();
    assert!(matches!(error, Error::PortTaken { .. }), "{error:?}");
    assert!(error.to_string().contains(&taken.to_string()), "{error}");
    drop(holder);
    engine.start(&id).await.unwrap();
}

#[tokio::test]
async fn a_service_of_our_own_is_started_on_demand_and_ended_by_its_id() {
    let Some(podman) = Podman::start().await else { return };
    let found = podman.found();
    assert_eq!(found.chosen.origin, Origin::Own);
    let text = found.describe();
    assert!(text.starts_with("podman ") && text.contains("started by weftd"), "{text}");
    podman.engine().ping().await.unwrap();
    let id = podman.run("survivor", "while :; do sleep 1; done").await;
    let socket = found.service.as_ref().unwrap().socket().to_owned();

    // A daemon that was killed has left one: a new daemon ends it and starts its own.
    let mut search = podman.search();
    let dir = podman.dir().join("api-2");
    std::fs::create_dir_all(&dir).unwrap();
    let mut left = std::process::Command::new(search.podman.as_ref().unwrap())
        .args(&search.podman_options)
        .args(["system", "service", "--time=0"])
        .arg(format!("unix://{}", dir.join("podman.sock").display()))
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let file = weft_protocol::files::ProcessFile::of(left.id()).unwrap();
    std::fs::write(dir.join("podman.json"), serde_json::to_vec(&file).unwrap()).unwrap();
    search.own_dir = Some(dir.clone());
    let again = soon("a service", weft_engine::find(&search)).await.unwrap();
    assert!(!file.is_running());
    left.wait().unwrap();
    let running = again.engine.inspect(&id).await.unwrap();
    assert_eq!(running.state, ContainerState::Running, "containers outlive it");
    let service = again.service.unwrap();
    let own = weft_protocol::files::ProcessFile::of(service.pid()).unwrap();
    service.end().await;
    assert!(!own.is_running() && !dir.join("podman.sock").exists());
    assert!(again.engine.ping().await.unwrap_err().is_engine_away());

    // With it listening, its socket is found without a service.
    let named = weft_engine::Search {
        configured: format!("unix://{}", socket.display()),
        ..weft_engine::Search::default()
    };
    let plain = weft_engine::find(&named).await.unwrap();
    assert!(plain.service.is_none());
    assert_eq!(plain.chosen.origin, Origin::NodeFile);
    let docker = weft_engine::Search { flavour: Some(weft_engine::Flavour::Docker), ..named };
    let error = weft_engine::find(&docker).await.unwrap_err().to_string();
    assert!(error.contains("podman, and docker is asked for"), "{error}");
}
