//! Security contexts as the kernel shows them: users, groups, capabilities, seccomp, masks, namespaces, sysctls.

use std::fs;
use std::process::Command;

use k8s_openapi::api::core::v1::Pod;

use crate::node::Node;
use crate::pods::{self, state, waiting_message};
use crate::runtime::output;
use crate::wait::{self, PATIENCE};

/// What every container here prints.
const SHOW: &str =
    "command: [sh, -c, 'id -u; id -g; id -G; cat /proc/self/status; echo END; exec sleep 1000']";

/// One container's print.
struct Shown(String);

impl Shown {
    fn of(node: &Node, pod: &Pod, container: &str) -> Self {
        Self(node.wait_log(pod, container, "END\n"))
    }

    /// User, group, and groups in ascending order.
    fn ids(&self) -> (String, String, Vec<u32>) {
        let mut lines = self.0.lines();
        let mut line = || lines.next().unwrap().to_owned();
        let (user, group) = (line(), line());
        let mut groups: Vec<u32> = line().split(' ').map(|id| id.parse().unwrap()).collect();
        groups.sort_unstable();
        (user, group, groups)
    }

    /// A field of `/proc/self/status`.
    fn field(&self, name: &str) -> &str {
        let line = self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
        line.unwrap_or_else(|| panic!("no {name} in {}", self.0)).trim()
    }

    fn capabilities(&self, set: &str) -> u64 {
        u64::from_str_radix(self.field(set), 16).unwrap()
    }
}

/// The bit of a capability.
fn bit(number: u32) -> u64 {
    1 << number
}

const NET_ADMIN: u32 = 12;
const NET_BIND_SERVICE: u32 = 10;
const CHOWN: u32 = 0;

#[test]
fn users_groups_and_capabilities() {
    let node = Node::start();
    node.apply(
        "users",
        &format!(
            "
securityContext: {{runAsUser: 1234, runAsGroup: 2345, fsGroup: 3456, supplementalGroups: [4567]}}
containers:
- {{name: of-pod, image: $IMAGE, {SHOW}}}
- {{name: own, image: $IMAGE, securityContext: {{runAsUser: 0, runAsGroup: 7}}, {SHOW}}}
"
        ),
    );
    node.apply(
        "caps",
        &format!(
            "
containers:
- {{name: default, image: $IMAGE, {SHOW}}}
- {{name: more, image: $IMAGE, securityContext: {{capabilities: {{add: [NET_ADMIN], drop: [CHOWN]}}}}, {SHOW}}}
- {{name: few, image: $IMAGE, securityContext: {{capabilities: {{add: [NET_BIND_SERVICE], drop: [ALL]}}}}, {SHOW}}}
- {{name: no-new, image: $IMAGE, securityContext: {{allowPrivilegeEscalation: false}}, {SHOW}}}
- {{name: all, image: $IMAGE, securityContext: {{privileged: true}}, {SHOW}}}
"
        ),
    );
    let pod = node.wait_ready("users");
    let groups = |list: &[u32]| list.to_vec();
    let text = |user: &str, group: &str, list: &[u32]| (user.to_owned(), group.to_owned(), groups(list));
    assert_eq!(Shown::of(&node, &pod, "of-pod").ids(), text("1234", "2345", &[2345, 3456, 4567]));
    let (user, group, all) = Shown::of(&node, &pod, "own").ids();
    assert_eq!((user.as_str(), group.as_str()), ("0", "7"));
    assert!(all.contains(&3456) && all.contains(&4567), "{all:?}");

    let pod = node.wait_ready("caps");
    let default = Shown::of(&node, &pod, "default");
    let usual = default.capabilities("CapEff");
    assert!(usual & bit(CHOWN) != 0 && usual & bit(NET_ADMIN) == 0, "{usual:x}");
    assert_eq!(default.field("NoNewPrivs"), "0");
    let more = Shown::of(&node, &pod, "more").capabilities("CapEff");
    assert_eq!(more, usual & !bit(CHOWN) | bit(NET_ADMIN));
    assert_eq!(Shown::of(&node, &pod, "few").capabilities("CapBnd"), bit(NET_BIND_SERVICE));
    assert_eq!(Shown::of(&node, &pod, "no-new").field("NoNewPrivs"), "1");
    let own_bound = fs::read_to_string("/proc/self/status").unwrap();
    let own_bound = own_bound.lines().find_map(|line| line.strip_prefix("CapBnd:\t")).unwrap().to_owned();
    assert_eq!(Shown::of(&node, &pod, "all").field("CapBnd"), own_bound);
}

