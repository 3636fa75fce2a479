//! Logs read from files, step by step and through a response.

mod followers;

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::time::SystemTime;

use flate2::Compression;
use flate2::write::GzEncoder;
use futures::FutureExt as _;
use tokio::sync::{oneshot, watch};

use super::*;

const NOW: &str = "2024-01-01T01:00:00Z";

fn entry(minute: u32, tag: &str, content: &str) -> String {
    format!("2024-01-01T00:{minute:02}:00Z stdout {tag} {content}\n")
}

fn append(path: &Path, text: &str) {
    OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

fn compress(path: &Path, text: &str) {
    let mut encoder = GzEncoder::new(File::create(path).unwrap(), Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap();
}

fn set_changed(path: &Path, time: SystemTime) {
    File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    fn open(&self, query: &str) -> LogReader {
        let files = LogFiles::at(&self.path("0.log")).unwrap();
        LogReader::open(files, None, &LogOptions::from_query(query).unwrap(), NOW.parse().unwrap()).unwrap()
    }
    fn check(&self, query: &str, expected: &str) {
        let (text, last) = drain(&mut self.open(query));
        assert_eq!((text.as_str(), last), (expected, Step::Done), "{query}");
    }
}

/// Everything until there is nothing more for now, and what the last step was.
fn drain(reader: &mut LogReader) -> (String, Step) {
    let mut all = Vec::new();
    loop {
        match reader.step().unwrap() {
            Step::Bytes(bytes) => all.extend_from_slice(&bytes),
            Step::Working => {}
            step => return (String::from_utf8_lossy(&all).into_owned(), step),
        }
    }
}

/// Three rotated files and a current one, with two lines each.
fn rotated() -> Dir {
    let dir = Dir::new();
    let pair = |first: u32| {
        let line = |minute| entry(minute, "F", &minute.to_string());
        format!("{}{}", line(first), line(first + 1))
    };
    compress(&dir.path("0.log.20240101-000001.gz"), &pair(1));
    compress(&dir.path("0.log.20240101-000003.gz"), &pair(3));
    append(&dir.path("0.log.20240101-000005"), &pair(5));
    append(&dir.path("0.log"), &pair(7));
    dir
}

#[test]
fn reads_what_is_asked_for() {
    let dir = Dir::new();
    let lines: Vec<String> = ["a", "b", "c"]
        .iter()
        .enumerate()
        .map(|(minute, content)| entry(u32::try_from(minute).unwrap(), "F", content))
        .collect();
    append(&dir.path("0.log"), &lines.concat());
    dir.check("", "a\nb\nc\n");
    dir.check("tailLines=2", "b\nc\n");
    dir.check("tailLines=0", "");
    dir.check("limitBytes=3", "a\nb");
    dir.check("tailLines=2&limitBytes=1", "b");
    dir.check("sinceSeconds=3540", "b\nc\n");
    dir.check("sinceTime=2024-01-01T00:02:00Z", "c\n");
    dir.check("stream=Stderr", "");
    dir.check("timestamps=true&tailLines=1", "2024-01-01T00:02:00.000000000Z c\n");
    append(&dir.path("0.log"), "2024-01-01T00:03:00Z stdout F no end");
    dir.check("tailLines=2", "c\nno end");
    append(&dir.path("0.log"), "\nrubbish\n");
    dir.check("tailLines=1", "no end\n");
}

#[test]
fn reaches_back_over_rotated_files() {
    let dir = rotated();
    dir.check("", "1\n2\n3\n4\n5\n6\n7\n8\n");
    dir.check("tailLines=2", "7\n8\n");
    dir.check("tailLines=3", "6\n7\n8\n");
    dir.check("tailLines=5", "4\n5\n6\n7\n8\n");
    dir.check("tailLines=8", "1\n2\n3\n4\n5\n6\n7\n8\n");
    dir.check("tailLines=80", "1\n2\n3\n4\n5\n6\n7\n8\n");
    dir.check("sinceTime=2024-01-01T00:04:00Z", "4\n5\n6\n7\n8\n");
    // Between the two steps of a rotation.
    std::fs::rename(dir.path("0.log"), dir.path("0.log.20240101-000007")).unwrap();
    dir.check("tailLines=3", "6\n7\n8\n");
}

#[test]
fn does_not_read_on_for_ever() {
    let dir = Dir::new();
    let path = dir.path("0.log");
    append(&path, &entry(1, "F", "old"));
    let mut reader = dir.open("");
    let mut none = dir.open("tailLines=0");
    append(&path, &entry(2, "F", "new"));
    assert_eq!(drain(&mut reader), ("old\n".to_owned(), Step::Done));
    assert_eq!(drain(&mut none), (String::new(), Step::Done));
}

#[test]
fn follows_over_rotation_and_truncation() {
    let dir = rotated();
    let path = dir.path("0.log");
    let mut reader = dir.open("follow=true&tailLines=1");
    let more = |reader: &mut LogReader, expected: &str| {
        assert_eq!(drain(reader), (expected.to_owned(), Step::CaughtUp));
    };
    more(&mut reader, "8\n");
    append(&path, &entry(9, "F", "9")[..30]);
    more(&mut reader, "");
    append(&path, &entry(9, "F", "9")[30..]);
    more(&mut reader, "9\n");
    // Renamed, still written, then begun anew.
    std::fs::rename(&path, dir.path("0.log.20240101-000009")).unwrap();
    append(&dir.path("0.log.20240101-000009"), &entry(10, "F", "10"));
    more(&mut reader, "10\n");
    append(&dir.path("0.log.20240101-000009"), &entry(11, "P", "11"));
    append(&path, &entry(12, "F", "12"));
    more(&mut reader, "1112\n");
    // Rotated twice while nobody looked; the one that was read last has been compressed.
    let changed = std::fs::metadata(&path).unwrap().modified().unwrap();
    std::fs::remove_file(&path).unwrap();
    compress(&dir.path("0.log.20240101-000012.gz"), &entry(12, "F", "12"));
    set_changed(&dir.path("0.log.20240101-000012.gz"), changed);
    append(&dir.path("0.log.20240101-000013"), &entry(13, "F", "13"));
    append(&path, &entry(14, "F", "14"));
    more(&mut reader, "13\n14\n");
    // Truncated in place.
    File::create(&path).unwrap();
    more(&mut reader, "");
    append(&path, &entry(15, "F", "15"));
    more(&mut reader, "15\n");
    append(&path, "2024-01-01T00:16:00Z stdout F end");
    more(&mut reader, "");
    reader.close();
    assert_eq!(drain(&mut reader), ("end".to_owned(), Step::Done));
}

#[test]
fn a_log_that_appears_late_is_followed() {
    let dir = Dir::new();
    compress(&dir.path("0.log.20240101-000012.gz"), &entry(12, "F", "12"));
    let mut reader = dir.open("follow=true");
    assert_eq!(drain(&mut reader), ("12\n".to_owned(), Step::CaughtUp));
    append(&dir.path("0.log"), &entry(13, "F", "13"));
    assert_eq!(drain(&mut reader), ("13\n".to_owned(), Step::CaughtUp));
}

#[test]
fn a_step_reads_a_bounded_part() {
    let dir = Dir::new();
    let lines: String = (0..40_000).map(|number| entry(1, "F", &format!("{number:06}"))).collect();
    compress(&dir.path("0.log.20240101-000001.gz"), &lines);
    append(&dir.path("0.log.20240101-000002"), &lines);
    append(&dir.path("0.log"), &lines);
    let check = |query: &str, expected: &str, least: usize| {
        let mut reader = dir.open(query);
        let mut working = 0;
        let mut text = Vec::new();
        loop {
            match reader.step().unwrap() {
                Step::Bytes(bytes) => text.extend_from_slice(&bytes),
                Step::Working => working += 1,
                step => {
                    assert_eq!(step, Step::Done);
                    break;
                }
            }
        }
        assert!(String::from_utf8(text).unwrap() == expected, "{query}");
        assert!(working >= least, "{query}: {working}");
    };
    // Almost two megabytes each.
    check("stream=Stderr", "", 4);
    check("sinceTime=2024-01-01T00:02:00Z", "", 4);
    let all: String = (0..40_000).map(|number| format!("{number:06}\n")).collect();
    check("tailLines=100000", &[&all[all.len() / 2..], &all, &all].concat(), 4);
    check("tailLines=40001", &format!("039999\n{all}"), 2);
}

#[test]
fn what_is_compressed_meanwhile_or_damaged_is_read_as_far_as_it_goes() {
    let dir = rotated();
    let mut reader = dir.open("tailLines=3");
    assert_eq!(reader.step().unwrap(), Step::Working);
    while reader.is_finding() {
        reader.step().unwrap();
    }
    let plain = std::fs::read_to_string(dir.path("0.log.20240101-000005")).unwrap();
    compress(&dir.path("0.log.20240101-000005.gz"), &plain);
    std::fs::remove_file(dir.path("0.log.20240101-000005")).unwrap();
    assert_eq!(drain(&mut reader), ("6\n7\n8\n".to_owned(), Step::Done));
    let damaged = std::fs::read(dir.path("0.log.20240101-000003.gz")).unwrap();
    std::fs::write(dir.path("0.log.20240101-000003.gz"), &damaged[..15]).unwrap();
    dir.check("", "1\n2\n5\n6\n7\n8\n");
    dir.check("tailLines=5", "2\n5\n6\n7\n8\n");
}

#[test]
fn long_lines_pass_through_whole() {
    let dir = Dir::new();
    let long = "x".repeat(300_000);
    let text = format!(
        "{}{}{}{}{}",
        entry(1, "F", "first"),
        entry(2, "F", &long),
        entry(3, "P", &long),
        entry(4, "F", "end"),
        "y".repeat(200_000) + "\n",
    );
    append(&dir.path("0.log"), &text);
    let t = |minute: u32| format!("2024-01-01T00:{minute:02}:00.000000000Z ");
    dir.check("", &format!("first\n{long}\n{long}end\n"));
    dir.check("timestamps=1", &format!("{}first\n{}{long}\n{}{long}end\n", t(1), t(2), t(3)));
    dir.check("tailLines=1", &format!("{long}end\n"));
    dir.check("limitBytes=7", "first\nx");
    let mut reader = dir.open("");
    loop {
        match reader.step().unwrap() {
            Step::Bytes(bytes) => assert!(bytes.len() < 200_000, "{}", bytes.len()),
            Step::Working => {}
            _ => break,
        }
    }
}

/// Hints by hand.
struct ByHand(watch::Sender<u64>);

impl Changes for ByHand {
    fn watch(&self, _: &Path) -> io::Result<Watch> {
        Ok(Watch::new(self.0.subscribe(), Box::new(())))
    }
}

async fn serve(logs: &Logs, dir: &Dir, query: &str, ended: BoxFuture<'static, ()>) -> Body {
    let options = LogOptions::from_query(query).unwrap();
    let response = logs.serve(dir.path("0.log"), options, NOW.parse().unwrap(), ended).await.unwrap();
    assert_eq!(response.headers()[CONTENT_TYPE], "text/plain");
    response.into_body()
}

async fn next(body: &mut Body) -> Option<String> {
    let frame = tokio::time::timeout(Duration::from_secs(30), body.frame()).await.expect("an answer in time");
    frame.map(|frame| String::from_utf8(frame.unwrap().into_data().unwrap().to_vec()).unwrap())
}

#[tokio::test]
async fn a_followed_log_ends_with_its_container() {
    let dir = Dir::new();
    let path = dir.path("0.log");
    append(&path, &entry(1, "F", "1"));
    let hints = watch::Sender::new(0);
    let logs = Logs::new(Arc::new(ByHand(hints.clone())));
    let (end, ended) = oneshot::channel::<()>();
    let mut body = serve(&logs, &dir, "follow=true", ended.map(drop).boxed()).await;
    assert_eq!(next(&mut body).await.as_deref(), Some("1\n"));
    assert!(tokio::time::timeout(Duration::from_millis(50), body.frame()).await.is_err());
    append(&path, &entry(2, "F", "2"));
    hints.send_modify(|hint| *hint += 1);
    assert_eq!(next(&mut body).await.as_deref(), Some("2\n"));
    // What was written last is read though no hint came.
    append(&path, &entry(3, "F", "3"));
    end.send(()).unwrap();
    assert_eq!(next(&mut body).await.as_deref(), Some("3\n"));
    assert_eq!(next(&mut body).await, None);
}

#[tokio::test]
async fn an_ended_container_has_a_log_and_no_more() {
    let dir = rotated();
    let logs = Logs::new(Arc::new(InotifyChanges::default()));
    let mut body = serve(&logs, &dir, "follow=true&tailLines=1", std::future::ready(()).boxed()).await;
    assert_eq!(next(&mut body).await.as_deref(), Some("8\n"));
    assert_eq!(next(&mut body).await, None);
}

#[tokio::test]
async fn the_kernel_tells_followers() {
    let dir = rotated();
    let logs = Logs::new(Arc::new(InotifyChanges::default()));
    let mut body = serve(&logs, &dir, "follow=true&tailLines=1", std::future::pending().boxed()).await;
    assert_eq!(next(&mut body).await.as_deref(), Some("8\n"));
    append(&dir.path("0.log"), &entry(9, "F", "9"));
    assert_eq!(next(&mut body).await.as_deref(), Some("9\n"));
    std::fs::rename(dir.path("0.log"), dir.path("0.log.20240101-000009")).unwrap();
    append(&dir.path("0.log"), &entry(10, "F", "10"));
    assert_eq!(next(&mut body).await.as_deref(), Some("10\n"));
}

#[tokio::test]
async fn there_has_to_be_a_log() {
    let dir = Dir::new();
    let logs = Logs::new(Arc::new(InotifyChanges::default()));
    let ended = std::future::pending().boxed();
    let problem =
        logs.serve(dir.path("0.log"), LogOptions::default(), NOW.parse().unwrap(), ended).await.unwrap_err();
    assert_eq!(problem.code, 400);
    assert!(problem.message.starts_with("failed to open log file \"/"), "{}", problem.message);
}

#[tokio::test]
async fn only_so_many_logs_are_open_at_a_time() {
    let dir = rotated();
    let logs = Logs { places: Arc::new(Semaphore::new(1)), ..Logs::new(Arc::new(InotifyChanges::default())) };
    let first = serve(&logs, &dir, "follow=true", std::future::pending().boxed()).await;
    let ended = std::future::pending().boxed();
    let refused =
        logs.serve(dir.path("0.log"), LogOptions::default(), NOW.parse().unwrap(), ended).await.unwrap_err();
    assert_eq!(refused.code, 429);
    drop(first);
    serve(&logs, &dir, "", std::future::pending().boxed()).await;
}
