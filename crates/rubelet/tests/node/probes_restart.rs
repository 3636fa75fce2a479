//! What follows from liveness and startup probes: thresholds, grace, policies, back-off, and what is told of it.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, Pod};

use crate::cluster::Cluster;
use crate::pods::{self, container, container_id, last_state, phase, restarts, state, waiting_message};
use crate::probes_servers::{Answer, Web};
use crate::wait::{self, PATIENCE};

/// The end of a manifest whose containers write to the shared folder.
const SHARE: &str = "volumes: [{name: share, hostPath: {path: $SHARE}}]";
/// A container's way there.
const MOUNT: &str = "volumeMounts: [{name: share, mountPath: /share}]";

fn well() -> Answer {
    Answer::code(200)
}

fn ill() -> Answer {
    Answer::code(500)
}

/// A probe that asks for a page once a second.
fn probe(web: &Web, kind: &str, path: &str, more: &str) -> String {
    let timeout = if more.contains("timeoutSeconds") { "" } else { ", timeoutSeconds: 5" };
    let port = web.port;
    format!(
        "{kind}: {{httpGet: {{host: 127.0.0.1, port: {port}, path: {path}}}, periodSeconds: 1{timeout}{more}}}"
    )
}

/// A container that notes its starts, and does `on_term` when it is told to end.
fn noting(name: &str, on_term: &str, more: &[&str]) -> String {
    format!(
        "- name: {name}
  image: $IMAGE
  command: [sh, -c, 'trap \"{on_term}\" TERM; cut -d\" \" -f1 /proc/uptime >> /share/{name}; while true; do sleep 0.05; done']
  {MOUNT}
  {}
",
        more.join("\n  ")
    )
}

/// The starts that such a container noted, in seconds since boot.
fn starts(cluster: &Cluster, name: &str) -> Vec<f64> {
    cluster.node.lines(name).iter().map(|line| line.parse().unwrap()).collect()
}

fn of_reason(cluster: &Cluster, pod: &str, reason: &str) -> Vec<Event> {
    cluster.events(pod).into_iter().filter(|event| event.reason.as_deref() == Some(reason)).collect()
}

fn count(events: &[Event]) -> i32 {
    events.iter().map(|event| event.count.unwrap_or(1)).sum()
}

#[test]
fn probes_restart_at_the_threshold_and_not_below() {
    let cluster = Cluster::start();
    let web = Web::start();
    let (w, i) = (well, ill);
    web.script("/edge", &[w(), i(), i(), w(), i(), i(), w(), i(), i()], w());
    web.script("/falls", &[w(), i(), i(), w(), i(), i(), i()], w());
    web.script("/never-twice", &[w(), i(), w(), i(), w(), i(), w(), i()], i());
    web.script("/once-ill", &[w(), i(), w(), i(), w(), i(), w()], w());
    cluster.run(
        "edge",
        &format!(
            "containers:\n{}",
            noting("edge", "exit 0", &[&probe(&web, "livenessProbe", "/edge", "")]) + SHARE
        ),
    );
    cluster.run(
        "falls",
        &format!(
            "containers:\n{}",
            noting("falls", "exit 9", &[&probe(&web, "livenessProbe", "/falls", "")]) + SHARE
        ),
    );
    cluster.run(
        "ready",
        &format!(
            "containers:\n{}{}{SHARE}",
            noting("a", "exit 0", &[&probe(&web, "readinessProbe", "/never-twice", ", successThreshold: 2")]),
            noting("b", "exit 0", &[&probe(&web, "readinessProbe", "/once-ill", ", failureThreshold: 2")]),
        ),
    );

    let pod =
        cluster.wait_pod("falls", "to be restarted", |pod| restarts(pod, "falls") == 1 && pods::ready(pod));
    assert_eq!(last_state(&pod, "falls"), "terminated Error 9");
    let second = starts(&cluster, "falls")[1];
    let asked = web.asked("/falls");
    let before: Vec<_> = asked.iter().filter(|asked| asked.at < second).collect();
    assert_eq!(before.len(), 7, "three in a row are enough, and nothing is asked after them: {asked:?}");
    let unhealthy = wait::until("all of its failures", PATIENCE, || {
        let events = of_reason(&cluster, "falls", "Unhealthy");
        if count(&events) >= 5 { Ok(events) } else { Err(format!("{events:?}")) }
    });
    assert_eq!(count(&unhealthy), 5);
    let told = unhealthy[0].clone();
    assert_eq!(
        told.message.as_deref(),
        Some("Liveness probe failed: HTTP probe failed with statuscode: 500")
    );
    assert_eq!(told.type_.as_deref(), Some("Warning"));
    assert_eq!(told.involved_object.field_path.as_deref(), Some("spec.containers{falls}"));
    let killing = cluster.wait_event("falls", "Killing");
    assert_eq!(killing.message.as_deref(), Some("Container falls failed liveness probe, will be restarted"));
    assert_eq!(
        (killing.type_.as_deref(), count(&of_reason(&cluster, "falls", "Killing"))),
        (Some("Normal"), 1)
    );

    web.wait_asked("/edge", 11);
    let pod = cluster.pod("edge");
    assert_eq!((restarts(&pod, "edge"), state(&pod, "edge").as_str()), (0, "running"));
    assert_eq!(of_reason(&cluster, "edge", "Killing").len(), 0);

    web.wait_asked("/never-twice", 11);
    web.wait_asked("/once-ill", 9);
    let history = cluster.api.history::<Pod>(&pods::uid(&cluster.pod("ready")));
    let mut b = history.iter().map(|pod| container(pod, "b").ready).collect::<Vec<_>>();
    b.dedup();
    assert_eq!(b, [false, true], "one failure of two changes nothing");
    assert!(history.iter().all(|pod| !container(pod, "a").ready), "one success of two changes nothing");
    web.page("/never-twice", well());
    let before = web.asked("/never-twice").len();
    cluster.wait_ready("ready");
    assert!(web.asked("/never-twice").len() >= before + 2);
}

