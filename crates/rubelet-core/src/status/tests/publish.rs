//! Tables and properties of the guards between a generated status and the API.

use proptest::prelude::*;

use super::*;

fn merge(pod: &Pod, old: &PodStatus, new: &PodStatus, may_run: bool) -> PodStatus {
    merge_for_update(pod, old, new, may_run, at(2000)).unwrap()
}

#[test]
fn a_terminal_phase_waits_until_nothing_can_run() {
    let up = case(one(), &["app running"]).status();
    let mut evicted = case(one(), &["app running"]).after(&up);
    evicted.failure =
        Some(FailureCause { reason: "Evicted", message: "low", disruption: Some("TerminationByKubelet") });
    let new = evicted.status();
    let held = merge(&evicted.pod, &up, &new, true);
    assert_eq!((held.phase.as_deref(), held.reason.as_deref()), (Some("Running"), None));
    assert!(conditions::find(&held, "DisruptionTarget").is_none());
    let told = merge(&evicted.pod, &held, &new, false);
    assert_eq!((told.phase.as_deref(), told.reason.as_deref()), (Some("Failed"), Some("Evicted")));
    assert_eq!(
        conditions::find(&told, "DisruptionTarget").unwrap().last_transition_time.as_ref().unwrap().0,
        at(2000)
    );
    // Never back.
    let back = merge(&evicted.pod, &told, &up, false);
    assert_eq!((back.phase.as_deref(), back.reason.as_deref()), (Some("Failed"), Some("Evicted")));
    assert_eq!(conditions::find(&back, "Ready").unwrap().status, "False");
    assert_eq!(conditions::find(&back, "Ready").unwrap().reason.as_deref(), Some("PodFailed"));
}

#[test]
fn what_others_own_survives_and_counts_do_not_fall() {
    let new = case(one(), &["app running"]).status();
    let mut old = case(one(), &["app#4 running"]).status();
    old.resource_claim_statuses = Some(vec![Default::default()]);
    old.observed_generation = Some(9);
    old.conditions.as_mut().unwrap().insert(0, PodConditionOf("lb", "True").into());
    let merged = merge(&pod(one()), &old, &new, true);
    assert_eq!(merged.container_statuses.as_ref().unwrap()[0].restart_count, 4);
    assert_eq!(merged.observed_generation, Some(9));
    assert_eq!(merged.resource_claim_statuses, old.resource_claim_statuses);
    assert!(conditions_of(&merged).starts_with("lb=True PodReady"));
}

/// A condition of type and status only.
struct PodConditionOf(&'static str, &'static str);

impl From<PodConditionOf> for k8s_openapi::api::core::v1::PodCondition {
    fn from(of: PodConditionOf) -> Self {
        Self { type_: of.0.to_owned(), status: of.1.to_owned(), ..Self::default() }
    }
}

#[test]
fn a_container_that_ended_for_good_does_not_come_back() {
    let check = |policy: &str, before: &[&str], after: &[&str], legal: bool| {
        let mut spec = one();
        spec["restartPolicy"] = policy.into();
        let old = case(spec.clone(), before).status();
        let new = case(spec.clone(), after).status();
        let merged = merge_for_update(&pod(spec), &old, &new, true, at(0));
        assert_eq!(merged.is_ok(), legal, "{policy} {before:?} {after:?}");
    };
    check("Always", &["app exited 0"], &["app#1 running"], true);
    check("OnFailure", &["app exited 1"], &["app#1 running"], true);
    check("OnFailure", &["app exited 0"], &["app#1 running"], false);
    check("Never", &["app exited 1"], &[], false);
    check("Never", &["app running"], &["app exited 1"], true);
}

#[test]
fn messages_share_the_allowance_of_the_pod() {
    let mut long = case(staged(), &["web exited 1"]);
    long.observed.containers[0].termination_message = Some("m".repeat(4096));
    let new = long.status();
    let merged = merge(&long.pod, &PodStatus::default(), &new, true);
    let web = merged.container_statuses.unwrap().into_iter().find(|c| c.name == "web").unwrap();
    assert_eq!(web.state.unwrap().terminated.unwrap().message.unwrap().len(), 12 * 1024 / 5);
}

