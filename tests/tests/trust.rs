//! Who is let in, as whom, until when, and what is written down about it, on real nodes.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use weft_identity::{
    DenyList, Expect, IdentityFiles, PrivateKey, Subject, Trust, Validity, inspect_identity,
};
use weft_link::{Call, Client};
use weft_protocol::{AuditRecord, EventFilter, FollowEvents, Outcome, QueryAudit, RecordEvents};
use weft_tests::{Cluster, Done, eventually, run};
use weft_wire::{
    ActorKind, Address, AskError, Clock, Identity, NodeId, OperatorId, SystemClock, Target,
};

const HOUR: Duration = Duration::from_secs(3600);

fn operator_files(cluster: &Cluster) -> IdentityFiles {
    IdentityFiles::operator(&cluster.dir().join("operator"))
}

/// Signs what lies in `files` anew with n1's CA, for `identity`, good until `ends`.
fn issue(cluster: &Cluster, files: &IdentityFiles, identity: Option<Identity>, validity: Validity) {
    let ca = IdentityFiles::node(&cluster.data_dir("n1")).load_ca().expect("n1 has the CA");
    let stored = files.load().expect("an identity");
    let subject = Subject {
        cluster: stored.own.cluster,
        identity: identity.unwrap_or_else(|| stored.own.identity.clone()),
    };
    let key: PrivateKey = files.key_or_create().expect("a key");
    let chain = ca.sign_csr(&key.csr().expect("a request"), &subject, validity).expect("signs");
    files.save_certificate(&chain).expect("saves");
}

/// Ended an hour ago.
fn over() -> Validity {
    let now = SystemClock.wall();
    Validity { not_before: now.minus(2 * HOUR), not_after: now.minus(HOUR) }
}

#[track_caller]
fn assert_renewed(files: &IdentityFiles, was: Identity) {
    let own = inspect_identity(&files.load().expect("an identity").chain.leaf).expect("reads");
    assert_eq!(own.identity, was);
    assert!(own.not_after > SystemClock.wall().plus(HOUR), "{own:?}");
}

#[test]
fn an_expired_node_certificate_is_renewed_by_proof_of_key_at_start() {
    let mut cluster = Cluster::with(&["--no-hello", "--nodes", "2"]);
    cluster.kill_daemon("n2");
    let files = IdentityFiles::node(&cluster.data_dir("n2"));
    let who = files.load().expect("an identity").own.identity;
    issue(&cluster, &files, None, over());
    cluster.start_daemon("n2");
    cluster.node_is("n1", "n2", "ready");
    assert!(cluster.log("n2").contains("renewing it by proof of key"), "{}", cluster.log("n2"));
    assert_renewed(&files, who);
}

#[test]
fn an_expired_node_certificate_waits_for_whoever_can_renew_it() {
    let mut cluster = Cluster::with(&["--no-hello", "--nodes", "2"]);
    cluster.kill_daemon("n2");
    cluster.kill_daemon("n1");
    let files = IdentityFiles::node(&cluster.data_dir("n2"));
    issue(&cluster, &files, None, over());
    cluster.start_daemon("n2");
    eventually("n2 says that it tries again", || {
        cluster.log("n2").contains("not renewed; trying again").then_some(())
    });
    cluster.start_daemon("n1");
    cluster.node_is("n1", "n2", "ready");
}

#[test]
fn a_removed_node_cannot_renew_its_expired_certificate() {
    let cluster = Cluster::with(&["--no-hello", "--nodes", "2"]);
    cluster.kill_daemon("n2");
    cluster.weft(&["node", "remove", "n2", "--force", "--yes"]).ok();
    issue(&cluster, &IdentityFiles::node(&cluster.data_dir("n2")), None, over());
    let done = weft_tests::ends(&mut cluster.weftd("n2"));
    assert_eq!(done.code, 4, "{done:?}");
    let said = format!("{}{}", done.stdout, done.stderr);
    assert!(said.contains("was removed from the cluster"), "{said}");
    assert!(cluster.data_dir("n2").join("removed.json").is_file());
    let nodes = cluster.json(&["node", "list", "--json"]);
    assert_eq!(nodes.as_array().map(Vec::len), Some(1), "{nodes}");
}

