//! Layers, origins, the seed's agent file, and what is refused.

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::diagnostic::Diagnostics;

const SEED: &str = include_str!("../../tests/data/seed-agent.toml");
const PLAIN: &str = "[node]\nname = \"n1\"\ndata_dir = \"/d\"\n";

fn run(text: &str, env: &[(&str, &str)], flags: &NodeFlags) -> Result<Loaded, Diagnostics> {
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    load(Some(NodeFile { name: "node.toml", text, dir: None }), env, flags)
}

fn good(text: &str) -> Loaded {
    run(text, &[], &NodeFlags::default()).unwrap_or_else(|errors| panic!("{errors}"))
}

/// Every line for a file that continues [`PLAIN`], from line 4 on.
fn errors(tail: &str) -> String {
    match run(&format!("{PLAIN}{tail}"), &[], &NodeFlags::default()) {
        Ok(loaded) => panic!("accepted: {loaded:?}"),
        Err(errors) => errors.short(),
    }
}

#[test]
fn two_keys_are_enough_and_the_rest_is_default() {
    let config = good(PLAIN).config;
    assert_eq!(config.fabric.bind.to_string(), "127.0.0.1:7443");
    assert_eq!(config.gateway_bind.to_string(), "127.0.0.1:9765");
    assert_eq!(config.monitor.interval, Duration::from_secs(60));
    assert_eq!(config.monitor.retention, Duration::from_secs(30 * 86400));
    assert_eq!(config.monitor.flap_threshold, 3);
    assert_eq!(config.monitor.alert_after, Duration::from_secs(5));
    assert_eq!((config.monitor.restart_threshold, config.monitor.disk_low), (10, 5));
    assert_eq!(config.planned_stop, Duration::from_secs(60));
    assert_eq!(config.voter_replace_after, Duration::from_secs(60));
    assert_eq!(config.reschedule_after, Duration::from_secs(1));
    assert!(!config.chaos);
    assert_eq!(config.origin("node.name"), Origin::File { line: 2 });
    assert_eq!(config.origin("log.level"), Origin::Default);
}

#[test]
fn every_default_is_a_value_of_its_kind() {
    for key in KEYS {
        if let Some(text) = key.default {
            assert!(keys::from_text(key.kind, text).is_ok(), "{}", key.name);
        }
    }
}

#[test]
fn every_key_can_be_written_explained_and_set_by_variable() {
    let config = NodeConfig::new("n1", Path::new("/d"));
    for (key, explained) in KEYS.iter().zip(config.explain()) {
        assert_eq!(explained.key, key.name);
        assert!(!explained.value.is_empty() && !explained.about.is_empty(), "{}", key.name);
        assert!(variable(key.name).starts_with("WEFT_"));
    }
}

#[test]
fn what_can_be_set_has_its_effect_and_what_is_in_force_anyway_is_nothing_to_warn_of() {
    let text = format!(
        "{PLAIN}[failover]\nreschedule_after = \"5s\"\nstateful = \"wait\"\n\
         [monitor]\ncooldown = \"1m\"\n[reconcile]\nmode = \"report\"\n"
    );
    let loaded = good(&text);
    assert!(loaded.config.without_effect().is_empty());
    assert_eq!(loaded.config.reschedule_after, Duration::from_secs(5));
}

#[test]
fn keys_without_effect_exist_and_are_explained_as_such() {
    let explained = NodeConfig::new("n1", Path::new("/d")).explain();
    for (key, in_force) in WITHOUT_EFFECT {
        let default = keys::find(key).unwrap_or_else(|| panic!("{key}")).default;
        assert!(in_force.is_none_or(|value| Some(value) == default), "{key}");
    }
    for line in explained {
        let listed = WITHOUT_EFFECT.iter().any(|(key, _)| *key == line.key);
        assert_eq!(line.about.contains("not in this version"), listed, "{}", line.key);
    }
}

