//! Bytes on the wire and in files, decoders against anything, and the pure pieces.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;
use weft_wire::{Message, NodeId, codec};

use super::propose::{Batch, ENTRY_BYTES, ENTRY_COMMANDS};
use super::voters;
use super::wire::*;

fn node(n: u128) -> NodeId {
    NodeId::new(Uuid::from_u128(n))
}

fn point(index: u64) -> Point {
    Point { term: 3, leader: node(1), index }
}

fn ballot() -> Ballot {
    Ballot { term: 300, node: node(2), elected: true }
}

fn commands(of: &[&[u8]]) -> Payload {
    Payload::Commands(Commands::new(of.iter().map(|bytes| bytes.to_vec()).collect()))
}

fn members() -> Members {
    Members {
        configs: vec![vec![node(1), node(2)], vec![node(2)]],
        nodes: vec![node(1), node(2), node(3)],
    }
}

fn items() -> Vec<Item> {
    vec![
        Item { at: point(7), payload: Payload::Blank },
        Item { at: point(8), payload: commands(&[b"one", b"", &[0xff; 3]]) },
        Item { at: point(9), payload: Payload::Members(members()) },
    ]
}

fn image_meta() -> ImageMeta {
    ImageMeta {
        last: Some(point(9)),
        members_at: Some(point(4)),
        members: members(),
        id: "3-9-1".into(),
    }
}

/// One line a value; what was encoded must also decode to the same bytes.
fn line<T: Serialize + DeserializeOwned>(out: &mut String, name: &str, value: &T) {
    let bytes = codec::encode(value).expect("encodes");
    let back: T = codec::decode(&bytes).expect("decodes");
    assert_eq!(codec::encode(&back).expect("encodes"), bytes, "{name}");
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    writeln!(out, "{name} {hex}").expect("a string");
}

fn message<M: Message>(out: &mut String, message: &M) {
    line(out, &format!("{} {} v{}", M::ID, M::NAME, M::VERSION), message);
}

