//! A status brought up to new verdicts says what a whole new one would say; and what probes make of a container.

use proptest::prelude::*;

use super::*;

const NAMES: [&str; 3] = ["side", "web", "db"];

/// An init container, a sidecar and two app containers with these probes (startup, readiness), and a readiness gate.
fn probed_spec(probes: &[(bool, bool)]) -> Value {
    let container = |index: usize| {
        let mut container = json!({"name": NAMES[index]});
        let (startup, readiness) = probes[index];
        if startup {
            container["startupProbe"] = json!({});
        }
        if readiness {
            container["readinessProbe"] = json!({});
        }
        container
    };
    let mut side = container(0);
    side["restartPolicy"] = "Always".into();
    json!({
        "readinessGates": [{"conditionType": "lb"}],
        "initContainers": [{"name": "init"}, side],
        "containers": [container(1), container(2)],
    })
}

fn verdict() -> impl Strategy<Value = Option<Verdict>> {
    let word = || prop::option::of(any::<bool>());
    prop::option::of((word(), word(), any::<bool>()).prop_map(|(started, ready, liveness_failed)| Verdict {
        started,
        ready,
        liveness_failed,
        startup_failed: false,
    }))
}

fn verdicts(of: &[Option<Verdict>], probing: bool) -> ProbeVerdicts {
    let named = NAMES.iter().zip(of);
    let known = named.filter_map(|(name, verdict)| Some((format!("{name}-0").into(), (*verdict)?)));
    ProbeVerdicts { by_container: known.collect(), probing }
}

proptest! {
    #[test]
    fn it_equals_what_would_be_generated(
        probes in prop::collection::vec(any::<(bool, bool)>(), 3),
        states in prop::collection::vec(prop::sample::select(vec!["running", "running", "exited 1", "created", "absent"]), 3),
        before in prop::collection::vec(verdict(), 3),
        after in prop::collection::vec(verdict(), 3),
        probing in any::<(bool, bool)>(),
        gate in prop::option::of(any::<bool>()),
        initialized in any::<bool>(),
    ) {
        let lines: Vec<_> = NAMES.iter().zip(&states).map(|(name, state)| format!("{name} {state}")).collect();
        let mut lines: Vec<_> = lines.iter().map(String::as_str).filter(|line| !line.ends_with("absent")).collect();
        lines.push(if initialized { "init exited 0" } else { "init running" });
        let mut case = case(probed_spec(&probes), &lines);
        if let Some(open) = gate {
            let open = if open { "True" } else { "False" };
            case.pod.status = Some(serde_json::from_value(json!({"conditions": [{"type": "lb", "status": open}]})).unwrap());
        }
        case.verdicts = verdicts(&before, probing.0);
        let published = case.status_at(1000);
        case.verdicts = verdicts(&after, probing.1);
        let case = case.after(&published);
        let generated = case.status_at(2000);
        let mut reprobed = with_verdicts(&case.pod, &published, &case.verdicts, at(2000));
        let sidecar = |status: &PodStatus| status.init_container_statuses.as_ref().unwrap()[1].started;
        if sidecar(&published) != sidecar(&generated) {
            reprobed.phase = generated.phase.clone();
        }
        prop_assert_eq!(&reprobed, &generated);
        prop_assert_eq!(with_verdicts(&case.pod, &reprobed, &case.verdicts, at(3000)), generated);
    }
}

#[test]
fn a_change_of_readiness_changes_two_conditions_and_their_times() {
    let spec = json!({"containers": [{"name": "app", "readinessProbe": {}}]});
    let ready = |ready| Verdict { ready: Some(ready), ..Verdict::default() };
    let before = case(spec.clone(), &["app running"]).verdict("app-0", ready(false)).status_at(1000);
    let case = case(spec, &["app running"]).verdict("app-0", ready(true));
    let after = with_verdicts(&case.pod, &before, &case.verdicts, at(2000));
    assert_eq!(containers(&after), "Running: app=Running started ready");
    let changed: Vec<_> = after
        .conditions
        .iter()
        .flatten()
        .filter(|condition| condition.last_transition_time.as_ref().unwrap().0 == at(2000))
        .map(|condition| format!("{}={}", condition.type_, condition.status))
        .collect();
    assert_eq!(changed, ["Ready=True", "ContainersReady=True"]);
    // A verdict on another instance of the container is none on this one.
    let mut other = before.clone();
    other.container_statuses.as_mut().unwrap()[0].container_id = Some("containerd://app-9".to_owned());
    assert_eq!(with_verdicts(&case.pod, &other, &case.verdicts, at(2000)), other);
}