#[test]
fn flags_win_over_the_environment_which_wins_over_the_file() {
    let text = format!(
        "{PLAIN}[log]\nlevel = \"warn\"\nformat = \"json\"\n[fabric]\nbind = \"10.0.0.1\"\n"
    );
    let flags = NodeFlags { bind: Some("10.0.0.3:1".into()), ..NodeFlags::default() };
    let env = [
        ("WEFT_LOG_LEVEL", "debug"),
        ("WEFT_FABRIC_BIND", "10.0.0.2:5"),
        ("HOME", "/x"),
        ("WEFT_LOG_FORMAT", ""),
    ];
    let loaded = run(&text, &env, &flags).unwrap();
    let config = loaded.config;
    assert!(loaded.warnings.is_empty());
    assert_eq!(config.log_level, LogLevel::Debug);
    assert_eq!(config.log_format, LogFormat::Json);
    assert_eq!(config.fabric.bind.to_string(), "10.0.0.3:1");
    assert_eq!(config.origin("log.level"), Origin::Env("WEFT_LOG_LEVEL".into()));
    assert_eq!(config.origin("log.format"), Origin::File { line: 6 });
    assert_eq!(config.origin("fabric.bind"), Origin::Flag);
}

#[test]
fn the_environment_alone_can_configure_a_node() {
    let env = [
        ("WEFT_NODE_NAME", "n9"),
        ("WEFT_NODE_DATA_DIR", "/d"),
        ("WEFT_NODE_LABELS", "ssd, zone=a"),
        ("WEFT_MONITOR_ALERT_COMMAND", "[\"/bin/notify\", \"a b\"]"),
        ("WEFT_CHAOS_ENABLED", "true"),
    ];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = load(None, env, &NodeFlags::default()).unwrap().config;
    assert_eq!(config.node.labels, ["ssd", "zone=a"]);
    assert_eq!(config.monitor.alert_command, ["/bin/notify", "a b"]);
    assert!(config.chaos);
}

#[test]
fn an_error_of_the_environment_names_the_variable() {
    let errors = run(PLAIN, &[("WEFT_MONITOR_INTERVAL", "60")], &NodeFlags::default()).unwrap_err();
    assert_eq!(
        errors.to_string(),
        "error: WEFT_MONITOR_INTERVAL: `60` has no unit: write `60s` for seconds (units: ms, s, m, h, d)\n\
        \x20 --> environment variable WEFT_MONITOR_INTERVAL\n\
        \x20  = help: it overrides `monitor.interval` of the node file"
    );
}

#[test]
fn a_misspelt_variable_is_a_warning_with_the_nearest() {
    let loaded =
        run(PLAIN, &[("WEFT_FABRIC_BNID", "x"), ("WEFT_CONFIG", "y")], &NodeFlags::default())
            .unwrap();
    assert_eq!(loaded.warnings.len(), 1);
    assert!(
        loaded.warnings.to_string().contains("did you mean WEFT_FABRIC_BIND?"),
        "{}",
        loaded.warnings
    );
}

#[test]
fn an_error_of_a_flag_names_the_flag() {
    let flags = NodeFlags {
        log_level: Some("loud".into()),
        set: vec![("monitor.intervall".into(), "1s".into())],
        ..NodeFlags::default()
    };
    let errors = run(PLAIN, &[], &flags).unwrap_err().short();
    assert!(
        errors.contains("--log-level: `loud` must be trace, debug, info, warn, error"),
        "{errors}"
    );
    assert!(errors.contains("the node file has no key `monitor.intervall`"), "{errors}");
}

#[test]
fn missing_keys_are_named_all_at_once() {
    let errors = run("[node]\nzone = \"a\"\n", &[], &NodeFlags::default()).unwrap_err();
    assert_eq!(
        errors.short(),
        "node.toml:1:1: missing key `name` in [node]\nnode.toml:1:1: missing key `data_dir` in [node]"
    );
    let errors = load(None, [], &NodeFlags::default()).unwrap_err();
    assert_eq!(errors.len(), 2);
    assert!(errors.to_string().contains("WEFT_NODE_DATA_DIR"));
}