#[test]
fn a_first_node_that_was_off_for_days_renews_its_certificate_with_its_own_ca() {
    let mut cluster = Cluster::with(&["--no-hello", "--nodes", "1"]);
    cluster.kill_daemon("n1");
    let files = IdentityFiles::node(&cluster.data_dir("n1"));
    let who = files.load().expect("an identity").own.identity;
    issue(&cluster, &files, None, over());
    cluster.start_daemon("n1");
    cluster.node_is("n1", "n1", "ready");
    assert_renewed(&files, who);
}

/// `weft` with the certificate as the only way in.
fn by_certificate(cluster: &Cluster, file: &str, args: &[&str]) -> Done {
    run(cluster.command(args).env("WEFT_CONFIG", file))
}

#[test]
fn an_expired_operator_certificate_ends_with_3_and_the_local_socket_renews_it() {
    let cluster = Cluster::with(&["--no-hello", "--nodes", "1"]);
    let file = cluster.without_socket();
    let files = operator_files(&cluster);
    let who = files.load().expect("an identity").own.identity;
    by_certificate(&cluster, &file, &["ps"]).ok();

    issue(&cluster, &files, None, over());
    for args in [["ps", "--json"], ["whoami", "--json"], ["login", "--json"]] {
        let done = by_certificate(&cluster, &file, &args);
        assert_eq!(done.code, 3, "{done:?}");
        let error: Value = serde_json::from_str(done.stderr.trim()).expect("JSON on stderr");
        assert!(error.to_string().contains("expired"), "{error}");
        assert!(
            error["error"]["help"].as_str().is_some_and(|h| h.contains("weft login")),
            "{error}"
        );
    }
    // On the node's machine nothing is lost: the socket works, and issues a new one.
    cluster.weft(&["ps"]).ok();
    cluster.weft(&["login"]).ok();
    assert_renewed(&files, who);
    by_certificate(&cluster, &file, &["ps"]).ok();
    // And while it is valid, it renews itself.
    by_certificate(&cluster, &file, &["login"]).ok();
}

#[test]
fn an_operator_of_another_cluster_or_unknown_to_this_one_is_refused() {
    let cluster = Cluster::with(&["--no-hello", "--nodes", "1"]);
    let file = cluster.without_socket();
    let files = operator_files(&cluster);

    // A good certificate for somebody nobody has heard of.
    let nobody = Identity::Operator(OperatorId::new(uuid::Uuid::new_v4()));
    issue(&cluster, &files, Some(nobody), Validity::operator(SystemClock.wall()));
    let done = by_certificate(&cluster, &file, &["ps"]);
    assert!(matches!(done.code, 3 | 4), "{done:?}");
    assert!(!done.stdout.contains("hello"), "{done:?}");

    // Another cluster's.
    let other = Cluster::with(&["--no-hello", "--nodes", "1"]);
    let theirs = other.dir().join("operator");
    let mine = cluster.dir().join("operator");
    for file in std::fs::read_dir(&theirs).expect("a directory").flatten() {
        std::fs::copy(file.path(), mine.join(file.file_name())).expect("copies");
    }
    let done = by_certificate(&cluster, &file, &["ps"]);
    assert_eq!(done.code, 3, "{done:?}");
    assert!(done.stderr.contains("of cluster"), "{done:?}");
}

#[test]
fn an_operator_who_is_no_admin_is_told_so_with_exit_code_4() {
    let mut cluster = Cluster::with(&["--no-hello", "--nodes", "1"]);
    // The first operator's role is in the first record; passwords and users come later.
    cluster.kill_daemon("n1");
    let data = cluster.data_dir("n1");
    for name in ["state.db", "raft.db"] {
        for end in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(data.join(format!("{name}{end}")));
        }
    }
    let seed = data.join("node.json");
    let text = std::fs::read_to_string(&seed).expect("node.json");
    let changed = text.replace("\"role\": \"admin\"", "\"role\": \"user\"");
    assert_ne!(changed, text);
    std::fs::write(&seed, changed).expect("writes");
    cluster.start_daemon("n1");
    let gateway = cluster.node("n1")["gateway"].as_str().expect("a URL").to_owned();
    eventually("n1 is ready again", || {
        weft_tests::http_get(&format!("{gateway}/readyz"))
            .is_ok_and(|(s, _)| s == 200)
            .then_some(())
    });

    let file = cluster.without_socket();
    for args in [
        vec!["ps", "--json"],
        vec!["list", "--json"],
        vec!["node", "token", "--json"],
        vec!["node", "remove", "n1", "--force", "--yes", "--json"],
        vec!["actors", "restart", "registry@n1", "--json"],
        vec!["exec", "hello", "--json", "--", "true"],
        vec!["stats", "--json"],
        vec!["top", "--json"],
    ] {
        let done = by_certificate(&cluster, &file, &args);
        assert_eq!(done.code, 4, "{args:?}: {done:?}");
        let error: Value = serde_json::from_str(done.stderr.trim()).expect("JSON on stderr");
        assert_eq!(error["error"]["code"], "denied", "{error}");
        assert!(error["error"]["help"].as_str().is_some_and(|h| h.contains("whoami")), "{error}");
    }
    // Who one is may be asked by anybody.
    let who = by_certificate(&cluster, &file, &["whoami", "--json"]).ok().json();
    assert_eq!(who["role"], "user", "{who}");
    // The daemon's own user, on its machine, still may.
    cluster.weft(&["ps"]).ok();
}

