//! MACP sessions on several nodes: any of them takes any call, and what was acknowledged is there
//! once, in one order and on every node, whatever becomes of the owner. Clients are in a network
//! namespace of their own, which no partition touches. Figures are printed (`measured: …`).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use uuid::Uuid;
use weft_tests::load::{Book, Load, MESSAGES};
use weft_tests::macp::{self, Agent, Answer, Clients, SessionState, led};
use weft_tests::net::Net;
use weft_tests::nodes::{NetCluster, Options};
use weft_tests::sdk::{self, SHOW, bounded, file};
use weft_tests::{DEADLINE, run};
use weft_wire::{Clock, SystemClock};

/// The group that has every session.
const GROUP: &str = "session/0";
/// Each of these groups is on every node.
const GROUPS: [&str; 2] = ["catalogue", GROUP];
/// Owners that die in the test of it.
const KILLS: usize = 10;
/// Streams of one connection; a connection has room for 64 requests.
const STREAMS: usize = 25;
/// A request is answered within this, whatever the network does (`MACP_REQUEST_TIMEOUT_SECS`).
const ANSWERED: Duration = Duration::from_secs(30);
/// In a line with the group's name, once for each that is installed.
const INSTALLED: &str = "the leader's image is installed";

/// Whose groups have as many voters as they are to have.
fn voters(nodes: usize) -> usize {
    if nodes < 3 { 1 } else { 3 }
}

/// Waits until every group is led and has its voters.
#[track_caller]
fn agreed(cluster: &NetCluster, nodes: &[usize]) {
    let through = *nodes.first().expect("a node");
    cluster.wait_until("the groups have their voters", DEADLINE, |cluster| {
        let status = cluster.status(through)?;
        let groups = status["groups"].as_array()?.clone();
        let is_settled = |name: &&'static str| {
            groups.iter().any(|row| {
                let count = |key: &str| row[key].as_array().map_or(0, Vec::len);
                let follow = count("voters") + count("learners");
                row["name"] == *name
                    && row["leader"].is_string()
                    && count("voters") == voters(nodes.len())
                    && follow == nodes.len()
            })
        };
        GROUPS.iter().all(is_settled).then_some(())
    });
}

/// As [`agreed`], and until every node takes calls.
#[track_caller]
fn ready(cluster: &NetCluster, clients: &Clients, nodes: &[usize]) {
    agreed(cluster, nodes);
    for &node in nodes {
        cluster.wait_until("every node takes calls", DEADLINE, |_| {
            let agent = clients.sender(0);
            let session = Uuid::new_v4().to_string();
            let start = agent.start(&session);
            let answer = clients.run(async move { agent.send(node, &start, ANSWERED).await });
            match answer {
                Answer::Taken(_) => Some(()),
                Answer::Unknown(_) => None,
                Answer::Refused(why) => panic!("node {node}: {why}"),
            }
        });
    }
}

fn cluster(nodes: usize, settings: &[&str]) -> Option<(NetCluster, Clients)> {
    cluster_with(nodes, settings, &[])
}

/// What has ended leaves memory within a second or two.
const LEAVE: &[(&str, &str)] = &[("MACP_SESSION_RETENTION_SECS", "1")];

fn cluster_with(
    nodes: usize,
    settings: &[&str],
    variables: &[(&str, &str)],
) -> Option<(NetCluster, Clients)> {
    let net = Net::new(nodes + 1)?;
    let mut options = macp::serving(&net, &file("tokens.json"), settings);
    let more = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    options.variables.extend(more);
    let cluster = NetCluster::with(net, nodes, options);
    cluster.settled(0);
    let clients = Clients::new(&cluster, nodes);
    ready(&cluster, &clients, &(0..nodes).collect::<Vec<_>>());
    Some((cluster, clients))
}

/// Waits until one of `through` knows of an owner in a later term than `after`.
#[track_caller]
fn owner(cluster: &NetCluster, through: &[usize], after: u64) -> (u64, usize) {
    let (owner, _) = cluster.wait_until("sessions have an owner", DEADLINE, |cluster| {
        through
            .iter()
            .filter_map(|node| led(cluster, *node, GROUP))
            .filter(|(term, node)| *term > after && cluster.daemon_pid(*node).is_some())
            .max()
    });
    owner
}

/// Kills all daemons, and then starts them again.
fn kill_all(cluster: &mut NetCluster) {
    for node in 0..cluster.len() {
        cluster.kill(node);
    }
    for node in 0..cluster.len() {
        cluster.start_daemon(node);
    }
    for node in 0..cluster.len() {
        cluster.answers(node);
    }
}

