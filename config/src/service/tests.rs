//! Mistakes and their places; the seeds' examples; writing and reading back.

mod generated;

use std::time::Duration;

use weft_protocol::{Driver, HealthKind, RestartPolicy, RouteMode, Stateful, Tier, UpdateOrder};

use super::{ParseOptions, Stem, parse, parse_file, parse_with, set_active, to_toml};

const MINIMAL: &str = include_str!("../../tests/data/minimal.toml");
const API: &str = include_str!("../../tests/data/api.toml");
const FULL: &str = include_str!("../../tests/data/full.toml");
const WALKTHROUGH: &str = include_str!("../../tests/data/walkthrough.toml");
const METACRYPT: &str = include_str!("../../tests/data/metacrypt.toml");
const EVERYTHING: &str = include_str!("../../tests/data/everything.toml");

fn errors(text: &str) -> String {
    match parse(text, "web.toml") {
        Ok(parsed) => panic!("accepted: {parsed:?}"),
        Err(errors) => errors.short(),
    }
}

/// One test per mistake: the text, and every line that `validate` prints for it.
macro_rules! mistakes {
    ($($name:ident: $text:expr => $expected:expr;)*) => {
        $(#[test]
        fn $name() {
            let expected: &[&str] = &$expected;
            assert_eq!(errors(&$text), expected.join("\n"));
        })*
    };
}

/// A good process component, on lines 2 to 4 if the head is one line.
fn with(head: &str) -> String {
    format!("{head}\n[[components]]\nname = \"a\"\ncmd = [\"x\"]\n")
}

/// A good service whose component ends with these lines, from line 5 on.
fn component(tail: &str) -> String {
    format!("name = \"s\"\n[[components]]\nname = \"a\"\ncmd = [\"x\"]\n{tail}\n")
}

/// A good service with one container and these lines from line 5 on.
fn container(tail: &str) -> String {
    format!("name = \"s\"\n[[components]]\nname = \"a\"\nimage = \"r/s:v1\"\n{tail}\n")
}

