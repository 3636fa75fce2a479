//! Real kubectl binaries against a node, and how their transcripts are compared with what users know.
//!
//! `cargo xtask kubectl` fetches the versions. Each [`Kubectl`] has a namespace, a kubeconfig and a home of its own, so
//! that two versions can go through the same theme on one node at the same time.

use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::runtime::{output, xtask};
use crate::wait::{self, PATIENCE};

/// Seconds that any one command may take.
const COMMAND_SECONDS: &str = "60";

/// The kubectl versions that users may bring: the current one, and one fifteen versions older than the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    V1_20,
    V1_35,
}

impl Version {
    /// As `cargo xtask kubectl` calls it.
    fn name(self) -> &'static str {
        match self {
            Self::V1_20 => "1.20",
            Self::V1_35 => "1.35",
        }
    }
}

/// One kubectl with its own namespace on a node.
pub struct Kubectl {
    pub version: Version,
    /// The namespace of its context.
    pub namespace: String,
    program: PathBuf,
    /// Where its kubeconfig, its caches and its files are, and where it runs.
    pub home: PathBuf,
}

/// How a command ended.
#[derive(Debug)]
pub struct Output {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Kubectl {
    /// A kubectl that uses a copy of `kubeconfig`, with a new namespace made for it, and files in `home`.
    pub fn new(version: Version, kubeconfig: &Path, home: &Path) -> Self {
        let program = output(xtask().args(["kubectl", "--version", version.name()]));
        let namespace = format!("v{}", version.name().replace('.', "-"));
        fs::create_dir_all(home).unwrap();
        fs::copy(kubeconfig, home.join("kubeconfig")).unwrap();
        let this = Self { version, namespace, program: PathBuf::from(program.trim()), home: home.to_owned() };
        let namespace = &this.namespace;
        assert_eq!(
            this.ok(&format!("create namespace {namespace}")),
            format!("namespace/{namespace} created\n")
        );
        let said = this.ok(&format!("config set-context --current --namespace={namespace}"));
        assert!(said.starts_with("Context \"") && said.ends_with("\" modified.\n"), "{said}");
        this
    }

    /// Whether this is the current version, which has commands that the old one lacks.
    pub fn is_new(&self) -> bool {
        self.version >= Version::V1_35
    }

    /// A command line as a person types it, without the word kubectl.
    pub fn command(&self, line: &str) -> Command {
        self.program(&self.program.display().to_string(), words(line))
    }