fn others(cluster: &NetCluster, of: usize) -> Vec<usize> {
    (0..cluster.len()).filter(|node| *node != of).collect()
}

/// Compares with every one of `nodes`, prints the figures, and that nothing is wrong.
#[track_caller]
fn kept(what: &str, clients: &Clients, nodes: &[usize], book: &Book) {
    let compared = book.compared(clients, nodes);
    let again: u64 = book.again.values().sum();
    eprintln!("measured: {what}: {compared}; {again} attempts again: {:#?}", book.again);
    compared.assert_kept();
    assert!(book.acknowledged() > MESSAGES, "there was hardly any load: {book:?}");
    for &node in nodes {
        let observer = clients.observer();
        let listed = clients.run(async move { observer.sessions(node).await }).expect("a list");
        let missing = book.sessions.keys().filter(|id| listed.binary_search(id).is_err());
        let missing: Vec<&String> = missing.collect();
        assert!(missing.is_empty(), "node {node} does not list {missing:?}");
    }
}

/// Runs steps of the script with the published SDK, in the namespace of the clients.
#[track_caller]
fn show(cluster: &NetCluster, python: &Path, step: &str, notes: &Path) {
    show_with(cluster, python, step, notes, &[]);
}

/// As [`show`], with variables of the script.
#[track_caller]
fn show_with(
    cluster: &NetCluster,
    python: &Path,
    step: &str,
    notes: &Path,
    variables: &[(&str, &str)],
) {
    let addresses: Vec<String> =
        (0..cluster.len()).map(|node| macp::address(&cluster.net, node)).collect();
    let mut command: Command = cluster.net.command(cluster.len(), python);
    command.arg(file("show.py")).args([step, &addresses.join(",")]).arg(notes);
    command.envs(variables.iter().copied());
    let printed = bounded(&mut command, SHOW).unwrap_or_else(|error| panic!("{step}: {error}"));
    for line in printed.lines().filter(|line| line.ends_with(" s")) {
        println!("{line}");
    }
}

#[test]
fn any_node_takes_any_call() {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let Some(python) = sdk::python(home) else { return };
    let Some(net) = Net::new(4) else { return };
    // The limits of rate are part of what is shown.
    let options = macp::serving(&net, &file("tokens.json"), &[]);
    let mut cluster = NetCluster::with(net, 3, Options { variables: Vec::new(), ..options });
    cluster.settled(0);
    let clients = Clients::new(&cluster, 3);
    ready(&cluster, &clients, &[0, 1, 2]);
    let notes = cluster.scratch().join("notes.json");
    show(&cluster, &python, "across", &notes);
    show(&cluster, &python, "all", &notes);
    show(&cluster, &python, "write", &notes);
    kill_all(&mut cluster);
    cluster.settled(0);
    ready(&cluster, &clients, &[0, 1, 2]);
    show(&cluster, &python, "read", &notes);
}

#[test]
fn any_node_takes_any_call_over_tls_from_who_has_a_json_web_token() {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let Some(python) = sdk::python(home) else { return };
    let Some(net) = Net::new(4) else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let names: Vec<String> = (0..3).map(|node| net.address(node).to_string()).collect();
    let (certificate, key) = macp::certificate(dir.path(), names);
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let variables = [
        ("MACP_TLS_CERT_PATH", path(&certificate)),
        ("MACP_TLS_KEY_PATH", path(&key)),
        ("MACP_AUTH_ISSUER", sdk::ISSUER.to_owned()),
        ("MACP_AUTH_JWKS_JSON", sdk::JWKS.to_owned()),
        ("MACP_AUTH_JWT_ALGS", "HS256".to_owned()),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value)).to_vec();
    let each = (0..3).map(|node| vec![format!("sessions.bind={}", macp::address(&net, node))]);
    let options = Options { each: each.collect(), variables, ..Options::default() };
    let cluster = NetCluster::with(net, 3, options);
    cluster.settled(0);
    agreed(&cluster, &[0, 1, 2]);
    let notes = cluster.scratch().join("notes.json");
    let roots = path(&certificate);
    let client = [("SHOW_ROOTS", roots.as_str()), ("SHOW_JWT_SECRET", sdk::SECRET)];
    for step in ["across", "all"] {
        show_with(&cluster, &python, step, &notes, &client);
    }
}

