//! Reads a recorded tree of cgroup v2, and the control groups of this machine, some of which are made and removed here.

use std::fs;
use std::io::Write as _;
use std::process::{Child, Command, Stdio};

use proptest::prelude::*;

use super::*;
use crate::cgroup;

const MOUNT: &str = "/sys/fs/cgroup";

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// A tree as a node with cgroup v2 has it.
fn recorded() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("cgroup.controllers", "cpu io memory pids\n");
    write("cpu.stat", "usage_usec 1000\nuser_usec 600\nsystem_usec 400\n");
    write("memory.stat", "anon 1000\nfile 500\ninactive_file 200\n");
    let pod = "kubepods.slice/kubepods-podx.slice";
    let some =
        "some avg10=1.00 avg60=2.00 avg300=3.00 total=4\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
    for (name, text) in [
        (
            "cpu.stat",
            "usage_usec 50\nuser_usec 30\nsystem_usec 20\nnr_periods 1\nnr_throttled 0\nthrottled_usec 0\n",
        ),
        ("cpu.weight", "4\n"),
        ("cpu.max", "10000 100000\n"),
        ("cpu.pressure", some),
        ("memory.current", "4096\n"),
        (
            "memory.stat",
            "anon 1024\nfile 2048\nkernel 100\nfile_mapped 7\ninactive_file 1000\nactive_file 48\npgfault 9\npgmajfault 1\n",
        ),
        ("memory.swap.current", "0\n"),
        ("memory.max", "8192\n"),
        ("memory.swap.max", "max\n"),
        ("memory.peak", "5000\n"),
        ("memory.min", "0\n"),
        ("memory.events", "low 0\nhigh 0\nmax 3\noom 1\noom_kill 1\n"),
        ("memory.pressure", some),
        ("io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n"),
        ("io.pressure", some),
        ("pids.current", "2\n"),
        ("pids.max", "100\n"),
        ("cgroup.procs", ""),
        ("cgroup.events", "populated 1\n"),
    ] {
        write(&format!("{pod}/{name}"), text);
    }
    root
}

#[test]
fn a_recorded_unified_group_is_read_as_far_as_asked() {
    let root = recorded();
    let mut groups = Groups::new(root.path(), 100);
    assert_eq!(groups.open_files(), 0);
    let path = "/kubepods.slice/kubepods-podx.slice";
    let little = groups.read(path, Effort::CpuAndMemory, at(10)).unwrap();
    assert_eq!(little.cpu.as_ref().unwrap().total, 50_000);
    let memory = little.memory.as_ref().unwrap();
    assert_eq!((memory.usage, memory.working_set, memory.limit), (4096, 3096, Some(8192)));
    assert_eq!((memory.swap, memory.swap_limit, memory.max_usage), (Some(0), None, None));
    assert_eq!((little.processes, little.pressure.cpu), (None, None));
    assert_eq!(groups.open_files(), 6);
    let summary = groups.read(path, Effort::Summary, at(11)).unwrap();
    assert_eq!(summary.pressure.io.unwrap().some.total, 4);
    assert_eq!(summary.processes.unwrap().threads, None);
    let all = groups.read(path, Effort::Everything, at(12)).unwrap();
    let cpu = all.cpu.unwrap();
    assert_eq!((cpu.shares, cpu.quota, cpu.period), (Some(80), Some(10_000), Some(100_000)));
    let memory = all.memory.unwrap();
    assert_eq!((memory.failures, memory.oom_kills, memory.kernel), (Some(3), Some(1), Some(100)));
    assert_eq!((memory.max_usage, memory.soft_limit), (Some(5000), Some(0)));
    assert_eq!((all.devices.len(), all.devices[0].written_bytes), (1, 2));
    let processes = all.processes.unwrap();
    assert_eq!((processes.processes, processes.threads, processes.threads_max), (0, Some(2), Some(100)));
    assert!(all.created_at.is_some());
    // Counters are read anew.
    fs::write(root.path().join("kubepods.slice/kubepods-podx.slice/memory.current"), "5000\n").unwrap();
    assert_eq!(groups.read(path, Effort::CpuAndMemory, at(13)).unwrap().memory.unwrap().usage, 5000);
    assert_eq!(groups.children("/kubepods.slice"), ["kubepods-podx.slice"]);
    groups.close();
    assert_eq!(groups.open_files(), 0);
}