    fn program(&self, program: &str, words: Vec<String>) -> Command {
        let mut command = Command::new("timeout");
        command
            .args(["--foreground", COMMAND_SECONDS, program])
            .args(words)
            .current_dir(&self.home)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", &self.home)
            .env("KUBECONFIG", self.home.join("kubeconfig"))
            .env("TERM", "dumb")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs a command line to its end.
    pub fn run(&self, line: &str) -> Output {
        finish(self.command(line), "")
    }

    /// Runs a command line that reads `input`.
    pub fn run_with(&self, line: &str, input: &str) -> Output {
        finish(self.command(line), input)
    }

    /// Runs a command line in a terminal of its own that types `input`; what it shows is the output.
    pub fn in_terminal(&self, line: &str, input: &str) -> Output {
        let line = format!("stty rows 30 cols 100; exec {} {line}", self.program.display());
        finish(self.program("script", ["-qefc", &line, "/dev/null"].map(str::to_owned).to_vec()), input)
    }

    /// Runs a command line that has to succeed, and gives what it printed.
    pub fn ok(&self, line: &str) -> String {
        self.ok_with(line, "")
    }

    /// As [`Self::ok`], with something to read.
    pub fn ok_with(&self, line: &str, input: &str) -> String {
        let ended = self.run_with(line, input);
        assert_eq!(ended.code, Some(0), "{:?}: kubectl {line}: {ended:?}", self.version);
        ended.stdout
    }

    /// Runs a command line that has to fail with code 1, and gives what it said on stderr.
    pub fn fails(&self, line: &str) -> String {
        self.fails_with(line, "")
    }

    /// As [`Self::fails`], with something to read.
    pub fn fails_with(&self, line: &str, input: &str) -> String {
        let ended = self.run_with(line, input);
        assert_eq!(ended.code, Some(1), "{:?}: kubectl {line}: {ended:?}", self.version);
        ended.stderr
    }

    /// Runs a command line, and compares what it prints as [`like`] does.
    #[track_caller]
    pub fn shows(&self, line: &str, wanted: &str) {
        let shown = self.ok(line);
        self.compare(line, &shown, wanted);
    }

    /// Runs a command line that has to fail, and compares what it says as [`like`] does.
    #[track_caller]
    pub fn refuses(&self, line: &str, wanted: &str) {
        let said = self.fails(line);
        self.compare(line, &said, wanted);
    }

    #[track_caller]
    fn compare(&self, line: &str, seen: &str, wanted: &str) {
        let wanted = wanted.replace("$NS", &self.namespace);
        if let Err(problem) = like(seen, &wanted) {
            panic!("{:?}: kubectl {line}: {problem}\nseen:\n{seen}\nwanted:\n{wanted}", self.version);
        }
    }

    /// An object as JSON.
    pub fn object(&self, what: &str) -> Value {
        serde_json::from_str(&self.ok(&format!("get {what} --output json"))).unwrap()
    }

    /// Repeats a command line until what it prints is like `wanted`.
    #[track_caller]
    pub fn comes_to_show(&self, line: &str, wanted: &str) -> String {
        let wanted = wanted.replace("$NS", &self.namespace);
        wait::until(&format!("kubectl {line} to print\n{wanted}"), PATIENCE, || {
            let ended = self.run(line);
            match like(&ended.stdout, &wanted) {
                Ok(()) => Ok(ended.stdout),
                Err(problem) => Err(format!("{problem}: {ended:?}")),
            }
        })
    }

    /// Waits until a pod is ready, as kubectl itself waits.
    pub fn wait_ready(&self, pod: &str) {
        self.comes_to_show(&format!("get pod {pod} --output name"), &format!("pod/{pod}"));
        self.ok(&format!("wait --for=condition=Ready pod/{pod} --timeout=50s"));
    }

    /// Makes a pod of the workload image whose only container `main` runs `script`, and waits until it is ready.
    pub fn start_pod(&self, name: &str, script: &str) {
        self.ok_with("create -f -", &pod(name, script));
        self.wait_ready(name);
    }

    /// Leaves a file in the folder where kubectl runs.
    pub fn write(&self, file: &str, text: &str) {
        fs::write(self.home.join(file), text).unwrap();
    }

    /// Starts a command line that goes on by itself.
    pub fn start(&self, line: &str) -> Running {
        Running::new(self.command(line))
    }
}

/// A pod of the workload image whose only container `main` runs `script`.
pub fn pod(name: &str, script: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  labels: {{app: {name}}}\nspec:\n  \
         terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    image: rubelet.local/busybox:1\n    \
         command: [sh, -c, {}]\n",
        serde_json::to_string(script).unwrap()
    )
}

/// A script that runs until it is asked to end, and then ends at once.
pub const FOREVER: &str = "trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done";

/// A command that goes on in the background; killed when it is dropped.
pub struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    said: Arc<Mutex<String>>,
}

impl Running {
    fn new(mut command: Command) -> Self {
        // Without `timeout` in between, so that a kill reaches kubectl itself.
        let words: Vec<_> = command.get_args().skip(2).map(ToOwned::to_owned).collect();
        let mut direct = Command::new(&words[0]);
        direct.args(&words[1..]).current_dir(command.get_current_dir().unwrap()).env_clear();
        direct.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
        command = direct;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let said = Arc::new(Mutex::new(String::new()));
        let stdin = child.stdin.take();
        gather(child.stdout.take().unwrap(), &said);
        gather(child.stderr.take().unwrap(), &said);
        Self { child, stdin, said }
    }

    /// What it printed so far, stdout and stderr together, by lines.
    pub fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// Waits until it has printed a line that contains `wanted`, and gives that line.
    pub fn wait_line(&self, wanted: &str) -> String {
        wait::until(&format!("a line with {wanted:?}"), PATIENCE, || {
            let said = self.said();
            let line = said.lines().find(|line| line.contains(wanted));
            line.map(str::to_owned).ok_or(said)
        })
    }

    /// Types something.
    pub fn write(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        stdin.write_all(text.as_bytes()).unwrap();
        stdin.flush().unwrap();
    }

    /// Says that no more is typed.
    pub fn close(&mut self) {
        self.stdin = None;
    }

