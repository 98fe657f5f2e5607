//! Turns: of what is started again by itself, only a few at once (orchestration §22b).

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// So many components of a node are started again at once.
pub(crate) const MENDING: usize = 4;
/// One that takes longer to start lets the next one begin.
pub(crate) const MENDING_MOST: Duration = Duration::from_secs(30);

/// Does it once it is its turn, which ends when `begun` is cancelled, after `most` at the latest:
/// the work itself lasts as long as what it starts.
pub(crate) async fn in_turn(
    turns: Arc<Semaphore>,
    begun: CancellationToken,
    most: Duration,
    work: impl Future<Output = ()>,
) {
    // Closed never: then nobody would start anything again.
    let turn = turns.acquire_owned().await.ok();
    let hold = async move {
        let _ = tokio::time::timeout(most, begun.cancelled()).await;
        drop(turn);
    };
    tokio::join!(work, hold);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::task::JoinSet;

    use super::*;

    #[tokio::test]
    async fn at_most_four_begin_at_once_and_all_do_in_the_end() {
        let turns = Arc::new(Semaphore::new(MENDING));
        let counts: Arc<[AtomicUsize; 3]> = Arc::default();
        let mut all = JoinSet::new();
        for _ in 0..40 {
            let (begun, turns, counts) = (CancellationToken::new(), turns.clone(), counts.clone());
            all.spawn(in_turn(turns, begun.clone(), MENDING_MOST, async move {
                let [now, most, done] = &*counts;
                most.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                for _ in 0..20 {
                    tokio::task::yield_now().await;
                }
                now.fetch_sub(1, Ordering::Relaxed);
                done.fetch_add(1, Ordering::Relaxed);
                // It has begun, and runs on: nobody waits for its end.
                begun.cancel();
                while done.load(Ordering::Relaxed) < 40 {
                    tokio::task::yield_now().await;
                }
            }));
        }
        while let Some(ended) = all.join_next().await {
            ended.unwrap();
        }
        assert_eq!(counts[1].load(Ordering::Relaxed), MENDING);
    }

    #[tokio::test]
    async fn one_that_never_begins_does_not_hold_the_others_up_for_ever() {
        let turns = Arc::new(Semaphore::new(1));
        let most = Duration::from_millis(50);
        let never = CancellationToken::new();
        let stuck = in_turn(turns.clone(), never, most, std::future::pending());
        let begun = CancellationToken::new();
        begun.cancel();
        tokio::select! {
            () = stuck => panic!("it does not end"),
            () = in_turn(turns, begun, most, std::future::ready(())) => {}
        }
    }
}
