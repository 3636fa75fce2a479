//! The kubelet's own API, a port of a pod and `kubectl proxy`, through the API of the node: what people type who look
//! at a node that they cannot reach themselves.

use serde_json::{Value, json};

use crate::kubectl::{FOREVER, Kubectl};
use crate::local::LocalNode;
use crate::node::http_get;
use crate::wait::{self, PATIENCE};

#[test]
fn kubectl_reaches_every_endpoint_of_the_kubelet() {
    let local = LocalNode::start();
    local.each(|kubectl| {
        kubectl.start_pod("web", &format!("for i in 1 2 3; do echo line $i; done; {FOREVER}"));
        let name = kubectl.ok("get nodes -o jsonpath={.items[0].metadata.name}");
        let kubelet = Kubelet { kubectl, base: format!("/api/v1/nodes/{name}/proxy"), name };
        health(&kubelet);
        pods(&kubelet);
        stats(&kubelet);
        metrics(&kubelet);
        logs(&kubelet);
        commands(&kubelet);
        debugging(&kubelet);
        refused(&kubelet);
    });
}

/// The kubelet's API behind that of the node.
struct Kubelet<'a> {
    kubectl: &'a Kubectl,
    base: String,
    name: String,
}

impl Kubelet<'_> {
    /// What `kubectl get --raw` prints.
    fn get(&self, path: &str) -> String {
        self.kubectl.ok(&format!("get --raw {}{path}", self.base))
    }

    fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.get(path)).unwrap()
    }

    /// What it says of what it does not get.
    fn fails(&self, path: &str) -> String {
        self.kubectl.fails(&format!("get --raw {}{path}", self.base))
    }

    /// The path of something of the pod's container.
    fn of_container(&self, what: &str, container: &str) -> String {
        format!("/{what}/{}/web/{container}", self.kubectl.namespace)
    }

    /// An object in a list.
    fn in_list(&self, list: &Value) -> Option<Value> {
        let own = |item: &&Value| {
            let metadata = &item["metadata"];
            metadata["name"] == "web" && metadata["namespace"] == self.kubectl.namespace.as_str()
        };
        list["items"].as_array().unwrap().iter().find(own).cloned()
    }
}

fn health(kubelet: &Kubelet<'_>) {
    for path in ["/healthz", "/healthz/ping", "/healthz/log", "/healthz/syncloop"] {
        assert_eq!(kubelet.get(path), "ok", "{path}");
    }
    let all = kubelet.get("/healthz?verbose");
    for line in ["[+]ping ok", "[+]log ok", "[+]syncloop ok", "healthz check passed"] {
        assert!(all.lines().any(|seen| seen == line), "{line}: {all}");
    }
    let but_one = kubelet.get("/healthz?verbose&exclude=syncloop");
    assert!(but_one.contains("[+]syncloop excluded: ok\n"), "{but_one}");
}

fn pods(kubelet: &Kubelet<'_>) {
    let uid = kubelet.kubectl.ok("get pod web -o jsonpath={.metadata.uid}");
    let list = kubelet.json("/pods");
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("PodList"), &json!("v1")));
    let web = kubelet.in_list(&list).unwrap();
    assert_eq!((&web["metadata"]["uid"], &web["kind"]), (&json!(uid), &Value::Null));
    assert_eq!(web["spec"]["nodeName"], kubelet.name.as_str());
    let running = kubelet.json("/runningpods/");
    let web = kubelet.in_list(&running).unwrap();
    assert_eq!(
        (&web["metadata"]["uid"], &web["spec"]["containers"][0]["name"]),
        (&json!(uid), &json!("main"))
    );
}

