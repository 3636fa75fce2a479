//! What on a machine will keep the agent from working, and what to do about it: the judgement behind `rubelet check`.
//!
//! Owns which facts matter and the sentences about them. Reads nothing itself; the agent's own start refuses what it
//! must on its own. Called by the shell's `check`.

use std::net::SocketAddr;

use crate::resources::KernelDefault;

/// What was found of a machine. What could not be found out is `None`.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The effective user is root.
    pub root: bool,
    /// Bits of the effective capabilities, as in `/proc/self/status`.
    pub capabilities: Option<u64>,
    /// Major and minor version of the kernel.
    pub kernel: (u32, u32),
    /// Only control groups of the second generation are mounted.
    pub cgroup_v2: bool,
    /// Controllers of control groups that are needed and not there.
    pub missing_controllers: Vec<String>,
    /// Devices or files that are swapped to.
    pub swap: Vec<String>,
    /// What the container runtime says of itself, or why it says nothing.
    pub runtime: Result<RuntimeFacts, String>,
    /// Other node agents, as name and process.
    pub agents: Vec<(String, u32)>,
    /// Addresses to listen at that cannot be had: what for, where, why.
    pub taken: Vec<(&'static str, SocketAddr, String)>,
    /// Kernel settings that have another value than the agent wants.
    pub kernel_settings: Vec<(KernelDefault, i64)>,
    /// `net.ipv4.ip_forward`.
    pub ip_forward: Option<bool>,
    /// `fs.inotify.max_user_instances` and `fs.inotify.max_user_watches`.
    pub inotify: Option<(u64, u64)>,
    /// The disk of the root directory: bytes free and in all.
    pub disk: Option<(u64, u64)>,
    /// A kubeconfig that cannot be used, and why.
    pub kubeconfig: Option<String>,
}

/// What a runtime says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeFacts {
    /// Name and version.
    pub name: String,
    /// Why it takes no requests.
    pub runtime_problem: Option<String>,
    /// Why pods get no network.
    pub network_problem: Option<String>,
    /// It says who makes control groups.
    pub tells_cgroup_driver: bool,
}

/// What the configuration asks of the machine.
#[derive(Clone, Debug)]
pub struct Wishes {
    /// `containerRuntimeEndpoint`.
    pub runtime_endpoint: String,
    /// `failCgroupV1`.
    pub fail_cgroup_v1: bool,
    /// `failSwapOn`.
    pub fail_swap_on: bool,
    /// `cgroupDriver`.
    pub cgroup_driver: String,
    /// `protectKernelDefaults`.
    pub protect_kernel_defaults: bool,
    /// The root directory.
    pub root_dir: String,
    /// Share of the root directory's disk, in percent, below which pods are evicted; `None` if there is no such share.
    pub disk_percent: Option<f64>,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Fine,
    /// The agent runs, and something will not work.
    Warning,
    /// The agent does not start, or runs no pods.
    Failure,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub subject: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub found: String,
    /// What to do about it; empty where there is nothing to do.
    pub mend: String,
}

/// A capability the agent uses: its bit, name, what fails without it, and how badly.
const CAPABILITIES: [(u32, &str, &str, Level); 5] = [
    (21, "CAP_SYS_ADMIN", "no volume can be mounted", Level::Failure),
    (0, "CAP_CHOWN", "files of volumes cannot be given to the group of their pod", Level::Warning),
    (5, "CAP_KILL", "what is left of a pod cannot be ended", Level::Warning),
    (24, "CAP_SYS_RESOURCE", "OOM scores and limits stay as they are", Level::Warning),
    (34, "CAP_SYSLOG", "OOM kills are told without the kernel's words", Level::Warning),
];

/// The oldest kernel that the agent is written for.
const KERNEL: (u32, u32) = (4, 18);

/// Fewer inotify instances and watches than this run out on a node with many pods.
const INOTIFY: (u64, u64) = (64, 8192);

/// Everything that was looked at, in the order in which one would mend it.
pub fn findings(facts: &Facts, wishes: &Wishes) -> Vec<Finding> {
    let mut all = vec![rights(facts), kernel(facts), control_groups(facts, wishes), swap(facts, wishes)];
    all.extend(runtime(facts, wishes));
    all.extend([agents(facts), addresses(facts), settings(facts, wishes), network(facts), watches(facts)]);
    all.extend([disk(facts, wishes), control_plane(facts)].into_iter().flatten());
    all
}

/// Whether the agent would run pods here.
pub fn passes(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.level != Level::Failure)
}

fn fine(subject: &'static str, found: impl Into<String>) -> Finding {
    Finding { subject, level: Level::Fine, found: found.into(), mend: String::new() }
}