#[test]
fn what_only_running_or_setting_changes_is_read_when_it_may_have_changed() {
    let root = recorded();
    let mut groups = Groups::new(root.path(), 100);
    let path = "/kubepods.slice/kubepods-podx.slice";
    let write = |name: &str, text: &str| fs::write(root.path().join(&path[1..]).join(name), text).unwrap();
    let mut told = |second: i64| {
        let usage = groups.read(path, Effort::Everything, at(second)).unwrap();
        let memory = usage.memory.unwrap();
        (memory.max_usage.unwrap(), usage.processes.unwrap().threads.unwrap(), memory.limit.unwrap())
    };
    assert_eq!(told(10), (5000, 2, 8192));
    for (name, text) in [("memory.peak", "6000\n"), ("pids.current", "3\n"), ("memory.max", "9000\n")] {
        write(name, text);
    }
    assert_eq!(told(20), (5000, 2, 8192), "it has not run since");
    write("cpu.stat", "usage_usec 51\nuser_usec 31\nsystem_usec 20\n");
    assert_eq!(told(30), (6000, 3, 8192));
    assert_eq!(told(90), (6000, 3, 9000), "limits are looked at after a while");
}

#[test]
fn the_root_of_the_unified_hierarchy_is_the_machine() {
    let root = recorded();
    let mut groups = Groups::new(root.path(), 100);
    let usage = groups.read("/", Effort::Everything, at(10)).unwrap();
    let memory = usage.memory.unwrap();
    assert_eq!((memory.usage, memory.working_set), (1500, 1300));
    assert_eq!(memory.limit, MachineMemory::read().total);
    assert_eq!(usage.pressure, machine_pressure_like(&usage.pressure));
    assert_eq!(usage.path, "/");
}

/// Figures of the machine's pressure move; what is there does not.
fn machine_pressure_like(
    found: &rubelet_core::stats::usage::Pressure,
) -> rubelet_core::stats::usage::Pressure {
    let machine = machine_pressure();
    let keep = |there: bool, found| if there { found } else { None };
    rubelet_core::stats::usage::Pressure {
        cpu: keep(machine.cpu.is_some(), found.cpu),
        memory: keep(machine.memory.is_some(), found.memory),
        io: keep(machine.io.is_some(), found.io),
    }
}

#[test]
fn groups_that_are_not_there_or_lie_outside_are_not_read() {
    let root = recorded();
    let mut groups = Groups::new(&root.path().join("kubepods.slice"), 100);
    for path in ["/none", "", "kubepods-podx.slice", "/..", "/kubepods-podx.slice/../../x"] {
        assert_eq!(groups.read(path, Effort::Everything, at(10)), None, "{path}");
    }
    assert_eq!((groups.open_files(), groups.groups.len()), (0, 0));
    assert!(groups.children("/none").is_empty());
    // Neither generation of control groups is mounted here.
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(Groups::new(empty.path(), 100).read("/", Effort::Everything, at(10)), None);
}

#[test]
fn no_more_files_stay_open_than_may() {
    let root = recorded();
    let path = "/kubepods.slice/kubepods-podx.slice";
    let mut plenty = Groups::new(root.path(), 100);
    let mut few = Groups::new(root.path(), 3);
    for second in 10..13 {
        let expected = plenty.read(path, Effort::Everything, at(second));
        assert_eq!(few.read(path, Effort::Everything, at(second)), expected);
        assert_eq!(few.open_files(), 3);
    }
    few.retain(|path| path == "/");
    assert_eq!(few.open_files(), 0);
}

/// Groups of this test on this machine, taken away with their process.
struct Own {
    name: String,
    child: Option<Child>,
}

impl Own {
    /// `None` without the privilege.
    fn new(tag: &str) -> Option<Self> {
        let own = Self { name: format!("/rubelet-usage-{tag}-{}", std::process::id()), child: None };
        for root in cgroup::hierarchies(Path::new(MOUNT)) {
            // cpuset wants processors and memory first, and nothing is read of it.
            if root.ends_with("cpuset") {
                continue;
            }
            if let Err(error) = fs::create_dir(root.join(&own.name[1..])) {
                assert!(!rustix::process::geteuid().is_root(), "root must be able to make groups: {error}");
                return None;
            }
        }
        Some(own)
    }

    fn dirs(&self) -> impl Iterator<Item = PathBuf> {
        let name = self.name[1..].to_owned();
        let roots = cgroup::hierarchies(Path::new(MOUNT)).into_iter();
        roots.map(move |root| root.join(&name)).filter(|dir| dir.exists())
    }