fn stats(kubelet: &Kubelet<'_>) {
    let of_web = |summary: &Value| {
        let pods = summary["pods"].as_array().unwrap();
        let own = |pod: &&Value| pod["podRef"]["namespace"] == kubelet.kubectl.namespace.as_str();
        pods.iter().filter(own).find(|pod| pod["podRef"]["name"] == "web").cloned()
    };
    // A reading may be some seconds old.
    wait::until("the summary to have the pod", PATIENCE, || {
        let summary = kubelet.json("/stats/summary");
        assert_eq!(summary["node"]["nodeName"], kubelet.name.as_str());
        assert!(summary["node"]["fs"]["capacityBytes"].as_u64().unwrap() > 0, "{summary}");
        let web = of_web(&summary).ok_or("no pod")?;
        let main = &web["containers"][0];
        assert_eq!(main["name"], "main");
        let used =
            main["cpu"]["usageCoreNanoSeconds"].as_u64().zip(main["memory"]["workingSetBytes"].as_u64());
        used.filter(|(cpu, memory)| *cpu > 0 && *memory > 0).ok_or_else(|| web.to_string())
    });
    let brief = kubelet.json("/stats/summary?only_cpu_and_memory=true");
    assert_eq!((&brief["node"]["fs"], &brief["node"]["network"]), (&Value::Null, &Value::Null));
    let web = of_web(&brief).unwrap();
    assert!(web["containers"][0]["memory"]["workingSetBytes"].is_u64(), "{web}");
    assert_eq!(web["containers"][0]["rootfs"], Value::Null, "{web}");
}

fn metrics(kubelet: &Kubelet<'_>) {
    let own = format!("namespace=\"{}\",pod=\"web\"", kubelet.kubectl.namespace);
    let node = format!("kubelet_node_name{{node=\"{}\"}} 1", kubelet.name);
    for (page, wanted) in [
        ("", node.as_str()),
        ("/slis", "kubernetes_healthcheck{name=\"ping\",type=\"healthz\"} 1"),
        ("/cadvisor", "machine_cpu_cores"),
        ("/cadvisor", &format!("name=\"main\",{own}")),
        ("/resource", &format!("container_memory_working_set_bytes{{container=\"main\",{own}}} ")),
        ("/resource", "node_cpu_usage_seconds_total "),
        ("/probes", "process_start_time_seconds "),
    ] {
        let path = format!("/metrics{page}");
        if page == "/cadvisor" && wanted.contains("name=") {
            let line = |line: &&str| line.starts_with("container_") && line.contains(&own);
            wait::until("the pod among cAdvisor's metrics", PATIENCE, || {
                kubelet.get(&path).lines().find(line).map(str::to_owned).ok_or_else(|| own.clone())
            });
            continue;
        }
        wait::until(&format!("{wanted} in {path}"), PATIENCE, || {
            let text = kubelet.get(&path);
            if text.contains(wanted) { Ok(()) } else { Err(text) }
        });
    }
}

fn logs(kubelet: &Kubelet<'_>) {
    let own = kubelet.of_container("containerLogs", "main");
    assert_eq!(kubelet.get(&own), "line 1\nline 2\nline 3\n");
    assert_eq!(kubelet.get(&format!("{own}?tailLines=1")), "line 3\n");
    assert_eq!(kubelet.get(&format!("{own}?tail=all&limitBytes=6")), "line 1");
    assert!(kubelet.get(&format!("{own}?timestamps=true&tailLines=1")).ends_with("Z line 3\n"));
    let listing = kubelet.get("/logs/");
    assert!(listing.contains("<pre>") && listing.contains("<a href=\""), "{listing}");
    // What follows a redirect comes to the same page.
    assert_eq!(kubelet.get("/logs"), listing);
}

fn commands(kubelet: &Kubelet<'_>) {
    let (kubectl, base) = (kubelet.kubectl, &kubelet.base);
    let run = kubelet.of_container("run", "main");
    // Words, and nothing that a shell would make of them.
    assert_eq!(kubectl.ok(&format!("create --raw {base}{run}?cmd=echo+$HOME+a -f /dev/null")), "$HOME a\n");
    let said = kubectl.fails(&format!("create --raw {base}{run}?cmd=false -f /dev/null"));
    assert!(said.contains("InternalError") || said.contains("exited with 1"), "{said}");
    for (path, wanted) in [
        (run, "MethodNotAllowed"),
        (kubelet.of_container("checkpoint", "main"), "MethodNotAllowed"),
        (kubelet.of_container("exec", "main"), "BadRequest"),
        (format!("{}?command=id&output=1", kubelet.of_container("exec", "main")), "Upgrade request required"),
        (format!("{}?output=1", kubelet.of_container("attach", "main")), "Upgrade request required"),
        (format!("/portForward/{}/web", kubectl.namespace), "Upgrade request required"),
    ] {
        let said = kubelet.fails(&path);
        assert!(said.contains(wanted), "{path}: {said}");
    }
}