#[test]
fn what_is_done_on_one_node_is_there_on_another_also_when_nodes_are_far_apart() {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let Some(python) = sdk::python(home) else { return };
    let Some(net) = Net::new(4) else { return };
    // Followers learn of everything so much later than the owner.
    let options = macp::serving(&net, &file("tokens.json"), &[]);
    let options = Options { relayed: Some(Duration::from_millis(40)), ..options };
    let cluster = NetCluster::with(net, 3, options);
    cluster.settled(0);
    let clients = Clients::new(&cluster, 3);
    ready(&cluster, &clients, &[0, 1, 2]);
    show(&cluster, &python, "across", &cluster.scratch().join("notes.json"));
}

#[test]
fn what_a_sender_may_send_in_a_minute_holds_for_all_nodes_together() {
    let limit = [("MACP_MESSAGE_LIMIT_PER_MINUTE", "12")];
    let Some((cluster, clients)) = cluster_with(3, &["log.level=debug"], &limit) else { return };
    let is_taken = |answer: &Answer| matches!(answer, Answer::Taken(_));
    let send = |agent: &Agent, node: usize, envelope| {
        let agent = agent.clone();
        clients.run(async move { agent.send(node, &envelope, ANSWERED).await })
    };
    // The next owner begins to count anew: then once more, as somebody else.
    let refused = (1..5).find_map(|n| {
        let (agent, session) = (clients.sender(n), Uuid::new_v4().to_string());
        let (term, _) = owner(&cluster, &[0, 1, 2], 0);
        let answer = send(&agent, 0, agent.start(&session));
        assert!(is_taken(&answer), "{answer:?}");
        let answer = send(&agent, 0, agent.proposal(&session, 16));
        assert!(is_taken(&answer), "{answer:?}");
        for n in 1..12 {
            let answer = send(&agent, n % 3, agent.evaluation(&session, 16));
            assert!(is_taken(&answer), "{n}: {answer:?}");
        }
        let refused: Vec<Answer> =
            (0..3).map(|node| send(&agent, node, agent.evaluation(&session, 16))).collect();
        // Starts are counted by themselves.
        let answer = send(&agent, 1, agent.start(&Uuid::new_v4().to_string()));
        assert!(is_taken(&answer), "{answer:?}");
        (owner(&cluster, &[0, 1, 2], 0).0 == term).then_some(refused)
    });
    for answer in refused.expect("an owner that stays") {
        let says = matches!(&answer, Answer::Refused(why) if why.contains("RATE_LIMITED"));
        assert!(says, "{answer:?}");
    }

    // Each sender is counted by itself; and what a client's call belongs to is told where it comes
    // in and where it is decided.
    let (other, session) = (clients.sender(5), Uuid::new_v4().to_string());
    for envelope in [other.start(&session), other.proposal(&session, 16)] {
        let answer = send(&other, 2, envelope);
        assert!(is_taken(&answer), "{answer:?}");
    }
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let traced = other.traced(&format!("00-{trace}-b7ad6b7169203331-01"));
    let seen = |node: usize, says: &str| {
        let log = cluster.log(node);
        log.lines().any(|line| line.contains(trace) && line.contains(says))
    };
    for taker in 0..3 {
        let answer = send(&traced, taker, other.evaluation(&session, 16));
        assert!(is_taken(&answer), "{answer:?}");
        cluster.wait_until("it is in the log of who took it", DEADLINE, |_| {
            seen(taker, "envelope{").then_some(())
        });
    }
    cluster.wait_until("it is in an owner's log", DEADLINE, |_| {
        let says = "an envelope is checked by its owner";
        (0..3).any(|node| seen(node, says)).then_some(())
    });
}

