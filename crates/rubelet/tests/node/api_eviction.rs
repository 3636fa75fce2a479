//! A node under stress: memory, disk and process IDs run out for real, and the right pod goes for it, with the numbers,
//! while its neighbours and the agent go on.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use crate::cluster::{Cluster, node_condition};
use crate::node::http_get;
use crate::pods::{self, status};
use crate::runtime::output;
use crate::wait::{self, PATIENCE, uptime};

const REST: &str = "containers: [{name: c, image: $IMAGE, command: [sleep, '1000']}]";

/// A cluster whose node has these hard thresholds and more lines in its configuration.
fn cluster(hard: &str, more: &str) -> Cluster {
    let cluster = Cluster::without_agent(more);
    let path = cluster.node.path("config.yaml");
    let text = fs::read_to_string(&path).unwrap();
    let text = text.replace("evictionHard: {memory.available: 1Mi}", &format!("evictionHard: {{{hard}}}"));
    fs::write(&path, text).unwrap();
    cluster
}

/// Reserves all memory but so many Mi, which is what pods have together.
fn leave_to_pods(mi: u64) -> String {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap();
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap();
    let total: u64 = total.trim().trim_end_matches("kB").trim().parse().unwrap();
    format!("systemReserved: {{memory: {}Ki}}", total - mi * 1024)
}

/// Asks the agent how it is, again and again, until dropped; tells the longest it took.
struct Pulse {
    ends: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<f64>>,
}

impl Pulse {
    fn of(cluster: &Cluster) -> Self {
        let address = format!("127.0.0.1:{}", cluster.node.open_ports().0);
        let ends = Arc::new(AtomicBool::new(false));
        let told = ends.clone();
        let thread = std::thread::spawn(move || {
            let mut longest: f64 = 0.0;
            while !told.load(Ordering::Relaxed) {
                let begun = uptime();
                // One that is refused shows in the end: the agent is gone then.
                let _answer = http_get(&address, "/healthz");
                longest = longest.max(uptime() - begun);
                wait::pause(Duration::from_millis(50));
            }
            longest
        });
        Self { ends, thread: Some(thread) }
    }

