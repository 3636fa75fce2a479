//! The node's API over a whole agent: real agent, scripted runtime, paused clock; requests are handed in as whoever
//! admits them does.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has to fail")]

mod in_process;

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use jiff::Timestamp;
use rubelet::clock::Clock;
use rubelet::{ContainerBuilder, KubeletConfiguration, KubeletHandle, PodBuilder};
use rubelet_cri::CriErrorKind;
use rubelet_server::api::{Api, Site};
use rubelet_testkit::ScriptedCri;
use rubelet_testkit::scripted::{BASE_SECOND, ExecScript, Fault, Op, RuntimeKind};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A node of one pod, `default/web` with the container `app`.
struct Node {
    cri: ScriptedCri,
    dir: TempDir,
    handle: KubeletHandle,
    uid: String,
    task: tokio::task::JoinHandle<Result<(), String>>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Node {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cri = ScriptedCri::new(RuntimeKind::Containerd2);
        let config = KubeletConfiguration { max_pods: 17, ..in_process::config(dir.path()) };
        let runtime = Arc::new(cri.clone());
        let clock = Clock::simulated(Timestamp::from_second(BASE_SECOND).unwrap());
        let kubelet = in_process::agent(config, dir.path(), "node", clock)
            .runtime(runtime.clone(), runtime)
            .embedded()
            .build()
            .await
            .unwrap();
        let handle = kubelet.handle();
        let task = tokio::spawn(kubelet.run(std::future::pending()));
        let pod = PodBuilder::new("web").container(ContainerBuilder::new("app", "app:1"));
        let mut pod = handle.run_pod(pod.build()).unwrap();
        pod.wait_ready().await;
        let uid = pod.pod().metadata.uid.clone().unwrap();
        Self { cri, dir, handle, uid, task }
    }

    async fn ask(&self, line: &str, headers: &[(&str, &str)]) -> (u16, String) {
        ask(&self.handle.api(), line, headers).await
    }

    async fn json(&self, target: &str) -> Value {
        let (code, text) = self.ask(&format!("GET {target}"), &[]).await;
        assert_eq!(code, 200, "{text}");
        serde_json::from_str(&text).unwrap()
    }
}

async fn ask(api: &Api, line: &str, headers: &[(&str, &str)]) -> (u16, String) {
    let (method, target) = line.split_once(' ').unwrap();
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync();
    let response = api.answer(request.body(body).unwrap()).await;
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (code, String::from_utf8_lossy(&bytes).into_owned())
}

#[tokio::test(start_paused = true)]
async fn pods_are_told_as_wanted_and_as_they_run() {
    let node = Node::start().await;
    let wanted = node.json("/pods").await;
    assert_eq!((&wanted["kind"], wanted["items"].as_array().unwrap().len()), (&json!("PodList"), 1));
    let pod = &wanted["items"][0];
    assert_eq!((&pod["metadata"]["name"], &pod["status"]["phase"]), (&json!("web"), &json!("Running")));
    assert_eq!((&pod["kind"], &pod["spec"]["containers"][0]["image"]), (&Value::Null, &json!("app:1")));
    // Here it is what the runtime calls it.
    let id = &node.cri.containers_of("web")[0].id;
    let image = node.cri.container_config(id).unwrap().image.unwrap().image;
    assert_eq!(
        node.json("/runningpods/").await["items"],
        json!([{
            "metadata": {"name": "web", "namespace": "default", "uid": node.uid},
            "spec": {"containers": [{"name": "app", "image": image, "resources": {}}]},
            "status": {},
        }])
    );
    node.cri.inject(Op::ListContainers, Fault::ErrorBefore(CriErrorKind::Unknown), 1);
    let (code, why) = node.ask("GET /runningpods/", &[]).await;
    assert!(code == 500 && why.contains("ListContainers"), "{code} {why}");
}

#[tokio::test(start_paused = true)]
async fn commands_run_without_a_shell() {
    let node = Node::start().await;
    let script =
        |stdout: &str, exit_code| ExecScript { stdout: stdout.to_owned(), exit_code, ..Default::default() };
    node.cri.script_exec("web", "app", "echo a;b $HOME", [script("a;b $HOME", 0)]);
    node.cri.script_exec("web", "app", "false", [script("", 3)]);
    let error = ExecScript { error: Some("no such file".to_owned()), ..Default::default() };
    node.cri.script_exec("web", "app", "none", [error]);
    let uid = node.uid.clone();
    for (line, code, text) in [
        ("POST /run/default/web/app?cmd=echo%20a%3Bb%20$HOME".to_owned(), 200, "a;b $HOME"),
        (format!("POST /run/default/web/{uid}/app?cmd=echo+a%3Bb+$HOME"), 200, "a;b $HOME"),
        ("POST /run/default/web/app?cmd=false".to_owned(), 500, "command 'false' exited with 3: "),
        (
            "POST /run/default/web/app?cmd=none".to_owned(),
            500,
            "rpc error: code = Unknown desc = no such file",
        ),
        ("POST /run/default/web/other?cmd=x".to_owned(), 500, "container not found (\"other\")"),
        ("POST /run/default/web/not-its-uid/app?cmd=x".to_owned(), 404, "pod not found"),
        ("POST /run/kube-system/web/app?cmd=x".to_owned(), 404, "pod does not exist"),
    ] {
        let (got, said) = node.ask(&line, &[]).await;
        assert!(got == code && said.ends_with(text), "{line}: {got} {said}");
    }
}

