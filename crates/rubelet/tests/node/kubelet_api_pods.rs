//! The kubelet API's endpoints of pods on real containers: lists, logs, commands, streams, checkpoints; and the pages
//! about the agent itself.

use std::fs;

use serde_json::{Value, json};

use crate::kubelet_api::{Answer, Client, open_node};
use crate::kubelet_api_streams::{Said, Spdy, WebSocket};
use crate::node::Node;
use crate::pods::{self, container_id, uid};
use crate::wait::{self, PATIENCE};

const SHELL: &str = "
terminationGracePeriodSeconds: 1
containers:
- name: main
  image: $IMAGE
  command: [sh, -c, 'trap \"exit 0\" TERM; echo hello > /tmp/index.html; httpd -p 8080 -h /tmp; while :; do sleep 1 & wait $!; done']
- name: reader
  image: $IMAGE
  stdin: true
  command: [sh, -c, 'while read line; do echo got $line; echo err >&2; done; sleep 1000']
";

/// The query of a command, each argument escaped as clients do.
fn command(arguments: &[&str]) -> String {
    let escaped = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
    let arguments: Vec<String> = arguments.iter().map(|text| format!("command={}", escaped(text))).collect();
    arguments.join("&")
}

fn success() -> Value {
    json!({"metadata": {}, "status": "Success"})
}

/// Runs a command over each protocol: what it said, which has to be the same, and its Status.
fn executed(client: &Client, path: &str, arguments: &[&str]) -> (Said, Value) {
    let query = format!("{path}?{}&output=1&error=1", command(arguments));
    let mut said = vec![];
    for protocol in ["v5.channel.k8s.io", "v4.channel.k8s.io"] {
        said.push(WebSocket::open(client, &query, protocol).unwrap().rest());
    }
    for method in ["GET", "POST"] {
        let mut spdy = Spdy::open(client, &format!("{method} {query}"), "v4.channel.k8s.io").unwrap();
        let streams = ["error", "stdout", "stderr"].map(|name| spdy.stream(&[("streamtype", name)]));
        let [error, stdout, stderr] = spdy.rest(&streams).try_into().unwrap();
        said.push(Said { stdout, stderr, error });
    }
    let statuses: Vec<Value> =
        said.iter().map(|said| serde_json::from_str(&said.error).unwrap_or_default()).collect();
    let texts = |said: &Said| (said.stdout.clone(), said.stderr.clone());
    let words = |status: &Value| ["status", "reason", "code"].map(|word| status[word].clone());
    for (other, status) in said.iter().zip(&statuses) {
        assert_eq!((texts(other), words(status)), (texts(&said[0]), words(&statuses[0])), "{said:?}");
    }
    (said.remove(0), statuses[0].clone())
}

#[test]
fn kubelet_api_runs_commands_and_forwards_ports() {
    let (node, client, _) = open_node("");
    node.apply("web", SHELL);
    let pod = node.wait_ready("web");
    let own = format!("default/web-node-1/{}", uid(&pod));

    // What is given is what the program gets, whatever a shell would make of it.
    let tricky = [
        "a b",
        "; echo no",
        "$(id)",
        "`id`",
        "two\nlines",
        "\"'",
        "*",
        "",
        "ä€",
        "&& id",
        "%41",
        "a+b",
        "-n",
    ];
    let show = "for a; do printf '[%s]' \"$a\"; done";
    let arguments = [&["sh", "-c", show, "sh"][..], &tricky].concat();
    let wanted: String = tricky.iter().map(|text| format!("[{text}]")).collect();
    for path in [format!("/exec/{own}/main"), "/exec/default/web-node-1/main".to_owned()] {
        let (said, status) = executed(&client, &path, &arguments);
        assert_eq!((said.stdout, said.stderr, status), (wanted.clone(), String::new(), success()), "{path}");
    }
    let path = format!("/exec/{own}/main");
    let (said, status) = executed(&client, &path, &["sh", "-c", "echo out; echo err >&2; exit 3"]);
    assert_eq!((said.stdout.as_str(), said.stderr.as_str()), ("out\n", "err\n"));
    assert_eq!(status["reason"], "NonZeroExitCode", "{status}");
    assert_eq!(status["details"]["causes"], json!([{"reason": "ExitCode", "message": "3"}]), "{status}");
    // No shell looks for a program of that name.
    let (said, status) = executed(&client, &path, &["echo hello; id"]);
    assert_eq!(said.stdout, "");
    assert_eq!(status["status"], "Failure", "{status}");
    inputs(&client, &path);
    ran(&client, &own);
    attached(&client, &own);
    forwarded(&client, &own);
    refused(&client, &own);
}