#[test]
fn nothing_acknowledged_is_lost_when_owners_die() {
    let Some((mut cluster, clients)) = cluster(3, &[]) else { return };
    let all = [0, 1, 2];
    let load = Load::start(&clients, &all, 8, 4);
    load.began(&cluster);
    // Streams on every node: those on a node that dies go on elsewhere.
    let (mut followers, observer) = (Vec::new(), clients.observer());
    for n in 0..24 {
        let nodes: Vec<usize> = (0..3).map(|more| (n + more) % 3).collect();
        followers.push(observer.follow(&clients, &nodes, &load.open[n % load.open.len()]));
    }

    let (start, mut term) = (SystemClock.now(), 0);
    for _ in 0..KILLS {
        let (now, dies) = owner(&cluster, &all, term);
        term = now;
        load.goes_on(&cluster, 20);
        cluster.kill(dies);
        let (_, next) = owner(&cluster, &others(&cluster, dies), term);
        assert_ne!(next, dies, "it is dead");
        cluster.start_daemon(dies);
    }
    let took = start.elapsed();
    for node in all {
        cluster.answers(node);
    }
    load.goes_on(&cluster, 100);
    let book = load.stop(&clients);
    cluster.settled(0);
    kept(&format!("{KILLS} owners killed in {} ms", took.as_millis()), &clients, &all, &book);
    book.assert_followed(&cluster, &followers);
    let breaks: usize = followers.iter().map(|follower| follower.got().breaks.len()).sum();
    eprintln!("measured: {} streams, {breaks} breaks, each whole", followers.len());
    for node in all {
        assert_eq!(cluster.daemon_pid(node).map(|_| ()), Some(()), "no daemon ends by itself");
    }
}

#[test]
fn a_call_to_a_node_that_lives_waits_for_the_next_owner() {
    let Some((mut cluster, clients)) = cluster(3, &[]) else { return };
    let mut term = 0;
    for _ in 0..3 {
        let (now, dies) = owner(&cluster, &[0, 1, 2], term);
        term = now;
        cluster.kill(dies);
        let (agent, stay) = (clients.sender(0), others(&cluster, dies));
        // Once: nobody has to try again.
        let once = |node: usize| {
            let (agent, start) = (agent.clone(), agent.start(&Uuid::new_v4().to_string()));
            async move { agent.send(node, &start, ANSWERED).await }
        };
        let (one, other) = (once(stay[0]), once(stay[1]));
        let began = SystemClock.now();
        let answers = clients.run(async move { tokio::join!(one, other) });
        eprintln!("measured: without an owner, answered after {} ms", began.elapsed().as_millis());
        let taken = |answer: &Answer| matches!(answer, Answer::Taken(_));
        assert!(taken(&answers.0) && taken(&answers.1), "{answers:?}");
        cluster.start_daemon(dies);
        cluster.answers(dies);
    }
}

#[test]
fn nothing_acknowledged_is_lost_when_all_nodes_die_at_once() {
    let Some((mut cluster, clients)) = cluster_with(3, &[], LEAVE) else { return };
    let all = [0, 1, 2];
    let load = Load::start(&clients, &all, 8, 2);
    load.began(&cluster);
    let observer = clients.observer();
    let open = load.open.iter().cycle().zip(all);
    let followers: Vec<_> =
        open.map(|(session, at)| observer.follow(&clients, &[at], session)).collect();
    for _ in 0..2 {
        load.goes_on(&cluster, 100);
        kill_all(&mut cluster);
    }
    load.goes_on(&cluster, 100);
    let book = load.stop(&clients);
    kept("all nodes killed twice", &clients, &all, &book);
    book.assert_followed(&cluster, &followers);
}

#[test]
fn an_owner_that_was_halted_takes_nothing_back_when_it_goes_on() {
    let Some((mut cluster, clients)) = cluster(3, &[]) else { return };
    let all = [0, 1, 2];
    let (term, halted) = owner(&cluster, &all, 0);
    let load = Load::start(&clients, &all, 8, 0);
    load.goes_on(&cluster, 50);
    cluster.halt(halted, true);
    let (_, next) = owner(&cluster, &others(&cluster, halted), term);
    assert_ne!(next, halted);
    load.goes_on(&cluster, 20);
    // It wakes up as the owner that it was.
    cluster.halt(halted, false);
    load.goes_on(&cluster, 200);
    let book = load.stop(&clients);
    kept("an owner halted", &clients, &all, &book);
}

#[test]
fn a_stream_follows_its_session_when_the_owner_dies() {
    let Some((mut cluster, clients)) = cluster(3, &[]) else { return };
    let (term, dies) = owner(&cluster, &[0, 1, 2], 0);
    let stay = others(&cluster, dies);
    let load = Load::start(&clients, &stay, 0, 4);
    load.began(&cluster);
    // All on a node that stays.
    let mut followers = Vec::new();
    for connection in 0..4 {
        let observer = clients.agent_apart("token-observer", "agent://observer");
        for n in 0..STREAMS {
            let session = &load.open[(connection + n) % load.open.len()];
            followers.push(observer.follow(&clients, &stay[..1], session));
        }
    }
    cluster.wait_until("every stream is open", DEADLINE, |_| {
        followers.iter().all(|follower| !follower.got().ids.is_empty()).then_some(())
    });
    load.goes_on(&cluster, 100);
    let start = SystemClock.now();
    cluster.kill(dies);
    owner(&cluster, &stay, term);
    eprintln!("measured: another owner after {} ms", start.elapsed().as_millis());
    load.goes_on(&cluster, 200);
    let book = load.stop(&clients);
    kept("streams and a dead owner", &clients, &stay, &book);
    book.assert_followed(&cluster, &followers);
    for follower in &followers {
        assert_eq!(follower.got().breaks, Vec::<String>::new(), "its node lives");
    }
}