fn bad(subject: &'static str, level: Level, found: impl Into<String>, mend: impl Into<String>) -> Finding {
    Finding { subject, level, found: found.into(), mend: mend.into() }
}

fn rights(facts: &Facts) -> Finding {
    const SUBJECT: &str = "rights";
    if !facts.root {
        return bad(SUBJECT, Level::Failure, "this is not root", "run it as root (sudo)");
    }
    let Some(held) = facts.capabilities else { return fine(SUBJECT, "root") };
    let missing: Vec<_> =
        CAPABILITIES.iter().filter(|(bit, ..)| held.checked_shr(*bit).unwrap_or(0) & 1 == 0).collect();
    let Some(level) = missing.iter().map(|(_, _, _, level)| *level).max() else {
        return fine(SUBJECT, "root with all capabilities that are used");
    };
    let told: Vec<String> =
        missing.iter().map(|(_, name, without, _)| format!("{name} ({without})")).collect();
    bad(
        SUBJECT,
        level,
        format!("root without {}", told.join(", ")),
        "start it outside of a container, or give the container these capabilities",
    )
}

fn kernel(facts: &Facts) -> Finding {
    let (major, minor) = facts.kernel;
    let found = format!("Linux {major}.{minor}");
    if facts.kernel < KERNEL {
        let mend = format!("take Linux {}.{} or newer", KERNEL.0, KERNEL.1);
        return bad("kernel", Level::Failure, found, mend);
    }
    fine("kernel", found)
}

fn control_groups(facts: &Facts, wishes: &Wishes) -> Finding {
    const SUBJECT: &str = "control groups";
    let generation = if facts.cgroup_v2 { "v2" } else { "v1" };
    if !facts.cgroup_v2 && wishes.fail_cgroup_v1 {
        return bad(
            SUBJECT,
            Level::Failure,
            "v1, which the configuration refuses",
            "boot with systemd.unified_cgroup_hierarchy=1, or set failCgroupV1: false",
        );
    }
    if !facts.missing_controllers.is_empty() {
        return bad(
            SUBJECT,
            Level::Failure,
            format!("{generation} without the controllers {}", facts.missing_controllers.join(", ")),
            "enable them on the kernel's command line (cgroup_enable=memory), or give them to the container this runs in",
        );
    }
    fine(SUBJECT, generation)
}

fn swap(facts: &Facts, wishes: &Wishes) -> Finding {
    if facts.swap.is_empty() {
        return fine("swap", "none");
    }
    let found = format!("in use: {}", facts.swap.join(", "));
    if wishes.fail_swap_on {
        return bad(
            "swap",
            Level::Failure,
            found,
            "swapoff -a and take it out of /etc/fstab, or set failSwapOn: false",
        );
    }
    fine("swap", found)
}

fn runtime(facts: &Facts, wishes: &Wishes) -> Vec<Finding> {
    let runtime = match &facts.runtime {
        Ok(runtime) => runtime,
        Err(why) => {
            return vec![bad(
                "container runtime",
                Level::Failure,
                format!("{} does not answer: {why}", wishes.runtime_endpoint),
                "start the runtime with its CRI plugin on (containerd: no \"cri\" in disabled_plugins), or set \
                 containerRuntimeEndpoint",
            )];
        }
    };
    let state = match &runtime.runtime_problem {
        None => fine("container runtime", runtime.name.clone()),
        Some(why) => bad(
            "container runtime",
            Level::Failure,
            format!("{} is not ready: {why}", runtime.name),
            "its own log says more",
        ),
    };
    let network = match &runtime.network_problem {
        None => fine("pod network", "ready"),
        Some(why) => bad(
            "pod network",
            Level::Warning,
            format!("not ready: {why}; only pods with hostNetwork run"),
            "install a CNI network: its plugins in /opt/cni/bin, its configuration in /etc/cni/net.d",
        ),
    };
    let mut all = vec![state, network];
    // A runtime that tells is followed, whatever the configuration says.
    if !runtime.tells_cgroup_driver {
        all.push(bad(
            "cgroup driver",
            Level::Warning,
            format!("{} does not tell which it uses; the configuration says {}", runtime.name, wishes.cgroup_driver),
            "with SystemdCgroup = true in the runtime's configuration, cgroupDriver: systemd, else cgroupDriver: cgroupfs",
        ));
    }
    all
}

fn agents(facts: &Facts) -> Finding {
    if facts.agents.is_empty() {
        return fine("other node agents", "none");
    }
    let told: Vec<String> =
        facts.agents.iter().map(|(name, pid)| format!("{name} (process {pid})")).collect();
    bad(
        "other node agents",
        Level::Failure,
        format!("{} runs: two agents on one runtime remove each other's pods", told.join(", ")),
        "stop it, if it uses this runtime (systemctl stop kubelet)",
    )
}