/// Input, its end, and a terminal with a size.
fn inputs(client: &Client, path: &str) {
    let query = format!("{path}?{}&input=1&output=1", command(&["sh", "-c", "cat; echo end"]));
    let mut socket = WebSocket::open(client, &query, "v5.channel.k8s.io").unwrap();
    socket.send(0, b"one\n");
    socket.wait(1, "one\n");
    // The end of a stream.
    socket.send(255, &[0]);
    let said = socket.rest();
    assert_eq!((said.stdout.as_str(), serde_json::from_str(&said.error).ok()), ("end\n", Some(success())));
    let mut spdy = Spdy::open(client, &format!("POST {query}"), "v4.channel.k8s.io").unwrap();
    let [error, stdin, stdout] =
        ["error", "stdin", "stdout"].map(|name| spdy.stream(&[("streamtype", name)]));
    spdy.send(stdin, &vec![b'x'; 100_000], false);
    spdy.send(stdin, b"last\n", true);
    let said = spdy.rest(&[error, stdout]);
    assert_eq!(said[1], format!("{}last\nend\n", "x".repeat(100_000)));
    // The size comes on a way of its own: the command goes on until it has it.
    let sized = "tty; until stty size | grep '30 100'; do sleep 0.05; done; read x; echo typed $x";
    let query = format!("{path}?{}&input=1&output=1&tty=1", command(&["sh", "-c", sized]));
    for protocol in ["v5.channel.k8s.io", "v4.channel.k8s.io"] {
        let mut socket = WebSocket::open(client, &query, protocol).unwrap();
        socket.wait(1, "/dev/pts/");
        socket.send(4, br#"{"Width": 100, "Height": 30}"#);
        socket.wait(1, "30 100");
        socket.send(0, b"this\n");
        let said = socket.rest();
        assert!(said.stdout.contains("typed this"), "{said:?}");
    }
}

/// `/run`, which parts its words at blanks.
fn ran(client: &Client, own: &str) {
    let path = format!("POST /run/{own}/main");
    let answer = client.ask(&format!("{path}?cmd=echo+hello%20%20you"));
    assert_eq!((answer.code, answer.text().as_str()), (200, "hello  you\n"));
    assert_eq!(answer.header("content-type"), "application/json");
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    let answer = client.send(&path, form, b"cmd=echo+%24(id)%3Bid");
    assert_eq!((answer.code, answer.text().as_str()), (200, "$(id);id\n"));
    let answer = client.ask(&format!("{path}?cmd=sh+-c+exit${{IFS}}3"));
    assert_eq!((answer.code, answer.text().as_str()), (500, "command 'sh -c exit${IFS}3' exited with 3: "));
    assert_eq!(client.ask(&format!("{path}?cmd=none")).code, 500);
}

fn attached(client: &Client, own: &str) {
    let path = format!("/attach/{own}/reader?input=1&output=1&error=1");
    for (protocol, line) in [("v5.channel.k8s.io", "five"), ("v4.channel.k8s.io", "four")] {
        let mut socket = WebSocket::open(client, &path, protocol).unwrap();
        socket.send(0, format!("{line}\n").as_bytes());
        let (mut stdout, mut stderr) = (String::new(), String::new());
        while !(stdout == format!("got {line}\n") && stderr == "err\n") {
            match socket.receive().unwrap() {
                (1, text) => stdout += &String::from_utf8(text).unwrap(),
                (2, text) => stderr += &String::from_utf8(text).unwrap(),
                (_, text) => assert!(text.is_empty(), "{text:?}"),
            }
        }
    }
}

fn forwarded(client: &Client, own: &str) {
    let request = b"GET /index.html HTTP/1.0\r\n\r\n";
    let mut socket =
        WebSocket::open(client, &format!("/portForward/{own}?port=8080"), "v4.channel.k8s.io").unwrap();
    // Each channel begins with the port it is for.
    for channel in [0, 1] {
        assert_eq!(socket.receive().unwrap(), (channel, 8080_u16.to_le_bytes().to_vec()));
    }
    socket.send(0, request);
    let said = socket.wait(0, "hello\n");
    assert!(said.starts_with("HTTP/1.0 200") || said.starts_with("HTTP/1.1 200"), "{said}");
    let mut spdy = Spdy::open(client, &format!("POST /portForward/{own}"), "portforward.k8s.io").unwrap();
    for number in ["0", "1", "2"] {
        let head = |kind| [("streamtype", kind), ("port", "8080"), ("requestid", number)];
        let error = spdy.stream(&head("error"));
        spdy.send(error, b"", true);
        let data = spdy.stream(&head("data"));
        spdy.send(data, request, false);
        let said = spdy.rest(&[data]).remove(0);
        assert!(said.ends_with("hello\n"), "{said}");
    }
    let head = |kind| [("streamtype", kind), ("port", "8081"), ("requestid", "3")];
    let (error, _data) = (spdy.stream(&head("error")), spdy.stream(&head("data")));
    let said = spdy.rest(&[error]).remove(0);
    assert!(said.contains("refused"), "{said}");
}

/// What is no pod, no container, no request for a stream.
fn refused(client: &Client, own: &str) {
    let socket = |path: &str| match WebSocket::open(client, path, "v4.channel.k8s.io") {
        Err(answer) => (answer.code, answer.text()),
        Ok(_) => panic!("{path} is a WebSocket"),
    };
    let check = |path: &str, code: u16, text: &str| {
        let (seen, said) = socket(path);
        assert!(seen == code && said.contains(text), "{path}: {seen} {said}");
        assert!(!said.contains("/tmp") && !said.contains(".sock"), "{path}: {said}");
    };
    check(&format!("/exec/{own}/none?command=id&output=1"), 500, "container not found (\"none\")");
    check("/exec/default/none/main?command=id&output=1", 404, "pod does not exist");
    check("/exec/default/web-node-1/other-uid/main?command=id&output=1", 404, "pod not found");
    check(
        &format!("/exec/{own}/main?command=id"),
        400,
        "you must specify at least 1 of stdin, stdout, stderr",
    );
    check(
        &format!("/attach/{own}/main?output=true"),
        400,
        "you must specify at least 1 of stdin, stdout, stderr",
    );
    check(&format!("/portForward/{own}"), 400, "query parameter \"port\" is required");
    for (port, why) in [
        ("", "cannot be empty"),
        ("0", "must be > 0"),
        ("x", "unable to parse"),
        ("70000", "unable to parse"),
    ] {
        check(&format!("/portForward/{own}?port={port}"), 400, why);
    }
    // No upgrade, or one to nothing that is known.
    let answer = client.ask(&format!("GET /exec/{own}/main?command=id&output=1"));
    assert_eq!((answer.code, answer.text().as_str()), (500, "Upgrade request required\n"));
    let path = format!("/exec/{own}/main?command=id&output=1");
    let code = |answer: Result<(), Answer>| {
        answer.map_or_else(|answer| (answer.code, answer.text()), |()| (101, String::new()))
    };
    let (seen, said) = code(WebSocket::open(client, &path, "v9.channel.k8s.io").map(drop));
    assert!(seen == 403 && said.contains("the runtime refused the stream"), "{seen} {said}");
    let (seen, said) = code(Spdy::open(client, &format!("POST {path}"), "v9.channel.k8s.io").map(drop));
    assert!(seen == 403 && said.contains("client supports [v9.channel.k8s.io]"), "{seen} {said}");
    let answer = client.send(&format!("POST {path}"), "Connection: Upgrade\r\nUpgrade: h2c\r\n", b"");
    assert_eq!(answer.code, 400, "{answer:?}");
    // And the port serves on.
    assert_eq!(client.page("/healthz"), "ok");
}

const TALKER: &str = "
terminationGracePeriodSeconds: 1
containers:
- name: main
  image: $IMAGE
  command: [sh, -c, 'n=$(cat /share/count 2>/dev/null || echo 0); n=$((n + 1)); echo $n > /share/count; echo run $n; for i in 1 2 3; do echo line $i; done; echo oops; until [ -e /share/go-$n ]; do sleep 0.05; done; echo going; until [ -e /share/end-$n ]; do sleep 0.05; done; echo bye']
  volumeMounts: [{name: share, mountPath: /share}]
- name: once
  image: $IMAGE
  command: [sleep, '1000']
volumes: [{name: share, hostPath: {path: $SHARE}}]
";

#[test]
fn kubelet_api_shows_pods_and_logs() {
    let (node, client, _) = open_node("");
    node.apply("talker", TALKER);
    let pod = node.wait_ready("talker");
    node.wait_log(&pod, "main", "oops");
    lists(&node, &client);
    logs(&node, &client);
    pages(&node, &client);
    let answer = client.ask("POST /checkpoint/default/talker-node-1/main?timeout=5");
    // Without CRIU the runtime refuses, and its words are passed on.
    let text = answer.text();
    let answered = match answer.code {
        200 => text.contains("checkpoints/checkpoint-talker-node-1_default-main-"),
        500 => text.starts_with("checkpointing of default/talker-node-1/main failed ("),
        _ => false,
    };
    assert!(answered, "{answer:?} {text}");
    for (line, code, text) in [
        ("POST /checkpoint/default/none/main", 404, "pod does not exist"),
        ("POST /checkpoint/default/talker-node-1/none", 404, "container none does not exist"),
        (
            "POST /checkpoint/default/talker-node-1/main?timeout=x",
            404,
            "cannot parse value of timeout parameter",
        ),
    ] {
        let answer = client.ask(line);
        assert_eq!((answer.code, answer.text().as_str()), (code, text), "{line}");
    }
}

fn lists(node: &Node, client: &Client) {
    let pod = node.pod("talker");
    let list = client.json("/pods");
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("PodList"), &json!("v1")));
    let item = &list["items"][0];
    assert_eq!(item["metadata"]["uid"], json!(uid(&pod)));
    assert_eq!(item["status"]["phase"], "Running");
    assert!(item.get("kind").is_none(), "{item}");
    let list = client.json("/runningpods/");
    assert_eq!((&list["kind"], list["items"].as_array().unwrap().len()), (&json!("PodList"), 1), "{list}");
    let item = &list["items"][0];
    assert_eq!(item["metadata"]["name"], "talker-node-1");
    assert_eq!(item["metadata"]["uid"], json!(uid(&pod)));
    let mut names: Vec<&str> =
        item["spec"]["containers"].as_array().unwrap().iter().filter_map(|c| c["name"].as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["main", "once"]);
}

