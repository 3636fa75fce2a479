//! The exec probe: a command in the container, run by the runtime.
//!
//! Owns what its end means (upstream `execProber.Probe`) and that the call ends whatever the runtime does: it kills the
//! command's first process only, and may then wait for ever for output that a grandchild could still write. What such a
//! command leaves behind is found and killed by an [`ExecWatch`], which knows processes; this file does not.
//! Called by the prober of the shell.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Container;
use rubelet_core::downward::push_go_quoted;
use rubelet_core::env::expand;
use rubelet_core::ids::ContainerId;
use rubelet_core::probes::ProbeOutcome;
use rubelet_cri::{CriError, CriErrorKind, CriFuture, RuntimeService, v1};
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::Code;

use crate::words::{go_duration, rpc_error};

/// How much of a command's output is kept, in bytes (upstream `maxReadLength`).
const OUTPUT_LIMIT: usize = 10 << 10;
/// How long before its timeout a command that still runs is looked for.
const LOOK_BEFORE: Duration = Duration::from_millis(500);
/// How long the runtime may take longer than the command: it counts from when the command runs, which on a busy node
/// is some time after it was asked, and no healthy container is to fail for that.
const OVERTIME: Duration = Duration::from_secs(10);
/// How long the answer may take once the command's first process has ended too late: the runtime may be waiting for
/// output.
const DRAIN: Duration = Duration::from_secs(1);
/// How long the first process of a command that is given up may take to die, and the rest to be killed.
const DYING: Duration = Duration::from_secs(1);
/// How long a runtime that has not answered may take to say its version.
const ALIVE: Duration = Duration::from_secs(2);

/// Finds the processes of commands that are about to time out.
pub trait ExecWatch: Send + Sync {
    /// Looks for the first process of `command`, which was begun `running_for` ago in this container. `None` when it
    /// cannot be told beyond doubt.
    fn spot(
        &self,
        container: &ContainerId,
        command: &[String],
        running_for: Duration,
    ) -> BoxFuture<'static, Option<Box<dyn SpottedExec>>>;
}

/// A command whose first process is known.
pub trait SpottedExec: Send + Sync {
    /// Waits until the first process has ended. Cancel-safe.
    fn ended(&self) -> BoxFuture<'_, ()>;
    /// Kills what the command left behind, provided that its first process has ended.
    fn clean_up(self: Box<Self>) -> BoxFuture<'static, ()>;
}

/// Runs a command that is a probe. Ends soon after the timeout at the latest, whatever the runtime does; dropping it
/// makes the runtime kill the command. What a command that timed out leaves behind stays.
pub async fn run(
    runtime: &dyn RuntimeService,
    id: &ContainerId,
    container: &Container,
    command: &[String],
    timeout: Duration,
) -> ProbeOutcome {
    run_watched(runtime, None, id, container, command, timeout).await
}

/// The same; what a command that timed out leaves behind is killed when `watch` knows it.
pub async fn run_watched(
    runtime: &dyn RuntimeService,
    watch: Option<&dyn ExecWatch>,
    id: &ContainerId,
    container: &Container,
    command: &[String],
    timeout: Duration,
) -> ProbeOutcome {
    let command = expanded(command, container);
    let request = v1::ExecSyncRequest {
        container_id: id.to_string(),
        cmd: command.clone(),
        timeout: whole_seconds(timeout),
    };
    let ended = wait(runtime.exec_sync(request), watch, id, &command, timeout).await;
    match ended {
        Some(outcome) => outcome,
        None => blame(runtime.version(v1::VersionRequest::default()), &command, timeout).await,
    }
}

/// What it means that a command has not ended in time: it is slow, unless the runtime answers nobody. A runtime that
/// hangs would otherwise cost every container that is asked by commands its life.
async fn blame(
    version: CriFuture<v1::VersionResponse>,
    command: &[String],
    timeout: Duration,
) -> ProbeOutcome {
    use CriErrorKind::{DeadlineExceeded, Unreachable};
    match tokio::time::timeout(ALIVE, version).await {
        Ok(Err(error)) if matches!(error.kind, DeadlineExceeded | Unreachable) => {
            ProbeOutcome::Error(rpc_error(Code::from_i32(error.code), &error.message))
        }
        Ok(_) => timed_out(command, timeout),
        Err(_elapsed) => ProbeOutcome::Error("the container runtime does not answer".to_owned()),
    }
}

