//! The tables: what was measured, beside what was asked for.

use serde::Serialize;

use crate::fanout;
use crate::load;
use crate::server::Kind;

/// How many times the reference's rate, and microseconds of processor time a message, that sessions
/// are to reach with so many workers.
fn goal(kind: Kind, workers: usize) -> Option<(f64, Option<f64>)> {
    match (kind, workers) {
        (Kind::WeftMemory, _) => Some((1.2, Some(30.0))),
        (Kind::WeftDurable, 16) => Some((4.0, Some(80.0))),
        (Kind::WeftDurable, 64) => Some((6.0, Some(80.0))),
        (Kind::WeftThree, 64) => Some((2.0, None)),
        _ => None,
    }
}

/// Seconds to start with so many ended sessions, and KiB that each may take.
fn ended_goal(kind: Kind, sessions: usize) -> Option<(f64, Option<f64>)> {
    match (kind, sessions) {
        (Kind::WeftDurable, 2_000) => Some((0.5, None)),
        (Kind::WeftDurable, 100_000) => Some((2.0, Some(2.0))),
        _ => None,
    }
}

fn said(met: bool) -> &'static str {
    if met { "yes" } else { "**no**" }
}

/// The measurement of all rounds whose rate is in the middle, beside the reference's.
#[derive(Debug, Serialize)]
pub(crate) struct Rate {
    #[serde(flatten)]
    row: load::Row,
    rounds: usize,
    /// The least and the greatest rate of all rounds.
    least: f64,
    most: f64,
    /// Times the reference's rate.
    times: Option<f64>,
    goal: Option<String>,
    met: Option<bool>,
}

/// One row for each kind of server and number of workers, in the order they came first.
pub(crate) fn rates(rows: &[load::Row]) -> Vec<Rate> {
    let mut cases: Vec<(usize, Kind)> = rows.iter().map(|row| (row.workers, row.kind)).collect();
    cases.sort_unstable();
    cases.dedup();
    cases.into_iter().filter_map(|(workers, kind)| rate(rows, workers, kind)).collect()
}

fn of(rows: &[load::Row], workers: usize, kind: Kind) -> Vec<&load::Row> {
    let mut own: Vec<&load::Row> =
        rows.iter().filter(|row| row.workers == workers && row.kind == kind).collect();
    own.sort_by(|one, other| one.rate.total_cmp(&other.rate));
    own
}

fn rate(rows: &[load::Row], workers: usize, kind: Kind) -> Option<Rate> {
    let own = of(rows, workers, kind);
    let row: load::Row = (*own.get(own.len() / 2)?).clone();
    let beside = kind.baseline().map(|baseline| of(rows, workers, baseline));
    let beside = beside.and_then(|beside| Some(beside.get(beside.len() / 2)?.rate));
    let times = beside.map(|beside| row.rate / beside);
    let goal = goal(kind, workers);
    let met = goal.map(|(least, cpu)| {
        times.is_some_and(|times| times >= least)
            && cpu.is_none_or(|most| row.cpu <= most)
            && row.failed == 0
    });
    let text = goal.map(|(times, cpu)| match cpu {
        Some(cpu) => format!("≥ {times} ×, ≤ {cpu} µs"),
        None => format!("≥ {times} ×"),
    });
    Some(Rate {
        rounds: own.len(),
        least: own.first()?.rate,
        most: own.last()?.rate,
        row,
        times,
        goal: text,
        met,
    })
}

pub(crate) fn print_rates(rates: &[Rate]) {
    println!(
        "| workers | server | n | msg/s | least | most | of the reference | p50 ms | p99 ms | CPU µs | fsyncs | RSS MiB | failed | goal | met |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|");
    for rate in rates {
        let row = &rate.row;
        println!(
            "| {} | {} | {} | {:.0} | {:.0} | {:.0} | {} | {:.2} | {:.2} | {:.1} | {} | {:.0} | {} | {} | {} |",
            row.workers,
            row.kind.name(),
            rate.rounds,
            row.rate,
            rate.least,
            rate.most,
            rate.times.map(|times| format!("{times:.2} ×")).unwrap_or_default(),
            row.p50,
            row.p99,
            row.cpu,
            row.syncs.map_or_else(|| "not counted".to_owned(), |syncs| format!("{syncs:.3}")),
            row.rss,
            row.failed,
            rate.goal.as_deref().unwrap_or_default(),
            rate.met.map(said).unwrap_or_default(),
        );
    }
}