    /// Waits for its end by itself, and gives its exit code.
    pub fn wait_end(&mut self) -> Option<i32> {
        wait::until("the command to end", PATIENCE, || match self.child.try_wait().unwrap() {
            Some(status) => Ok(status.code()),
            None => Err(self.said()),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _it_may_have_ended = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Collects what a pipe says, line by line, until it ends.
fn gather(pipe: impl Read + Send + 'static, into: &Arc<Mutex<String>>) {
    let into = Arc::clone(into);
    std::thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        while pipe.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            into.lock().unwrap().push_str(&String::from_utf8_lossy(&line));
            line.clear();
        }
    });
}

/// Runs a command to its end while it reads `input`.
pub fn finish(mut command: Command, input: &str) -> Output {
    command.stdin(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = std::thread::spawn(move || {
        // Whoever needs no input may end before it has read it.
        let _ = stdin.write_all(input.as_bytes());
    });
    let ended = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Output { code: ended.status.code(), stdout: text(&ended.stdout), stderr: text(&ended.stderr) }
}

/// Words of a command line; single quotes keep blanks together.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![];
    let (mut word, mut started, mut quoted) = (String::new(), false, false);
    for character in line.chars() {
        match character {
            '\'' => (quoted, started) = (!quoted, true),
            ' ' if !quoted => {
                if started {
                    words.push(std::mem::take(&mut word));
                }
                started = false;
            }
            other => {
                word.push(other);
                started = true;
            }
        }
    }
    assert!(!quoted, "an open quote in {line}");
    if started {
        words.push(word);
    }
    words
}

/// Whether `seen` is what `wanted` says: line by line and word by word, however many blanks part words. In `wanted`, `*`
/// within a word stands for any characters, a last word `...` for the rest of the line, and a line `...` for any number
/// of lines.
pub fn like(seen: &str, wanted: &str) -> Result<(), String> {
    let seen: Vec<&str> = seen.lines().map(str::trim_end).collect();
    let wanted: Vec<&str> = wanted.trim_matches('\n').lines().map(str::trim_end).collect();
    lines_like(&seen, &wanted).map_err(|mismatch| mismatch.told)
}

/// The mismatch that came last in `wanted`: where the texts really part.
struct Mismatch {
    left: usize,
    told: String,
}

fn lines_like(seen: &[&str], wanted: &[&str]) -> Result<(), Mismatch> {
    let mismatch = |told: String| Err(Mismatch { left: wanted.len(), told });
    match (seen, wanted) {
        ([], []) => Ok(()),
        (_, [first, rest @ ..]) if first.trim() == "..." => {
            let tried = (0..=seen.len()).map(|skip| lines_like(&seen[skip..], rest));
            let mut furthest: Option<Mismatch> = None;
            for tried in tried {
                match tried {
                    Ok(()) => return Ok(()),
                    Err(other) if furthest.as_ref().is_none_or(|best| other.left < best.left) => {
                        furthest = Some(other);
                    }
                    Err(_) => {}
                }
            }
            furthest.map_or(Ok(()), |mut best| {
                best.told = format!("{} (after a line `...`, like {:?})", best.told, wanted.get(1));
                Err(best)
            })
        }
        ([line, ..], []) => mismatch(format!("not wanted: {line:?}")),
        ([], [line, ..]) => mismatch(format!("missing: {line:?}")),
        ([line, seen @ ..], [pattern, wanted @ ..]) if line_like(line, pattern) => lines_like(seen, wanted),
        ([line, ..], [pattern, ..]) => mismatch(format!("{line:?} is not like {pattern:?}")),
    }
}

fn line_like(line: &str, pattern: &str) -> bool {
    let mut words = line.split_whitespace();
    let mut patterns = pattern.split_whitespace();
    loop {
        match (words.next(), patterns.next()) {
            (None, None | Some("...")) | (Some(_), Some("...")) => return true,
            (Some(word), Some(pattern)) if word_like(word, pattern) => {}
            _ => return false,
        }
    }
}

fn word_like(word: &str, pattern: &str) -> bool {
    match pattern.split_once('*') {
        None => word == pattern,
        Some((start, rest)) => word.strip_prefix(start).is_some_and(|left| {
            (0..=left.len()).filter(|at| left.is_char_boundary(*at)).any(|at| word_like(&left[at..], rest))
        }),
    }
}

#[test]
fn transcripts_are_compared_word_by_word() {
    let check = |seen: &str, wanted: &str, fits: bool| {
        assert_eq!(like(seen, wanted).is_ok(), fits, "{seen:?} and {wanted:?}");
    };
    check("NAME  AGE\nweb   5s\n", "NAME AGE\nweb *s\n", true);
    check("NAME  AGE\nweb   5s\n", "NAME AGE\n", false);
    check("NAME  AGE\n", "NAME AGE\nweb *\n", false);
    check("a\nb\nc\n", "...\nc\n", true);
    check("a\nb\nc\n", "a\n...\nd\n", false);
    check("pod/web created", "pod/web ...", true);
    check("pod/web created", "pod/w*b created", true);
    check("pod/web created", "pod/w*c created", false);
    assert_eq!(words("a  'b c' --d='e f'"), ["a", "b c", "--d=e f"]);
}
