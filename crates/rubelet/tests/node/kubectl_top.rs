//! `kubectl top`, the figures behind it, and what metrics-server reads of a node: true figures of a pod whose use is
//! known.

use std::collections::BTreeMap;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, PostParams};
use rubelet_core::stats::exposition::{ParsedSample, parse};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::kubectl::{FOREVER, Kubectl, pod};
use crate::kubelet_api::{Client, authority, serve_by, serving};
use crate::local::LocalNode;
use crate::wait::{self, PATIENCE};

/// What a container burns: never more than its limit of 200 thousandths of a CPU, and on a machine with other work not
/// much less.
const BURNT: std::ops::RangeInclusive<f64> = 60.0..=230.0;
/// What a container holds, in MiB: 32 and what little a shell needs.
const HELD: std::ops::RangeInclusive<f64> = 32.0..=40.0;

/// A pod that burns CPU in one container and holds memory in the other, which has its share of CPU on a busy machine.
const USER: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: user, labels: {app: user}}\nspec:\n  \
     terminationGracePeriodSeconds: 1\n  containers:\n  - name: busy\n    image: rubelet.local/busybox:1\n    command: \
     [sh, -c, 'while :; do :; done']\n    resources: {limits: {cpu: 200m}}\n  - name: holder\n    image: \
     rubelet.local/busybox:1\n    command: [sh, -c, '(head -c 33554432 /dev/zero; sleep 1000) | tail -c 33554432']\n    \
     resources: {requests: {cpu: 200m}}\n";

#[test]
fn kubectl_shows_what_node_and_pods_use() {
    let local = LocalNode::start();
    local.each(|kubectl| {
        kubectl.ok_with("create -f -", USER);
        kubectl.wait_ready("user");
        kubectl.start_pod("quiet", FOREVER);
        of_containers(kubectl);
        of_pods(kubectl);
        of_the_node(kubectl);
        refused(kubectl);
    });
}

/// Lines of a table, by words.
fn rows(table: &str) -> Vec<Vec<&str>> {
    table.lines().map(|line| line.split_whitespace().collect()).collect()
}

/// The number before a unit.
#[track_caller]
fn number(text: &str, unit: &str) -> f64 {
    let digits = text.strip_suffix(unit).unwrap_or_else(|| panic!("{text} is not in {unit}"));
    digits.parse().unwrap()
}

/// Waits until `kubectl top` tells what `look` looks for.
fn comes_to_tell<T>(kubectl: &Kubectl, line: &str, look: impl Fn(&[Vec<&str>]) -> Option<T>) -> T {
    wait::until(&format!("{:?}: kubectl {line}", kubectl.version), PATIENCE, || {
        let ended = kubectl.run(line);
        look(&rows(&ended.stdout)).ok_or_else(|| format!("{ended:?}"))
    })
}

fn of_containers(kubectl: &Kubectl) {
    comes_to_tell(kubectl, "top pod user --containers", |rows| {
        let [head, busy, holder] = rows else { return None };
        assert_eq!(*head, ["POD", "NAME", "CPU(cores)", "MEMORY(bytes)"]);
        // In no certain order.
        let (busy, holder) = if busy[1] == "busy" { (busy, holder) } else { (holder, busy) };
        assert_eq!((&busy[..2], &holder[..2]), (&["user", "busy"][..], &["user", "holder"][..]));
        let true_cpu = BURNT.contains(&number(busy[2], "m")) && number(holder[2], "m") < 30.0;
        let true_memory = number(busy[3], "Mi") < 8.0 && HELD.contains(&number(holder[3], "Mi"));
        (true_cpu && true_memory).then_some(())
    });
}