/// Cuts `alone` off from the other nodes while clients go on on both sides.
fn minority(cluster: &mut NetCluster, clients: &Clients, alone: usize) {
    let rest = others(cluster, alone);
    let agent = clients.sender(7);
    let session = Uuid::new_v4().to_string();
    let deliver = |nodes: &[usize], envelope: &macp::Envelope| {
        let (agent, nodes, envelope) = (agent.clone(), nodes.to_vec(), envelope.clone());
        let end = SystemClock.now() + DEADLINE;
        let go_on = move |_: &str| SystemClock.now() < end;
        clients.run(async move { agent.deliver(&nodes, 0, &envelope, go_on).await })
    };
    let first = [agent.start(&session), agent.proposal(&session, 10)];
    for envelope in &first {
        deliver(&[alone], envelope).expect("taken");
    }
    let load = Load::start(clients, &rest, 4, 0);
    load.goes_on(cluster, 20);

    let groups = [&[alone][..], &rest];
    cluster.net.partition(&groups);
    // It is not acknowledged, and the client is told so in time.
    let envelope = agent.evaluation(&session, 10);
    let start = SystemClock.now();
    let (sender, sent) = (agent.clone(), envelope.clone());
    let answer = clients.run(async move { sender.send(alone, &sent, 2 * ANSWERED).await });
    let took = start.elapsed();
    match &answer {
        Answer::Unknown(why) => {
            let what = if why.contains("no answer within") { "not answered" } else { "refused" };
            eprintln!("measured: cut off: {what} after {} ms: {why}", took.as_millis());
            assert_eq!(what, "refused", "{why}");
        }
        other => panic!("a minority must not take it: {other:?}"),
    }
    assert!(took <= ANSWERED + Duration::from_secs(2), "{took:?}");
    // What it has can be read there; it may be told of nothing newer.
    let (observer, id) = (clients.observer(), session.clone());
    let there = clients.run(async move { observer.history(alone, &id, 0).await });
    let there = there.expect("a minority can be read");
    let ids: Vec<&String> = there.iter().map(|envelope| &envelope.message_id).collect();
    assert_eq!(ids, first.iter().map(|envelope| &envelope.message_id).collect::<Vec<_>>());
    // The others go on, at the latest with an owner of their own.
    load.goes_on(cluster, 100);

    cluster.net.reunite();
    deliver(&[alone], &envelope).expect("the same message, taken now");
    load.goes_on(cluster, 20);
    let mut book = load.stop(clients);
    let ids = first.iter().chain([&envelope]).map(|envelope| envelope.message_id.clone());
    book.sessions.insert(session, ids.collect());
    let all: Vec<usize> = (0..cluster.len()).collect();
    kept("a node cut off", clients, &all, &book);
}

#[test]
fn a_client_on_the_minority_side_is_refused_and_nothing_is_lost() {
    let Some((mut cluster, clients)) = cluster(3, &[]) else { return };
    let (_, leads) = owner(&cluster, &[0, 1, 2], 0);
    minority(&mut cluster, &clients, (leads + 1) % 3);
}

#[test]
fn a_client_of_an_owner_that_is_cut_off_is_refused_and_nothing_is_lost() {
    let Some((mut cluster, clients)) = cluster(3, &[]) else { return };
    let (_, leads) = owner(&cluster, &[0, 1, 2], 0);
    minority(&mut cluster, &clients, leads);
}

