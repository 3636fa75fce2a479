//! `rubelet check`: what on this machine will keep an agent of this configuration from working, before it is started.
//!
//! Gathers the facts that core judges, changes nothing, and starts nothing. Called by the program, with the command line
//! and the files that the agent would be started with.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use rubelet_apiclient::kubeconfig::ClusterAccess;
use rubelet_config::{KubeletConfiguration, KubeletFlags};
use rubelet_core::preflight::{Facts, Finding, Level, RuntimeFacts, Wishes, findings, passes};
use rubelet_core::resources::KERNEL_DEFAULTS;
use rubelet_cri::connect::check_runtime;
use rubelet_cri::{CriClient, Deadlines};
use rubelet_linux::cgroup::{self, CgroupTree};
use rubelet_linux::{facts, node_facts, preflight as machine};

use crate::logging::chain;

/// How long the runtime may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How node agents are called.
const AGENTS: [&str; 2] = ["kubelet", "rubelet"];

/// What was found, for people, and whether an agent would run pods here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// A line for each thing that was looked at, and one more where there is something to do.
    pub text: String,
    /// Nothing was found that keeps the agent from running pods.
    pub passed: bool,
}

/// Looks at this machine.
///
/// # Errors
/// When it cannot be read at all.
pub async fn check(config: &KubeletConfiguration, flags: &KubeletFlags) -> std::io::Result<Report> {
    let machine = facts::machine()?;
    let tree = CgroupTree::find(Path::new(cgroup::MOUNT));
    let missing = match &tree {
        Ok(tree) => tree.missing().into_iter().map(str::to_owned).collect(),
        Err(_) => vec!["cpu".to_owned(), "memory".to_owned(), "pids".to_owned()],
    };
    let gathered = Facts {
        root: rustix::process::geteuid().is_root(),
        capabilities: machine::effective_capabilities(),
        kernel: machine.kernel,
        cgroup_v2: machine.cgroup_v2,
        missing_controllers: missing,
        swap: machine::swaps(),
        runtime: runtime(config).await,
        agents: machine::others_named(&AGENTS),
        taken: taken(config),
        kernel_settings: KERNEL_DEFAULTS
            .into_iter()
            .filter_map(|setting| Some((setting, machine::kernel_setting(setting.path)?)))
            .filter(|(setting, actual)| setting.problem(*actual).is_some())
            .collect(),
        ip_forward: machine::kernel_setting("net/ipv4/ip_forward").map(|on| on != 0),
        inotify: limit("fs/inotify/max_user_instances").zip(limit("fs/inotify/max_user_watches")),
        disk: disk(Path::new(&flags.root_dir)),
        kubeconfig: kubeconfig(flags),
    };
    let wishes = Wishes {
        runtime_endpoint: config.container_runtime_endpoint.clone(),
        fail_cgroup_v1: config.fail_cgroup_v1,
        fail_swap_on: config.fail_swap_on,
        cgroup_driver: config.cgroup_driver.clone(),
        protect_kernel_defaults: config.protect_kernel_defaults,
        root_dir: flags.root_dir.clone(),
        disk_percent: config
            .eviction_hard
            .get("nodefs.available")
            .and_then(|least| least.strip_suffix('%')?.parse().ok()),
    };
    let found = findings(&gathered, &wishes);
    Ok(Report { text: text(&found), passed: passes(&found) })
}

fn limit(path: &str) -> Option<u64> {
    machine::kernel_setting(path).and_then(|most| u64::try_from(most).ok())
}

async fn runtime(config: &KubeletConfiguration) -> Result<RuntimeFacts, String> {
    let client = CriClient::new(&config.container_runtime_endpoint, Deadlines::with_request(PATIENCE))
        .map_err(|problem| chain(&problem))?;
    let told = tokio::time::timeout(PATIENCE, check_runtime(&client)).await;
    let info = told.map_err(|_| "it keeps silent".to_owned())?.map_err(|problem| chain(&problem))?;
    Ok(RuntimeFacts {
        name: format!("{} {}", info.name, info.version),
        runtime_problem: info.conditions.runtime_problem,
        network_problem: info.conditions.network_problem,
        tells_cgroup_driver: info.cgroup_driver.is_some(),
    })
}

