//! Pods that come and go in numbers, change while they run, or go while nobody looks.

use std::collections::BTreeMap;
use std::fs;

use k8s_openapi::api::core::v1::Pod;

use crate::cluster::Cluster;
use crate::pods::{self, condition, status};
use crate::runtime::mounts_below;
use crate::wait::{self, PATIENCE};

/// A pod at rest that ends when it is told to.
const REST: &str = "
terminationGracePeriodSeconds: 5
containers: [{name: c, image: $IMAGE, command: [sh, -c, 'trap \"exit 0\" TERM; while true; do sleep 0.2; done']}]
";
/// A pod that takes its whole grace.
const STUBBORN: &str = "
terminationGracePeriodSeconds: 600
containers: [{name: c, image: $IMAGE, command: [sh, -c, 'trap \"touch /share/told\" TERM; while true; do sleep 0.1; done'], volumeMounts: [{name: share, mountPath: /share}]}]
volumes: [{name: share, hostPath: {path: $SHARE}}]
";

/// Waits until neither the API nor the node has any pod.
fn wait_empty(cluster: &Cluster) {
    wait::until("every pod to be gone", PATIENCE * 2, || {
        let left: Vec<String> = cluster.api.list::<Pod>("default").iter().map(pods::summary).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:#?}")) }
    });
    wait::until("nothing to be left on the node", PATIENCE, || {
        let (containers, mounts) = (cluster.node.runtime.containers(), mounts_below(&cluster.node.root()));
        let dirs = fs::read_dir(cluster.node.root().join("pods")).map_or(0, Iterator::count);
        let left = format!("{containers:?} {mounts:?}, {dirs} directories");
        if containers.is_empty() && mounts.is_empty() && dirs == 0 { Ok(()) } else { Err(left) }
    });
}

#[test]
fn api_many_pods_at_once_are_started_reported_and_removed() {
    let cluster = Cluster::start();
    let names: Vec<String> = (0..25).map(|number| format!("p{number}")).collect();
    let begin = wait::uptime();
    for name in &names {
        cluster.run(name, REST);
    }
    let pods: Vec<Pod> = names.iter().map(|name| cluster.wait_ready(name)).collect();
    let ready = wait::uptime();
    let writes = names.iter().map(|name| cluster.status_writes(name).len()).max().unwrap();
    assert!(writes <= 4, "{writes} status writes until Ready");
    let ips: std::collections::BTreeSet<_> = pods.iter().map(|pod| status(pod).pod_ip).collect();
    assert_eq!(ips.len(), names.len(), "every pod has an IP of its own");
    for name in &names {
        cluster.api.delete::<Pod>("default", name);
    }
    wait_empty(&cluster);
    println!("ready after {:.1} s, gone after {:.1} s more", ready - begin, wait::uptime() - ready);
    let mut kinds: BTreeMap<String, usize> = cluster.api.counts();
    println!("{kinds:?}");
    kinds.retain(|kind, _| !kind.ends_with(" events"));
    let requests: usize = kinds.values().sum();
    assert!(requests <= 15 * names.len(), "{requests} requests without events: {kinds:?}");
    for pod in &pods {
        let last = cluster.api.history::<Pod>(&pods::uid(pod)).pop().unwrap();
        assert_eq!(pods::phase(&last), "Succeeded", "{}", pods::summary(&last));
    }
}

#[test]
fn api_pods_deleted_at_any_moment_of_their_start_leave_nothing() {
    let cluster = Cluster::start();
    let names: Vec<String> = (0..12).map(|number| format!("p{number}")).collect();
    for name in &names {
        cluster.run(name, REST);
    }
    for (number, name) in names.iter().enumerate() {
        // The moments are what this is about: from right after creation to about when it runs.
        wait::pause(std::time::Duration::from_millis(40 * (number as u64 % 6)));
        if number % 3 == 2 {
            cluster.api.delete_with_grace::<Pod>("default", name, 0);
        } else {
            cluster.api.delete::<Pod>("default", name);
        }
    }
    wait_empty(&cluster);
    cluster.run("next", REST);
    cluster.wait_ready("next");
}