#[test]
fn a_node_that_was_away_catches_up() {
    let settings = ["consensus.checkpoint_every=50", "consensus.log_kept=50"];
    let Some((mut cluster, clients)) = cluster_with(3, &settings, LEAVE) else { return };
    let (_, leads) = owner(&cluster, &[0, 1, 2], 0);
    let (away, stay) = ((leads + 1) % 3, others(&cluster, (leads + 1) % 3));
    // Some of the sessions began before it was away.
    let load = Load::start(&clients, &[0, 1, 2], 4, 4);
    load.goes_on(&cluster, 200);
    let mut book = load.stop(&clients);
    let installed = |cluster: &NetCluster| {
        let log = cluster.log(away);
        log.lines().filter(|line| line.contains(INSTALLED) && line.contains(GROUP)).count()
    };
    let before = installed(&cluster);
    cluster.kill(away);
    let load = Load::start(&clients, &stay, 8, 4);
    let start = SystemClock.now();
    while load.acknowledged() < 2_000 {
        load.goes_on(&cluster, 100);
    }
    eprintln!("measured: 2,000 messages without it in {} ms", start.elapsed().as_millis());
    cluster.start_daemon(away);
    cluster.answers(away);
    cluster.wait_until("the log was cut and an image came", DEADLINE, |cluster| {
        (installed(cluster) > before).then_some(())
    });
    cluster.wait_until("it has the sessions that ended meanwhile", DEADLINE, |cluster| {
        cluster.log(away).contains("ended sessions fetched").then_some(())
    });
    load.goes_on(&cluster, 100);
    book.add(load.stop(&clients));
    cluster.settled(away);
    kept("a node away for 2,000 messages", &clients, &[away, stay[0], stay[1]], &book);
    // And from an ordinal on, as from the start.
    let (observer, some) = (clients.observer(), book.sessions.clone());
    for (session, ids) in some.into_iter().take(20) {
        let (observer, after) = (observer.clone(), ids.len() / 2);
        let rest = clients.run(async move { observer.history(away, &session, after as u64).await });
        let rest: Vec<String> =
            rest.expect("a history").into_iter().map(|envelope| envelope.message_id).collect();
        assert_eq!(rest, ids[after..]);
    }
    // It votes with what it was brought: without it there is no majority.
    cluster.kill(stay[0]);
    let left = [away, stay[1]];
    let load = Load::start(&clients, &left, 4, 0);
    load.goes_on(&cluster, 50);
    book.add(load.stop(&clients));
    kept("with it as one of two that are left", &clients, &left, &book);
}

/// The groups of sessions, as a node has them.
fn groups(cluster: &NetCluster, node: usize) -> Vec<serde_json::Value> {
    let groups = cluster.json(node, &["session", "groups", "--json"]);
    groups.as_array().expect("a list").clone()
}

