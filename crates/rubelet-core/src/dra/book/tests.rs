//! Which claims are prepared, shared and given back, in tables.

use proptest::prelude::*;

use super::*;

fn wanted(name: &str, uid: &str, drivers: &[&str]) -> AllowedClaim {
    AllowedClaim {
        key: ClaimKey::new("ns", name),
        uid: uid.to_owned(),
        drivers: drivers.iter().map(|driver| (*driver).to_owned()).collect(),
    }
}

fn device(name: &str, requests: &[&str], cdi: &[&str]) -> Device {
    let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    Device {
        pool: "pool".to_owned(),
        device: name.to_owned(),
        requests: texts(requests),
        cdi: texts(cdi),
        share: None,
    }
}

fn asked(batches: &Batches) -> Vec<String> {
    let each = batches.iter().flat_map(|(driver, ids)| ids.iter().map(move |id| (driver, id)));
    each.map(|(driver, id)| format!("{driver}:{}", id.key.name)).collect()
}

/// Prepares for a pod as a shell does whose drivers all answer well; gives what they were asked.
fn prepare(book: &mut ClaimBook, pod: &str, claims: &[AllowedClaim]) -> Vec<String> {
    let batches = book.begin(&pod.into(), claims).unwrap();
    for (driver, ids) in &batches {
        for id in ids {
            book.gave(id, driver, vec![device(driver, &[], &[&format!("{driver}/x={}", id.key.name)])]);
        }
    }
    book.prepared(batches.values().flatten());
    asked(&batches)
}

fn unprepare(book: &mut ClaimBook, pod: &str) -> Vec<String> {
    let plan = book.plan_unprepare(&pod.into());
    book.giving_back(&plan);
    book.gone(&pod.into(), &plan);
    asked(&plan.batches)
}

#[test]
fn a_shared_claim_is_prepared_once_and_given_back_by_the_last_pod() {
    let mut book = ClaimBook::default();
    let (own, shared) = (wanted("own", "1", &["a"]), wanted("shared", "2", &["a", "b"]));
    assert_eq!(prepare(&mut book, "p", &[own, shared.clone()]), ["a:own", "a:shared", "b:shared"]);
    assert_eq!(prepare(&mut book, "q", std::slice::from_ref(&shared)), Vec::<String>::new());
    assert_eq!(book.in_use(), ([("a", 2), ("b", 1)].into(), 2));
    assert_eq!(unprepare(&mut book, "p"), ["a:own"]);
    assert!(!book.has_pod(&"p".into()) && book.has_pod(&"q".into()));
    assert_eq!(unprepare(&mut book, "q"), ["a:shared", "b:shared"]);
    assert!(book.is_empty() && book.plan_unprepare(&"q".into()).is_empty());
}

#[test]
fn what_was_not_prepared_to_the_end_is_asked_for_again_and_given_back() {
    let mut book = ClaimBook::default();
    let claim = wanted("c", "1", &["a", "b"]);
    let batches = book.begin(&"p".into(), std::slice::from_ref(&claim)).unwrap();
    book.gave(&batches["a"][0], "a", vec![device("d", &[], &["a/x=1"])]);
    assert_eq!(prepare(&mut book, "p", std::slice::from_ref(&claim)), ["a:c", "b:c"]);
    // A driver that failed to give it back is asked to prepare it for the next pod.
    let plan = book.plan_unprepare(&"p".into());
    book.giving_back(&plan);
    assert_eq!(prepare(&mut book, "q", &[claim]), ["a:c", "b:c"]);
}

#[test]
fn an_agent_that_was_started_anew_asks_again_and_keeps_no_device_twice() {
    let mut book = ClaimBook::default();
    let claim = wanted("c", "1", &["a"]);
    prepare(&mut book, "p", std::slice::from_ref(&claim));
    let mut again = ClaimBook::restore(book.claims().clone());
    assert!(again.knows(&"p".into(), [claim.key.clone()]) && !again.knows(&"q".into(), [claim.key.clone()]));
    assert_eq!(again.in_use().1, 0);
    let whole = ContainerClaim { claim: claim.key.clone(), request: String::new() };
    assert_eq!(again.cdi_devices(std::slice::from_ref(&whole)).unwrap(), ["a/x=c"]);
    assert_eq!(prepare(&mut again, "p", std::slice::from_ref(&claim)), ["a:c"]);
    assert_eq!(again, book);
}

#[test]
fn a_claim_made_anew_waits_for_the_old_one() {
    let mut book = ClaimBook::default();
    prepare(&mut book, "p", &[wanted("c", "1", &["a"])]);
    let before = book.clone();
    let error = book.begin(&"q".into(), &[wanted("new", "3", &["a"]), wanted("c", "2", &["a"])]).unwrap_err();
    assert!(error.to_string().contains("different UID 1"), "{error}");
    assert_eq!(book, before);
}