#[test]
fn probes_restart_with_the_grace_of_the_probe() {
    let cluster = Cluster::start();
    let web = Web::start();
    // Deaf to TERM; its first instance tells when it was told, and when it lived last.
    let deaf = |name: &str, probes: &str| {
        format!(
            "- name: {name}
  image: $IMAGE
  command:
  - sh
  - -c
  - |
    if [ -e /share/{name}-told ]; then exec sleep 1000; fi
    trap \"cut -d. -f1 /proc/uptime >> /share/{name}-told\" TERM
    while true; do
      cut -d. -f1 /proc/uptime > /share/{name}-new; mv /share/{name}-new /share/{name}-beat; sleep 0.1
    done
  {MOUNT}
  {probes}
"
        )
    };
    // The pod's grace, the probe's, and how long it may live after it was told.
    let cases = [
        ("liveness", "livenessProbe", 600, Some(3), 2.0),
        ("startup", "startupProbe", 600, Some(2), 1.0),
        ("of-the-pod", "livenessProbe", 3, None, 2.0),
        ("longer", "livenessProbe", 1, Some(5), 4.0),
    ];
    for (name, kind, grace, own, _) in cases {
        let own = own.map(|own: u32| format!(", terminationGracePeriodSeconds: {own}")).unwrap_or_default();
        let path = format!("/{name}");
        // The early look at a startup does not count.
        let ills = if kind == "startupProbe" { 3 } else { 2 };
        // No answer is a failure too.
        let (ill, more) = match name {
            "longer" => (Answer::silent(""), ", timeoutSeconds: 1"),
            _ => (ill(), ""),
        };
        web.script(&path, &vec![ill; ills], well());
        let probe = probe(&web, kind, &path, &format!(", failureThreshold: 2{own}{more}"));
        cluster.run(
            name,
            &format!("terminationGracePeriodSeconds: {grace}\ncontainers:\n{}{SHARE}", deaf(name, &probe)),
        );
    }
    for (name, .., lives_on) in cases {
        let pod = cluster.wait_pod(name, "to be restarted", |pod| restarts(pod, name) >= 1);
        assert_eq!(last_state(&pod, name), "terminated Error 137", "{name}");
        let number = |file: String| -> f64 { cluster.node.lines(&file)[0].parse().unwrap() };
        let lived = number(format!("{name}-beat")) - number(format!("{name}-told"));
        assert!(
            (lives_on..60.0).contains(&lived),
            "{name} lived for {lived} s after it was told, not {lives_on} s"
        );
    }
}

