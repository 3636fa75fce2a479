//! The trace of a pod's start, as a collector gets it: the real agent and its client of the runtime, the scripted
//! runtime on a socket, a collector of our own. Real time, of which nothing here takes long.

mod in_process;

use std::time::Duration;

use jiff::Timestamp;
use rubelet::clock::Clock;
use rubelet::tracing_export::{self, TracingExport};
use rubelet::{KubeletConfiguration, KubeletHandle};
use rubelet_config::TracingConfiguration;
use rubelet_cri::CriErrorKind;
use rubelet_testkit::ScriptedCri;
use rubelet_testkit::otlp::{Collector, ReceivedSpan};
use rubelet_testkit::pods::{container, pod};
use rubelet_testkit::scripted::server::{CriServer, serve};
use rubelet_testkit::scripted::{BASE_SECOND, PullScript, RuntimeKind};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tracing_subscriber::layer::SubscriberExt as _;

/// An agent that exports what it does.
struct World {
    cri: ScriptedCri,
    runtime: CriServer,
    collector: Collector,
    pods: KubeletHandle,
    agent: JoinHandle<Result<(), String>>,
    export: Option<TracingExport>,
    _dir: TempDir,
    /// The layer is the default of this test's thread, and the agent's tasks run in it.
    _traced: tracing::subscriber::DefaultGuard,
}

impl World {
    /// With `rate` the agent exports that many traces of a million; without the configuration has no `tracing`.
    async fn new(rate: Option<i32>) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let collector = Collector::on_loopback().expect("a port");
        let cri = ScriptedCri::new(RuntimeKind::Containerd2);
        let runtime = serve(&cri, &dir.path().join("cri.sock")).expect("a socket");
        let tracing = rate.map(|rate| TracingConfiguration {
            endpoint: Some(collector.endpoint()),
            sampling_rate_per_million: Some(rate),
        });
        let (layer, export) = tracing.as_ref().map(tracing_export::prepare).unzip();
        // One layer with a filter of its own, or none at all: as in the program, nobody else takes the spans.
        let subscriber = tracing_subscriber::registry().with(Vec::from_iter(layer));
        let traced = tracing::subscriber::set_default(subscriber);
        let export = export.map(|prepared| prepared.start("machine-1").expect("an endpoint"));
        let config = KubeletConfiguration {
            container_runtime_endpoint: runtime.endpoint(),
            tracing,
            ..in_process::config(dir.path())
        };
        let clock = Clock::simulated(Timestamp::from_second(BASE_SECOND).expect("a time"));
        let kubelet =
            in_process::agent(config, dir.path(), "node", clock).embedded().build().await.expect("an agent");
        let pods = kubelet.handle();
        let agent = tokio::spawn(kubelet.run(std::future::pending()));
        Self { cri, runtime, collector, pods, agent, export, _dir: dir, _traced: traced }
    }

    /// Ends the agent, and then what it exports. Everything that the collector got.
    async fn end(&mut self) -> Spans {
        self.agent.abort();
        let _ = (&mut self.agent).await;
        // What the agent owned goes with it, task by task.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        if let Some(export) = self.export.take() {
            export.finish().await;
        }
        Spans(self.collector.spans())
    }
}

struct Spans(Vec<ReceivedSpan>);

impl Spans {
    fn is(span: &ReceivedSpan, attribute: &str) -> bool {
        span.attributes.iter().any(|known| known == attribute)
    }

    /// The one span of a name with this attribute.
    fn one(&self, name: &str, attribute: &str) -> &ReceivedSpan {
        let found: Vec<_> =
            self.0.iter().filter(|span| span.name == name && Self::is(span, attribute)).collect();
        assert_eq!(found.len(), 1, "{name} with {attribute}: {:#?}", self.0);
        found[0]
    }

    /// The one child of a name.
    fn child(&self, parent: &ReceivedSpan, name: &str) -> &ReceivedSpan {
        let found: Vec<_> =
            self.0.iter().filter(|span| span.parent == parent.id && span.name == name).collect();
        assert_eq!(found.len(), 1, "{name} below {}, which has {:?}", parent.name, self.children(parent));
        assert_eq!(found[0].trace, parent.trace);
        found[0]
    }

    fn children(&self, parent: &ReceivedSpan) -> Vec<&str> {
        self.0.iter().filter(|span| span.parent == parent.id).map(|span| span.name.as_str()).collect()
    }
}

const ALL: Option<i32> = Some(1_000_000);
const CREATE: &str = "k8s.pod.update_type=create";

/// The longest that a real second may take on a busy machine.
async fn soon<T>(what: &str, done: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), done).await.expect(what)
}

