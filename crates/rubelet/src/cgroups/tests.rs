//! The groups with a writer that notes what it is told, on a paused clock.

use std::collections::BTreeSet;

use futures::future::BoxFuture;
use rubelet_apiclient::level::Level;
use rubelet_core::cpu_set::CpuSet;
use rubelet_core::node::capacity::{CapacityFacts, Reservations, capacity};
use rubelet_core::resources::{CgroupDriver, Enforcement, QosFacts, ResourceFacts};
use rubelet_cri::connect::{RuntimeConditions, RuntimeInfo};
use serde_json::{Value, json};

use super::*;
use crate::clock::Clock;
use crate::table::PodRow;

#[derive(Default)]
struct Notes {
    said: std::sync::Mutex<Vec<String>>,
    refused: std::sync::Mutex<BTreeSet<String>>,
}

impl Notes {
    fn note(&self, what: &str, group: &str, settings: &GroupSettings) -> Result<(), WriteError> {
        if self.refused.lock().unwrap().contains(group) {
            return Err(WriteError::Driver("device or resource busy".to_owned()));
        }
        let mut text = format!("{what} {group}");
        for (name, value) in [
            ("shares", settings.cpu_shares),
            ("quota", settings.cpu_quota),
            ("memory", settings.memory),
            ("pids", settings.pids),
        ] {
            text.extend(value.map(|value| format!(" {name}={value}")));
        }
        text.extend(settings.cpus.as_ref().map(|cpus| format!(" cpus={cpus}")));
        self.said.lock().unwrap().push(text);
        Ok(())
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.said.lock().unwrap())
    }
}

impl CgroupWriter for Notes {
    fn make<'a>(
        &'a self,
        group: &'a str,
        settings: &'a GroupSettings,
    ) -> BoxFuture<'a, Result<(), WriteError>> {
        Box::pin(async move { self.note("make", group, settings) })
    }
    fn set<'a>(
        &'a self,
        group: &'a str,
        settings: &'a GroupSettings,
    ) -> BoxFuture<'a, Result<(), WriteError>> {
        Box::pin(async move { self.note("set", group, settings) })
    }
    fn remove<'a>(&'a self, group: &'a str) -> BoxFuture<'a, Result<(), WriteError>> {
        Box::pin(async move { self.note("remove", group, &GroupSettings::default()) })
    }
}

struct World {
    mount: tempfile::TempDir,
    groups: Cgroups,
    notes: Arc<Notes>,
    table: PodTable,
    events: EventRecorder,
    runtime: Level<RuntimeState>,
}

impl World {
    fn new(levels: &[&str]) -> Self {
        let mount = tempfile::tempdir().unwrap();
        for dir in ["cpu", "memory/sys", "pids/sys", "cpu/sys"] {
            std::fs::create_dir_all(mount.path().join(dir)).unwrap();
        }
        let tree = CgroupTree::find(mount.path()).unwrap();
        let (notes, table) = (Arc::new(Notes::default()), PodTable::default());
        let events = EventRecorder::new(Clock::system());
        let runtime = Level::new(RuntimeState::default());
        let has =
            capacity(&CapacityFacts { cpus: 4, memory_bytes: 1 << 30, max_pods: 110, ..Default::default() });
        let reserved =
            [("cpu".to_owned(), "500m".to_owned()), ("memory".to_owned(), "24Mi".to_owned())].into();
        let levels: Vec<String> = levels.iter().map(|level| (*level).to_owned()).collect();
        let groups = Cgroups::new(CgroupParts {
            settings: CgroupSettings {
                root: CgroupRoot { root: "/".into(), per_qos: true, driver: CgroupDriver::Cgroupfs },
                node_name: "node-1".into(),
                facts: ResourceFacts { pod_pids_limit: 50, ..Default::default() },
                capacity: has,
                reservations: Reservations::new(&reserved, &[].into(), 0, &[].into()),
                enforcement: Enforcement::new(&levels, "/sys", "/none"),
                qos: QosFacts::default(),
                all_cpus: Some(CpuSet::from([0, 1])),
            },
            tree,
            writer: notes.clone(),
            fs: FsPool::inline(),
            table: table.clone(),
            runtime_state: runtime.follow(),
            events: events.clone(),
            metrics: Metrics::new(),
        });
        Self { mount, groups, notes, table, events, runtime }
    }