#[test]
fn api_deletions_are_finished_by_the_next_agent() {
    let mut cluster = Cluster::start();
    let deleted = cluster.run("deleted", STUBBORN);
    let forced = cluster.run("forced", REST);
    let unseen = cluster.run("unseen", REST);
    for name in ["deleted", "forced", "unseen"] {
        cluster.wait_ready(name);
    }
    cluster.api.delete::<Pod>("default", "deleted");
    wait::until("the signal", PATIENCE, || {
        if cluster.node.share("told").exists() { Ok(()) } else { Err(String::new()) }
    });
    cluster.node.kill_agent();
    cluster.api.delete_with_grace::<Pod>("default", "forced", 0);
    cluster.api.delete::<Pod>("default", "unseen");
    // Whoever has no patience any more shortens the grace.
    cluster.api.delete_with_grace::<Pod>("default", "deleted", 2);
    cluster.start_agent();
    for pod in [&deleted, &unseen] {
        cluster.wait_gone(pod);
    }
    for pod in [&deleted, &unseen, &forced] {
        cluster.wait_nothing_left(pod);
    }
    let last = cluster.api.history::<Pod>(&pods::uid(&deleted)).pop().unwrap();
    assert_eq!(pods::state(&last, "c"), "terminated Error 137");
    wait_empty(&cluster);
}

#[test]
fn api_a_shorter_grace_ends_a_pod_sooner() {
    let cluster = Cluster::start();
    let pod = cluster.run("slow", STUBBORN);
    cluster.wait_ready("slow");
    cluster.api.delete::<Pod>("default", "slow");
    wait::until("the signal", PATIENCE, || {
        if cluster.node.share("told").exists() { Ok(()) } else { Err(String::new()) }
    });
    cluster.api.delete_with_grace::<Pod>("default", "slow", 1);
    let begin = wait::uptime();
    cluster.wait_gone(&pod);
    println!("gone {:.1} s after the grace was cut to 1 s", wait::uptime() - begin);
    cluster.wait_nothing_left(&pod);
}

#[test]
fn api_changes_of_a_pod_reach_it_while_it_runs() {
    let cluster = Cluster::start();
    let pod = cluster.run(
        "tuned",
        "
terminationGracePeriodSeconds: 1
containers:
- name: c
  image: $IMAGE
  command: [sh, -c, 'trap \"exit 0\" TERM; while sleep 0.1; do cat /down/labels > /share/new; echo >> /share/new; mv /share/new /share/labels; done']
  volumeMounts: [{name: down, mountPath: /down}, {name: share, mountPath: /share}]
volumes:
- {name: share, hostPath: {path: $SHARE}}
- {name: down, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
",
    );
    cluster.wait_ready("tuned");
    cluster.api.modify::<Pod>("default", "tuned", |pod| {
        pod.metadata.labels = Some(BTreeMap::from([("stage".to_owned(), "late".to_owned())]));
    });
    let begin = wait::uptime();
    cluster.node.wait_line("labels", "stage=\"late\"");
    println!("labels were seen in the container after {:.1} s", wait::uptime() - begin);
    assert_eq!(pods::restarts(&cluster.pod("tuned"), "c"), 0);

    cluster.api.modify::<Pod>("default", "tuned", |pod| {
        pod.spec.as_mut().unwrap().active_deadline_seconds = Some(1);
    });
    let failed = cluster.wait_phase("tuned", "Failed");
    assert_eq!(status(&failed).reason.as_deref(), Some("DeadlineExceeded"));
    assert!(!condition(&failed, "Ready"));
    assert_eq!(status(&failed).observed_generation, failed.metadata.generation);
    cluster.wait_event("tuned", "DeadlineExceeded");
    cluster.api.delete::<Pod>("default", "tuned");
    cluster.wait_gone(&pod);
}

/// A way to disturb watches, and its name.
type Break = (&'static str, fn(&Cluster));

/// After each break a pod comes and another one goes, and both are seen.
fn watches_break(breaks: [Break; 3]) {
    let cluster = Cluster::start();
    let mut before: Option<Pod> = None;
    for (name, break_watches) in breaks {
        let begin = wait::uptime();
        break_watches(&cluster);
        cluster.run(name, REST);
        if let Some(pod) = &before {
            cluster.api.delete::<Pod>("default", pod.metadata.name.as_deref().unwrap());
        }
        let ready = cluster.wait_ready(name);
        if let Some(pod) = &before {
            cluster.wait_gone(pod);
        }
        println!("{name}: {:.1} s", wait::uptime() - begin);
        before = Some(ready);
    }
    let lists = cluster.api.counts()["list pods"];
    assert!(lists <= 4, "{lists} lists of pods");
}

#[test]
fn api_watches_that_end_miss_nothing() {
    watches_break([
        ("closed", |cluster| cluster.api.close_watches("")),
        ("expired", |cluster| cluster.api.expire_watches("")),
        ("cut", |cluster| cluster.served.cut()),
    ]);
}

#[test]
fn api_watches_that_break_miss_nothing() {
    watches_break([
        ("reset", |cluster| cluster.api.reset_watches("")),
        ("garbled", |cluster| cluster.api.garble_watches("")),
        ("compacted", |cluster| {
            cluster.api.compact();
            cluster.api.reset_watches("");
        }),
    ]);
}