    /// The longest answer in seconds.
    fn longest(mut self) -> f64 {
        self.ends.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

/// That a pod was evicted, with this in its message; gives the message.
fn wait_evicted(cluster: &Cluster, name: &str, message: &[&str]) -> String {
    let pod = cluster.wait_phase(name, "Failed");
    let told = status(&pod);
    assert_eq!(told.reason.as_deref(), Some("Evicted"), "{told:?}");
    let text = told.message.unwrap();
    for part in message {
        assert!(text.contains(part), "{part}: {text}");
    }
    let event = cluster.wait_event(name, "Evicted");
    assert_eq!(event.message.as_deref(), Some(text.as_str()));
    text
}

/// Whether the API says that a pod was disturbed, and by whom.
fn disruption(pod: &Pod) -> Option<String> {
    let conditions = status(pod).conditions.unwrap_or_default();
    conditions.into_iter().find(|condition| condition.type_ == "DisruptionTarget")?.reason
}

fn unharmed(cluster: &Cluster, names: &[&str]) {
    for name in names {
        let pod = cluster.pod(name);
        assert!(pods::ready(&pod), "{name}");
        assert_eq!(pods::restarts(&pod, "c"), 0, "{name}");
    }
}

/// A hog that takes 10 MB at a time, beside a guaranteed pod and one of each other class.
fn memory_story(hog: &str) {
    let mut cluster = cluster("memory.available: 100Mi", &leave_to_pods(700));
    cluster.start_agent();
    let sure =
        "{name: c, image: $IMAGE, command: [sleep, '1000'], resources: {limits: {cpu: 10m, memory: 64Mi}}}";
    cluster.run("sure", &format!("containers: [{sure}]"));
    cluster.run("calm", &REST.replace("'1000']", "'1000'], resources: {requests: {memory: 50Mi}}"));
    cluster.run("guest", REST);
    for name in ["sure", "calm", "guest"] {
        cluster.wait_ready(name);
    }
    let pulse = Pulse::of(&cluster);
    cluster.run(
        "hog",
        &format!(
            "
containers:
- name: c
  image: $IMAGE
  command: [sh, -c, 'for i in $(seq 200); do head -c 10000000 /dev/zero >> /mem/all; sleep 0.1; done; sleep 1000']
  volumeMounts: [{{name: mem, mountPath: /mem}}]
  {hog}
volumes: [{{name: mem, emptyDir: {{medium: Memory}}}}]
"
        ),
    );
    let text = wait_evicted(
        &cluster,
        "hog",
        &[
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: ",
            "Container c was using ",
        ],
    );
    println!("{text}");
    let event = cluster.wait_event("hog", "Evicted");
    let annotations = event.metadata.annotations.unwrap();
    assert_eq!(annotations["starved_resource"], "memory");
    assert_eq!(annotations["offending_containers"], "c");
    assert!(text.contains(&annotations["offending_containers_usage"]), "{annotations:?}");
    assert_eq!(disruption(&cluster.pod("hog")).as_deref(), Some("TerminationByKubelet"));
    // The kernel had not to do it.
    assert!(!cluster.node.agent_log().contains("OOMKilling"));
    unharmed(&cluster, &["sure", "calm", "guest"]);
    cluster.wait_node("to say it", |node| node_condition(node, "MemoryPressure") == "True");
    cluster.run("late", REST);
    let late = cluster.wait_phase("late", "Failed");
    assert!(status(&late).message.unwrap().contains("The node had condition: [MemoryPressure]. "));
    cluster.run("late-but-paying", &REST.replace("'1000']", "'1000'], resources: {requests: {memory: 5Mi}}"));
    cluster.wait_ready("late-but-paying");
    let longest = pulse.longest();
    println!("the agent answered within {longest:.3} s throughout");
    assert!(longest < 5.0, "{longest}");
    let page = cluster.node.get("/metrics").unwrap();
    assert!(page.contains("kubelet_evictions{eviction_signal=\"allocatableMemory.available\"} 1"), "{page}");
}

#[test]
fn api_memory_a_best_effort_hog_goes_and_nobody_else() {
    memory_story("");
}

#[test]
fn api_memory_a_burstable_hog_goes_before_those_that_take_less() {
    memory_story("resources: {requests: {memory: 200Mi, cpu: 10m}}");
}

#[test]
fn api_a_fork_bomb_hurts_nobody_but_its_pod() {
    let mut cluster = cluster("memory.available: 1Mi", "podPidsLimit: 64");
    cluster.start_agent();
    cluster.run("calm", REST);
    cluster.wait_ready("calm");
    let pulse = Pulse::of(&cluster);
    cluster.run(
        "bomb",
        "
terminationGracePeriodSeconds: 1
containers:
- name: c
  image: $IMAGE
  command: [sh, -c, 'f() { f & f & wait; }; while true; do f & wait; done 2>/dev/null']
",
    );
    cluster.wait_pod("bomb", "to have begun", |pod| {
        !pods::state(pod, "c").is_empty() && !pods::state(pod, "c").starts_with("waiting")
    });
    let group = cluster.node.cgroups(&pods::uid(&cluster.pod("bomb")));
    let pids = group.iter().find(|dir| dir.starts_with("/sys/fs/cgroup/pids")).unwrap();
    wait::until("the limit to be reached", PATIENCE, || {
        // What runs at the moment may be little, when the shell gave up and waits for its restart: then the kernel has
        // counted what it refused, in the pod's group or in the container's.
        let below = fs::read_dir(pids).into_iter().flatten().flatten().map(|entry| entry.path());
        let refused = [pids.clone()].into_iter().chain(below).any(|group| {
            let events = fs::read_to_string(group.join("pids.events")).unwrap_or_default();
            events.trim().strip_prefix("max ").is_some_and(|count| count != "0")
        });
        let text = fs::read_to_string(pids.join("pids.current")).unwrap_or_default();
        if refused || text.trim().parse::<u32>().is_ok_and(|tasks| tasks >= 60) { Ok(()) } else { Err(text) }
    });
    assert_eq!(fs::read_to_string(pids.join("pids.max")).unwrap().trim(), "64");
    unharmed(&cluster, &["calm"]);
    cluster.run("another", REST);
    cluster.wait_ready("another");
    assert!(!cluster.node.agent_log().contains("Evicted"));
    println!("the agent answered within {:.3} s throughout", pulse.longest());
}

/// A file system of its own below a directory, and what unmounts it.
struct Disk(std::path::PathBuf);

impl Disk {
    fn mount(cluster: &Cluster, mi: u64) -> Self {
        let (image, root) = (cluster.node.path("disk.img"), cluster.node.root());
        fs::create_dir_all(&root).unwrap();
        fs::File::create(&image).unwrap().set_len(mi << 20).unwrap();
        output(Command::new("mkfs.ext4").arg("-q").arg(&image));
        output(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&root));
        Self(root)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _busy_until_the_node_goes = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn api_disk_who_fills_it_goes() {
    let mut cluster = cluster("nodefs.available: 30%", "evictionPressureTransitionPeriod: 2s");
    let _disk = Disk::mount(&cluster, 200);
    cluster.start_agent();
    let dir = |fill: u32| {
        format!(
            "
containers:
- name: c
  image: $IMAGE
  command: [sh, -c, 'for i in $(seq {fill}); do head -c 5000000 /dev/zero >> /dir/all; sleep 0.1; done; sleep 1000']
  volumeMounts: [{{name: dir, mountPath: /dir}}]
volumes: [{{name: dir, emptyDir: {{}}}}]
"
        )
    };
    cluster.run("modest", &dir(2));
    cluster.wait_ready("modest");
    let pulse = Pulse::of(&cluster);
    cluster.run("filler", &dir(1000));
    let text = wait_evicted(
        &cluster,
        "filler",
        &["The node was low on resource: ephemeral-storage. Threshold quantity: ", ", available: "],
    );
    println!("{text}");
    assert_eq!(disruption(&cluster.pod("filler")).as_deref(), Some("TerminationByKubelet"));
    unharmed(&cluster, &["modest"]);
    // Its files are gone with it, and the pressure a moment later.
    cluster.wait_node("to be well again", |node| node_condition(node, "DiskPressure") == "False");
    cluster.run("late", REST);
    cluster.wait_ready("late");
    println!("the agent answered within {:.3} s throughout", pulse.longest());
}

#[test]
fn api_limits_of_local_storage_are_held() {
    let mut cluster = cluster("memory.available: 1Mi", "");
    cluster.start_agent();
    let write = |to: &str, more: &str| {
        format!(
            "
containers:
- name: c
  image: $IMAGE
  command: [sh, -c, 'head -c 5000000 /dev/zero {to}; sleep 1000']
  volumeMounts: [{{name: dir, mountPath: /dir}}]
{more}"
        )
    };
    let limits = "  resources: {limits: {ephemeral-storage: 2Mi}}\nvolumes: [{name: dir, emptyDir: {}}]\n";
    cluster.run("dir", &write("> /dir/all", "volumes: [{name: dir, emptyDir: {sizeLimit: 1Mi}}]\n"));
    cluster.run("within", &write("> /dir/all", "volumes: [{name: dir, emptyDir: {sizeLimit: 100Mi}}]\n"));
    cluster.run("pod", &write("> /dir/all", limits));
    cluster.run("layer", &write("> /all", limits));
    cluster.run("logs", &write("| tr \"\\\\000\" \"x\" | fold -w 1000", limits));
    wait_evicted(&cluster, "dir", &["Usage of EmptyDir volume \"dir\" exceeds the limit \"1Mi\". "]);
    assert_eq!(disruption(&cluster.pod("dir")), None);
    let total = "Pod ephemeral local storage usage exceeds the total limit of containers 2Mi. ";
    for name in ["pod", "layer", "logs"] {
        wait_evicted(&cluster, name, &[total]);
    }
    unharmed(&cluster, &["within"]);
}

#[test]
fn api_a_critical_pod_gets_the_room_of_another() {
    let cpus = std::thread::available_parallelism().unwrap().get();
    let mut cluster = cluster("memory.available: 1Mi", "");
    cluster.start_agent();
    let asks = |milli: usize| {
        format!(
            "terminationGracePeriodSeconds: 1\ncontainers: [{{name: c, image: $IMAGE, command: [sleep, '1000'], resources: {{requests: {{cpu: {milli}m}}}}}}]"
        )
    };
    cluster.run("large", &asks(cpus * 1000 - 200));
    cluster.run("small", &asks(100));
    cluster.run("guest", REST);
    for name in ["large", "small", "guest"] {
        cluster.wait_ready(name);
    }
    cluster.run("plain", &asks(500));
    assert_eq!(status(&cluster.wait_phase("plain", "Failed")).reason.as_deref(), Some("OutOfcpu"));
    cluster.node.apply("critical", &asks(500));
    cluster.node.wait_ready("critical");
    let large = cluster.wait_phase("large", "Failed");
    let told = status(&large);
    assert_eq!(told.reason.as_deref(), Some("Preempting"));
    assert_eq!(told.message.as_deref(), Some("Preempted in order to admit critical pod"));
    assert_eq!(disruption(&large).as_deref(), Some("TerminationByKubelet"));
    cluster.wait_event("large", "Preempting");
    unharmed(&cluster, &["small", "guest"]);
    cluster.node.apply("too-much", &asks(cpus * 1000 + 1));
    let refused = cluster.node.wait_phase("too-much", "Failed");
    assert_eq!(status(&refused).reason.as_deref(), Some("UnexpectedAdmissionError"), "{:?}", refused.status);
    unharmed(&cluster, &["small", "guest"]);
}
