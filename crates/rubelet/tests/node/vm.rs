//! What only a machine with systemd, its bus, logind and unified control groups can show: slices, a shutdown that waits
//! for pods, and memory that runs short. Run by `cargo xtask vm`, which alone switches the feature on.
//!
//! There is one `kubepods.slice` and one logind, so these tests take turns.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node as NodeObject, Pod};
use kube::api::{Api, Patch, PatchParams};
use rubelet_linux::cgroup::{CgroupTree, GroupReading, MOUNT};
use serde_json::json;

use crate::cluster::{Cluster, node_condition};
use crate::pods::{self, status};
use crate::runtime::output;
use crate::wait::{self, PATIENCE, uptime};

const MIB: i64 = 1 << 20;
const KUBEPODS: &str = "/kubepods.slice";
const BURSTABLE: &str = "/kubepods.slice/kubepods-burstable.slice";
const BEST_EFFORT: &str = "/kubepods.slice/kubepods-besteffort.slice";

fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Changes the node's configuration before its agent is started.
fn edit(cluster: &Cluster, from: &str, to: &str) {
    let path = cluster.node.path("config.yaml");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{from} in {text}");
    fs::write(path, text.replace(from, to)).unwrap();
}

/// A cluster whose node leaves groups to systemd, at the top of the machine.
fn systemd_cluster(more: &str) -> Cluster {
    let mut cluster =
        Cluster::on_containerd(&["--systemd-cgroups"], &format!("cgroupDriver: systemd\n{more}"));
    let own_root = format!("cgroupRoot: {}\n", cluster.node.runtime.get("cgroup_root"));
    edit(&cluster, &own_root, "cgroupRoot: /\n");
    cluster.start_agent();
    cluster
}

fn sleeper(resources: &str) -> String {
    format!(
        "terminationGracePeriodSeconds: 1\ncontainers:\n- name: c\n  image: $IMAGE\n  command: [sleep, '1000']\n  \
         resources: {resources}\n"
    )
}

/// The slice of a pod, as a path.
fn slice_of(class: &str, pod: &Pod) -> String {
    let above = class.rsplit('/').next().unwrap().trim_end_matches(".slice");
    format!("{class}/{above}-pod{}.slice", pods::uid(pod).replace('-', "_"))
}

/// Waits until a slice is what it has to be: for systemd, by lines of `systemctl show`, and for the kernel. A quota is
/// rounded up to whole hundredths of a CPU, which is what systemd can keep: the file has what is exact until systemd
/// writes it for a reason of its own.
#[track_caller]
fn wait_slice(slice: &str, properties: &[&str], kernel: &GroupReading) {
    let unit = slice.rsplit('/').next().unwrap();
    let tree = CgroupTree::find(Path::new(MOUNT)).unwrap();
    let placed = format!("ControlGroup={slice}");
    let all = properties.iter().chain(&["LoadState=loaded", "ActiveState=active", "Transient=yes"]);
    let wanted: Vec<&str> = all.copied().chain([&*placed]).collect();
    wait::until(&format!("{unit} to be {wanted:?} and {kernel:?}"), PATIENCE, || {
        let shown = output(Command::new("systemctl").args(["show", unit]));
        let is_missing = |line: &&&str| !shown.lines().any(|has| has == **line);
        let missing: Vec<&str> = wanted.iter().filter(is_missing).copied().collect();
        let found = tree.read(slice);
        let cpu_quota = found.cpu_quota.map(|quota| (quota + 999) / 1000 * 1000);
        let found = GroupReading { memory_usage: None, cpu_quota, ..found };
        if missing.is_empty() && found == *kernel {
            return Ok(());
        }
        let names: Vec<&str> = missing.iter().map(|line| line.split('=').next().unwrap()).collect();
        let is_named = |line: &&str| names.iter().any(|name| line.split('=').next() == Some(name));
        let instead: Vec<&str> = shown.lines().filter(is_named).collect();
        Err(format!("{instead:?} and {found:?}"))
    });
}

/// Shares as they are read back from a weight, which knows fewer steps.
fn shares(shares: i64) -> Option<i64> {
    let weight = 1 + (shares - 2) * 9999 / 262_142;
    Some((weight - 1) * 262_142 / 9999 + 2)
}

