//! Tables for the translation: truthful answers, and garbage that must stay with its pod.

use super::*;

const START: i64 = 1_700_000_000_000_000_000;

fn map(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
    entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn metadata(uid: &str) -> v1::PodSandboxMetadata {
    v1::PodSandboxMetadata {
        name: format!("pod-{uid}"),
        uid: uid.into(),
        namespace: "default".into(),
        attempt: 2,
    }
}

fn sandbox(id: &str, uid: &str, state: i32) -> v1::PodSandbox {
    v1::PodSandbox { id: id.into(), metadata: Some(metadata(uid)), state, ..Default::default() }
}

fn container(id: &str, sandbox: &str, uid: &str, state: i32) -> v1::Container {
    let labels = if uid.is_empty() { BTreeMap::new() } else { map(&[(label::POD_UID, uid)]) };
    v1::Container { id: id.into(), pod_sandbox_id: sandbox.into(), labels, state, ..Default::default() }
}

/// Writes a listing as `uid[sandbox+ container@sandbox:State]` and its problems as `!id`.
fn check_listing(sandboxes: &[v1::PodSandbox], containers: &[v1::Container], expected: &str) {
    let listing = Listing::observe(sandboxes, containers);
    let mut parts = Vec::new();
    for pod in listing.pods.values() {
        let sandboxes =
            pod.sandboxes.iter().map(|(id, ready)| format!("{id}{}", if *ready { "+" } else { "-" }));
        let containers = pod.containers.iter().map(|(id, c)| format!("{id}@{}:{:?}", c.sandbox_id, c.state));
        let objects: Vec<String> = sandboxes.chain(containers).collect();
        parts.push(format!("{}[{}]", pod.uid, objects.join(" ")));
    }
    parts.extend(listing.problems.iter().map(|problem| format!("!{}", problem.id)));
    assert_eq!(parts.join(" "), expected);
}

#[test]
fn lists_are_sorted_by_pod() {
    check_listing(&[], &[], "");
    check_listing(
        &[sandbox("s1", "a", 0), sandbox("s2", "b", 1)],
        &[container("c1", "s1", "a", 1), container("c2", "s1", "a", 2), container("c3", "s2", "b", 0)],
        "a[s1+ c1@s1:Running c2@s1:Exited] b[s2- c3@s2:Created]",
    );
}

#[test]
fn a_container_without_its_sandbox_still_belongs_to_its_pod() {
    check_listing(&[], &[container("c1", "gone", "a", 1)], "a[c1@gone:Running]");
}

#[test]
fn a_container_without_labels_belongs_to_the_pod_of_its_sandbox() {
    check_listing(&[sandbox("s1", "a", 0)], &[container("c1", "s1", "", 3)], "a[s1+ c1@s1:Unknown]");
}

#[test]
fn strangers_are_reported_and_harm_nobody() {
    let stranger = v1::PodSandbox { id: "sx".into(), ..Default::default() };
    check_listing(&[sandbox("s1", "a", 0), stranger], &[container("cx", "sx", "", 1)], "a[s1+] !sx !cx");
}

#[test]
fn a_state_from_the_future_hides_its_pod_and_no_other() {
    check_listing(
        &[sandbox("s1", "a", 0), sandbox("s2", "b", 0)],
        &[container("c1", "s1", "a", 9), container("c2", "s2", "b", 1)],
        "b[s2+ c2@s2:Running] !c1",
    );
    check_listing(&[sandbox("s1", "a", 7), sandbox("s2", "b", 0)], &[], "b[s2+] !s1");
}

fn sandbox_status() -> v1::PodSandboxStatus {
    let options = v1::NamespaceOption { network: v1::NamespaceMode::Node as i32, ..Default::default() };
    v1::PodSandboxStatus {
        id: "s1".into(),
        metadata: Some(metadata("a")),
        created_at: START,
        network: Some(v1::PodSandboxNetworkStatus {
            ip: "10.0.0.5".into(),
            additional_ips: vec![v1::PodIp { ip: "fd00::5".into() }, v1::PodIp { ip: String::new() }],
        }),
        linux: Some(v1::LinuxPodSandboxStatus { namespaces: Some(v1::Namespace { options: Some(options) }) }),
        annotations: map(&[("kubernetes.io/config.source", "file")]),
        runtime_handler: "crun".into(),
        ..Default::default()
    }
}

fn container_status() -> v1::ContainerStatus {
    v1::ContainerStatus {
        id: "c1".into(),
        metadata: Some(v1::ContainerMetadata { name: "app".into(), attempt: 3 }),
        state: v1::ContainerState::ContainerExited as i32,
        created_at: START,
        started_at: START + 1_000_000_000,
        finished_at: START + 2_000_000_000,
        exit_code: 137,
        image: Some(v1::ImageSpec { image: "busybox:1".into(), ..Default::default() }),
        image_ref: "docker.io/library/busybox@sha256:aa".into(),
        reason: "OOMKilled".into(),
        labels: map(&[(label::CONTAINER_NAME, "app"), (label::POD_UID, "a")]),
        annotations: map(&[
            (label::CONTAINER_HASH, "ffffffff"),
            (label::RESTART_COUNT, "4"),
            (label::TERMINATION_MESSAGE_PATH, "/dev/termination-log"),
            (label::TERMINATION_MESSAGE_POLICY, "File"),
            (label::TERMINATION_GRACE_PERIOD, "30"),
            (label::PRE_STOP_HANDLER, r#"{"sleep":{"seconds":1}}"#),
        ]),
        log_path: "/var/log/pods/x/app/3.log".into(),
        ..Default::default()
    }
}

fn listed() -> ListedPod {
    let sandboxes = [sandbox("s1", "a", 0)];
    let containers = [container("c1", "s1", "a", 2), container("c2", "s1", "a", 1)];
    Listing::observe(&sandboxes, &containers).pods.remove(&PodUid::from("a")).unwrap()
}

#[test]
fn a_pod_is_observed_in_full() {
    let (pod, problems) = observe_pod(&listed(), &[sandbox_status()], &[container_status()]).unwrap();
    assert_eq!(problems, []);
    assert_eq!((pod.name.as_str(), pod.namespace.as_str()), ("pod-a", "default"));
    let sandbox = &pod.sandboxes[0];
    assert_eq!(sandbox.ips, ["10.0.0.5", "fd00::5"]);
    assert!(sandbox.ready && sandbox.host_network);
    assert_eq!((sandbox.attempt, sandbox.runtime_handler.as_str()), (2, "crun"));
    let container = &pod.containers[0];
    assert_eq!((container.name.as_str(), container.attempt, container.exit_code), ("app", 3, 137));
    assert_eq!(container.state, ObservedState::Exited);
    assert_eq!(container.sandbox_id, SandboxId::from("s1"));
    assert_eq!(container.started_at.unwrap().to_string(), "2023-11-14T22:13:21Z");
    assert_eq!(container.facts.hash, Some(u32::MAX));
    assert_eq!(container.facts.restart_count, 4);
    assert_eq!(container.facts.pod_termination_grace_period, Some(30));
    assert_eq!(container.facts.pod_deletion_grace_period, None);
    assert_eq!(container.facts.pre_stop_handler.as_deref(), Some(r#"{"sleep":{"seconds":1}}"#));
}

#[test]
fn times_that_did_not_happen_are_absent() {
    let go_zero_time = -6_795_364_578_871_345_152;
    for never in [0, -1, go_zero_time] {
        let mut status = container_status();
        (status.started_at, status.finished_at) = (never, never);
        let (pod, _) = observe_pod(&listed(), &[], &[status]).unwrap();
        assert_eq!((pod.containers[0].started_at, pod.containers[0].finished_at), (None, None));
    }
}

#[test]
fn no_container_ends_before_it_started() {
    let mut status = container_status();
    status.finished_at = status.started_at - 1;
    let (pod, _) = observe_pod(&listed(), &[], &[status]).unwrap();
    assert_eq!(pod.containers[0].finished_at, pod.containers[0].started_at);
}

#[test]
fn bad_annotations_count_as_absent_and_are_reported() {
    let mut status = container_status();
    status.annotations = map(&[
        (label::CONTAINER_HASH, "not hex"),
        (label::RESTART_COUNT, "-1"),
        (label::DELETION_GRACE_PERIOD, "soon"),
    ]);
    let (pod, problems) = observe_pod(&listed(), &[], &[status]).unwrap();
    let facts = &pod.containers[0].facts;
    assert_eq!((facts.hash, facts.restart_count, facts.pod_deletion_grace_period), (None, 3, None));
    let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "container c1: annotation io.kubernetes.container.hash has the value \"not hex\", which is not a number",
            "container c1: annotation io.kubernetes.pod.deletionGracePeriod has the value \"soon\", which is not a \
             number",
        ]
    );
    assert!(problems.iter().all(|problem| !problem.fatal));
}

#[test]
fn a_pod_with_an_unreadable_container_is_not_observed() {
    let mut nameless = container_status();
    nameless.id = "c2".into();
    nameless.metadata = None;
    nameless.labels.clear();
    let mut strange = container_status();
    strange.state = 42;
    for broken in [nameless, strange] {
        let problems =
            observe_pod(&listed(), &[sandbox_status()], &[container_status(), broken]).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!(problems[0].pod, Some(PodUid::from("a")));
    }
}

#[test]
fn answers_about_objects_that_were_not_listed_are_ignored() {
    let mut other = container_status();
    other.id = "somebody-else".into();
    let (pod, problems) = observe_pod(&listed(), &[], &[other]).unwrap();
    assert_eq!((pod.containers.len(), problems.len()), (0, 0));
}

#[test]
fn events_name_their_pod() {
    let event =
        v1::ContainerEventResponse { pod_sandbox_status: Some(sandbox_status()), ..Default::default() };
    assert_eq!(pod_of_event(&event), Some(PodUid::from("a")));
    assert_eq!(pod_of_event(&v1::ContainerEventResponse::default()), None);
}
