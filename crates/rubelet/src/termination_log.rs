//! Reads what a container left behind as its last words: the termination message file, or the end of its log.
//! How much of it becomes the message is decided by `rubelet_core::termination`. Called by Pleg once for
//! each container that has ended.

use std::io;
use std::path::Path;

use rubelet_core::log_rotation::Listing;
use rubelet_core::mounts::absolute;
use rubelet_core::observed::ObservedContainer;
use rubelet_core::termination::{
    MAX_MESSAGE_BYTES, MessageSource, choose_message, is_full_message, message_from_log,
};
use rubelet_linux::beneath::read_tail;
use tracing::debug;

use crate::fs_pool::FsPool;

/// How much of the end of a log is read: 80 lines fit into it unless they are long, and then 2 KiB count.
const LOG_TAIL_BYTES: u64 = 64 * 1024;

/// The message of an ended container, `None` when there is none to be had.
pub async fn read(fs: &FsPool, container: &ObservedContainer) -> Option<String> {
    let facts = &container.facts;
    let path = absolute(&facts.termination_message_path);
    let file = container
        .mounts
        .iter()
        .find(|mount| {
            !facts.termination_message_path.is_empty()
                && (mount.container_path == facts.termination_message_path || mount.container_path == path)
        })
        .map(|mount| mount.host_path.clone());
    let content = match file {
        Some(path) => {
            let what = format!("read the end of {path}");
            run(fs, what, move || read_tail(Path::new(&path), MAX_MESSAGE_BYTES as u64)).await
        }
        None => None,
    };
    let source = choose_message(
        content.as_deref(),
        &facts.termination_message_policy,
        container.exit_code,
        &container.reason,
    );
    let message = match source {
        MessageSource::Text(text) => text,
        MessageSource::Log => {
            let path = container.log_path.clone();
            let what = format!("read the end of {path}");
            run(fs, what, move || Ok(words_of_log(Path::new(&path)))).await.unwrap_or_default()
        }
    };
    (!message.is_empty()).then_some(message)
}

/// The message from the end of a log. Where the log was rotated so lately that it says less than a message may hold, what
/// was written before comes from the file that was rotated last.
fn words_of_log(path: &Path) -> String {
    let current = read_tail(path, LOG_TAIL_BYTES).unwrap_or_default();
    let message = message_from_log(&current);
    if is_full_message(&message) || current.len() as u64 >= LOG_TAIL_BYTES {
        return message;
    }
    let Ok(Some(before)) = rotated_last(path) else { return message };
    message_from_log(&[&before[..], &current].concat())
}

/// The end of the file that was rotated last; none when it is compressed, which is soon only when files are tiny.
fn rotated_last(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let (Some(dir), Some(log)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Ok(None);
    };
    let names: Vec<String> =
        std::fs::read_dir(dir)?.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let listing = Listing::of(log, names.iter().map(|name| (name.as_str(), 0)));
    let last = listing.rotated.last().filter(|file| !file.compressed);
    last.map(|file| read_tail(&dir.join(file.name(log)), LOG_TAIL_BYTES)).transpose()
}

async fn run<T: Send + 'static>(
    fs: &FsPool,
    what: String,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Option<T> {
    fs.run(what, work).await.inspect_err(|error| debug!("no termination message: {error}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(numbers: std::ops::Range<u32>) -> String {
        numbers.map(|number| format!("2026-01-02T03:04:05Z stdout F {number}\n")).collect()
    }

    fn check(files: &[(&str, &str)], expected: &str) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        assert_eq!(words_of_log(&dir.path().join("0.log")), expected);
    }

    fn words(numbers: std::ops::Range<u32>) -> String {
        numbers.map(|number| format!("{number}\n")).collect()
    }

    #[test]
    fn a_log_that_was_rotated_lately_speaks_with_what_was_before() {
        let (first, second) = (lines(0..100), lines(100..110));
        check(&[("0.log", &second)], &words(100..110));
        let before = ("0.log.20260102-030405", first.as_str());
        check(&[before, ("0.log", &second)], &words(30..110));
        check(&[before], &words(20..100));
        check(&[before, ("0.log", "")], &words(20..100));
        check(&[before, ("0.log", &lines(0..80))], &words(0..80));
        check(&[("0.log.20260101-030405", "x"), before, ("0.log", &second)], &words(30..110));
        check(&[("0.log.20260102-030405.gz", "\x1f"), ("0.log", &second)], &words(100..110));
        check(
            &[("0.log.old", &first), ("1.log.20260102-030405", &first), ("0.log", &second)],
            &words(100..110),
        );
        check(&[], "");
    }
}
