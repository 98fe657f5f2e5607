//! What is never said: values of variables, tokens and keys (orchestration §28).

use super::*;

/// Lines with a secret in them, each with where it was said.
fn leaks(said: &[(String, String)], secrets: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for (what, text) in said {
        let bad = |line: &&str| secrets.iter().any(|secret| line.contains(secret.as_str()));
        for line in text.lines().filter(bad) {
            found.push(format!("{what}: {}", line.chars().take(300).collect::<String>()));
        }
    }
    found
}

#[test]
fn what_is_in_the_environment_of_a_container_is_in_no_log_event_alert_plan_or_error() {
    let settings = [
        "log.level=debug",
        "monitor.alert_after=0s",
        "monitor.alert_command=[\"/bin/sh\", \"-c\", \"env\"]",
    ];
    let Some(boxes) = Boxes::with(1, &settings) else { return };
    let (cluster, podman) = (&boxes.cluster, &boxes.podman[0]);
    let secrets =
        ["s3cr3t-of-a-container", "an0ther-s3cr3t", "s3cr3t-of-a-command", "f0reign-s3cr3t"]
            .map(str::to_owned);
    let [first, second, third, foreign] = &secrets;
    let definition = |name: &str, image: &str, secret: &str| {
        format!(
            "name = \"{name}\"\n\n[update]\norder = \"stop-first\"\nhealthy_for = \"300ms\"\n\n\
             [[components]]\nname = \"{name}\"\nimage = \"{image}\"\n\
             cmd = [\"/bin/sleep\", \"100000\"]\nstop_grace = \"1s\"\n\
             env = [\"TOKEN={secret}\", \"DB_PASSWORD={secret}\"]\n\n[components.health]\n\
             kind = \"exec\"\ncommand = [\"/bin/true\"]\ninterval = \"500ms\"\n"
        )
    };
    let mut said: Vec<(String, String)> = Vec::new();
    let mut note = |what: &str, done: Done| {
        said.push((what.to_owned(), format!("{}\n{}", done.stdout, done.stderr)));
    };
    note("deploy", cluster.deploy(0, &definition("box", IMAGE, first)));
    // What it has there is what was meant.
    assert!(podman.field("box", "{{json .Config.Env}}").contains(first.as_str()));
    note("restart", cluster.weft(0, &["restart", "box"]).ok());
    let variable = format!("COMMAND_TOKEN={third}");
    note("exec", cluster.weft(0, &["exec", "box", "-e", &variable, "--", "/bin/true"]).ok());

    // It ends, and that alerts.
    kill_9(podman.field("box", "{{.State.Pid}}").parse().expect("a pid"));
    cluster.wait_until("the alert's command has ended", DEADLINE, |cluster| {
        let alerts = cluster.weft(0, &["alerts", "--json"]).stdout;
        let items = alerts.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        items.into_iter().any(|alert| !alert["exit"].is_null()).then_some(())
    });
    cluster.running(0, "box", 0);

    // Plans, an update, and what fails.
    let file = cluster.definition("box", &definition("box", IMAGE, second));
    for args in [&["plan", "-f", &file][..], &["plan", "-f", &file, "--json"]] {
        let plan = cluster.weft(0, args).ok();
        assert!(plan.stdout.contains("env"), "it says what differs: {plan:?}");
        note("plan", plan);
    }
    note("a dry run", cluster.weft(0, &["deploy", "-f", &file, "--dry-run", "--json"]).ok());
    note("update", cluster.weft(0, &["deploy", "-f", &file]).ok());
    let (plain, json): (&[&str], &[&str]) = (&[], &["--json"]);
    for (name, more) in [("taken", plain), ("held", json)] {
        let absent = definition("box", "localhost:1/absent:9", first);
        let failed = cluster.try_deploy(0, &absent, more);
        assert_eq!(failed.code, 1, "{failed:?}");
        note("an image that is not there", failed);
        podman.podman(&["run", "-d", "--name", name, IMAGE, "/bin/sleep", "100000"]).ok();
        let failed = cluster.try_deploy(0, &definition(name, IMAGE, first), more);
        assert_eq!(failed.code, 1, "{failed:?}");
        note("a name that is taken", failed);
    }
    let own = format!("TOKEN={foreign}");
    let begin = ["run", "-d", "--name", "theirs", "-e", &own, IMAGE, "/bin/sleep", "100000"];
    podman.podman(&begin).ok();
    note("adopt", cluster.weft(0, &["adopt", "theirs", "--json"]).ok());
    cluster.running(0, "theirs", 0);

    for verb in ["ps", "list", "status", "events", "alerts", "operations", "stats"] {
        note(verb, cluster.weft(0, &[verb]));
        note(verb, cluster.weft(0, &[verb, "--json"]));
    }
    for args in [["logs", "box"], ["history", "box"], ["node", "status"], ["actors", "--json"]] {
        note(args[0], cluster.weft(0, &args));
    }
    let log = cluster.log(0);
    assert!(log.contains(" DEBUG "), "it says all that it says at that level");
    said.push(("the daemon's log".to_owned(), log));
    let found = leaks(&said, &secrets);
    assert!(
        found.is_empty(),
        "{} lines: {:#?}",
        found.len(),
        found.iter().take(20).collect::<Vec<_>>()
    );
    // Only what is asked for as such has it: the definition.
    let shown = cluster.weft(0, &["service", "show", "theirs"]).ok().stdout;
    assert!(shown.contains(foreign.as_str()), "{shown}");
}

