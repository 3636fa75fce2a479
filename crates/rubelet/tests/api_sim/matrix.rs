//! The fault matrix: one fault at a time, for two minutes, over a node on which things happen, and what must come of
//! it. docs/testing.md shows the same table.

use std::time::Duration;

use rubelet_testkit::fake_api::{Failure, Fault, FaultHandle, Outage};
use rubelet_testkit::scripted::Behaviour;
use tokio::time::Instant;

use crate::judge::condition;
use crate::run::{pod, run};
use crate::scenario::{Kind, Need, Scenario, SimPod, Step};
use crate::settled::unsettled;
use crate::world::World;

/// How long each fault lasts.
const LASTS: Duration = Duration::from_secs(120);

/// What goes wrong.
enum Trouble {
    /// Every such request fails.
    Requests(&'static str, &'static str, Failure),
    /// The server is away.
    Away(Outage),
    /// Something happens once.
    Once(fn(&World)),
    /// The node's clock is set, in seconds.
    Clock(i64),
}

/// Whether a pod that is created meanwhile is ready before the fault is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum New {
    Ready,
    /// It runs, and the API is not told.
    Untold,
    Waits,
}

/// One line of the matrix.
struct Row {
    name: &'static str,
    trouble: Trouble,
    new: New,
    /// Everybody agrees again within these seconds after the fault.
    within: u64,
}

fn row(name: &'static str, trouble: Trouble, new: New, within: u64) -> Row {
    Row { name, trouble, new, within }
}

fn all(failure: Failure) -> Trouble {
    Trouble::Requests("*", "*", failure)
}

fn matrix() -> Vec<Row> {
    use Trouble::{Away, Clock, Once, Requests};
    let status = |code| Failure::Status(code, None);
    let slow = Failure::SlowBody(Duration::from_secs(20));
    vec![
        row("401 to everything", all(status(401)), New::Waits, 40),
        row("403 to everything", all(status(403)), New::Waits, 320),
        row("409 to status writes", Requests("patch", "pods/status", status(409)), New::Untold, 60),
        row("409 to the lease", Requests("update", "leases", status(409)), New::Ready, 20),
        row("410 to lists and watches", Requests("watch", "pods", status(410)), New::Ready, 40),
        row("410 in every watch", Requests("watch", "pods", Failure::Expire), New::Ready, 40),
        row("429 with Retry-After to everything", all(Failure::Status(429, Some(2))), New::Waits, 40),
        row("500 to everything", all(status(500)), New::Waits, 40),
        row("500 to tokens", Requests("create", "serviceaccounts/token", status(500)), New::Waits, 40),
        row("403 to tokens", Requests("create", "serviceaccounts/token", status(403)), New::Waits, 120),
        row("500 to events", Requests("*", "events", status(500)), New::Ready, 20),
        row("503 to everything", all(Failure::Status(503, Some(1))), New::Waits, 40),
        row("504 to status writes", Requests("patch", "pods/status", status(504)), New::Untold, 40),
        row("every connection is reset", all(Failure::Reset), New::Waits, 40),
        row("reset after the effect", all(Failure::ResetAfter), New::Waits, 60),
        row(
            "status writes are never answered",
            Requests("patch", "pods/status", Failure::Hang),
            New::Untold,
            60,
        ),
        row("watches of pods fall silent", Requests("watch", "pods", Failure::HalfOpen), New::Ready, 60),
        row("lists of pods are slow", Requests("list", "pods", slow.clone()), New::Ready, 20),
        row("everything is slow", all(slow), New::Waits, 120),
        row("answers are cut off", all(Failure::CutBody), New::Waits, 60),
        row("answers are garbage", all(Failure::Garbage), New::Waits, 60),
        row("watches send garbage", Requests("watch", "*", Failure::Garbage), New::Ready, 40),
        row("watches end at once", Requests("watch", "*", Failure::CloseWatch), New::Ready, 40),
        row("the server refuses connections", Away(Outage::Refuse), New::Waits, 40),
        row("the server is half open", Away(Outage::Hang), New::Waits, 60),
        row("all watches are reset", Once(|world| world.api.reset_watches("")), New::Ready, 20),
        row("all watches expire", Once(|world| world.api.expire_watches("")), New::Ready, 20),
        row("one garbled frame in each watch", Once(|world| world.api.garble_watches("")), New::Ready, 20),
        row("history is compacted and watches end", Once(compact), New::Ready, 20),
        row("the clock is set an hour ahead", Clock(3600), New::Ready, 20),
        row("the clock is set an hour back", Clock(-3600), New::Ready, 20),
    ]
}