#[tokio::test(start_paused = true)]
async fn checkpoints_lie_where_nobody_else_looks() {
    let node = Node::start().await;
    let (code, text) = node.ask("POST /checkpoint/default/web/app?timeout=5", &[]).await;
    assert_eq!(code, 200, "{text}");
    let answer: Value = serde_json::from_str(&text).unwrap();
    let file = answer["items"][0].as_str().unwrap();
    let directory = node.dir.path().join("checkpoints");
    let start = format!("{}/checkpoint-web_default-app-2026-01-01T00:00:", directory.display());
    assert!(file.starts_with(&start) && file.ends_with("Z.tar"), "{file}");
    assert_eq!(directory.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    node.cri.inject(Op::CheckpointContainer, Fault::ErrorBefore(CriErrorKind::Unimplemented), 1);
    let (code, text) = node.ask("POST /checkpoint/default/web/app", &[]).await;
    let start = "checkpointing of default/web/app failed (rpc error: code = Unimplemented desc = ";
    assert!(code == 500 && text.starts_with(start), "{code} {text}");
}

#[tokio::test(start_paused = true)]
async fn logs_and_streams_say_why_there_are_none() {
    let node = Node::start().await;
    let upgrade = [("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];
    for (line, code, text) in [
        (
            "GET /containerLogs/default/web/app?previous=true",
            400,
            "previous terminated container \"app\" in pod \"web\" not found",
        ),
        ("GET /containerLogs/default/web/app", 400, "failed to open log file"),
        // The scripted runtime has no streams.
        ("POST /exec/default/web/app?output=1&command=x", 500, "not part of the scripted runtime"),
        ("POST /attach/default/web/app?output=1", 500, "not part of the scripted runtime"),
        ("POST /portForward/default/web", 500, "not part of the scripted runtime"),
        ("POST /exec/default/web/other?output=1", 500, "container not found (\"other\")"),
    ] {
        let (got, said) = node.ask(line, &upgrade).await;
        assert!(got == code && said.contains(text) && !said.starts_with('{'), "{line}: {got} {said}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_agent_tells_what_it_was_started_with() {
    let node = Node::start().await;
    let config = &node.json("/configz").await["kubeletconfig"];
    assert_eq!((&config["maxPods"], &config["kind"]), (&json!(17), &json!("KubeletConfiguration")));
    let (_, flags) = node.ask("GET /flagz", &[]).await;
    assert!(flags.contains("\nmax-pods=17\n") && flags.contains("\nroot-dir=/var/lib/kubelet\n"), "{flags}");
    let (code, status) = node.ask("GET /statusz", &[]).await;
    assert!(code == 200 && status.contains("Binary version: 1.36."), "{status}");
    let (code, text) = node.ask("GET /healthz?verbose", &[]).await;
    let all = "[+]ping ok\n[+]log ok\n[+]syncloop ok\n[+]containerruntime ok\nhealthz check passed\n";
    assert_eq!((code, text.as_str()), (200, all));
    // Nobody has set a logger of the agent in this process.
    let (code, why) = node.ask("PUT /debug/flags/v", &[]).await;
    assert!(code == 400 && why.starts_with("strconv.ParseUint"), "{why}");
    let (code, summary) = node.ask("GET /stats/summary", &[]).await;
    assert!(code == 200 && summary.contains("\"nodeName\": \"node\""), "{summary}");
    for page in ["/metrics", "/metrics/cadvisor", "/metrics/resource", "/metrics/probes", "/metrics/slis"] {
        assert_eq!(node.ask(&format!("GET {page}"), &[]).await.0, 200, "{page}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_read_only_port_is_the_same_agent_with_less() {
    let node = Node::start().await;
    let api = node.handle.api().at(Site::ReadOnly);
    assert!(ask(&api, "GET /pods", &[]).await.1.contains("\"name\":\"web\""));
    let off = (405, "Debug endpoints are disabled.\n".to_owned());
    assert_eq!(ask(&api, "POST /run/default/web/app?cmd=x", &[]).await, off);
    assert_eq!(ask(&api.at(Site::Healthz), "GET /healthz", &[]).await, (200, "ok".to_owned()));
    assert_eq!(ask(&api, "GET /healthz", &[]).await.0, 200);
}