fn logs(node: &Node, client: &Client) {
    let path = "/containerLogs/default/talker-node-1/main";
    let ask = |query: &str| client.page(&format!("{path}{query}"));
    let all = ask("");
    let mut lines: Vec<&str> = all.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["line 1", "line 2", "line 3", "oops", "run 1"]);
    assert_eq!(ask("?tailLines=0"), "");
    assert_eq!(ask("?tail=all"), all);
    assert_eq!(ask("?tailLines=2").lines().count(), 2);
    assert!(all.ends_with(&ask("?tailLines=2")));
    assert_eq!(ask("?limitBytes=8"), "run 1\nli");
    assert_eq!(ask("?sinceTime=2099-01-01T00:00:00Z"), "");
    assert_eq!(ask("?sinceSeconds=3600"), all);
    let stamped = ask("?timestamps=true");
    for (stamped, plain) in stamped.lines().zip(all.lines()) {
        let (time, text) = stamped.split_once(' ').unwrap();
        assert!(time.parse::<jiff::Timestamp>().is_ok() && text == plain, "{stamped}");
    }
    let (third, _) = stamped.lines().nth(2).unwrap().split_once(' ').unwrap();
    let since = ask(&format!("?sinceTime={}", third.replace('+', "%2B")));
    assert!(all.ends_with(&since) && since.lines().count() <= 4, "{since}");
    for (query, code) in [
        ("?tailLines=x", 400),
        ("?tailLines=-1", 422),
        ("?limitBytes=0", 422),
        ("?sinceSeconds=1&sinceTime=2020-01-01T00:00:00Z", 422),
        ("?sinceTime=yesterday", 400),
        ("?previous=true", 400),
        ("?stream=Stdout", 400),
    ] {
        let answer = client.ask(&format!("GET {path}{query}"));
        assert_eq!(answer.code, code, "{query}: {}", answer.text());
        assert!(!answer.text().contains("/tmp"), "{query}: {}", answer.text());
    }
    for (path, text) in [
        ("/containerLogs/default/none/main", "pod \"none\" does not exist"),
        (
            "/containerLogs/default/talker-node-1/none",
            "container \"none\" not found in pod \"talker-node-1\"",
        ),
    ] {
        let answer = client.ask(&format!("GET {path}"));
        assert_eq!((answer.code, answer.text().trim_end()), (404, text));
    }

    // Following over rotations is the business of log_rotation.rs, where the agent makes them.
    let mut follow = client.follow(&format!("{path}?follow=true&tailLines=1"));
    fs::write(node.share("go-1"), "").unwrap();
    follow.wait("going\n");
    // It ends with the container; the next instance has a log of its own.
    fs::write(node.share("end-1"), "").unwrap();
    node.wait_pod("talker", "to be started again", |pod| {
        pods::restarts(pod, "main") == 1 && pods::ready(pod)
    });
    let said = follow.rest();
    assert!(said.ends_with("going\nbye\n"), "{said}");
    let seen = wait::until("the second run", PATIENCE, || {
        let text = ask("");
        if text.contains("oops") { Ok(text) } else { Err(text) }
    });
    assert!(seen.starts_with("run 2\n"), "{seen}");
    let previous = ask("?previous=true");
    assert!(previous.starts_with("run 1\n") && previous.ends_with("going\nbye\n"), "{previous}");
}

