//! `make run` and `make stop`: a node of one's own, with a sample pod on it.
//!
//! Owns the node's folder, the agent's process and what a person is shown. Never talks to the container runtime beyond
//! starting it: what a pod does is the agent's business, seen through kubectl and the read-only port. Called by the
//! command line.

mod settings;
mod status;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

use crate::containerd::{self, Version, last_lines};
use crate::process::{command, find_program, is_alive, output, read_pid, run, say, signal, step};
use crate::{host, http, images, kubectl, programs, wait};
use settings::Layout;

/// How long the sample pod may take on a slow machine.
const POD_DEADLINE: Duration = Duration::from_secs(120);
/// How long the API may take to answer.
const API_DEADLINE: Duration = Duration::from_secs(30);
/// How long the agent has to end by itself.
const AGENT_STOP: Duration = Duration::from_secs(15);

/// What `up` was asked to do.
#[derive(Debug, clap::Args)]
pub(crate) struct UpOptions {
    /// The cargo profile the agent is built with.
    #[arg(long, default_value = "release")]
    profile: String,
    /// The containerd to run on.
    #[arg(long, value_enum, default_value_t = Version::Installed)]
    containerd: Version,
    /// Leave the agent running in the background instead of waiting for Ctrl-C.
    #[arg(long)]
    detach: bool,
    /// An agent that is built already: what a second start through sudo is given.
    #[arg(long, hide = true)]
    agent: Option<PathBuf>,
    /// A kubectl, found or fetched by the first start.
    #[arg(long, hide = true)]
    kubectl: Option<PathBuf>,
}

/// Builds and starts everything, shows the sample pod, and waits for Ctrl-C.
pub(crate) fn up(options: &UpOptions) -> Result<()> {
    let Some(agent) = &options.agent else { return prepare(options) };
    let layout = Layout::new(&host::dev_dir());
    let kubectl = match &options.kubectl {
        Some(path) => path.clone(),
        None => kubectl::for_person()?,
    };
    let kubectl = Kubectl { program: kubectl, kubeconfig: layout.kubeconfig.clone() };
    if let Some(pid) = running_agent(&layout) {
        say(&format!("the agent is running already (process {pid})"));
        return show(&layout, &kubectl);
    }
    if http::get(settings::READ_ONLY_PORT, "/healthz").is_ok() {
        bail!(
            "another agent answers on port {}: it is not of {}; stop it first",
            settings::READ_ONLY_PORT,
            layout.dir.display()
        );
    }
    let archives = images::archives_in(&images::default_dir());
    let runtime = step("starting a private containerd", || {
        containerd::start(options.containerd, &layout.containerd, Some(&archives))
    })?;
    say(&format!("containerd {} with the {} snapshotter", runtime.version, runtime.snapshotter));
    layout.write(&runtime)?;
    let interrupted = Interrupted::watch()?;
    let mut child = step("starting the agent and its API", || {
        let mut child = start_agent(&layout, agent)?;
        wait_for_api(&layout, &kubectl, &mut child, &interrupted)?;
        Ok(child)
    })?;
    let mut console = Console::default();
    let sample = host::repository().join(settings::SAMPLE_FILE).display().to_string();
    let waited = kubectl.show(&["apply", "-f", &sample]).and_then(|()| {
        step("waiting for the sample pod", || {
            wait_for_pod(&layout, &kubectl, &mut child, &interrupted, &mut console)
        })
    });
    // A sample that does not come up is no reason to stop an agent that somebody works with.
    let shown = match waited {
        Err(error) if !options.detach && child.try_wait()?.is_none() && !interrupted.now() => {
            say(&format!("{error:#}"));
            show(&layout, &kubectl)
        }
        waited => waited.and_then(|()| show(&layout, &kubectl)),
    };
    if shown.is_ok() && options.detach {
        say(&format!("the agent goes on as process {}; `make stop` removes everything", child.id()));
        return Ok(());
    }
    let waited = shown.and_then(|()| stay(&layout, &kubectl, &mut child, &interrupted, &mut console));
    stop_child(&layout, &mut child)?;
    say(
        "the containers go on without the agent: `make run` takes them up again, `make stop` removes everything",
    );
    if interrupted.now() { Ok(()) } else { waited }
}

/// Whether somebody pressed Ctrl-C or asked this program to end.
struct Interrupted(Arc<AtomicBool>);