#[test]
fn vm_slices_are_what_the_formulas_say_follow_resizes_and_end_with_their_pods() {
    let _alone = alone();
    let mut cluster = systemd_cluster("podPidsLimit: 77");
    cluster.run("guaranteed", &sleeper("{limits: {cpu: 250m, memory: 64Mi}}"));
    cluster
        .run("limited", &sleeper("{requests: {cpu: 500m, memory: 16Mi}, limits: {cpu: 505m, memory: 48Mi}}"));
    cluster.run("besteffort", &sleeper("{}"));
    let [guaranteed, limited, besteffort] =
        ["guaranteed", "limited", "besteffort"].map(|name| cluster.wait_ready(name));
    let period = Some(100_000);
    let base = GroupReading { cpu_period: period, pids_limit: Some(77), ..Default::default() };
    let sure = slice_of(KUBEPODS, &guaranteed);
    let sure_reading = GroupReading {
        cpu_shares: shares(256),
        cpu_quota: Some(25_000),
        memory_limit: Some(64 * MIB),
        ..base
    };
    let sure_properties = [
        "CPUWeight=10",
        "CPUQuotaPerSecUSec=250ms",
        "MemoryMax=67108864",
        "TasksMax=77",
        "Wants=kubepods.slice",
    ];
    wait_slice(&sure, &sure_properties, &sure_reading);
    let burst = slice_of(BURSTABLE, &limited);
    wait_slice(
        &burst,
        &["CPUWeight=20", "CPUQuotaPerSecUSec=510ms", "MemoryMax=50331648", "Wants=kubepods-burstable.slice"],
        &GroupReading {
            cpu_shares: shares(512),
            cpu_quota: Some(51_000),
            memory_limit: Some(48 * MIB),
            ..base
        },
    );
    let least = slice_of(BEST_EFFORT, &besteffort);
    wait_slice(
        &least,
        &["CPUWeight=1", "CPUQuotaPerSecUSec=infinity", "MemoryMax=infinity"],
        &GroupReading { cpu_shares: shares(2), ..base },
    );
    let class = GroupReading { cpu_period: period, ..Default::default() };
    wait_slice(BURSTABLE, &["CPUWeight=20"], &GroupReading { cpu_shares: shares(512), ..class });
    wait_slice(BEST_EFFORT, &["CPUWeight=1"], &GroupReading { cpu_shares: shares(2), ..class });
    // The container is a scope of systemd's in its pod's slice.
    let id = pods::container_id(&limited, "c");
    let scope = output(Command::new("systemctl").args([
        "show",
        "--property=ControlGroup",
        &format!("cri-containerd-{id}.scope"),
    ]));
    assert_eq!(scope.trim(), format!("ControlGroup={burst}/cri-containerd-{id}.scope"));

    // What systemd is told is what stays when it writes everything again.
    output(Command::new("systemctl").arg("daemon-reload"));
    wait_slice(&sure, &sure_properties, &sure_reading);

    resize(&cluster, "limited", &json!({"limits": {"cpu": "805m", "memory": "96Mi"}}));
    wait_slice(
        &burst,
        &["CPUWeight=20", "CPUQuotaPerSecUSec=810ms", "MemoryMax=100663296"],
        &GroupReading {
            cpu_shares: shares(512),
            cpu_quota: Some(81_000),
            memory_limit: Some(96 * MIB),
            ..base
        },
    );
    resize(
        &cluster,
        "limited",
        &json!({"requests": {"cpu": "250m"}, "limits": {"cpu": "300m", "memory": "32Mi"}}),
    );
    wait_slice(
        &burst,
        &["CPUWeight=10", "CPUQuotaPerSecUSec=300ms", "MemoryMax=33554432"],
        &GroupReading {
            cpu_shares: shares(256),
            cpu_quota: Some(30_000),
            memory_limit: Some(32 * MIB),
            ..base
        },
    );
    wait_slice(BURSTABLE, &["CPUWeight=10"], &GroupReading { cpu_shares: shares(256), ..class });
    let resized = cluster.wait_pod("limited", "to have what it asked for", |pod| {
        let resources = pods::container(pod, "c").resources.unwrap_or_default();
        resources.limits.is_some_and(|limits| limits["memory"].0 == "32Mi" && limits["cpu"].0 == "300m")
    });
    assert_eq!(pods::restarts(&resized, "c"), 0);

    // An agent that comes back finds its slices as they are.
    cluster.node.stop_agent();
    cluster.start_agent();
    wait_slice(&sure, &sure_properties, &sure_reading);

    let slices = [sure, burst, least];
    for pod in [&guaranteed, &limited, &besteffort] {
        cluster.api.delete::<Pod>("default", pod.metadata.name.as_deref().unwrap());
        cluster.wait_gone(pod);
    }
    wait::until("the slices to be gone", PATIENCE, || {
        let units = output(Command::new("systemctl").args(["list-units", "--all", "--plain", "kubepods*"]));
        let is_left = |slice: &&String| {
            Path::new(MOUNT).join(slice.trim_start_matches('/')).exists()
                || units.contains(slice.rsplit('/').next().unwrap())
        };
        let left: Vec<&String> = slices.iter().filter(is_left).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?} {units}")) }
    });
    wait_slice(BURSTABLE, &["CPUWeight=1"], &GroupReading { cpu_shares: shares(2), ..class });
    for pod in [&guaranteed, &limited, &besteffort] {
        assert_eq!(cluster.node.cgroups(&pods::uid(pod).replace('-', "_")), Vec::<std::path::PathBuf>::new());
    }
}

