//! Runs lifecycle hooks: exec, HTTP and sleep. The caller bounds the time and decides what a failure means.

use std::time::Duration;

use crate::http_client::Get;
use k8s_openapi::api::core::v1::{ContainerPort, HTTPGetAction, LifecycleHandler};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rubelet_core::ids::ContainerId;
use rubelet_cri::{CriErrorKind, RuntimeService, v1};

/// How long an HTTP hook may take when nothing else bounds it.
const HTTP_LIMIT: Duration = Duration::from_secs(60);
/// How much of the answer of a hook is read.
const BODY_LIMIT: usize = 10 * 1024;

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
    #[error("HTTP request to {url} failed: {problem}")]
    Http { url: String, problem: String },
    #[error("the hook has no address: {0}")]
    NoAddress(String),
    #[error("this version cannot run hooks over HTTPS")]
    Https,
    #[error("invalid handler: it has neither exec, httpGet nor sleep")]
    Nothing,
}

impl HookError {
    /// Whether the runtime was not there to run it, so that nothing can be said of the hook itself.
    pub(super) fn never_ran(&self) -> bool {
        matches!(self, Self::Exec(error) if error.kind == CriErrorKind::Unreachable)
    }

    /// Whether the hook itself failed, as opposed to the runtime in the middle of it.
    pub(super) fn is_verdict(&self) -> bool {
        use CriErrorKind::{Canceled, DeadlineExceeded, Unreachable};
        !matches!(self, Self::Exec(error) if matches!(error.kind, Unreachable | Canceled | DeadlineExceeded))
    }
}

/// Runs one hook. `limit` bounds an exec in the runtime; `None` is no limit of ours.
pub(super) async fn run(
    runtime: &dyn RuntimeService,
    handler: &LifecycleHandler,
    target: HookTarget<'_>,
    limit: Option<Duration>,
) -> Result<(), HookError> {
    if let Some(exec) = &handler.exec {
        let command = exec.command.clone().unwrap_or_default();
        let request = v1::ExecSyncRequest {
            container_id: target.id.to_string(),
            cmd: command.clone(),
            timeout: limit.map_or(0, whole_seconds),
        };
        let answer = runtime.exec_sync(request).await.map_err(HookError::Exec)?;
        return match answer.exit_code {
            0 => Ok(()),
            code => {
                let mut output = answer.stdout;
                output.extend_from_slice(&answer.stderr);
                output.truncate(BODY_LIMIT);
                let output = String::from_utf8_lossy(&output).trim_end().to_owned();
                Err(HookError::Exit { command, code, output })
            }
        };
    }
    if let Some(get) = &handler.http_get {
        return http_get(get, &target).await;
    }
    if let Some(sleep) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    Err(HookError::Nothing)
}

/// A limit in the runtime's whole seconds, rounded up: the caller's own timer is the exact one, and a hook must not
/// lose a second of the grace it was given.
fn whole_seconds(limit: Duration) -> i64 {
    let seconds = limit.as_secs().saturating_add(u64::from(limit.subsec_nanos() > 0)).max(1);
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

async fn http_get(get: &HTTPGetAction, target: &HookTarget<'_>) -> Result<(), HookError> {
    if get.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")) {
        return Err(HookError::Https);
    }
    let host = get.host.as_deref().filter(|host| !host.is_empty()).or(target.pod_ip);
    let host =
        host.ok_or_else(|| HookError::NoAddress("the pod has no IP and the hook names no host".into()))?;
    let port = port_number(&get.port, target.ports)?;
    let path = match get.path.as_deref().unwrap_or_default() {
        path if path.starts_with('/') => path.to_owned(),
        path => format!("/{path}"),
    };
    let url = match host.contains(':') {
        true => format!("http://[{host}]:{port}{path}"),
        false => format!("http://{host}:{port}{path}"),
    };
    let mut headers = vec![("user-agent", "kube-lifecycle/1.36"), ("accept", "*/*")];
    headers.extend(
        get.http_headers.iter().flatten().map(|header| (header.name.as_str(), header.value.as_str())),
    );
    let get = Get { host, port, path: &path, headers, body_limit: BODY_LIMIT };
    let request = async {
        match get.send().await {
            Ok((status, _)) if status.is_success() || status.is_redirection() => Ok(()),
            Ok((status, _)) => Err(format!("status {status}")),
            Err(problem) => Err(problem),
        }
    };
    let problem = match tokio::time::timeout(HTTP_LIMIT, request).await {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(problem)) => problem,
        Err(_) => format!("no answer within {} s", HTTP_LIMIT.as_secs()),
    };
    Err(HookError::Http { url, problem })
}

fn port_number(port: &IntOrString, ports: &[ContainerPort]) -> Result<u16, HookError> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => ports
            .iter()
            .find(|port| port.name.as_deref() == Some(name))
            .map(|port| port.container_port)
            .or_else(|| name.parse().ok()),
    };
    number.and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0).ok_or_else(|| {
        HookError::NoAddress(match port {
            IntOrString::Int(number) => format!("{number} is not a port"),
            IntOrString::String(name) => format!("the container has no port named {name:?}"),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_by_number_and_name() {
        let ports = [ContainerPort { name: Some("web".into()), container_port: 8080, ..Default::default() }];
        let check = |port: IntOrString, expected: Result<u16, &str>| {
            assert_eq!(
                port_number(&port, &ports).map_err(|e| e.to_string()),
                expected.map_err(str::to_owned)
            );
        };
        check(IntOrString::Int(80), Ok(80));
        check(IntOrString::String("web".into()), Ok(8080));
        check(IntOrString::String("81".into()), Ok(81));
        check(IntOrString::Int(0), Err("the hook has no address: 0 is not a port"));
        check(
            IntOrString::String("x".into()),
            Err("the hook has no address: the container has no port named \"x\""),
        );
    }

    #[test]
    fn a_limit_is_rounded_up() {
        for (millis, seconds) in [(0, 1), (1, 1), (1_000, 1), (1_998, 2), (2_000, 2)] {
            assert_eq!(whole_seconds(Duration::from_millis(millis)), seconds, "{millis} ms");
        }
    }

    #[tokio::test]
    async fn http_hooks_ask_and_judge_the_status() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let mut heads = vec![];
            for status in ["204 No Content", "500 Oops"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut buffer = [0; 1024];
                let n = stream.read(&mut buffer).await.unwrap();
                heads.push(String::from_utf8_lossy(&buffer[..n]).to_lowercase());
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            heads
        });
        let get = HTTPGetAction {
            path: Some("bye".into()),
            port: IntOrString::Int(port.into()),
            ..Default::default()
        };
        let id = ContainerId::from("c");
        let target = || HookTarget { id: &id, ports: &[], pod_ip: Some("127.0.0.1") };
        http_get(&get, &target()).await.unwrap();
        let error = http_get(&get, &target()).await.unwrap_err().to_string();
        assert!(error.ends_with("/bye failed: status 500 Internal Server Error"), "{error}");
        let heads = server.await.unwrap();
        assert!(heads[0].starts_with("get /bye http/1.1") && heads[0].contains("user-agent: kube-lifecycle"));
    }
}
