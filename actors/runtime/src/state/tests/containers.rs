//! What only containers do: what replaces them is prepared, starts wait and are cancelled, and
//! others remove, start and pause them.

use super::*;

fn boxed() -> Assignment {
    let mut assignment = assignment(RestartPolicy::Always);
    assignment.spec.driver = Driver::Container;
    assignment.spec.image = "localhost/web:1".into();
    assignment
}

fn next(revision: u64) -> Assignment {
    let mut next = boxed();
    next.spec.image = format!("localhost/web:{revision}");
    next.spec_hash = revision.to_string();
    next.revision = revision;
    next
}

/// One that runs.
fn running() -> Bench {
    let mut bench = Bench::new();
    bench.assign(&boxed());
    bench.take(Input::Found(Finding::Nothing));
    let instance = bench.boxed();
    let run = bench.machine.run();
    bench.take(Input::Started(run, instance));
    assert_eq!(bench.state(), ComponentState::Running);
    bench
}

impl Bench {
    fn boxed(&mut self) -> Instance {
        let mut instance = self.file();
        instance.id =
            InstanceId::Container { container: format!("c{}", self.pid), started_at: self.wall };
        instance.image = "localhost/web:1".into();
        instance
    }

    fn prepared(&mut self, answer: Result<(), Permanence>) -> Vec<Effect> {
        let number = self.machine.next.number;
        self.take(Input::Prepared(number, answer.map_err(|p| ("no such image".to_owned(), p))))
    }
}

fn prepares(effects: &[Effect]) -> usize {
    effects.iter().filter(|effect| matches!(effect, Effect::Prepare(_))).count()
}

fn stops(effects: &[Effect]) -> usize {
    effects.iter().filter(|effect| matches!(effect, Effect::Stop(..))).count()
}

#[test]
fn what_runs_is_stopped_only_when_what_replaces_it_is_ready() {
    let mut bench = running();
    let effects = bench.assign(&next(2));
    assert_eq!((prepares(&effects), stops(&effects)), (1, 0));
    assert_eq!((bench.state(), bench.machine.status().revision), (ComponentState::Running, 1));
    assert_eq!(prepares(&bench.assign(&next(2))), 0, "said again, it is under way");
    assert_eq!(stops(&bench.prepared(Ok(()))), 1);
    assert_eq!(starts(&bench.exited(0)), 1);
}

#[test]
fn a_process_goes_on_until_the_files_are_here_that_come_with_what_replaces_it() {
    let mut bench = Bench::new();
    bench.assign(&assignment(RestartPolicy::Always));
    bench.take(Input::Found(Finding::Nothing));
    let (run, instance) = (bench.machine.run(), bench.file());
    bench.take(Input::Started(run, instance));
    let next = Assignment {
        spec_hash: "2".into(),
        revision: 2,
        files: vec![weft_protocol::ShippedFile::named("./run")],
        ..assignment(RestartPolicy::Always)
    };
    let effects = bench.assign(&next);
    assert_eq!((prepares(&effects), stops(&effects)), (1, 0));
    assert_eq!(stops(&bench.prepared(Err(Permanence::Passing))), 0);
    assert_eq!(bench.state(), ComponentState::Running);
    let mut other = next.clone();
    other.spec_hash = "3".into();
    bench.assign(&other);
    assert_eq!(stops(&bench.prepared(Ok(()))), 1);
}

#[test]
fn what_cannot_be_prepared_is_refused_and_what_runs_goes_on() {
    let mut bench = running();
    bench.assign(&next(2));
    assert_eq!(stops(&bench.prepared(Err(Permanence::Permanent))), 0);
    let status = bench.machine.status();
    assert_eq!((status.state, status.revision, status.refused), (ComponentState::Running, 1, 2));
    assert_eq!(status.reason, "revision 2 is not started: no such image");
    assert_eq!(status.version, "1", "of what runs");
    // Neither a good probe nor the same assignment again changes that; another one does.
    assert_eq!(prepares(&bench.assign(&next(2))), 0);
    let effects = bench.assign(&next(3));
    assert_eq!(prepares(&effects), 1);
    assert_eq!((bench.machine.status().refused, bench.machine.status().reason.as_str()), (0, ""));
    // An operator may have seen to it.
    bench.prepared(Err(Permanence::Permanent));
    assert_eq!(prepares(&bench.take(Input::Restart)), 1);
    // Back to what runs: nothing is refused any more.
    bench.prepared(Err(Permanence::Permanent));
    assert_eq!(prepares(&bench.assign(&boxed())), 0);
    assert_eq!(bench.machine.status().refused, 0);
}