mistakes! {
    an_unknown_top_level_key_is_refused_with_the_nearest:
        with("name = \"s\"\nreplcias = 2") => ["web.toml:2:1: unknown key `replcias`"];
    an_unknown_component_key_is_refused:
        component("restrat = \"no\"") => ["web.toml:5:1: unknown key `restrat` in component `a`"];
    an_unknown_route_key_is_refused:
        component("[[components.routes]]\nport = 1\nmod = \"l4\"") =>
        ["web.toml:7:1: unknown key `mod` in route 1 of component `a`"];
    an_unknown_health_key_is_refused:
        component("health = { kind = \"tcp\", port = 1, pth = \"/\" }") =>
        ["web.toml:5:36: unknown key `pth` in `health` of component `a`"];
    an_unknown_key_in_a_table_is_refused:
        with("name = \"s\"\n[update]\nparallel = 2") => ["web.toml:3:1: unknown key `parallel` in [update]"];
    a_missing_name_is_reported_at_the_file: with("") => ["web.toml:1:1: missing key `name`"];
    missing_components_are_reported: "name = \"s\"" => ["web.toml:1:1: missing key `components`"];
    an_empty_file_lacks_both: "" => [
        "web.toml:1:1: missing key `name`", "web.toml:1:1: missing key `components`"];
    an_empty_list_of_components_is_refused:
        "name = \"s\"\ncomponents = []" => ["web.toml:2:14: `components` is empty"];
    a_single_table_of_components_is_refused:
        "name = \"s\"\n[components]\nname = \"a\"" =>
        ["web.toml:2:1: `components` must be a list of tables, found a table"];
    a_component_without_a_name_is_reported_at_its_header:
        "name = \"s\"\n\n[[components]]\ncmd = [\"x\"]" => ["web.toml:3:1: missing key `name` in component 1"];
    a_route_without_a_port_is_reported_at_its_header:
        component("[[components.routes]]\nmode = \"l4\"") =>
        ["web.toml:5:1: missing key `port` in route 1 of component `a`"];
    a_service_name_must_be_a_label:
        with("name = \"My_Service\"") => ["web.toml:1:8: `name`: `My_Service` must be 1 to 48 lower-case letters, digits and hyphens, starting and ending with a letter or digit"];
    a_component_name_must_not_end_in_digits:
        "name = \"s\"\n[[components]]\nname = \"api-2\"\ncmd = [\"x\"]" =>
        ["web.toml:3:8: `name`: `api-2` ends in `-2`, which would look like the number of a replica; write `api2` instead"];
    component_names_are_unique:
        component("[[components]]\nname = \"a\"\ncmd = [\"y\"]") => ["web.toml:6:8: two components are called `a`"];
    a_number_where_text_belongs: with("name = 5") => ["web.toml:1:8: `name` must be a string, found an integer"];
    text_where_a_bool_belongs:
        with("name = \"s\"\nactive = \"yes\"") => ["web.toml:2:10: `active` must be true or false, found a string"];
    text_where_a_list_belongs: component("env = \"A=1\"") => ["web.toml:5:7: `env` must be a list of strings, found a string"];
    a_number_inside_a_list_of_text:
        "name = \"s\"\n[[components]]\nname = \"a\"\ncmd = [\"x\", 7]" =>
        ["web.toml:4:13: `an entry of cmd` must be a string, found an integer"];
    replicas_start_at_one:
        with("name = \"s\"\nreplicas = 0") => ["web.toml:2:12: `replicas` must be between 1 and 10000, found 0"];
    negative_replicas_are_refused:
        with("name = \"s\"\nreplicas = -1") => ["web.toml:2:12: `replicas` must be between 1 and 10000, found -1"];
    a_huge_number_is_refused:
        with("name = \"s\"\nreplicas = 99999999999999999999999999") =>
        ["web.toml:2:12: `replicas` must be between 1 and 10000, found 99999999999999999999999999"];
    replicas_exclude_fixed_ports:
        format!("replicas = 2\n{}", container("ports = [\"80:80\"]")) =>
        ["web.toml:6:10: `replicas = 2` cannot be combined with fixed `ports` (component `a`)"];
    replicas_exclude_volumes:
        format!("replicas = 2\n{}", container("volumes = [\"/a:/b\"]")) =>
        ["web.toml:6:11: `replicas = 2` cannot be combined with `volumes` (component `a`)"];
    replicas_exclude_a_node:
        with("name = \"s\"\nreplicas = 2\nnode = \"n1\"") => ["web.toml:3:8: `replicas = 2` cannot be combined with `node`"];
    fixed_ports_are_refused_even_when_colocated:
        format!("replicas = 2\nplacement.colocate = true\n{}", container("ports = [\"80:80\"]")) =>
        ["web.toml:7:10: `replicas = 2` cannot be combined with fixed `ports` (component `a`)"];
    one_unnamed_route_among_several_is_refused:
        component("[[components.routes]]\nname = \"x\"\nport = 1\n[[components.routes]]\nport = 2") =>
        ["web.toml:8:1: component `a` has several routes, but this one has no `name`"];
    routes_with_one_variable_collide:
        component("[[components.routes]]\nname = \"a-b\"\nport = 1\n[[components.routes]]\nname = \"a_b\"\nport = 2") =>
        ["web.toml:9:8: routes `a-b` and `a_b` of component `a` would both set PORT_A_B"];
    routes_of_one_name_collide:
        component("[[components.routes]]\nname = \"r\"\nport = 1\n[[components.routes]]\nname = \"r\"\nport = 2") =>
        ["web.toml:9:8: component `a` has two routes called `r`"];
    routes_of_one_port_and_host_collide:
        component("[[components.routes]]\nname = \"x\"\nport = 443\n[[components.routes]]\nname = \"y\"\nport = 443") =>
        ["web.toml:10:8: port 443 of the service's own name is already a route of component `a`"];
    hosts_are_compared_without_case:
        component("[[components.routes]]\nname = \"x\"\nport = 443\nhostname = \"A.b\"\n[[components.routes]]\nname = \"y\"\nport = 443\nhostname = \"a.B\"") =>
        ["web.toml:11:8: port 443 of a.b is already a route of component `a`"];
    a_route_name_starts_with_a_letter:
        component("[[components.routes]]\nname = \"1x\"\nport = 1") =>
        ["web.toml:6:8: `name`: `1x` is not the name of a route: a lower-case letter, then letters, digits, `_` and `-`, at most 48"];
    a_route_port_is_a_port:
        component("[[components.routes]]\nport = 65536") => ["web.toml:6:8: `port` must be between 1 and 65535, found 65536"];
    a_route_mode_is_l4_or_l7:
        component("[[components.routes]]\nport = 1\nmode = \"l5\"") => ["web.toml:7:8: `mode` must be `l4` or `l7`, found `l5`"];
    a_host_name_is_a_dns_name:
        component("[[components.routes]]\nport = 1\nhostname = \"a_b.c\"") =>
        ["web.toml:7:12: `hostname`: `a_b.c` is not a DNS name: labels of letters, digits and hyphens, joined by dots"];
    port_is_reserved_when_there_are_routes:
        component("env = [\"A=1\", \"PORT=8\", \"PORT_X=9\"]\n[[components.routes]]\nport = 1") => [
            "web.toml:5:15: `env`: `PORT` is reserved in a component with routes",
            "web.toml:5:25: `env`: `PORT_X` is reserved in a component with routes"];
    an_environment_entry_needs_an_equals_sign:
        component("env = [\"PATH\"]") => ["web.toml:5:8: `env`: an entry has no `=`; write KEY=VALUE"];
    an_environment_key_is_set_once:
        component("env = [\"A=1\", \"A=2\"]") => ["web.toml:5:15: `env` sets `A` twice"];
    a_missing_tag_is_refused:
        "name = \"s\"\n[[components]]\nname = \"a\"\nimage = \"reg:8443/app\"" =>
        ["web.toml:4:9: component `a`: image has no tag"];
    latest_is_refused_in_any_case:
        "name = \"s\"\n[[components]]\nname = \"a\"\nimage = \"r/app:Latest\"" =>
        ["web.toml:4:9: component `a`: image tag `Latest` is not allowed"];
    latest_is_refused_as_a_version:
        "name = \"s\"\nversion = \"latest\"\n[[components]]\nname = \"a\"\nimage = \"r/app\"" =>
        ["web.toml:5:9: component `a`: image tag `latest` is not allowed"];
    a_broken_digest_is_refused:
        "name = \"s\"\n[[components]]\nname = \"a\"\nimage = \"r/app@sha256:12\"" =>
        ["web.toml:4:9: component `a`: `r/app@sha256:12` is not an image reference: a digest is sha256: and 64 hexadecimal digits; write <repository>:<tag>"];
    a_component_needs_an_image_or_a_command:
        "name = \"s\"\n[[components]]\nname = \"a\"" => ["web.toml:2:1: component `a` has neither `image` nor `cmd`"];
    an_empty_command_is_refused:
        "name = \"s\"\n[[components]]\nname = \"a\"\ncmd = []" => ["web.toml:4:7: `cmd` of component `a` is empty"];
    an_empty_program_is_refused:
        "name = \"s\"\n[[components]]\nname = \"a\"\ncmd = [\"\"]" => ["web.toml:4:7: the first word of `cmd` is empty"];
    a_process_has_no_image:
        container("driver = \"process\"\ncmd = [\"x\"]") => ["web.toml:4:9: component `a` has driver `process`, so it cannot have an `image`"];
    a_container_has_an_image: component("driver = \"container\"") => ["web.toml:2:1: component `a` is a container without `image`"];
    an_image_is_not_derived_without_a_registry:
        "name = \"s\"\nversion = \"v1\"\n[[components]]\nname = \"a\"" =>
        ["web.toml:3:1: component `a` has no `image`, and no registry is configured to derive one from"];
    build_images_must_match_an_image:
        format!("build.images.other = \"Dockerfile\"\n{}", container("")) =>
        ["web.toml:1:14: `build.images.other` is not the image of any component"];
    a_port_mapping_has_two_numbers:
        container("ports = [\"80\"]") => ["web.toml:5:10: `ports`: `80`: a port mapping has two numbers; write host:container or ip:host:container, then /tcp or /udp if needed"];
    a_port_mapping_knows_two_protocols:
        container("ports = [\"80:80/sctp\"]") => ["web.toml:5:10: `ports`: `80:80/sctp`: `sctp` is not a protocol; write host:container or ip:host:container, then /tcp or /udp if needed"];
    a_host_port_is_used_once:
        container("ports = [\"80:80\", \"80:81\"]") => ["web.toml:5:19: host port 80 is already taken by component `a`"];
    a_wildcard_takes_the_port_of_every_address:
        container("ports = [\"127.0.0.1:80:80/udp\", \"0.0.0.0:80:81/udp\"]") =>
        ["web.toml:5:33: host port 80/udp is already taken by component `a`"];
    a_volume_is_absolute:
        container("volumes = [\"data:/data\"]") => ["web.toml:5:12: `volumes`: `data:/data`: the host path `data` is not absolute; write host:container or host:container:options"];
    a_volume_does_not_climb:
        container("volumes = [\"/srv/../etc:/etc\"]") => ["web.toml:5:12: `volumes`: `/srv/../etc:/etc`: the host path `/srv/../etc` contains `..`; write host:container or host:container:options"];
    a_mount_point_is_used_once:
        container("volumes = [\"/a:/x\", \"/b:/x\"]") => ["web.toml:5:21: `volumes`: /a and /b are both mounted at /x"];
    a_restart_policy_is_known:
        component("restart = \"unless-stoped\"") => ["web.toml:5:11: `restart`: `unless-stoped` is not a restart policy: write no, on-failure, on-failure:<n>, always or unless-stopped (did you mean `unless-stopped`?)"];
    a_restart_count_is_positive:
        component("restart = \"on-failure:0\"") => ["web.toml:5:11: `restart`: `0` in `on-failure:0` must be a whole number of at least 1"];
    a_duration_needs_a_unit:
        component("stop_grace = \"10\"") => ["web.toml:5:14: `stop_grace`: `10` has no unit: write `10s` for seconds (units: ms, s, m, h, d)"];
    a_duration_is_text: component("stop_grace = 10") => ["web.toml:5:14: `stop_grace` must be a duration in quotes, found an integer"];
    a_size_has_a_known_unit:
        component("resources.memory = \"256M\"") => ["web.toml:5:20: `memory`: `M` in `256M` is no unit of size: use B, KiB, MiB, GiB, TiB (1024) or kB, MB, GB, TB (1000)"];
    a_user_has_at_most_a_group: component("user = \"a:b:c\"") => ["web.toml:5:8: `user`: `a:b:c` is not a user: write uid, uid:gid, name or name:group"];
    a_probe_needs_a_kind:
        component("[components.health]\nport = 1") => ["web.toml:5:1: missing key `kind` in `health` of component `a`"];
    a_probe_needs_a_port_without_a_route:
        component("[components.health]\nkind = \"tcp\"") => ["web.toml:5:1: missing key `port` in `health` of component `a`"];
    a_probe_names_a_route_that_exists:
        component("health = { kind = \"tcp\", port = \"rest\" }\n[[components.routes]]\nname = \"grpc\"\nport = 1") =>
        ["web.toml:5:33: `port`: there is no route `rest`"];
    an_exec_probe_needs_a_command:
        component("[components.health]\nkind = \"exec\"") => ["web.toml:5:1: missing key `command` in `health` of component `a`"];
    only_an_exec_probe_has_a_command:
        component("[components.health]\nkind = \"tcp\"\nport = 1\ncommand = [\"x\"]") => ["web.toml:8:11: `command` is only for kind = \"exec\""];
    only_an_http_probe_has_a_path:
        component("[components.health]\nkind = \"tcp\"\nport = 1\npath = \"/\"") => ["web.toml:8:8: `path` is only for kind = \"http\""];
    a_probe_interval_is_not_zero:
        component("[components.health]\nkind = \"tcp\"\nport = 1\ninterval = \"0s\"") => ["web.toml:8:12: `interval` must be longer than 0"];
    at_least_one_update_at_a_time:
        with("name = \"s\"\n[update]\nmax_parallel = 0") => ["web.toml:3:16: `max_parallel` must be between 1 and 10000, found 0"];
    an_update_order_is_known:
        with("name = \"s\"\n[update]\norder = \"startfirst\"") => ["web.toml:3:9: `order` must be `start-first` or `stop-first`, found `startfirst`"];
    a_deadline_leaves_time_to_be_healthy:
        with("name = \"s\"\n[update]\ndeadline = \"5s\"") => ["web.toml:3:12: `deadline` must be longer than `healthy_for`, or no update can succeed"];
    a_partition_rule_is_known:
        with("name = \"s\"\non_partition = \"kill\"") => ["web.toml:2:16: `on_partition` must be `keep` or `stop`, found `kill`"];
    a_tier_is_known: with("name = \"s\"\ntier = \"gold\"") => ["web.toml:2:8: `tier` must be `core` or `worker`, found `gold`"];
    snapshots_on_failover_are_not_in_this_version:
        with("name = \"s\"\n[failover]\nstateful = \"snapshot\"") => ["web.toml:3:12: `stateful = \"snapshot\"` is not in this version"];
    a_label_expression_is_checked:
        with("name = \"s\"\n[placement]\nrequire = [\"zone==a\"]") => ["web.toml:3:12: `require`: `zone==a` is not a label expression: write ssd, zone=a or arch!=arm64"];
    a_service_does_not_depend_on_itself:
        with("name = \"s\"\ndepends_on = [\"s\"]") => ["web.toml:2:15: `depends_on`: `s` cannot depend on itself"];
    shipped_files_stay_beside_the_definition:
        with("name = \"s\"\nfiles = [\"/etc/passwd\", \"../x\"]") => [
            "web.toml:2:10: `files`: `/etc/passwd` must be relative, without a leading `/`",
            "web.toml:2:25: `files`: `../x` must not contain `..`"];
    a_snapshot_method_is_known:
        with("name = \"s\"\n[snapshot]\nmethod = \"copy\"") => ["web.toml:3:10: `method`: `copy` is not a snapshot method: write full, cli, grpc or `exec: <command>`"];
    a_key_given_twice_is_refused: with("name = \"s\"\nname = \"t\"") => ["web.toml:2:1: `name` is given twice"];
    an_unfinished_string_is_refused: with("name = \"s") => ["web.toml:1:10: invalid basic string, expected `\"`"];
    a_nul_character_is_refused:
        "name = \"s\"\n[[components]]\nname = \"a\"\ncmd = [\"a\\u0000b\"]" => ["web.toml:4:8: `cmd` must not contain a NUL character"];
    columns_count_characters_not_bytes:
        component("env = [\"ÄÖ=ü\", \"日本\"]") => ["web.toml:5:16: `env`: an entry has no `=`; write KEY=VALUE"];
    windows_line_ends_change_no_place:
        "name = \"s\"\r\n[[components]]\r\nname = \"a\"\r\n\tcmdd = [\"x\"]\r\n" => [
            "web.toml:2:1: component `a` has neither `image` nor `cmd`",
            "web.toml:4:2: unknown key `cmdd` in component `a`"];
    all_mistakes_are_reported_at_once_in_order:
        "nam = \"s\"\nreplicas = \"2\"\n[[components]]\nname = \"A\"\nimage = \"x\"\nports = [\"1\"]" => [
            "web.toml:1:1: unknown key `nam`",
            "web.toml:1:1: missing key `name`",
            "web.toml:2:12: `replicas` must be a whole number, found a string",
            "web.toml:4:8: `name`: `A` must be 1 to 48 lower-case letters, digits and hyphens, starting and ending with a letter or digit",
            "web.toml:5:9: component `A`: image has no tag",
            "web.toml:6:10: `ports`: `1`: a port mapping has two numbers; write host:container or ip:host:container, then /tcp or /udp if needed"];
}

