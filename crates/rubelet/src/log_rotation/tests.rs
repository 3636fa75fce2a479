//! The task on directories of its own, with a runtime that writes and reopens logs as containerd does.

use std::fs;
use std::future::poll_fn;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use flate2::read::GzDecoder;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::compress::{Outcome, compress};
use super::*;

/// What the runtime makes of being asked to reopen a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// It does.
    Reopens,
    /// It does not.
    Refuses,
    /// It does, and answers that it did not.
    ReopensAndFails,
    /// It never answers, and does nothing.
    Hangs,
    /// It does, and never answers.
    ReopensAndHangs,
    /// It says it did, and there is no file.
    Forgets,
}

/// A node with one container whose log a runtime writes.
struct World {
    root: tempfile::TempDir,
    written: Arc<Mutex<fs::File>>,
    answer: Arc<Mutex<Answer>>,
    asked: Arc<AtomicUsize>,
    lines: usize,
}

const LINE: usize = 64;

impl World {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let path = log_in(&root, "app");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        Self {
            root,
            written: Arc::new(Mutex::new(append(&path))),
            answer: Arc::new(Mutex::new(Answer::Reopens)),
            asked: Arc::default(),
            lines: 0,
        }
    }

    fn path(&self) -> PathBuf {
        log_in(&self.root, "app")
    }

    fn beside(&self, name: &str) -> PathBuf {
        self.path().with_file_name(name)
    }

    fn answers(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// Writes numbered lines.
    fn write(&mut self, lines: usize) {
        let mut file = self.written.lock().unwrap();
        for _ in 0..lines {
            file.write_all(format!("{:063}\n", self.lines).as_bytes()).unwrap();
            self.lines += 1;
        }
    }

    /// The task with a handle that tells it of the container; 16 lines are the limit of a file.
    fn start(&self, files: usize) -> (LogRotation, impl Future<Output = ()> + Send + use<>) {
        let (written, answer, asked, path) =
            (self.written.clone(), self.answer.clone(), self.asked.clone(), self.path());
        let reopen: Reopen = Arc::new(move |_| {
            asked.fetch_add(1, Ordering::SeqCst);
            let answer = *answer.lock().unwrap();
            if matches!(answer, Answer::Reopens | Answer::ReopensAndFails | Answer::ReopensAndHangs) {
                *written.lock().unwrap() = append(&path);
            }
            match answer {
                Answer::Reopens | Answer::Forgets => std::future::ready(Ok(())).boxed(),
                Answer::Refuses | Answer::ReopensAndFails => std::future::ready(Err("no".to_owned())).boxed(),
                Answer::Hangs | Answer::ReopensAndHangs => std::future::pending().boxed(),
            }
        });
        let limits = RotationSettings {
            max_size: 16 * LINE as u64,
            max_files: files,
            monitor_interval: Duration::from_secs(10),
        };
        let settings = LogRotationSettings { limits, workers: 1 };
        let clock = Clock::simulated("2026-01-02T03:04:05Z".parse().unwrap());
        let (handle, task) = LogRotation::with(reopen, FsPool::inline(), settings, clock);
        handle.track(&"u".into(), vec![("c".into(), self.path())]);
        (handle, task)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path().parent().unwrap()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        // The one that is written comes last.
        names.sort_by_key(|name| (name == "0.log", name.clone()));
        names
    }

    /// All that the files hold, the oldest first.
    fn text(&self) -> String {
        self.names().iter().map(|name| read(&self.beside(name))).collect()
    }

    /// Whether nothing of what was written is lost or doubled, once nothing is being compressed: the threads that do it
    /// do not go by the paused clock.
    fn check_whole(&self) {
        let busy = |names: &[String]| {
            names.iter().any(|name| name.ends_with(".tmp") || names.contains(&format!("{name}.gz")))
        };
        for _ in 0..10_000 {
            if !busy(&self.names()) {
                break;
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
        let expected: String = (0..self.lines).map(|number| format!("{number:063}\n")).collect();
        assert!(self.text() == expected, "{:?} hold {:?}", self.names(), self.text());
    }

    async fn until(&self, what: &str, mut there: impl FnMut(&Self) -> bool) {
        let limit = Instant::now() + Duration::from_secs(100);
        while !there(self) {
            assert!(Instant::now() < limit, "waited in vain for {what}; there are {:?}", self.names());
            sleep(Duration::from_millis(10)).await;
        }
    }
}

fn log_in(root: &tempfile::TempDir, container: &str) -> PathBuf {
    root.path().join("logs/ns_pod_u").join(container).join("0.log")
}

fn append(path: &Path) -> fs::File {
    fs::OpenOptions::new().create(true).append(true).open(path).unwrap()
}

fn read(path: &Path) -> String {
    let mut text = String::new();
    match path.extension().is_some_and(|extension| extension == "gz") {
        true => GzDecoder::new(fs::File::open(path).unwrap()).read_to_string(&mut text).unwrap(),
        false => fs::File::open(path).unwrap().read_to_string(&mut text).unwrap(),
    };
    text
}

/// A task that ends with the test, or when it is dropped.
struct Spawned(JoinHandle<()>);

impl Drop for Spawned {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn spawn(task: impl Future<Output = ()> + Send + 'static) -> Spawned {
    Spawned(tokio::spawn(task))
}

#[tokio::test(start_paused = true)]
async fn a_log_that_reaches_its_limit_begins_anew() {
    let mut world = World::new();
    world.write(3);
    let (_handle, task) = world.start(3);
    let _task = spawn(task);
    sleep(Duration::from_secs(60)).await;
    assert_eq!((world.names(), world.asked()), (vec!["0.log".to_owned()], 0));
    world.write(14);
    let began = Instant::now();
    world.until("a rotation", |world| world.asked() == 1).await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    world.until("the rotated file", |world| world.names() == ["0.log.20260102-030505", "0.log"]).await;
    world.write(2);
    world.check_whole();
    assert_eq!(read(&world.path()).lines().count(), 2);
}

#[tokio::test(start_paused = true)]
async fn quiet_logs_wake_nobody() {
    let world = World::new();
    let (handle, task) = world.start(3);
    for number in 0..100 {
        let path = log_in(&world.root, &format!("quiet-{number}"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        append(&path).write_all(b"old\n").unwrap();
        handle.track(&format!("u-{number}").into(), vec![(format!("c-{number}").into(), path)]);
    }
    let polls = Arc::new(AtomicUsize::new(0));
    let counted = polls.clone();
    let _task = spawn(async move {
        let mut task = pin!(task);
        poll_fn(|context| {
            counted.fetch_add(1, Ordering::SeqCst);
            task.as_mut().poll(context)
        })
        .await;
    });
    sleep(Duration::from_secs(10)).await;
    let before = polls.load(Ordering::SeqCst);
    assert!(before > 0);
    sleep(Duration::from_secs(3600)).await;
    handle.track(&"u".into(), vec![("c".into(), world.path())]);
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(polls.load(Ordering::SeqCst), before);
    // What is written is seen all the same.
    append(&log_in(&world.root, "quiet-7")).write_all(&[b'x'; 17 * LINE]).unwrap();
    world.until("a rotation", |world| world.asked() == 1).await;
    let left: Vec<_> = fs::read_dir(world.root.path().join("logs/ns_pod_u/quiet-7")).unwrap().collect();
    let left = left[0].as_ref().unwrap().file_name();
    assert!(left.to_str().unwrap().starts_with("0.log.20260102-"), "{left:?}");
}

#[tokio::test(start_paused = true)]
async fn files_are_bounded_in_number_and_bytes() {
    let mut world = World::new();
    let (_handle, task) = world.start(2);
    let _task = spawn(task);
    for round in 1..=6 {
        world.write(20);
        world.until("a rotation", |world| world.asked() == round).await;
        sleep(Duration::from_millis(100)).await;
        assert_eq!(world.names().len(), 2, "{:?}", world.names());
    }
    // One file of more than all may be together.
    world.write(100);
    world.until("a rotation", |world| world.asked() == 7).await;
    world.write(20);
    world.until("a rotation", |world| world.asked() == 8).await;
    sleep(Duration::from_millis(100)).await;
    assert!(world.text().len() <= 20 * LINE, "{:?}", world.names());
    assert!(world.text().ends_with(&format!("{:063}\n", world.lines - 1)));
}

#[tokio::test(start_paused = true)]
async fn what_the_runtime_does_not_reopen_goes_on_as_it_was() {
    let mut world = World::new();
    world.answers(Answer::Refuses);
    world.write(20);
    let (_handle, task) = world.start(4);
    let _task = spawn(task);
    let began = Instant::now();
    world.until("three tries", |world| world.asked() == 3).await;
    assert!(began.elapsed() >= Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(world.names(), ["0.log"]);
    world.write(20);
    world.check_whole();
    // More than the budget of 64 lines: the disk is more than the log.
    world.write(100);
    world.until("the cut", |world| world.text().is_empty()).await;
    world.lines = 0;
    world.write(20);
    world.answers(Answer::Reopens);
    world.until("a rotation", |world| world.names().len() == 2).await;
    world.check_whole();
}

#[tokio::test(start_paused = true)]
async fn an_error_after_reopening_loses_nothing() {
    let mut world = World::new();
    world.answers(Answer::ReopensAndFails);
    world.write(20);
    let (_handle, task) = world.start(4);
    let _task = spawn(task);
    world.until("a rotation", |world| world.asked() == 1).await;
    world.write(3);
    sleep(Duration::from_secs(60)).await;
    assert_eq!((world.names().len(), world.asked()), (2, 1));
    world.check_whole();
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_does_not_answer_costs_no_more_than_the_budget() {
    let mut world = World::new();
    world.answers(Answer::Hangs);
    world.write(20);
    let (_handle, task) = world.start(4);
    let _task = spawn(task);
    world.until("a rotation", |world| world.asked() == 1).await;
    world.write(10);
    sleep(Duration::from_secs(1)).await;
    world.check_whole();
    for _ in 0..3 {
        world.write(100);
        world.until("the cut", |world| world.text().is_empty()).await;
    }
    assert_eq!(world.asked(), 1);
}

/// The agent ends within a rotation, and another one finds what it left.
async fn check_restart(left: Answer, after: impl FnOnce(&mut World)) {
    let mut world = World::new();
    world.answers(left);
    world.write(20);
    {
        let (_handle, task) = world.start(5);
        let _task = spawn(task);
        world.until("the rotation to begin", |world| world.asked() == 1).await;
    }
    world.write(5);
    after(&mut world);
    world.answers(Answer::Reopens);
    let (_handle, task) = world.start(5);
    let _task = spawn(task);
    world.until("a log", |world| world.path().exists()).await;
    sleep(Duration::from_secs(5)).await;
    world.write(20);
    world.until("a rotation", |world| world.names().len() >= 3).await;
    sleep(Duration::from_secs(5)).await;
    world.check_whole();
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_ends_within_a_rotation_does_no_harm() {
    // Renamed, and the runtime never heard of it.
    check_restart(Answer::Hangs, |_| {}).await;
    // It did, and the agent ended before the answer.
    check_restart(Answer::ReopensAndHangs, |_| {}).await;
    // More than one file's worth was written before the next agent came.
    check_restart(Answer::Hangs, |world| world.write(30)).await;
}

#[tokio::test(start_paused = true)]
async fn a_log_that_is_gone_is_opened_anew_and_asked_for_with_pauses() {
    let mut world = World::new();
    let (_handle, task) = world.start(3);
    let _task = spawn(task);
    sleep(Duration::from_secs(5)).await;
    fs::remove_file(world.path()).unwrap();
    world.answers(Answer::Forgets);
    world.write(1);
    world.until("three tries", |world| world.asked() == 3).await;
    let began = Instant::now();
    world.until("two more", |world| world.asked() == 5).await;
    assert!(began.elapsed() > Duration::from_secs(9), "{:?}", began.elapsed());
    world.answers(Answer::Reopens);
    world.until("a log", |world| world.path().exists()).await;
    world.write(20);
    world.until("a rotation", |world| world.names().len() == 2).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_not_a_log_is_not_touched() {
    let world = World::new();
    let secret = world.root.path().join("secret");
    fs::write(&secret, [b's'; 100 * LINE]).unwrap();
    fs::remove_file(world.path()).unwrap();
    std::os::unix::fs::symlink(&secret, world.path()).unwrap();
    let (_handle, task) = world.start(2);
    let _task = spawn(task);
    sleep(Duration::from_secs(3600)).await;
    assert_eq!((world.names(), world.asked()), (vec!["0.log".to_owned()], 0));
    assert_eq!(fs::read(&secret).unwrap().len(), 100 * LINE);
}

#[tokio::test(start_paused = true)]
async fn a_container_that_has_ended_is_left_alone() {
    let mut world = World::new();
    let (handle, task) = world.start(2);
    let _task = spawn(task);
    sleep(Duration::from_secs(1)).await;
    handle.track(&"u".into(), vec![]);
    sleep(Duration::from_secs(1)).await;
    world.write(40);
    sleep(Duration::from_secs(3600)).await;
    assert_eq!((world.names(), world.asked()), (vec!["0.log".to_owned()], 0));
    handle.track(&"u".into(), vec![("c".into(), world.path())]);
    world.until("a rotation", |world| world.asked() == 1).await;
    handle.forget(&"u".into());
    LogRotation::disabled().track(&"u".into(), vec![("c".into(), world.path())]);
}

/// On the real clock, because threads work on it.
#[tokio::test]
async fn all_but_the_latest_are_compressed_and_leftovers_go() {
    let mut world = World::new();
    world.write(8);
    fs::rename(world.path(), world.beside("0.log.20260101-000001")).unwrap();
    *world.written.lock().unwrap() = append(&world.path());
    world.write(8);
    fs::copy(world.path(), world.beside("0.log.20260101-000002")).unwrap();
    fs::write(world.path(), "").unwrap();
    // A compression that was interrupted before its last step, and one in the middle.
    let _whole = compress(&world.beside("0.log.20260101-000001"), &|| false).unwrap();
    let mut plain = append(&world.beside("0.log.20260101-000001"));
    plain.write_all(b"what is compressed already").unwrap();
    drop(plain);
    fs::write(world.beside("0.log.20260101-000002.tmp"), "half").unwrap();
    world.write(16);
    let (_handle, task) = world.start(5);
    let _task = spawn(task);
    world.until("a rotation", |world| world.asked() == 1).await;
    world
        .until("compressed files", |world| {
            let names = world.names();
            names.len() == 4
                && names[..2] == ["0.log.20260101-000001.gz", "0.log.20260101-000002.gz"]
                && names[2].starts_with("0.log.20260102-")
        })
        .await;
    world.write(2);
    world.check_whole();
}

#[test]
fn compression_keeps_what_matters() {
    let world = World::new();
    let path = world.beside("0.log.20260101-000001");
    let text = "a line that is quite like the others\n".repeat(100_000);
    fs::write(&path, &text).unwrap();
    let changed = fs::metadata(&path).unwrap().modified().unwrap();
    // Somebody writes still.
    let writer = append(&path);
    assert_eq!(compress(&path, &|| false).unwrap(), Outcome::Written);
    drop(writer);
    // It is not wanted any more, at the start or in the middle.
    for checks in 0..3 {
        let asked = std::cell::Cell::new(0);
        let stop = || asked.replace(asked.get() + 1) == checks;
        assert_eq!(compress(&path, &stop).unwrap(), Outcome::Done);
        assert_eq!(world.names(), ["0.log.20260101-000001", "0.log"]);
    }
    let removed = || fs::remove_file(&path).is_err();
    assert_eq!(compress(&path, &removed).unwrap(), Outcome::Done);
    assert_eq!(world.names(), ["0.log"]);
    fs::write(&path, &text).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(changed).unwrap();
    assert_eq!(compress(&path, &|| false).unwrap(), Outcome::Done);
    assert_eq!(world.names(), ["0.log.20260101-000001.gz", "0.log"]);
    let compressed = world.beside("0.log.20260101-000001.gz");
    assert_eq!(fs::metadata(&compressed).unwrap().modified().unwrap(), changed);
    assert!(fs::metadata(&compressed).unwrap().len() * 10 < text.len() as u64);
    assert!(read(&compressed) == text);
}

#[test]
fn the_configuration_sets_the_limits() {
    let mut config = KubeletConfiguration::default();
    let check = |config: &KubeletConfiguration, expected: Option<(u64, usize, u64, usize)>| {
        let settings = LogRotationSettings::of(config);
        let told = settings.map(|settings| {
            let limits = settings.limits;
            (limits.max_size, limits.max_files, limits.monitor_interval.as_secs(), settings.workers)
        });
        assert_eq!(told, expected);
    };
    check(&config, Some((10 << 20, 5, 10, 1)));
    config.container_log_max_size = "1M".into();
    config.container_log_max_files = 2;
    config.container_log_max_workers = 3;
    check(&config, Some((1_000_000, 2, 10, 3)));
    config.container_log_max_size = "-1".into();
    check(&config, None);
}