/// The addresses the agent would listen at and cannot have.
fn taken(config: &KubeletConfiguration) -> Vec<(&'static str, SocketAddr, String)> {
    [
        ("port", &config.address, config.port),
        ("readOnlyPort", &config.address, config.read_only_port),
        ("healthzPort", &config.healthz_bind_address, config.healthz_port),
    ]
    .into_iter()
    .filter_map(|(field, ip, port)| {
        let port = u16::try_from(port).ok().filter(|port| *port != 0)?;
        let address = SocketAddr::new(ip.parse::<IpAddr>().ok()?, port);
        let problem = TcpListener::bind(address).err()?;
        Some((field, address, problem.to_string()))
    })
    .collect()
}

/// Bytes free and in all of the disk on which the folder is or will be.
fn disk(folder: &Path) -> Option<(u64, u64)> {
    let there = folder.ancestors().find(|folder| folder.is_dir())?;
    let bytes = node_facts::file_system(there).ok()?.bytes;
    Some((u64::try_from(bytes.available).ok()?, u64::try_from(bytes.capacity).ok()?))
}

/// What is the matter with the kubeconfig. One that is still to be written is none, if there is what to get it with.
fn kubeconfig(flags: &KubeletFlags) -> Option<String> {
    let problem = |path: &str| ClusterAccess::load(Path::new(path)).err().map(|problem| chain(&problem));
    if flags.kubeconfig.is_empty() {
        return None;
    }
    match flags.bootstrap_kubeconfig.as_str() {
        "" => problem(&flags.kubeconfig),
        bootstrap => problem(&flags.kubeconfig).and_then(|_| problem(bootstrap)),
    }
}

fn text(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.subject.len()).max().unwrap_or(0);
    let mut text = String::new();
    for finding in findings {
        let level = match finding.level {
            Level::Fine => "ok     ",
            Level::Warning => "warning",
            Level::Failure => "FAILURE",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{level}  {:width$}  {}", finding.subject, finding.found);
        if !finding.mend.is_empty() {
            let _ = writeln!(text, "{:9}{:width$}  -> {}", "", "", finding.mend);
        }
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let _ = write!(text, "{} failures, {} warnings", count(Level::Failure), count(Level::Warning));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_machine_without_a_runtime_and_with_a_taken_port_does_not_pass() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let config = KubeletConfiguration {
            container_runtime_endpoint: format!("unix://{}/none.sock", dir.path().display()),
            address: "127.0.0.1".to_owned(),
            port: i32::from(listener.local_addr().unwrap().port()),
            healthz_port: 0,
            read_only_port: 0,
            ..KubeletConfiguration::default()
        };
        let root_dir = dir.path().join("to/be/made").display().to_string();
        let kubeconfig = dir.path().join("kubelet.conf").display().to_string();
        let mut flags = KubeletFlags::default();
        (flags.root_dir, flags.kubeconfig) = (root_dir, kubeconfig);
        let report = check(&config, &flags).await.unwrap();
        assert!(!report.passed);
        for part in ["none.sock does not answer", "(port)", "kubelet.conf", "% free below", "  -> "] {
            assert!(report.text.contains(part), "{part} is missing in\n{}", report.text);
        }
        assert!(!dir.path().join("to").exists(), "a check makes nothing");
    }

    #[test]
    fn a_kubeconfig_that_is_to_be_written_is_no_trouble() {
        let flags = |kubeconfig: &str, bootstrap: &str| {
            let mut flags = KubeletFlags::default();
            kubeconfig.clone_into(&mut flags.kubeconfig);
            bootstrap.clone_into(&mut flags.bootstrap_kubeconfig);
            flags
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bootstrap.conf");
        let written = "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
                       clusters: [{name: c, cluster: {server: 'https://127.0.0.1:6443'}}]\n\
                       users: [{name: u, user: {token: t}}]\n\
                       contexts: [{name: c, context: {cluster: c, user: u}}]\n";
        std::fs::write(&path, written).unwrap();
        let (bootstrap, missing) =
            (path.display().to_string(), dir.path().join("none").display().to_string());
        assert_eq!(kubeconfig(&flags("", &missing)), None);
        assert_eq!(kubeconfig(&flags(&missing, &bootstrap)), None);
        assert_eq!(kubeconfig(&flags(&bootstrap, "")), None);
        assert!(kubeconfig(&flags(&missing, "")).is_some_and(|why| why.contains("none")));
        assert!(kubeconfig(&flags(&missing, &missing)).is_some());
    }
}