#[test]
fn probes_restart_by_the_policy() {
    let cluster = Cluster::start();
    let web = Web::start();
    for path in ["/never", "/never-startup", "/alone", "/onfailure"] {
        web.page(path, ill());
    }
    let liveness = |path: &str| probe(&web, "livenessProbe", path, ", failureThreshold: 1");
    let rests = "- {name: rests, image: $IMAGE, command: [sh, -c, 'until [ -e /share/go ]; do sleep 0.1; done'], volumeMounts: [{name: share, mountPath: /share}]}\n";
    cluster.run(
        "never",
        &format!(
            "restartPolicy: Never\ncontainers:\n{}{}{rests}{SHARE}",
            noting("never", "exit 5", &[&liveness("/never")]),
            noting(
                "startup",
                "exit 0",
                &[&probe(&web, "startupProbe", "/never-startup", ", failureThreshold: 1")]
            ),
        ),
    );
    cluster.run(
        "alone",
        &format!(
            "restartPolicy: Never\nterminationGracePeriodSeconds: 600\ncontainers:\n{}{SHARE}",
            noting(
                "alone",
                ":",
                &[&probe(
                    &web,
                    "livenessProbe",
                    "/alone",
                    ", failureThreshold: 1, terminationGracePeriodSeconds: 1"
                )]
            ),
        ),
    );
    // It ends well, and is started again all the same: it was ended because it was ill.
    cluster.run(
        "onfailure",
        &format!(
            "restartPolicy: OnFailure\ncontainers:\n{}{SHARE}",
            noting("onfailure", "exit 0", &[&liveness("/onfailure")]),
        ),
    );

    let pod = cluster.wait_pod("onfailure", "to be restarted", |pod| restarts(pod, "onfailure") >= 1);
    web.page("/onfailure", well());
    assert_eq!(last_state(&pod, "onfailure"), "terminated Completed 0");
    cluster.wait_pod("onfailure", "to run", |pod| {
        state(pod, "onfailure") == "running" && phase(pod) == "Running"
    });

    let pod = cluster.wait_pod("never", "to have both ended", |pod| {
        state(pod, "never") == "terminated Error 5" && state(pod, "startup") == "terminated Completed 0"
    });
    assert_eq!((phase(&pod).as_str(), state(&pod, "rests").as_str()), ("Running", "running"), "one runs on");
    let killing = wait::until("both to be told of", PATIENCE, || {
        let mut told: Vec<_> =
            of_reason(&cluster, "never", "Killing").into_iter().filter_map(|event| event.message).collect();
        told.sort();
        if told.len() == 2 { Ok(told) } else { Err(format!("{told:?}")) }
    });
    assert_eq!(killing, ["Container never failed liveness probe", "Container startup failed startup probe"]);
    std::fs::write(cluster.node.share("go"), "").unwrap();
    let pod = cluster.wait_phase("never", "Failed");
    assert_eq!((restarts(&pod, "never"), starts(&cluster, "never").len()), (0, 1));

    let pod = cluster.wait_phase("alone", "Failed");
    assert_eq!((state(&pod, "alone").as_str(), restarts(&pod, "alone")), ("terminated Error 137", 0));
    let killing = cluster.wait_event("alone", "Killing");
    assert_eq!(killing.message.as_deref(), Some("Container alone failed liveness probe"));
}

#[test]
fn probes_restart_again_and_again_after_a_back_off() {
    let cluster = Cluster::start();
    let web = Web::start();
    web.page("/loops", ill());
    cluster.run(
        "loops",
        &format!(
            "containers:\n{}{SHARE}",
            noting("loops", "exit 3", &[&probe(&web, "livenessProbe", "/loops", ", failureThreshold: 1")]),
        ),
    );
    // The first restart is at once and does not count: it follows from the same look at the pod as the kill, in which
    // no instance had ended. The second one counts, and the third one waits.
    let pod = cluster.wait_state("loops", "loops", "waiting CrashLoopBackOff");
    assert_eq!((restarts(&pod, "loops"), last_state(&pod, "loops").as_str()), (2, "terminated Error 3"));
    assert_eq!(phase(&pod), "Running");
    assert!(!container(&pod, "loops").ready && container(&pod, "loops").started == Some(false));
    let told = waiting_message(&pod, "loops");
    let start = format!(
        "back-off 10s restarting failed container=loops pod=loops_default({}); next attempt at ",
        pods::uid(&pod)
    );
    let next: Timestamp = told.strip_prefix(&start).unwrap_or_else(|| panic!("{told}")).parse().unwrap();
    let event = cluster.wait_event("loops", "BackOff");
    assert!(
        event
            .message
            .clone()
            .unwrap()
            .starts_with("Back-off restarting failed container loops in pod loops_default"),
        "{event:?}"
    );
    let asked = web.asked("/loops").len();
    let (ended, id) = {
        let last = container(&pod, "loops").last_state.unwrap().terminated.unwrap();
        (last.finished_at.unwrap().0, last.container_id)
    };
    assert!((9..=11).contains(&(next.as_second() - ended.as_second())), "ended {ended}, next {next}");
    web.page("/loops", well());
    let pod = cluster
        .wait_pod("loops", "to be started again", |pod| restarts(pod, "loops") == 3 && pods::ready(pod));
    let started = container(&pod, "loops").state.unwrap().running.unwrap().started_at.unwrap().0;
    assert!(started.as_second() >= next.as_second(), "told {next}, started {started}");
    assert_ne!(container(&pod, "loops").container_id, id);
    let starts = starts(&cluster, "loops");
    let asked = web.asked("/loops").split_off(asked);
    assert!(
        asked.iter().all(|asked| asked.at >= starts[3]),
        "nothing is asked while it waits: {asked:?} {starts:?}"
    );
}