#[test]
fn what_ended_stays_as_it_is() {
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "app", "readinessProbe": {}}]});
    let well = Verdict { ready: Some(true), ..Verdict::default() };
    for line in ["app exited 0", "app exited 3", "app created"] {
        let case = case(spec.clone(), &[line]).verdict("app-0", well);
        let status = case.status_at(1000);
        assert!(!status.container_statuses.as_ref().unwrap()[0].ready);
        assert_eq!(with_verdicts(&case.pod, &status, &case.verdicts, at(2000)), status, "{line}");
    }
    let rejected = rejected(&pod(spec), "NodeAffinity", "no", at(5));
    assert_eq!(with_verdicts(&pod(one()), &rejected, &ProbeVerdicts::default(), at(2000)), rejected);
}

#[test]
fn sidecars_and_init_containers_are_judged_like_upstream() {
    let spec = |side: Value| {
        let mut sidecar = json!({"name": "side", "restartPolicy": "Always"});
        sidecar.as_object_mut().unwrap().extend(side.as_object().unwrap().clone());
        json!({"initContainers": [sidecar, {"name": "init"}], "containers": [{"name": "app"}]})
    };
    let check = |side: Value, lines: &[&str], verdict: Verdict, expected: &str| {
        let status = case(spec(side), lines).verdict("side-0", verdict).status();
        let told = super::containers(&status);
        assert_eq!(told.split("; app").next().unwrap(), expected);
    };
    let (startup, readiness) = (json!({"startupProbe": {}}), json!({"readinessProbe": {}}));
    let said = |started, ready| Verdict { started, ready, ..Verdict::default() };
    check(
        json!({}),
        &["side running"],
        said(None, None),
        "Pending: side=Running started ready; init=Waiting(PodInitializing)",
    );
    // A regular init container that runs has started, and is ready only when it is done.
    check(
        json!({}),
        &["side running", "init running"],
        said(None, None),
        "Pending: side=Running started ready; init=Running started",
    );
    check(
        startup.clone(),
        &["side running"],
        said(None, None),
        "Pending: side=Running; init=Waiting(PodInitializing)",
    );
    check(
        startup.clone(),
        &["side running"],
        Verdict { startup_failed: true, ..said(Some(false), None) },
        "Pending: side=Running; init=Waiting(PodInitializing)",
    );
    check(
        startup,
        &["side running"],
        said(Some(true), None),
        "Pending: side=Running started ready; init=Waiting(PodInitializing)",
    );
    check(
        readiness.clone(),
        &["side running"],
        said(None, None),
        "Pending: side=Running started; init=Waiting(PodInitializing)",
    );
    check(
        readiness.clone(),
        &["side running"],
        said(None, Some(true)),
        "Pending: side=Running started ready; init=Waiting(PodInitializing)",
    );
    check(
        readiness,
        &["side exited 1"],
        said(None, Some(true)),
        "Pending: side=1(); init=Waiting(PodInitializing)",
    );
}

#[test]
fn an_end_by_a_signal_names_the_signal() {
    let check = |line: &str, expected: Option<i32>| {
        let status = case(one(), &[line]).status();
        let state = status.container_statuses.unwrap()[0].state.clone().unwrap();
        assert_eq!(state.terminated.unwrap().signal, expected, "{line}");
    };
    check("app exited 137 reason=Error", Some(9));
    check("app exited 137 reason=OOMKilled", Some(9));
    check("app exited 143", Some(15));
    check("app exited 129", Some(1));
    check("app exited 159", Some(31));
    check("app exited 128", None);
    check("app exited 160", None);
    check("app exited 255", None);
    check("app exited -1", None);
    check("app exited -2147483648", None);
    check("app exited 0 reason=Completed", None);
    check("app exited 137 reason=Completed", None);
    // Nobody saw how this one ended.
    let running = case(one(), &["app running"]).status();
    let lost = case(one(), &[]).after(&running).status();
    let last = lost.container_statuses.unwrap()[0].last_state.clone().unwrap();
    assert_eq!(last.terminated.unwrap().signal, None);
}
