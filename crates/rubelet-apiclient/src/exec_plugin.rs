//! Exec credential plugins (`client.authentication.k8s.io` v1 and v1beta1): a program that tells a token or a client
//! certificate, run when there is none yet, when the last one has expired, and after a 401.
//!
//! One run at a time and each bounded; a failure is remembered for a few seconds so that many waiting requests do
//! not start many programs. Called by `credentials` only.

use std::fmt;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::Instant;

use crate::Now;
use crate::identity::{ClientIdentity, IdentityError};
use crate::kubeconfig::Secret;

const GROUP_V1: &str = "client.authentication.k8s.io/v1";
const GROUP_V1BETA1: &str = "client.authentication.k8s.io/v1beta1";
/// How long a plugin may take. Upstream waits forever; an agent that cannot ask the API server is no use.
const RUN_LIMIT: Duration = Duration::from_secs(60);
/// How long a failure is given as the answer without running the plugin again.
const FAILURE_HOLD: Duration = Duration::from_secs(5);
/// What a plugin may print.
const OUTPUT_LIMIT: u64 = 1024 * 1024;
/// What of its stderr goes into a message.
const STDERR_SHOWN: usize = 1024;

/// The exec section of a kubeconfig user, checked.
#[derive(Clone, PartialEq)]
pub struct ExecConfig {
    /// `client.authentication.k8s.io/v1` or `…/v1beta1`; the answer must have the same.
    pub api_version: String,
    /// A name looked up in PATH, or a path.
    pub command: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Added to the agent's own environment. Values may be secret and are never printed.
    pub env: Vec<(String, String)>,
    /// What the author says to do when the program is missing.
    pub install_hint: Option<String>,
    /// Whether the plugin wants to know the cluster.
    pub provide_cluster_info: bool,
    /// The cluster's extension for exec plugins, if any; part of the cluster info.
    pub cluster_config: Option<Value>,
}

impl fmt::Debug for ExecConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.env.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("ExecConfig")
            .field("api_version", &self.api_version)
            .field("command", &self.command)
            .field("args", &self.args)
            .field("env", &names)
            .field("install_hint", &self.install_hint)
            .field("provide_cluster_info", &self.provide_cluster_info)
            .field("cluster_config", &self.cluster_config)
            .finish()
    }
}

/// An exec section that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ExecConfigError {
    /// Not of the right shape.
    #[error("it is not an exec section: {0}")]
    Shape(String),
    /// No command.
    #[error("command is missing; name the program to run")]
    NoCommand,
    /// Another API.
    #[error(
        "apiVersion {0:?} is not supported; use client.authentication.k8s.io/v1 or client.authentication.k8s.io/v1beta1"
    )]
    ApiVersion(String),
    /// Nobody to answer.
    #[error("interactiveMode is Always, but the agent has no terminal; use Never or IfAvailable")]
    Interactive,
    /// v1 wants it said.
    #[error(
        "interactiveMode must be set with client.authentication.k8s.io/v1; use Never or IfAvailable, not {0:?}"
    )]
    InteractiveMode(String),
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Section {
    api_version: Option<String>,
    command: Option<String>,
    args: Option<Vec<String>>,
    env: Option<Vec<EnvEntry>>,
    install_hint: Option<String>,
    provide_cluster_info: Option<bool>,
    interactive_mode: Option<String>,
}

#[derive(Deserialize)]
struct EnvEntry {
    name: String,
    #[serde(default)]
    value: String,
}

