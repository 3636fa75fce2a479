//! One test's node: a containerd, an agent process, a directory of static pods, and a shared folder that containers
//! write to. Everything of it is below one directory and goes with it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use k8s_openapi::List;
use k8s_openapi::api::core::v1::Pod;

use crate::pods::{self, manifest, summary};
use crate::runtime::{Containerd, mounts_below, output};
use crate::wait::{self, PATIENCE};

/// The node's name, which static pods get as a suffix.
pub const NAME: &str = "node-1";
/// What tests put into their configuration for "the workload image".
const IMAGE: &str = "rubelet.local/busybox:1";
/// Where the agent links container logs.
pub const CONTAINER_LOGS: &str = "/var/log/containers";

/// A node of its own.
pub struct Node {
    agent: Option<Child>,
    pub runtime: Containerd,
    dir: NodeDir,
    ports: (u16, u16, u16),
    /// The first word of the agent's command line, if there is one.
    pub subcommand: Option<&'static str>,
    /// More arguments of the agent's command line.
    pub arguments: Vec<String>,
}

impl Node {
    /// A node whose agent runs.
    pub fn start() -> Self {
        Self::configured("")
    }

    /// A node with more lines in its configuration.
    pub fn configured(more: &str) -> Self {
        let mut node = Self::without_agent(more);
        node.start_agent();
        node
    }

    /// A node whose agent is yet to be started.
    pub fn without_agent(more: &str) -> Self {
        Self::on_containerd(&[], more)
    }