#[test]
fn an_error_shows_its_line_and_a_caret() {
    let text = "name = \"web\"\nreplicas = 1\n\n# api\n[[components]]\nname = \"api\"\nimgae = \"x:1\"\ncmd = [\"x\"]\n";
    let drawn = parse(text, "web.toml").unwrap_err().to_string();
    assert_eq!(
        drawn,
        "error: unknown key `imgae` in component `api`\n\
        \x20 --> web.toml:7:1\n\
        \x20  |\n\
        \x207 | imgae = \"x:1\"\n\
        \x20  | ^^^^^ did you mean `image`?\n\
        \x20  = help: known keys here: name, driver, image, version, network, user, restart, stop_grace, workdir, ports, volumes, cmd, env, health, resources, routes"
    );
}

#[test]
fn a_tab_before_the_place_stays_a_tab_under_it() {
    let text = "name = \"s\"\n[[components]]\nname = \"a\"\n\tcmd\t= [\"x\", 7]\n";
    let drawn = parse(text, "f").unwrap_err().to_string();
    assert!(
        drawn.contains("\n 4 | \tcmd\t= [\"x\", 7]\n   | \t   \t        ^ expected a string"),
        "{drawn}"
    );
}

#[test]
fn a_very_long_line_is_shown_in_part() {
    let text = format!("name = \"s\"\ncomment = \"{}\" x", "y".repeat(5000));
    let drawn = parse(&text, "f").unwrap_err().to_string();
    assert!(drawn.lines().all(|line| line.chars().count() < 260), "{drawn}");
    assert!(drawn.contains('^'));
}