fn of_pods(kubectl: &Kubectl) {
    let namespace = kubectl.namespace.as_str();
    let is_busy = |row: &[&str]| BURNT.contains(&number(row[0], "m")) && HELD.contains(&number(row[1], "Mi"));
    for line in ["top pod --sort-by=cpu", "top pods --sort-by=memory"] {
        comes_to_tell(kubectl, line, |rows| {
            let [head, first, second] = rows else { return None };
            assert_eq!(*head, ["NAME", "CPU(cores)", "MEMORY(bytes)"]);
            (first[0] == "user" && second[0] == "quiet" && is_busy(&first[1..])).then_some(())
        });
    }
    for line in ["top pod -l app=user --no-headers", "top pod user --no-headers"] {
        comes_to_tell(kubectl, line, |rows| {
            let [row] = rows else { return None };
            assert_eq!(row[0], "user");
            is_busy(&row[1..]).then_some(())
        });
    }
    comes_to_tell(kubectl, "top pod --all-namespaces", |rows| {
        assert_eq!(rows.first()?[..], ["NAMESPACE", "NAME", "CPU(cores)", "MEMORY(bytes)"]);
        let own = rows.iter().find(|row| row[..2] == [namespace, "user"])?;
        is_busy(&own[2..]).then_some(())
    });

    // The old one knows neither.
    if kubectl.is_new() {
        let all = kubectl.ok("top pod --sum --no-headers");
        let rows = rows(&all);
        let column = |at: usize, unit: &str| rows[..2].iter().map(|row| number(row[at], unit)).sum::<f64>();
        assert!((number(rows[3][0], "m") - column(1, "m")).abs() <= 2.0, "{all}");
        assert!((number(rows[3][1], "Mi") - column(2, "Mi")).abs() <= 2.0, "{all}");
        kubectl.shows("top pod --field-selector=metadata.name=quiet --no-headers", "quiet *m *Mi");
    }

    // The objects themselves.
    let path = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods");
    let list: Value = serde_json::from_str(&kubectl.ok(&format!("get --raw {path}"))).unwrap();
    assert_eq!(
        (&list["kind"], &list["apiVersion"]),
        (&json!("PodMetricsList"), &json!("metrics.k8s.io/v1beta1"))
    );
    let names: Vec<&str> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|item| item["metadata"]["name"].as_str())
        .collect();
    assert_eq!(names, ["quiet", "user"]);
    let one: Value = serde_json::from_str(&kubectl.ok(&format!("get --raw {path}/user"))).unwrap();
    assert_eq!(one["metadata"]["labels"], json!({"app": "user"}));
    for container in one["containers"].as_array().unwrap() {
        let usage = &container["usage"];
        let memory = usage["memory"].as_str().unwrap();
        assert!(usage["cpu"].is_string() && memory.ends_with('i'), "{one}");
    }
    kubectl.shows("get podmetrics user -o jsonpath={.kind}", "PodMetrics");
}

fn of_the_node(kubectl: &Kubectl) {
    let name = kubectl.ok("get nodes -o jsonpath={.items[0].metadata.name}");
    let node = kubectl.object(&format!("node {name}"));
    let allocatable = |what: &str| node["status"]["allocatable"][what].as_str().unwrap();
    let cores: f64 = allocatable("cpu").parse().unwrap();
    let memory = number(allocatable("memory"), "Ki") / 1024.0;
    for line in [format!("top node {name}"), "top nodes --sort-by=cpu".to_owned(), "top no".to_owned()] {
        comes_to_tell(kubectl, &line, |rows| {
            let [head, row] = rows else { return None };
            let percent = if kubectl.is_new() { ["CPU(%)", "MEMORY(%)"] } else { ["CPU%", "MEMORY%"] };
            assert_eq!(*head, ["NAME", "CPU(cores)", percent[0], "MEMORY(bytes)", percent[1]]);
            assert_eq!(row[0], name);
            let (used, share) = (number(row[1], "m"), number(row[2], "%"));
            assert!((used / 10.0 / cores - share).abs() <= 1.0, "{row:?}, {cores} cores");
            let (held, portion) = (number(row[3], "Mi"), number(row[4], "%"));
            assert!((held * 100.0 / memory - portion).abs() <= 1.0, "{row:?}, {memory} Mi");
            // Two pods are busy here, one of each kubectl.
            (used >= *BURNT.start() && used <= cores * 1100.0 && held >= *HELD.start() && portion <= 100.0)
                .then_some(())
        });
    }
    let path = "/apis/metrics.k8s.io/v1beta1/nodes";
    let list: Value = serde_json::from_str(&kubectl.ok(&format!("get --raw {path}"))).unwrap();
    assert_eq!(list["items"].as_array().unwrap().len(), 1, "{list}");
    let one: Value = serde_json::from_str(&kubectl.ok(&format!("get --raw {path}/{name}"))).unwrap();
    assert_eq!(one["metadata"]["labels"], node["metadata"]["labels"]);
    assert!(one["usage"]["cpu"].is_string() && one["window"].as_str().unwrap().ends_with('s'), "{one}");
    let group: Value = serde_json::from_str(&kubectl.ok("get --raw /apis/metrics.k8s.io/v1beta1")).unwrap();
    assert_eq!(group["groupVersion"], "metrics.k8s.io/v1beta1");
}

fn refused(kubectl: &Kubectl) {
    kubectl.refuses("top pod none", "Error from server (NotFound): pods \"none\" not found");
    kubectl.refuses("top node none", "Error from server (NotFound): nodes \"none\" not found");
    // A pod that does not run uses nothing that could be told.
    let picky = pod("picky", FOREVER).replace("spec:\n", "spec:\n  nodeSelector: {disk: ssd}\n");
    kubectl.ok_with("create -f -", &picky);
    let said = kubectl.fails("top pod picky");
    assert!(
        said.contains("NotFound")
            && said.contains(&format!("podmetrics.metrics.k8s.io \"{}/picky\"", kubectl.namespace)),
        "{said}"
    );
    kubectl.ok("delete pod picky --force --grace-period=0");
}

