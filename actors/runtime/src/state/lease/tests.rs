//! The book by example, then under any order of what happens: a lease never lasts longer than
//! from when its request was sent, and what was given back stays given back.

use proptest::prelude::*;
use uuid::Uuid;

use super::*;

fn db() -> ReplicaKey {
    ReplicaKey { service: "db".into(), replica: 1 }
}

fn part(component: &str) -> ComponentKey {
    ComponentKey { service: "db".into(), replica: 1, component: component.into() }
}

fn leader(n: u128) -> Option<NodeId> {
    Some(NodeId::new(Uuid::from_u128(n)))
}

fn wanted(generation: u64) -> BTreeMap<ReplicaKey, u64> {
    BTreeMap::from([(db(), generation)])
}

fn granted() -> Vec<LeaseAnswer> {
    vec![LeaseAnswer { replica: db(), refused: None }]
}

fn refused(why: &str) -> Vec<LeaseAnswer> {
    vec![LeaseAnswer { replica: db(), refused: Some(why.into()) }]
}

fn waits(book: &Book, now: u64) -> String {
    match book.lease(&db(), now) {
        Lease::Until(until) => panic!("held until {until}"),
        Lease::Waits(why) => why,
    }
}

#[test]
fn a_lease_counts_from_when_its_request_was_sent_however_late_the_answer_is() {
    let mut book = Book::default();
    book.want(&wanted(1));
    assert!(!book.is_due(1_000, None), "nobody to ask");
    assert!(book.is_due(1_000, leader(1)));
    let request = book.ask(1_000, leader(1));
    assert_eq!(request.message.claims, [LeaseClaim { replica: db(), generation: 1, had: false }]);
    book.answered(&request, 3_900, &granted());
    assert_eq!(book.lease(&db(), 3_900), Lease::Until(4_000));
    assert_eq!(waits(&book, 4_000), "no leader has granted one yet");
    let late = book.ask(5_000, leader(1));
    book.answered(&late, 8_000, &granted());
    assert_eq!(waits(&book, 8_000), "no leader has granted one yet");
    assert!(book.ask(9_000, leader(1)).message.claims[0].had);
}

#[test]
fn it_is_renewed_while_all_is_well_asked_for_faster_when_not_and_at_once_of_a_new_leader() {
    let mut book = Book::default();
    book.want(&wanted(1));
    let request = book.ask(1_000, leader(1));
    assert!(!book.is_due(1_000 + RETRY_EVERY - 1, leader(1)));
    assert!(book.is_due(1_000 + RETRY_EVERY, leader(1)), "it has none yet");
    book.answered(&request, 1_010, &granted());
    assert!(!book.is_due(1_000 + RENEW_EVERY - 1, leader(1)));
    assert!(book.is_due(1_000 + RENEW_EVERY, leader(1)));
    assert!(book.is_due(1_011, leader(2)));
    let request = book.ask(1_400, leader(2));
    book.failed(&request);
    assert!(book.is_due(1_400 + RETRY_EVERY, leader(2)));
    assert_eq!(book.lease(&db(), 1_500), Lease::Until(4_000), "what is held is held");
    assert_eq!(waits(&book, 4_000), "no contact with the leader");
    // A silent leader is asked a few times at once, its successor all the same.
    for at in 0..5 {
        book.ask(5_000 + at * 150, leader(2));
    }
    assert!(!book.is_due(9_000, leader(2)) && book.is_due(9_000, leader(3)));
}

#[test]
fn nothing_is_asked_for_when_nothing_is_fenced() {
    let mut book = Book::default();
    book.busy(&part("api"), true);
    assert!(!book.is_due(1_000, leader(1)));
}

#[test]
fn what_is_refused_says_why() {
    let mut book = Book::default();
    book.want(&wanted(1));
    let request = book.ask(1_000, leader(1));
    book.answered(&request, 1_001, &refused("it is placed on n2"));
    assert_eq!(waits(&book, 1_001), "it is placed on n2");
}