#[test]
fn equality_is_what_a_client_can_tell() {
    let base = case(one(), &["app running"]).status();
    let same = |change: fn(&mut PodStatus)| {
        let mut other = base.clone();
        change(&mut other);
        semantically_equal(&base, &other)
    };
    assert!(same(|_| {}));
    assert!(same(|status| status.conditions.as_mut().unwrap().reverse()));
    assert!(same(|status| status.conditions.as_mut().unwrap().push(PodConditionOf("lb", "True").into())));
    assert!(same(|status| status.start_time = Some(Time("1970-01-01T00:16:40.5Z".parse().unwrap()))));
    assert!(same(|status| status.init_container_statuses = Some(vec![])));
    assert!(!same(|status| status.phase = Some("Failed".to_owned())));
    assert!(!same(|status| status.conditions.as_mut().unwrap()[0].status = "False".to_owned()));
    assert!(!same(|status| status.container_statuses.as_mut().unwrap()[0].restart_count = 1));
}

/// What the runtime may show of a container at one moment.
fn words() -> impl Strategy<Value = Vec<String>> {
    let state = prop_oneof![
        Just(None),
        Just(Some("created")),
        Just(Some("running")),
        Just(Some("unknown")),
        Just(Some("exited 0")),
        Just(Some("exited 1")),
        Just(Some("exited 88")),
    ];
    prop::collection::vec((prop::sample::select(vec!["init", "side", "web", "db"]), 0..3u32, state), 0..6)
        .prop_map(|list| {
            list.into_iter()
                .filter_map(|(name, attempt, state)| Some(format!("{name}#{attempt} {}", state?)))
                .collect()
        })
}

proptest! {
    #[test]
    fn published_statuses_never_regress(
        policy in prop::sample::select(vec!["Always", "OnFailure", "Never"]),
        moments in prop::collection::vec((words(), any::<bool>(), 0..3u8), 1..8),
    ) {
        let mut spec = staged();
        spec["restartPolicy"] = policy.into();
        let mut published = PodStatus::default();
        let mut generated: Option<PodStatus> = None;
        for (second, (lines, ready, ending)) in (0_i64..).zip(moments) {
            let lines: Vec<_> = lines.iter().map(String::as_str).collect();
            let mut case = case(spec.clone(), &lines);
            case.observed = observed(&[sandbox(0, ready)], &lines);
            case.previous = generated.clone();
            case.ending = [Ending::No, Ending::Stopping, Ending::Stopped][usize::from(ending)];
            let status = case.status_at(1000 + second);
            if let Some(before) = generated.as_ref().and_then(Phase::of).filter(|phase| phase.is_terminal()) {
                prop_assert_eq!(Phase::of(&status), Some(before));
            }
            // The same facts give the same status again, apart from a container that is counted once.
            case.previous = Some(status.clone());
            let again = case.status_at(2000);
            case.previous = Some(again.clone());
            let settled = semantically_equal(&again, &case.status_at(3000));
            prop_assert!(settled, "{:?}", again);
            let may_run = case.observed.may_run();
            let merged = merge_for_update(&case.pod, &published, &status, may_run, at(1000 + second));
            prop_assert!(merged.is_ok(), "{merged:?}");
            let merged = merged.unwrap();
            let was = Phase::of(&published).filter(|phase| phase.is_terminal());
            let is = Phase::of(&merged).filter(|phase| phase.is_terminal());
            prop_assert!(was.is_none() || was == is);
            prop_assert!(!(was.is_none() && is.is_some() && may_run));
            for old in published.container_statuses.iter().flatten() {
                let new = merged.container_statuses.iter().flatten().find(|c| c.name == old.name).unwrap();
                prop_assert!(new.restart_count >= old.restart_count);
            }
            if is.is_some() {
                prop_assert_eq!(&conditions::find(&merged, "Ready").unwrap().status, "False");
            }
            published = merged;
            generated = Some(status);
        }
    }
}
