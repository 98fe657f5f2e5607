//! Whether a container is still what it was made as: somebody may have made another one in its
//! place, with its name and labels (orchestration §4, drift of kind `spec`).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use weft_engine::{Container, ContainerSpec};
use weft_protocol::{PortMapping, VolumeMapping};

/// Keys of the definition in which a container differs from what it would be made as now. What is
/// left to the image or the engine is not compared, nor what only they add. Pure.
pub(crate) fn differs(there: &Container, made: &ContainerSpec) -> Vec<&'static str> {
    let left_out = |wanted: &str, is: &str| wanted.is_empty() || wanted == is;
    let fields = [
        ("image", is_image(&made.image, &there.image)),
        ("network", network(&made.network) == network(&there.network)),
        ("user", left_out(&made.user, &there.user)),
        ("workdir", made.workdir.is_empty() || clean(&made.workdir) == clean(&there.workdir)),
        ("cmd", made.cmd.is_empty() || made.cmd == there.cmd),
        ("env", made.env.iter().all(|(key, value)| last(&made.env, key, value, &there.env))),
        ("ports", ports(&made.ports) == ports(&there.ports)),
        ("volumes", volumes(&made.volumes) == volumes(&there.volumes)),
        ("resources", limit(made.limits.memory, there.limits.memory)),
        ("resources", limit(made.limits.cpu_millis, there.limits.cpu_millis)),
    ];
    let mut differ: Vec<&str> =
        fields.iter().filter(|(_, same)| !same).map(|(field, _)| *field).collect();
    differ.dedup();
    differ
}

/// Engines complete a name: `x:1` is `docker.io/library/x:1`, or `localhost/x:1`. Where there is a
/// digest it counts alone.
fn is_image(wanted: &str, is: &str) -> bool {
    let parts = |name: &str| match name.split_once('@') {
        Some((_, digest)) => (String::new(), digest.to_owned()),
        None => {
            let short = name.strip_prefix("docker.io/").unwrap_or(name);
            (short.strip_prefix("library/").unwrap_or(short).to_owned(), String::new())
        }
    };
    let ((name, digest), (own, own_digest)) = (parts(wanted), parts(is));
    match (digest.is_empty(), own_digest.is_empty()) {
        (true, true) => {
            let domain = name.split_once('/').map_or("", |(first, _)| first);
            let short = !domain.contains(['.', ':']) && domain != "localhost";
            name == own || short && own.strip_suffix(&name).is_some_and(|b| b.ends_with('/'))
        }
        (false, false) => digest == own_digest,
        // The one cannot be told from the other.
        _ => true,
    }
}

/// Without what means nothing in it.
fn clean(path: &str) -> PathBuf {
    Path::new(path).components().collect()
}

/// Names of the engine's own network are one.
fn network(name: &str) -> &str {
    if matches!(name, "bridge" | "default" | "podman") { "" } else { name }
}

/// Of a variable that is given several times the last counts.
fn last(wanted: &[(String, String)], key: &str, value: &str, is: &[(String, String)]) -> bool {
    let of = |all: &[(String, String)]| {
        all.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.clone())
    };
    of(wanted).is_some_and(|counts| counts != value) || of(is).as_deref() == Some(value)
}

fn ports(all: &[PortMapping]) -> BTreeSet<(u16, u16, bool)> {
    all.iter().map(|port| (port.host, port.container, port.udp)).collect()
}

/// Those of directories; an image may bring volumes of its own.
fn volumes(all: &[VolumeMapping]) -> BTreeSet<(PathBuf, PathBuf)> {
    all.iter()
        .filter(|volume| volume.host.starts_with('/'))
        .map(|volume| (clean(&volume.host), clean(&volume.container)))
        .collect()
}