fn pages(node: &Node, client: &Client) {
    assert_eq!(client.page("/healthz"), "ok");
    let verbose = "[+]ping ok\n[+]log ok\n[+]syncloop ok\n[+]containerruntime ok\nhealthz check passed\n";
    assert_eq!(client.page("/healthz?verbose"), verbose);
    let excluded = client.page("/healthz?verbose&exclude=syncloop");
    assert_eq!(excluded, verbose.replace("syncloop ok", "syncloop excluded: ok"));
    let config = client.json("/configz");
    assert_eq!(config["kubeletconfig"]["kind"], "KubeletConfiguration");
    assert_eq!(config["kubeletconfig"]["port"], node.api_port());
    assert_eq!(config["kubeletconfig"]["authorization"]["mode"], "AlwaysAllow");
    let plain = |path: &str| {
        let answer = client.send(&format!("GET {path}"), "Accept: text/plain\r\n", b"");
        assert_eq!(answer.code, 200, "{path}: {}", answer.text());
        answer.text()
    };
    assert!(plain("/flagz").contains("hostname-override=node-1"), "{}", plain("/flagz"));
    assert!(plain("/statusz").contains("Binary version"), "{}", plain("/statusz"));
    let line = client.page("/debug/pprof/cmdline");
    assert!(line.split('\0').any(|word| word == "--hostname-override"), "{line}");
    assert_eq!(client.ask("GET /debug/pprof/none").code, 404);
    for (level, code, text) in [
        ("6", 200, "successfully set klog.logging.verbosity to 6"),
        ("4", 200, "successfully set klog.logging.verbosity to 4"),
        ("x", 400, "strconv.ParseUint: parsing \"x\": invalid syntax"),
    ] {
        let answer = client.send("PUT /debug/flags/v", "", level.as_bytes());
        assert!(answer.code == code && answer.text().contains(text), "{level}: {}", answer.text());
    }
    assert!(!container_id(&node.pod("talker"), "main").is_empty());
}
