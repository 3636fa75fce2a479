//! The agent killed at every single call, before and after its effect, while pods start and while they stop.

use std::time::Duration;

use rubelet_testkit::scripted::{FactKind, Phase};

use crate::run::{Failure, run, settle};
use crate::scenario::Scenario;
use crate::world::World;

const DOWN: Duration = Duration::from_millis(700);

/// How many calls one calm start, and one calm stop, take.
fn calls_of(stop: bool) -> u64 {
    let mut calls = 0;
    let counted = run(&Scenario::base(), async |world, scenario| {
        world.start().await?;
        settle(world, scenario).await?;
        let before = world.calls();
        if stop {
            remove_all(world);
            settle(world, scenario).await?;
            calls = world.calls() - before;
        } else {
            calls = before;
        }
        Ok(())
    });
    let failed = counted.err().map(|failure| failure.to_string());
    assert_eq!(failed, None, "a calm run fails");
    calls
}

fn remove_all(world: &mut World) {
    for pod in 0..world.wanted.len() {
        world.change(pod, |wanted| wanted.listed = false);
    }
}

/// Every container of the base scenario is started exactly once: what runs is never restarted for the agent's
/// sake. A container that was created and not started does not count.
fn none_started_twice(world: &World) -> Result<(), String> {
    let mut started: Vec<(String, String)> = world
        .cri
        .facts()
        .into_iter()
        .filter(|fact| fact.what == FactKind::Started)
        .map(|fact| (fact.subject.pod_name, fact.subject.container))
        .collect();
    let all = started.len();
    started.sort();
    started.dedup();
    match all - started.len() {
        0 => Ok(()),
        extra => Err(format!("{extra} containers were started again")),
    }
}

fn crash_in_start(at: u64, phase: Phase) -> Result<(), Failure> {
    run(&Scenario::base(), async |world, scenario| {
        world.arm(at, phase, DOWN);
        world.start().await?;
        world.pass(Duration::from_secs(30)).await?;
        world.disarm();
        settle(world, scenario).await?;
        none_started_twice(world)
    })
    .map(|_| ())
}

fn crash_in_stop(at: u64, phase: Phase) -> Result<(), Failure> {
    run(&Scenario::base(), async |world, scenario| {
        world.start().await?;
        settle(world, scenario).await?;
        world.arm(at, phase, DOWN);
        // Only one of the two ends: the other one must not notice anything.
        world.change(0, |wanted| wanted.listed = false);
        world.pass(Duration::from_secs(40)).await?;
        world.disarm();
        settle(world, scenario).await?;
        none_started_twice(world)
    })
    .map(|_| ())
}

fn at_every_call(calls: u64, crash: impl Fn(u64, Phase) -> Result<(), Failure>) {
    assert!(calls > 20, "{calls} calls are too few to be true");
    let mut failed = Vec::new();
    for at in 0..calls {
        for phase in [Phase::Before, Phase::After] {
            if let Err(failure) = crash(at, phase) {
                if failed.is_empty() {
                    println!("crash at call {at}, {phase:?} its effect: {failure}");
                }
                failed.push((at, phase));
            }
        }
    }
    assert!(failed.is_empty(), "{} of {} crash points failed: {failed:?}", failed.len(), calls * 2);
}

#[test]
fn the_agent_may_die_at_every_call_while_pods_start() {
    at_every_call(calls_of(false), crash_in_start);
}

#[test]
fn the_agent_may_die_at_every_call_while_pods_stop() {
    at_every_call(calls_of(true), crash_in_stop);
}