#[tokio::test]
async fn the_start_of_a_pod_is_one_trace() {
    let mut world = World::new(ALL).await;
    let mut running =
        world.pods.run_pod(pod("web").container(container("app")).build()).expect("an embedded agent");
    soon("the pod is ready", running.wait_ready()).await;
    let spans = world.end().await;

    let sync = spans.one("syncPod", CREATE);
    assert_eq!(sync.parent, "");
    assert_eq!(sync.error, None);
    assert_eq!(sync.kind, 1);
    assert_eq!(
        sync.attributes,
        [
            "k8s.namespace.name=default",
            "k8s.pod.name=web",
            "k8s.pod.uid=web-uid",
            CREATE,
            "k8s.pod=default/web",
        ]
    );
    let resource = |attribute: &str| sync.resource.iter().any(|known| known == attribute);
    assert!(resource("service.name=kubelet") && resource("host.name=machine-1"), "{:?}", sync.resource);
    assert!(sync.events.iter().any(|event| event == "Ready"), "{:?}", sync.events);

    spans.child(sync, "admitPod");
    spans.child(sync, "WaitForAttachAndMount");
    let image = spans.child(sync, "prefetchImage");
    assert_eq!(image.attributes, ["container.image.name=busybox:1"]);
    spans.child(image, "runtime.v1.ImageService/PullImage");
    let sandbox = spans.child(sync, "createPodSandbox");
    let run = spans.child(sandbox, "runtime.v1.RuntimeService/RunPodSandbox");
    assert_eq!(run.kind, 3);
    assert_eq!(
        run.attributes,
        [
            "rpc.method=runtime.v1.RuntimeService/RunPodSandbox",
            "rpc.response.status_code=OK",
            "rpc.system.name=grpc",
        ]
    );
    let start = spans.child(sync, "startContainer");
    assert!(Spans::is(start, "k8s.container.name=app"), "{start:?}");
    spans.child(start, "EnsureImageExists");
    let create = spans.child(start, "runtime.v1.RuntimeService/CreateContainer");
    let started = spans.child(start, "runtime.v1.RuntimeService/StartContainer");
    assert!(create.time.1 <= started.time.0, "created before it is started");
    assert!(
        ["Pulled", "Created", "Started"]
            .map(str::to_owned)
            .iter()
            .all(|e| start.events.contains(e) || spans.child(start, "EnsureImageExists").events.contains(e))
    );
    for span in spans.0.iter().filter(|span| span.trace == sync.trace) {
        assert!(sync.time.0 <= span.time.0 && span.time.0 <= span.time.1, "{span:?}");
    }

    // The runtime was told where it belongs.
    let told = world.runtime.traced_calls();
    for span in [run, create, started] {
        let expected = (format!("/{}", span.name), format!("00-{}-{}-01", span.trace, span.id));
        assert!(told.contains(&expected), "{expected:?} is not in {told:?}");
    }
}

#[tokio::test]
async fn what_fails_is_said_where_it_failed() {
    let mut world = World::new(ALL).await;
    let refused = Some((CriErrorKind::NotFound, "no such image".to_owned()));
    world.cri.script_default_pull(PullScript { takes: Duration::ZERO, error: refused });
    let mut running =
        world.pods.run_pod(pod("web").container(container("app")).build()).expect("an embedded agent");
    let waits = running.wait_for(|status| {
        status.container_statuses.iter().flatten().any(|container| {
            let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
            waiting.is_some_and(|waiting| waiting.reason.as_deref() == Some("ErrImagePull"))
        })
    });
    soon("the image is missing", waits).await;
    let spans = world.end().await;
    let sync = spans.one("syncPod", CREATE);
    assert!(sync.error.is_some(), "{sync:?}");
    let start = spans.child(sync, "startContainer");
    assert!(start.error.as_deref().is_some_and(|error| error.starts_with("ErrImagePull: ")), "{start:?}");
    let pull = spans.child(spans.child(sync, "prefetchImage"), "runtime.v1.ImageService/PullImage");
    assert!(Spans::is(pull, "rpc.response.status_code=NotFound"), "{pull:?}");
    assert_eq!(pull.error.as_deref(), Some("no such image"));
}

/// Whoever begins a trace decides, and nobody but the agent begins one here.
#[tokio::test]
async fn without_a_rate_or_without_tracing_nothing_is_sent() {
    for rate in [Some(0), None] {
        let mut world = World::new(rate).await;
        let mut running =
            world.pods.run_pod(pod("web").container(container("app")).build()).expect("an embedded agent");
        soon("the pod is ready", running.wait_ready()).await;
        assert!(world.end().await.0.is_empty());
        // Runtimes hear of traces that are not sampled, so that they do not begin their own.
        let told = world.runtime.traced_calls();
        assert_eq!(told.is_empty(), rate.is_none());
        assert!(told.iter().all(|(_, trace)| trace.ends_with("-00")), "{told:?}");
    }
}
