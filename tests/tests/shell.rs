//! What helps at the prompt: completion in a real shell, and the state of nodes.

use std::process::Command;

use weft_tests::{Cluster, bin_dir, eventually, lacks, run};

/// What bash offers for the last of the words.
fn offered(cluster: &Cluster, words: &[&str]) -> Vec<String> {
    let script = "set -u; source <(weft completions bash); COMP_WORDS=(\"$@\"); \
        COMP_CWORD=$(($# - 1)); COMP_TYPE=9; _clap_complete_weft weft \"${!#}\" \"\"; \
        printf '%s\\n' \"${COMPREPLY[@]}\"";
    let path = format!("{}:{}", bin_dir().display(), std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("bash");
    command.args(["-c", script, "bash", "weft"]).args(words);
    command.env("PATH", path).env("WEFT_CONFIG", cluster.context());
    let done = run(&mut command).ok();
    done.stdout.lines().map(|line| line.trim().to_owned()).filter(|l| !l.is_empty()).collect()
}

#[test]
fn bash_completes_commands_options_and_the_names_of_what_is_there() {
    if lacks("bash") {
        return;
    }
    let cluster = Cluster::with(&["--nodes", "2"]);
    assert_eq!(offered(&cluster, &["undepl"]), ["undeploy"]);
    assert!(offered(&cluster, &["ps", "--cons"]).contains(&"--consistent".to_owned()));
    // Names come within a second, or not at all: a busy machine is asked again.
    let names = |words: &[&str], expected: &[&str]| {
        eventually(&format!("{words:?} offers {expected:?}"), || {
            (offered(&cluster, words) == expected).then_some(())
        });
    };
    eventually("services are offered", || {
        (offered(&cluster, &["stop", ""]).first()? == "hello").then_some(())
    });
    names(&["logs", "hello/"], &["hello/hello"]);
    assert_eq!(offered(&cluster, &["stop", "nothing"]), Vec::<String>::new());
    names(&["node", "drain", "n"], &["n1", "n2"]);
    names(&["--node", "n"], &["n1", "n2"]);
    names(&["--node", "n2", "node", "status", "n1"], &["n1"]);
}

#[test]
fn the_state_of_a_node_has_its_machine_its_engine_and_its_links() {
    let mut cluster = Cluster::with(&["--no-hello", "--nodes", "2"]);
    cluster.node_is("n1", "n2", "ready");
    let all = cluster.json(&["node", "status", "--json"]);
    let all = all.as_array().expect("a list");
    assert_eq!(all.len(), 2);
    for node in all {
        assert!(node["cores"].as_u64() > Some(0), "{node}");
        assert!(node["memory_total"].as_u64() > node["daemon_memory"].as_u64(), "{node}");
        assert!(node["disk_free"].as_u64() > Some(0) && node["runtime"].is_string(), "{node}");
        assert_eq!(node["format"], node["agreed_format"]);
        let peers = node["peers"].as_array().expect("peers");
        assert!(peers.len() == 1 && peers[0]["up"] == true && peers[0]["rtt_us"].is_u64());
    }
    let text = cluster.weft(&["node", "status", "n2"]).ok().stdout;
    for word in ["n2: ready", "cpu", "memory", "disk", "runtime", "peers       n1"] {
        assert!(text.contains(word), "{word} in {text}");
    }
    let unknown = cluster.weft(&["node", "status", "n9"]);
    assert_eq!(unknown.code, 1, "{unknown:?}");
    assert!(unknown.stderr.contains("the nodes are n1, n2"), "{unknown:?}");
    // What only the node knows is not known while it is away.
    cluster.kill_daemon("n2");
    let gone = cluster.json(&["--node", "n1", "node", "status", "n2", "--json"]);
    assert!(gone[0]["cores"].is_null() && gone[0]["name"] == "n2", "{gone}");
    cluster.start_daemon("n2");
}
