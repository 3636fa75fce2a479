//! Whatever happens in between, in the end the API says what was published last, pods that ended are gone, and the
//! number of requests has a bound.

use proptest::prelude::*;
use rubelet_testkit::fake_api::{Failure, Fault};

use super::*;

#[derive(Clone, Debug)]
enum Act {
    Publish(usize, usize),
    Overwrite(usize, usize),
    Delete(usize),
    Replace(usize),
    Fail(usize, usize),
    Remember,
    ShowRemembered,
    Sync,
    Pass(u32),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let pod = 0..3usize;
    prop::collection::vec(
        prop_oneof![
            6 => (pod.clone(), 0..6usize).prop_map(|(pod, status)| Act::Publish(pod, status)),
            2 => (pod.clone(), 0..6usize).prop_map(|(pod, status)| Act::Overwrite(pod, status)),
            1 => pod.clone().prop_map(Act::Delete),
            1 => pod.prop_map(Act::Replace),
            2 => (0..5usize, 1..4usize).prop_map(|(kind, times)| Act::Fail(kind, times)),
            1 => Just(Act::Remember),
            1 => Just(Act::ShowRemembered),
            3 => Just(Act::Sync),
            4 => (0..4000u32).prop_map(Act::Pass),
        ],
        0..40,
    )
}

fn some_status(choice: usize) -> Value {
    status(["Pending", "Running"][choice / 3], choice % 2 == 1, ["10.0.0.1", "10.0.0.2"][choice % 3 / 2])
}

async fn run(acts: &[Act]) -> Result<(), TestCaseError> {
    let bench = Bench::new();
    let name = |pod: usize| format!("p{pod}");
    let mut pods: Vec<Pod> = (0..3).map(|pod| bench.pod(&name(pod))).collect();
    let mut told = [None; 3];
    let mut remembered = None;
    let mut faults = Vec::new();
    for act in acts {
        match act {
            Act::Publish(pod, choice) => {
                bench.publish(&pods[*pod], some_status(*choice));
                told[*pod] = Some(*choice);
            }
            Act::Overwrite(pod, choice) => {
                bench.api.modify_status::<Pod>("default", &name(*pod), |pod| {
                    pod.status = serde_json::from_value(some_status(*choice)).unwrap();
                });
            }
            Act::Delete(pod) => {
                bench.api.delete::<Pod>("default", &name(*pod));
            }
            Act::Replace(pod) => {
                bench.remove(&pods[*pod], ended());
                bench.api.delete_with_grace::<Pod>("default", &name(*pod), 0);
                let kept = bench.seen();
                pods[*pod] = bench.pod(&name(*pod));
                told[*pod] = None;
                bench.show(kept);
            }
            Act::Fail(kind, times) => {
                let failure = match kind {
                    0 => Failure::Reset,
                    1 => Failure::ResetAfter,
                    2 => Failure::Garbage,
                    3 => Failure::Status(429, Some(1)),
                    _ => Failure::Status(500, None),
                };
                faults.push(bench.api.fail(Fault::on("*", "*", failure).times(*times)));
            }
            Act::Remember => remembered = Some(bench.seen()),
            Act::ShowRemembered => remembered.clone().into_iter().for_each(|view| bench.show(view)),
            Act::Sync => bench.sync(),
            Act::Pass(millis) => pass(f64::from(*millis) / 1000.0).await,
        }
    }
    faults.iter().for_each(|fault| fault.stop());
    for _ in 0..4 {
        bench.sync();
        pass(100.0).await;
    }
    for (pod, choice) in told.iter().enumerate() {
        let Some(choice) = choice else { continue };
        let held = bench.held(&name(pod));
        let wanted: PodStatus = serde_json::from_value(some_status(*choice)).unwrap();
        prop_assert_eq!(&held.phase, &wanted.phase, "p{}", pod);
        prop_assert_eq!(&held.pod_ips, &wanted.pod_ips, "p{}", pod);
        let verdict = |status: &PodStatus| status.conditions.as_ref().unwrap()[0].status.clone();
        prop_assert_eq!(verdict(&held), verdict(&wanted), "p{}", pod);
    }
    prop_assert_eq!(*bench.pending.borrow(), 0);
    let requests = bench.sent().len();
    prop_assert!(requests <= 4 * acts.len() + 8, "{} requests for {} acts", requests, acts.len());
    // At rest nothing is sent, and the end of a pod is told to the end.
    bench.api.take_requests();
    pass(1000.0).await;
    prop_assert_eq!(bench.sent().len(), 0);
    for (number, pod) in pods.iter().enumerate() {
        bench.api.delete::<Pod>("default", &name(number));
        bench.sync();
        bench.remove(pod, ended());
    }
    pass(100.0).await;
    prop_assert!(bench.seen().by_uid.is_empty());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn the_api_ends_up_saying_what_was_published_last(acts in acts()) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(run(&acts))?;
    }
}

/// The answer to our write shows what someone else wrote before it; that is not ours to leave.
#[tokio::test(start_paused = true)]
async fn an_overwrite_that_the_watch_did_not_show_is_found_in_the_answer() {
    run(&[Act::Overwrite(2, 3), Act::Publish(2, 0), Act::Pass(1)]).await.unwrap();
}