/// metrics-server's own way: `/metrics/resource` twice, with the token of a service account that may `nodes/metrics`.
#[test]
fn two_scrapes_of_resource_metrics_make_true_rates() {
    let mut cluster = Cluster::without_agent("");
    let serving_authority = authority("serving");
    serve_by(&serving_authority, &cluster.node);
    cluster.node.configure(&serving(&cluster.node));
    cluster.start_agent();
    let spec: Value = serde_saphyr::from_str::<Value>(USER).unwrap()["spec"].clone();
    cluster.run("user", &spec.to_string());
    cluster.wait_ready("user");

    let nobody = Client::of(&cluster.node, &[&serving_authority], None);
    let other = nobody.bearing(&token(&cluster, "other"));
    assert_eq!(nobody.ask("GET /metrics/resource").code, 401);
    assert_eq!(other.ask("GET /metrics/resource").code, 403);
    let server = nobody.bearing(&token(&cluster, "metrics-server"));
    cluster.api.grant("system:serviceaccount:default:metrics-server", "get", "nodes/metrics");

    let first = wait::until("figures of both containers", PATIENCE, || {
        let scrape = Scrape::of(&server);
        if scrape.containers.len() == 2 { Ok(scrape) } else { Err(format!("{scrape:?}")) }
    });
    // Long enough that a rate is not one of a moment, and that memory has been filled.
    let held = |scrape: &Scrape| scrape.containers["holder"].memory / f64::from(1 << 20);
    let second = wait::until("a later reading with what is held", PATIENCE, || {
        let scrape = Scrape::of(&server);
        let is_later = scrape.node.1 >= first.node.1 + 5_000;
        if is_later && HELD.contains(&held(&scrape)) { Ok(scrape) } else { Err(format!("{scrape:?}")) }
    });
    let rate = |one: (f64, i64), other: (f64, i64)| {
        let milliseconds = u32::try_from(other.1 - one.1).unwrap();
        (other.0 - one.0) * 1e6 / f64::from(milliseconds)
    };
    let of = |container: &str| rate(first.containers[container].cpu, second.containers[container].cpu);
    assert!(BURNT.contains(&of("busy")), "{} in thousandths: {first:?} {second:?}", of("busy"));
    assert!(of("holder") < 30.0, "{first:?} {second:?}");
    assert!(rate(first.node, second.node) >= of("busy"), "{first:?} {second:?}");
    for (name, container) in &second.containers {
        // By this metrics-server knows whether two scrapes are of one and the same instance.
        assert!(container.started > 0.0, "{name}: {second:?}");
        assert!((container.started - first.containers[name].started).abs() < 0.001, "{first:?} {second:?}");
    }
}

/// What metrics-server takes of a page.
#[derive(Debug)]
struct Scrape {
    /// CPU seconds of the node, and when.
    node: (f64, i64),
    containers: BTreeMap<String, Container>,
}

#[derive(Debug)]
struct Container {
    cpu: (f64, i64),
    memory: f64,
    started: f64,
}

impl Scrape {
    /// Asks for the page as metrics-server does; only containers of the pod of this test.
    fn of(client: &Client) -> Self {
        let answer = client.send("GET /metrics/resource", "Accept: text/plain;version=0.0.4\r\n", b"");
        assert_eq!(answer.code, 200, "{}", answer.text());
        assert!(answer.header("content-type").starts_with("text/plain; version=0.0.4"), "{}", answer.head);
        let families = parse(&answer.text()).unwrap();
        let samples = |name: &str| -> Vec<ParsedSample> {
            families
                .iter()
                .filter(|family| family.name == name)
                .flat_map(|family| family.samples.clone())
                .collect()
        };
        let value = |name: &str, container: &str| {
            let of = |sample: &&ParsedSample| sample.label("container") == Some(container);
            samples(name).iter().find(of).map_or(0.0, |sample| sample.value)
        };
        let containers = samples("container_cpu_usage_seconds_total").into_iter().map(|sample| {
            assert_eq!((sample.label("namespace"), sample.label("pod")), (Some("default"), Some("user")));
            let name = sample.label("container").unwrap().to_owned();
            let container = Container {
                cpu: (sample.value, sample.at.unwrap()),
                memory: value("container_memory_working_set_bytes", &name),
                started: value("container_start_time_seconds", &name),
            };
            (name, container)
        });
        let node = samples("node_cpu_usage_seconds_total");
        let [node] = node.as_slice() else { panic!("{}", answer.text()) };
        assert!(samples("node_memory_working_set_bytes").iter().any(|sample| sample.value > 0.0));
        Self { node: (node.value, node.at.unwrap()), containers: containers.collect() }
    }
}

/// The token of a new service account.
fn token(cluster: &Cluster, account: &str) -> String {
    cluster.api.create_json(&json!({"apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": account, "namespace": "default"}}));
    cluster.runtime.block_on(async {
        let accounts: Api<ServiceAccount> = Api::namespaced(cluster.api.client("admin"), "default");
        let spec = TokenRequestSpec { expiration_seconds: Some(3600), ..TokenRequestSpec::default() };
        let wish = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
        let answer = accounts.create_token_request(account, &PostParams::default(), &wish).await;
        answer.unwrap().status.unwrap().token.unwrap()
    })
}