#[test]
fn a_misplaced_key_is_told_where_it_belongs() {
    let drawn = parse(&with("name = \"s\"\nports = [\"80:80\"]"), "f").unwrap_err().to_string();
    assert!(drawn.contains("put it below [[components]]"), "{drawn}");
}

#[test]
fn a_build_key_without_an_image_lists_both_sides() {
    let text = format!("{}\n[build.images]\nother = \"Dockerfile\"\ns = \"D\"\n", container(""));
    let drawn = parse(&text, "f").unwrap_err().to_string();
    assert!(drawn.contains("build.images has: other, s; the components' images are: s"), "{drawn}");
}

#[test]
fn the_packaging_guides_examples_parse_unchanged() {
    for (name, text, components, routes) in [
        ("minimal", MINIMAL, 1, 1),
        ("api", API, 1, 2),
        ("full", FULL, 2, 3),
        ("walkthrough", WALKTHROUGH, 1, 2),
    ] {
        let parsed = parse(text, name).unwrap_or_else(|errors| panic!("{errors}"));
        assert!(parsed.warnings.is_empty(), "{}", parsed.warnings);
        let spec = parsed.spec;
        assert_eq!((spec.name.as_str(), spec.node.as_str()), ("myservice", "rift"));
        assert_eq!(spec.path, "myservice");
        assert_eq!(spec.components.len(), components);
        assert_eq!(spec.components.iter().map(|c| c.routes.len()).sum::<usize>(), routes);
        assert!(spec.components.iter().all(|c| c.driver == Driver::Container));
        assert!(spec.components.iter().all(|c| c.shown_version() == "v1.0.0"));
        assert_eq!(parse(&to_toml(&spec), name).map(|p| p.spec), Ok(spec));
    }
}