/// A connection of the operator to a node.
async fn attach(cluster: &Cluster, node: &str) -> Client {
    let stored = operator_files(cluster).load().expect("an identity");
    let credentials = stored.credentials().expect("credentials");
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let trust = Trust::new(stored.own.cluster, stored.bundle, DenyList::new(), clock)
        .expect("a trust bundle");
    let address = cluster.node(node)["fabric"].as_str().and_then(|a| a.parse().ok());
    let within = Duration::from_secs(10);
    Client::connect(address.expect("ip:port"), &credentials, &trust, Expect::AnyNode, within)
        .await
        .expect("connects")
}

fn call() -> Call {
    Call::within(Duration::from_secs(10))
}

fn registry(target: Target) -> Address {
    Address { target, actor: ActorKind::Registry }
}

/// The audit of a node, asked through `client`.
async fn audit(client: &Client, node: &str) -> Vec<AuditRecord> {
    let question = QueryAudit { since: None, limit: 10_000 };
    client.ask(registry(Target::Named(node.into())), question, call()).await.expect("answers")
}

#[test]
fn every_request_is_recorded_once_where_it_enters_also_a_refused_one() {
    let cluster = Cluster::with(&["--nodes", "3"]);
    cluster.weft(&["--node", "n2", "restart", "hello"]).ok();
    // Somebody at the join door, with nothing to show.
    let used = cluster.json(&["--node", "n2", "node", "token", "--json"]);
    let token = used["token"].as_str().expect("a token").to_owned();
    for (name, good) in [("n8", true), ("n9", false)] {
        let data = cluster.scratch().join(name);
        let mut join = cluster.command(&["join", &token, "--name", name, "--bind", "127.0.0.1:0"]);
        let done = run(join.args(["--gateway", "127.0.0.1:0", "--data"]).arg(&data));
        assert_eq!(done.code == 0, good, "{done:?}");
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let n2 = attach(&cluster, "n2").await;
        // A person may not say what only nodes say, neither here nor through a node, whose own
        // right it would be.
        let to_n3 = Target::Named("n3".into());
        for target in [Target::Here, to_n3] {
            let refused = n2.ask(registry(target), RecordEvents { events: vec![] }, call()).await;
            assert!(matches!(refused, Err(AskError::Denied(_))), "{refused:?}");
        }
        let Identity::Operator(id) = operator_files(&cluster).load().expect("one").own.identity
        else {
            panic!("an operator's certificate")
        };
        let me = format!("operator/{id}");
        let mut seen = Vec::new();
        for _ in 0..300 {
            seen = audit(&n2, "n2").await;
            if seen.iter().filter(|r| r.method == "registry.record-events").count() >= 2 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let of = |records: &[AuditRecord], method: &str| -> Vec<AuditRecord> {
            records.iter().filter(|record| record.method == method).cloned().collect()
        };
        let denied = of(&seen, "registry.record-events");
        assert_eq!(denied.len(), 2, "{seen:#?}");
        for record in &denied {
            assert_eq!((record.outcome, &record.caller), (Outcome::Denied, &me), "{record:?}");
            assert!(!record.error.is_empty() && record.role == "admin", "{record:?}");
        }
        let restarts = of(&seen, "gateway.lifecycle");
        assert_eq!(restarts.len(), 1, "{seen:#?}");
        assert_eq!((restarts[0].outcome, &restarts[0].caller), (Outcome::Ok, &me));
        assert!(restarts[0].duration_us > 0);

        // n1, which applied it, and n3, which refused for n2, counted it and recorded nothing.
        let (one, three) = (audit(&n2, "n1").await, audit(&n2, "n3").await);
        for records in [&one, &three] {
            for method in ["gateway.lifecycle", "registry.record-events", "registry.query-audit"] {
                assert_eq!(of(records, method), [], "{method}");
            }
        }
        // Four joiners came in, at one door each: n2, n3, n8, and n9, whose token was used up.
        let all = [one, seen, three].concat();
        let joins = of(&all, "registry.join");
        let ended = |outcome: Outcome| joins.iter().filter(|r| r.outcome == outcome).count();
        assert_eq!((ended(Outcome::Ok), ended(Outcome::Failed)), (3, 1), "{joins:#?}");
        assert!(joins.iter().all(|record| !record.caller.starts_with("operator/")), "{joins:#?}");
        n2.close().await;
    });
}