impl Interrupted {
    fn watch() -> Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP]
        {
            signal_hook::flag::register(signal, Arc::clone(&asked)).context("cannot wait for Ctrl-C")?;
        }
        Ok(Self(asked))
    }

    fn now(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What needs no root: packages (through sudo), the agent, the images. Then the rest, as root.
fn prepare(options: &UpOptions) -> Result<()> {
    host::install_requirements()?;
    let agent = step(&format!("building the agent (profile {})", options.profile), || {
        programs::build("rubelet", &options.profile)
    })?;
    step("building the images", || images::build(&images::default_dir()))?;
    let kubectl = kubectl::for_person()?;
    let own = std::env::current_exe().context("cannot find this program")?;
    let mut words = vec![own.display().to_string()];
    if !host::is_root() {
        let dev_dir = format!("RUBELET_DEV_DIR={}", host::dev_dir().display());
        words = [vec!["env".to_owned(), dev_dir], words].concat();
    }
    words.extend(["up".to_owned(), "--agent".to_owned(), agent.display().to_string()]);
    words.extend(["--kubectl".to_owned(), kubectl.display().to_string()]);
    words.extend(["--containerd".to_owned(), options.containerd.to_string()]);
    if options.detach {
        words.push("--detach".to_owned());
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    // The second start takes this one's place, so that Ctrl-C and the exit code are its own.
    let error = host::as_root(&words)?.exec();
    Err(error).context("cannot start the second half")
}

/// The agent that this folder's pid file names, when it lives.
fn running_agent(layout: &Layout) -> Option<u32> {
    read_pid(&layout.agent_pid).filter(|pid| is_alive(*pid, &layout.config.display().to_string()))
}

fn start_agent(layout: &Layout, agent: &Path) -> Result<Child> {
    let log = fs::File::create(&layout.agent_log)
        .with_context(|| format!("cannot create {}", layout.agent_log.display()))?;
    // A process group of its own: this program passes Ctrl-C on as SIGTERM and can say what happens.
    let child = Command::new(agent)
        .arg("local")
        .arg("--data-dir")
        .arg(&layout.data)
        .arg("--secure-port")
        .arg(settings::API_PORT.to_string())
        .arg("--write-kubeconfig")
        .arg(&layout.kubeconfig)
        .arg("--config")
        .arg(&layout.config)
        .arg("--root-dir")
        .arg(&layout.agent_root)
        .arg("--hostname-override")
        .arg(settings::NODE_NAME)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot start {}", agent.display()))?;
    fs::write(&layout.agent_pid, format!("{}\n", child.id()))?;
    Ok(child)
}

fn pods(kubectl: &Kubectl) -> Result<Value> {
    Ok(serde_json::from_str(&output(&mut kubectl.command(&[
        "get",
        "pods",
        "--all-namespaces",
        "-o",
        "json",
    ]))?)?)
}

/// Rounds of waiting between two looks at the pods: about three seconds.
const CONSOLE_ROUNDS: u32 = 60;

/// What has been printed of pods, so that only news is.
#[derive(Default)]
struct Console {
    summary: String,
}

impl Console {
    /// Prints how far the pods are, when that has changed.
    fn tell(&mut self, pods: Option<&Value>) {
        let now = pods.map(status::summary).unwrap_or_default();
        if now != self.summary && !now.is_empty() {
            say(&now);
            self.summary = now;
        }
    }
}

/// A kubectl that talks to the node.
struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Kubectl {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command([&self.program]);
        command.args(arguments).env("KUBECONFIG", &self.kubeconfig);
        command
    }

    /// Runs a command as a person would, and prints it with what it says.
    fn show(&self, arguments: &[&str]) -> Result<()> {
        println!("$ kubectl {}", arguments.join(" "));
        let mut command = self.command(arguments);
        run(&mut command)
    }
}

/// Waits until the API of the node answers, and gives its kubeconfig to whoever called sudo.
fn wait_for_api(
    layout: &Layout,
    kubectl: &Kubectl,
    child: &mut Child,
    interrupted: &Interrupted,
) -> Result<()> {
    wait_while_agent_runs("the node's API to answer", API_DEADLINE, layout, child, interrupted, || {
        layout.kubeconfig.exists() && output(&mut kubectl.command(&["get", "--raw", "/readyz"])).is_ok()
    })?;
    let id = |name: &str| std::env::var(name).ok().and_then(|id| id.parse::<u32>().ok());
    if let (Some(user), Some(group)) = (id("SUDO_UID"), id("SUDO_GID")) {
        std::os::unix::fs::chown(&layout.kubeconfig, Some(user), Some(group))
            .with_context(|| format!("cannot give {} to you", layout.kubeconfig.display()))?;
    }
    Ok(())
}

fn wait_for_pod(
    layout: &Layout,
    kubectl: &Kubectl,
    child: &mut Child,
    interrupted: &Interrupted,
    console: &mut Console,
) -> Result<()> {
    wait_while_agent_runs("the sample pod to run", POD_DEADLINE, layout, child, interrupted, || {
        let pods = pods(kubectl).ok();
        console.tell(pods.as_ref());
        pods.is_some_and(|pods| status::sample_ready(&pods, settings::SAMPLE_NAME))
    })
}

/// Looks until it is so; says the end of the agent's log when it does not come to that.
fn wait_while_agent_runs(
    what: &str,
    deadline: Duration,
    layout: &Layout,
    child: &mut Child,
    interrupted: &Interrupted,
    mut is_so: impl FnMut() -> bool,
) -> Result<()> {
    let waited = wait::until(what, deadline, || {
        if let Some(status) = child.try_wait()? {
            bail!("the agent ended with {status}");
        }
        if interrupted.now() {
            bail!("interrupted");
        }
        Ok(is_so().then_some(()))
    });
    let log = &layout.agent_log;
    waited.map_err(|error| {
        anyhow!("{error:#}; the end of the agent's log ({}):\n{}", log.display(), last_lines(log, 20))
    })
}

/// Shows the node as its user sees it.
fn show(layout: &Layout, kubectl: &Kubectl) -> Result<()> {
    kubectl.show(&["get", "pods", "-o", "wide"])?;
    kubectl.show(&["logs", settings::SAMPLE_NAME])?;
    println!("to go on: export KUBECONFIG={}", layout.kubeconfig.display());
    if find_program("kubectl").is_none() {
        println!("kubectl is not installed; this one was fetched: {}", kubectl.program.display());
    }
    println!("agent's log: {}", layout.agent_log.display());
    Ok(())
}

/// Waits for Ctrl-C or the agent's own end.
fn stay(
    layout: &Layout,
    kubectl: &Kubectl,
    child: &mut Child,
    interrupted: &Interrupted,
    console: &mut Console,
) -> Result<()> {
    say("Ctrl-C stops the agent; its containers go on");
    let mut rounds = 0_u32;
    while !interrupted.now() {
        if let Some(status) = child.try_wait()? {
            bail!("the agent ended with {status}:\n{}", last_lines(&layout.agent_log, 20));
        }
        if rounds.is_multiple_of(CONSOLE_ROUNDS) {
            console.tell(pods(kubectl).ok().as_ref());
        }
        rounds += 1;
        wait::pause();
    }
    eprintln!();
    Ok(())
}

/// Ends the agent but not its containers.
fn stop_child(layout: &Layout, child: &mut Child) -> Result<()> {
    if child.try_wait()?.is_none() {
        say("stopping the agent");
        signal(child.id(), "TERM");
        match wait::until("the agent to end", AGENT_STOP, || Ok(child.try_wait()?)) {
            Ok(status) if status.success() => {}
            Ok(status) => say(&format!("the agent ended with {status}; see {}", layout.agent_log.display())),
            Err(_) => {
                say("the agent does not end by itself: killing it");
                child.kill()?;
                child.wait()?;
            }
        }
    }
    fs::remove_file(&layout.agent_pid).context("cannot remove the pid file")
}

/// Removes everything that `up` made, but not what it downloaded.
pub(crate) fn down() -> Result<()> {
    let layout = Layout::new(&host::dev_dir());
    if !layout.dir.exists() {
        say("nothing to stop");
        return Ok(());
    }
    if !host::is_root() {
        let own = std::env::current_exe().context("cannot find this program")?.display().to_string();
        let dev_dir = format!("RUBELET_DEV_DIR={}", host::dev_dir().display());
        let error = host::as_root(&["env", &dev_dir, &own, "down"])?.exec();
        return Err(error).context("cannot start again as root");
    }
    if let Some(pid) = running_agent(&layout) {
        step("stopping the agent", || stop_agent(&layout, pid))?;
    }
    step("stopping containers and containerd", || containerd::bring_down(&layout.containerd))?;
    containerd::unmount_below(&layout.dir.canonicalize()?)?;
    fs::remove_dir_all(&layout.dir).with_context(|| format!("cannot remove {}", layout.dir.display()))?;
    // The folder above stays when something was downloaded into it.
    let _holds_the_cache = fs::remove_dir(host::dev_dir());
    say("everything is removed");
    Ok(())
}

fn stop_agent(layout: &Layout, pid: u32) -> Result<()> {
    signal(pid, "TERM");
    let gone = || Ok(running_agent(layout).is_none().then_some(()));
    if wait::until("the agent to end", AGENT_STOP, gone).is_err() {
        say("the agent does not end by itself: killing it");
        signal(pid, "KILL");
        wait::until("the agent to be gone", AGENT_STOP, gone)?;
    }
    Ok(())
}
