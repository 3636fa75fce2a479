//! Every handler as every kind of probe: what startup, liveness and readiness make of a container that is ill and well
//! again, as the API shows it.

use k8s_openapi::api::core::v1::Pod;

use crate::cluster::Cluster;
use crate::node::{Node, free_port};
use crate::pods::{condition, container, container_id, restarts, state};
use crate::probes_servers::{Answer, Door, Health, HealthServer, Web, in_pod};
use crate::wait::{self, PATIENCE};

/// Something that a probe asks and that the test makes ill and well.
trait Patient: Sync {
    /// The handler that asks about a container.
    fn handler(&self, container: &str) -> String;
    /// Makes it ill or well.
    fn set(&self, container: &str, well: bool);
    /// What is said of one that is ill; may begin or end with more.
    fn complaint(&self, container: &str) -> String;
    /// The pod runs.
    fn runs(&self, _node: &Node, _pod: &Pod) {}
}

struct Http(Web);

impl Patient for Http {
    fn handler(&self, container: &str) -> String {
        format!("httpGet: {{host: 127.0.0.1, port: {}, path: /{container}}}", self.0.port)
    }
    fn set(&self, container: &str, well: bool) {
        self.0.page(&format!("/{container}"), Answer::code(if well { 200 } else { 500 }));
    }
    fn complaint(&self, _: &str) -> String {
        "HTTP probe failed with statuscode: 500".to_owned()
    }
}

