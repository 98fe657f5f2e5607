//! Properties over generated definitions and over damaged ones.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use weft_protocol::{
    ComponentSpec, Driver, Failover, HealthCheck, HealthKind, OnPartition, PlacementRules,
    PortMapping, Resources, RestartPolicy, RouteMode, RouteSpec, ServiceSpec, ShippedFile,
    Snapshot, Stateful, Tier, UpdateOrder, UpdatePolicy, VolumeMapping,
};

use super::super::{parse, set_active, to_toml};
use super::{EVERYTHING, FULL, METACRYPT};

fn name() -> impl Strategy<Value = String> {
    "[a-z]([a-z0-9-]{0,8}[a-z])?"
}

/// Whole milliseconds, more often round ones.
fn time(least: u64) -> impl Strategy<Value = Duration> {
    prop_oneof![
        (least..100_000).prop_map(Duration::from_millis),
        (1u64..100_000).prop_map(Duration::from_secs),
    ]
}

/// Text without NUL, with everything that needs escaping.
fn text() -> impl Strategy<Value = String> {
    "[ -~\\n\\t\"\\\\äß日\\x01-\\x1f\\x7f]{1,12}"
}

fn route_named(name: String) -> impl Strategy<Value = RouteSpec> {
    (
        1u16..,
        any::<bool>(),
        option::of("[a-z]{1,5}\\.[a-z]{2}"),
        any::<bool>(),
        any::<Option<bool>>(),
    )
        .prop_map(move |(port, l7, hostname, public, backend_tls)| RouteSpec {
            name: name.clone(),
            port,
            mode: if l7 { RouteMode::L7 } else { RouteMode::L4 },
            hostname: hostname.unwrap_or_default(),
            public,
            backend_tls,
        })
}

fn routes() -> impl Strategy<Value = Vec<RouteSpec>> {
    prop_oneof![
        Just(Vec::new()).boxed(),
        route_named(String::new()).prop_map(|route| vec![route]).boxed(),
        btree_set("[a-z][a-z0-9-]{0,6}", 1..4)
            .prop_flat_map(|names| names.into_iter().map(route_named).collect::<Vec<_>>())
            .boxed(),
    ]
}

fn health(routes: &[RouteSpec]) -> impl Strategy<Value = HealthCheck> + use<> {
    let mut ports = vec!["10080".to_owned()];
    ports.extend(routes.iter().map(|r| r.name.clone()).filter(|name| !name.is_empty()));
    if routes.len() == 1 {
        ports.push(String::new());
    }
    (
        0..4usize,
        prop::sample::select(ports),
        vec(text(), 1..3),
        (time(1), time(1), time(0)),
        1..9u32,
    )
        .prop_map(|(kind, port, command, (interval, timeout, start_period), retries)| {
            let kind =
                [HealthKind::Tcp, HealthKind::Http, HealthKind::Grpc, HealthKind::Exec][kind];
            let exec = kind == HealthKind::Exec;
            HealthCheck {
                kind,
                port: if exec { String::new() } else { port },
                path: if kind == HealthKind::Http { "/x".to_owned() } else { String::new() },
                command: if exec { command } else { Vec::new() },
                interval,
                timeout,
                retries,
                start_period,
            }
        })
}

fn component(name: String) -> impl Strategy<Value = ComponentSpec> {
    let image = prop_oneof![
        "[a-z]{1,4}(:[0-9]{2})?/[a-z]{1,6}:v[0-9]",
        Just(format!("app@sha256:{}", "0123456789abcdef".repeat(4))),
    ];
    let restart = prop_oneof![
        Just(RestartPolicy::No),
        Just(RestartPolicy::Always),
        Just(RestartPolicy::UnlessStopped),
        option::of(1u32..).prop_map(RestartPolicy::OnFailure),
    ];
    let volumes = btree_map("/[a-z]{1,4}", ("/[a-z]{1,4}", "(ro)?"), 0..3).prop_map(|volumes| {
        let mapping = |(container, (host, options))| VolumeMapping { host, container, options };
        volumes.into_iter().map(mapping).collect::<Vec<_>>()
    });
    let ports =
        vec((prop::sample::select(vec!["", "127.0.0.1", "::1"]), 1u16.., any::<bool>()), 0..2);
    let env = btree_map("[A-OQ-Z_][A-Z]{0,5}", prop_oneof![Just(String::new()), text()], 0..3);
    routes().prop_flat_map(|routes| (option::of(health(&routes)), Just(routes))).prop_flat_map(
        move |(health, routes)| {
            let name = name.clone();
            (
                (any::<bool>(), image.clone(), "[0-9.]{0,4}", restart.clone(), time(0)),
                (vec(text(), 1..4), env.clone(), volumes.clone(), ports.clone()),
                (option::of(1u64..9999), option::of(1u64..1 << 50)),
            )
                .prop_map(
                    move |((container, image, version, restart, stop_grace), lists, resources)| {
                        let (cmd, env, volumes, ports) = lists;
                        ComponentSpec {
                            name: name.clone(),
                            driver: if container { Driver::Container } else { Driver::Process },
                            image: if container { image } else { String::new() },
                            version,
                            network: if container { "net".to_owned() } else { String::new() },
                            user: "0:0".to_owned(),
                            restart,
                            stop_grace,
                            workdir: "/w".to_owned(),
                            ports: ports
                                .into_iter()
                                .map(|(ip, host, udp)| PortMapping {
                                    host_ip: ip.to_owned(),
                                    host,
                                    container: 80,
                                    udp,
                                })
                                .collect(),
                            volumes,
                            cmd,
                            env: env.into_iter().collect(),
                            health: health.clone(),
                            resources: Resources { cpu_millis: resources.0, memory: resources.1 },
                            routes: routes.clone(),
                        }
                    },
                )
        },
    )
}

