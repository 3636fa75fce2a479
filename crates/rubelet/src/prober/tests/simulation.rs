//! Anything may happen in any order: pods come, go, end, are told again, containers are replaced, answers take any time.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    /// A pod's containers are told; the number is that of the instance that runs, if one does.
    Track {
        pod: u8,
        instance: Option<u8>,
        ending: bool,
        exec: bool,
    },
    Forget(u8),
    Pause(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..4_u8, proptest::option::weighted(0.8, 0..3_u8), proptest::bool::weighted(0.1), any::<bool>())
            .prop_map(|(pod, instance, ending, exec)| Step::Track { pod, instance, ending, exec }),
        1 => (0..4_u8).prop_map(Step::Forget),
        4 => (1..5000_u16).prop_map(Step::Pause),
    ]
}

/// What a container answers and how long that takes, by numbers that the test drew.
fn answer(seeds: &[u8], ask: &Ask, before: usize) -> Answer {
    let seed = seeds[(before * 7 + ask.id.as_str().len() + ask.kind as usize * 3) % seeds.len()];
    let outcome = match seed % 5 {
        0 | 1 => ProbeOutcome::Success,
        2 => ProbeOutcome::Failure("no".to_owned()),
        3 => ProbeOutcome::Warning("hm".to_owned()),
        _ => ProbeOutcome::Error("none".to_owned()),
    };
    match seed {
        250.. => Answer::Never,
        240.. => Answer::Panic,
        _ => Answer::At(Duration::from_millis(u64::from(seed / 5) * 40), outcome),
    }
}

async fn simulate(steps: Vec<Step>, seeds: Vec<u8>) {
    let open: Arc<Mutex<BTreeSet<(String, ProbeKind)>>> = Arc::default();
    let world = World::new({
        let seeds = seeds.clone();
        move |ask, before| answer(&seeds, ask, before)
    });
    let mut running: BTreeMap<u8, Option<u8>> = BTreeMap::new();
    let mut ended = BTreeSet::new();
    for step in steps {
        let asked = world.asked();
        match step {
            Step::Track { pod, instance, ending, exec: is_exec } => {
                let probe = json!({
                    "startupProbe": {"periodSeconds": 1, "failureThreshold": 3},
                    "livenessProbe": {"periodSeconds": 2, "failureThreshold": 2},
                    "readinessProbe": {"periodSeconds": 1, "failureThreshold": 1},
                });
                let uid = format!("u{pod}");
                let mut told = world.pod(&uid, if is_exec { exec(probe) } else { http(probe) });
                match instance {
                    Some(instance) => told.running[0].id = format!("{uid}-{instance}").into(),
                    None => told.running.clear(),
                }
                told.ending = ending;
                let was_tracked = running.contains_key(&pod);
                if was_tracked || instance.is_some() {
                    running.insert(pod, instance);
                    if ending {
                        ended.insert(pod);
                    }
                }
                world.prober.track(told);
            }
            Step::Forget(pod) => {
                running.remove(&pod);
                ended.remove(&pod);
                world.prober.forget(&format!("u{pod}").as_str().into());
            }
            Step::Pause(milliseconds) => {
                sleep(Duration::from_millis(u64::from(milliseconds))).await;
                let asked = world.script.asked.lock().unwrap()[asked..].to_vec();
                for Asked { id, kind, .. } in asked {
                    let (pod, instance) = id[1..].split_once('-').unwrap();
                    let (pod, instance): (u8, u8) = (pod.parse().unwrap(), instance.parse().unwrap());
                    assert_eq!(running.get(&pod), Some(&Some(instance)), "only what runs is asked");
                    assert!(kind == ProbeKind::Readiness || !ended.contains(&pod), "{id} ends, and {kind:?}");
                }
                let alive = running.values().flatten().count();
                assert!(world.prober.in_flight() <= 2 * alive, "one of each probe at a time");
                open.lock().unwrap().clear();
            }
        }
    }
    // What was told last of an instance is what is known of it.
    let told: BTreeMap<_, _> = world.sink.told().into_iter().map(|(_, id, verdict)| (id, verdict)).collect();
    for (id, verdict) in world.prober.shared.book().verdicts() {
        let told = told.get(id.as_str()).copied();
        // An instance that was gone for a while and came back is told anew; one that ends forgets what would kill it.
        if let Some(told) = told.filter(|_| verdict != Verdict::default()) {
            assert_eq!((told.ready, told.started), (verdict.ready, verdict.started), "{id}");
        }
    }
    for pod in 0..4 {
        world.prober.forget(&format!("u{pod}").as_str().into());
    }
    sleep(Duration::from_millis(1)).await;
    assert!(world.prober.shared.book().is_empty());
    assert_eq!((world.prober.in_flight(), world.script.open.load(Ordering::Relaxed)), (0, 0));
    assert_eq!(world.samples("prober_probe").len(), 0);
    assert!(!world.task.is_finished());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_happens_only_what_runs_is_asked_and_nothing_is_left(
        steps in proptest::collection::vec(step(), 1..60),
        seeds in proptest::collection::vec(any::<u8>(), 1..50),
    ) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().unwrap();
        runtime.block_on(simulate(steps, seeds));
    }
}
