//! The way of a request to the node that leads its group, however often that changes meanwhile.

use std::time::{Duration, Instant};

use weft_link::{Call, Fabric, Meta};
use weft_wire::{ActorKind, Address, AskError, Backoff, Failure, FailureKind, Message};

use crate::lead::{Agreement, Led};
use crate::{Modes, Owned};

/// A request whose sender did not say how long it waits.
const WITHIN: Duration = Duration::from_secs(20);
/// Nobody leading for so long, it is refused: finding out and electing take less.
const LEADERLESS: Duration = Duration::from_secs(8);
/// A leader has so long for what may be sent again, before it is looked for anew.
const ASK_AGAIN: Duration = Duration::from_secs(3);
const RETRY: Backoff =
    Backoff { base: Duration::from_millis(10), max: Duration::from_millis(250), jitter: 0.3 };

/// What one node leads.
pub(crate) trait Agreed {
    fn agreement(&self) -> &Agreement;
}

impl Agreed for Owned {
    fn agreement(&self) -> &Agreement {
        Owned::agreement(self)
    }
}

impl Agreed for Modes {
    fn agreement(&self) -> &Agreement {
        Modes::agreement(self)
    }
}

/// Where a request came from, and the fabric it goes on through.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    pub(crate) fabric: Fabric,
    pub(crate) meta: Meta,
}

/// Not done, because this node does not lead: whoever does is to be asked.
pub(crate) fn elsewhere(why: &str) -> AskError {
    let text = "sessions are led by another node, or by none";
    AskError::Failed(Failure::new(FailureKind::Unavailable, text).cause(why))
}

fn is_elsewhere(error: &AskError) -> bool {
    matches!(error, AskError::Failed(failure) if failure.kind == FailureKind::Unavailable)
}

/// It may have been done or not, and doing it again does no harm.
fn is_open(error: &AskError) -> bool {
    match error {
        AskError::Unreachable(_) | AskError::Timeout => true,
        AskError::Failed(failure) => failure.kind == FailureKind::Timeout,
        _ => false,
    }
}

impl Route {
    fn now(&self) -> Instant {
        self.fabric.clock().now()
    }

    /// Whether nothing is to be had from anybody: nobody else votes, also if the group does not run
    /// here at present, or this node leads it and nobody follows.
    pub(crate) fn is_cut_off(&self, agreement: &Agreement) -> bool {
        agreement.is_own(self.fabric.node())
            || (agreement.led() == Led::Here && !agreement.hears_leader(self.now()))
    }

    /// Has `here` answer if this node leads, and the node that leads if not. What is to be led is
    /// looked for anew before each attempt.
    pub(crate) async fn run<A, M, F>(
        &self,
        find: impl Fn() -> A,
        message: M,
        mut here: impl FnMut(A) -> F,
    ) -> Result<M::Reply, AskError>
    where
        A: Agreed + Clone,
        M: Message,
        F: Future<Output = Result<M::Reply, AskError>>,
    {
        let start = self.now();
        let end = self.meta.deadline.unwrap_or(start + WITHIN);
        let (mut led_at, mut last) = (start, None);
        for attempt in 0u32.. {
            let now = self.now();
            let left = end.saturating_duration_since(now);
            let found = find();
            let agreement = found.agreement();
            if agreement.hears_leader(now) {
                led_at = now;
            }
            if left.is_zero() || now.saturating_duration_since(led_at) >= LEADERLESS {
                break;
            }
            let led = agreement.led();
            let done = match led {
                Led::Here => here(found.clone()).await,
                // Its sender looks again for who leads.
                _ if self.meta.from.is_some() => return Err(elsewhere("it is not led here")),
                Led::By(node) => {
                    let left = if M::IDEMPOTENT { left.min(ASK_AGAIN) } else { left };
                    let to = Address::on(ActorKind::Session, node);
                    let call = Call::on_behalf(&self.meta, left);
                    tokio::select! {
                        answer = self.fabric.ask(to, message.clone(), call) => answer,
                        // Who vanished answers nothing: its successor is not waited for.
                        () = agreement.led_by_another(Some(node)), if M::IDEMPOTENT => {
                            Err(AskError::Unreachable("another node leads by now".to_owned()))
                        }
                    }
                }
                Led::ByNobody => Err(elsewhere("nobody leads them at present")),
            };
            match done {
                Err(error) if is_elsewhere(&error) => last = Some(error),
                // Nothing follows from this node's lead for what was tried elsewhere: one that was
                // just elected has not been followed yet.
                Err(error)
                    if M::IDEMPOTENT
                        && is_open(&error)
                        && !agreement.is_own(self.fabric.node())
                        && !(led == Led::Here && self.is_cut_off(agreement)) =>
                {
                    last = Some(error);
                }
                done => return done,
            }
            let random = f64::from(uuid::Uuid::new_v4().as_u128() as u16) / 65_536.0;
            let left = end.saturating_duration_since(self.now());
            agreement.changed(RETRY.delay(attempt.min(16), random).min(left)).await;
        }
        Err(match last {
            // As it was said; what is only known of the way there is no reason by itself.
            Some(error @ AskError::Failed(_)) => error,
            Some(error) => elsewhere(&error.to_string()),
            None => elsewhere("nobody answered for them in time"),
        })
    }
}