#[test]
fn seccomp_profiles_and_their_default() {
    let node = Node::configured("seccompDefault: true");
    let profiles = node.root().join("seccomp");
    fs::create_dir_all(&profiles).unwrap();
    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls":
        [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}"#;
    fs::write(profiles.join("no-mkdir.json"), profile).unwrap();
    node.apply(
        "seccomp",
        &format!(
            "
containers:
- {{name: default, image: $IMAGE, {SHOW}}}
- {{name: free, image: $IMAGE, securityContext: {{seccompProfile: {{type: Unconfined}}}}, {SHOW}}}
- {{name: runtime, image: $IMAGE, securityContext: {{seccompProfile: {{type: RuntimeDefault}}}}, {SHOW}}}
- {{name: privileged, image: $IMAGE, securityContext: {{privileged: true}}, {SHOW}}}
- name: local
  image: $IMAGE
  securityContext: {{seccompProfile: {{type: Localhost, localhostProfile: no-mkdir.json}}}}
  command: [sh, -c, 'mkdir /tmp/x && echo made || echo refused; echo END; exec sleep 1000']
"
        ),
    );
    node.apply(
        "missing",
        &format!(
            "containers: [{{name: c, image: $IMAGE, {SHOW}, securityContext: {{seccompProfile: {{type: Localhost, localhostProfile: none.json}}}}}}]"
        ),
    );
    let pod = node.wait_ready("seccomp");
    for (container, mode) in [("default", "2"), ("free", "0"), ("runtime", "2"), ("privileged", "0")] {
        assert_eq!(Shown::of(&node, &pod, container).field("Seccomp"), mode, "{container}");
    }
    assert!(node.wait_log(&pod, "local", "END").contains("refused"));
    node.wait_pod("missing", "to name the missing profile", |pod| {
        pods::summary(pod).contains("none.json") && state(pod, "c").starts_with("waiting ")
    });
}

#[test]
fn without_the_default_nothing_is_filtered() {
    let node = Node::start();
    node.apply("plain", &format!("containers: [{{name: c, image: $IMAGE, {SHOW}}}]"));
    let pod = node.wait_ready("plain");
    assert_eq!(Shown::of(&node, &pod, "c").field("Seccomp"), "0");
}

#[test]
fn run_as_non_root_refuses_root() {
    let node = Node::start();
    let pod = |context: &str| {
        format!(
            "
containers:
- {{name: c, image: $IMAGE, securityContext: {{runAsNonRoot: true{context}}}, {SHOW}}}
- {{name: other, image: $IMAGE, command: [sleep, '1000']}}
"
        )
    };
    node.apply("image-root", &pod(""));
    node.apply("root", &pod(", runAsUser: 0"));
    node.apply("user", &pod(", runAsUser: 1000"));
    for name in ["image-root", "root"] {
        let pod = node.wait_state(name, "c", "waiting CreateContainerConfigError");
        let message = waiting_message(&pod, "c");
        assert!(message.contains("runAsNonRoot") || message.contains("non-root"), "{message}");
        node.wait_state(name, "other", "running");
    }
    let pod = node.wait_ready("user");
    assert_eq!(Shown::of(&node, &pod, "c").ids().0, "1000");
}

#[test]
fn files_and_proc_are_protected() {
    let node = Node::start();
    node.apply(
        "files",
        "
containers:
- name: read-only
  image: $IMAGE
  securityContext: {readOnlyRootFilesystem: true}
  command: [sh, -c, 'touch /x 2>&1; touch /tmp/ok && echo tmp works; echo END; exec sleep 1000']
  volumeMounts: [{name: tmp, mountPath: /tmp}]
- {name: usual, image: $IMAGE, command: [sh, -c, 'grep -c . /proc/mounts; grep \" /proc/\" /proc/mounts; ls /dev; echo END; exec sleep 1000']}
- name: privileged
  image: $IMAGE
  securityContext: {privileged: true}
  command: [sh, -c, 'grep \" /proc/\" /proc/mounts; ls /dev; echo x > /proc/sys/kernel/domainname && echo written; echo END; exec sleep 1000']
volumes: [{name: tmp, emptyDir: {}}]
",
    );
    let pod = node.wait_ready("files");
    let log = node.wait_log(&pod, "read-only", "END");
    assert!(log.contains("Read-only file system") && log.contains("tmp works"), "{log}");
    let log = node.wait_log(&pod, "usual", "END");
    // Which of them there are depends on the kernel.
    let masks = ["/proc/kcore", "/proc/sys", "/proc/keys", "/proc/timer_list", "/proc/sysrq-trigger"];
    for masked in masks.into_iter().filter(|path| std::path::Path::new(path).exists()) {
        assert!(log.contains(&format!(" {masked} ")), "{masked} is not protected:\n{log}");
    }
    let usual_devices = log.lines().count();
    let log = node.wait_log(&pod, "privileged", "END");
    assert!(log.contains("written\n") && !log.contains(" /proc/sys "), "{log}");
    assert!(log.lines().count() > usual_devices, "a privileged container sees the node's devices");
}

