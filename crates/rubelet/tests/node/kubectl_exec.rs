//! `kubectl exec`, `attach`, `cp`, `port-forward` and `debug`: streams into running containers.

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;

use crate::kubectl::{FOREVER, Kubectl, pod};
use crate::local::LocalNode;
use crate::node::http_get;

#[test]
fn kubectl_executes() {
    let node = LocalNode::start();
    node.each(|kubectl| {
        kubectl.start_pod("web", FOREVER);
        commands(kubectl);
        terminals(kubectl);
        refusals(kubectl);
    });
}

fn commands(kubectl: &Kubectl) {
    kubectl.shows("exec web -- echo hello", "hello");
    let ended = kubectl.run("exec web -- sh -c 'echo out; echo err >&2; exit 3'");
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(3), "out\n"), "{ended:?}");
    assert_eq!(ended.stderr, "err\ncommand terminated with exit code 3\n");
    assert_eq!(kubectl.ok_with("exec -i web -- cat", "from stdin\n"), "from stdin\n");
    let long = "0123456789abcdef".repeat(20_000);
    assert_eq!(kubectl.ok_with("exec -i web -- wc -c", &long).trim(), "320000");
    assert!(kubectl.ok_with("exec -i web -- cat", &long) == long, "what came back is not what went in");
    kubectl.shows("exec web -c main -- sh -c 'echo $0 $HOSTNAME' ", "sh web");
    kubectl.shows("exec pod/web -- id -u", "0");
    // Without -i the command has no input.
    kubectl.shows("exec web -- cat", "");
}

fn terminals(kubectl: &Kubectl) {
    let ended = kubectl.in_terminal("exec -it web -- sh", "tty; echo in-$((40 + 2)); exit 5\n");
    assert!(ended.stdout.contains("/dev/pts/") && ended.stdout.contains("in-42"), "{ended:?}");
    assert_eq!(ended.code, Some(5), "{ended:?}");
    // The size of the terminal comes through, a moment after the command has started.
    let look = "exec -it web -- sh -c 'for i in 1 2 3 4 5 6 7 8 9; do stty size; sleep 0.1; done'";
    let ended = kubectl.in_terminal(look, "");
    assert!(ended.stdout.contains("30 100"), "{ended:?}");
}

fn refusals(kubectl: &Kubectl) {
    kubectl.refuses("exec none -- true", "Error from server (NotFound): pods \"none\" not found");
    let said = kubectl.run("exec web -- no-such-program");
    assert!(matches!(said.code, Some(1 | 126 | 127)), "{said:?}");
    assert!(said.stderr.contains("no-such-program") && said.stderr.contains("not found"), "{said:?}");
    let said = kubectl.fails("exec web -c none -- true");
    assert!(said.contains("container") && said.contains("none"), "{said}");
    let done = pod("done", "true").replace("spec:\n", "spec:\n  restartPolicy: Never\n");
    kubectl.ok_with("create -f -", &done);
    kubectl.comes_to_show("get pod done -o jsonpath={.status.phase}", "Succeeded");
    kubectl.refuses(
        "exec done -- true",
        "error: cannot exec into a container in a completed pod; current phase is Succeeded",
    );
}

#[test]
fn kubectl_attaches_and_forwards() {
    let node = LocalNode::start();
    node.each(|kubectl| {
        attached(kubectl);
        forwarded(kubectl);
    });
}

fn attached(kubectl: &Kubectl) {
    let reader = pod("reader", "while read line; do echo got $line; done; echo end")
        .replace("    command", "    stdin: true\n    stdinOnce: true\n    command");
    kubectl.ok_with("create -f -", &reader.replace("spec:\n", "spec:\n  restartPolicy: Never\n"));
    kubectl.wait_ready("reader");
    let mut attach = kubectl.start("attach -i reader");
    attach.write("one\n");
    attach.wait_line("got one");
    attach.write("two\n");
    attach.wait_line("got two");
    attach.close();
    attach.wait_line("end");
    assert_eq!(attach.wait_end(), Some(0), "{}", attach.said());
    kubectl.comes_to_show("get pod reader -o jsonpath={.status.phase}", "Succeeded");
    kubectl.start_pod("ticker", "while :; do echo tick; sleep 0.2; done");
    let attach = kubectl.start("attach ticker");
    attach.wait_line("tick");
}