impl ExecConfig {
    /// Checks the section. A command with a slash is relative to the kubeconfig's directory.
    pub(crate) fn from_kubeconfig(
        section: Value,
        directory: &Path,
        cluster_config: Option<Value>,
    ) -> Result<Self, ExecConfigError> {
        let section: Section =
            serde_json::from_value(section).map_err(|error| ExecConfigError::Shape(error.to_string()))?;
        let api_version = section.api_version.unwrap_or_default();
        if api_version != GROUP_V1 && api_version != GROUP_V1BETA1 {
            return Err(ExecConfigError::ApiVersion(api_version));
        }
        let command = section.command.filter(|c| !c.is_empty()).ok_or(ExecConfigError::NoCommand)?;
        match section.interactive_mode.as_deref().unwrap_or_default() {
            "Never" | "IfAvailable" => {}
            "Always" => return Err(ExecConfigError::Interactive),
            "" if api_version == GROUP_V1BETA1 => {}
            other => return Err(ExecConfigError::InteractiveMode(other.to_owned())),
        }
        let command = if command.contains('/') {
            directory.join(&command).to_string_lossy().into_owned()
        } else {
            command
        };
        Ok(Self {
            api_version,
            command,
            args: section.args.unwrap_or_default(),
            env: section.env.unwrap_or_default().into_iter().map(|entry| (entry.name, entry.value)).collect(),
            install_hint: section.install_hint.filter(|hint| !hint.is_empty()),
            provide_cluster_info: section.provide_cluster_info.unwrap_or_default(),
            cluster_config,
        })
    }
}

/// A plugin that gave no credential.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// It could not be started.
    #[error("exec plugin {command:?} cannot be started{hint}")]
    Start {
        /// The program.
        command: String,
        /// The install hint, as an end of the sentence.
        hint: String,
        /// Why.
        source: std::io::Error,
    },
    /// It ran too long.
    #[error("exec plugin {command:?} gave no answer within {} s and was ended", RUN_LIMIT.as_secs())]
    TimedOut {
        /// The program.
        command: String,
    },
    /// It ended in failure.
    #[error("exec plugin {command:?} failed ({status}); it says: {stderr}{hint}")]
    Failed {
        /// The program.
        command: String,
        /// How it ended.
        status: String,
        /// The end of what it said.
        stderr: String,
        /// The install hint, as an end of the sentence.
        hint: String,
    },
    /// It printed something else than a credential.
    #[error("exec plugin {command:?} printed no usable ExecCredential: {problem}")]
    Answer {
        /// The program.
        command: String,
        /// What is wrong with it.
        problem: String,
    },
    /// It gave a certificate that cannot be used.
    #[error("exec plugin {command:?} gave a client certificate that cannot be used")]
    Identity {
        /// The program.
        command: String,
        /// Why.
        source: IdentityError,
    },
}

/// What a plugin told.
#[derive(Debug)]
pub(crate) struct ExecAnswer {
    pub(crate) token: Option<Secret>,
    pub(crate) identity: Option<Arc<ClientIdentity>>,
    expires: Option<Timestamp>,
}

/// A plugin with its last answer.
pub(crate) struct ExecPlugin {
    config: ExecConfig,
    /// The text of KUBERNETES_EXEC_INFO.
    info: String,
    now: Now,
    state: tokio::sync::Mutex<State>,
}

#[derive(Default)]
struct State {
    answer: Option<Arc<ExecAnswer>>,
    failure: Option<(Instant, Arc<ExecError>)>,
}

impl ExecPlugin {
    /// `cluster` is what the plugin may learn of the cluster when it wants to.
    pub(crate) fn new(config: ExecConfig, cluster: Value, now: Now) -> Self {
        let mut spec = json!({ "interactive": false });
        if config.provide_cluster_info {
            let mut cluster = cluster;
            if let Some(extra) = &config.cluster_config {
                cluster["config"] = extra.clone();
            }
            spec["cluster"] = cluster;
        }
        let info =
            json!({ "kind": "ExecCredential", "apiVersion": config.api_version, "spec": spec }).to_string();
        Self { config, info, now, state: tokio::sync::Mutex::default() }
    }

    /// The last answer while it is good, else a new one.
    pub(crate) async fn answer(&self) -> Result<Arc<ExecAnswer>, Arc<ExecError>> {
        let mut state = self.state.lock().await;
        if let Some(answer) = &state.answer
            && answer.expires.is_none_or(|at| (self.now)() < at)
        {
            return Ok(answer.clone());
        }
        if let Some((at, error)) = &state.failure
            && at.elapsed() < FAILURE_HOLD
        {
            return Err(error.clone());
        }
        match self.run().await {
            Ok(answer) => {
                let answer = Arc::new(answer);
                *state = State { answer: Some(answer.clone()), failure: None };
                Ok(answer)
            }
            Err(error) => {
                let error = Arc::new(error);
                *state = State { answer: None, failure: Some((Instant::now(), error.clone())) };
                Err(error)
            }
        }
    }