/// Asks for other resources of a pod's only container.
fn resize(cluster: &Cluster, pod: &str, resources: &serde_json::Value) {
    let patch = json!({"spec": {"containers": [{"name": "c", "resources": resources}]}});
    cluster.runtime.block_on(async {
        let pods: Api<Pod> = Api::namespaced(cluster.api.client("admin"), "default");
        pods.patch_subresource("resize", pod, &PatchParams::default(), &Patch::Strategic(patch))
            .await
            .unwrap();
    });
}

/// A machine that says that it goes down and does not: its `reboot.target` refuses to be started, after which logind
/// calls the shutdown off.
struct Unstoppable;

impl Unstoppable {
    const DROP_IN: &str = "/run/systemd/system/reboot.target.d";

    fn machine() -> Self {
        fs::create_dir_all(Self::DROP_IN).unwrap();
        fs::write(format!("{}/test.conf", Self::DROP_IN), "[Unit]\nRefuseManualStart=yes\n").unwrap();
        output(Command::new("systemctl").arg("daemon-reload"));
        Self
    }
}

impl Drop for Unstoppable {
    fn drop(&mut self) {
        let _the_machine_goes_with_it = fs::remove_dir_all(Self::DROP_IN);
        let _as_above = Command::new("systemctl").arg("daemon-reload").status();
    }
}

/// A second lock that holds the shutdown back, until it is dropped.
struct Delay(Child);

impl Delay {
    fn take() -> Self {
        let mut inhibit = Command::new("systemd-inhibit");
        inhibit.args(["--what=shutdown", "--mode=delay", "--who=test", "--why=to look", "cat"]);
        let holder = inhibit.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let this = Self(holder);
        wait::until("the test's lock to be held", PATIENCE, || {
            let locks = locks();
            if locks.contains("to look") { Ok(()) } else { Err(locks) }
        });
        this
    }
}