fn compact(world: &World) {
    world.api.compact();
    world.api.close_watches("");
}

fn scenario() -> Scenario {
    let mut crashing = SimPod::steady("crashing");
    crashing.kind = Kind::Crashing;
    crashing.behaviours = vec![Behaviour::exits(Duration::from_secs(40), 1), Behaviour::forever()];
    let mut scenario = Scenario::calm(vec![
        SimPod::steady("web").needing(Need::ConfigVolume, true),
        crashing,
        SimPod::manifest("proxy"),
        SimPod::steady("leaving"),
        SimPod::steady("new").needing(Need::SecretEnv, true),
    ]);
    // The last one is created while the fault lasts.
    scenario.steps.pop();
    scenario
}

/// Begins the trouble. Gives what ends it.
fn begin(world: &World, trouble: &Trouble) -> Option<FaultHandle> {
    match trouble {
        Trouble::Requests(verb, resource, failure) => {
            return Some(world.api.fail(Fault::on(verb, resource, failure.clone())));
        }
        Trouble::Away(outage) => world.api.outage(*outage),
        Trouble::Once(happens) => happens(world),
        Trouble::Clock(seconds) => world.set_clock(*seconds),
    }
    None
}

fn check(row: &Row) -> Result<Duration, String> {
    let mut took = Duration::ZERO;
    run(&scenario(), async |world, scenario| {
        world.start().await?;
        for (_, step) in &scenario.steps {
            world.take(step).await?;
        }
        world.pass(Duration::from_secs(10)).await?;
        if let Some(problem) = unsettled(world) {
            return Err(format!("it is not even settled before: {problem}"));
        }
        world.excuse(true);
        let fault = begin(world, &row.trouble);
        if let Trouble::Requests("watch", _, _) = row.trouble {
            // Watches that are open have to be opened again to meet it.
            world.api.close_watches("");
        }
        world.take(&Step::Create(4)).await?;
        world.take(&Step::Delete { pod: 3, grace: 2 }).await?;
        let silent =
            matches!(row.trouble, Trouble::Away(Outage::Hang) | Trouble::Requests(_, _, Failure::HalfOpen));
        for _ in 0..LASTS.as_secs() / 15 {
            world.pass(Duration::from_secs(15)).await?;
            if silent {
                // The keep-alive of the connections.
                world.wire.cut();
            }
        }
        let runs = |name: &str| {
            world.cri.running_containers().iter().any(|running| running.subject.pod_name == name)
        };
        if !runs("crashing") {
            return Err("what crashed is not started again while the fault lasts".to_owned());
        }
        let told = pod(world, "new").is_some_and(|pod| condition(&pod, "Ready") == Some("True"));
        let new = match (runs("new"), told) {
            (true, true) => New::Ready,
            (true, false) => New::Untold,
            (false, _) => New::Waits,
        };
        if new != row.new {
            return Err(format!("a new pod is {new:?} in the end of the fault, not {:?}", row.new));
        }
        if let Some(fault) = fault {
            fault.stop();
        }
        world.api.outage(Outage::None);
        if silent {
            world.wire.cut();
        }
        world.excuse(false);
        let over = Instant::now();
        while let Some(problem) = unsettled(world) {
            if over.elapsed() > Duration::from_secs(row.within) {
                return Err(format!("not settled {} s after the fault: {problem}", row.within));
            }
            world.pass(Duration::from_millis(500)).await?;
        }
        took = over.elapsed();
        // Heartbeats and all: nothing limps.
        world.pass(Duration::from_secs(60)).await?;
        unsettled(world).map_or(Ok(()), |problem| Err(format!("it was settled and is no longer: {problem}")))
    })
    .map_err(|failure| failure.to_string())?;
    Ok(took)
}

#[test]
fn every_fault_of_the_matrix_has_its_outcome() {
    let mut failed = Vec::new();
    for row in matrix() {
        match check(&row) {
            Ok(took) => {
                println!("| {} | {:?} | {} s | {:.1} s |", row.name, row.new, row.within, took.as_secs_f64())
            }
            Err(problem) => {
                let headline = problem.lines().next().unwrap_or_default().to_owned();
                println!("{}: {}", row.name, if failed.is_empty() { &problem } else { &headline });
                failed.push(format!("{}: {headline}", row.name));
            }
        }
    }
    assert!(failed.is_empty(), "{} rows failed:\n{}", failed.len(), failed.join("\n"));
}
