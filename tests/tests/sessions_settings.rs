//! Settings of MACP sessions that end the daemon before it serves anybody.

use std::fs;
use std::path::Path;
use std::process::Command;

use weft_tests::{Done, bin_dir, ends};

/// `weftd run --session-only` with these variables, and no others of its own.
fn sessions_only(variables: &[(&str, &str)]) -> Done {
    let mut command = Command::new(bin_dir().join("weftd"));
    command.args(["run", "--session-only"]);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MACP_")) {
        command.env_remove(name);
    }
    ends(command.envs(variables.iter().copied()))
}

fn policy(dir: &Path, name: &str, id: &str, rules: &str) {
    let text = format!(
        r#"{{"policy_id":"{id}","mode":"macp.mode.decision.v1","schema_version":3,"rules":{rules}}}"#
    );
    fs::write(dir.join(name), text).expect("writes");
}

#[test]
fn a_dry_run_says_which_policies_are_right_and_a_wrong_one_ends_the_start() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().to_str().expect("UTF-8");
    policy(dir.path(), "a.json", "policy.a", r#"{"voting":{"algorithm":"majority"}}"#);
    let check = || sessions_only(&[("MACP_POLICIES_DRY_RUN", "1"), ("MACP_POLICIES_DIR", path)]);
    let done = check();
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.stdout.contains("OK ") && done.stdout.contains("(policy.a)"), "{done:?}");

    policy(dir.path(), "b.json", "policy.b", r#"{"voting":{"algorithm":"most"}}"#);
    policy(dir.path(), "c.json", "policy.c", "{}");
    let done = check();
    assert_eq!(done.code, 1, "{done:?}");
    assert!(done.stdout.contains("3 checked, 1 rejected"), "{done:?}");
    let rejected = done.stdout.lines().find(|line| line.starts_with("REJECTED "));
    assert!(rejected.is_some_and(|line| line.contains("b.json: INVALID_POLICY")), "{done:?}");

    let done = sessions_only(&[
        ("MACP_ALLOW_INSECURE", "1"),
        ("MACP_MEMORY_ONLY", "1"),
        ("MACP_BIND_ADDR", "127.0.0.1:0"),
        ("MACP_POLICIES_DIR", path),
    ]);
    assert_ne!(done.code, 0, "{done:?}");
    assert!(
        done.stderr.contains("MACP_POLICIES_DIR") && done.stderr.contains("b.json"),
        "{done:?}"
    );
}

#[test]
fn keys_that_cannot_be_used_end_the_start_and_are_not_shown() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let key = dir.path().join("key.pem");
    fs::write(&key, "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n")
        .expect("writes");
    let key = key.to_str().expect("UTF-8");
    let common = [
        ("MACP_ALLOW_INSECURE", "1"),
        ("MACP_MEMORY_ONLY", "1"),
        ("MACP_BIND_ADDR", "127.0.0.1:0"),
        ("MACP_RUNTIME_ID", "here"),
    ];
    let with = |more: &[(&str, &str)]| sessions_only(&[common.as_slice(), more].concat());
    for (more, named) in [
        (vec![("MACP_AUTH_ISSUER", "i")], "MACP_AUTH_JWKS_URL"),
        (vec![("MACP_AUTH_ISSUER", "i"), ("MACP_AUTH_JWKS_JSON", "{}")], "MACP_AUTH_JWKS_JSON"),
        (vec![("MACP_AUTH_ISSUER", "i"), ("MACP_AUTH_JWKS_URL", "ftp://k")], "ftp://k"),
        (
            vec![("MACP_RECEIPT_SIGNING_KEY_PATH", key), ("MACP_RECEIPT_SIGNING_KID", "k")],
            "key.pem",
        ),
        (
            vec![("MACP_RECEIPT_SIGNING_KEY", "c2VjcmV0"), ("MACP_RECEIPT_SIGNING_KID", "k")],
            "MACP_RECEIPT_SIGNING_KEY",
        ),
    ] {
        let done = with(&more);
        assert_ne!(done.code, 0, "{done:?}");
        assert!(done.stderr.contains(named) && !done.stderr.contains("c2VjcmV0"), "{done:?}");
    }
}