    /// The same, on a containerd that is started with more arguments.
    pub fn on_containerd(arguments: &[&'static str], more: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = NodeDir(PathBuf::from(format!("/tmp/rbn-{}-{number}", std::process::id())));
        for part in ["manifests", "share", "logs"] {
            fs::create_dir_all(dir.join(part)).unwrap();
        }
        fs::set_permissions(dir.join("share"), fs::Permissions::from_mode(0o777)).unwrap();
        let runtime = Containerd::start(&dir.join("c"), arguments);
        let ports = (free_port(), free_port(), free_port());
        let node = Self { agent: None, runtime, dir, ports, subcommand: None, arguments: vec![] };
        // A disk that is rather full is no reason to run nothing on it, nor to remove the images of tests.
        let roomy = [("evictionHard", "{memory.available: 1Mi}"), ("imageGCHighThresholdPercent", "100")];
        let roomy = roomy.into_iter().filter(|(field, _)| !more.contains(field));
        let roomy: String = roomy.map(|(field, value)| format!("{field}: {value}\n")).collect();
        let config = format!(
            "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n\
             staticPodPath: {dir}/manifests\npodLogsDir: {dir}/logs\ncontainerRuntimeEndpoint: {endpoint}\n\
             cgroupRoot: {cgroup}\naddress: 127.0.0.1\nreadOnlyPort: {}\nhealthzPort: {}\nport: {}\n\
             failCgroupV1: false\nfailSwapOn: false\n{roomy}{more}\n",
            node.ports.0,
            node.ports.1,
            node.ports.2,
            dir = node.dir.display(),
            endpoint = node.runtime.get("endpoint"),
            cgroup = node.runtime.get("cgroup_root"),
        );
        fs::write(node.dir.join("config.yaml"), config).unwrap();
        node
    }

    /// Puts more lines into the configuration, for the next start.
    pub fn configure(&self, more: &str) {
        let path = self.dir.join("config.yaml");
        let config = fs::read_to_string(&path).unwrap();
        fs::write(path, format!("{config}{more}\n")).unwrap();
    }

    /// A path in the directory of everything.
    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    /// The kubelet API's own port.
    pub fn api_port(&self) -> u16 {
        self.ports.2
    }

    /// The read-only port and the one of health.
    pub fn open_ports(&self) -> (u16, u16) {
        (self.ports.0, self.ports.1)
    }

    /// Starts the agent and waits until it answers.
    pub fn start_agent(&mut self) {
        self.launch_agent();
        wait::until("the agent to answer", PATIENCE, || {
            let ended = self.agent.as_mut().and_then(|agent| agent.try_wait().unwrap());
            assert!(ended.is_none(), "the agent ended: {ended:?}");
            self.get("/healthz")
        });
    }

    /// Starts the agent.
    pub fn launch_agent(&mut self) {
        assert!(self.agent.is_none(), "an agent runs already");
        let log = fs::File::options().create(true).append(true).open(self.log_file()).unwrap();
        let agent = Command::new(env!("CARGO_BIN_EXE_rubelet"))
            .args(self.subcommand)
            .arg("--config")
            .arg(self.dir.join("config.yaml"))
            .arg("--root-dir")
            .arg(self.root())
            .args(["--hostname-override", NAME, "-v", "4"])
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.agent = Some(agent);
    }

    /// Kills the agent without a warning.
    pub fn kill_agent(&mut self) {
        let mut agent = self.agent.take().unwrap();
        agent.kill().unwrap();
        agent.wait().unwrap();
    }

    /// Asks the agent to end, as an upgrade does.
    pub fn stop_agent(&mut self) {
        let mut agent = self.agent.take().unwrap();
        output(Command::new("kill").args(["-TERM", &agent.id().to_string()]));
        wait::until("the agent to end", PATIENCE, || match agent.try_wait().unwrap() {
            Some(status) if status.success() => Ok(()),
            Some(status) => panic!("the agent ended with {status}"),
            None => Err("it runs".to_owned()),
        });
    }

    /// Waits until the agent ends by itself, with a failure.
    pub fn wait_agent_failed(&mut self) {
        let mut agent = self.agent.take().unwrap();
        wait::until("the agent to end", PATIENCE, || match agent.try_wait().unwrap() {
            Some(status) if status.success() => panic!("the agent ended well"),
            Some(_) => Ok(()),
            None => Err("it runs".to_owned()),
        });
    }

    /// Text with the workload image for `$IMAGE` and the shared folder for `$SHARE`.
    pub fn filled_in(&self, text: &str) -> String {
        text.replace("$IMAGE", IMAGE).replace("$SHARE", &self.share("").display().to_string())
    }

    /// Puts a static pod in place, as a whole. `$IMAGE` is the workload image, `$SHARE` the shared folder.
    pub fn apply(&self, name: &str, spec: &str) {
        self.write_manifest(&format!("{name}.yaml"), manifest(name, spec).as_bytes());
    }

    /// Puts a file of any content among the manifests.
    pub fn write_manifest(&self, file: &str, content: &[u8]) {
        let content = match std::str::from_utf8(content) {
            Ok(text) => self.filled_in(text).into_bytes(),
            Err(_) => content.to_owned(),
        };
        let part = self.dir.join("manifests").join(format!(".{file}"));
        fs::write(&part, content).unwrap();
        fs::rename(&part, self.manifest_file(file)).unwrap();
    }

    /// Takes a static pod away.
    pub fn remove(&self, name: &str) {
        fs::remove_file(self.manifest_file(&format!("{name}.yaml"))).unwrap();
    }

    /// Path of a file among the manifests.
    pub fn manifest_file(&self, file: &str) -> PathBuf {
        self.dir.join("manifests").join(file)
    }

    /// The agent's root directory.
    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// Where an API of its own keeps its data.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// A path in the folder that containers share with the test.
    pub fn share(&self, file: &str) -> PathBuf {
        self.dir.join("share").join(file)
    }

    /// Lines of a file in the shared folder; none when it is not there.
    pub fn lines(&self, file: &str) -> Vec<String> {
        fs::read_to_string(self.share(file)).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// Waits until a file in the shared folder has a last line like that.
    pub fn wait_line(&self, file: &str, wanted: &str) -> Vec<String> {
        wait::until(&format!("{file} to have a line {wanted:?}"), PATIENCE, || {
            let lines = self.lines(file);
            if lines.iter().any(|line| line == wanted) { Ok(lines) } else { Err(format!("{lines:?}")) }
        })
    }

    /// Waits until a file in the shared folder has exactly these lines.
    pub fn wait_lines(&self, file: &str, wanted: &[&str]) {
        wait::until(&format!("{file} to be {wanted:?}"), PATIENCE, || {
            let lines = self.lines(file);
            if lines == wanted { Ok(()) } else { Err(format!("{lines:?}")) }
        });
    }

    fn log_file(&self) -> PathBuf {
        self.dir.join("rubelet.log")
    }

    /// What the agent said.
    pub fn agent_log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Waits until the agent said a line with all these words.
    pub fn wait_agent_log(&self, words: &[&str]) -> String {
        wait::until(&format!("the agent's log to say {words:?}"), PATIENCE, || {
            let log = self.agent_log();
            let line = log.lines().find(|line| words.iter().all(|word| line.contains(word)));
            line.map(str::to_owned).ok_or_else(|| "no such line".to_owned())
        })
    }

    /// What the read-only port answers.
    pub fn get(&self, path: &str) -> Result<String, String> {
        http_get(&format!("127.0.0.1:{}", self.ports.0), path)
    }

    /// Every pod the agent tells of; a problem when it does not answer.
    pub fn try_pods(&self) -> Result<Vec<Pod>, String> {
        let text = self.get("/pods")?;
        let list: List<Pod> = serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
        Ok(list.items)
    }

    /// Every pod the agent tells of.
    pub fn pods(&self) -> Vec<Pod> {
        self.try_pods().unwrap()
    }

    /// A static pod by the name in its manifest.
    pub fn try_pod(&self, name: &str) -> Result<Pod, String> {
        let full = format!("{name}-{NAME}");
        let mut pods = self.try_pods()?.into_iter().filter(|pod| pod.metadata.name.as_deref() == Some(&full));
        pods.next().ok_or_else(|| format!("no pod {full}"))
    }

    /// A static pod that is there.
    pub fn pod(&self, name: &str) -> Pod {
        self.try_pod(name).unwrap()
    }

    /// Waits until a pod is as wanted, and gives it.
    pub fn wait_pod(&self, name: &str, what: &str, wanted: impl Fn(&Pod) -> bool) -> Pod {
        wait::until(&format!("pod {name} {what}"), PATIENCE, || {
            let pod = self.try_pod(name)?;
            if wanted(&pod) { Ok(pod) } else { Err(summary(&pod)) }
        })
    }

    /// Waits until a pod is Running and Ready.
    pub fn wait_ready(&self, name: &str) -> Pod {
        self.wait_pod(name, "to be ready", pods::ready)
    }

    /// Waits until a pod has that phase.
    pub fn wait_phase(&self, name: &str, phase: &str) -> Pod {
        self.wait_pod(name, &format!("to be {phase}"), |pod| pods::phase(pod) == phase)
    }

    /// Waits until a container's state is `wanted`, in the words of [`pods::state`].
    pub fn wait_state(&self, name: &str, container: &str, wanted: &str) -> Pod {
        let what = format!("to have {container} {wanted}");
        self.wait_pod(name, &what, |pod| pods::state(pod, container) == wanted)
    }

    /// Waits until the agent tells of no pod of that name any more.
    pub fn wait_gone(&self, name: &str) {
        wait::until(&format!("pod {name} to be gone"), PATIENCE, || {
            self.try_pods()?;
            self.try_pod(name).map_or(Ok(()), |pod| Err(summary(&pod)))
        });
    }

    /// The directory of a pod's logs.
    pub fn log_dir(&self, pod: &Pod) -> PathBuf {
        let metadata = &pod.metadata;
        let name = metadata.name.as_deref().unwrap();
        self.dir.join("logs").join(format!("default_{name}_{}", pods::uid(pod)))
    }

    /// What one instance of a container wrote, without the runtime's prefixes.
    pub fn container_log(&self, pod: &Pod, container: &str, instance: u32) -> String {
        let path = self.log_dir(pod).join(container).join(format!("{instance}.log"));
        let text = fs::read_to_string(&path).unwrap_or_default();
        text.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap_or_default().to_owned() + "\n").collect()
    }

    /// Waits until a container's first instance has written `wanted`, and gives all of it.
    pub fn wait_log(&self, pod: &Pod, container: &str, wanted: &str) -> String {
        wait::until(&format!("{container} to say {wanted:?}"), PATIENCE, || {
            let text = self.container_log(pod, container, 0);
            if text.contains(wanted) { Ok(text) } else { Err(text) }
        })
    }

    /// Every control group of a pod, in every hierarchy. Tests that run beside this one have nodes of their own, and
    /// pods with the same UIDs, since all begin with the same seed.
    pub fn cgroups(&self, uid: &str) -> Vec<PathBuf> {
        fn walk(dir: &Path, own: &str, uid: &str, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
                if !path.is_dir() || path.is_symlink() || (name.starts_with("rubelet-") && name != own) {
                    continue;
                }
                if name.contains(uid) {
                    found.push(path.clone());
                }
                walk(&path, own, uid, found);
            }
        }
        let (root, mut found) = (self.runtime.get("cgroup_root"), vec![]);
        walk(Path::new("/sys/fs/cgroup"), root.trim_start_matches('/'), uid, &mut found);
        found
    }

