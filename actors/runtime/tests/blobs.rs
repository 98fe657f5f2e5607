//! Blobs of a runtime: what is asked of it, and which of them it removes by itself.

use std::time::Duration;

use weft_link::Reply;
use weft_protocol::{
    EnsureBlobs, HaveBlobs, Octets, PutBlobPart, ReadBlobPart, ReadBlobRefs, ShippedFile,
};
use weft_runtime::{RuntimeConfig, factory};
use weft_supervision::testing::{self, TestTree};
use weft_supervision::{Actor, ActorError, Handle, Incarnation, Routes, Scope};
use weft_wire::{ActorKind, AskError, FailureKind};

/// SHA-256 of `used` and of `unused`.
const USED: &str = "f839161355091fcd9e33f571e0b11c60217a5009f9973e769c13d7858db162cc";
const UNUSED: &str = "febe1d741b49e5a9c31526728d8c5134a803adfc4c04c4f052673722ed85597e";

/// Says which blobs are in use; `None`: that it does not know.
struct Registry(Option<Vec<String>>);

impl Actor for Registry {
    fn routes(routes: &mut Routes<Self>) {
        routes.ask::<ReadBlobRefs>();
    }
}

impl Handle<ReadBlobRefs> for Registry {
    fn handle(&mut self, _: ReadBlobRefs, reply: Reply<ReadBlobRefs>, _: &Scope<Self>) {
        match &self.0 {
            Some(used) => reply.ok(used.clone()),
            None => reply.fail(weft_wire::Failure::new(FailureKind::Unavailable, "not known")),
        }
    }
}

fn runtime(used: Option<Vec<String>>, test: impl AsyncFnOnce(&TestTree)) {
    let dir = tempfile::tempdir().expect("temp dir");
    let mut config = RuntimeConfig::new(dir.path(), "n1", "/bin/true");
    config.blob_sweep = Duration::from_millis(20);
    config.blob_grace = Duration::from_millis(60);
    testing::run(async |tree| {
        tree.add(ActorKind::Registry, move |_: Incarnation| {
            let registry = Registry(used.clone());
            async move { Ok::<_, ActorError>(registry) }
        })
        .await;
        tree.add(ActorKind::Runtime, factory(config)).await;
        test(&tree).await;
    });
}

async fn put(tree: &TestTree, content: &[u8], digest: &str) {
    let part = Octets(content.to_vec());
    let size = content.len() as u64;
    let message = PutBlobPart { digest: digest.into(), size, offset: 0, part };
    assert!(tree.ask(message).await.expect("takes").complete);
}

async fn has(tree: &TestTree, digest: &str) -> bool {
    // Asking for a part is no sign that somebody is about to use it.
    let question = ReadBlobPart { digest: digest.into(), offset: 0, length: 1 };
    tree.ask(question).await.is_ok()
}

#[test]
fn a_blob_that_no_kept_revision_refers_to_is_removed_and_the_others_stay() {
    runtime(Some(vec![USED.into()]), async |tree| {
        put(tree, b"used", USED).await;
        put(tree, b"unused", UNUSED).await;
        for _ in 0..1000 {
            if !has(tree, UNUSED).await {
                assert!(has(tree, USED).await);
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it stays");
    });
}

#[test]
fn nothing_is_removed_while_nobody_knows_what_is_in_use() {
    runtime(None, async |tree| {
        put(tree, b"unused", UNUSED).await;
        // Ten times the grace: there is nothing else to wait for.
        for _ in 0..60 {
            assert!(has(tree, UNUSED).await);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
}

#[test]
fn a_blob_that_is_nowhere_is_refused_with_its_file_and_digest_and_what_to_do() {
    runtime(Some(Vec::new()), async |tree| {
        let file =
            ShippedFile { path: "./run".into(), mode: 0o755, size: 4, digest: USED.to_owned() };
        let answer = tree.ask(EnsureBlobs { files: vec![file] }).await;
        let Err(AskError::Failed(failure)) = answer else { panic!("{answer:?}") };
        assert_eq!(failure.kind, FailureKind::Unavailable);
        for says in ["./run", USED, "deploy again from where the file is"] {
            assert!(failure.message.contains(says), "{failure}");
        }
        let have = tree.ask(HaveBlobs { digests: vec![USED.into()] }).await;
        assert_eq!(have.expect("answers"), Vec::<String>::new());
    });
}
