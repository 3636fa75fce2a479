//! Runs lifecycle hooks: exec, HTTP(S) and sleep. The caller bounds the time and decides what a failure means.
//!
//! Over HTTP, whatever the server answers is a success, as upstream has it: a hook fails when nobody answers. The
//! client is that of the probes.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerPort, LifecycleHandler};
use rubelet_core::ids::ContainerId;
use rubelet_cri::{CriErrorKind, RuntimeService, v1};
use rubelet_probes::http::{self, CallError, Called};

use crate::events::EventSubject;
use crate::services::Services;

/// How long an HTTP hook may take when nothing else bounds it: as long as a command in the runtime.
const HTTP_LIMIT: Duration = Duration::from_secs(3600);
/// How much of what a command says is kept for the message.
const OUTPUT_LIMIT: usize = 10 * 1024;
/// The user agent of hooks that name none: upstream's, of the version that this is like.
const USER_AGENT: &str = "kube-lifecycle/1.36";

/// What a hook needs to know of its container.
pub(super) struct HookTarget<'a> {
    /// The container.
    pub id: &'a ContainerId,
    /// Its ports, for named ones.
    pub ports: &'a [ContainerPort],
    /// The pod's IP, if it has one.
    pub pod_ip: Option<&'a str>,
}

/// Why a hook failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum HookError {
    #[error("command {command:?} exited with {code}: {output}")]
    Exit { command: Vec<String>, code: i32, output: String },
    #[error("the runtime could not run the command")]
    Exec(#[source] rubelet_cri::CriError),
    #[error(transparent)]
    Http(#[from] CallError),
    #[error("invalid handler: it has neither exec, httpGet nor sleep")]
    Nothing,
}

impl HookError {
    /// Whether the runtime was not there to run it, so that nothing can be said of the hook itself.
    pub(super) fn never_ran(&self) -> bool {
        matches!(self, Self::Exec(error) if error.kind == CriErrorKind::Unreachable)
    }

    /// Whether the hook itself failed, as opposed to the runtime in the middle of it, or our patience.
    pub(super) fn is_verdict(&self) -> bool {
        use CriErrorKind::{Canceled, DeadlineExceeded, Unreachable};
        match self {
            Self::Exec(error) => !matches!(error.kind, Unreachable | Canceled | DeadlineExceeded),
            Self::Http(error) => !matches!(error, CallError::Late(_)),
            _ => true,
        }
    }
}

/// How a hook ran that did not fail.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ran {
    /// As it was meant.
    AsMeant,
    /// Over HTTP where HTTPS was asked for, since this is what the server at this host and port speaks.
    OverHttp(String),
}

impl Ran {
    /// Says what somebody should know of it, about the pod.
    pub(super) fn tell(&self, services: &Services, pod: &EventSubject) {
        let Self::OverHttp(host) = self else { return };
        services.metrics.pods.http_hook_fallbacks.inc();
        let text =
            format!("request to HTTPS lifecycle hook {host} got HTTP response, retry with HTTP succeeded");
        let subject = EventSubject { container: None, ..pod.clone() };
        services.events.warning(&subject, "LifecycleHTTPFallback", text);
    }
}

/// Runs one hook. `limit` bounds an exec in the runtime; `None` is no limit of ours.
pub(super) async fn run(
    runtime: &dyn RuntimeService,
    handler: &LifecycleHandler,
    target: HookTarget<'_>,
    limit: Option<Duration>,
) -> Result<Ran, HookError> {
    if let Some(exec) = &handler.exec {
        let command = exec.command.clone().unwrap_or_default();
        let request = v1::ExecSyncRequest {
            container_id: target.id.to_string(),
            cmd: command.clone(),
            timeout: limit.map_or(0, whole_seconds),
        };
        let answer = runtime.exec_sync(request).await.map_err(HookError::Exec)?;
        return match answer.exit_code {
            0 => Ok(Ran::AsMeant),
            code => {
                let mut output = answer.stdout;
                output.extend_from_slice(&answer.stderr);
                output.truncate(OUTPUT_LIMIT);
                let output = String::from_utf8_lossy(&output).trim_end().to_owned();
                Err(HookError::Exit { command, code, output })
            }
        };
    }
    if let Some(get) = &handler.http_get {
        let pod_ip = target.pod_ip.unwrap_or_default();
        return match http::call(get, target.ports, pod_ip, USER_AGENT, Some(HTTP_LIMIT)).await? {
            Called::Answered => Ok(Ran::AsMeant),
            Called::FellBack(host) => Ok(Ran::OverHttp(host)),
        };
    }
    if let Some(sleep) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(Ran::AsMeant);
    }
    Err(HookError::Nothing)
}

