//! Identity directories: what is written, and what is refused when it is read.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use weft_wire::Identity;

use super::{NOW, World, bundle, cluster, node, operator};
use crate::{IdentityError, IdentityFiles, PrivateKey, Subject, Validity, write_private};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("metadata").permissions().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("chmod");
}

/// A node's directory with everything in it.
fn complete(data: &Path, world: &World) -> IdentityFiles {
    let files = IdentityFiles::node(data);
    let key = files.key_or_create().expect("key");
    files.save_certificate(&world.issue(&key, Identity::Node(node(1)))).expect("certificate");
    files.save_bundle(&bundle(&[&world.ca])).expect("bundle");
    files.save_ca(&world.ca).expect("ca");
    files
}

#[test]
fn an_identity_directory_reads_back() {
    let (data, world) = (tempfile::tempdir().expect("directory"), World::new(cluster(1)));
    let files = complete(data.path(), &world);
    assert!(files.has_certificate() && files.has_ca());
    let stored = files.load().expect("loads");
    assert_eq!(stored.own.identity, Identity::Node(node(1)));
    assert_eq!(stored.own.cluster, cluster(1));
    assert_eq!(stored.bundle, bundle(&[&world.ca]));
    assert!(stored.credentials().is_ok());
    assert_eq!(files.load_ca().expect("ca").fingerprint(), world.ca.fingerprint());
    assert_eq!(
        files.key_or_create().expect("key").public_key_fingerprint(),
        stored.own.public_key_fingerprint,
        "a second start keeps the key"
    );
    assert_eq!(mode(&files.key_path()), 0o600);
    assert_eq!(mode(&files.ca_key_path()), 0o600);
    assert_eq!(mode(files.directory()), 0o700);
    let names: Vec<_> = fs::read_dir(files.directory())
        .expect("directory")
        .map(|entry| entry.expect("entry").file_name().into_string().expect("name"))
        .collect();
    assert_eq!(names.len(), 5, "nothing temporary is left: {names:?}");
}

#[test]
fn a_reloaded_ca_issues_what_the_bundle_believes() {
    let (data, world) = (tempfile::tempdir().expect("directory"), World::new(cluster(1)));
    let ca = complete(data.path(), &world).load_ca().expect("ca");
    let key = PrivateKey::generate().expect("key");
    let subject = Subject { cluster: cluster(1), identity: operator(1) };
    let chain =
        ca.sign_csr(&key.csr().expect("csr"), &subject, Validity::operator(NOW)).expect("issued");
    assert_eq!(world.trust.admit(&chain.leaf, NOW).expect("admitted").identity, operator(1));
}

#[test]
fn an_operator_context_reads_back_from_its_own_names() {
    let (context, world) = (tempfile::tempdir().expect("directory"), World::new(cluster(1)));
    let files = IdentityFiles::operator(context.path());
    let error = files.load().expect_err("nothing there yet");
    assert!(error.to_string().contains("operator.key") && error.to_string().contains("weft login"));
    let key = files.key_or_create().expect("key");
    files.save_certificate(&world.issue(&key, operator(1))).expect("certificate");
    files.save_bundle(&bundle(&[&world.ca])).expect("bundle");
    assert_eq!(files.load().expect("loads").own.identity, operator(1));
    for name in ["operator.key", "operator.crt", "bundle.pem"] {
        assert!(context.path().join(name).is_file(), "{name}");
    }
}

#[test]
fn a_key_that_others_may_read_is_refused_by_name() {
    let (data, world) = (tempfile::tempdir().expect("directory"), World::new(cluster(1)));
    let files = complete(data.path(), &world);
    for bad in [0o640, 0o604, 0o660, 0o644, 0o620] {
        set_mode(&files.key_path(), bad);
        let error = files.load().expect_err("refused");
        assert!(matches!(error, IdentityError::TooOpen { mode, .. } if mode == bad));
        let text = error.to_string();
        assert!(text.contains("node.key") && text.contains(&format!("{bad:04o}")), "{text}");
        assert!(files.key_or_create().is_err(), "and it is not replaced");

        set_mode(&files.ca_key_path(), bad);
        let error = files.load_ca().expect_err("refused");
        assert!(matches!(error, IdentityError::TooOpen { .. }));
        assert!(error.to_string().contains("ca.key"));
    }
    set_mode(&files.key_path(), 0o400);
    files.load().expect("read-only for the owner is fine");
}

#[test]
fn a_key_of_another_certificate_is_noticed() {
    let (data, world) = (tempfile::tempdir().expect("directory"), World::new(cluster(1)));
    let files = complete(data.path(), &world);
    let other = PrivateKey::generate().expect("key");
    let foreign = world.issue(&other, Identity::Node(node(1)));
    assert!(matches!(files.save_certificate(&foreign), Err(IdentityError::KeyMismatch { .. })));
    files.load().expect("the old certificate is still there");

    for path in [files.key_path(), files.ca_key_path()] {
        write_private(&path, other.to_pem().as_bytes()).expect("written");
    }
    for error in [files.load().map(drop), files.load_ca().map(drop)] {
        let error = error.expect_err("refused");
        assert!(matches!(error, IdentityError::KeyMismatch { .. }));
        let text = error.to_string();
        assert!(text.contains(".key") && text.contains(".crt"), "{text}");
    }
}

#[test]
fn a_damaged_or_missing_file_is_named() {
    let world = World::new(cluster(1));
    for name in ["node.key", "node.crt", "bundle.pem"] {
        let data = tempfile::tempdir().expect("directory");
        let files = complete(data.path(), &world);
        let path = files.directory().join(name);
        for damage in [b"".as_slice(), b"nonsense", b"\xff\xfe", b"-----BEGIN PRIVATE KEY-----\n"] {
            write_private(&path, damage).expect("written");
            let text = files.load().expect_err("refused").to_string();
            assert!(text.contains(name), "{text}");
        }
        fs::remove_file(&path).expect("removed");
        let error = files.load().expect_err("refused");
        assert!(matches!(error, IdentityError::Missing { .. }));
        assert!(error.to_string().contains(name) && error.to_string().contains("weft join"));
    }
}

#[test]
fn an_issuing_key_is_never_overwritten() {
    let (data, world) = (tempfile::tempdir().expect("directory"), World::new(cluster(1)));
    let files = complete(data.path(), &world);
    let other = World::new(cluster(1)).ca;
    assert!(matches!(files.save_ca(&other), Err(IdentityError::AlreadyThere { .. })));
    assert_eq!(files.load_ca().expect("ca").fingerprint(), world.ca.fingerprint());
}

#[test]
fn a_failed_write_leaves_the_old_file_and_names_it() {
    let data = tempfile::tempdir().expect("directory");
    let file = data.path().join("plain");
    fs::write(&file, "old").expect("written");
    let below = file.join("node.key");
    let error = write_private(&below, b"new").expect_err("a file is not a directory");
    assert!(error.to_string().contains("node.key"), "{error}");
    assert_eq!(fs::read_to_string(&file).expect("read"), "old");
    // A directory in the way of the rename.
    let target = data.path().join("taken");
    fs::create_dir(&target).expect("directory");
    assert!(write_private(&target, b"new").is_err());
    let left: Vec<_> = fs::read_dir(data.path()).expect("directory").collect();
    assert_eq!(left.len(), 2, "the temporary file is gone: {left:?}");
}
