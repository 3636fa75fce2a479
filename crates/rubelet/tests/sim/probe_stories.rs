//! Stories of verdicts: told at once while the pod's worker is busy, told again by the next agent, and never undone. The
//! judge watches every run besides: a verdict is told within a second, and nothing else is.

use std::time::Duration;

use k8s_openapi::api::core::v1::Probe;
use rubelet_core::probes::ProbeKind;
use rubelet_testkit::pods;
use rubelet_testkit::scripted::{Behaviour, Op, Phase, PullScript};

use crate::health::{Course, Health, add_probe, ill, well};
use crate::run::{Failure, run};
use crate::scenario::{Scenario, SimPod, Step};
use crate::world::World;

const SECOND: Duration = Duration::from_secs(1);

/// A probe of every second; one answer is enough.
fn every_second() -> Probe {
    Probe { period_seconds: Some(1), failure_threshold: Some(1), ..Probe::default() }
}

/// Ill and well by turns, `period` each.
fn flapping(period: Duration, turns: u32) -> Course {
    (0..turns).map(|turn| (period * turn, if turn % 2 == 0 { well() } else { ill() })).collect()
}

/// A pod `web` whose container `a` has a readiness probe, beside a container `b`.
fn scenario(probe: Probe, course: Course) -> Scenario {
    let mut pod = pods::pod("web")
        .grace(30)
        .container(pods::container("a"))
        .container(pods::container("b").image("other:1"))
        .build();
    add_probe(&mut pod, "a", ProbeKind::Readiness, probe);
    let health = Health {
        pod: "web".to_owned(),
        container: "a".to_owned(),
        kind: ProbeKind::Readiness,
        courses: vec![course],
    };
    Scenario::of(vec![SimPod { pod }], vec![health])
}

/// Whether `a` is told to be ready; `None` when nothing is told of it.
fn a_is_ready(world: &World) -> Option<bool> {
    let rows = world.rows();
    let a = rows.get("web-uid")?.containers.iter().find(|of| of.name == "a")?.clone();
    a.running.map(|_| a.ready)
}

/// Lets time pass until `a` is told so.
async fn wait_for(world: &mut World, ready: bool, most: Duration) -> Result<(), String> {
    let step = Duration::from_millis(10);
    let mut waited = Duration::ZERO;
    while a_is_ready(world) != Some(ready) {
        if waited > most {
            return Err(format!("a is not told to be ready: {ready} within {most:?}"));
        }
        world.pass(step).await?;
        waited += step;
    }
    Ok(())
}

fn check(result: Result<crate::run::Report, Failure>) {
    let failure = result.err();
    assert!(failure.is_none(), "{}", failure.map(|failure| failure.to_string()).unwrap_or_default());
}

#[test]
fn readiness_is_told_while_the_image_of_another_container_is_pulled() {
    check(run(&scenario(every_second(), flapping(5 * SECOND, 20)), async |world, _| {
        let slow = PullScript::takes(300 * SECOND);
        world.cri.script_pull("docker.io/library/other:1", [slow.clone()]);
        world.cri.script_pull("other:1", [slow]);
        world.start().await?;
        wait_for(world, true, 10 * SECOND).await?;
        for turn in 0..10 {
            // A period and a second, and what is left of the turn.
            wait_for(world, turn % 2 == 1, 7 * SECOND).await?;
        }
        let b =
            world.cri.containers_of("web").into_iter().any(|of| of.metadata.is_some_and(|of| of.name == "b"));
        if b { Err("the image of b was there all the time".to_owned()) } else { Ok(()) }
    }));
}

