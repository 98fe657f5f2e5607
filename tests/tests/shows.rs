//! What the README lets a reader do by hand, done by a test.

use std::time::Duration;

use serde_json::Value;
use weft_tests::{Cluster, bin_dir, eventually, kill_9};
use weft_wire::{Clock, SystemClock};

/// The promise is 5 s; debug builds on a busy machine are given three times that.
const TAKEN_OVER: Duration = Duration::from_secs(15);

fn definition(service: &str, comment: &str) -> String {
    let program = bin_dir().join("hello");
    format!(
        "name = \"{service}\"\ncomment = \"{comment}\"\n\n[[components]]\nname = \"{service}\"\n\
         cmd = [\"{}\"]\nstop_grace = \"2s\"\n\n[[components.routes]]\nport = 443\n",
        program.display()
    )
}

#[test]
fn up_with_five_nodes_and_the_leaders_daemon_killed_another_deploys_and_no_revision_is_missing() {
    let mut cluster = Cluster::with(&["--no-hello", "--nodes", "5"]);
    let leader = eventually("five follow a leader", || {
        let status: Value =
            serde_json::from_str(&cluster.weft(&["cluster", "status", "--json"]).stdout).ok()?;
        let voters = status["groups"][0]["voters"].as_array()?.len();
        (voters == 5).then(|| status["leader"].as_str().map(str::to_owned))?
    });
    let others: Vec<String> =
        (1..=5).map(|n| format!("n{n}")).filter(|name| *name != leader).collect();
    // Acknowledged one after the other, through every node that lives.
    let mut acknowledged: Vec<(String, u64)> = Vec::new();
    for (at, through) in others.iter().cycle().take(12).enumerate() {
        let name = format!("s{}", at % 3);
        let file = cluster.definition(&name, &definition(&name, &format!("write {at}")));
        cluster.weft(&["--node", through, "deploy", "-f", &file, "--no-wait", "--if-changed"]).ok();
        acknowledged.retain(|(of, _)| *of != name);
        acknowledged.push((name, at as u64 / 3 + 1));
    }

    let daemon = cluster.daemon_pid(&leader);
    let file = cluster.definition("after", &definition("after", ""));
    kill_9(daemon);
    let start = SystemClock.now();
    cluster.weft(&["--node", &others[3], "deploy", "-f", &file]).ok();
    let took = start.elapsed();
    eprintln!("measured: 5 nodes of `up`, leader killed: deployed after {} ms", took.as_millis());
    assert!(took < TAKEN_OVER, "{took:?}");

    acknowledged.push(("after".to_owned(), 1));
    for through in &others {
        eventually(&format!("{through} has every revision"), || {
            let done = cluster.weft(&["--node", through, "list", "--json"]);
            let rows: Value = serde_json::from_str(&done.stdout).ok()?;
            let rows = rows.as_array()?;
            let has = |(name, revision): &(String, u64)| {
                let row = rows.iter().find(|row| row["service"] == name.as_str());
                row.is_some_and(|row| row["revision"].as_u64() == Some(*revision))
            };
            acknowledged.iter().all(has).then_some(())
        });
    }
    cluster.start_daemon(&leader);
    cluster.node_is(&others[0], &leader, "ready");
}