fn addresses(facts: &Facts) -> Finding {
    if facts.taken.is_empty() {
        return fine("addresses", "free");
    }
    let told: Vec<String> =
        facts.taken.iter().map(|(field, address, why)| format!("{address} ({field}): {why}")).collect();
    bad(
        "addresses",
        Level::Failure,
        told.join("; "),
        "stop who listens there (ss -ltnp), or set another port",
    )
}

fn settings(facts: &Facts, wishes: &Wishes) -> Finding {
    const SUBJECT: &str = "kernel settings";
    if facts.kernel_settings.is_empty() {
        return fine(SUBJECT, "as they should be");
    }
    let told: Vec<String> = facts
        .kernel_settings
        .iter()
        .map(|(setting, actual)| {
            format!("{} is {actual} and not {}", setting.path.replace('/', "."), setting.value)
        })
        .collect();
    if wishes.protect_kernel_defaults {
        let mend = "set them with sysctl, or set protectKernelDefaults: false, and the agent does";
        return bad(SUBJECT, Level::Failure, told.join(", "), mend);
    }
    fine(SUBJECT, format!("{}; the agent will set them", told.join(", ")))
}

fn network(facts: &Facts) -> Finding {
    if facts.ip_forward == Some(false) {
        return bad(
            "forwarding",
            Level::Warning,
            "net.ipv4.ip_forward is 0: pods reach nothing but this machine, unless the CNI plugin sets it",
            "sysctl -w net.ipv4.ip_forward=1",
        );
    }
    fine("forwarding", "on")
}

fn watches(facts: &Facts) -> Finding {
    const SUBJECT: &str = "inotify";
    let Some((instances, watches)) = facts.inotify else { return fine(SUBJECT, "limits unknown") };
    let found = format!("{instances} instances, {watches} watches");
    if instances < INOTIFY.0 || watches < INOTIFY.1 {
        return bad(
            SUBJECT,
            Level::Warning,
            format!("{found}: pods and logs are watched with them, and containers of root share them"),
            "sysctl -w fs.inotify.max_user_instances=8192 fs.inotify.max_user_watches=524288",
        );
    }
    fine(SUBJECT, found)
}

fn disk(facts: &Facts, wishes: &Wishes) -> Option<Finding> {
    let (free, total) = facts.disk.filter(|(_, total)| *total > 0)?;
    // Whole percents are all that is told.
    let percent = u64::try_from(u128::from(free) * 100 / u128::from(total)).unwrap_or(100);
    let found = format!("{percent} % free below {}", wishes.root_dir);
    let short = wishes.disk_percent.filter(|least| f64::from(u32::try_from(percent).unwrap_or(100)) < *least);
    Some(match short {
        None => fine("disk", found),
        Some(least) => bad(
            "disk",
            Level::Warning,
            format!("{found}: with less than {least} % the node has disk pressure and takes no pods"),
            "make room, or set evictionHard (nodefs.available)",
        ),
    })
}

