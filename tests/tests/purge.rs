//! Forgetting services that are undeployed, and their data (orchestration §7, `purge`).

use std::path::PathBuf;

use weft_tests::{Cluster, Done, bin_dir, eventually, run};

fn service(cluster: &Cluster, name: &str) -> PathBuf {
    let path = cluster.scratch().join(format!("{name}.toml"));
    let text = format!(
        "name = \"{name}\"\nreplicas = 2\n\n[[components]]\nname = \"api\"\ncmd = [\"{}\"]\n\n[[components.routes]]\nport = 443\n",
        bin_dir().join("hello").display()
    );
    std::fs::write(&path, text).expect("writes");
    path
}

#[test]
fn a_service_is_purged_when_it_is_undeployed_and_nobody_claims_it() {
    let cluster = Cluster::with(&["--no-hello", "--nodes", "2"]);
    let dir = cluster.scratch().join("services");
    std::fs::create_dir(&dir).expect("a directory");
    let weft =
        |args: &[&str]| -> Done { run(cluster.command(args).env("WEFT_SERVICES_DIR", &dir)) };
    for name in ["web", "old"] {
        let file = service(&cluster, name);
        weft(&["deploy", "-f", file.to_str().expect("a path")]).ok();
    }
    let local = cluster.scratch().join("a.txt");
    std::fs::write(&local, "kept").expect("writes");
    weft(&["push", local.to_str().expect("a path"), "web"]).ok();
    let data = |node: &str| cluster.data_dir(node).join("services/web");
    let with_data = || ["n1", "n2"].iter().filter(|node| data(node).exists()).count();
    assert_eq!(with_data(), 2);

    let refused = weft(&["purge", "web", "--yes"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("weft undeploy web"), "{refused:?}");
    assert!(weft(&["purge"]).ok().stdout.contains("nothing to purge"));

    weft(&["undeploy", "web", "--yes"]).ok();
    // A definition file claims it.
    std::fs::copy(cluster.scratch().join("web.toml"), dir.join("web.toml")).expect("copied");
    let claimed = weft(&["purge", "web", "--yes"]);
    assert_eq!(claimed.code, 1, "{claimed:?}");
    assert!(claimed.stderr.contains("web.toml"), "{claimed:?}");
    assert!(weft(&["purge", "--yes"]).ok().stderr.contains("web: kept"));
    std::fs::remove_file(dir.join("web.toml")).expect("removed");

    // Not without being asked, and a dry run changes nothing.
    assert_eq!(weft(&["purge", "web"]).code, 2);
    let would = weft(&["purge", "--data", "--dry-run", "--json"]).ok().json();
    assert_eq!(would[0]["data"].as_array().map(Vec::len), Some(2), "{would}");
    assert_eq!((with_data(), would[0]["purged"].as_bool()), (2, Some(false)));

    let done = weft(&["purge", "web", "--data", "--yes", "--json"]).ok().json();
    assert_eq!(
        (done[0]["service"].as_str(), done[0]["purged"].as_bool()),
        (Some("web"), Some(true))
    );
    assert_eq!(with_data(), 0);
    assert_eq!(weft(&["history", "web"]).code, 1);
    assert_eq!(weft(&["purge", "web", "--yes"]).code, 1, "there is nothing left");

    // Another one of that name begins anew, and runs.
    let file = cluster.scratch().join("web.toml");
    weft(&["deploy", "-f", file.to_str().expect("a path")]).ok();
    eventually("the new one runs", || {
        let rows = weft(&["ps", "--json"]).ok().json();
        let rows = rows.as_array().cloned().unwrap_or_default();
        let running = |name: &str| {
            rows.iter().filter(|row| row["service"] == name && row["state"] == "running").count()
        };
        (running("web") == 2 && running("old") == 2).then_some(())
    });
    // Data stays unless it is asked for.
    weft(&["undeploy", "old", "--yes"]).ok();
    weft(&["purge", "old", "--yes"]).ok();
    assert!(!weft(&["list", "--json"]).ok().stdout.contains("\"old\""));
}