#[test]
fn the_architectures_example_gives_exactly_the_latest_errors() {
    assert_eq!(
        errors(METACRYPT),
        "web.toml:7:9: component `api`: image tag `latest` is not allowed\n\
         web.toml:16:9: component `web`: image tag `latest` is not allowed"
    );
}

#[test]
fn the_architectures_example_parses_once_pinned() {
    let spec = parse(&METACRYPT.replace(":latest", ":v1.1.0"), "metacrypt.toml").unwrap().spec;
    assert_eq!(spec.components.len(), 2);
    assert_eq!(spec.components[0].ports[1].host, 19443);
    assert_eq!(spec.components[1].network, "docker_default");
    assert_eq!(spec.components[1].user, "0:0");
}

#[test]
fn adoption_accepts_an_unpinned_image_with_a_warning() {
    let options = ParseOptions { allow_unpinned: true, ..ParseOptions::default() };
    let parsed = parse_with(METACRYPT, "f", options).unwrap();
    assert_eq!(parsed.warnings.len(), 2);
}

#[test]
fn every_key_is_understood() {
    let parsed = parse(EVERYTHING, "everything.toml").unwrap_or_else(|errors| panic!("{errors}"));
    assert!(parsed.warnings.is_empty(), "{}", parsed.warnings);
    let spec = parsed.spec;
    assert_eq!(spec.tier, Tier::Core);
    assert!(!spec.active);
    assert_eq!(spec.path, "../mcq");
    assert_eq!(spec.comment, "two\nlines");
    assert_eq!(spec.depends_on, ["db", "auth"]);
    assert_eq!(spec.replicas, 3);
    assert_eq!(spec.failover.reschedule_after, Some(Duration::from_secs(5)));
    assert_eq!(spec.failover.stateful, Stateful::Wait);
    assert_eq!(spec.update.order, Some(UpdateOrder::StopFirst));
    assert_eq!(spec.update.deadline, Duration::from_secs(600));
    let api = &spec.components[0];
    // The tag comes from the service's `version`.
    assert_eq!(api.image, "reg.example:8443/team/shop:v2.1.0");
    assert_eq!(api.restart, RestartPolicy::OnFailure(Some(5)));
    assert_eq!(api.stop_grace, Duration::from_secs(90));
    assert_eq!(api.volumes[0].options, "ro,z");
    assert_eq!(api.env[2], ("EQ".to_owned(), "a=b".to_owned()));
    let health = api.health.as_ref().unwrap();
    assert_eq!((health.kind, health.port.as_str()), (HealthKind::Http, "rest-api"));
    assert_eq!(health.timeout, Duration::from_millis(500));
    assert_eq!(api.resources.memory, Some(256 << 20));
    assert_eq!(api.routes[0].mode, RouteMode::L7);
    assert_eq!(api.routes[0].hostname, "shop.example.org");
    assert_eq!(api.routes[0].backend_tls, Some(true));
    assert_eq!(spec.components[1].driver, Driver::Process);
    assert_eq!(spec.components[1].version, "7");
    assert_eq!(parse(&to_toml(&spec), "again").map(|p| p.spec), Ok(spec));
}