#[test]
fn a_registry_that_is_away_is_asked_again_and_told_of_as_refused_meanwhile() {
    let mut bench = running();
    bench.assign(&next(2));
    for attempt in 1..=REFUSED_AFTER {
        assert_eq!(bench.machine.status().refused, 0, "attempt {attempt}");
        let effects = bench.prepared(Err(Permanence::Passing));
        bench.pass(delay(&effects).expect("it is tried again"));
        let timer = bench.machine.timer;
        assert_eq!(prepares(&bench.take(Input::Timer(timer))), 1);
    }
    assert_eq!(bench.machine.status().refused, 2);
    assert_eq!(stops(&bench.prepared(Ok(()))), 1, "it is there at last");
}

#[test]
fn a_late_answer_about_something_else_is_of_no_account() {
    let mut bench = running();
    bench.assign(&next(2));
    let number = bench.machine.next.number;
    bench.assign(&next(3));
    assert_eq!(stops(&bench.take(Input::Prepared(number, Ok(())))), 0);
    assert_eq!(stops(&bench.prepared(Ok(()))), 1);
}

#[test]
fn a_start_that_waits_says_so_and_ends_when_it_is_not_wanted_any_more() {
    let mut bench = Bench::new();
    bench.assign(&boxed());
    bench.take(Input::Waits(0, "no engine".into()));
    assert_eq!(bench.machine.status().reason, "no engine", "already while it looks");
    bench.take(Input::Found(Finding::Nothing));
    bench.take(Input::Waits(1, "no engine".into()));
    assert_eq!(bench.machine.status().reason, "no engine");
    let effects = bench.assign(&next(2));
    assert!(effects.contains(&Effect::Cancel(1)));
    assert!(!bench.assign(&next(2)).contains(&Effect::Cancel(1)), "said once");
    let failed = |run| Input::StartFailed(run, String::new(), Permanence::Passing);
    assert_eq!(starts(&bench.take(failed(1))), 1, "at once, for what is wanted now");
    assert!(bench.take(Input::Unassigned).contains(&Effect::Cancel(2)));
    assert_eq!(bench.take(failed(2)).last(), Some(&Effect::Forget));
}

#[test]
fn one_that_is_removed_is_gone_and_comes_back() {
    let mut bench = running();
    let effects = bench.take(Input::Gone(1));
    let removed = (ComponentState::Running, ComponentState::Removed, "self", "removed");
    assert_eq!(changes(&effects)[0], removed);
    assert_eq!(starts(&effects), 1);
    // Nothing to complain of where it was to stop.
    let mut bench = running();
    bench.take(Input::Unassigned);
    assert_eq!(bench.take(Input::Gone(1)).last(), Some(&Effect::Forget));
}

#[test]
fn one_that_others_start_is_seen_to_and_stopped_if_that_is_not_wanted() {
    let mut bench = running();
    let mut stopped = boxed();
    stopped.desired = Desired::Stopped;
    bench.assign(&stopped);
    bench.exited(0);
    assert_eq!(bench.state(), ComponentState::Stopped);
    let instance = bench.boxed();
    let effects = bench.take(Input::Surfaced(1, instance));
    assert_eq!(stops(&effects), 1);
    assert_eq!(changes(&effects)[0].1, ComponentState::Running, "which is drift");
    bench.exited(0);
    assert_eq!(bench.state(), ComponentState::Stopped);
}

#[test]
fn what_cannot_be_seen_is_unknown_until_it_can_be() {
    let mut bench = running();
    bench.take(Input::Sight(1, Sight::Dim("the engine does not answer".into())));
    assert_eq!(bench.state(), ComponentState::Running);
    bench.take(Input::Sight(1, Sight::Blind("nor is there a process".into())));
    assert_eq!(bench.state(), ComponentState::Unknown);
    bench.take(Input::Sight(1, Sight::Clear));
    let status = bench.machine.status();
    assert_eq!((status.state, status.reason.as_str()), (ComponentState::Running, ""));
}

#[test]
fn one_that_somebody_pauses_is_stopped_and_left_alone_until_it_goes_on_or_is_stopped() {
    let mut bench = running();
    let paused = || Input::Sight(1, Sight::Frozen("it is paused".into()));
    let effects = bench.take(paused());
    assert_eq!(changes(&effects)[0].1, ComponentState::Stopped);
    assert_eq!((starts(&effects), stops(&effects)), (0, 0));
    assert_ne!(bench.machine.status().pid, 0, "it may still write when it goes on");
    let state = bench.machine.memory().state;
    assert_eq!(state, Some(ComponentState::Unknown), "the next daemon has to look");
    bench.take(Input::Sight(1, Sight::Clear));
    assert_eq!(bench.state(), ComponentState::Running);
    bench.take(paused());
    let mut stopped = boxed();
    stopped.desired = Desired::Stopped;
    assert_eq!(stops(&bench.assign(&stopped)), 1);
}
