//! What goes on: logs, events and alerts that are followed.

use super::*;

#[test]
fn followed_logs_of_two_components_on_three_nodes_are_prefixed_and_in_the_order_of_time() {
    let cluster = Cluster::with(&["--no-hello"]);
    // Some lines at once, and one more when it is told to.
    let script = "i=0; while [ $i -lt 5 ]; do i=$((i+1)); echo $0 $i; sleep 0.1; done; \
                  until [ -e go ]; do sleep 0.1; done; echo $0 later; exec sleep 100000";
    let speaks = |name: &str| {
        component(name, "").replace(
            "\"/bin/sleep\", \"100000\"",
            &format!("\"sh\", \"-c\", \"{script}\", \"{name}\""),
        )
    };
    let definition = service("web", "replicas = 3", &[speaks("api"), speaks("db")]);
    deploy(&cluster, "web", &definition, &[]).ok();
    let nodes: BTreeSet<String> =
        ps(&cluster, "web").iter().map(|row| text(row, "node").to_owned()).collect();
    assert_eq!(nodes.len(), 3, "{nodes:?}");
    eventually("all have spoken", || {
        let said = cluster.weft(&["logs", "web"]).ok().stdout;
        let own = said.lines().filter(|line| !line.contains("[weft]")).count();
        (own == 30).then_some(())
    });

    let mut command = cluster.command(&["--node", "n2", "logs", "-f", "-t", "web"]);
    let mut followed = Running::start(cluster.scratch(), "followed", &mut command);
    // Time, who wrote it, and what.
    let said = |followed: &Running| -> Vec<(String, String, String)> {
        let lines = followed.lines();
        let own = lines.iter().filter(|line| !line.contains("[weft]"));
        own.map(|line| {
            let (time, rest) = line.split_once(' ').unwrap_or_default();
            let (who, what) = rest.split_once(" | ").unwrap_or_else(|| panic!("{line}"));
            (time.to_owned(), who.to_owned(), what.to_owned())
        })
        .collect()
    };
    let past = eventually("what was said before", || {
        let said = said(&followed);
        (said.len() >= 30).then_some(said)
    });
    assert_eq!(past.len(), 30, "each once: {past:#?}");
    assert!(past.iter().map(|line| &line.0).is_sorted(), "{past:#?}");
    let mut by_source: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (_, who, what) in &past {
        by_source.entry(who).or_default().push(what);
    }
    let sources: Vec<&str> = by_source.keys().copied().collect();
    assert_eq!(sources, ["api#1", "api#2", "api#3", "db#1", "db#2", "db#3"]);
    for (who, what) in &by_source {
        let name = who.split('#').next().unwrap_or_default();
        let expected: Vec<String> = (1..=5).map(|n| format!("{name} {n}")).collect();
        assert_eq!(*what, expected, "{who}");
    }

    // What comes later comes by itself, in the order in which it is said.
    let go = cluster.scratch().join("go");
    std::fs::write(&go, "").expect("writes");
    for (at, replica) in ["2", "3", "1"].into_iter().enumerate() {
        cluster.weft(&["push", &go.to_string_lossy(), "web", "--replica", replica]).ok();
        let now = eventually("both say so", || {
            let said = said(&followed);
            (said.len() >= 32 + 2 * at).then_some(said)
        });
        assert_eq!(now.len(), 32 + 2 * at, "each once: {now:#?}");
        let mut new: Vec<(&str, &str)> =
            now[30 + 2 * at..].iter().map(|(_, who, what)| (who.as_str(), what.as_str())).collect();
        new.sort_unstable();
        let (api, db) = (format!("api#{replica}"), format!("db#{replica}"));
        assert_eq!(new, [(api.as_str(), "api later"), (db.as_str(), "db later")]);
    }
    followed.goes_on();
    // One replica's lines need no number, one component's no name.
    let one = cluster.weft(&["logs", "web/api", "--replica", "2"]).ok().stdout;
    assert!(one.lines().any(|line| line == "api later"), "{one}");
    let two = cluster.weft(&["logs", "web", "--replica", "2"]).ok().stdout;
    assert!(two.lines().any(|line| line == "db | db later"), "{two}");
    let api = cluster.weft(&["logs", "web/api"]).ok().stdout;
    assert!(api.lines().any(|line| line == "#3 | api later"), "{api}");
}

/// How many things about `web` are so, each counted once.
fn of_web(items: &[Value], is: impl Fn(&Value) -> bool) -> usize {
    let found = items.iter().filter(|item| item["service"] == "web" && is(item));
    found.map(|item| text(item, "id")).collect::<BTreeSet<&str>>().len()
}

#[test]
fn followed_events_and_alerts_show_what_happens_later_without_being_asked_again() {
    let mut cluster = one();
    configure(&mut cluster, "[monitor]\nalert_after = \"0s\"\ncooldown = \"0s\"\n");
    deploy(&cluster, "web", &service("web", "", &[component("api", "")]), &[]).ok();
    let pid = |cluster: &Cluster| {
        let pid = cluster.running("n1", "web", "n1")["pid"].as_u64().expect("a pid");
        u32::try_from(pid).expect("a pid")
    };
    let scratch = cluster.scratch();
    let start =
        |name: &str, args: &[&str]| Running::start(scratch, name, &mut cluster.command(args));
    let mut events = start("events", &["events", "-f", "--json"]);
    let mut alerts = start("alerts", &["alerts", "-f", "--json"]);
    let mut lines = start("lines", &["events", "web", "-f"]);
    eventually("what was is told", || {
        let runs = |event: &Value| event["service"] == "web" && event["new_state"] == "running";
        events.items().iter().any(runs).then_some(())
    });
    // Ends of `web` that are told, and alerts about it.
    let told = |events: &Running, alerts: &Running| {
        let ends =
            |event: &Value| event["prev_state"] == "running" && event["new_state"] == "exited";
        (of_web(&events.items(), ends), of_web(&alerts.items(), |alert| alert["type"] == "drift"))
    };
    assert_eq!(told(&events, &alerts), (0, 0));
    for kills in 1..=2 {
        let before = pid(&cluster);
        kill_9(before);
        eventually("its end is told, and alerts", || {
            (told(&events, &alerts) == (kills, kills)).then_some(())
        });
        eventually("it runs again", || (pid(&cluster) != before).then_some(()));
        eventually("and for people", || {
            let told = lines.lines();
            let ends = told.iter().filter(|line| line.contains("web/api#1")).cloned();
            (ends.filter(|line| line.contains("running -> exited")).count() == kills).then_some(())
        });
    }
    for running in [&mut events, &mut alerts, &mut lines] {
        running.goes_on();
    }
}
