//! The whole of it, as requests: files as Go serves them, no way out, and the query with a program in journalctl's place.

use std::fs::{self, FileTimes};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::time::{Duration, UNIX_EPOCH};

use http::HeaderMap;
use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, IF_MODIFIED_SINCE,
    LAST_MODIFIED, RANGE, X_CONTENT_TYPE_OPTIONS,
};

use super::*;

/// 2024-01-02T03:04:05Z.
const CHANGED: u64 = 1_704_164_645;
const DATE: &str = "Tue, 02 Jan 2024 03:04:05 GMT";

struct Node {
    base: tempfile::TempDir,
    logs: NodeLogs,
}

fn node(query: bool) -> Node {
    let base = tempfile::tempdir().unwrap();
    let root = base.path().join("log");
    fs::create_dir_all(root.join("pods/web")).unwrap();
    fs::create_dir_all(root.join("nginx")).unwrap();
    fs::create_dir_all(root.join("site")).unwrap();
    fs::create_dir_all(root.join("with space:")).unwrap();
    for (name, text) in [
        ("syslog", "0123456789"),
        ("kube-proxy.log", "proxy\n"),
        ("nginx/nginx.log", "nginx\n"),
        ("pods/web/0.log", "web\n"),
        ("site/index.html", "<b>site</b>"),
        ("data.json", "{}"),
        ("empty", ""),
        ("<odd>&'\"", "odd"),
        ("%2e%2e", "percent"),
        ("a\\b", "backslash"),
    ] {
        fs::write(root.join(name), text).unwrap();
    }
    fs::write(root.join(std::ffi::OsStr::from_bytes(b"\xff")), "bytes").unwrap();
    let changed = FileTimes::new().set_modified(UNIX_EPOCH + Duration::from_secs(CHANGED));
    fs::File::options().write(true).open(root.join("syslog")).unwrap().set_times(changed).unwrap();
    symlink("../pods/web/0.log", root.join("site/web.log")).unwrap();
    symlink(root.join("pods/web/0.log"), root.join("site/absolute.log")).unwrap();
    let logs = NodeLogs::new(root, query).with_journalctl(base.path().join("journalctl"));
    Node { base, logs }
}