fn debugging(kubelet: &Kubelet<'_>) {
    let config = kubelet.json("/configz");
    let config = &config["kubeletconfig"];
    assert_eq!((&config["kind"], &config["failSwapOn"]), (&json!("KubeletConfiguration"), &json!(false)));
    let flags = kubelet.get("/flagz");
    assert!(
        flags.starts_with("\nkubelet flagz\n") && flags.lines().any(|line| line == "fail-swap-on=false"),
        "{flags}"
    );
    let status = kubelet.get("/statusz");
    assert!(status.starts_with("\nkubelet statusz\n") && status.contains("\nBinary version: 1."), "{status}");
    assert!(kubelet.get("/debug/pprof/cmdline").contains("rubelet"));
    assert!(kubelet.get("/debug/pprof/").contains("goroutine"));
    kubelet.kubectl.write("level", "4");
    let told = kubelet.kubectl.ok(&format!("replace --raw {}/debug/flags/v -f level", kubelet.base));
    assert_eq!(told.trim_end(), "successfully set klog.logging.verbosity to 4");
}

fn refused(kubelet: &Kubelet<'_>) {
    let none = kubelet.of_container("containerLogs", "none");
    let bad = kubelet.of_container("containerLogs", "main");
    for (path, code) in [
        ("/none", "NotFound"),
        ("/", "NotFound"),
        ("", "NotFound"),
        ("/logs/none", "NotFound"),
        ("/logs/%2e%2e/%2e%2e/etc/passwd", "NotFound"),
        (none.as_str(), "NotFound"),
        ("/containerLogs/default/none/main", "NotFound"),
        (&format!("{bad}?tailLines=x"), "BadRequest"),
        (&format!("{bad}?tailLines=-1"), "invalid"),
        ("/debug/flags/v", "NotAcceptable"),
    ] {
        let said = kubelet.fails(path);
        assert!(said.contains(code), "{path}: {said}");
    }
    let elsewhere = "get --raw /api/v1/nodes/none/proxy/healthz";
    kubelet.kubectl.refuses(elsewhere, "Error from server (NotFound): nodes \"none\" not found");
}

#[test]
fn kubectl_reaches_ports_of_pods() {
    let local = LocalNode::start();
    local.each(|kubectl| {
        kubectl.start_pod("page", "echo hello > /tmp/index.html; exec httpd -f -p 8080 -h /tmp");
        let pods = format!("/api/v1/namespaces/{}/pods", kubectl.namespace);
        let page = format!("{pods}/page:8080/proxy/index.html");
        kubectl.comes_to_show(&format!("get --raw {page}"), "hello");
        kubectl.refuses(
            &format!("get --raw {pods}/none:8080/proxy/"),
            "Error from server (NotFound): pods \"none\" not found",
        );
        let said = kubectl.fails(&format!("get --raw {pods}/page:8081/proxy/"));
        assert!(said.contains("error trying to reach service") && said.contains("refused"), "{said}");

        // The way of those who have a browser only.
        let proxy = kubectl.start("proxy --port=0 --accept-hosts=^node$");
        let line = proxy.wait_line("Starting to serve on 127.0.0.1:");
        let address = line.strip_prefix("Starting to serve on ").unwrap().trim().to_owned();
        let name = kubectl.ok("get nodes -o jsonpath={.items[0].metadata.name}");
        assert_eq!(http_get(&address, &format!("/api/v1/nodes/{name}/proxy/healthz")).unwrap(), "ok");
        let web = http_get(&address, &format!("{pods}/page")).unwrap();
        assert!(web.contains("\"kind\":\"Pod\""), "{web}");
        let shown = http_get(&address, &page).unwrap();
        assert!(shown.contains("hello"), "{shown}");
        let refused = http_get(&address, &format!("{pods}/page/exec?command=id")).unwrap_err();
        assert!(refused.starts_with("HTTP/1.1 403"), "{refused}");
    });
}
