//! What the agent costs the API server: requests per pod start, per idle minute, at a restart and after an outage.

use std::time::Duration;

use k8s_openapi::api::core::v1::Event;
use rubelet_testkit::fake_api::{Outage, RecordedRequest};
use tokio::time::Instant;

use crate::run::{run, settle, uid};
use crate::scenario::{Need, Scenario, SimPod, Step};
use crate::world::World;

/// Status writes from a pod's creation to its readiness.
const WRITES: usize = 4;
const MANY: usize = 50;

fn by_kind(requests: &[RecordedRequest]) -> String {
    let mut counts = std::collections::BTreeMap::new();
    for request in requests {
        *counts.entry(request.summary()).or_insert(0) += 1;
    }
    format!("{counts:?}")
}

fn many() -> Scenario {
    Scenario::calm((0..MANY).map(|index| SimPod::steady(&format!("p{index}"))).collect())
}

async fn begin(world: &mut World, scenario: &Scenario) -> Result<(), String> {
    world.start().await?;
    world.pass(Duration::from_secs(2)).await?;
    world.api.take_requests();
    for (_, step) in &scenario.steps {
        world.take(step).await?;
    }
    settle(world).await
}

fn check(scenario: &Scenario, drive: impl AsyncFnOnce(&mut World, &Scenario) -> Result<(), String>) {
    let failure = run(scenario, drive).err();
    assert!(failure.is_none(), "{}", failure.map(|failure| failure.to_string()).unwrap_or_default());
}

fn at_most(what: &str, requests: &[RecordedRequest], most: usize) -> Result<(), String> {
    println!("{what}: {} requests {}", requests.len(), by_kind(requests));
    if requests.len() > most {
        return Err(format!("{what}: {} requests, {most} allowed: {}", requests.len(), by_kind(requests)));
    }
    Ok(())
}

#[test]
fn a_pod_starts_with_few_requests_and_its_events_are_told() {
    let pods = vec![SimPod::steady("web").needing(Need::ConfigVolume, true)];
    check(&Scenario::calm(pods), async |world, scenario| {
        begin(world, scenario).await?;
        world.pass(Duration::from_secs(3)).await?;
        let uid = uid(world, "web");
        let writes = world.judge.writes(&uid);
        if writes > WRITES {
            return Err(format!("{writes} status writes"));
        }
        // Statuses, events, a token, and list and watch of two ConfigMaps.
        at_most("one pod starts", &world.api.take_requests(), WRITES + 4 + 1 + 4 + 1)?;
        let told: Vec<String> = world
            .api
            .list::<Event>("default")
            .into_iter()
            .filter(|event| event.involved_object.uid.as_ref() == Some(&uid))
            .filter_map(|event| event.reason)
            .collect();
        for reason in ["Pulled", "Created", "Started"] {
            if !told.iter().any(|told| told == reason) {
                return Err(format!("nobody tells that it was {reason}: {told:?}"));
            }
        }
        world.take(&Step::Delete { pod: 0, grace: 1 }).await?;
        settle(world).await?;
        at_most("one pod ends", &world.api.take_requests(), 6)
    });
}

#[test]
fn fifty_pods_come_rest_and_survive_a_restart_and_an_outage_with_few_requests() {
    check(&many(), async |world, scenario| {
        begin(world, scenario).await?;
        for pod in &scenario.pods {
            let writes = world.judge.writes(&uid(world, &pod.name));
            if writes > WRITES {
                return Err(format!("{writes} status writes of {}", pod.name));
            }
        }
        world.pass(Duration::from_secs(30)).await?;
        at_most("fifty pods start", &world.api.take_requests(), MANY * (WRITES + 4 + 1) + 20)?;
        world.pass(Duration::from_secs(60)).await?;
        at_most("an idle minute", &world.api.take_requests(), 15)?;

        world.crash(Duration::from_secs(1)).await?;
        world.api.take_requests();
        world.pass(Duration::from_secs(31)).await?;
        let requests = world.api.take_requests();
        if let Some(write) = requests
            .iter()
            .find(|request| request.request.subresource == "status" && request.request.resource == "pods")
        {
            return Err(format!("a status is written after a restart: {:?}", write.json()));
        }
        at_most("a restart", &requests, 20 + MANY)?;

        world.excuse(true);
        world.api.outage(Outage::Refuse);
        world.pass(Duration::from_secs(10)).await?;
        for pod in 0..MANY {
            world.take(&Step::EndContainer(pod)).await?;
        }
        world.api.take_requests();
        world.pass(Duration::from_secs(170)).await?;
        at_most("three minutes of an outage", &world.api.take_requests(), 170)?;
        world.api.outage(Outage::None);
        world.excuse(false);
        let (over, _) = (Instant::now(), world.wire.traffic_since(Instant::now()));
        world.pass(Duration::from_secs(1)).await?;
        let (_, most) = world.wire.traffic_since(over);
        at_most("the first second after it", &world.api.take_requests(), 4 * MANY)?;
        if most > 24 {
            return Err(format!("{most} requests at once"));
        }
        settle(world).await?;
        println!("settled {:.1} s after the outage", over.elapsed().as_secs_f64());
        at_most("the rest", &world.api.take_requests(), 7 * MANY)
    });
}
