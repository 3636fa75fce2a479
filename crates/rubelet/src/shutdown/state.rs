//! `graceful_node_shutdown_state`: when the last graceful shutdown began and ended, as upstream writes it.

use std::fs;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::fs_pool::FsPool;

/// What upstream writes for no time.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// Times of a shutdown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Times {
    /// When it began.
    pub(super) began: Option<Timestamp>,
    /// When pods had ended.
    pub(super) ended: Option<Timestamp>,
}

#[derive(Deserialize, Serialize)]
struct Stored {
    #[serde(rename = "startTime", default)]
    began: String,
    #[serde(rename = "endTime", default)]
    ended: String,
}

fn parse(text: &str) -> Result<Times, serde_json::Error> {
    let stored: Stored = serde_json::from_str(text)?;
    let time = |text: &str| if text == NEVER { None } else { text.parse().ok() };
    Ok(Times { began: time(&stored.began), ended: time(&stored.ended) })
}

fn print(times: &Times) -> String {
    let time = |at: Option<Timestamp>| at.map_or_else(|| NEVER.to_owned(), |at| at.to_string());
    let stored = Stored { began: time(times.began), ended: time(times.ended) };
    serde_json::to_string(&stored).unwrap_or_default()
}

/// Reads the file; none is no shutdown yet.
pub(super) async fn read(pool: &FsPool, file: &Path) -> Result<Times, String> {
    let shown = file.display().to_string();
    let path = PathBuf::from(file);
    let read = pool.run(format!("read {shown}"), move || match fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        text => text.map(Some),
    });
    match read.await.map_err(|error| crate::logging::chain(&error))? {
        None => Ok(Times::default()),
        Some(text) => parse(&text)
            .map_err(|error| format!("{shown} is not what a shutdown leaves and is not read: {error}")),
    }
}

/// Replaces the file.
pub(super) async fn write(pool: &FsPool, file: &Path, times: &Times) -> Result<(), String> {
    let (path, text) = (PathBuf::from(file), print(times));
    let written =
        pool.run(format!("write {}", file.display()), move || rubelet_linux::record::replace(&path, &text));
    written.await.map_err(|error| crate::logging::chain(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_upstream_wrote_is_read_and_what_we_write_too() {
        let began: Timestamp = "2026-07-01T10:00:00.5Z".parse().unwrap();
        let upstream = r#"{"startTime":"2026-07-01T12:00:00.5+02:00","endTime":"0001-01-01T00:00:00Z"}"#;
        let times = Times { began: Some(began), ended: None };
        assert_eq!(parse(upstream).unwrap(), times);
        assert_eq!(parse(&print(&times)).unwrap(), times);
        assert_eq!(parse("{}").unwrap(), Times::default());
        assert!(parse("[").is_err());
    }
}