impl Drop for Delay {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Locks as logind lists them.
fn locks() -> String {
    output(Command::new("systemd-inhibit").args(["--list", "--no-pager", "--no-legend"]))
}

fn wait_agent_lock(held: bool) {
    wait::until(&format!("the agent's lock to be there: {held}"), PATIENCE, || {
        let locks = locks();
        if locks.contains("Kubelet needs time") == held { Ok(()) } else { Err(locks) }
    });
}

fn logind(property: &str) -> String {
    let (name, path) = ("org.freedesktop.login1", "/org/freedesktop/login1");
    let interface = "org.freedesktop.login1.Manager";
    output(Command::new("busctl").args(["get-property", name, path, interface, property])).trim().to_owned()
}

fn ready_message(node: &NodeObject) -> String {
    let conditions = node.status.clone().unwrap_or_default().conditions.unwrap_or_default();
    let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready").unwrap();
    ready.message.unwrap_or_default()
}

/// A pod that says in a shared file that it ends, after `takes` seconds.
fn teller(name: &str, takes: u32, more: &str) -> String {
    format!(
        "
{more}
terminationGracePeriodSeconds: 30
containers:
- name: c
  image: $IMAGE
  command:
  - sh
  - -c
  - 'trap \"sleep {takes}; echo {name} >> /share/ended; exit 0\" TERM; while :; do sleep 1 & wait $!; done'
  volumeMounts: [{{name: share, mountPath: /share}}]
volumes: [{{name: share, hostPath: {{path: $SHARE}}}}]
"
    )
}

#[test]
fn vm_a_shutdown_waits_for_pods_in_the_order_of_their_priority() {
    let _alone = alone();
    let _machine = Unstoppable::machine();
    let mut cluster =
        Cluster::without_agent("shutdownGracePeriod: 120s\nshutdownGracePeriodCriticalPods: 40s");
    cluster.start_agent();
    cluster.run("usual", &teller("usual", 3, ""));
    cluster.run("critical", &teller("critical", 0, "priorityClassName: system-cluster-critical"));
    let before = ["usual", "critical"].map(|name| cluster.wait_ready(name));
    // logind waits 5 s by itself.
    wait_agent_lock(true);
    assert_eq!(logind("InhibitDelayMaxUSec"), "t 120000000");

    // Words of others, and a shutdown that is called off before its time, change nothing.
    output(Command::new("busctl").args([
        "emit",
        "/org/freedesktop/login1",
        "org.freedesktop.login1.Manager",
        "PrepareForShutdown",
        "b",
        "true",
    ]));
    cluster.node.wait_agent_log(&["announced a shutdown that logind knows nothing of"]);
    output(Command::new("shutdown").args(["--no-wall", "+30"]));
    assert!(logind("ScheduledShutdown").contains("poweroff"), "{}", logind("ScheduledShutdown"));
    output(Command::new("shutdown").args(["--no-wall", "-c"]));
    cluster.run("later", &sleeper("{}"));
    cluster.wait_ready("later");
    for pod in &before {
        let name = pod.metadata.name.as_deref().unwrap();
        assert_eq!(pods::container_id(&cluster.wait_ready(name), "c"), pods::container_id(pod, "c"));
    }
    assert_eq!(node_condition(&cluster.node_object(), "Ready"), "True");

    let delay = Delay::take();
    let begun = uptime();
    output(Command::new("systemctl").args(["reboot", "--no-wall"]));
    let node = cluster.wait_node("to say that it goes down", |node| node_condition(node, "Ready") == "False");
    println!("the node was not ready {:.2} s after the word", uptime() - begun);
    assert_eq!(ready_message(&node), "node is shutting down");
    assert_eq!(logind("PreparingForShutdown"), "b true");
    cluster.run("too-late", &sleeper("{}"));
    let refused = status(&cluster.wait_phase("too-late", "Failed"));
    assert_eq!(refused.reason.as_deref(), Some("NodeShutdown"));
    for name in ["usual", "later", "critical"] {
        let pod = cluster
            .wait_pod(name, "to have ended", |pod| matches!(&*pods::phase(pod), "Failed" | "Succeeded"));
        let told = status(&pod);
        assert_eq!(told.phase.as_deref(), Some("Failed"), "{told:?}");
        assert_eq!(told.reason.as_deref(), Some("Terminated"), "{told:?}");
        let message = "Pod was terminated in response to imminent node shutdown.";
        assert_eq!(told.message.as_deref(), Some(message));
        let mut conditions = told.conditions.unwrap_or_default().into_iter();
        let disruption = conditions.find(|condition| condition.type_ == "DisruptionTarget").unwrap();
        assert_eq!(disruption.reason.as_deref(), Some("TerminationByKubelet"));
    }
    cluster.node.wait_lines("ended", &["usual", "critical"]);
    cluster.node.wait_agent_log(&["the node's pods have ended, the shutdown may go on"]);
    wait_agent_lock(false);
    println!("the shutdown could go on {:.2} s after the word", uptime() - begun);
    // It still waits, for the test.
    assert_eq!(logind("PreparingForShutdown"), "b true");
    assert_eq!(ready_message(&cluster.node_object()), "node is shutting down");

    drop(delay);
    cluster.wait_node("to be back", |node| node_condition(node, "Ready") == "True");
    wait_agent_lock(true);
    assert_eq!(logind("PreparingForShutdown"), "b false");
    cluster.run("after", &sleeper("{}"));
    cluster.wait_ready("after");
    let page = cluster.node.get("/metrics").unwrap();
    for name in ["kubelet_graceful_shutdown_start_time_seconds", "kubelet_graceful_shutdown_end_time_seconds"]
    {
        let line =
            page.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {page}"));
        assert!(!line.ends_with(" 0"), "{line}");
    }
    let told: Vec<String> = cluster.events("node-1").into_iter().filter_map(|event| event.message).collect();
    for word in
        ["Shutdown manager detected shutdown event", "Shutdown manager detected shutdown cancellation"]
    {
        assert!(told.iter().any(|message| message == word), "{told:?}");
    }
}

/// Reserves all memory but so many Mi, which is what pods have together.
fn leave_to_pods(mi: u64) -> String {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap();
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap();
    let total: u64 = total.trim().trim_end_matches("kB").trim().parse().unwrap();
    format!("systemReserved: {{memory: {}Ki}}", total - mi * 1024)
}

/// What of a group's memory cannot be had back, and its limit, in bytes.
fn working_set(dir: &Path) -> (u64, u64) {
    let text = |file: &str| fs::read_to_string(dir.join(file)).unwrap_or_default();
    let number = |text: &str| text.trim().parse::<u64>().unwrap_or(0);
    let stat = text("memory.stat");
    let cache = stat.lines().find_map(|line| line.strip_prefix("inactive_file ")).map_or(0, number);
    (number(&text("memory.current")).saturating_sub(cache), number(&text("memory.max")))
}

#[test]
fn vm_eviction_comes_before_memory_is_gone() {
    let _alone = alone();
    let mut cluster = Cluster::without_agent(&leave_to_pods(500));
    edit(&cluster, "evictionHard: {memory.available: 1Mi}", "evictionHard: {memory.available: 100Mi}");
    cluster.start_agent();
    cluster.run("calm", &sleeper("{requests: {memory: 20Mi}}"));
    cluster.wait_ready("calm");
    // The group is full of page cache before memory runs short: from then on the kernel says that it is at its limit.
    // What the hog takes at last is past the threshold, yet below the limit: the kernel has no need to kill it.
    cluster.run(
        "hog",
        "
terminationGracePeriodSeconds: 1
containers:
- name: c
  image: $IMAGE
  command:
  - sh
  - -c
  - 'head -c 300000000 /dev/zero > /disk/all; for i in $(seq 44); do head -c 10000000 /dev/zero >> /mem/all; done;
    sleep 1000'
  volumeMounts: [{name: mem, mountPath: /mem}, {name: disk, mountPath: /disk}]
volumes: [{name: mem, emptyDir: {medium: Memory}}, {name: disk, emptyDir: {}}]
",
    );
    let group = format!("{}/kubepods", cluster.node.runtime.get("cgroup_root"));
    let dir = Path::new(MOUNT).join(group.trim_start_matches('/'));
    let threshold = 100 << 20;
    let crossed = wait::briefly("the threshold to be crossed", || {
        let (used, limit) = working_set(&dir);
        if used + threshold > limit { Ok(uptime()) } else { Err(format!("{used} of {limit}")) }
    });
    wait::briefly("the hog to be told to go", || {
        let is_told = cluster.events("hog").iter().any(|event| event.reason.as_deref() == Some("Evicted"));
        if is_told { Ok(()) } else { Err(format!("{:?}", working_set(&dir))) }
    });
    let told = uptime() - crossed;
    let hog = status(&cluster.wait_phase("hog", "Failed"));
    let ended = uptime() - crossed;
    let events = fs::read_to_string(dir.join("memory.events")).unwrap().replace('\n', ", ");
    println!(
        "the event was there {told:.2} s after the threshold was crossed, the end told after {ended:.2} s; {events}"
    );
    assert_eq!(hog.reason.as_deref(), Some("Evicted"), "{hog:?}");
    let message = hog.message.unwrap();
    println!("{message}");
    assert!(
        message.starts_with("The node was low on resource: memory. Threshold quantity: 100Mi, available: "),
        "{message}"
    );
    // Looking by the clock alone would be up to ten seconds late.
    assert!(told < 5.0, "{told}");
    assert!(!cluster.node.agent_log().contains("OOMKilling"));
    assert!(pods::ready(&cluster.pod("calm")));
    wait::throughout(Duration::from_secs(1), || assert_eq!(pods::restarts(&cluster.pod("calm"), "c"), 0));
}