/// A limit in the runtime's whole seconds, rounded up: the caller's own timer is the exact one, and a hook must not
/// lose a second of the grace it was given.
fn whole_seconds(limit: Duration) -> i64 {
    let seconds = limit.as_secs().saturating_add(u64::from(limit.subsec_nanos() > 0)).max(1);
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::HTTPGetAction;
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

    #[test]
    fn a_limit_is_rounded_up() {
        for (millis, seconds) in [(0, 1), (1, 1), (1_000, 1), (1_998, 2), (2_000, 2)] {
            assert_eq!(whole_seconds(Duration::from_millis(millis)), seconds, "{millis} ms");
        }
    }

    /// Runs a hook over `scheme` against a server that gives these answers, one a connection; says what it was asked.
    async fn call(scheme: &str, answers: Vec<&'static str>) -> (Result<Ran, HookError>, Vec<String>, u16) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let mut asked = vec![];
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut buffer = [0; 2048];
                let n = stream.read(&mut buffer).await.unwrap();
                asked.push(String::from_utf8_lossy(&buffer[..n]).into_owned());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            asked
        });
        let get = HTTPGetAction {
            path: Some("bye".into()),
            port: IntOrString::String("web".into()),
            scheme: Some(scheme.into()),
            ..Default::default()
        };
        let handler = LifecycleHandler { http_get: Some(get), ..Default::default() };
        let ports =
            [ContainerPort { name: Some("web".into()), container_port: port.into(), ..Default::default() }];
        let id = ContainerId::from("c");
        let target = HookTarget { id: &id, ports: &ports, pod_ip: Some("127.0.0.1") };
        let runtime =
            rubelet_testkit::scripted::ScriptedCri::new(rubelet_testkit::scripted::RuntimeKind::Containerd2);
        let result = run(&runtime, &handler, target, None).await;
        (result, server.await.unwrap(), port)
    }

    #[tokio::test]
    async fn whatever_an_http_hook_is_answered_it_was_heard() {
        for answer in ["HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"] {
            let (ran, asked, _) = call("HTTP", vec![answer]).await;
            assert_eq!(ran.unwrap(), Ran::AsMeant, "{answer}");
            assert!(asked[0].starts_with("GET /bye HTTP/1.1\r\n"), "{asked:?}");
            assert!(asked[0].contains("\r\nUser-Agent: kube-lifecycle/1.36\r\n"), "{asked:?}");
        }
    }

    #[tokio::test]
    async fn an_http_hook_that_nobody_answers_has_failed() {
        let (ran, _, port) = call("HTTP", vec![""]).await;
        let error = ran.unwrap_err();
        assert_eq!(error.to_string(), format!("Get \"http://127.0.0.1:{port}/bye\": EOF"));
        assert!(error.is_verdict() && !error.never_ran());
    }

    #[tokio::test]
    async fn an_https_hook_falls_back_to_http() {
        let answers = vec!["HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"];
        let (ran, asked, port) = call("HTTPS", answers).await;
        assert_eq!(ran.unwrap(), Ran::OverHttp(format!("127.0.0.1:{port}")));
        assert!(asked[1].starts_with("GET /bye HTTP/1.1\r\n"), "{asked:?}");
    }
}