#[test]
fn defaults_are_those_of_the_contract() {
    let spec = parse(&component(""), "f").unwrap().spec;
    assert!(spec.active);
    assert_eq!(spec.replicas, 1);
    assert_eq!(spec.path, "s");
    assert_eq!(spec.tier, Tier::Worker);
    let a = &spec.components[0];
    assert_eq!(a.driver, Driver::Process);
    assert_eq!(a.stop_grace, Duration::from_secs(10));
    assert_eq!(a.restart, RestartPolicy::UnlessStopped);
    assert_eq!(a.health, None);
}

#[test]
fn a_definition_is_written_in_the_order_of_the_contract_without_defaults() {
    let spec = parse(EVERYTHING, "f").unwrap().spec;
    let expected = r#"name = "shop"
tier = "core"
active = false
version = "v2.1.0"
path = "../mcq"
comment = "two\nlines"
depends_on = ["db", "auth"]
replicas = 3
on_partition = "stop"
files = ["./hello", "conf/a.toml"]

[placement]
require = ["zone=a", "ssd"]
prefer = ["arch!=arm64"]
avoid = ["old"]
colocate = true

[failover]
reschedule_after = "5s"

[build.images]
shop = "Dockerfile"

[snapshot]
method = "exec: /bin/dump --all"
exclude = ["cache", "tmp/x"]

[update]
max_parallel = 2
order = "stop-first"
healthy_for = "20s"
deadline = "10m"
auto_rollback = false
canary = 1

[[components]]
name = "api"
image = "reg.example:8443/team/shop:v2.1.0"
network = "mcpnet"
user = "app:app"
restart = "on-failure:5"
stop_grace = "90s"
workdir = "work"
volumes = ["/srv/shop:/data:ro,z"]
cmd = ["serve", "--verbose"]
env = ["A=1", "EMPTY=", "EQ=a=b"]

[components.health]
kind = "http"
port = "rest-api"
path = "/healthz"
interval = "5s"
timeout = "500ms"
retries = 4
start_period = "30s"

[components.resources]
cpu_millis = 1500
memory = "256MiB"

[[components.routes]]
name = "rest-api"
port = 443
mode = "l7"
hostname = "shop.example.org"
public = true
backend_tls = true

[[components.routes]]
name = "grpc"
port = 9443

[[components]]
name = "worker"
version = "7"
cmd = ["/usr/bin/worker", "--queue", "main"]

[components.health]
kind = "exec"
command = ["/usr/bin/check"]
"#;
    assert_eq!(to_toml(&spec), expected);
    assert_eq!(to_toml(&parse(MINIMAL, "f").unwrap().spec), MINIMAL);
}

