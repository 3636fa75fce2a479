//! What is said of waits, in which words and how often.

//! Tables of what is said and when; no status is written early, often or twice.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::pull_progress::PullScope;

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[track_caller]
fn check_pace(mut pace: Pace, expected: &[u64]) {
    let mut told = vec![];
    for second in 0..=expected[expected.len() - 1] {
        if pace.take(secs(second)) {
            told.push(second);
        }
    }
    assert_eq!(told, expected);
}

#[test]
fn what_goes_on_is_told_ever_more_rarely() {
    check_pace(Pace::status(secs(0)), &[5, 15, 35, 75, 135, 195, 255]);
    check_pace(Pace::status(secs(100)), &[105, 115, 135, 175]);
    check_pace(Pace::pull_event(secs(0)), &[60, 120, 240, 480, 780, 1080]);
    check_pace(Pace::ending(secs(0)), &[10, 30, 70, 150, 310, 610, 910]);
    check_pace(Pace::repeated_error(secs(0)), &[0, 10, 30, 70, 150, 310, 610, 910]);
}

#[test]
fn nothing_is_shown_early_and_nothing_twice() {
    let mut waiting = Waiting::new(secs(100));
    assert!(!waiting.offer(secs(100), "a") && !waiting.offer(secs(104), "a"));
    assert_eq!(waiting.shown(), None);
    assert!(waiting.offer(secs(105), "a"));
    // The same again is no news, and does not use up the next time.
    assert!(!waiting.offer(secs(500), "a"));
    assert!(waiting.offer(secs(500), "b"));
    assert!(!waiting.offer(secs(519), "c"));
    assert_eq!(waiting.shown(), Some("b"));
    assert!(waiting.offer(secs(520), "c"));
    assert_eq!((waiting.began(), waiting.next()), (secs(100), secs(560)));
}

proptest! {
    /// However often it is asked and whatever it is told: the first time after 5 s, then never within 10 s.
    #[test]
    fn a_status_is_never_written_often(steps in prop::collection::vec((0_u64..30_000, 0_u8..3), 0..200)) {
        let mut waiting = Waiting::new(Duration::ZERO);
        let (mut now, mut last) = (Duration::ZERO, None);
        for (step, text) in steps {
            now += Duration::from_millis(step);
            let before = waiting.shown().map(str::to_owned);
            if waiting.offer(now, &text.to_string()) {
                prop_assert!(now >= secs(5));
                prop_assert!(last.is_none_or(|last| now >= last + secs(10)));
                prop_assert_ne!(before.as_deref(), waiting.shown());
                last = Some(now);
            }
        }
    }

    #[test]
    fn any_stat_gives_a_letter_or_nothing(text in ".{0,60}") {
        prop_assert!(process_state(&text).is_none_or(|state| state.is_ascii_alphabetic()));
    }
}

fn status(ready: &str, containers: Value) -> PodStatus {
    serde_json::from_value(json!({
        "conditions": [
            {"type": "Ready", "status": "False", "reason": "ContainersNotReady"},
            {"type": "PodReadyToStartContainers", "status": ready},
        ],
        "containerStatuses": containers,
    }))
    .unwrap()
}

fn waiting(name: &str, reason: &str, message: &str) -> Value {
    let mut state = json!({"reason": reason});
    if !message.is_empty() {
        state["message"] = json!(message);
    }
    json!({
        "name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": {"waiting": state},
    })
}

fn running(name: &str) -> Value {
    json!({
        "name": name, "image": "", "imageID": "", "ready": true, "restartCount": 0,
        "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
    })
}

/// The messages of the containers, and reason and message of the two conditions.
fn said(explanation: &Explanation, mut status: PodStatus) -> (Vec<String>, Vec<String>) {
    let before = status.clone();
    explanation.apply(&mut status);
    let once = status.clone();
    explanation.apply(&mut status);
    assert_eq!(status, once, "applying it twice changes nothing");
    if explanation.is_empty() {
        assert_eq!(status, before);
    }
    let messages = status.container_statuses.iter().flatten().map(|container| {
        let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
        waiting.and_then(|waiting| waiting.message.clone()).unwrap_or_default()
    });
    let conditions = status.conditions.iter().flatten().map(|condition| {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        format!("{}: {}", text(&condition.reason), text(&condition.message))
    });
    (messages.collect(), conditions.collect())
}