#[test]
fn a_wildcard_address_is_refused_unless_allowed() {
    for bind in ["0.0.0.0:7443", "[::]:7443", ":7443", "0.0.0.0"] {
        let found = errors(&format!("[fabric]\nbind = \"{bind}\"\n"));
        assert!(found.starts_with("node.toml:5:8: `fabric.bind` is "), "{found}");
    }
    assert!(errors("[gateway]\nbind = \"0.0.0.0:80\"\n").contains("`gateway.bind` is 0.0.0.0:80"));
    let text = format!(
        "{PLAIN}[fabric]\nbind = \"0.0.0.0:7443\"\nallow_wildcard = true\nadvertise = \"10.0.0.1:7443\"\n"
    );
    assert!(good(&text).config.fabric.allow_wildcard);
    let errors = run(PLAIN, &[("WEFT_FABRIC_BIND", ":1")], &NodeFlags::default()).unwrap_err();
    assert!(errors.short().starts_with("environment variable WEFT_FABRIC_BIND:"), "{errors}");
}

#[test]
fn an_allowed_wildcard_needs_an_address_to_advertise() {
    let found = errors("[fabric]\nbind = \"0.0.0.0:1\"\nallow_wildcard = true\n");
    assert_eq!(
        found,
        "node.toml:5:8: with a wildcard `fabric.bind` other nodes cannot know what to dial"
    );
}

#[test]
fn what_cannot_be_dialled_is_not_advertised() {
    for bad in ["0.0.0.0:1", "10.0.0.1:0", "300.1.1.1:5", "host:99999", "a b:1"] {
        let found = errors(&format!("[fabric]\nadvertise = \"{bad}\"\n"));
        assert!(found.contains("is not an address others can dial"), "{bad}: {found}");
    }
    for fine in ["10.0.0.1:7443", "10.0.0.1", "n1.example.org:7443", "[fd00::1]:7443", "n1"] {
        good(&format!("{PLAIN}[fabric]\nadvertise = \"{fine}\"\n"));
    }
}

#[test]
fn mistakes_are_refused_with_their_place() {
    for (tail, expected) in [
        ("[fabrik]\n", "node.toml:4:2: unknown key `fabrik`"),
        ("[proxy]\n", "node.toml:4:2: unknown key `proxy`"),
        ("[log]\nlevle = \"info\"\n", "node.toml:5:1: unknown key `levle` in [log]"),
        (
            "[log]\nlevel = \"verbose\"\n",
            "node.toml:5:9: `level` must be `trace` or `debug` or `info` or `warn` or `error`, found `verbose`",
        ),
        (
            "[monitor]\ninterval = 60\n",
            "node.toml:5:12: `interval` must be a duration in quotes, found an integer",
        ),
        (
            "[monitor]\ndisk_low = 91\n",
            "node.toml:5:12: `disk_low` must be between 0 and 90, found 91",
        ),
        (
            "[monitor]\nflap_threshold = 0\n",
            "node.toml:5:18: `flap_threshold` must be between 1 and 4294967295, found 0",
        ),
        (
            "[monitor]\nalert_command = \"x\"\n",
            "node.toml:5:17: `alert_command` must be a list of strings, found a string",
        ),
        (
            "[monitor]\nalert_command = [\"\"]\n",
            "node.toml:5:17: the first word of `monitor.alert_command` is empty",
        ),
        (
            "[fabric]\nbind = \"example.org:1\"\n",
            "node.toml:5:8: `bind`: `example.org:1` is not an address: write an IP address and a port, like 10.0.0.1:7443",
        ),
        (
            "[reconcile]\nmode = \"restrat\"\n",
            "node.toml:5:8: `mode` must be `restart` or `report` or `full`, found `restrat`",
        ),
        (
            "[failover]\nstateful = \"snapshot\"\n",
            "node.toml:5:12: `failover.stateful = \"snapshot\"` is not in this version",
        ),
        (
            "[chaos]\nenabled = 1\n",
            "node.toml:5:11: `enabled` must be true or false, found an integer",
        ),
        ("[log\n", "node.toml:4:5: unclosed table, expected `]`"),
    ] {
        assert_eq!(errors(tail), expected);
    }
    assert_eq!(
        run(
            "[node]\nname = \"N 1\"\ndata_dir = \"\"\nlabels = [\"a!=b\"]\n",
            &[],
            &NodeFlags::default()
        )
        .unwrap_err()
        .len(),
        3
    );
}

