//! Inspect to container.

use proptest::prelude::*;

use super::*;
use crate::names::label;

const PODMAN: &[u8] = include_bytes!("podman-inspect.json");

#[test]
fn a_podman_container_is_read_whole() {
    let got = Container::read(PODMAN).unwrap();
    assert_eq!(got.name, "g");
    assert_eq!(got.state, ContainerState::Running);
    assert!(got.pid.is_some() && got.started_at.is_some() && got.ended.is_none());
    assert_eq!(got.image, "localhost/weft-test:1");
    assert!(got.image_id.starts_with("sha256:"));
    let owner = got.owner.clone().unwrap();
    assert_eq!(
        (owner.node.as_str(), owner.revision, owner.ports.as_slice()),
        ("n1", 7, &[18081][..])
    );
    assert_eq!(got.restart, RestartPolicy::OnFailure(Some(3)));
    assert_eq!(got.network, "", "the default");
    assert_eq!(got.user, "1000:1000");
    assert_eq!(got.cmd, ["/bin/sleep", "100"]);
    assert_eq!(
        got.ports,
        [PortMapping { host_ip: "127.0.0.1".into(), host: 18081, container: 80, udp: false }]
    );
    let volume = |host: &str, container: &str, options: &str| VolumeMapping {
        host: host.into(),
        container: container.into(),
        options: options.into(),
    };
    assert_eq!(
        got.volumes,
        [volume("named", "/named", ""), volume("/srv/test/vol", "/data", "ro")]
    );
    let limits = Limits { memory: Some(1 << 25), cpu_millis: Some(500), pids: Some(50) };
    assert_eq!(got.limits, limits);
}

#[test]
fn adoption_leaves_out_what_image_and_engine_put_there() {
    let container = Container::read(PODMAN).unwrap();
    let image = Image {
        env: vec![("TOKEN".into(), "x=y".into())],
        user: "1000:1000".into(),
        ..Image::default()
    };
    let (spec, lost) = container.adopted("api", Some(&image));
    assert_eq!(spec.env, [("A".to_owned(), "b c".to_owned())]);
    assert_eq!((spec.user.as_str(), spec.workdir.as_str()), ("", "/tmp"));
    assert_eq!(spec.cmd, ["/bin/sleep", "100"]);
    assert_eq!(spec.volumes.len(), 1);
    assert_eq!(spec.restart, RestartPolicy::OnFailure(Some(3)));
    assert_eq!(lost, ["its limit of processes", "its volume named"]);
    let own = container.own_env(None);
    assert_eq!(own, [("A".into(), "b c".into()), ("TOKEN".to_owned(), "x=y".to_owned())]);
}

#[test]
fn a_word_of_a_newer_engine_does_not_hide_the_container() {
    let text = String::from_utf8(PODMAN.to_vec()).unwrap();
    let newer = text.replace("\"running\"", "\"levitating\"");
    let got = Container::read(newer.as_bytes()).unwrap();
    assert_eq!(got.state, ContainerState::Unknown);
    let killed =
        text.replace("\"running\"", "\"stopped\"").replace("\"ExitCode\": 0", "\"ExitCode\": 137");
    let ended = Container::read(killed.as_bytes()).unwrap().ended.unwrap();
    assert_eq!((ended.code, ended.signal()), (137, Some(9)));
}

#[test]
fn what_is_absent_or_null_is_unknown() {
    let got = Container::read(br#"{"Id":"1","State":null,"Config":{"Env":null}}"#).unwrap();
    assert_eq!((got.id.as_str(), got.state), ("1", ContainerState::Unknown));
    assert!(Summary::read_all(b"null").unwrap().is_empty());
    let listed = br#"[{"Id":"1","Names":["/web-api"],"State":"exited","Labels":null}]"#;
    let listed = Summary::read_all(listed).unwrap();
    assert_eq!((listed[0].name.as_str(), listed[0].state), ("web-api", ContainerState::Exited));
}

#[test]
fn networks_by_name_are_known_and_defaults_are_not_named() {
    let of = |mode: &str, names: &[&str]| {
        let names = names.iter().map(|n| ((*n).to_owned(), None)).collect();
        network(mode, Some(&names))
    };
    assert_eq!(of("bridge", &["podman"]), "");
    assert_eq!(of("default", &["bridge"]), "");
    assert_eq!(of("bridge", &["mcpnet"]), "mcpnet");
    assert_eq!(of("mcpnet", &["mcpnet"]), "mcpnet");
    assert_eq!(of("host", &["host"]), "host");
    assert_eq!(of("none", &[]), "none");
}

#[test]
fn the_table_of_observed_states_holds() {
    use ObservedState as O;
    let table = [
        ("running", [Some(O::Running), Some(O::Running)]),
        ("created", [Some(O::Stopped); 2]),
        ("configured", [Some(O::Stopped); 2]),
        ("initialized", [Some(O::Stopped); 2]),
        ("paused", [Some(O::Stopped); 2]),
        ("exited", [Some(O::Exited), Some(O::Stopped)]),
        ("stopped", [Some(O::Exited), Some(O::Stopped)]),
        ("dead", [Some(O::Exited), Some(O::Stopped)]),
        ("stopping", [None; 2]),
        ("removing", [None; 2]),
    ];
    for (word, expected) in table {
        for (wanted, expected) in [false, true].into_iter().zip(expected) {
            assert_eq!(observed(Some(ContainerState::of(word)), wanted), expected, "{word}");
        }
    }
    assert_eq!(observed(None, false), Some(O::Removed));
}

proptest! {
    #[test]
    fn what_an_engine_says_never_breaks_the_reader(
        status in ".{0,10}", pid: i64, code: i64, started in ".{0,30}", key in ".{0,12}",
        host_port in ".{0,7}", env in ".{0,10}", memory: i64, replica in ".{0,5}",
    ) {
        let json = serde_json::json!({
            "Id": "1", "Name": "/x",
            "State": {"Status": status, "Pid": pid, "ExitCode": code, "StartedAt": started},
            "HostConfig": {"Memory": memory, "NanoCpus": memory, "CpuPeriod": memory,
                "CpuQuota": pid, "PidsLimit": code,
                "PortBindings": {key: [{"HostIp": null, "HostPort": host_port}]}},
            "Config": {"Env": [env], "Labels": {
                label::NODE: "n", label::SERVICE: "s", label::COMPONENT: "c",
                label::REPLICA: replica}},
            "Mounts": [{"Type": "bind"}, {"Type": "tmpfs", "Destination": "/t"}],
        });
        let container = Container::read(json.to_string().as_bytes()).unwrap();
        let (spec, _) = container.adopted("c", None);
        prop_assert_eq!(spec.name, "c");
    }
}