/// What came back.
#[derive(Debug)]
struct Told {
    code: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Told {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn header(&self, name: http::HeaderName) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

impl Node {
    async fn ask(&self, request: http::request::Builder) -> Told {
        let response = serve(&self.logs, request.body(body::whole("")).unwrap()).await;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        Told { code: parts.status.as_u16(), headers: parts.headers, body }
    }

    async fn get(&self, uri: &str) -> Told {
        self.ask(Request::get(uri)).await
    }

    /// A program in journalctl's place that lists `units` and says with what arguments it was called.
    fn journalctl(&self, units: &str, script: &str) {
        let path = self.base.path().join("journalctl");
        let script =
            format!("#!/bin/sh\nif [ \"$1\" = --field ]; then printf '{units}'; exit 0; fi\n{script}\n");
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[tokio::test]
async fn files_are_served_with_their_kind_length_and_time() {
    let node = node(false);
    let told = node.get("/logs/syslog").await;
    assert_eq!((told.code, told.text()), (200, "0123456789"));
    assert_eq!(told.header(CONTENT_TYPE), Some("text/plain; charset=utf-8"));
    assert_eq!(told.header(CONTENT_LENGTH), Some("10"));
    assert_eq!(told.header(ACCEPT_RANGES), Some("bytes"));
    assert_eq!(told.header(LAST_MODIFIED), Some(DATE));
    assert_eq!(node.get("/logs/data.json").await.header(CONTENT_TYPE), Some("application/json"));
    for (uri, text) in [
        ("/logs/pods/web/0.log", "web\n"),
        ("/logs/site/web.log", "web\n"),
        ("/logs/site/absolute.log", "web\n"),
        ("/logs/empty", ""),
        ("/logs/%3Codd%3E%26%27%22", "odd"),
        ("/logs/%252e%252e", "percent"),
        ("/logs/a%5Cb", "backslash"),
        ("/logs/%ff", "bytes"),
        ("/logs/pods%2Fweb/0.log", "web\n"),
        // Without the feature a query means nothing.
        ("/logs/syslog?query=kubelet&boot=x", "0123456789"),
    ] {
        let told = node.get(uri).await;
        assert_eq!((told.code, told.text()), (200, text), "{uri}");
    }
}

#[tokio::test]
async fn errors_are_gos() {
    let node = node(false);
    let root = node.logs.root.clone();
    rustix::fs::mkfifoat(rustix::fs::CWD, root.join("pipe"), rustix::fs::Mode::RWXU).unwrap();
    for (uri, code, text) in [
        ("/logs/none", 404, "404 page not found\n"),
        ("/logs/syslog/x", 404, "404 page not found\n"),
        ("/logs/a%00b", 404, "404 page not found\n"),
        ("/other", 404, "404 page not found\n"),
        ("/logsx/syslog", 404, "404 page not found\n"),
        ("/logs/pipe", 403, "403 Forbidden\n"),
        ("/logs/%zz", 400, "400 Bad Request\n"),
    ] {
        let told = node.get(uri).await;
        assert_eq!((told.code, told.text()), (code, text), "{uri}");
        assert_eq!(told.header(X_CONTENT_TYPE_OPTIONS), Some("nosniff"));
    }
    let told = node.ask(Request::post("/logs/syslog")).await;
    assert_eq!((told.code, told.header(ALLOW)), (405, Some("GET, HEAD")));
}

#[tokio::test]
async fn paths_of_directories_end_in_a_slash_and_those_of_files_do_not() {
    let node = node(false);
    for (uri, code, location) in [
        ("/logs", 307, "/logs/"),
        ("/logs/pods", 301, "pods/"),
        ("/logs/pods/web?x=y", 301, "web/?x=y"),
        ("/logs/with%20space:", 301, "./with%20space:/"),
        ("/logs/syslog/", 301, "../syslog"),
        ("/logs/site/index.html", 301, "./"),
        ("/logs/none/index.html", 301, "./"),
    ] {
        let told = node.get(uri).await;
        assert_eq!((told.code, told.header(LOCATION), told.body.len()), (code, Some(location), 0), "{uri}");
    }
}

#[tokio::test]
async fn directories_are_listed_or_have_an_index() {
    let node = node(false);
    let told = node.get("/logs/").await;
    assert_eq!(told.header(CONTENT_TYPE), Some("text/html; charset=utf-8"));
    let date = told.header(LAST_MODIFIED).unwrap().to_owned();
    let links: Vec<&str> = told.text().lines().filter(|line| line.starts_with("<a ")).collect();
    assert_eq!(
        links,
        [
            "<a href=\"%252e%252e\">%2e%2e</a>",
            "<a href=\"%3Codd%3E&%27%22\">&lt;odd&gt;&amp;&#39;&#34;</a>",
            "<a href=\"a%5Cb\">a\\b</a>",
            "<a href=\"data.json\">data.json</a>",
            "<a href=\"empty\">empty</a>",
            "<a href=\"kube-proxy.log\">kube-proxy.log</a>",
            "<a href=\"nginx/\">nginx/</a>",
            "<a href=\"pods/\">pods/</a>",
            "<a href=\"site/\">site/</a>",
            "<a href=\"syslog\">syslog</a>",
            "<a href=\"./with%20space:/\">with space:/</a>",
            "<a href=\"%FF\">\u{fffd}</a>",
        ]
    );
    let again = node.ask(Request::get("/logs/").header(IF_MODIFIED_SINCE, date)).await;
    assert_eq!((again.code, again.body.len()), (304, 0));
    let site = node.get("/logs/site/").await;
    assert_eq!((site.text(), site.header(CONTENT_TYPE)), ("<b>site</b>", Some("text/html; charset=utf-8")));
}

#[tokio::test]
async fn parts_of_a_file() {
    let node = node(false);
    let range = async |range: &str| node.ask(Request::get("/logs/syslog").header(RANGE, range)).await;
    let told = range("bytes=2-4").await;
    assert_eq!((told.code, told.text()), (206, "234"));
    assert_eq!((told.header(CONTENT_RANGE), told.header(CONTENT_LENGTH)), (Some("bytes 2-4/10"), Some("3")));
    assert_eq!(range("bytes=-1").await.text(), "9");
    let told = range("bytes=20-").await;
    assert_eq!((told.code, told.header(CONTENT_RANGE)), (416, Some("bytes */10")));
    assert_eq!(told.text(), "invalid range: failed to overlap\n");
    assert_eq!(range("lines=1").await.text(), "invalid range\n");
    let told = range("bytes=0-1,8-9").await;
    let kind = told.header(CONTENT_TYPE).unwrap().to_owned();
    let boundary = kind.strip_prefix("multipart/byteranges; boundary=").unwrap();
    let expected = format!(
        "--{boundary}\r\nContent-Range: bytes 0-1/10\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n01\r\n\
         --{boundary}\r\nContent-Range: bytes 8-9/10\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n89\r\n\
         --{boundary}--\r\n"
    );
    assert_eq!((told.code, told.text()), (206, expected.as_str()));
    assert_eq!(told.header(CONTENT_LENGTH), Some(expected.len().to_string().as_str()));
}

#[tokio::test]
async fn what_is_known_is_not_sent_and_a_head_has_no_body() {
    let node = node(false);
    let told = node.ask(Request::get("/logs/syslog").header(IF_MODIFIED_SINCE, DATE)).await;
    assert_eq!((told.code, told.header(LAST_MODIFIED), told.body.len()), (304, Some(DATE), 0));
    let head = node.ask(Request::head("/logs/syslog")).await;
    assert_eq!((head.code, head.header(CONTENT_LENGTH), head.body.len()), (200, Some("10"), 0));
    let whole = node.get("/logs/pods/").await.body.len().to_string();
    let head = node.ask(Request::head("/logs/pods/")).await;
    assert_eq!((head.code, head.header(CONTENT_LENGTH), head.body.len()), (200, Some(whole.as_str()), 0));
}

#[tokio::test]
async fn big_files_come_whole_and_a_file_that_shrinks_breaks_off() {
    let node = node(false);
    let big: Vec<u8> = (0..1_000_000_u32).map(|number| (number % 251) as u8).collect();
    fs::write(node.logs.root.join("big.bin"), &big).unwrap();
    assert!(node.get("/logs/big.bin").await.body == big);
    let told = node.ask(Request::get("/logs/big.bin").header(RANGE, "bytes=65530-200000")).await;
    assert!(told.body == big[65530..=200_000]);
    let request = Request::get("/logs/big.bin").body(body::whole("")).unwrap();
    let response = serve(&node.logs, request).await;
    fs::write(node.logs.root.join("big.bin"), "short").unwrap();
    assert!(response.into_body().collect().await.is_err());
}

#[tokio::test]
async fn only_so_many_files_are_open() {
    let node = node(false);
    let open = || serve(&node.logs, Request::get("/logs/syslog").body(body::whole("")).unwrap());
    let mut held = Vec::new();
    for _ in 0..OPEN {
        held.push(open().await);
    }
    assert_eq!(open().await.status(), 429);
    held.pop();
    assert_eq!(open().await.status(), 200);
}

/// Every spelling against a secret beside the directory.
#[tokio::test]
async fn no_spelling_leads_out() {
    for query in [false, true] {
        let node = node(query);
        let secret = node.base.path().join("secret");
        fs::write(&secret, "the secret").unwrap();
        let root = node.logs.root.clone();
        symlink("../secret", root.join("link")).unwrap();
        symlink(&secret, root.join("absolute-link")).unwrap();
        symlink("..", root.join("up")).unwrap();
        symlink("/", root.join("top")).unwrap();
        symlink(root.join("../secret"), root.join("through")).unwrap();
        symlink("/proc/self/cwd", root.join("magic")).unwrap();
        let absolute = secret.to_str().unwrap();
        let escaped = absolute.replace('/', "%2f");
        let ups =
            ["..", "%2e%2e", "%2E.", ".%2e", "%252e%252e", "..%00", "%c0%ae%c0%ae", "..%5c", "..;", "up"];
        let slashes = ["/", "%2f", "%5c", "//", "/./", "%252f"];
        let mut paths: Vec<String> =
            ["link", "absolute-link", "through", "up/secret", "up%2fsecret", "magic/x"]
                .map(str::to_owned)
                .to_vec();
        paths.push(format!("top{absolute}"));
        paths.extend([absolute.to_owned(), escaped.clone(), format!("/{absolute}"), format!("%2f{escaped}")]);
        for (up, slash) in ups.iter().flat_map(|up| slashes.map(|slash| (up, slash))) {
            for times in 1..4 {
                let way = format!("{up}{slash}").repeat(times);
                paths.push(format!("{way}secret"));
                paths.push(format!("pods{slash}web{slash}{way}secret"));
                paths.push(format!("{way}log{slash}{way}secret"));
            }
        }
        for path in &paths {
            let uri = format!("/logs/{path}");
            let told = node.get(&uri).await;
            assert!((300..500).contains(&told.code), "{uri}: {}", told.code);
            assert!(!String::from_utf8_lossy(&told.body).contains("the secret"), "{uri}");
            let uri = format!("/logs/?query=/{path}");
            let told = node.get(&uri).await;
            assert!(!String::from_utf8_lossy(&told.body).contains("the secret"), "{uri}");
            // The rules for a service's log open files too.
            let uri = format!("/logs/?query={path}");
            let told = node.get(&uri).await;
            assert!(!String::from_utf8_lossy(&told.body).contains("the secret"), "{uri}");
        }
        let told = node.get("/logs/link").await;
        assert_eq!((told.code, told.text()), (403, "403 Forbidden\n"));
    }
}

#[tokio::test]
async fn queries_are_refused_as_upstream_refuses_them() {
    let node = node(true);
    for (uri, code, text) in [
        ("/logs/syslog?query=kubelet", 406, "path not allowed in query mode\n"),
        (
            "/logs/?tailLines=x",
            400,
            "tailLines: Invalid value: \"x\": strconv.Atoi: parsing \"x\": invalid syntax\n",
        ),
        ("/logs/?boot=0", 406, "query: Required value: cannot be empty with options\n"),
        (
            "/logs/?query=/none",
            406,
            "query: Invalid value: [\"/none\"]: statat none: no such file or directory\n",
        ),
        (
            "/logs/?query=/../secret",
            406,
            "query: Invalid value: [\"/../secret\"]: statat ../secret: path escapes from parent\n",
        ),
        ("/logs/?query=a;b", 200, ""),
    ] {
        let told = node.get(uri).await;
        if code != 200 {
            assert_eq!((told.code, told.text()), (code, text), "{uri}");
        }
    }
    // A file, by the query and without one.
    for uri in ["/logs/?query=/syslog", "/logs/syslog", "/logs/?query=pods/../syslog"] {
        let told = node.get(uri).await;
        assert_eq!((told.code, told.text()), (200, "0123456789"), "{uri}");
    }
    assert!(node.get("/logs/?x=y").await.text().contains("<a href=\"syslog\">"));
}

#[tokio::test]
async fn services_are_journalctls_or_files() {
    let node = node(true);
    node.journalctl(
        "kubelet.service\\nssh.service\\n",
        "echo complaint >&2; for argument in \"$@\"; do echo \"<$argument>\"; done",
    );
    let uri = "/logs/?query=kubelet&query=ssh&tailLines=5&pattern=--help+%24(touch+x)&boot=-1&sinceTime=2024-01-02T03:04:05Z";
    let told = node.get(uri).await;
    assert_eq!((told.code, told.header(CONTENT_TYPE)), (200, Some("text/plain;charset=UTF-8")));
    assert_eq!(
        told.text(),
        "complaint\n<--utc>\n<--no-pager>\n<--output=short-precise>\n<--since=2024-1-2 3:4:5 UTC>\n<--pager-end>\n\
         <--lines=5>\n<--unit=kubelet>\n<--unit=ssh>\n<--grep=--help $(touch x)>\n<--boot>\n<-1>\n"
    );
    for (uri, text) in [
        ("/logs/?query=kube-proxy", "proxy\n"),
        ("/logs/?query=kube-proxy.log", "proxy\n"),
        ("/logs/?query=nginx", "nginx\n"),
        ("/logs/?query=syslog", "0123456789"),
        ("/logs/?query=none", "\nlog not found for none\n"),
        ("/logs/?query=pods", "\nlog not found for pods\n"),
        ("/logs/?query=..", "\nerror getting log for ..: path escapes from parent\n"),
        (
            "/logs/?query=nginx&query=kube-proxy&boot=0",
            "\noptions present and query resolved to log files for [nginx kube-proxy]\ntry without specifying options\n",
        ),
    ] {
        let told = node.get(uri).await;
        assert_eq!((told.code, told.text()), (200, text), "{uri}");
    }
}

#[tokio::test]
async fn without_journalctl_that_is_said() {
    let node = node(true);
    assert_eq!(node.get("/logs/?query=kube-proxy").await.text(), "proxy\n");
    assert_eq!(
        node.get("/logs/?query=kubelet").await.text(),
        "\nlog not found for kubelet\n\njournalctl is not installed on this node: only log files were looked for\n"
    );
}

#[tokio::test]
async fn answers_are_compressed_for_those_who_ask() {
    let node = node(true);
    node.journalctl("kubelet.service\\n", "seq 1 20000");
    let plain = node.get("/logs/?query=kubelet").await.body;
    let request = Request::get("/logs/?query=kubelet").header(ACCEPT_ENCODING, "gzip");
    let told = node.ask(request).await;
    assert_eq!(told.header(CONTENT_ENCODING), Some("gzip"));
    let mut unpacked = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(told.body.as_slice()), &mut unpacked)
        .unwrap();
    assert!(unpacked == plain && told.body.len() < plain.len() / 2);
    assert!(plain.ends_with(b"20000\n"));
}

#[tokio::test]
async fn a_program_that_never_ends_ends_with_its_client() {
    let node = node(true);
    // Whoever runs has it open for writing; who reads it meets its end when nobody does.
    let alive = node.base.path().join("alive");
    rustix::fs::mkfifoat(rustix::fs::CWD, &alive, rustix::fs::Mode::RWXU).unwrap();
    let mut runs = tokio::net::unix::pipe::OpenOptions::new().open_receiver(&alive).unwrap();
    node.journalctl("kubelet.service\\n", &format!("exec 3>{}; exec yes", alive.display()));
    let request = Request::get("/logs/?query=kubelet").body(body::whole("")).unwrap();
    let mut body = serve(&node.logs, request).await.into_body();
    for _ in 0..50 {
        assert!(body.frame().await.unwrap().unwrap().data_ref().unwrap().starts_with(b"y\n"));
    }
    drop(body);
    let mut nothing = [0];
    let end = tokio::io::AsyncReadExt::read(&mut runs, &mut nothing);
    assert_eq!(tokio::time::timeout(Duration::from_secs(30), end).await.unwrap().unwrap(), 0);
}

#[tokio::test]
async fn only_so_many_queries_run() {
    let node = node(true);
    let open = || serve(&node.logs, Request::get("/logs/?query=x").body(body::whole("")).unwrap());
    let mut held = Vec::new();
    for _ in 0..QUERIES {
        held.push(open().await);
    }
    assert_eq!(open().await.status(), 429);
    held.pop();
    assert_eq!(open().await.status(), 200);
}
