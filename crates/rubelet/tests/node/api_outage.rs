//! Agents that die and servers that are away: what runs goes on, and afterwards the API is right again.

use std::fs;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use rubelet_testkit::fake_api::Outage;

use crate::cluster::{Cluster, node_condition};
use crate::pods::{self, condition, container_id, restarts};
use crate::wait;

/// A pod that crashes whenever a file with its name appears in the shared folder.
const CRASHES: &str = "
terminationGracePeriodSeconds: 1
containers:
- name: c
  image: $IMAGE
  command: [sh, -c, 'trap \"exit 0\" TERM; until rm /share/crash-$(hostname) 2>/dev/null; do sleep 0.1; done; exit 3']
  volumeMounts: [{name: share, mountPath: /share}]
volumes: [{name: share, hostPath: {path: $SHARE}}]
";

fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("p{number}")).collect()
}

#[test]
fn api_a_killed_agent_costs_no_pod_its_readiness() {
    let mut cluster = Cluster::start();
    let names = names(10);
    for name in &names {
        cluster.run(name, CRASHES);
    }
    let before: Vec<Pod> = names.iter().map(|name| cluster.wait_ready(name)).collect();
    cluster.node.kill_agent();
    cluster.start_agent();
    // A pod that starts and one that ends show that the new agent is through with its first looks.
    cluster.run("new", CRASHES);
    cluster.wait_ready("new");
    cluster.api.delete::<Pod>("default", &names[0]);
    cluster.wait_gone(&before[0]);
    for pod in &before[1..] {
        let name = pod.metadata.name.as_deref().unwrap();
        let after = cluster.pod(name);
        assert_eq!((restarts(&after, "c"), container_id(&after, "c")), (0, container_id(pod, "c")), "{name}");
        let history = cluster.api.history::<Pod>(&pods::uid(pod));
        let first = history.iter().position(|pod| condition(pod, "Ready")).unwrap();
        assert!(
            history[first..].iter().all(|pod| condition(pod, "Ready")),
            "{name} was not ready for a while"
        );
    }
    assert_eq!(node_condition(&cluster.node_object(), "Ready"), "True");
}

fn pods_crash_while_the_server_is_away(outage: Outage) {
    let cluster = Cluster::start();
    let names = names(4);
    for name in &names {
        cluster.run(name, CRASHES);
    }
    for name in &names {
        cluster.wait_ready(name);
    }
    cluster.api.take_requests();
    cluster.api.outage(outage);
    let crashed = &names[..2];
    for name in crashed {
        fs::write(cluster.node.share(&format!("crash-{name}")), "").unwrap();
    }
    for name in crashed {
        // The agent itself tells: the server cannot.
        wait::until(&format!("{name} to run again"), wait::PATIENCE, || {
            let pods = cluster.node.try_pods()?;
            let pod = pods.into_iter().find(|pod| pod.metadata.name.as_ref() == Some(name)).unwrap();
            if restarts(&pod, "c") == 1 && pods::ready(&pod) { Ok(()) } else { Err(pods::summary(&pod)) }
        });
        assert_eq!(restarts(&cluster.pod(name), "c"), 0, "the server was told while it was away");
    }
    cluster.api.outage(Outage::None);
    let begin = wait::uptime();
    for name in crashed {
        cluster.wait_pod(name, "to be told as restarted", |pod| restarts(pod, "c") == 1 && pods::ready(pod));
    }
    cluster.run("new", CRASHES);
    cluster.wait_ready("new");
    println!("{outage:?}: caught up after {:.1} s with {:?}", wait::uptime() - begin, cluster.api.counts());
    for name in &names[2..] {
        let pod = cluster.pod(name);
        assert_eq!(restarts(&pod, "c"), 0);
        assert!(cluster.api.history::<Pod>(&pods::uid(&pod)).last().is_some_and(pods::ready), "{name}");
    }
    let requests = cluster.api.requests().len();
    assert!(requests < 150, "{requests} requests: {:?}", cluster.api.counts());
}

#[test]
fn api_a_server_that_refuses_for_a_while_is_told_everything_afterwards() {
    pods_crash_while_the_server_is_away(Outage::Refuse);
}

#[test]
fn api_a_server_that_is_silent_for_a_while_is_told_everything_afterwards() {
    pods_crash_while_the_server_is_away(Outage::Hang);
}

#[test]
fn api_an_agent_that_starts_without_its_server_leaves_pods_alone() {
    let mut cluster = Cluster::start();
    let names = names(3);
    for name in &names {
        cluster.run(name, CRASHES);
    }
    let before: Vec<Pod> = names.iter().map(|name| cluster.wait_ready(name)).collect();
    cluster.node.kill_agent();
    cluster.api.outage(Outage::Refuse);
    cluster.node.start_agent();
    cluster.node.apply("static", "containers: [{name: c, image: $IMAGE, command: [sleep, '1000']}]");
    cluster.node.wait_ready("static");
    wait::throughout(Duration::from_secs(2), || {
        for pod in &before {
            assert_eq!(cluster.containers_of(pod).len(), 2, "container and sandbox");
        }
    });
    // One goes while nobody can be told.
    cluster.api.delete_with_grace::<Pod>("default", &names[0], 1);
    cluster.api.outage(Outage::None);
    cluster.wait_gone(&before[0]);
    cluster.wait_nothing_left(&before[0]);
    cluster.wait_ready("static-node-1");
    for pod in &before[1..] {
        let after = cluster.wait_ready(pod.metadata.name.as_deref().unwrap());
        assert_eq!((restarts(&after, "c"), container_id(&after, "c")), (0, container_id(pod, "c")));
    }
}