fn control_plane(facts: &Facts) -> Option<Finding> {
    let why = facts.kubeconfig.as_ref()?;
    let mend =
        "give --kubeconfig a file that names server, CA and identity, or leave it out for static pods only";
    Some(bad("kubeconfig", Level::Failure, why.clone(), mend))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::KERNEL_DEFAULTS;

    fn facts() -> Facts {
        Facts {
            root: true,
            capabilities: Some(u64::MAX),
            kernel: (6, 1),
            cgroup_v2: true,
            missing_controllers: Vec::new(),
            swap: Vec::new(),
            runtime: Ok(RuntimeFacts {
                name: "containerd 2.1".to_owned(),
                runtime_problem: None,
                network_problem: None,
                tells_cgroup_driver: true,
            }),
            agents: Vec::new(),
            taken: Vec::new(),
            kernel_settings: Vec::new(),
            ip_forward: Some(true),
            inotify: Some((128, 65_536)),
            disk: Some((50, 100)),
            kubeconfig: None,
        }
    }

    fn wishes() -> Wishes {
        Wishes {
            runtime_endpoint: "unix:///run/containerd/containerd.sock".to_owned(),
            fail_cgroup_v1: true,
            fail_swap_on: true,
            cgroup_driver: "cgroupfs".to_owned(),
            protect_kernel_defaults: false,
            root_dir: "/var/lib/kubelet".to_owned(),
            disk_percent: Some(10.0),
        }
    }

    /// What is wrong once the facts of a good machine are changed, with its level and a word of the sentence.
    fn check(change: impl FnOnce(&mut Facts, &mut Wishes), expected: &[(&str, Level, &str)]) {
        let (mut facts, mut wishes) = (facts(), wishes());
        change(&mut facts, &mut wishes);
        let all = findings(&facts, &wishes);
        let bad: Vec<&Finding> = all.iter().filter(|finding| finding.level != Level::Fine).collect();
        let told: Vec<(&str, Level)> = bad.iter().map(|finding| (finding.subject, finding.level)).collect();
        let wanted: Vec<(&str, Level)> =
            expected.iter().map(|(subject, level, _)| (*subject, *level)).collect();
        assert_eq!(told, wanted, "{bad:?}");
        for (finding, (_, _, word)) in bad.iter().zip(expected) {
            assert!(finding.found.contains(word), "{word} is not in {:?}", finding.found);
            assert!(!finding.mend.is_empty(), "{finding:?}");
        }
        assert_eq!(passes(&all), expected.iter().all(|(_, level, _)| *level != Level::Failure));
    }

    #[test]
    fn a_good_machine_passes_and_every_trouble_is_told_with_a_way_out() {
        use Level::{Failure, Warning};
        check(|_, _| {}, &[]);
        check(|facts, _| facts.root = false, &[("rights", Failure, "not root")]);
        check(|facts, _| facts.capabilities = Some(!(1 << 24)), &[("rights", Warning, "CAP_SYS_RESOURCE")]);
        check(
            |facts, _| facts.capabilities = Some(!(1 << 24 | 1 << 21)),
            &[("rights", Failure, "no volume can be mounted")],
        );
        check(|facts, _| facts.capabilities = None, &[]);
        check(|facts, _| facts.kernel = (4, 17), &[("kernel", Failure, "4.17")]);
        check(|facts, _| facts.cgroup_v2 = false, &[("control groups", Failure, "refuses")]);
        check(|facts, wishes| (facts.cgroup_v2, wishes.fail_cgroup_v1) = (false, false), &[]);
        check(
            |facts, _| facts.missing_controllers = vec!["memory".to_owned()],
            &[("control groups", Failure, "memory")],
        );
        check(|facts, _| facts.swap = vec!["/dev/sda2".to_owned()], &[("swap", Failure, "/dev/sda2")]);
        check(|facts, wishes| (facts.swap, wishes.fail_swap_on) = (vec!["/swap".to_owned()], false), &[]);
        check(
            |facts, _| facts.runtime = Err("no such file".to_owned()),
            &[("container runtime", Failure, "containerd.sock does not answer: no such file")],
        );
        check(
            |facts, _| facts.agents = vec![("kubelet".to_owned(), 7)],
            &[("other node agents", Failure, "kubelet (process 7)")],
        );
        check(
            |facts, _| facts.taken = vec![("port", ([0, 0, 0, 0], 10250).into(), "in use".to_owned())],
            &[("addresses", Failure, "0.0.0.0:10250 (port): in use")],
        );
        check(|facts, _| facts.kernel_settings = vec![(KERNEL_DEFAULTS[0], 0)], &[]);
        check(
            |facts, wishes| {
                facts.kernel_settings = vec![(KERNEL_DEFAULTS[0], 0)];
                wishes.protect_kernel_defaults = true;
            },
            &[("kernel settings", Failure, "vm.overcommit_memory is 0 and not 1")],
        );
        check(|facts, _| facts.ip_forward = Some(false), &[("forwarding", Warning, "ip_forward")]);
        check(|facts, _| facts.inotify = Some((8, 65_536)), &[("inotify", Warning, "8 instances")]);
        check(|facts, _| facts.disk = Some((9, 100)), &[("disk", Warning, "9 % free")]);
        check(|facts, wishes| (facts.disk, wishes.disk_percent) = (Some((1, 100)), None), &[]);
        check(|facts, _| facts.disk = Some((0, 0)), &[]);
        check(
            |facts, _| facts.kubeconfig = Some("there is no /etc/k".to_owned()),
            &[("kubeconfig", Failure, "/etc/k")],
        );
    }

    #[test]
    fn a_runtime_that_answers_is_told_with_its_troubles() {
        let with = |change: fn(&mut RuntimeFacts)| {
            move |facts: &mut Facts, _: &mut Wishes| {
                if let Ok(runtime) = &mut facts.runtime {
                    change(runtime);
                }
            }
        };
        check(
            with(|runtime| runtime.runtime_problem = Some("starting".to_owned())),
            &[("container runtime", Level::Failure, "starting")],
        );
        check(
            with(|runtime| runtime.network_problem = Some("no network config".to_owned())),
            &[("pod network", Level::Warning, "no network config")],
        );
        check(
            with(|runtime| runtime.tells_cgroup_driver = false),
            &[("cgroup driver", Level::Warning, "cgroupfs")],
        );
    }
}