    /// Lines of the agent's log that mean a bug of its own.
    fn bugs(&self) -> Vec<String> {
        let means_bug = |line: &&str| line.contains("this is a bug") || line.contains("panicked");
        self.agent_log().lines().filter(means_bug).map(str::to_owned).collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        if failed {
            for pod in self.try_pods().unwrap_or_default() {
                eprintln!("{}", summary(&pod));
            }
            eprintln!("---- the agent's log, {}", self.dir.display());
            let log = self.agent_log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("{}", lines[lines.len().saturating_sub(120)..].join("\n"));
        }
        if let Some(mut agent) = self.agent.take() {
            let _it_may_have_ended = agent.kill();
            let _ = agent.wait();
        }
        for link in fs::read_dir(CONTAINER_LOGS).into_iter().flatten().flatten() {
            if fs::read_link(link.path()).is_ok_and(|log| log.starts_with(&*self.dir)) {
                let _others_may_sweep = fs::remove_file(link.path());
            }
        }
        let bugs = self.bugs();
        if !failed {
            assert!(bugs.is_empty(), "the agent told of bugs of its own: {bugs:#?}");
        }
    }
}

/// The directory of everything; removed after the containers that hold mounts in it.
struct NodeDir(PathBuf);

impl Deref for NodeDir {
    type Target = Path;
    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for NodeDir {
    fn drop(&mut self) {
        for point in mounts_below(self) {
            let _told_by_the_removal = Command::new("umount").args(["--lazy", &point]).status();
        }
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{} stays: {error}", self.display());
        }
    }
}

/// A port that nobody uses, and that the kernel gives to nobody by itself: below the range of its own choice, and
/// different for every test process.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = 12_000 + std::process::id() % 2_000 * 10;
    let mut candidates = std::iter::repeat_with(|| first + NEXT.fetch_add(1, Ordering::Relaxed));
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok();
    candidates.by_ref().map(|port| u16::try_from(port).unwrap()).find(is_free).unwrap()
}

/// The body of a page at an address with a port.
pub fn http_get(address: &str, path: &str) -> Result<String, String> {
    let told = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(address).map_err(told)?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).map_err(told)?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(told)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(told)?;
    let text = String::from_utf8_lossy(&answer).into_owned();
    match text.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(body.to_owned()),
        _ => Err(text),
    }
}
