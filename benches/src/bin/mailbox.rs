//! Local asks and tells to a supervised actor, beside plain tokio channels and plain actix.
//!
//! Everything runs in one process and one run, each with its receiver on a thread of its own and
//! its callers on another. `cargo run --release -p weft-bench --bin mailbox [seconds]`; each
//! number is the median of five measurements, taken in turn, of `seconds` (default 1) each. With
//! `ask` or `tell` (a number in flight, a target) it runs one of them alone, for a profiler.

use std::cell::Cell;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_rt::Arbiter;
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;
use weft_link::{AuditSink, Call, Fabric, FabricConfig, Reply};
use weft_supervision::{
    Actor, ChildSpec, Handle, Incarnation, Routes, Scope, Tree, TreeConfig, TreeError,
    block_on_system,
};
use weft_wire::{ActorKind, Address, Allow, Clock as _, Message, MessageId, NodeId, SystemClock};

const ROUNDS: usize = 5;
const MAILBOX: usize = 1024;
const USAGE: &str =
    "usage: mailbox [seconds per measurement] [ask|tell] [in flight] [tokio|actix|weft]";

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Add {
    n: u64,
}

impl Message for Add {
    const ID: MessageId = MessageId(60_100);
    const ACTOR: ActorKind = ActorKind::Monitor;
    const NAME: &'static str = "bench.add";
    const ALLOW: Allow = Allow::NODES;
    type Reply = u64;
}

struct Sum(u64);

impl Actor for Sum {
    fn routes(routes: &mut Routes<Self>) {
        routes.ask::<Add>();
    }
}

impl Handle<Add> for Sum {
    fn handle(&mut self, Add { n }: Add, reply: Reply<Add>, _: &Scope<Self>) {
        self.0 = self.0.wrapping_add(n);
        reply.ok(self.0);
    }
}

struct Plain(u64);

struct PlainAdd(u64);

impl actix::Message for PlainAdd {
    type Result = u64;
}

impl actix::Actor for Plain {
    type Context = actix::Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.set_mailbox_capacity(MAILBOX);
    }
}

impl actix::Handler<PlainAdd> for Plain {
    type Result = u64;

    fn handle(&mut self, PlainAdd(n): PlainAdd, _: &mut Self::Context) -> u64 {
        self.0 = self.0.wrapping_add(n);
        self.0
    }
}

/// Something that can be asked and told.
#[derive(Clone)]
enum Target {
    Tokio(mpsc::Sender<(u64, Option<oneshot::Sender<u64>>)>),
    Actix(actix::Addr<Plain>),
    Weft(Fabric),
}

impl Target {
    async fn ask(&self, n: u64) -> Result<u64, String> {
        match self {
            Self::Tokio(sender) => {
                let (reply, answer) = oneshot::channel();
                sender.send((n, Some(reply))).await.map_err(|e| e.to_string())?;
                answer.await.map_err(|e| e.to_string())
            }
            Self::Actix(address) => address.send(PlainAdd(n)).await.map_err(|e| e.to_string()),
            Self::Weft(fabric) => fabric
                .ask(Address::here(ActorKind::Monitor), Add { n }, call())
                .await
                .map_err(|e| e.to_string()),
        }
    }

    fn tell(&self, n: u64) -> Result<(), String> {
        match self {
            Self::Tokio(sender) => sender.try_send((n, None)).map_err(|e| e.to_string()),
            Self::Actix(address) => address.try_send(PlainAdd(n)).map_err(|e| e.to_string()),
            Self::Weft(fabric) => fabric
                .tell(Address::here(ActorKind::Monitor), Add { n }, &call())
                .map_err(|e| e.to_string()),
        }
    }
}

fn call() -> Call {
    Call::within(Duration::from_secs(5))
}

#[derive(Clone, Copy, PartialEq)]
enum What {
    Ask,
    /// So many tells, then one ask that makes sure they have arrived.
    Tell,
}

/// Requests per second, by `in_flight` callers on a thread of their own.
fn measure(target: &Target, what: What, in_flight: usize, length: Duration) -> Result<f64, String> {
    let target = target.clone();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| e.to_string())?;
        let local = LocalSet::new();
        local.block_on(&runtime, async move {
            let start = SystemClock.now();
            let done = Rc::new(Cell::new(0u64));
            let over = Rc::new(Cell::new(false));
            let callers = if what == What::Ask { in_flight } else { 1 };
            let tasks: Vec<_> = (0..callers)
                .map(|_| {
                    let (target, done, over) = (target.clone(), done.clone(), over.clone());
                    tokio::task::spawn_local(async move {
                        while !over.get() {
                            if what == What::Tell {
                                for _ in 0..in_flight {
                                    target.tell(1)?;
                                }
                                done.set(done.get() + in_flight as u64);
                            }
                            target.ask(1).await?;
                            if what == What::Ask {
                                done.set(done.get() + 1);
                            }
                        }
                        Ok::<_, String>(())
                    })
                })
                .collect();
            tokio::time::sleep(length).await;
            over.set(true);
            for task in tasks {
                task.await.map_err(|e| e.to_string())??;
            }
            Ok::<_, String>(done.get() as f64 / (SystemClock.now() - start).as_secs_f64())
        })
    });
    thread.join().map_err(|_| "a caller panicked".to_owned())?
}