#[test]
fn an_omitted_image_is_derived_from_registry_name_and_version() {
    let text = "name = \"shop\"\nversion = \"v1\"\n[[components]]\nname = \"web\"\nversion = \"v2\"\n[[components]]\nname = \"api\"\n";
    let options = ParseOptions { registry: Some("reg:5000"), ..ParseOptions::default() };
    let spec = parse_with(text, "f", options).unwrap().spec;
    assert_eq!(spec.components[0].image, "reg:5000/shop-web:v2");
    assert_eq!(spec.components[1].image, "reg:5000/shop:v1");
    assert_eq!(spec.components[1].driver, Driver::Container);
    assert_eq!(parse(&to_toml(&spec), "f").map(|p| p.spec), Ok(spec));
}

#[test]
fn colocated_replicas_may_share_a_node_and_volumes() {
    let text = format!(
        "replicas = 2\nnode = \"n1\"\nplacement.colocate = true\n{}",
        container("volumes = [\"/a:/b\"]")
    );
    assert_eq!(parse(&text, "f").unwrap().spec.replicas, 2);
}

#[test]
fn a_reserved_variable_is_free_without_routes() {
    let spec = parse(&component("env = [\"PORT=80\"]"), "f").unwrap().spec;
    assert_eq!(spec.components[0].env, [("PORT".to_owned(), "80".to_owned())]);
}

#[test]
fn what_a_process_ignores_is_a_warning() {
    let parsed = parse(&component("network = \"x\""), "f").unwrap();
    assert_eq!(parsed.warnings.short(), "f:5:1: warning: `network` has no effect on a process");
}

