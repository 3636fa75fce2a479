//! Logs stay within their limits whatever writes them, and nobody who reads them misses a line.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use flate2::read::GzDecoder;

use crate::kubectl::{FOREVER, Version, pod};
use crate::local::LocalNode;
use crate::node::Node;
use crate::runtime::output;
use crate::wait::{self, PATIENCE, uptime};

const MIB: u64 = 1 << 20;

/// The files of a pod's only container's log, as they are now: name and length. The one that is written is last.
fn files(dir: &Path) -> Vec<(String, u64)> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let metadata = entry.metadata().ok()?;
            Some((entry.file_name().into_string().ok()?, metadata.len()))
        })
        .collect();
    files.sort_by_key(|(name, _)| (name == "0.log", name.clone()));
    files
}

/// The directory of the only container's log of the only pod whose name begins like this.
fn log_dir(node: &Node, name: &str) -> PathBuf {
    wait::until(&format!("a log of {name}"), PATIENCE, || {
        let found = fs::read_dir(node.path("logs")).unwrap().flatten().map(|entry| entry.path().join("main"));
        let mut found = found.filter(|dir| dir.to_str().is_some_and(|dir| dir.contains(&format!("_{name}"))));
        found.next().filter(|dir| dir.join("0.log").exists()).ok_or_else(|| "none".to_owned())
    })
}

/// What the container wrote, from all files.
fn written(dir: &Path) -> String {
    let mut text = String::new();
    for (name, _) in files(dir) {
        let mut file = fs::File::open(dir.join(&name)).unwrap();
        let read = match name.ends_with(".gz") {
            true => GzDecoder::new(file).read_to_string(&mut text),
            false => file.read_to_string(&mut text),
        };
        read.unwrap();
    }
    let mut content = String::new();
    for entry in text.lines() {
        let mut parts = entry.splitn(4, ' ');
        let (tag, part) = (parts.nth(2).unwrap_or_default(), parts.next().unwrap_or_default());
        content.push_str(part);
        if tag == "F" {
            content.push('\n');
        }
    }
    content
}

/// Writes `chunks` times two thousand numbered lines, about 2.5 MB a second, and says that it is done.
fn numbered(chunks: usize) -> String {
    format!(
        "c=0; while [ $c -lt {chunks} ]; do seq $((c * 2000)) $((c * 2000 + 1999)) | sed \
         's/$/ ------------------------------------------------------------------------/'; c=$((c + 1)); sleep 0.1; \
         done; echo done; {FOREVER}"
    )
}

/// Checks that the lines are `first`, the next one, and so on, to the last.
fn check_numbered(text: &str, first: Option<usize>, chunks: usize) {
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.last().copied(), Some("done"));
    let number = |line: &str| line.split(' ').next().unwrap().parse::<usize>().unwrap();
    let first = first.unwrap_or_else(|| number(lines[0]));
    for (at, line) in lines[..lines.len() - 1].iter().enumerate() {
        assert_eq!(number(line), first + at, "after {:?}", lines[at.saturating_sub(1)]);
        assert!(
            line.ends_with(" ------------------------------------------------------------------------"),
            "{line}"
        );
    }
    assert_eq!(first + lines.len() - 1, chunks * 2000);
}

#[test]
fn log_rotation_bounds_a_writer_at_full_speed() {
    let node = Node::configured("containerLogMaxSize: 1Mi\ncontainerLogMaxFiles: 4");
    let line = "x".repeat(1000);
    node.apply(
        "fast",
        &format!("containers:\n- {{name: main, image: $IMAGE, command: [\"yes\", \"{line}\"]}}"),
    );
    let dir = log_dir(&node, "fast");
    // By name, because inodes are used again.
    let mut rotated = BTreeMap::<String, u64>::new();
    // When, what was written by then, what there was.
    let mut samples: Vec<(f64, u64, u64)> = vec![];
    wait::throughout(Duration::from_secs(12), || {
        let files = files(&dir);
        let mut current = 0;
        for (name, bytes) in &files {
            if name == "0.log" {
                current = *bytes;
            } else if !name.ends_with(".gz") && !name.ends_with(".tmp") {
                let length = rotated.entry(name.clone()).or_default();
                *length = (*length).max(*bytes);
            }
        }
        let whole = files.iter().filter(|(name, _)| !name.ends_with(".tmp")).count();
        assert!(whole <= 4, "{files:?}");
        let written = rotated.values().sum::<u64>() + current;
        samples.push((uptime(), written, files.iter().map(|(_, bytes)| bytes).sum()));
    });
    let (rotations, all) = (rotated.len(), samples.last().unwrap().1);
    let second = samples.iter().map(|(then, before, _)| {
        let end = samples.iter().rev().find(|(at, ..)| *at <= then + 1.0).unwrap();
        end.1.saturating_sub(*before)
    });
    let second = second.max().unwrap();
    let peak = samples.iter().map(|(.., bytes)| *bytes).max().unwrap();
    println!(
        "{rotations} rotations, {} MB written, {} MB in the fastest second, {} MB at most",
        all >> 20,
        second >> 20,
        peak >> 20
    );
    assert!(rotations >= 10, "{rotations}");
    assert!(peak <= 4 * MIB + second, "{peak} of {second}");
    // When it rests, what was rotated away is compressed, and all is within the limit.
    node.remove("fast");
    let slow = format!(
        "for i in 1 2 3 4 5 6; do yes {} | head -c 800000; sleep 6; done; {FOREVER}",
        "y".repeat(100)
    );
    node.apply(
        "slow",
        &format!("containers:\n- {{name: main, image: $IMAGE, command: [sh, -c, \"{slow}\"]}}"),
    );
    let dir = log_dir(&node, "slow");
    wait::until("compressed logs", PATIENCE, || {
        let files = files(&dir);
        let compressed = files.iter().filter(|(name, _)| name.ends_with(".gz")).count();
        if compressed >= 2 { Ok(()) } else { Err(format!("{files:?}")) }
    });
}