    fn runtime_tells(&self, cgroup_driver: rubelet_cri::connect::CgroupDriver) {
        let info = RuntimeInfo {
            name: "containerd".into(),
            version: "1".into(),
            conditions: RuntimeConditions { runtime_problem: None, network_problem: None },
            handlers: vec![],
            supplemental_groups_policy: false,
            user_namespaces_host_network: false,
            cgroup_driver: Some(cgroup_driver),
        };
        self.runtime.set(RuntimeState { info: Some(info), ..RuntimeState::default() });
    }

    /// A pod whose worker has begun.
    fn begin(&self, uid: &str, requests: Value) -> Pod {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": uid, "uid": uid},
            "spec": {"containers": [{"name": "a", "resources": {"requests": requests}}]}
        }))
        .unwrap();
        let row = PodRow { pod: Arc::new(pod.clone()), status: Arc::default(), state: PodState::Syncing };
        self.table.publish(&uid.into(), row);
        pod
    }

    fn told(&self) -> Vec<String> {
        let events = self.events.snapshot().into_iter();
        events.map(|event| format!("{} {}", event.reason, event.message)).collect()
    }
}

use rubelet_cri::connect::CgroupDriver::{Cgroupfs as RuntimeCgroupfs, Systemd as RuntimeSystemd};

/// Lets tasks go on until each waits for something.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(300)).await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_gets_its_group_and_those_above_it_first() {
    let world = World::new(&["pods"]);
    let pod = world.begin("u1", json!({"cpu": "250m"}));
    let uid = PodUid::from("u1");
    world.groups.ensure_pod(&pod, &uid).await.unwrap();
    assert_eq!(
        world.notes.take(),
        [
            "make /kubepods",
            "set /kubepods shares=3584 memory=1048576000 cpus=0-1",
            "make /kubepods/burstable shares=256",
            "make /kubepods/besteffort shares=2",
            "make /kubepods/burstable/podu1 shares=256 pids=50",
        ]
    );
    world.groups.ensure_pod(&pod, &uid).await.unwrap();
    assert_eq!(world.notes.take(), ["make /kubepods/burstable/podu1 shares=256 pids=50"]);
    assert_eq!(world.groups.pod_group(&uid).as_deref(), Some("/kubepods/burstable/podu1"));
    assert_eq!(world.groups.pod_group(&PodUid::from("u2")), None);
    let only = GroupSettings { memory: Some(7), ..Default::default() };
    world.groups.set_pod(&pod, &uid, &only).await.unwrap();
    assert_eq!(world.notes.take(), ["set /kubepods/burstable/podu1 memory=7"]);
}

#[tokio::test(start_paused = true)]
async fn a_group_that_cannot_be_made_says_why() {
    let world = World::new(&["pods"]);
    let pod = world.begin("u1", json!({}));
    world.notes.refused.lock().unwrap().insert("/kubepods/besteffort/podu1".into());
    let error = world.groups.ensure_pod(&pod, &PodUid::from("u1")).await.unwrap_err();
    assert_eq!(
        crate::logging::chain(&error),
        "failed to create container for /kubepods/besteffort/podu1: device or resource busy"
    );
}