#[test]
fn sessions_are_shared_among_more_groups_while_they_go_on() {
    const COUNT: usize = 3;
    let Some((mut cluster, clients)) = cluster_with(3, &[], LEAVE) else { return };
    let all = [0, 1, 2];
    let load = Load::start(&clients, &all, 8, 6);
    load.began(&cluster);
    let observer = clients.observer();
    let open = load.open.iter().cycle().zip(all.into_iter().cycle()).take(12);
    let followers: Vec<_> =
        open.map(|(session, at)| observer.follow(&clients, &[at], session)).collect();
    load.goes_on(&cluster, 100);

    let start = SystemClock.now();
    let done = cluster.weft(1, &["session", "scale", &COUNT.to_string(), "--yes"]).ok();
    assert!(done.stdout.contains("3 groups"), "{done:?}");
    eprintln!(
        "measured: sessions begin in {COUNT} groups after {} ms",
        start.elapsed().as_millis()
    );
    for node in all {
        let rows = groups(&cluster, node);
        let number = |row: &serde_json::Value, key: &str| row[key].as_u64().expect("a number");
        let slots: Vec<u64> = rows.iter().map(|row| number(row, "slots")).collect();
        let even = slots.iter().all(|slots| [85, 86].contains(slots));
        assert!(even && slots.iter().sum::<u64>() == 256, "on node {node}: {slots:?}");
        assert!(rows.iter().all(|row| number(row, "handing_over") == 0), "{rows:?}");
    }
    // There are never fewer again.
    let refused = cluster.weft(2, &["session", "scale", "2", "--yes"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("there are 3"), "{refused:?}");

    // Each is led by a node of its own as long as nobody dies, and then by one that lives.
    load.goes_on(&cluster, 200);
    let name = |number: usize| format!("session/{number}");
    let leaders = |through: usize| -> Option<Vec<usize>> {
        (0..COUNT).map(|n| Some(led(&cluster, through, &name(n))?.1)).collect()
    };
    let (first, _) = cluster.wait_until("all groups are led", DEADLINE, |_| leaders(0));
    eprintln!("measured: leaders of the groups: {first:?}");
    assert_ne!(first[1], first[2], "each is founded by another voter");
    let has_sessions = |row: &serde_json::Value| {
        let count = |key: &str| row[key].as_u64().unwrap_or_default();
        count("live") + count("ended") + count("archived") > 0
    };
    cluster.wait_until("sessions begin in each", DEADLINE, |cluster| {
        groups(cluster, 0).iter().all(has_sessions).then_some(())
    });
    for number in 1..COUNT {
        let (dies, _) = cluster.wait_until("it is led", DEADLINE, |cluster| {
            let (_, dies) = led(cluster, 0, &name(number))?;
            cluster.daemon_pid(dies).map(|_| dies)
        });
        cluster.kill(dies);
        load.goes_on(&cluster, 100);
        cluster.start_daemon(dies);
        cluster.answers(dies);
    }
    kill_all(&mut cluster);
    load.goes_on(&cluster, 100);
    let book = load.stop(&clients);
    kept("three groups", &clients, &all, &book);
    book.assert_followed(&cluster, &followers);
}

#[test]
fn a_watch_has_everything_once_while_owners_die_and_groups_are_added() {
    let Some((mut cluster, clients)) = cluster(3, &[]) else { return };
    let (_, dies) = owner(&cluster, &[0, 1, 2], 0);
    // One node lives, and is watched.
    let lives = others(&cluster, dies)[0];
    let watcher = clients.observer().watch(&clients, lives);
    cluster.wait_until("it is watched", DEADLINE, |_| watcher.seen().attached.then_some(()));
    let load = Load::start(&clients, &[0, 1, 2], 6, 2);
    load.began(&cluster);
    let name = |number: usize| format!("session/{number}");
    let mut killed = 0;
    for number in 0..3 {
        let (at, _) = cluster.wait_until("it is led", DEADLINE, |cluster| {
            let (_, at) = led(cluster, lives, &name(number))?;
            cluster.daemon_pid(at).map(|_| at)
        });
        if at != lives {
            cluster.kill(at);
            load.goes_on(&cluster, 50);
            cluster.start_daemon(at);
            cluster.answers(at);
            killed += 1;
        }
        if number == 0 {
            cluster.weft(lives, &["session", "scale", "3", "--yes"]).ok();
        }
        load.goes_on(&cluster, 100);
    }
    let open = load.open.clone();
    let book = load.stop(&clients);
    // Every session begins once, and ends once, unless it was kept open.
    let wrong = |seen: &macp::Seen| {
        let count = |id: &String, what: macp::Event| {
            seen.events.iter().filter(|(of, event)| of == id && *event == what as i32).count()
        };
        let wrong = book.sessions.keys().filter(|id| {
            let ends = usize::from(!open.contains(id));
            count(id, macp::Event::Created) != 1 || count(id, macp::Event::Resolved) != ends
        });
        wrong.count()
    };
    cluster.wait_until("the watch has everything, once", DEADLINE, |_| {
        let seen = watcher.seen();
        assert_eq!(seen.ended, None, "its node lives");
        (wrong(&seen) == 0).then_some(())
    });
    eprintln!(
        "measured: {} events of {} sessions, each once, {killed} leaders killed",
        watcher.seen().events.len(),
        book.sessions.len()
    );
}

/// A file system of its own, in memory, as long as it lives.
struct Disk(tempfile::TempDir);

impl Disk {
    /// Of so many MiB; this takes root.
    #[track_caller]
    fn mount(size: u32) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let options = format!("size={size}m");
        let mount = ["-t", "tmpfs", "-o", &options, "weft-test"];
        run(Command::new("mount").args(mount).arg(dir.path())).ok();
        Self(dir)
    }

    /// Takes what room is left; where.
    fn fill(&self) -> PathBuf {
        use std::io::Write as _;
        let path = self.0.path().join("filler");
        let mut filler = std::fs::File::create(&path).expect("a file");
        for size in [1 << 20, 4 << 10, 1] {
            while filler.write_all(&vec![1u8; size]).is_ok() {}
        }
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = run(Command::new("umount").arg("-l").arg(self.0.path()));
    }
}

