//! Spec to request.

use proptest::prelude::*;
use weft_protocol::ComponentKey;

use super::*;

fn plain() -> ContainerSpec {
    ContainerSpec { name: "web-api".into(), image: "localhost/x:1".into(), ..Default::default() }
}

fn body(spec: &ContainerSpec) -> serde_json::Value {
    serde_json::to_value(spec.body(Flavour::Podman)).unwrap()
}

#[test]
fn a_plain_spec_sends_nothing_that_is_not_said() {
    let body = body(&plain());
    assert_eq!(body["Image"], "localhost/x:1");
    assert_eq!(body["HostConfig"]["RestartPolicy"]["Name"], "no");
    for absent in ["Cmd", "Env", "User", "WorkingDir", "Entrypoint", "StopSignal"] {
        assert!(body.get(absent).is_none(), "{absent} in {body}");
    }
    let host = body["HostConfig"].as_object().unwrap();
    let mut keys: Vec<_> = host.keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["LogConfig", "RestartPolicy"]);
}

#[test]
fn everything_that_is_said_is_sent() {
    let spec = ContainerSpec {
        owner: Some(Owner {
            node: "n1".into(),
            key: ComponentKey { service: "web".into(), replica: 2, component: "api".into() },
            revision: 7,
            spec_hash: "ab".into(),
            epoch: 1,
            generation: 3,
            ports: vec![10_001],
        }),
        labels: [("weft.node".to_owned(), "liar".to_owned()), ("mine".into(), "1".into())].into(),
        network: "weft".into(),
        user: "1000:1000".into(),
        workdir: "/srv".into(),
        ports: vec![
            PortMapping { host_ip: "127.0.0.1".into(), host: 80, container: 8080, udp: false },
            PortMapping { host_ip: "::1".into(), host: 80, container: 8080, udp: false },
            PortMapping { host_ip: String::new(), host: 0, container: 53, udp: true },
        ],
        volumes: vec![VolumeMapping {
            host: "/srv/web data".into(),
            container: "/data".into(),
            options: "ro,z".into(),
        }],
        limits: Limits { memory: Some(1 << 25), cpu_millis: Some(1500), pids: Some(64) },
        read_only: true,
        cap_drop: vec!["ALL".into()],
        no_new_privileges: true,
        ulimits: Some(Ulimits { nofile: 1024, nproc: 4096 }),
        ..plain()
    };
    spec.check().unwrap();
    let body = body(&spec);
    let host = &body["HostConfig"];
    assert_eq!(body["Labels"]["weft.node"], "n1", "the owner's labels win");
    assert_eq!(body["Labels"]["mine"], "1");
    assert_eq!(body["Labels"]["weft.ports"], "10001");
    assert_eq!(body["User"], "1000:1000");
    assert_eq!(body["WorkingDir"], "/srv");
    assert_eq!(host["NetworkMode"], "weft");
    assert_eq!(host["PortBindings"]["8080/tcp"].as_array().unwrap().len(), 2);
    assert_eq!(host["PortBindings"]["53/udp"][0]["HostPort"], "");
    assert_eq!(host["Binds"][0], "/srv/web data:/data:ro,z");
    assert_eq!(host["Memory"], 1 << 25);
    assert_eq!(host["MemorySwap"], 1 << 25);
    assert_eq!(host["NanoCpus"], 1_500_000_000u64);
    assert_eq!(host["PidsLimit"], 64);
    assert_eq!(host["ReadonlyRootfs"], true);
    assert_eq!(host["CapDrop"][0], "ALL");
    assert_eq!(host["SecurityOpt"][0], "no-new-privileges");
    let names: Vec<_> = host["Ulimits"].as_array().unwrap().iter().map(|u| &u["Name"]).collect();
    assert_eq!(names, ["nofile", "nproc"]);
    assert_eq!(host["LogConfig"]["Type"], "k8s-file");
    let docker = serde_json::to_value(spec.body(Flavour::Docker)).unwrap();
    assert_eq!(docker["HostConfig"]["LogConfig"]["Type"], "json-file");
}

#[test]
fn values_that_no_engine_can_be_given_are_refused_with_their_field() {
    let volume = |host: &str, container: &str, options: &str| ContainerSpec {
        volumes: vec![VolumeMapping {
            host: host.into(),
            container: container.into(),
            options: options.into(),
        }],
        ..plain()
    };
    let wrong = [
        ("name", ContainerSpec { name: "a b".into(), ..plain() }),
        ("name", ContainerSpec { name: "-a".into(), ..plain() }),
        ("image", ContainerSpec { image: String::new(), ..plain() }),
        ("image", ContainerSpec { image: "--privileged".into(), ..plain() }),
        ("network", ContainerSpec { network: "a b".into(), ..plain() }),
        ("user", ContainerSpec { user: "a\nb".into(), ..plain() }),
        ("workdir", ContainerSpec { workdir: "srv".into(), ..plain() }),
        ("env", ContainerSpec { env: vec![("A=B".into(), "c".into())], ..plain() }),
        ("env", ContainerSpec { env: vec![("A".into(), "\0".into())], ..plain() }),
        ("cmd", ContainerSpec { cmd: vec!["a\0b".into()], ..plain() }),
        ("volumes", volume("/a/../etc", "/b", "")),
        ("volumes", volume("a/b", "/b", "")),
        ("volumes", volume("/a:/etc", "/b", "")),
        ("volumes", volume("/a", "b", "")),
        ("volumes", volume("/a", "/b", "ro:/etc")),
    ];
    for (expected, spec) in wrong {
        match spec.check() {
            Err(Error::Spec { field, .. }) => assert_eq!(field, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
}

#[test]
fn the_command_line_is_quoted_and_tells_no_secret() {
    let spec = ContainerSpec {
        env: vec![("TOKEN".into(), "hunter2".into())],
        cmd: vec!["echo".into(), "it's $(here)\n".into(), String::new()],
        ..plain()
    };
    let line = spec.command_line(Flavour::Docker);
    assert!(!line.contains("hunter2"), "{line}");
    assert_eq!(
        line,
        "docker create --name=web-api --restart=no --env=TOKEN=… localhost/x:1 echo 'it'\\''s $(here)\n' ''"
    );
}

proptest! {
    #[test]
    fn each_value_is_one_argument_whatever_it_holds(
        cmd in proptest::collection::vec("[^\\x00]{0,20}", 0..6),
        env in proptest::collection::vec(("[A-Z]{1,3}", "[^\\x00]{0,20}"), 0..6),
    ) {
        let spec = ContainerSpec { cmd: cmd.clone(), env: env.clone(), ..plain() };
        spec.check().unwrap();
        let body = spec.body(Flavour::Podman);
        prop_assert_eq!(body.cmd.unwrap_or_default(), cmd);
        let sent = body.env.unwrap_or_default();
        // Of equal names the last counts, and is sent once.
        let last: BTreeMap<_, _> = env.into_iter().collect();
        let got: BTreeMap<_, _> = sent
            .iter()
            .map(|pair| pair.split_once('=').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap())
            .collect();
        prop_assert_eq!(sent.len(), last.len());
        prop_assert_eq!(got, last);
    }
}
