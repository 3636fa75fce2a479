//! The agent killed at every single request, before and after its effect, while pods and a mirror come and while they
//! go.

use std::time::Duration;

use rubelet_testkit::scripted::Phase;

use crate::gate::{CrashPoint, Side};
use crate::run::{Failure, run, settle};
use crate::scenario::{Need, Scenario, SimPod, Step};
use crate::world::World;

const DOWN: Duration = Duration::from_millis(700);

fn scenario() -> Scenario {
    Scenario::calm(vec![
        SimPod::steady("web").needing(Need::ConfigVolume, true),
        SimPod::steady("db").needing(Need::SecretEnv, true).gated(),
        SimPod::manifest("proxy"),
    ])
}

async fn begin(world: &mut World, scenario: &Scenario) -> Result<(), String> {
    world.start().await?;
    for (pause, step) in &scenario.steps {
        world.pass(*pause).await?;
        world.take(step).await?;
    }
    Ok(())
}

async fn end(world: &mut World) -> Result<(), String> {
    world.take(&Step::Delete { pod: 0, grace: 2 }).await?;
    world.take(&Step::Delete { pod: 2, grace: 0 }).await?;
    world.set_gate(1, true);
    Ok(())
}

/// How many requests a calm start, and a calm end, take.
fn requests_of(ends: bool) -> u64 {
    let mut requests = 0;
    let counted = run(&scenario(), async |world, scenario| {
        begin(world, scenario).await?;
        settle(world).await?;
        requests = world.gate.requests();
        if ends {
            end(world).await?;
            settle(world).await?;
            world.pass(Duration::from_secs(3)).await?;
            requests = world.gate.requests() - requests;
        }
        Ok(())
    });
    let failed = counted.err().map(|failure| failure.to_string());
    assert_eq!(failed, None, "a calm run fails");
    requests
}

/// An agent that comes back while a pod goes may ask once more for what the pod needed, just when it is gone.
const LATE: usize = 3;

fn few_refused(world: &World) -> Result<(), String> {
    let refused = world.api.violations();
    if refused.len() > LATE {
        return Err(format!(
            "it asked {} times for what it may not have: {:?}",
            refused.len(),
            refused[LATE]
        ));
    }
    Ok(())
}

fn crash(at: u64, phase: Phase, in_the_end: bool) -> Result<(), Failure> {
    let point = CrashPoint { side: Side::Api, countdown: at, phase };
    run(&scenario(), async |world, scenario| {
        if in_the_end {
            begin(world, scenario).await?;
            settle(world).await?;
            world.arm(point, DOWN);
            end(world).await?;
        } else {
            world.arm(point, DOWN);
            begin(world, scenario).await?;
        }
        world.pass(Duration::from_secs(15)).await?;
        world.gate.arm(None);
        settle(world).await?;
        world.pass(Duration::from_secs(90)).await?;
        few_refused(world)
    })
    .map(|_| ())
}

fn at_every_request(in_the_end: bool, least: u64) {
    let requests = requests_of(in_the_end);
    assert!(requests > least, "{requests} requests are too few to be true");
    let mut failed = Vec::new();
    for at in 0..requests {
        for phase in [Phase::Before, Phase::After] {
            if let Err(failure) = crash(at, phase, in_the_end) {
                if failed.is_empty() {
                    println!("crash at request {at}, {phase:?} its effect: {failure}");
                }
                failed.push((at, phase));
            }
        }
    }
    assert!(failed.is_empty(), "{} of {} crash points failed: {failed:?}", failed.len(), requests * 2);
}

#[test]
fn the_agent_may_die_at_every_request_while_pods_come() {
    at_every_request(false, 25);
}

#[test]
fn the_agent_may_die_at_every_request_while_pods_go() {
    at_every_request(true, 5);
}