#[test]
fn it_is_given_back_when_the_last_component_has_stopped_and_late_answers_are_void() {
    let mut book = Book::default();
    book.want(&wanted(1));
    book.busy(&part("api"), true);
    book.busy(&part("db"), true);
    let request = book.ask(1_000, leader(1));
    book.answered(&request, 1_001, &granted());
    let slow = book.ask(1_400, leader(1));
    book.want(&BTreeMap::new());
    book.busy(&part("api"), false);
    assert_eq!(book.ask(1_500, leader(1)).message.claims.len(), 1, "one is still stopping");
    book.busy(&part("db"), false);
    assert!(book.is_due(1_501, leader(1)), "somebody may be waiting");
    let back = book.ask(1_501, leader(1));
    assert_eq!((back.message.claims.len(), back.message.stopped.len()), (0, 1));
    book.answered(&slow, 1_600, &granted());
    assert!(matches!(book.lease(&db(), 1_600), Lease::Waits(_)));
    // Told again until somebody has heard it.
    book.failed(&back);
    let again = book.ask(1_700, leader(1));
    assert_eq!(again.message.stopped, [db()]);
    book.answered(&again, 1_710, &[]);
    assert!(!book.is_due(2_500, leader(1)));
}

#[test]
fn the_next_daemon_goes_on_with_what_its_shims_hold() {
    let mut book = Book::default();
    book.took_over(&part("db"), 7, 5_000);
    book.want(&wanted(7));
    assert_eq!(book.lease(&db(), 4_000), Lease::Until(5_000));
    let claim = book.ask(4_000, leader(1)).message.claims.remove(0);
    assert!(claim.had && claim.generation == 7);
}

#[derive(Debug, Clone)]
enum Op {
    Pass(u16),
    Want(Option<u64>),
    Busy(bool),
    Ask,
    Answer(usize, bool),
    Fail(usize),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => (0u16..1_500).prop_map(Op::Pass),
        2 => prop::option::of(1u64..4).prop_map(Op::Want),
        2 => any::<bool>().prop_map(Op::Busy),
        4 => Just(Op::Ask),
        4 => (0usize..4, any::<bool>()).prop_map(|(at, yes)| Op::Answer(at, yes)),
        1 => (0usize..4).prop_map(Op::Fail),
    ];
    prop::collection::vec(op, 1..200)
}

proptest! {
    #[test]
    fn a_lease_is_never_longer_than_what_was_granted_and_not_given_back(ops in ops()) {
        let (mut book, mut now, mut open) = (Book::default(), 1_000u64, Vec::<Request>::new());
        // The end of the newest lease that may be used, and the newest round that gave it back.
        let (mut most, mut back, mut running) = (0u64, 0u64, false);
        for op in ops {
            match op {
                Op::Pass(ms) => now += u64::from(ms),
                Op::Want(generation) => {
                    book.want(&generation.map(wanted).unwrap_or_default());
                }
                Op::Busy(busy) => {
                    running = busy;
                    book.busy(&part("db"), busy);
                }
                Op::Ask => {
                    let request = book.ask(now, leader(1));
                    let before = open.last().map_or(0, |r: &Request| r.message.round);
                    prop_assert!(request.message.round > before);
                    if !request.message.stopped.is_empty() {
                        prop_assert!(!running, "only what has stopped is given back");
                        (most, back) = (0, request.message.round);
                    }
                    open.push(request);
                }
                Op::Answer(at, yes) if at < open.len() => {
                    let request = open.remove(at);
                    if !request.message.claims.is_empty() {
                        let answers = if yes { granted() } else { refused("no") };
                        if yes && request.message.round > back {
                            most = most.max(request.sent + 3_000);
                        }
                        book.answered(&request, now, &answers);
                    } else {
                        book.answered(&request, now, &[]);
                    }
                }
                Op::Fail(at) if at < open.len() => book.failed(&open.remove(at)),
                Op::Answer(..) | Op::Fail(_) => {}
            }
            if let Lease::Until(until) = book.lease(&db(), now) {
                prop_assert!(until <= most && until > now);
            }
        }
    }
}