/// Waits for a command to end; `None` when it did not in time, and what it left behind is cleaned up.
async fn wait(
    mut call: CriFuture<v1::ExecSyncResponse>,
    watch: Option<&dyn ExecWatch>,
    id: &ContainerId,
    command: &[String],
    timeout: Duration,
) -> Option<ProbeOutcome> {
    let begun = Instant::now();

    let spotted = match timeout_at(begun + timeout.saturating_sub(LOOK_BEFORE), &mut call).await {
        Ok(answer) => return outcome(answer),
        Err(_elapsed) => match watch {
            Some(watch) => {
                let spotting = timeout_at(begun + timeout, watch.spot(id, command, begun.elapsed()));
                tokio::select! {
                    biased;
                    answer = &mut call => return outcome(answer),
                    spotted = spotting => spotted.ok().flatten(),
                }
            }
            None => None,
        },
    };

    // Either way the other is not needed any more.
    let outcome = tokio::select! {
        biased;
        answer = &mut call => outcome(answer),
        () = silence(spotted.as_deref(), begun + timeout) => None,
    };
    // The runtime kills the first process of a command nobody waits for any more.
    drop(call);
    if let Some(spotted) = spotted
        && outcome.is_none()
    {
        let _ended = tokio::time::timeout(DYING, spotted.ended()).await;
        let _cleaned = tokio::time::timeout(DYING, spotted.clean_up()).await;
    }
    outcome
}

/// Waits until there is no use in waiting for an answer to a command whose time was up at `limit`.
async fn silence(spotted: Option<&dyn SpottedExec>, limit: Instant) {
    let ended = async {
        if let Some(spotted) = spotted {
            spotted.ended().await;
            // What ended by itself and in time may have been well: it is the runtime that is slow.
            if Instant::now() >= limit {
                return tokio::time::sleep(DRAIN).await;
            }
        }
        std::future::pending().await
    };
    tokio::select! {
        () = ended => {}
        () = sleep_until(limit + OVERTIME) => {}
    }
}

/// The command with references to the container's static variables replaced (upstream
/// `ExpandContainerCommandOnlyStatic`).
fn expanded(command: &[String], container: &Container) -> Vec<String> {
    let values: BTreeMap<&str, &str> = container
        .env
        .iter()
        .flatten()
        .map(|variable| (variable.name.as_str(), variable.value.as_deref().unwrap_or_default()))
        .collect();
    command
        .iter()
        .map(|word| expand(word, |name| values.get(name).map(|value| (*value).to_owned())))
        .collect()
}

/// What an answer of the runtime says about the container; `None` when the command ran out of its time.
fn outcome(answer: Result<v1::ExecSyncResponse, CriError>) -> Option<ProbeOutcome> {
    match answer {
        Ok(v1::ExecSyncResponse { exit_code: 0, .. }) => Some(ProbeOutcome::Success),
        Ok(answer) => {
            let mut output = answer.stdout;
            output.extend_from_slice(&answer.stderr);
            output.truncate(OUTPUT_LIMIT);
            Some(ProbeOutcome::Failure(String::from_utf8_lossy(&output).into_owned()))
        }
        Err(error) if error.kind == CriErrorKind::DeadlineExceeded => None,
        Err(error) => {
            let message = without_exec_ids(&error.message);
            Some(ProbeOutcome::Error(rpc_error(Code::from_i32(error.code), &message)))
        }
    }
}

/// The message without the names that containerd makes up for each run (`exec "<64 hexadecimal digits>"`): equal
/// errors are to be equal, so that they are counted as one event.
fn without_exec_ids(message: &str) -> String {
    let mut parts = message.split(" exec \"");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push_str(" exec");
        match part.split_once('"') {
            Some((id, rest)) if id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                text.push_str(rest);
            }
            _ => {
                text.push_str(" \"");
                text.push_str(part);
            }
        }
    }
    text
}

/// Upstream's text (`ErrCommandTimedOut`).
fn timed_out(command: &[String], timeout: Duration) -> ProbeOutcome {
    let mut text = "command timed out: ".to_owned();
    push_go_quoted(&mut text, &command.join(" "));
    text.push_str(&format!(" timed out after {}", go_duration(timeout)));
    ProbeOutcome::Failure(text)
}

/// A timeout in the runtime's whole seconds.
fn whole_seconds(timeout: Duration) -> i64 {
    let seconds = timeout.as_secs().saturating_add(u64::from(timeout.subsec_nanos() > 0)).max(1);
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