struct Tcp([(&'static str, Door); 3]);

impl Tcp {
    fn door(&self, container: &str) -> &Door {
        &self.0.iter().find(|(name, _)| *name == container).unwrap().1
    }
}

impl Patient for Tcp {
    fn handler(&self, container: &str) -> String {
        format!("tcpSocket: {{host: 127.0.0.1, port: {}}}", self.door(container).port)
    }
    fn set(&self, container: &str, well: bool) {
        self.door(container).set(well);
    }
    fn complaint(&self, container: &str) -> String {
        format!("dial tcp 127.0.0.1:{}: connect: connection refused", self.door(container).port)
    }
}

struct Grpc(HealthServer, u16);

impl Patient for Grpc {
    fn handler(&self, container: &str) -> String {
        format!("grpc: {{port: {}, service: {container}}}", self.1)
    }
    fn set(&self, container: &str, well: bool) {
        self.0.set(container, Health::Serving(if well { 1 } else { 2 }));
    }
    fn complaint(&self, _: &str) -> String {
        "service unhealthy (responded with \"NOT_SERVING\")".to_owned()
    }
    fn runs(&self, node: &Node, pod: &Pod) {
        self.0.serve(in_pod(node, &container_id(pod, "l"), self.1));
    }
}

struct Exec<'a>(&'a Node);

impl Patient for Exec<'_> {
    fn handler(&self, container: &str) -> String {
        format!(
            "exec: {{command: [sh, -c, '[ -e /share/{container} ] || {{ echo {container} is ill; exit 2; }}']}}"
        )
    }
    fn set(&self, container: &str, well: bool) {
        let file = self.0.share(container);
        if well {
            std::fs::write(file, "").unwrap();
        } else {
            let _it_may_not_be_there = std::fs::remove_file(file);
        }
    }
    fn complaint(&self, container: &str) -> String {
        format!("{container} is ill")
    }
}

/// A container that ends with 7 when it is told to.
fn container_yaml(name: &str, probe: &str) -> String {
    format!(
        "- name: {name}
  image: $IMAGE
  command: [sh, -c, 'trap \"exit 7\" TERM; while true; do sleep 0.1; done']
  volumeMounts: [{{name: share, mountPath: /share}}]
  {probe}
"
    )
}

fn is_up(pod: &Pod, name: &str) -> bool {
    let of = container(pod, name);
    of.ready && of.started == Some(true) && state(pod, name) == "running"
}

/// Waits until the API has an event of a container that begins and goes on like that.
fn wait_said(cluster: &Cluster, pod: &str, container: &str, reason: &str, start: &str, more: &str) {
    wait::until(&format!("an event {reason} {start} {more} of {pod} {container}"), PATIENCE, || {
        let events = cluster.events(pod);
        let path = format!("spec.containers{{{container}}}");
        let told = |event: &k8s_openapi::api::core::v1::Event| {
            let message = event.message.as_deref().unwrap_or_default();
            event.reason.as_deref() == Some(reason)
                && event.involved_object.field_path.as_deref() == Some(&path)
                && message.starts_with(start)
                && message.contains(more)
        };
        match events.iter().any(told) {
            true => Ok(()),
            false => Err(format!("{:?}", events.iter().map(|event| &event.message).collect::<Vec<_>>())),
        }
    });
}

fn course(cluster: &Cluster, name: &str, patient: &dyn Patient) {
    for (container, well) in [("r", false), ("l", true), ("s", false)] {
        patient.set(container, well);
    }
    let probe = |kind: &str, container: &str, more: &str| {
        format!(
            "{kind}:\n    {}\n    periodSeconds: 1\n    timeoutSeconds: 5\n    {more}",
            patient.handler(container)
        )
    };
    let spec = [
        "terminationGracePeriodSeconds: 20\ncontainers:\n",
        // A server in the pod comes only after it.
        &container_yaml("l", &probe("livenessProbe", "l", "failureThreshold: 4\n    initialDelaySeconds: 4")),
        &container_yaml("r", &probe("readinessProbe", "r", "failureThreshold: 2\n    successThreshold: 2")),
        &container_yaml("s", &probe("startupProbe", "s", "failureThreshold: 3")),
        "volumes: [{name: share, hostPath: {path: $SHARE}}]\n",
    ]
    .concat();
    cluster.run(name, &spec);
    let what = |what: &str| format!("({name}) {what}");
    patient.runs(&cluster.node, &cluster.wait_state(name, "l", "running"));
    let said = |container: &str, reason: &str, start: &str, more: &str| {
        wait_said(cluster, name, container, reason, start, more);
    };

    // Nothing has passed yet but what has no startup or readiness probe.
    let pod = cluster.wait_pod(name, &what("to have l up and the others not"), |pod| {
        is_up(pod, "l")
            && state(pod, "r") == "running"
            && restarts(pod, "s") == 0
            && state(pod, "s") == "running"
    });
    let (r, s) = (container(&pod, "r"), container(&pod, "s"));
    assert_eq!((r.started, r.ready), (Some(true), false), "{name}: readiness is to be shown first");
    assert_eq!((s.started, s.ready), (Some(false), false), "{name}: startup is to be shown first");

    // A startup that fails ends in a restart; one that passes makes it ready.
    said("s", "Unhealthy", "Startup probe failed: ", &patient.complaint("s"));
    said("s", "Killing", "Container s failed startup probe, will be restarted", "");
    let pod = cluster.wait_pod(name, &what("to restart s"), |pod| restarts(pod, "s") >= 1);
    assert_eq!(crate::pods::last_state(&pod, "s"), "terminated Error 7", "{name}");
    patient.set("s", true);
    patient.set("r", true);
    let pod = cluster.wait_pod(name, &what("to be ready"), |pod| {
        ["l", "r", "s"].iter().all(|name| is_up(pod, name)) && condition(pod, "Ready")
    });
    assert_eq!((restarts(&pod, "l"), restarts(&pod, "r")), (0, 0), "{name}");

    // A startup probe has done its work: what it would find now is of no interest.
    patient.set("s", false);
    let starts = restarts(&pod, "s");

    // Readiness comes and goes and restarts nothing.
    patient.set("r", false);
    let pod = cluster.wait_pod(name, &what("not to have r ready"), |pod| !container(pod, "r").ready);
    assert!(!condition(&pod, "Ready") && !condition(&pod, "ContainersReady"), "{name}");
    said("r", "Unhealthy", "Readiness probe failed: ", &patient.complaint("r"));

    // Liveness restarts, and is asked again of the new one.
    patient.set("l", false);
    let pod = cluster.wait_pod(name, &what("to restart l"), |pod| restarts(pod, "l") == 1);
    assert_eq!(crate::pods::last_state(&pod, "l"), "terminated Error 7", "{name}");
    patient.set("l", true);
    said("l", "Unhealthy", "Liveness probe failed: ", &patient.complaint("l"));
    said("l", "Killing", "Container l failed liveness probe, will be restarted", "");

    patient.set("r", true);
    let pod = cluster.wait_pod(name, &what("to be ready again"), |pod| {
        ["l", "r", "s"].iter().all(|name| is_up(pod, name)) && condition(pod, "Ready")
    });
    assert_eq!((restarts(&pod, "l"), restarts(&pod, "r"), restarts(&pod, "s")), (1, 0, starts), "{name}");
}

#[test]
fn probes_kinds_of_every_handler() {
    let cluster = Cluster::start();
    let http = Http(Web::start());
    let tcp = Tcp(["r", "l", "s"].map(|name| (name, Door::open())));
    let grpc = Grpc(HealthServer::new(), free_port());
    let exec = Exec(&cluster.node);
    let patients: [(&str, &dyn Patient); 4] =
        [("http", &http), ("tcp", &tcp), ("grpc", &grpc), ("exec", &exec)];
    std::thread::scope(|scope| {
        let courses = patients.map(|(name, patient)| {
            let cluster = &cluster;
            scope.spawn(move || course(cluster, name, patient))
        });
        for course in courses {
            if let Err(problem) = course.join() {
                std::panic::resume_unwind(problem);
            }
        }
    });
}