#[test]
fn texts_go_where_nothing_else_is_said() {
    let containers = || {
        json!([
            waiting("a", "ContainerCreating", ""),
            waiting("b", "PodInitializing", ""),
            waiting("c", "CrashLoopBackOff", "back-off 10s"),
            waiting("d", "CreateContainerConfigError", "no such key"),
            running("e"),
            waiting("f", "ErrImagePull", "not found"),
        ])
    };
    let nothing = Explanation::default();
    let (messages, conditions) = said(&nothing, status("False", containers()));
    assert_eq!(messages, ["", "", "back-off 10s", "no such key", "", "not found"]);
    assert_eq!(conditions, ["ContainersNotReady: ", ": "]);

    // What the whole pod waits for is said to all that have not been tried, and as a condition.
    let volumes = Explanation { pod: Some((PodStep::Volumes, "no v".to_owned())), ..Explanation::default() };
    let (messages, conditions) = said(&volumes, status("False", containers()));
    assert_eq!(messages, ["no v", "no v", "back-off 10s", "no such key", "", "not found"]);
    assert_eq!(conditions, ["ContainersNotReady: ", "VolumesNotReady: no v"]);
    // A condition that holds needs no reason.
    let (_, conditions) = said(&volumes, status("True", containers()));
    assert_eq!(conditions[1], ": ");

    // What a container itself waits for, and what that means for the others.
    for (name, expected) in [
        ("a", ["own", "later", "back-off 10s", "no such key", "", "not found"]),
        ("c", ["later", "later", "own", "no such key", "", "not found"]),
        ("d", ["later", "later", "back-off 10s", "no such key", "", "not found"]),
        ("e", ["later", "later", "back-off 10s", "no such key", "", "not found"]),
        ("f", ["later", "later", "back-off 10s", "no such key", "", "own"]),
    ] {
        let explanation = Explanation {
            pod: None,
            containers: BTreeMap::from([(name.to_owned(), "own".to_owned())]),
            others: Some("later".to_owned()),
        };
        assert_eq!(said(&explanation, status("True", containers())).0, expected, "{name}");
    }
}

#[test]
fn reasons_of_the_condition() {
    let reasons = [PodStep::Volumes, PodStep::Network, PodStep::Sandbox].map(PodStep::reason);
    assert_eq!(reasons, ["VolumesNotReady", "NetworkNotReady", "SandboxNotReady"]);
}

fn progress(done: u64, rate: Option<u64>, still: u64) -> PullProgress {
    let mb = |number: u64| number * 1_000_000;
    PullProgress {
        scope: PullScope::Image,
        done: mb(done),
        total: mb(120),
        rate: rate.map(mb),
        still: secs(still),
    }
}

#[test]
fn pulls_in_words() {
    let check = |stage: PullStage, seconds: u64, status: &str, event: &str| {
        assert_eq!(pull_text("x:1", &stage, secs(seconds)), status);
        assert_eq!(still_pulling("x:1", &stage, secs(seconds)), event);
        assert_eq!(stage.stalled(), None);
    };
    check(
        PullStage::Looking,
        7,
        "looking for image \"x:1\" and credentials, 7 s so far",
        "Looking for image \"x:1\" and credentials, 7 s so far",
    );
    for (others, behind) in [(0, ""), (1, " behind 1 other"), (12, " behind 12 others")] {
        let text = |image| format!("{image} \"x:1\" waits for a pull slot{behind}");
        check(PullStage::Queued(others), 7, &text("image"), &text("Image"));
    }
    check(
        PullStage::Pulling,
        125,
        "pulling image \"x:1\" (2 min 5 s so far)",
        "Still pulling image \"x:1\": 2 min 5 s so far",
    );
    check(
        PullStage::Quiet,
        60,
        "pulling image \"x:1\" (nothing is being downloaded, 60 s so far)",
        "Still pulling image \"x:1\": nothing is being downloaded, 60 s so far",
    );
    check(
        PullStage::Downloading(progress(52, Some(12), 0)),
        35,
        "pulling image \"x:1\" (43 % of 120 MB at 12 MB/s, 35 s so far)",
        "Still pulling image \"x:1\": 43 % of 120 MB at 12 MB/s, 35 s so far",
    );
}

#[test]
fn a_pull_without_a_byte_for_a_minute_has_stalled() {
    let check = |progress: PullProgress, expected: Option<&str>| {
        let stage = PullStage::Downloading(progress);
        let text = stage.stalled().map(|progress| pull_stalled("x:1", progress));
        assert_eq!(text.as_deref(), expected);
    };
    check(progress(52, None, 59), None);
    check(
        progress(52, None, 60),
        Some("Pull of image \"x:1\" has stalled: 43 % of 120 MB, nothing new for 60 s"),
    );
    // Unpacking moves no bytes either.
    check(progress(120, None, 600), None);
    // Of the node's downloads it is not known whether they are all.
    let node = PullProgress { scope: PullScope::Node, ..progress(120, None, 60) };
    check(
        node,
        Some("Pull of image \"x:1\" has stalled: 120 MB, nothing new for 60 s (all downloads of the node)"),
    );
}