    /// A process that waits in these groups before it does anything.
    fn start(&mut self, script: &str) {
        let script = format!("read go; {script}; echo done; read end");
        let mut child = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        for dir in self.dirs() {
            fs::write(dir.join("cgroup.procs"), child.id().to_string()).unwrap();
        }
        child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
        let mut done = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut done)
            .unwrap();
        assert_eq!(done, "done\n");
        self.child = Some(child);
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.stdin.take());
            child.wait().unwrap();
        }
    }

    fn remove(&self) {
        let roots = cgroup::hierarchies(Path::new(MOUNT));
        // An ended process leaves its groups a moment after it was waited for.
        while cgroup::remove(&roots, &self.name).is_err() {
            std::thread::yield_now();
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.remove();
    }
}

#[test]
fn a_live_group_is_read_until_it_is_gone() {
    let Some(mut own) = Own::new("live") else { return };
    let mut groups = Groups::new(Path::new(MOUNT), 1000);
    let path = own.name.clone();
    own.start("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done");
    let first = groups.read(&path, Effort::Everything, at(10)).unwrap();
    let (cpu, memory) = (first.cpu.unwrap(), first.memory.unwrap());
    assert!(cpu.total > 0 && cpu.shares.is_some(), "{cpu:?}");
    assert!(memory.usage > 0 && memory.working_set <= memory.usage && memory.rss.is_some(), "{memory:?}");
    assert_eq!((memory.limit, memory.oom_kills), (None, Some(0)));
    let processes = first.processes.unwrap();
    assert_eq!((processes.processes, processes.threads), (1, Some(1)));
    assert!(processes.file_descriptors.unwrap() >= 3 && processes.sockets.is_some());
    assert!(processes.soft_limit_open_files.is_some());
    assert_eq!(groups.process_of(&path, at(10)), own.child.as_ref().map(|child| child.id() as i32));
    for dir in own.dirs() {
        for (file, value) in [
            ("memory.limit_in_bytes", "104857600"),
            ("memory.max", "104857600"),
            ("cpu.cfs_quota_us", "50000"),
            ("cpu.max", "50000 100000"),
            ("pids.max", "77"),
        ] {
            let file = dir.join(file);
            if file.exists() {
                fs::write(file, value).unwrap();
            }
        }
    }
    // Limits are looked at once in a minute or so.
    let second = groups.read(&path, Effort::Everything, at(90)).unwrap();
    assert_eq!(second.memory.unwrap().limit, Some(104_857_600));
    assert_eq!(second.cpu.as_ref().unwrap().quota, Some(50_000));
    assert!(second.cpu.unwrap().total >= cpu.total);
    assert_eq!(second.processes.unwrap().threads_max, Some(77));
    let open = groups.open_files();
    assert!(groups.read(&path, Effort::Everything, at(170)).is_some());
    assert_eq!(groups.open_files(), open, "files are opened once");
    own.stop();
    own.remove();
    assert_eq!(groups.read(&path, Effort::Everything, at(172)), None);
    assert_eq!(groups.open_files(), 0);
}

#[test]
fn a_group_that_was_made_anew_is_read_at_once() {
    let Some(own) = Own::new("anew") else { return };
    let mut groups = Groups::new(Path::new(MOUNT), 1000);
    assert!(groups.read(&own.name, Effort::Summary, at(10)).is_some());
    own.remove();
    let Some(again) = Own::new("anew") else { return };
    let found = groups.read(&again.name, Effort::Summary, at(11)).unwrap();
    assert_eq!(found.processes.unwrap().processes, 0);
}

#[test]
fn this_machines_root_is_read() {
    let mut groups = Groups::new(Path::new(MOUNT), 1000);
    let Some(root) = groups.read("/", Effort::Everything, at(10)) else {
        assert!(!Path::new(MOUNT).join("memory").exists(), "there is a hierarchy");
        return;
    };
    let memory = root.memory.unwrap();
    assert!(memory.usage > 0 && memory.limit == MachineMemory::read().total);
    assert!(root.processes.unwrap().processes > 0);
}

#[test]
fn the_own_group_is_the_one_of_accounting() {
    let check = |text: &str, unified, expected: Option<&str>| {
        assert_eq!(own_group(text, unified).as_deref(), expected, "{text}");
    };
    check("0::/system.slice/rubelet.service\n", true, Some("/system.slice/rubelet.service"));
    check("4:memory:/a\n3:cpu,cpuacct:/a\n1:name=systemd:/b\n0::/c\n", false, Some("/b"));
    check("4:memory:/a\n3:cpu,cpuacct:/a\n", false, Some("/a"));
    check("4:memory:/a:x\n3:cpu,cpuacct:/\n1:name=systemd:/b\n", false, None);
    check("4:memory:/a\n", false, None);
    check("", true, None);
}

proptest! {
    #[test]
    fn no_bytes_do_harm(text in "\\PC{0,80}", unified in any::<bool>()) {
        let _ = own_group(&text, unified);
    }
}
