//! One `rubelet local` with a folder of its own, and what can be seen of it from outside.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rubelet_localapi::pki::Identity;
use serde_json::Value;
use tempfile::TempDir;

use crate::wait;

/// How long a start may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The program, running or between two runs.
pub struct Program {
    child: Option<Child>,
    /// More arguments of the next start.
    pub arguments: Vec<String>,
    /// Environment of the next start.
    pub environment: Vec<(String, String)>,
    starts: u32,
    /// Where the data folder is, if not in the program's own.
    pub data: Option<PathBuf>,
    pub dir: TempDir,
    pub address: SocketAddr,
}

/// The owner's way in, as the kubeconfig tells it.
pub struct Owner {
    pub ca_pem: String,
    pub identity: Identity,
    pub server: String,
}

impl Program {
    /// One whose API answers.
    pub fn start() -> Self {
        let mut program = Self::prepared();
        program.launch();
        program
    }

    /// One that is yet to be started.
    pub fn prepared() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let config = format!(
            "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n\
             containerRuntimeEndpoint: unix://{}\npodLogsDir: {}\nenableServer: false\nreadOnlyPort: 0\nhealthzPort: 0\n\
             failCgroupV1: false\nfailSwapOn: false\ncgroupsPerQOS: false\nenforceNodeAllocatable: []\n",
            at("no-runtime.sock"),
            at("logs"),
        );
        fs::write(dir.path().join("config.yaml"), config).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        Self { child: None, arguments: vec![], environment: vec![], starts: 0, data: None, dir, address }
    }

    pub fn data_dir(&self) -> PathBuf {
        self.data.clone().unwrap_or_else(|| self.dir.path().join("data"))
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.data_dir().join("admin.conf")
    }

    /// A command of the program on its data folder.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rubelet"));
        command.args(words).arg("--data-dir").arg(self.data_dir()).stdin(Stdio::null());
        command
    }

    /// Starts it and does not wait.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        self.starts += 1;
        let log = fs::File::create(self.log_file(self.starts)).unwrap();
        let child = self
            .command(&["local", "--secure-port", "0", "--hostname-override", "n1"])
            .arg("--config")
            .arg(self.dir.path().join("config.yaml"))
            .arg("--root-dir")
            .arg(self.dir.path().join("root"))
            .args(&self.arguments)
            .envs(self.environment.iter().cloned())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// Starts it and waits until its API answers.
    pub fn launch(&mut self) {
        self.spawn();
        self.address = wait::until("the API to answer", PATIENCE, || {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().unwrap());
            let log = self.log();
            assert!(ended.is_none(), "it ended with {ended:?}:\n{log}");
            let line = log.lines().find(|line| line.contains("the local API answers"));
            let word = line.and_then(|line| line.split_once("address=")?.1.split(' ').next());
            word.and_then(|word| word.parse().ok()).ok_or(log)
        });
    }

    /// Its process.
    pub fn process(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Ends it without a warning.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Asks it to end, and waits.
    pub fn stop(&mut self) {
        let child = self.child.as_ref().unwrap();
        let status = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
        assert!(status.success());
        assert!(self.ended().0, "{}", self.log());
    }

    /// Waits until it ends by itself: whether it did so well, and all that it said.
    pub fn ended(&mut self) -> (bool, String) {
        let mut child = self.child.take().unwrap();
        let status = wait::until("the program to end", PATIENCE, || match child.try_wait().unwrap() {
            Some(status) => Ok(status),
            None => Err(self.log()),
        });
        (status.success(), self.log())
    }

    fn log_file(&self, start: u32) -> PathBuf {
        self.dir.path().join(format!("log-{start}"))
    }

    /// What it said since its last start.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file(self.starts)).unwrap_or_default()
    }

    /// What the kubeconfig holds.
    pub fn owner(&self) -> Owner {
        let text = fs::read_to_string(self.kubeconfig()).unwrap();
        let config: Value = serde_saphyr::from_str(&text).unwrap();
        let (cluster, user) = (&config["clusters"][0]["cluster"], &config["users"][0]["user"]);
        let pem =
            |value: &Value| String::from_utf8(STANDARD.decode(value.as_str().unwrap()).unwrap()).unwrap();
        Owner {
            ca_pem: pem(&cluster["certificate-authority-data"]),
            identity: Identity {
                cert_pem: pem(&user["client-certificate-data"]),
                key_pem: pem(&user["client-key-data"]),
            },
            server: cluster["server"].as_str().unwrap().to_owned(),
        }
    }

    fn proc(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.child.as_ref().unwrap().id()))
    }

    fn kib(&self, field: &str) -> u64 {
        let status = fs::read_to_string(self.proc("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// KiB in memory now.
    pub fn memory(&self) -> u64 {
        self.kib("VmRSS")
    }

    /// Runs `work`, and gives by how many KiB the memory of the program rose at most meanwhile.
    pub async fn growth<T>(&self, work: impl Future<Output = T>) -> (u64, T) {
        let before = self.memory();
        fs::write(self.proc("clear_refs"), "5").unwrap();
        let done = work.await;
        (self.kib("VmHWM").saturating_sub(before), done)
    }

    /// How often its threads were woken, in all.
    pub fn wakeups(&self) -> u64 {
        let tasks = fs::read_dir(self.proc("task")).unwrap();
        let of = |task: PathBuf| {
            let status = fs::read_to_string(task.join("status")).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            line.and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or_default()
        };
        tasks.flatten().map(|task| of(task.path())).sum()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _it_may_have_ended = child.kill();
            let _ = child.wait();
        }
        let logs =
            (1..=self.starts).map(|start| fs::read_to_string(self.log_file(start)).unwrap_or_default());
        let log: String = logs.collect();
        if std::thread::panicking() {
            eprintln!("---- the program's log\n{log}");
            return;
        }
        let means_bug =
            |line: &&str| ["this is a bug", "panicked", "overflowed"].iter().any(|word| line.contains(word));
        let bugs: Vec<&str> = log.lines().filter(means_bug).collect();
        assert!(bugs.is_empty(), "the program told of bugs of its own: {bugs:#?}");
    }
}
