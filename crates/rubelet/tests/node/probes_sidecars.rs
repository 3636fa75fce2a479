//! Probes of sidecars: what waits for their startup, what their readiness counts for, and what restarts them.

use k8s_openapi::api::core::v1::Pod;

use crate::cluster::Cluster;
use crate::pods::{condition, container, container_id, last_state, phase, restarts, state};
use crate::probes_servers::{Answer, Web};
use crate::wait::{self, PATIENCE};

/// A container that runs until it is told to end, after it has noted its name.
fn noting(name: &str, more: &str) -> String {
    format!(
        "- name: {name}
  image: $IMAGE
  command: [sh, -c, 'trap \"exit 6\" TERM; echo {name} >> /share/log; while true; do sleep 0.05; done']
  volumeMounts: [{{name: share, mountPath: /share}}]
  {more}
"
    )
}

#[test]
fn probes_sidecars_hold_back_restart_and_are_asked_like_others() {
    let cluster = Cluster::start();
    let web = Web::start();
    let probe = |kind: &str, more: &str| {
        let port = web.port;
        format!(
            "  {kind}: {{httpGet: {{host: 127.0.0.1, port: {port}, path: /{kind}}}, periodSeconds: 1, timeoutSeconds: 5{more}}}\n"
        )
    };
    let page = |kind: &str, code: u16| web.page(&format!("/{kind}"), Answer::code(code));
    page("startupProbe", 500);
    page("livenessProbe", 200);
    page("readinessProbe", 500);
    let probes = [
        "restartPolicy: Always\n",
        &probe("startupProbe", ", failureThreshold: 4"),
        &probe("livenessProbe", ", failureThreshold: 2"),
        &probe("readinessProbe", ", failureThreshold: 1"),
    ]
    .concat();
    let spec = [
        "terminationGracePeriodSeconds: 10\ninitContainers:\n",
        &noting("side", &probes),
        "- {name: last, image: $IMAGE, command: [sh, -c, 'echo last >> /share/log'], volumeMounts: [{name: share, mountPath: /share}]}\n",
        "containers:\n",
        &noting("app", ""),
        "volumes: [{name: share, hostPath: {path: $SHARE}}]\n",
    ]
    .concat();
    cluster.run("pod", &spec);
    let log = || cluster.node.lines("log");
    let told = |message: &str| {
        wait::until(&format!("an event {message:?}"), PATIENCE, || {
            let events = cluster.events("pod");
            let told: Vec<_> = events
                .iter()
                .filter(|event| {
                    event.involved_object.field_path.as_deref() == Some("spec.initContainers{side}")
                })
                .filter_map(|event| event.message.clone())
                .collect();
            if told.iter().any(|told| told == message) { Ok(()) } else { Err(format!("{told:?}")) }
        });
    };

    // A startup that fails restarts it; nothing behind it begins.
    let pod = cluster.wait_pod("pod", "to restart the sidecar", |pod| {
        restarts(pod, "side") == 1 && state(pod, "side") == "running"
    });
    assert_eq!(last_state(&pod, "side"), "terminated Error 6");
    told("Startup probe failed: HTTP probe failed with statuscode: 500");
    told("Init container side failed startup probe");
    assert_eq!(container(&pod, "side").started, Some(false));
    assert!(!condition(&pod, "Initialized") && phase(&pod) == "Pending", "{}", crate::pods::summary(&pod));
    for name in ["last", "app"] {
        assert_eq!(state(&pod, name), "waiting PodInitializing", "{name}");
    }
    assert!(log().iter().all(|line| line == "side"), "{:?}", log());

    // Once it has passed, the others come; the pod is as ready as its sidecar.
    page("startupProbe", 200);
    let pod = cluster.wait_state("pod", "app", "running");
    cluster.node.wait_line("log", "app");
    assert_eq!(log().iter().filter(|line| *line != "side").collect::<Vec<_>>(), ["last", "app"]);
    let side = container(&pod, "side");
    assert_eq!((side.started, side.ready, phase(&pod).as_str()), (Some(true), false, "Running"));
    assert!(condition(&pod, "Initialized") && !condition(&pod, "Ready"));
    let unready = crate::pods::status(&pod).conditions.unwrap_or_default().into_iter();
    let unready: Vec<_> =
        unready.filter(|of| of.type_ == "ContainersReady").filter_map(|of| of.message).collect();
    assert_eq!(unready, ["containers with unready status: [side]"]);
    page("readinessProbe", 200);
    let pod = cluster.wait_ready("pod");

    // Liveness restarts it alone, and the app runs on.
    let (app, starts) = (container_id(&pod, "app"), restarts(&pod, "side"));
    page("livenessProbe", 500);
    cluster.wait_pod("pod", "to restart the sidecar again", |pod| restarts(pod, "side") == starts + 1);
    page("livenessProbe", 200);
    let pod = cluster.wait_ready("pod");
    told("Liveness probe failed: HTTP probe failed with statuscode: 500");
    told("Init container side failed liveness probe");
    assert_eq!((container_id(&pod, "app"), restarts(&pod, "app")), (app.clone(), 0));
    assert_eq!(log().iter().filter(|line| *line != "side").collect::<Vec<_>>(), ["last", "app"]);

    // While the pod ends, the sidecar outlives the app and is restarted for nothing.
    let asked = web.asked("/livenessProbe").len();
    page("livenessProbe", 500);
    web.wait_asked("/livenessProbe", asked + 1);
    assert!(cluster.api.delete::<Pod>("default", "pod"));
    cluster.wait_gone(&pod);
}