#[test]
fn a_section_of_a_later_version_says_so() {
    let found =
        run(&format!("{PLAIN}[dns]\n"), &[], &NodeFlags::default()).unwrap_err().to_string();
    assert!(found.contains("[dns] is not in this version"), "{found}");
}

#[test]
fn the_seeds_agent_file_is_understood() {
    let Loaded { config, warnings } = good(SEED);
    assert_eq!(config.node.name, "rift");
    assert_eq!(config.node.data_dir, Path::new("/srv/mcp"));
    assert_eq!(config.node.driver, NodeDriver::Podman);
    assert_eq!(config.fabric.bind.to_string(), "100.95.252.120:9444");
    assert_eq!(config.origin("fabric.bind"), Origin::File { line: 2 });
    assert_eq!(config.monitor, NodeConfig::new("x", Path::new("/")).monitor);
    let unused: Vec<usize> = warnings.iter().map(|warning| warning.line).collect();
    assert_eq!(unused, [3, 4, 10, 11, 12]);
}

#[test]
fn our_own_key_wins_over_the_seeds() {
    let Loaded { config, warnings } =
        good(&format!("{PLAIN}[database]\npath = \"/srv/mcp/mcp.db\"\n"));
    assert_eq!(config.node.data_dir, Path::new("/d"));
    assert_eq!(
        warnings.short(),
        "node.toml:5:1: warning: `database.path` is ignored: `node.data_dir` is set too"
    );
}

#[test]
fn a_relative_data_directory_is_relative_to_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.toml");
    std::fs::write(&path, "[node]\nname = \"n1\"\ndata_dir = \"data\"\n").unwrap();
    let config = load_file(&path, [], &NodeFlags::default()).unwrap().config;
    assert_eq!(config.node.data_dir, dir.path().join("data"));
    let absent = load_file(&dir.path().join("absent"), [], &NodeFlags::default()).unwrap_err();
    assert!(absent.to_string().contains("cannot read the node file"));
}

#[test]
fn a_node_file_is_written_with_what_differs() {
    let mut config = NodeConfig::new("n1", Path::new("/d"));
    config.fabric.bind = "127.0.0.1:0".parse().unwrap();
    config.chaos = true;
    config.monitor.interval = Duration::from_secs(1);
    config.node.labels = vec!["ssd".into()];
    let text = config.to_toml();
    assert_eq!(
        text,
        "[node]\nname = \"n1\"\ndata_dir = \"/d\"\nlabels = [\"ssd\"]\n\n\
         [fabric]\nbind = \"127.0.0.1:0\"\n\n\
         [gateway]\nbind = \"127.0.0.1:9765\"\n\n\
         [monitor]\ninterval = \"1s\"\n\n\
         [chaos]\nenabled = true\n"
    );
    let read = good(&text).config;
    assert_eq!(read.to_toml(), text);
    assert_eq!(
        (&read.node, &read.fabric, &read.monitor),
        (&config.node, &config.fabric, &config.monitor)
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_node_file_is_read_or_refused_without_a_panic(
        at in any::<prop::sample::Index>(), length in 0..20usize, with in "[\\[\\]={}\"'.,a0\\n é]{0,6}",
        seed in any::<bool>(), value in "\\PC{0,12}", which in 0..KEYS.len(),
    ) {
        let mut chars: Vec<char> = if seed { SEED } else { PLAIN }.chars().collect();
        let at = at.index(chars.len());
        chars.splice(at..(at + length).min(chars.len()), with.chars());
        let text: String = chars.into_iter().collect();
        let variable = variable(KEYS[which].name);
        if let Err(errors) = run(&text, &[(&variable, &value)], &NodeFlags::default()) {
            prop_assert!(!errors.is_empty());
            let _ = errors.to_string();
        }
    }
}