#[test]
fn proc_is_unmasked_only_with_a_user_namespace() {
    let node = Node::start();
    let show = "command: [sh, -c, 'cat /proc/self/uid_map; grep \" /proc/\" /proc/mounts; echo END; exec sleep 1000']";
    node.apply(
        "own-users",
        &format!("hostUsers: false\ncontainers: [{{name: c, image: $IMAGE, securityContext: {{procMount: Unmasked}}, {show}}}]"),
    );
    // Runtimes that have user namespaces run the pod with them; others must refuse it rather than run it without.
    let (ran, pod) = wait::until("the pod to run or to be refused", PATIENCE, || {
        let pod = node.try_pod("own-users")?;
        if pods::ready(&pod) {
            return Ok((true, pod));
        }
        let log = node.agent_log();
        let refused = log.lines().any(|line| line.contains("own-users") && line.contains("user namespaces"));
        if refused { Ok((false, pod)) } else { Err(pods::summary(&pod)) }
    });
    if ran {
        let log = node.wait_log(&pod, "c", "END");
        let map: Vec<&str> = log.lines().next().unwrap().split_whitespace().collect();
        assert_eq!(map[0], "0");
        assert_eq!(map[1].parse::<u64>().unwrap() % 65536, 0, "{log}");
        assert_eq!(map[2], "65536");
        assert!(!log.contains(" /proc/kcore "), "{log}");
    } else {
        assert!(pods::container_id(&pod, "c").is_empty());
        // User namespaces take containerd 2 and a runc that maps mounts; the word of both must be taken.
        let features = output(Command::new(node.runtime.get("runc")).arg("features"));
        let able = !node.runtime.get("version").starts_with("1.") && features.contains("idmap");
        assert!(!able, "this runtime has user namespaces");
    }
}

#[test]
fn sysctls_are_set_or_refused() {
    let node = Node::configured("allowedUnsafeSysctls: [net.ipv4.ip_default_ttl]");
    let pod = |sysctl: &str, value: u32| {
        format!(
            "securityContext: {{sysctls: [{{name: {sysctl}, value: '{value}'}}]}}\n\
             containers: [{{name: c, image: $IMAGE, command: [sh, -c, 'sysctl -n {sysctl}; echo END; exec sleep 1000']}}]"
        )
    };
    node.apply("safe", &pod("net.ipv4.ip_unprivileged_port_start", 77));
    node.apply("allowed", &pod("net.ipv4.ip_default_ttl", 99));
    node.apply("unsafe", &pod("net.core.somaxconn", 11));
    let refused = node.wait_phase("unsafe", "Failed");
    let status = pods::status(&refused);
    assert_eq!(status.reason.as_deref(), Some("SysctlForbidden"));
    assert!(status.message.unwrap().contains("net.core.somaxconn"));
    for (name, value) in [("safe", "77\n"), ("allowed", "99\n")] {
        let pod = node.wait_ready(name);
        assert!(node.wait_log(&pod, "c", "END").starts_with(value));
    }
}

#[test]
fn strict_groups_leave_out_those_of_the_image() {
    let node = Node::start();
    let pod = |policy: &str| {
        format!(
            "securityContext: {{runAsUser: 1000, supplementalGroups: [4567], supplementalGroupsPolicy: {policy}}}\n\
             containers: [{{name: c, image: $IMAGE, {SHOW}}}]"
        )
    };
    node.apply("merge", &pod("Merge"));
    node.apply("strict", &pod("Strict"));
    let merged = node.wait_ready("merge");
    let (user, _, groups) = Shown::of(&node, &merged, "c").ids();
    assert_eq!(user, "1000");
    assert!(groups.contains(&50000) && groups.contains(&4567), "{groups:?}");
    if node.runtime.get("version").starts_with("1.") {
        // A runtime that would merge all the same is not asked.
        let refused = pods::status(&node.wait_phase("strict", "Failed"));
        assert_eq!(
            refused.reason.as_deref(),
            Some("SupplementalGroupsPolicyNotSupported"),
            "{:?}",
            refused.message
        );
    } else {
        let (_, _, groups) = Shown::of(&node, &node.wait_ready("strict"), "c").ids();
        assert!(groups.contains(&4567) && !groups.contains(&50000), "{groups:?}");
    }
}