#[test]
fn readiness_is_told_while_the_pod_is_being_killed() {
    check(run(&scenario(every_second(), flapping(5 * SECOND, 20)), async |world, _| {
        for container in ["a", "b"] {
            world.cri.script_container("web", container, [Behaviour::forever().ignoring_sigterm()]);
        }
        world.start().await?;
        world.pass(5 * SECOND).await?;
        wait_for(world, true, 10 * SECOND).await?;
        world.take(&Step::Delete { pod: 0, grace: 30 }).await?;
        world.pass(SECOND).await?;
        for turn in 0..4 {
            wait_for(world, turn % 2 == 1, 7 * SECOND).await?;
        }
        match world.cri.running_containers().len() {
            2 => Ok(()),
            left => Err(format!("{left} containers still run")),
        }
    }));
}

#[test]
fn an_agent_killed_right_after_a_verdict_tells_the_same_when_it_is_back() {
    // Ten seconds until it is asked again, by an agent that has just come back.
    let probe = Probe { period_seconds: Some(10), ..every_second() };
    let course = vec![(15 * SECOND, ill()), (27 * SECOND, well())];
    check(run(&scenario(probe, course), async |world, _| {
        world.start().await?;
        wait_for(world, true, 10 * SECOND).await?;
        for ready in [false, true] {
            wait_for(world, ready, 30 * SECOND).await?;
            world.crash("right after a verdict", Duration::from_millis(200)).await?;
            let asked = world.cri.calls_of(Op::ExecSync);
            world.pass(2 * SECOND).await?;
            if world.cri.calls_of(Op::ExecSync) > asked {
                return Err("it was asked again".to_owned());
            }
            if a_is_ready(world) != Some(ready) {
                return Err(format!("before it was {ready}, then {:?}", a_is_ready(world)));
            }
        }
        Ok(())
    }));
}

#[test]
fn a_verdict_that_comes_while_a_status_is_made_is_not_undone() {
    check(run(&scenario(every_second(), flapping(SECOND, 60)), async |world, _| {
        // The worker reads and publishes all the time, each time from a list that is older than a verdict.
        let ends = Behaviour::exits(Duration::from_millis(300), 0);
        world.cri.script_container("web", "b", [ends]);
        for op in [Op::ListContainers, Op::ListPodSandbox, Op::ContainerStatus] {
            world.cri.set_duration(op, Duration::from_millis(350));
        }
        world.start().await?;
        wait_for(world, true, 10 * SECOND).await?;
        for _ in 0..50 {
            world.cri.end_container("web", "b", 1);
            world.change(0, |wanted| {
                let mut pod = (*wanted.pod).clone();
                let changes = pod.metadata.labels.get_or_insert_default();
                changes.insert("change".to_owned(), changes.len().to_string());
                wanted.pod = std::sync::Arc::new(pod);
            });
            world.pass(Duration::from_millis(730)).await?;
        }
        Ok(())
    }));
}

/// The agent is killed at every call around two changes of readiness, before and after its effect.
#[test]
fn the_agent_may_die_at_every_call_while_verdicts_change() {
    let probe = Probe { period_seconds: Some(2), ..every_second() };
    let scenario = || scenario(probe.clone(), vec![(9 * SECOND, ill()), (13 * SECOND, well())]);
    let mut failed = vec![];
    let mut calls = 0;
    check(run(&scenario(), async |world, _| {
        world.start().await?;
        world.pass(20 * SECOND).await?;
        calls = world.calls();
        Ok(())
    }));
    assert!(calls > 20, "{calls} calls are too few to be true");
    for at in 0..calls {
        for phase in [Phase::Before, Phase::After] {
            let result = run(&scenario(), async |world, _| {
                world.arm(at, phase, Duration::from_millis(700));
                world.start().await?;
                world.pass(30 * SECOND).await?;
                wait_for(world, true, 5 * SECOND).await
            });
            if let Err(failure) = result {
                if failed.is_empty() {
                    println!("crash at call {at}, {phase:?} its effect: {failure}");
                }
                failed.push((at, phase));
            }
        }
    }
    assert!(failed.is_empty(), "{} of {} crash points failed: {failed:?}", failed.len(), calls * 2);
}