/// A server with ended sessions, judged.
#[derive(Debug, Serialize)]
pub(crate) struct Ended {
    #[serde(flatten)]
    row: crate::ended::Row,
    goal: Option<String>,
    met: Option<bool>,
}

pub(crate) fn ended(rows: Vec<crate::ended::Row>) -> Vec<Ended> {
    let judge = |row: crate::ended::Row| {
        let goal = ended_goal(row.kind, row.sessions);
        let met = goal.map(|(start, each)| {
            row.start.median < start
                && each.is_none_or(|each| row.each <= each && row.each_live <= each)
        });
        let goal = goal.map(|(start, each)| match each {
            Some(each) => format!("< {start} s, ≤ {each} KiB"),
            None => format!("< {start} s"),
        });
        Ended { row, goal, met }
    };
    rows.into_iter().map(judge).collect()
}

pub(crate) fn print_ended(rows: &[Ended]) {
    println!(
        "| ended sessions | server | starts | min s | median s | max s | MiB empty | MiB with them | KiB each | … without a start | goal | met |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    for Ended { row, goal, met } in rows {
        println!(
            "| {} | {} | {} | {:.1} | {:.1} | {:.2} | {:.2} | {} | {} |",
            row.sessions,
            row.kind.name(),
            row.start.cells(),
            row.empty,
            row.with,
            row.each,
            row.each_live,
            goal.as_deref().unwrap_or_default(),
            met.map(said).unwrap_or_default(),
        );
    }
}

pub(crate) fn print_fanout(rows: &[fanout::Row]) {
    println!(
        "| server | subscribers | messages | sent → last: min ms | median | max | acknowledged → last: median ms | max | deliveries/s | CPU µs each | RSS MiB |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for row in rows {
        println!(
            "| {} | {} | {} | {:.3} | {:.3} | {:.0} | {:.1} | {:.0} |",
            row.kind.name(),
            row.subscribers,
            row.sent.cells(),
            row.acknowledged.median,
            row.acknowledged.max,
            row.rate,
            row.cpu,
            row.rss,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(kind: Kind, workers: usize, rate: f64, cpu: f64) -> load::Row {
        load::Row {
            kind,
            workers,
            rate,
            p50: 1.0,
            p99: 2.0,
            cpu,
            syncs: None,
            rss: 10.0,
            failed: 0,
        }
    }

    #[test]
    fn the_middle_round_is_judged_beside_the_middle_round_of_the_reference() {
        let mut rows = Vec::new();
        for (reference, own) in [(2000.0, 9000.0), (1000.0, 6000.0), (9000.0, 20_000.0)] {
            rows.push(row(Kind::ReferenceDurable, 16, reference, 600.0));
            rows.push(row(Kind::WeftDurable, 16, own, 79.0));
        }
        let rates = rates(&rows);
        let names: Vec<Kind> = rates.iter().map(|rate| rate.row.kind).collect();
        assert_eq!(names, [Kind::ReferenceDurable, Kind::WeftDurable]);
        assert_eq!((rates[0].times, rates[0].met), (None, None));
        assert_eq!((rates[1].times, rates[1].rounds), (Some(4.5), 3));
        assert_eq!((rates[1].least, rates[1].most), (6000.0, 20_000.0));
        assert_eq!(rates[1].met, Some(true));
    }

    #[test]
    fn neither_processor_time_nor_refusals_are_made_up_for_by_a_rate() {
        let reference = row(Kind::ReferenceMemory, 16, 1000.0, 46.0);
        let dear = row(Kind::WeftMemory, 16, 9000.0, 31.0);
        let refused = load::Row { failed: 1, ..row(Kind::WeftMemory, 16, 9000.0, 20.0) };
        let good = row(Kind::WeftMemory, 16, 1200.0, 30.0);
        for (own, met) in [(dear, false), (refused, false), (good, true)] {
            let rates = rates(&[reference.clone(), own]);
            assert_eq!(rates[1].met, Some(met), "{:?}", rates[1]);
        }
        // Without the reference beside it nothing is met.
        let rates = rates(&[row(Kind::WeftThree, 64, 9000.0, 20.0)]);
        assert_eq!((rates[0].times, rates[0].met), (None, Some(false)));
    }
}