#[test]
fn a_question_through_one_node_is_answered_by_another_in_the_name_of_who_asks() {
    let cluster = Cluster::with(&["--no-hello", "--nodes", "3"]);
    let id: NodeId = cluster.node_is("n1", "n3", "ready")["id"]
        .as_str()
        .and_then(|id| id.parse().ok())
        .expect("an id");
    tokio::runtime::Runtime::new().expect("a runtime").block_on(async {
        let n2 = attach(&cluster, "n2").await;
        assert_eq!(n2.hello().name, "n2");
        let by_id = Address::on(ActorKind::Gateway, id);
        let info = n2.ask(by_id, weft_protocol::DescribeNode {}, call()).await.expect("answers");
        assert_eq!((info.node.as_str(), info.role.as_str()), ("n3", "admin"));
        let Identity::Operator(me) = operator_files(&cluster).load().expect("one").own.identity
        else {
            panic!("an operator's certificate")
        };
        assert_eq!(info.caller, format!("operator/{me}"));
        n2.close().await;
    });
}

#[test]
fn a_removed_nodes_live_connections_close_within_five_seconds() {
    let cluster = Cluster::with(&["--nodes", "3"]);
    // Somebody follows n1's events through n3, over the live connection between the two.
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (n3, mut following) = runtime.block_on(async {
        let n3 = attach(&cluster, "n3").await;
        let all = FollowEvents { filter: EventFilter::default() };
        let following =
            n3.subscribe(registry(Target::Named("n1".into())), all, call()).await.expect("follows");
        (n3, following)
    });
    let first = runtime.block_on(following.next()).expect("an event").expect("an event");
    assert_eq!(first.node, "n1");

    let asked = SystemClock.now();
    cluster.weft(&["node", "remove", "n3", "--force", "--yes"]).ok();
    let within = Duration::from_secs(5);
    // Both others shut the door, each at its own end, and the live stream notices.
    for node in ["n1", "n2"] {
        eventually(&format!("{node} has closed its connection to n3"), || {
            let log = cluster.log(node);
            log.lines()
                .any(|line| line.contains("link down") && line.contains("peer=\"n3\""))
                .then_some(())
        });
        assert!(asked.elapsed() < within, "{node} took {:?}", asked.elapsed());
    }
    let left = within.saturating_sub(asked.elapsed());
    runtime.block_on(async {
        let ended = tokio::time::timeout(left, async {
            while let Some(item) = following.next().await {
                if let Err(error) = item {
                    return error;
                }
            }
            panic!("a stream that is cut off ends with an error, not well")
        });
        let error = ended.await.expect("the live stream ends within 5 s");
        assert!(matches!(error, AskError::Unreachable(_)), "{error:?}");
        n3.close().await;
    });
    // Nobody lists it, and its certificate opens nothing.
    let list = cluster.json(&["node", "list", "--json"]);
    assert_eq!(list.as_array().map(Vec::len), Some(2), "{list}");
}

#[test]
fn keys_are_nobody_elses_to_read_and_an_open_one_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let cluster = Cluster::with(&["--no-hello", "--nodes", "1"]);
    let mode = |path: &Path| std::fs::metadata(path).expect("a file").permissions().mode() & 0o777;
    let files = IdentityFiles::node(&cluster.data_dir("n1"));
    for path in [files.key_path(), files.ca_key_path(), operator_files(&cluster).key_path()] {
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    cluster.kill_daemon("n1");
    let open = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(files.key_path(), open).expect("chmod");
    let done = weft_tests::ends(&mut cluster.weftd("n1"));
    assert_ne!(done.code, 0, "{done:?}");
    let key = files.key_path().display().to_string();
    assert!(done.stderr.contains(&key) && done.stderr.contains("600"), "{done:?}");
}