#[test]
fn log_rotation_is_not_seen_by_those_who_read() {
    let mut local = LocalNode::prepared(&[]);
    local.node().configure("containerLogMaxSize: 1Mi\ncontainerLogMaxFiles: 60");
    local.node_mut().start_agent();
    let kubectl = local.kubectl(Version::V1_35);
    const CHUNKS: usize = 60;
    kubectl.ok_with("create -f -", &pod("lines", &numbered(CHUNKS)));
    kubectl.wait_ready("lines");
    let follower = kubectl.start("logs -f lines");
    follower.wait_line("done");
    check_numbered(&follower.said(), Some(0), CHUNKS);
    let dir = log_dir(local.node(), "lines");
    assert!(files(&dir).len() > 8, "{:?}", files(&dir));
    check_numbered(&written(&dir), Some(0), CHUNKS);
    // Those who come later, while files are compressed, see the same.
    check_numbered(&kubectl.ok("logs lines"), Some(0), CHUNKS);
    check_numbered(&kubectl.ok("logs lines --tail=70001"), Some(CHUNKS * 2000 - 70_000), CHUNKS);
    check_numbered(&kubectl.ok("logs lines --tail=11"), Some(CHUNKS * 2000 - 10), CHUNKS);
}

#[test]
fn log_rotation_survives_the_end_of_the_agent() {
    let mut node = Node::configured("containerLogMaxSize: 1Mi\ncontainerLogMaxFiles: 60");
    const CHUNKS: usize = 80;
    let script = numbered(CHUNKS).replace('"', "'");
    node.apply(
        "lines",
        &format!("containers:\n- {{name: main, image: $IMAGE, command: [sh, -c, \"{script}\"]}}"),
    );
    let dir = log_dir(&node, "lines");
    for round in 0..6 {
        let before = files(&dir).len();
        wait::until("a rotation", PATIENCE, || {
            let files = files(&dir);
            // At the end there is nothing more to rotate.
            let done = fs::read_to_string(dir.join("0.log")).is_ok_and(|text| text.ends_with(" done\n"));
            if files.len() > before || done { Ok(()) } else { Err(format!("{files:?}")) }
        });
        wait::pause(Duration::from_millis(37 * round));
        node.kill_agent();
        node.start_agent();
    }
    wait::until("the end", PATIENCE, || {
        let text = fs::read_to_string(dir.join("0.log")).unwrap_or_default();
        if text.ends_with(" done\n") { Ok(()) } else { Err(format!("{:?}", files(&dir))) }
    });
    wait::until("leftovers to go", PATIENCE, || {
        let files = files(&dir);
        let left = files.iter().any(|(name, _)| name.ends_with(".tmp"));
        if left { Err(format!("{files:?}")) } else { Ok(()) }
    });
    assert!(files(&dir).len() > 8, "{:?}", files(&dir));
    check_numbered(&written(&dir), Some(0), CHUNKS);
}

#[test]
fn log_rotation_goes_on_when_the_disk_is_full() {
    let mut node = Node::without_agent("containerLogMaxSize: 1Mi\ncontainerLogMaxFiles: 8");
    let logs = node.path("logs");
    output(Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(&logs));
    node.start_agent();
    let script = numbered(1_000_000).replace('"', "'");
    node.apply(
        "lines",
        &format!("containers:\n- {{name: main, image: $IMAGE, command: [sh, -c, \"{script}\"]}}"),
    );
    let dir = log_dir(&node, "lines");
    let number = |line: Option<&str>| line.and_then(|line| line.split(' ').nth(3)?.parse::<usize>().ok());
    let newest = || {
        let text = fs::read_to_string(dir.join("0.log")).unwrap_or_default();
        number(text.lines().rev().nth(1)).unwrap_or_default()
    };
    // Fifteen megabytes through a disk of four.
    wait::until("lines to go on", PATIENCE, || {
        let newest = newest();
        if newest > 120_000 { Ok(()) } else { Err(format!("{newest}, {:?}", files(&dir))) }
    });
    // Somebody else takes what is left of it, and gives it back.
    let other = logs.join("other");
    let _full = fs::write(&other, vec![1; 4 << 20]);
    wait::pause(Duration::from_secs(3));
    fs::remove_file(&other).unwrap();
    let then = newest();
    wait::until("lines to go on", PATIENCE, || {
        let newest = newest();
        if newest > then + 20_000 { Ok(()) } else { Err(format!("{newest}, {:?}", files(&dir))) }
    });
    node.remove("lines");
    node.wait_gone("lines");
}
