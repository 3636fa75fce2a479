//! Pods from a URL: they come, change and go with what it serves, and stay when it fails.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::node::Node;
use crate::pods::{self, container_id};
use crate::wait;

/// A page that the test may change: its status line and body.
type Page = Arc<Mutex<(&'static str, String)>>;

/// Serves the page on a port of this machine until the test ends.
fn serve(page: Page) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let _length = stream.read(&mut request).unwrap();
            let (status, body) = page.lock().unwrap().clone();
            let head =
                format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            // An agent that was ended does not wait for the answer.
            let _ = stream.write_all((head + &body).as_bytes());
        }
    });
    port
}

#[test]
fn a_url_gives_pods_beside_the_files() {
    let pod = |name: &str| {
        format!(
            r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "{name}"}}, "spec": {{
                "terminationGracePeriodSeconds": 1,
                "containers": [{{"name": "c", "image": "rubelet.local/busybox:1", "command": ["sleep", "1000"]}}]}}}}"#
        )
    };
    let list = |names: &[&str]| {
        let items: Vec<String> = names.iter().map(|name| pod(name)).collect();
        format!(r#"{{"apiVersion": "v1", "kind": "PodList", "items": [{}]}}"#, items.join(","))
    };
    let page = Page::new(Mutex::new(("503 Not Yet", String::new())));
    let set = |status: &'static str, body: String| *page.lock().unwrap() = (status, body);
    let port = serve(page.clone());
    let node =
        Node::configured(&format!("staticPodURL: http://127.0.0.1:{port}/pods\nhttpCheckFrequency: 500ms"));
    node.apply("file", "containers: [{name: c, image: $IMAGE, command: [sleep, '1000']}]");
    let file = node.wait_ready("file");

    set("200 OK", list(&["one", "two"]));
    let one = node.wait_ready("one");
    node.wait_ready("two");
    assert_eq!(one.metadata.annotations.unwrap()["kubernetes.io/config.source"], "http");
    let one = container_id(&node.pod("one"), "c");

    // A server that fails, or says nonsense, has not said that the pods are gone.
    for (status, body) in [("500 Oops", String::new()), ("200 OK", "<html>".to_owned())] {
        set(status, body);
        wait::throughout(Duration::from_millis(1500), || {
            assert_eq!(container_id(&node.pod("one"), "c"), one)
        });
    }
    set("200 OK", pod("one"));
    node.wait_gone("two");
    assert!(pods::ready(&node.pod("one")));
    assert_eq!(container_id(&node.pod("file"), "c"), container_id(&file, "c"));
}