#[tokio::test(start_paused = true)]
async fn exclusive_cpus_have_no_quota() {
    let world = World::new(&["pods"]);
    let both = json!({"cpu": "1", "memory": "1Mi"});
    let pod: Pod =
        serde_json::from_value(json!({"metadata": {"name": "g", "uid": "g"}, "spec": {"containers": [
        {"name": "a", "resources": {"requests": both, "limits": both}}]}}))
        .unwrap();
    let uid = PodUid::from("g");
    assert_eq!(world.groups.pod_settings(&pod, &uid).cpu_quota, Some(100_000));
    world.groups.exclusive_cpus_by(|uid| uid.as_str() == "g");
    assert_eq!(world.groups.pod_settings(&pod, &uid).cpu_quota, Some(-1));
    assert_eq!(Cgroups::none().pod_settings(&pod, &uid), GroupSettings::default());
}

#[tokio::test(start_paused = true)]
async fn classes_follow_their_pods_and_the_runtimes_driver_names_them() {
    let world = World::new(&["pods"]);
    let running = tokio::spawn(world.groups.clone().run());
    settle().await;
    assert_eq!(world.notes.take(), [""; 0], "nothing is made before the runtime has told its driver");
    world.runtime_tells(RuntimeSystemd);
    settle().await;
    let made = world.notes.take();
    assert!(made.contains(&"make /kubepods.slice/kubepods-burstable.slice shares=2".to_owned()), "{made:?}");
    let pod = world.begin("u-1", json!({"cpu": "1"}));
    world.groups.ensure_pod(&pod, &PodUid::from("u-1")).await.unwrap();
    settle().await;
    let said = world.notes.take();
    let slice = "/kubepods.slice/kubepods-burstable.slice";
    assert_eq!(said[0], format!("make {slice}/kubepods-burstable-podu_1.slice shares=1024 pids=50"));
    assert!(said.contains(&format!("set {slice} shares=1024")), "{said:?}");
    // Without news nothing is written but once a minute.
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert_eq!(world.notes.take(), [""; 0]);
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert!(world.notes.take().contains(&format!("set {slice} shares=1024")));
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn a_refused_limit_is_told_and_tried_again_each_minute() {
    let world = World::new(&["pods", "system-reserved", "kube-reserved"]);
    for controller in ["cpuset", "hugetlb"] {
        std::fs::create_dir_all(world.mount.path().join(controller).join("sys")).unwrap();
    }
    world.runtime_tells(RuntimeCgroupfs);
    let running = tokio::spawn(world.groups.clone().run());
    settle().await;
    world.notes.refused.lock().unwrap().insert("/kubepods".into());
    let told = world.told();
    assert!(
        told.contains(&"NodeAllocatableEnforced Updated limits on system reserved cgroup /sys".to_owned()),
        "{told:?}"
    );
    let missing = "FailedNodeAllocatableEnforcement Failed to enforce Kube Reserved Cgroup Limits on \"/none\": \
                   cgroup \"/none\" does not exist, or lacks controllers";
    assert!(told.contains(&missing.to_owned()), "{told:?}");
    assert!(told.contains(&"NodeAllocatableEnforced Updated Node Allocatable limit across pods".to_owned()));
    world.notes.take();
    for controller in ["cpu", "memory", "pids"] {
        std::fs::create_dir_all(world.mount.path().join(controller).join("none")).unwrap();
    }
    tokio::time::sleep(Duration::from_secs(61)).await;
    let said = world.notes.take();
    assert!(said.contains(&"set /none shares=512 memory=25165824".to_owned()), "{said:?}");
    assert!(
        !said.iter().any(|line| line.starts_with("set /kubepods ")),
        "what was set once is left alone: {said:?}"
    );
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn groups_of_pods_that_are_gone_are_removed() {
    let world = World::new(&["pods"]);
    for group in ["burstable/podu1", "burstable/podgone", "besteffort/podgone2", "burstable/other"] {
        std::fs::create_dir_all(world.mount.path().join("cpu/kubepods").join(group)).unwrap();
    }
    std::fs::write(world.mount.path().join("cpu/kubepods/besteffort/podgone2/cgroup.procs"), "1\n").unwrap();
    world.groups.sweep(|uid| uid.as_str() == "u1").await;
    assert_eq!(world.notes.take(), ["remove /kubepods/burstable/podgone"]);
}