#[test]
fn a_driver_that_is_new_to_a_claim_is_asked() {
    let mut book = ClaimBook::default();
    prepare(&mut book, "p", &[wanted("c", "1", &["a"])]);
    assert_eq!(prepare(&mut book, "q", &[wanted("c", "1", &["b"])]), ["b:c"]);
    let plan = book.plan_unprepare(&"p".into());
    assert_eq!(plan.shared.len(), 1);
}

#[test]
fn containers_get_the_devices_of_their_requests() {
    let mut book = ClaimBook::default();
    let claim = wanted("c", "1", &["a", "b"]);
    let batches = book.begin(&"p".into(), std::slice::from_ref(&claim)).unwrap();
    let devices = vec![device("1", &["gpu"], &["a/x=1"]), device("2", &["nic"], &["a/x=2", "a/x=3"])];
    book.gave(&batches["a"][0], "a", devices);
    book.gave(&batches["b"][0], "b", vec![device("3", &[], &["b/x=1"]), device("4", &["gpu"], &[])]);
    let check = |requests: &[&str], expected: &[&str]| {
        let request =
            |request: &&str| ContainerClaim { claim: claim.key.clone(), request: (*request).to_owned() };
        let wanted: Vec<_> = requests.iter().map(request).collect();
        assert_eq!(book.cdi_devices(&wanted).unwrap(), expected, "{requests:?}");
    };
    check(&[""], &["a/x=1", "a/x=2", "a/x=3", "b/x=1"]);
    check(&["gpu"], &["a/x=1", "b/x=1"]);
    check(&["gpu/large"], &["a/x=1", "b/x=1"]);
    check(&["gpu", "nic"], &["a/x=1", "b/x=1", "a/x=2", "a/x=3"]);
    check(&["other"], &["b/x=1"]);
    let lost = ContainerClaim { claim: ClaimKey::new("ns", "lost"), request: String::new() };
    assert_eq!(book.cdi_devices(&[lost]).unwrap_err().name, "lost");
}

#[test]
fn pods_of_a_device_are_found() {
    let mut book = ClaimBook::default();
    prepare(&mut book, "p", &[wanted("c", "1", &["a"])]);
    let of = |driver: &str, name: &str| {
        book.pods_with(driver, &[("pool".to_owned(), name.to_owned())].into()).len()
    };
    assert_eq!((of("a", "a"), of("a", "b"), of("b", "a")), (1, 0, 0));
}

proptest! {
    /// Whatever pods come, fail, end and whenever the agent is started anew: no driver has a claim that the book has not,
    /// none is asked to take back a claim that a pod uses, and in the end nothing is left.
    #[test]
    fn drivers_and_book_agree(steps in prop::collection::vec((0..4_u8, 0..4_usize, 0..3_usize, any::<bool>()), 0..60)) {
        let claims: Vec<_> = (0..3).map(|n| wanted(&format!("c{n}"), &n.to_string(), &["a", "b"][..n.min(1) + 1])).collect();
        let mut book = ClaimBook::default();
        // What drivers have, and what pods run with.
        let mut held: BTreeSet<(String, String)> = BTreeSet::new();
        let mut running: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        for (step, pod, claim, fails) in steps {
            let uid = PodUid::from(format!("p{pod}").as_str());
            match step {
                0 | 1 => {
                    let batches = book.begin(&uid, &claims[claim..=claim]).unwrap();
                    for (driver, ids) in &batches {
                        held.extend(ids.iter().map(|id| (driver.clone(), id.key.name.clone())));
                    }
                    if !fails {
                        book.prepared(batches.values().flatten());
                        running.entry(pod).or_default().insert(claim);
                    }
                }
                2 => {
                    let plan = book.plan_unprepare(&uid);
                    for (driver, id) in plan.batches.iter().flat_map(|(d, ids)| ids.iter().map(move |id| (d, id))) {
                        let used = running.iter().any(|(other, of)| *other != pod
                            && of.iter().any(|claim| claims[*claim].key == id.key));
                        prop_assert!(!used, "{driver} {id:?}");
                    }
                    running.remove(&pod);
                    book.giving_back(&plan);
                    if !fails {
                        for (driver, ids) in &plan.batches {
                            held.retain(|(of, name)| of != driver || ids.iter().all(|id| id.key.name != *name));
                        }
                        book.gone(&uid, &plan);
                    }
                }
                _ => book = ClaimBook::restore(book.claims().clone()),
            }
            for (driver, name) in &held {
                let entry = book.get(&ClaimKey::new("ns", name));
                prop_assert!(entry.is_some_and(|entry| entry.drivers.contains_key(driver)));
            }
            for (pod, of) in &running {
                let uid = PodUid::from(format!("p{pod}").as_str());
                prop_assert!(book.knows(&uid, of.iter().map(|claim| claims[*claim].key.clone())));
            }
        }
        for uid in book.pods() {
            let plan = book.plan_unprepare(&uid);
            for (driver, ids) in &plan.batches {
                held.retain(|(of, name)| of != driver || ids.iter().all(|id| id.key.name != *name));
            }
            book.gone(&uid, &plan);
        }
        prop_assert!(book.is_empty() && held.is_empty(), "{book:?} {held:?}");
    }
}