fn forwarded(kubectl: &Kubectl) {
    kubectl.start_pod("page", "echo hello > /tmp/index.html; httpd -f -p 8080 -h /tmp");
    // The server is there before anybody comes: a refused connection ends the tunnel.
    kubectl.comes_to_show("exec page -- sh -c 'netstat -ltn | grep -c :8080'", "1");
    let forward = kubectl.start("port-forward pod/page :8080");
    let line = forward.wait_line("Forwarding from 127.0.0.1:");
    let port: u16 = line
        .strip_prefix("Forwarding from 127.0.0.1:")
        .and_then(|rest| rest.split_once(" -> 8080"))
        .and_then(|(port, _)| port.parse().ok())
        .unwrap();
    for _round in 0..3 {
        assert_eq!(http_get(&format!("127.0.0.1:{port}"), "/index.html").unwrap(), "hello\n");
    }
    let forward = kubectl.start("port-forward pod/page :8081");
    let line = forward.wait_line("Forwarding from 127.0.0.1:");
    let port = line.rsplit_once(" -> ").and_then(|(from, _)| from.rsplit_once(':')).unwrap().1.to_owned();
    let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    let _the_tunnel_may_be_closed_already = stream.write_all(b"hello");
    forward.wait_line("refused");
    kubectl.refuses("port-forward pod/none :80", "Error from server (NotFound): pods \"none\" not found");
}

#[test]
fn kubectl_copies_and_debugs() {
    let node = LocalNode::start();
    node.each(|kubectl| {
        kubectl.start_pod("web", FOREVER);
        copied(kubectl);
        debugged(kubectl);
    });
}

fn copied(kubectl: &Kubectl) {
    fs::create_dir_all(kubectl.home.join("tree/sub")).unwrap();
    kubectl.write("tree/one", "1\n");
    kubectl.write("tree/sub/two", &"2".repeat(100_000));
    kubectl.ok("cp tree web:/tmp/tree");
    kubectl.shows("exec web -- sh -c 'cat /tmp/tree/one; wc -c < /tmp/tree/sub/two'", "1\n100000");
    kubectl.ok("exec web -- sh -c 'echo back > /tmp/tree/three'");
    kubectl.ok("cp $NS/web:/tmp/tree back -c main".replace("$NS", &kubectl.namespace).as_str());
    assert_eq!(fs::read_to_string(kubectl.home.join("back/three")).unwrap(), "back\n");
    assert_eq!(fs::read_to_string(kubectl.home.join("back/sub/two")).unwrap().len(), 100_000);
    kubectl.write("one", "x");
    let said = kubectl.fails("cp one none:/tmp/one");
    assert!(said.contains("pods \"none\" not found"), "{said}");
}

/// The old client asks for ephemeral containers in a way that no current cluster knows.
fn debugged(kubectl: &Kubectl) {
    if !kubectl.is_new() {
        return;
    }
    let line = "debug web --image=rubelet.local/busybox:1 --container=look --target=main --profile=general -- sh -c \
                'echo seen; ps | grep -c trap'";
    let said = kubectl.ok(line);
    assert!(said.starts_with("Targeting container \"main\"."), "{said}");
    kubectl.comes_to_show("logs web -c look", "seen\n*");
    let web = kubectl.object("pod web");
    assert_eq!(web["spec"]["ephemeralContainers"][0]["targetContainerName"], "main");
    kubectl.comes_to_show(
        "get pod web -o jsonpath='{.status.ephemeralContainerStatuses[0].state.terminated.exitCode}'",
        "0",
    );
    let line = "debug web -it --image=rubelet.local/busybox:1 --container=talk --profile=general -- sh";
    let ended = kubectl.in_terminal(line, "echo in-$((40 + 2)); exit\n");
    assert!(ended.stdout.contains("in-42"), "{ended:?}");
    kubectl.shows("get pod web --no-headers", "web 1/1 Running 0 *");
    let copy = "debug web --copy-to=copy --image=rubelet.local/busybox:1 --container=look --profile=general -- sleep 100";
    kubectl.ok(copy);
    kubectl.wait_ready("copy");
    kubectl.shows("get pod copy --no-headers", "copy 2/2 Running 0 *");
    kubectl.ok("delete pod copy --now --wait=false");
}