/// What an engine does not hold a container to it does not say.
fn limit(wanted: Option<u64>, is: Option<u64>) -> bool {
    match (wanted, is) {
        (_, None) => true,
        (wanted, is) => wanted == is,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_engine::Limits;
    use weft_protocol::RestartPolicy;

    fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
        all.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
    }

    fn made() -> ContainerSpec {
        ContainerSpec {
            image: "web:1".into(),
            user: "7".into(),
            cmd: vec!["serve".into()],
            env: pairs(&[("A", "1"), ("A", "2"), ("B", "")]),
            ports: vec![PortMapping {
                host_ip: String::new(),
                host: 80,
                container: 8080,
                udp: false,
            }],
            volumes: vec![VolumeMapping {
                host: "/srv/web".into(),
                container: "/data".into(),
                options: String::new(),
            }],
            limits: Limits { memory: Some(1 << 26), cpu_millis: None, pids: None },
            ..ContainerSpec::default()
        }
    }

    fn there() -> Container {
        let made = made();
        Container {
            id: "1".into(),
            name: "web".into(),
            image: "docker.io/library/web:1".into(),
            image_id: String::new(),
            owner: None,
            labels: Default::default(),
            state: weft_engine::ContainerState::Running,
            pid: None,
            ended: None,
            started_at: None,
            restart: RestartPolicy::No,
            restarts: 0,
            network: "podman".into(),
            gateways: Vec::new(),
            addresses: Vec::new(),
            user: made.user,
            workdir: "/".into(),
            entrypoint: Vec::new(),
            cmd: made.cmd,
            env: pairs(&[("PATH", "/bin"), ("A", "2"), ("B", ""), ("container", "podman")]),
            ports: made.ports,
            volumes: vec![
                VolumeMapping {
                    host: "/srv/web/".into(),
                    container: "/data".into(),
                    options: "rw,rbind".into(),
                },
                VolumeMapping {
                    host: "of-the-image".into(),
                    container: "/cache".into(),
                    options: String::new(),
                },
            ],
            limits: made.limits,
            tty: false,
            hostname: String::new(),
            log_file: String::new(),
        }
    }

    #[test]
    fn what_an_engine_adds_and_completes_is_no_difference() {
        assert!(differs(&there(), &made()).is_empty());
        // Nor what the definition leaves to the image.
        let silent =
            ContainerSpec { cmd: Vec::new(), user: String::new(), env: Vec::new(), ..made() };
        assert!(differs(&there(), &silent).is_empty());
    }

    #[test]
    fn whatever_else_was_changed_is_named_by_its_key() {
        type Change = fn(&mut Container);
        let changes: [(&str, Change); 10] = [
            ("image", |c| c.image = "docker.io/library/web:2".into()),
            ("image", |c| c.image = "otherweb:1".into()),
            ("network", |c| c.network = "host".into()),
            ("user", |c| c.user = "0".into()),
            ("cmd", |c| c.cmd.push("--debug".into())),
            ("env", |c| c.env.retain(|(key, _)| key != "A")),
            ("ports", |c| c.ports.clear()),
            ("volumes", |c| c.volumes.clear()),
            ("volumes", |c| {
                c.volumes.push(VolumeMapping {
                    host: "/".into(),
                    container: "/host".into(),
                    options: String::new(),
                });
            }),
            ("resources", |c| c.limits.memory = Some(1 << 27)),
        ];
        for (field, change) in changes {
            let mut other = there();
            change(&mut other);
            assert_eq!(differs(&other, &made()), [field]);
        }
    }

    #[test]
    fn a_name_of_an_image_is_one_however_an_engine_completes_it() {
        for (wanted, is) in [
            ("nginx:1", "docker.io/library/nginx:1"),
            ("docker.io/nginx:1", "docker.io/library/nginx:1"),
            ("me/app:1", "docker.io/me/app:1"),
            ("app:1", "localhost/app:1"),
            ("r.example:5000/a/b:1", "r.example:5000/a/b:1"),
            ("app:1@sha256:ab", "docker.io/library/app@sha256:ab"),
        ] {
            assert!(is_image(wanted, is), "{wanted} {is}");
        }
        for (wanted, is) in [
            ("nginx:1", "docker.io/library/nginx:2"),
            ("app:1", "docker.io/library/myapp:1"),
            ("a.example/app:1", "b.example/app:1"),
            ("app:1@sha256:ab", "docker.io/library/app@sha256:cd"),
        ] {
            assert!(!is_image(wanted, is), "{wanted} {is}");
        }
    }
}