async fn targets(
    runtime: &Arc<Runtime>,
) -> Result<(Vec<(&'static str, Target)>, Tree, Arbiter), String> {
    let (sender, mut inbox) = mpsc::channel::<(u64, Option<oneshot::Sender<u64>>)>(MAILBOX);
    let shared = runtime.clone();
    let arbiter = Arbiter::with_tokio_rt(move || shared);
    let channel = Arbiter::with_tokio_rt({
        let shared = runtime.clone();
        move || shared
    });
    channel.spawn(async move {
        let mut sum = 0u64;
        while let Some((n, reply)) = inbox.recv().await {
            sum = sum.wrapping_add(n);
            if let Some(reply) = reply {
                let _ = reply.send(sum);
            }
        }
        Arbiter::current().stop();
    });
    let (made, address) = oneshot::channel();
    arbiter.spawn_fn(move || {
        let _ = made.send(actix::Actor::start(Plain(0)));
    });
    let address = address.await.map_err(|e| e.to_string())?;
    let node: NodeId = "00000000-0000-4000-8000-000000000001"
        .parse()
        .map_err(|e: weft_wire::IdError| e.to_string())?;
    let fabric =
        Fabric::local(FabricConfig { node, name: "bench".into(), audit: AuditSink::none() });
    let error = |e: TreeError| e.to_string();
    let tree = Tree::build(TreeConfig::new(fabric.clone(), runtime.clone())).map_err(error)?;
    let spec = ChildSpec { mailbox: MAILBOX, ..ChildSpec::default() };
    tree.add(ActorKind::Monitor, spec, |_: Incarnation| async { Ok(Sum(0)) });
    tree.start().await.map_err(error)?;
    let targets = vec![
        ("tokio", Target::Tokio(sender)),
        ("actix", Target::Actix(address)),
        ("weft", Target::Weft(fabric)),
    ];
    Ok((targets, tree, arbiter))
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or_default()
}

async fn profile(
    runtime: Arc<Runtime>,
    length: Duration,
    what: What,
    in_flight: usize,
    only: &str,
) -> Result<(), String> {
    let (targets, tree, _arbiter) = targets(&runtime).await?;
    for (name, target) in targets.into_iter().filter(|(name, _)| *name == only) {
        let rate = measure(&target, what, in_flight, length)?;
        println!("{name} {rate:.0}/s");
    }
    tree.stop(Duration::from_secs(5)).await;
    Ok(())
}

async fn bench(runtime: Arc<Runtime>, length: Duration) -> Result<(), String> {
    let (targets, tree, arbiter) = targets(&runtime).await?;
    println!(
        "{:<6} {:>10} {:>14} {:>14} {:>14}",
        "what", "in flight", "tokio/s", "actix/s", "weft/s"
    );
    for (name, what) in [("ask", What::Ask), ("tell", What::Tell)] {
        for in_flight in [1, 64] {
            let mut rates = vec![Vec::new(); targets.len()];
            for _ in 0..ROUNDS {
                for ((_, target), rates) in targets.iter().zip(&mut rates) {
                    let target = target.clone();
                    let rate = tokio::task::spawn_blocking(move || {
                        measure(&target, what, in_flight, length)
                    })
                    .await
                    .map_err(|e| e.to_string())??;
                    rates.push(rate);
                }
            }
            let rates: Vec<f64> = rates.into_iter().map(median).collect();
            let &[tokio, actix, weft] = rates.as_slice() else {
                return Err("three targets".to_owned());
            };
            println!("{name:<6} {in_flight:>10} {tokio:>14.0} {actix:>14.0} {weft:>14.0}");
            println!(
                "ratio {name} {in_flight} {:.2} of tokio, {:.2} of actix",
                weft / tokio,
                weft / actix
            );
        }
    }
    drop(targets);
    arbiter.stop();
    tree.stop(Duration::from_secs(5)).await;
    Ok(())
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let seconds = args.next().map_or(Ok(1.0), |text| text.parse::<f64>());
    let only = match args.next().as_deref() {
        None => Some(None),
        Some("ask") => Some(Some(What::Ask)),
        Some("tell") => Some(Some(What::Tell)),
        Some(_) => None,
    };
    let in_flight = args.next().map_or(Ok(64), |text| text.parse::<usize>());
    let target = args.next().unwrap_or_else(|| "weft".to_owned());
    let (Ok(seconds @ 0.001..=3600.0), Some(only), Ok(in_flight @ 1..=1000)) =
        (seconds, only, in_flight)
    else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let length = Duration::from_secs_f64(seconds);
    let done = block_on_system(async |runtime: Arc<Runtime>| match only {
        // For a profiler: one alone.
        Some(what) => profile(runtime, length, what, in_flight, &target).await,
        None => bench(runtime, length).await,
    });
    match done.map_err(|error| error.to_string()).and_then(|done| done) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