#[test]
fn a_mistake_in_a_definition_is_drawn_without_the_secrets_beside_it() {
    let cluster = one();
    let secrets = ["s3cr3t-of-a-file".to_owned()];
    let secret = &secrets[0];
    for (mistake, says) in [
        (
            format!("env = [\"TOKEN={secret}\", \"PORT=1\"]\n[[components.routes]]\nport = 1"),
            "PORT",
        ),
        (format!("environment = [\"DB_PASSWORD={secret}\"]"), "environment"),
        (format!("env = [\"A=1\", \"TOKEN={secret}\", \"A=2\"]"), "twice"),
    ] {
        let text = service("web", "", &[component("api", &mistake)]);
        let file = cluster.definition("web", &text);
        for args in
            [&["validate", &file][..], &["deploy", "-f", &file], &["plan", "-f", &file, "--json"]]
        {
            let done = cluster.weft(args);
            assert_eq!(done.code, 2, "{done:?}");
            let text = format!("{}\n{}", done.stdout, done.stderr);
            assert!(text.contains(says), "{says}: {done:?}");
            let found = leaks(&[(args[0].to_owned(), text)], &secrets);
            assert!(found.is_empty(), "{found:#?}");
        }
    }
}

/// Lines of the private keys beneath a directory.
fn private_keys(dir: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            private_keys(&path, found);
        } else if path.extension().is_some_and(|of| of == "key") {
            let text = std::fs::read_to_string(&path).expect("reads");
            let body = text.lines().filter(|line| line.len() >= 16 && !line.starts_with("---"));
            found.extend(body.map(str::to_owned));
        }
    }
}

#[test]
fn join_tokens_and_private_keys_are_in_no_log_and_in_no_explanation() {
    let mut cluster = one();
    configure(&mut cluster, "[log]\nlevel = \"debug\"\n");
    let mut said: Vec<(String, String)> = Vec::new();
    let token = cluster.weft(&["node", "token"]).ok().stdout.trim().to_owned();
    let other = text(&cluster.json(&["node", "token", "--json"]), "token").to_owned();
    // Used, used again, and damaged.
    let join = |name: &str, token: &str| {
        let mut command = Command::new(bin_dir().join("weft"));
        command.env("WEFT_CONFIG", cluster.scratch().join("joiner.toml"));
        command.args(["join", token, "--name", name, "--bind", "127.0.0.1:0"]);
        command.args(["--gateway", "127.0.0.1:0", "--data"]).arg(cluster.scratch().join(name));
        run(&mut command)
    };
    let last = if other.ends_with('x') { "y" } else { "x" };
    let damaged = format!("{}{last}", &other[..other.len() - 1]);
    for (name, token, good) in
        [("n2", &token, true), ("n3", &token, false), ("n4", &damaged, false)]
    {
        let done = join(name, token);
        assert_eq!(done.code == 0, good, "{name}: {done:?}");
        said.push((format!("join {name}"), format!("{}\n{}", done.stdout, done.stderr)));
    }
    let data = cluster.scratch().join("n2");
    let file = data.join("node.toml");
    let mut weftd = Command::new(bin_dir().join("weftd"));
    weftd.arg("run").arg("--config").arg(&file).args(["--log-level", "debug"]);
    let joined = Running::start(cluster.scratch(), "n2.log", &mut weftd);
    cluster.node_is("n1", "n2", "ready");

    // Everything that they are, in the forms in which it could be said.
    let mut secrets = Vec::new();
    for token in [&token, &other] {
        let parsed: JoinToken = token.parse().unwrap_or_else(|error| panic!("{error}"));
        let secret = codec::encode(&parsed.secret).expect("bytes");
        assert_eq!(secret.len(), 32);
        let body = token.split('.').nth(1).expect("a body");
        secrets.extend([token.clone(), body.to_owned()]);
        secrets.push(secret.iter().map(|byte| format!("{byte:02x}")).collect());
        secrets.push(format!("{secret:?}").trim_matches(['[', ']']).to_owned());
    }
    let mut note = |what: &str, done: Done| {
        assert_eq!(done.code, 0, "{what}: {done:?}");
        said.push((what.to_owned(), format!("{}\n{}", done.stdout, done.stderr)));
    };
    let node_file = cluster.data_dir("n1").join("node.toml").to_string_lossy().into_owned();
    for args in [
        &["config", "explain"][..],
        &["config", "explain", "--json"],
        &["config", "explain", "--node-file", &node_file],
        &["config", "explain", "--node-file", &node_file, "--json"],
        &["events", "--json"],
        &["operations", "--json"],
        &["node", "status", "--json"],
        &["cluster", "status", "--json"],
        &["whoami", "--json"],
        &["actors", "--json"],
        &["login", "--json"],
    ] {
        note(&args.join(" "), cluster.weft(args));
    }
    let mut explain = Command::new(bin_dir().join("weftd"));
    note("weftd config", ends(explain.arg("config").arg("--config").arg(&file)));
    for (what, log) in [("n1's log", cluster.log("n1")), ("n2's log", joined.lines().join("\n"))] {
        assert!(log.contains(" DEBUG "), "{what} says all that it says at that level");
        said.push((what.to_owned(), log));
    }
    let before = secrets.len();
    for dir in [cluster.dir(), data.clone()] {
        private_keys(&dir, &mut secrets);
    }
    assert!(secrets.len() >= before + 4, "of two nodes, an issuer and an operator");
    secrets.push("PRIVATE KEY".to_owned());
    let found = leaks(&said, &secrets);
    assert!(found.is_empty(), "{found:#?}");
    assert!(is_alive(joined.child.id()), "it ran all the time");
}