#[test]
fn probes_restart_startup_holds_the_others_back() {
    let cluster = Cluster::start();
    let web = Web::start();
    web.page("/startup", ill());
    for path in ["/liveness", "/readiness", "/late", "/late-ready"] {
        web.page(path, well());
    }
    cluster.run(
        "gates",
        &format!(
            "containers:\n{}{}{SHARE}",
            noting(
                "gated",
                "exit 0",
                &[
                    &probe(&web, "startupProbe", "/startup", ", failureThreshold: 1000"),
                    &probe(&web, "livenessProbe", "/liveness", ""),
                    &probe(&web, "readinessProbe", "/readiness", ""),
                ]
            ),
            noting(
                "late",
                "exit 0",
                &[
                    &probe(&web, "livenessProbe", "/late", ", initialDelaySeconds: 4"),
                    &probe(&web, "readinessProbe", "/late-ready", ", initialDelaySeconds: 3"),
                ]
            ),
        ),
    );
    web.wait_asked("/startup", 5);
    let pod = cluster.pod("gates");
    assert_eq!((container(&pod, "gated").started, container(&pod, "gated").ready), (Some(false), false));
    assert_eq!(web.asked("/liveness").len() + web.asked("/readiness").len(), 0, "startup comes first");
    web.page("/startup", well());
    let pod = cluster.wait_ready("gates");
    assert_eq!(container(&pod, "gated").started, Some(true));
    let passed = web.asked("/startup");
    web.wait_asked("/liveness", 3);
    web.wait_asked("/readiness", 3);
    let last = passed.last().unwrap().at;
    for path in ["/liveness", "/readiness"] {
        assert!(
            web.asked(path).iter().all(|asked| asked.at >= last),
            "{path} {:?} before {last}",
            web.asked(path)
        );
    }
    assert_eq!(
        web.asked("/startup").len(),
        passed.len(),
        "a startup probe that has passed is not made any more"
    );

    // When it started is known to a hundredth, and its shell needed a moment.
    let start = starts(&cluster, "late")[0];
    for (path, delay) in [("/late", 4.0), ("/late-ready", 3.0)] {
        let first = web.wait_asked(path, 2)[0].at - start;
        assert!(first >= delay - 1.0, "{path} was asked {first} s after its start");
    }

    // The next instance has to show it again.
    let (before, asked) = (container_id(&pod, "gated"), web.asked("/readiness").len());
    web.page("/startup", ill());
    web.page("/liveness", ill());
    let pod = cluster.wait_pod("gates", "to be restarted", |pod| {
        restarts(pod, "gated") == 1 && state(pod, "gated") == "running"
    });
    assert_ne!(container_id(&pod, "gated"), before);
    assert_eq!((container(&pod, "gated").started, container(&pod, "gated").ready), (Some(false), false));
    let second = starts(&cluster, "gated")[1];
    let asked_before = web.asked("/startup").iter().filter(|asked| asked.at >= second).count();
    web.wait_asked("/startup", passed.len() + asked_before + 3);
    assert!(
        web.asked("/readiness").split_off(asked).iter().all(|asked| asked.at < second),
        "startup comes first again"
    );
}
