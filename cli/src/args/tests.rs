//! The command line as it is parsed.

use super::*;
use clap::CommandFactory;
use clap::error::ErrorKind;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

#[test]
fn the_definition_of_the_command_line_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn global_flags_are_taken_before_and_behind_the_verb() {
    for line in ["weft --node n2 ps --json", "weft ps --json --node n2"] {
        let cli = parse(line).expect(line);
        assert!(cli.global.json && cli.global.node.as_deref() == Some("n2"), "{line}");
    }
}

#[test]
fn every_verb_of_the_issue_is_there() {
    let verbs: Vec<String> =
        Cli::command().get_subcommands().map(|c| c.get_name().to_owned()).collect();
    let wanted = "init join login up down deploy plan validate stop start restart undeploy \
                  list ps status logs events operations actors chaos node cluster whoami version completions";
    for verb in wanted.split_whitespace() {
        assert!(verbs.iter().any(|v| v == verb), "{verb}");
    }
}

#[test]
fn every_argument_says_what_it_does() {
    fn check(command: &clap::Command, path: &str) {
        assert!(command.get_about().is_some(), "{path}");
        for argument in command.get_arguments().filter(|a| a.get_id() != "help") {
            let here = format!("{path} {}", argument.get_id());
            assert!(argument.get_help().is_some() || argument.get_id() == "version", "{here}");
        }
        for sub in command.get_subcommands() {
            check(sub, &format!("{path} {}", sub.get_name()));
        }
    }
    check(&Cli::command(), "weft");
}

#[test]
fn wrong_values_are_usage_errors_that_say_what_is_right() {
    for (line, says) in [
        ("weft deploy", "SERVICE"),
        ("weft stop web/", "service/component"),
        ("weft stop WEB", "lower-case"),
        ("weft chaos panic registry", "<path>@<node>"),
        ("weft node token --ttl 8d", "1s to 7d"),
        ("weft node token --ttl 5", "no unit"),
        ("weft init --bind localhost", "ip:port"),
        ("weft init --name N1", "lower-case"),
        ("weft up --nodes 0", "1..=9"),
        ("weft up --nodes 10", "1..=9"),
        ("weft plan", "SERVICE"),
        ("weft plan web --lost n2", "--lost"),
        ("weft plan -f web.toml --lost n2", "--lost"),
        ("weft node label n2", "LABEL"),
        ("weft node label n2 =x", "key=value"),
        ("weft node label n2 a=b=c", "key=value"),
        ("weft node drain", "NODE"),
        ("weft cluster", "status"),
        ("weft session list --state closed", "open, suspended"),
        ("weft session export -o d", "ID"),
        ("weft session export s --all -o d", "--all"),
        ("weft session export s", "--out"),
        ("weft logs web --since yesterday", "how long ago"),
        ("weft ps --timeout 0s", "longer than 0s"),
        ("weft ps --colour", "--colour"),
        ("weft depoly web", "deploy"),
    ] {
        let error = parse(line).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
        assert!(error.to_string().contains(says), "{line}: {error}");
    }
}

#[test]
fn a_bare_command_prints_help_and_is_a_usage_error() {
    let error = parse("weft").expect_err("needs a verb");
    assert_eq!(error.kind(), ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand);
    assert_eq!(error.exit_code(), 2);
}

#[test]
fn no_wait_and_wait_override_each_other() {
    let change = |line: &str| match parse(line).expect(line).verb {
        Verb::Stop(stop) => stop.change,
        other => panic!("{other:?}"),
    };
    assert!(change("weft stop web --no-wait").no_wait);
    assert!(!change("weft stop web --no-wait --wait").no_wait);
    assert!(!change("weft stop web").no_wait);
}

#[test]
fn a_label_with_a_trailing_hyphen_is_taken_away() {
    let parse = |text: &str| text.parse::<LabelChange>();
    assert_eq!(parse("arch-"), Ok(LabelChange::Remove("arch".into())));
    assert_eq!(parse("disk=ssd"), Ok(LabelChange::Set("disk=ssd".into())));
    assert_eq!(parse("gpu"), Ok(LabelChange::Set("gpu".into())));
    assert_eq!(parse("a=b-"), Ok(LabelChange::Set("a=b-".into())));
    assert_eq!(parse("a=b-").expect("parses").key(), "a");
    for bad in ["", "-", "=x", "a b", "a=ü"] {
        assert!(parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn lost_nodes_are_separated_by_commas_or_given_one_by_one() {
    let lost = |line: &str| match parse(line).expect(line).verb {
        Verb::Plan(plan) => plan.lost.join(" "),
        other => panic!("{other:?}"),
    };
    assert_eq!(lost("weft plan --lost n2,n3"), "n2 n3");
    assert_eq!(lost("weft plan --lost n2 --lost n3"), "n2 n3");
    assert_eq!(lost("weft plan web"), "");
}

#[test]
fn an_actor_reference_splits_at_the_last_at_sign() {
    let parse = |text: &str| text.parse::<ActorRef>();
    let actor = parse("runtime/web/1/api@n2").expect("parses");
    assert_eq!((actor.path.as_str(), actor.node.as_str()), ("runtime/web/1/api", "n2"));
    assert_eq!(actor.to_string(), "runtime/web/1/api@n2");
    for bad in ["", "registry", "@n1", "registry@"] {
        assert!(parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn since_takes_a_time_or_an_age() {
    let now = WallTime::from_micros(1_795_000_000_000_000);
    assert_eq!(since_at("10m", now), Ok(now.minus(Duration::from_secs(600))));
    assert_eq!(since_at("1970-01-01T00:00:01Z", now), Ok(WallTime::from_micros(1_000_000)));
    assert!(since_at("soon", now).is_err());
}

#[test]
fn json_is_seen_before_arguments_are_parsed() {
    let raw = ["ps", "--json", "--bogus"].map(std::ffi::OsString::from);
    assert!(wants_json(raw.iter().map(std::ffi::OsString::as_os_str)));
}