fn components() -> impl Strategy<Value = Vec<ComponentSpec>> {
    btree_set(name(), 1..4)
        .prop_flat_map(|names| names.into_iter().map(component).collect::<Vec<_>>())
        .prop_map(|mut components| {
            // Host ports and (port, host name) are used once in a service; a strategy for that
            // would be longer than giving each its own.
            let mut next = 20_000;
            let mut fresh = || {
                next += 1;
                next
            };
            for component in &mut components {
                component.ports.iter_mut().for_each(|port| port.host = fresh());
                component.routes.iter_mut().for_each(|route| route.port = fresh());
            }
            components
        })
}

fn update() -> impl Strategy<Value = UpdatePolicy> {
    let order = prop::sample::select(vec![
        None,
        Some(UpdateOrder::StartFirst),
        Some(UpdateOrder::StopFirst),
    ]);
    (1u32..9, order, time(0), time(1), any::<bool>(), 0u32..3).prop_map(
        |(max_parallel, order, healthy_for, longer, auto_rollback, canary)| UpdatePolicy {
            max_parallel,
            order,
            healthy_for,
            deadline: healthy_for + longer,
            auto_rollback,
            canary,
        },
    )
}

prop_compose! {
    fn spec()(
        name in name(),
        (node, core, active, version) in ("[a-z]{0,4}", any::<bool>(), any::<bool>(), "[a-z0-9.]{0,6}"),
        (path, comment, stop, colocate) in ("(\\.\\./)?[a-z]{1,5}", prop_oneof![Just(String::new()), text()], any::<bool>(), any::<bool>()),
        depends_on in btree_set("[a-z]{1,3}9", 0..3),
        labels in vec("[a-z]{1,3}(!?=[a-z0-9]{1,3})?", 0..3),
        (reschedule_after, update, exclude) in (prop::option::of(time(0)), update(), btree_set("[a-z]{1,3}/[a-z]{1,3}", 0..3)),
        components in components(),
    ) -> ServiceSpec {

        let depends_on = depends_on.into_iter().collect();
        ServiceSpec {
            name,
            node,
            tier: if core { Tier::Core } else { Tier::Worker },
            active,
            version,
            path,
            comment,
            depends_on,
            replicas: 1,
            on_partition: if stop { OnPartition::Stop } else { OnPartition::Keep },
            placement: PlacementRules { require: labels.clone(), prefer: Vec::new(), avoid: labels, colocate },
            failover: Failover { reschedule_after, stateful: Stateful::Wait },
            build_images: BTreeMap::new(),
            snapshot: Snapshot { method: "full".to_owned(), exclude: exclude.iter().cloned().collect() },
            update,
            files: exclude.into_iter().map(ShippedFile::named).collect(),
            components,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read_back_the_same(spec in spec()) {
        let text = to_toml(&spec);
        match parse(&text, "generated.toml") {
            Ok(parsed) => {
                prop_assert_eq!(&parsed.spec, &spec);
                prop_assert_eq!(to_toml(&parsed.spec), text);
            }
            Err(errors) => prop_assert!(false, "{}", errors),
        }
    }

    #[test]
    fn setting_active_changes_nothing_else(spec in spec(), active in any::<bool>()) {
        let edited = set_active(&to_toml(&spec), active).map(|text| parse(&text, "f"));
        prop_assert_eq!(edited.unwrap().unwrap().spec, ServiceSpec { active, ..spec });
    }

    #[test]
    fn any_text_is_parsed_or_refused_without_a_panic(text in "\\PC*|(.|\\n|\\r|\\t|\\[|\\]|\"|=|'|\\{|\\}|,|#){0,200}") {
        if let Err(errors) = parse(&text, "any") {
            prop_assert!(!errors.is_empty());
            let _ = (errors.to_string(), errors.short());
        }
        let _ = set_active(&text, false);
    }

    #[test]
    fn a_damaged_definition_is_parsed_or_refused_without_a_panic(
        which in 0..3usize,
        cuts in vec((any::<prop::sample::Index>(), 0..12usize, "[\\[\\]={}\"'#\\\\,.a0\\n\\t é-]{0,6}"), 1..6),
    ) {
        let mut chars: Vec<char> = [FULL, METACRYPT, EVERYTHING][which].chars().collect();
        for (at, length, with) in cuts {
            let at = at.index(chars.len().max(1)).min(chars.len());
            let end = (at + length).min(chars.len());
            chars.splice(at..end, with.chars());
        }
        let text: String = chars.into_iter().collect();
        if let Err(errors) = parse(&text, "damaged") {
            for error in &errors {
                prop_assert!(error.line <= text.matches('\n').count() + 1);
            }
            let _ = errors.to_string();
        }
        if let Ok(edited) = set_active(&text, false) {
            prop_assert!(edited.contains("false"));
        }
    }
}