#[test]
fn a_full_disk_refuses_and_reads_go_on() {
    let Some(net) = Net::new(2) else { return };
    let disk = Disk::mount(192);
    let options = macp::serving(&net, &file("tokens.json"), &[]);
    let options = Options { dir: Some(disk.0.path().to_owned()), ..options };
    let cluster = NetCluster::with(net, 1, options);
    let clients = Clients::new(&cluster, 1);
    ready(&cluster, &clients, &[0]);
    let agent = clients.sender(0);
    let session = Uuid::new_v4().to_string();
    let send = |envelope: &macp::Envelope| {
        let (agent, envelope): (Agent, _) = (agent.clone(), envelope.clone());
        clients.run(async move { agent.send(0, &envelope, ANSWERED).await })
    };
    let mut ids = Vec::new();
    for envelope in [agent.start(&session), agent.proposal(&session, 10)] {
        assert!(matches!(send(&envelope), Answer::Taken(_)), "there is room");
        ids.push(envelope.message_id);
    }

    let filler = disk.fill();
    // The log may have room of its own for a few.
    let refused = (0..200).find_map(|_| {
        let envelope = agent.evaluation(&session, 100_000);
        match send(&envelope) {
            Answer::Taken(_) => {
                ids.push(envelope.message_id);
                None
            }
            Answer::Unknown(why) => Some((envelope, why)),
            Answer::Refused(why) => panic!("{why}"),
        }
    });
    let (refused, why) = refused.expect("20 MB do not fit");
    eprintln!("measured: {} messages taken with a full disk, then: {why}", ids.len() - 2);
    assert!(why.starts_with("INTERNAL_ERROR"), "in band, not a status: {why}");
    let history = |node: usize| {
        let (observer, session) = (clients.observer(), session.clone());
        let there = clients.run(async move { observer.history(node, &session, 0).await });
        let there = there.expect("reads go on");
        there.into_iter().map(|envelope| envelope.message_id).collect::<Vec<_>>()
    };
    assert_eq!(history(0), ids);
    let state = |state: SessionState| {
        let (observer, session) = (clients.observer(), session.clone());
        let metadata = clients.run(async move { observer.session(0, &session).await });
        assert_eq!(metadata.expect("reads go on").state, state as i32);
    };
    state(SessionState::Open);

    std::fs::remove_file(filler).expect("it is there");
    // The same message, until it is taken.
    cluster.wait_until("there is room again", DEADLINE, |_| match send(&refused) {
        Answer::Taken(_) => Some(()),
        Answer::Unknown(_) => None,
        Answer::Refused(why) => panic!("{why}"),
    });
    ids.push(refused.message_id);
    for envelope in [agent.vote(&session), agent.commitment(&session)] {
        assert!(matches!(send(&envelope), Answer::Taken(_)), "there is room");
        ids.push(envelope.message_id);
    }
    assert_eq!(history(0), ids);
    state(SessionState::Resolved);
}

/// Removes a node, which may own the sessions, under load.
fn removed(cluster: &NetCluster, clients: &Clients, gone: usize) {
    let rest = others(cluster, gone);
    let all: Vec<usize> = (0..cluster.len()).collect();
    let load = Load::start(clients, &all, 6, 2);
    load.goes_on(cluster, 100);
    let name = cluster.node_name(gone);
    let start = SystemClock.now();
    cluster.weft(rest[0], &["node", "remove", &name, "--yes", "--timeout", "30s"]).ok();
    cluster.wait_until("the removed daemon has ended", DEADLINE, |cluster| {
        cluster.daemon_pid(gone).is_none().then_some(())
    });
    eprintln!("measured: removed and ended after {} ms", start.elapsed().as_millis());
    load.goes_on(cluster, 100);
    let book = load.stop(clients);
    kept("a node removed", clients, &rest, &book);
    let nobody = |row: &serde_json::Value| !row["voters"].to_string().contains(&name);
    cluster.wait_until("no group depends on it", DEADLINE, |cluster| {
        let status = cluster.status(rest[0])?;
        status["groups"].as_array()?.iter().all(nobody).then_some(())
    });
    let book = {
        let load = Load::start(clients, &rest, 2, 0);
        load.goes_on(cluster, 20);
        let mut more = book;
        more.add(load.stop(clients));
        more
    };
    kept("and the load after it", clients, &rest, &book);
}

#[test]
fn a_removed_owner_of_three_takes_nothing_with_it() {
    let Some((cluster, clients)) = cluster(3, &[]) else { return };
    let (_, gone) = owner(&cluster, &[0, 1, 2], 0);
    removed(&cluster, &clients, gone);
}

#[test]
fn the_only_voter_of_two_takes_nothing_with_it_when_it_is_removed() {
    let Some((cluster, clients)) = cluster(2, &[]) else { return };
    let (_, gone) = owner(&cluster, &[0, 1], 0);
    removed(&cluster, &clients, gone);
}