#[test]
fn steps_of_a_start_in_words() {
    assert_eq!(sandbox_text(secs(12)), "creating the pod sandbox (network) since 12 s");
    assert_eq!(post_start_text("a", secs(40)), "postStart hook of container \"a\" running since 40 s");
    assert_eq!(
        runtime_text("create container \"a\"", secs(40)),
        "waiting for the runtime to create container \"a\" since 40 s"
    );
    assert_eq!(behind_image_of("a"), "image pull of container \"a\" comes first");
    assert_eq!(behind("a"), "start of container \"a\" comes first");
    let problem = |name| (name, "secret \"z\" not found".to_owned());
    assert_eq!(volumes_text([problem("y")]), "volume \"y\" is not ready: secret \"z\" not found");
    assert_eq!(
        volumes_text(["a", "b", "c", "d", "e"].map(problem)),
        "volume \"a\" is not ready: secret \"z\" not found; volume \"b\" is not ready: secret \"z\" not found; \
         volume \"c\" is not ready: secret \"z\" not found; and 2 more"
    );
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        volume_pending("a", secs(15)),
        "MountVolume.SetUp for volume \"a\" has not finished after 15 s"
    );
    assert_eq!(volumes_pending(&[], secs(6)), "setting up the pod's volumes since 6 s");
    assert_eq!(volumes_pending(&names(&["a"]), secs(6)), "setting up volume \"a\" since 6 s");
    assert_eq!(
        volumes_pending(&names(&["a", "b", "c", "d"]), secs(6)),
        "setting up volumes \"a\", \"b\", \"c\", and 1 more since 6 s"
    );
}

#[test]
fn containers_that_do_not_stop() {
    let check = |process: Option<(i32, char, &str)>, expected: &str| {
        let process = process.map(|(pid, state, place)| Process { pid, state, place: place.to_owned() });
        let stuck = Stuck { name: "db", asked: secs(45), grace: secs(30), process };
        assert_eq!(stuck_text(&stuck), expected);
    };
    let told = "Container db does not stop: it was told to 45 s ago, with a grace period of 30 s";
    check(None, told);
    check(
        Some((17, 'D', "nfs_wait_bit_killable")),
        &format!(
            "{told}; its process 17 is in uninterruptible sleep in nfs_wait_bit_killable (D): no signal ends it \
             before the kernel is done"
        ),
    );
    check(Some((17, 'Z', "0")), &format!("{told}; its process 17 has ended and was not waited for (Z)"));
    check(Some((17, 'R', "")), &format!("{told}; its process 17 is running (R)"));
    check(Some((17, 'T', "")), &format!("{told}; its process 17 is stopped (T)"));
    check(Some((17, 'S', "do_wait")), &format!("{told}; its process 17 is in state S in do_wait"));
}

#[test]
fn the_state_of_a_process() {
    for (stat, expected) in [
        ("12 (sleep) S 1 12", Some('S')),
        // The name may hold anything, closing brackets and blanks too.
        ("12 (a) R (b) D 1 12", Some('D')),
        ("12 (sleep)", None),
        ("12 (sleep) 7", None),
        ("", None),
        (")", None),
    ] {
        assert_eq!(process_state(stat), expected, "{stat}");
    }
}

#[test]
fn steps_of_an_end_in_words() {
    let names = ["data".to_owned(), "logs".to_owned()];
    let check = |step: EndStep<'_>, reason: &str, expected: &str| {
        assert_eq!((step.reason(), step.text(secs(12)).as_str()), (reason, expected));
    };
    check(EndStep::Observing, "FailedKillPod", "Pod waits for the runtime to say what runs, 12 s so far");
    check(
        EndStep::Sandbox("s1"),
        "FailedKillPod",
        "Pod waits for the runtime to stop its sandbox s1 (network), 12 s so far",
    );
    check(EndStep::Volumes(&[]), "FailedUnmount", "Pod waits for its volumes to be removed, 12 s so far");
    check(
        EndStep::Volumes(&names[..1]),
        "FailedUnmount",
        "Pod waits for volume \"data\" to be unmounted, 12 s so far",
    );
    check(
        EndStep::Volumes(&names),
        "FailedUnmount",
        "Pod waits for volumes \"data\", \"logs\" to be unmounted, 12 s so far",
    );
    check(
        EndStep::Cgroup("/kubepods/pod1"),
        "FailedKillPod",
        "Pod waits for its control group /kubepods/pod1 to be empty and removed, 12 s so far",
    );
    check(
        EndStep::Removal,
        "FailedKillPod",
        "Pod waits for the runtime to remove its containers, 12 s so far",
    );
    check(EndStep::Directories, "FailedKillPod", "Pod waits for its directories to be removed, 12 s so far");
}

#[test]
fn times_for_people() {
    for (seconds, expected) in [
        (0, "0 s"),
        (119, "119 s"),
        (120, "2 min"),
        (125, "2 min 5 s"),
        (599, "9 min 59 s"),
        (605, "10 min"),
        (3_599, "59 min"),
        (3_600, "1 h"),
        (11_100, "3 h 5 min"),
        (360_000, "100 h"),
    ] {
        assert_eq!(span(secs(seconds)), expected);
    }
}
