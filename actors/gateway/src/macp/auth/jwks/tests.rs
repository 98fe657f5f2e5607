//! Tests of where keys come from.

use weft_wire::ManualClock;

use super::super::testing::{Issuer, Served, clock};
use super::*;

const TTL: Duration = Duration::from_secs(300);

fn named(kid: &str) -> String {
    let mut key = Issuer::new().ed();
    key["kid"] = kid.into();
    serde_json::json!({ "keys": [key] }).to_string()
}

fn at(url: String, clock: &ManualClock) -> Jwks {
    Jwks::new(&KeySource::Url(url), TTL, clock).expect("an address")
}

async fn has(jwks: &Jwks, kid: &str, clock: &ManualClock) -> Option<bool> {
    jwks.keys_with(kid, clock).await.map(|keys| keys.has(kid))
}

#[tokio::test]
async fn keys_are_fetched_once_for_everybody_and_again_when_their_time_is_over() {
    let (clock, served) = (clock(), Served::new(&named("a")).await);
    let jwks = at(served.url(), &clock);
    assert_eq!(served.asked(), 0, "nothing is fetched before it is needed");
    let all = futures_util::future::join_all((0..50).map(|_| jwks.keys(&clock))).await;
    assert!(all.into_iter().all(|keys| keys.is_some_and(|keys| keys.has("a"))));
    clock.advance(TTL);
    assert_eq!(has(&jwks, "a", &clock).await, Some(true));
    assert_eq!(served.asked(), 1);
    served.say("200 OK", &named("b"));
    clock.advance(Duration::from_secs(1));
    assert_eq!(has(&jwks, "b", &clock).await, Some(true));
    assert_eq!(served.asked(), 2);
}

#[tokio::test]
async fn a_key_that_is_not_there_has_them_fetched_early_but_not_for_every_token() {
    let (clock, served) = (clock(), Served::new(&named("a")).await);
    let jwks = at(served.url(), &clock);
    assert_eq!(has(&jwks, "a", &clock).await, Some(true));
    served.say("200 OK", &named("b"));
    for _ in 0..20 {
        assert_eq!(has(&jwks, "b", &clock).await, Some(false));
    }
    assert_eq!(served.asked(), 1, "they were fetched just now");
    clock.advance(EARLY);
    assert_eq!(has(&jwks, "b", &clock).await, Some(true));
    for unknown in 0..20 {
        assert_eq!(has(&jwks, &format!("none-{unknown}"), &clock).await, Some(false));
    }
    assert_eq!(served.asked(), 2);
}

#[tokio::test]
async fn old_keys_are_served_for_an_hour_while_new_ones_cannot_be_had() {
    let (clock, served) = (clock(), Served::new(&named("a")).await);
    let jwks = at(served.url(), &clock);
    assert_eq!(has(&jwks, "a", &clock).await, Some(true));
    served.say("500 Internal Server Error", "");
    clock.advance(TTL + Duration::from_secs(1));
    for _ in 0..20 {
        assert_eq!(has(&jwks, "a", &clock).await, Some(true));
    }
    assert_eq!(served.asked(), 2, "what failed just now is not tried again");
    served.say("200 OK", "no keys");
    clock.advance(STALE - Duration::from_secs(1));
    assert_eq!(has(&jwks, "a", &clock).await, Some(true));
    assert_eq!(served.asked(), 3);
    clock.advance(Duration::from_secs(6));
    assert!(jwks.keys(&clock).await.is_none());
    served.say("200 OK", &named("b"));
    clock.advance(RETRY);
    assert_eq!(has(&jwks, "b", &clock).await, Some(true));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_asked_once_for_all_who_wait() {
    let clock = clock();
    let gone = Served::new("").await.address;
    let jwks = at(format!("http://{gone}/"), &clock);
    let all = futures_util::future::join_all((0..20).map(|_| jwks.keys(&clock))).await;
    assert!(all.into_iter().all(|keys| keys.is_none()));
    assert!(jwks.kept.lock().tried.is_some());
}

#[tokio::test]
async fn a_file_is_read_at_the_start_and_when_its_time_is_over() {
    let clock = clock();
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("keys.json");
    let source = KeySource::File(path.clone());
    let error = Jwks::new(&source, TTL, &clock).err().expect("no file").to_string();
    assert!(error.contains("keys.json"), "{error}");
    std::fs::write(&path, named("a")).expect("writes");
    let jwks = Jwks::new(&source, TTL, &clock).expect("reads");
    std::fs::write(&path, named("b")).expect("writes");
    assert!(jwks.keys(&clock).await.is_some_and(|keys| keys.has("a")));
    clock.advance(TTL + Duration::from_secs(1));
    assert!(jwks.keys(&clock).await.is_some_and(|keys| keys.has("b")));
}