#[test]
fn probing_the_proxys_port_is_a_warning() {
    let text =
        component("health = { kind = \"tcp\", port = 443 }\n[[components.routes]]\nport = 443");
    assert_eq!(parse(&text, "f").unwrap().warnings.len(), 1);
}

#[test]
fn active_is_edited_in_its_own_line_only() {
    let text = "# mine\r\nname = 'a' # n\r\n  active   =  true   # keep\r\nnode = \"n\"\r\n";
    assert_eq!(set_active(text, false).unwrap(), text.replace("true", "false"));
    assert_eq!(set_active(text, true).unwrap(), text);
}

#[test]
fn active_is_added_after_the_name_with_the_files_own_line_ends() {
    assert_eq!(
        set_active("# c\r\nname = 'a' # n\r\nnode = \"n\"\r\n", false).unwrap(),
        "# c\r\nname = 'a' # n\r\nactive = false\r\nnode = \"n\"\r\n"
    );
    assert_eq!(set_active("name = 'a'", false).unwrap(), "name = 'a'\nactive = false\n");
    assert_eq!(set_active("name = 'a'\n", true).unwrap(), "name = 'a'\n");
    assert!(set_active("name = ", false).is_err());
}

#[test]
fn the_stem_must_be_the_name_only_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("other.toml");
    std::fs::write(&path, MINIMAL).unwrap();
    assert!(parse_file(&path, Stem::Any, ParseOptions::default()).is_ok());
    let errors = parse_file(&path, Stem::MustMatch, ParseOptions::default()).unwrap_err();
    let [error] = errors.iter().collect::<Vec<_>>()[..] else { panic!("{errors}") };
    assert_eq!((error.line, error.column), (1, 8));
    assert_eq!(error.message, "`name` is `myservice`, but the file is called `other.toml`");
}

#[test]
fn a_file_that_cannot_be_read_names_itself() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("absent.toml");
    let errors = parse_file(&path, Stem::Any, ParseOptions::default()).unwrap_err();
    assert!(errors.short().contains("absent.toml: cannot read the service file"));
}

/// The keys that the parser names where it meets one that it does not know.
fn known(text: &str) -> Vec<String> {
    let said = parse(text, "web.toml").expect_err("an unknown key").to_string();
    let list = said.split("known keys here: ").nth(1).unwrap_or_else(|| panic!("none in {said}"));
    list.lines().next().unwrap_or_default().split(", ").map(str::to_owned).collect()
}

#[test]
fn the_reference_has_every_key_of_a_definition() {
    // Words of what stands in backquotes.
    let reference = include_str!("../../../docs/reference.md");
    let code = reference.split('`').skip(1).step_by(2);
    let words: std::collections::BTreeSet<&str> =
        code.flat_map(|span| span.split(|c: char| !c.is_alphanumeric() && c != '_')).collect();
    let mut all = known(&with("name = \"s\"\nzzz = 1"));
    for section in ["placement", "failover", "snapshot", "update"] {
        all.extend(known(&with(&format!("name = \"s\"\n[{section}]\nzzz = 1"))));
    }
    for section in ["[components.health]", "[components.resources]", "[[components.routes]]"] {
        all.extend(known(&component(&format!("{section}\nzzz = 1"))));
    }
    all.extend(known(&component("zzz = 1")));
    assert!(all.len() > 40, "{all:?}");
    all.retain(|key| !words.contains(key.as_str()));
    assert_eq!(all, Vec::<String>::new());
}

#[test]
fn no_value_of_a_variable_is_drawn_or_said_however_it_is_written() {
    for line in [
        "env = \"P=hunter2\"",
        "env = [\"P:hunter2\"]",
        "env = [\"MY VAR=hunter2\"]",
        "env = [\n  \"A=1\",\n  \"hunter2\",\n]",
        "env = { P = \"hunter2\" }",
        "env = [\"A=1, \"P=hunter2\"]",
        "env = [P=hunter2]",
        "env = ['P=hunter2', 1]",
        "env = [\"P=hun\\\"ter2 hunter2\", \"P=1\"]",
    ] {
        let said = parse(&component(line), "web.toml").expect_err(line).to_string();
        assert!(!said.contains("hunter2"), "{line}: {said}");
    }
    // What is no value stays readable.
    let said = parse(&component("env = [\"A=1\", \"A=2\"]"), "web.toml").expect_err("twice");
    assert!(said.to_string().contains("env = [\"A=*\", \"A=*\"]"), "{said}");
}