    /// The server refused what `used` told: forget it, unless there is a newer answer already.
    pub(crate) async fn refused(&self, used: &Arc<ExecAnswer>) {
        let mut state = self.state.lock().await;
        if state.answer.as_ref().is_some_and(|answer| Arc::ptr_eq(answer, used)) {
            state.answer = None;
        }
    }

    async fn run(&self) -> Result<ExecAnswer, ExecError> {
        let command = self.config.command.clone();
        let hint = match &self.config.install_hint {
            Some(hint) => format!("; {hint}"),
            None => String::new(),
        };
        let mut child = tokio::process::Command::new(&command)
            .args(&self.config.args)
            .envs(self.config.env.iter().map(|(name, value)| (name, value)))
            .env("KUBERNETES_EXEC_INFO", &self.info)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| ExecError::Start { command: command.clone(), hint: hint.clone(), source })?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let everything = async { tokio::join!(read_some(stdout), read_some(stderr), child.wait()) };
        let Ok((stdout, stderr, status)) = tokio::time::timeout(RUN_LIMIT, everything).await else {
            return Err(ExecError::TimedOut { command });
        };
        let status = status.map_err(|source| ExecError::Start {
            command: command.clone(),
            hint: hint.clone(),
            source,
        })?;
        if !status.success() {
            let text = String::from_utf8_lossy(&stderr);
            let tail: String =
                text.trim().chars().rev().take(STDERR_SHOWN).collect::<Vec<_>>().into_iter().rev().collect();
            let stderr = if tail.is_empty() { "nothing".to_owned() } else { tail };
            return Err(ExecError::Failed { command, status: status.to_string(), stderr, hint });
        }
        read_answer(&self.config, &stdout)
    }
}

async fn read_some(pipe: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some(pipe) = pipe {
        // What was read before an error is judged like a whole answer.
        let _ = pipe.take(OUTPUT_LIMIT).read_to_end(&mut out).await;
    }
    out
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExecCredential {
    kind: Option<String>,
    api_version: Option<String>,
    status: Option<ExecStatus>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExecStatus {
    token: Option<String>,
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
    expiration_timestamp: Option<Timestamp>,
}

fn read_answer(config: &ExecConfig, stdout: &[u8]) -> Result<ExecAnswer, ExecError> {
    let wrong = |problem: String| ExecError::Answer { command: config.command.clone(), problem };
    let answer: ExecCredential = serde_json::from_slice(stdout).map_err(|error| wrong(error.to_string()))?;
    if answer.kind.as_deref() != Some("ExecCredential") {
        return Err(wrong(format!("kind is {:?}", answer.kind.unwrap_or_default())));
    }
    if answer.api_version.as_deref() != Some(config.api_version.as_str()) {
        let given = answer.api_version.unwrap_or_default();
        return Err(wrong(format!("apiVersion is {given:?}, the kubeconfig says {:?}", config.api_version)));
    }
    let status = answer.status.ok_or_else(|| wrong("status is missing".to_owned()))?;
    let filled = |value: Option<String>| value.filter(|text| !text.is_empty());
    let token = filled(status.token).map(Secret::new);
    let identity = match (filled(status.client_certificate_data), filled(status.client_key_data)) {
        (None, None) => None,
        (Some(certificate), Some(key)) => {
            let identity = ClientIdentity::from_pem(certificate.as_bytes(), key.as_bytes())
                .map_err(|source| ExecError::Identity { command: config.command.clone(), source })?;
            Some(Arc::new(identity))
        }
        _ => return Err(wrong("clientCertificateData and clientKeyData must come together".to_owned())),
    };
    if token.is_none() && identity.is_none() {
        return Err(wrong("status has neither token nor clientCertificateData".to_owned()));
    }
    Ok(ExecAnswer { token, identity, expires: status.expiration_timestamp })
}