#[test]
fn the_bytes_of_messages_and_stored_entries_are_as_they_were() {
    let mut out = String::new();
    let group = || "control".to_owned();
    message(&mut out, &AskVote { group: group(), vote: ballot(), last: Some(point(6)) });
    line(&mut out, "answer", &VoteAnswer { vote: ballot(), granted: true, last: None });
    message(&mut out, &AskSupport { group: group(), candidate: node(2), last: Some(point(6)) });
    message(
        &mut out,
        &Append {
            group: group(),
            vote: ballot(),
            prev: Some(point(6)),
            items: items(),
            committed: None,
        },
    );
    let beat = Append {
        group: group(),
        vote: ballot(),
        prev: Some(point(6)),
        items: Vec::new(),
        committed: Some(point(6)),
    };
    message(&mut out, &Beats { beats: vec![beat] });
    line(&mut out, "answers", &vec![Some(AppendAnswer::Taken), None]);
    message(&mut out, &AskHead { group: group() });
    line(&mut out, "answer taken", &AppendAnswer::Taken);
    line(&mut out, "answer partly", &AppendAnswer::Partly(Some(point(8))));
    line(&mut out, "answer conflict", &AppendAnswer::Conflict);
    line(&mut out, "answer outvoted", &AppendAnswer::Outvoted(ballot()));
    message(
        &mut out,
        &Install {
            group: group(),
            vote: ballot(),
            meta: image_meta(),
            offset: 1 << 20,
            data: Blob(vec![7, 0, 1]),
            done: true,
        },
    );
    line(&mut out, "answer taken", &InstallAnswer::Taken(ballot()));
    let (expected_id, id) = ("a".into(), "b".into());
    let mismatch = InstallAnswer::Mismatch { expected_id, expected_offset: 1, id, offset: 2 };
    line(&mut out, "answer mismatch", &mismatch);
    for (name, bytes) in [
        ("stored blank", store_item(&items()[0])),
        ("stored commands", store_item(&items()[1])),
        ("stored members", store_item(&items()[2])),
        ("stored vote", store(&ballot())),
        ("stored point", store(&point(9))),
        ("stored image", store(&image_meta())),
    ] {
        let bytes = bytes.expect("encodes");
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(out, "{name} {hex}").expect("a string");
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/consensus.txt");
    if std::env::var_os("WEFT_UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &out).expect("writes the golden file");
    }
    let expected = std::fs::read_to_string(path).expect("the golden file");
    assert_eq!(out, expected, "the bytes changed: that needs a new version beside the old one");
}

#[test]
fn what_was_stored_loads_and_another_layout_is_refused_by_number() {
    for item in items() {
        let mut bytes = store_item(&item).expect("encodes");
        assert_eq!(load_item(&bytes).expect("loads"), item);
        bytes[0] = 2;
        let error = load_item(&bytes).expect_err("another layout");
        assert!(error.to_string().contains("layout 2"), "{error}");
    }
    assert!(load_item(&[]).is_err());
    let mut bytes = store(&point(9)).expect("encodes");
    assert_eq!(load::<Point>(&bytes).expect("loads"), point(9));
    bytes[0] = 2;
    assert!(load::<Point>(&bytes).expect_err("another").to_string().contains("layout 2"));
}

#[test]
fn an_entry_of_which_a_bit_has_changed_is_never_taken_for_what_was_written() {
    let item = &items()[1];
    let bytes = store_item(item).expect("encodes");
    assert_eq!(load_item(&bytes).as_ref(), Ok(item));
    for at in 0..bytes.len() * 8 {
        let mut bytes = bytes.clone();
        bytes[at / 8] ^= 1 << (at % 8);
        match load_item(&bytes) {
            Err(_) => {}
            Ok(Item { at: place, payload: Payload::Commands(commands) }) => {
                assert!(commands.is_damaged && place == item.at, "bit {at}");
            }
            Ok(other) => panic!("bit {at}: {other:?}"),
        }
    }
}

#[test]
fn a_command_of_a_terabyte_is_an_error_not_an_abort() {
    let mut bytes = codec::encode(&(1u64, 1u64 << 40)).expect("encodes");
    assert!(codec::decode::<Commands>(&bytes).is_err());
    bytes.remove(0);
    assert!(codec::decode::<Commands>(&bytes).is_err());
    assert!(codec::decode::<Blob>(&bytes).is_err());
}

fn nodes() -> impl Strategy<Value = BTreeSet<NodeId>> {
    proptest::collection::btree_set(1u128..8, 0..6)
        .prop_map(|set| set.into_iter().map(node).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = codec::decode::<AskVote>(&bytes);
        let _ = codec::decode::<VoteAnswer>(&bytes);
        let _ = codec::decode::<AskSupport>(&bytes);
        let _ = codec::decode::<Beats>(&bytes);
        let _ = codec::decode::<AskHead>(&bytes);
        let _ = codec::decode::<Append>(&bytes);
        let _ = codec::decode::<AppendAnswer>(&bytes);
        let _ = codec::decode::<Install>(&bytes);
        let _ = codec::decode::<InstallAnswer>(&bytes);
        let _ = load::<Item>(&bytes);
        let _ = load::<Ballot>(&bytes);
        let _ = load::<Point>(&bytes);
        let _ = load::<ImageMeta>(&bytes);
    }

    #[test]
    fn damaged_messages_never_panic(at in 0usize..400, to: u8) {
        let append = Append {
            group: "control".into(),
            vote: ballot(),
            prev: None,
            items: items(),
            committed: Some(point(1)),
        };
        let mut bytes = codec::encode(&append).expect("encodes");
        let at = at % bytes.len();
        bytes[at] = to;
        let _ = codec::decode::<Append>(&bytes);
        bytes.truncate(at);
        prop_assert!(codec::decode::<Append>(&bytes).is_err());
    }

    /// More than half of each set alive, and nothing else, lets a change of voters through.
    #[test]
    fn voters_change_only_with_living_majorities(
        old in nodes(), new in nodes(), learners in nodes(), live in nodes(),
    ) {
        let configs = [old.clone()];
        let lives = |set: &BTreeSet<NodeId>| {
            set.iter().filter(|id| live.contains(id)).count() * 2 > set.len()
        };
        let sound = !new.is_empty() && new.is_disjoint(&learners);
        let checked = voters::check(&configs, &new, &learners, &live);
        prop_assert_eq!(checked.is_ok(), sound && lives(&old) && lives(&new), "{:?}", checked);
    }

    /// Nothing is lost or reordered, and no entry is over its bounds unless one command is.
    #[test]
    fn batches_keep_order_and_bounds(
        sizes in proptest::collection::vec(
            prop_oneof![8 => 0usize..2000, 2 => 0..ENTRY_BYTES, 1 => ENTRY_BYTES..2 * ENTRY_BYTES],
            1..3000,
        ),
    ) {
        let mut waiting = sizes.iter().copied().enumerate().peekable();
        let mut next = 0;
        while let Some((n, size)) = waiting.next() {
            let mut batch = Batch::new((n, size), size);
            while let Some((n, size)) = waiting.peek().copied() {
                if batch.add((n, size), size).is_some() {
                    break;
                }
                waiting.next();
            }
            let items = batch.into_items();
            let bytes: usize = items.iter().map(|(_, size)| size).sum();
            prop_assert!(items.len() <= ENTRY_COMMANDS);
            prop_assert!(bytes <= ENTRY_BYTES || items.len() == 1);
            for (n, _) in items {
                prop_assert_eq!(n, next);
                next += 1;
            }
        }
        prop_assert_eq!(next, sizes.len());
    }
}
