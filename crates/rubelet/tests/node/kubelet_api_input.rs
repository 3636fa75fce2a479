//! What strangers and bad clients may try at the kubelet API's port: paths that climb, heads that are too large, requests
//! that never end, bytes that are no TLS; and a serving certificate that changes while everybody asks.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::kubelet_api::{Answer, Client, authority, open_node, serve_by};
use crate::wait::{self, PATIENCE};

/// A file in /var/log that goes with the test.
struct LogFile(String);

impl LogFile {
    fn new() -> Self {
        let name = format!("rubelet-test-{}", std::process::id());
        let dir = format!("/var/log/{name}");
        fs::create_dir_all(&dir).unwrap();
        fs::write(format!("{dir}/a b.log"), "of a test\n").unwrap();
        std::os::unix::fs::symlink("/etc", format!("{dir}/out")).unwrap();
        std::os::unix::fs::symlink("../../../etc/passwd", format!("{dir}/passwd")).unwrap();
        Self(name)
    }
}

impl Drop for LogFile {
    fn drop(&mut self) {
        let _it_goes_with_the_machine = fs::remove_dir_all(format!("/var/log/{}", self.0));
    }
}

#[test]
fn kubelet_api_stands_bad_input() {
    let (node, client, _) = open_node("");
    beneath_var_log(&client);
    heads(&client);
    bodies(&client);
    slow(&client, node.api_port());
    methods(&client);
    assert_eq!(client.page("/healthz"), "ok");
}

/// `/logs` shows /var/log and nothing else, however it is written.
fn beneath_var_log(client: &Client) {
    let file = LogFile::new();
    let name = &file.0;
    assert_eq!(client.page(&format!("/logs/{name}/a%20b.log")), "of a test\n");
    let listing = client.page("/logs/");
    assert!(listing.contains(&format!("<a href=\"{name}/\">{name}/</a>")), "{listing}");
    let secret = fs::read_to_string("/etc/passwd").unwrap();
    let secret = secret.lines().next().unwrap();
    for path in [
        "../../etc/passwd",
        "..%2f..%2fetc%2fpasswd",
        "..%2F..%2Fetc/passwd",
        "%2e%2e/%2e%2e/etc/passwd",
        "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "%252e%252e/%252e%252e/etc/passwd",
        "..%252f..%252fetc%252fpasswd",
        "..%5c..%5cetc%5cpasswd",
        "..\\..\\etc\\passwd",
        "....//....//etc/passwd",
        "%c0%ae%c0%ae/etc/passwd",
        "..%c0%af..%c0%afetc/passwd",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "//etc/passwd",
        "..%00/etc/passwd",
        "%00",
        "..;/..;/etc/passwd",
        "./.././../etc/passwd",
        "out/passwd",
        "out/",
        "passwd",
        "out/../out/passwd",
        "%2e%2e",
        "..",
        "..%2f",
        "%ff%fe",
        "..%u2215etc",
    ] {
        for prefix in ["/logs/".to_owned(), format!("/logs/{name}/"), "/./logs/".to_owned()] {
            for headers in ["", "Range: bytes=0-\r\n", "Accept-Encoding: gzip\r\n"] {
                let answer = client.send(&format!("GET {prefix}{path}"), headers, b"");
                let text = answer.text();
                assert!(!text.contains(secret) && !text.contains("root:"), "{prefix}{path}: {text}");
                let refused = matches!(answer.code, 301 | 307 | 400 | 403 | 404 | 500);
                let plain = answer.code == 200 && ["..", "%2e%2e", "..%2f"].contains(&path);
                assert!(refused || plain, "{prefix}{path}: {}: {text}", answer.code);
                if matches!(answer.code, 301 | 307) {
                    // Nothing behind the way that is shown instead either, on this machine or another.
                    let place = answer.header("location");
                    assert!(!place.starts_with("//") && !place.contains("://"), "{prefix}{path}: {place}");
                    let there =
                        client.ask(&format!("GET {}", if place.starts_with('/') { place } else { "/" }));
                    assert!(!there.text().contains(secret), "{prefix}{path}: {place}");
                }
            }
        }
    }
    let answer = client.send(&format!("GET /logs/{name}/a%20b.log"), "Range: bytes=3-\r\n", b"");
    assert_eq!((answer.code, answer.text().as_str()), (206, "a test\n"));
    let answer = client.send(&format!("GET /logs/{name}/a%20b.log"), "Range: bytes=100-\r\n", b"");
    assert_eq!(answer.code, 416);
}

/// What is no head, or too large a one, is refused, and nothing of it comes back.
fn heads(client: &Client) {
    let large = |size: usize| format!("X-Large: {}\r\n", "x".repeat(size));
    assert_eq!(client.send("GET /healthz", &large(30_000), b"").code, 200);
    for (line, headers) in [
        ("GET /healthz".to_owned(), large(2 << 20)),
        ("GET /healthz".to_owned(), large(1000).repeat(2000)),
        (format!("GET /{}", "x".repeat(2 << 20)), String::new()),
        (format!("GET /healthz?{}", "x".repeat(2 << 20)), String::new()),
        ("GET /healthz".to_owned(), "no colon\r\n".to_owned()),
        ("GET /healthz".to_owned(), "Content-Length: x\r\n".to_owned()),
        ("GET /healthz".to_owned(), "Content-Length: 5\r\nContent-Length: 6\r\n".to_owned()),
        ("GET /heal thz".to_owned(), String::new()),
        ("G\u{1}T /healthz".to_owned(), String::new()),
    ] {
        let what = &line[..line.len().min(40)];
        match client.try_send(&line, &headers, b"") {
            // A server that closes while it is still told things may be heard or not.
            Err(_) => assert!(line.len() + headers.len() > 1 << 20, "{what}"),
            Ok(answer) => {
                let codes = if line.len() + headers.len() > 1 << 20 { [414, 431] } else { [400; 2] };
                assert!(codes.contains(&answer.code), "{what}: {}", answer.head);
                assert!(!answer.text().contains("xxxx"), "{what}");
            }
        }
    }
    let mut both = client.connect();
    let smuggled = "POST /run/a/b/c HTTP/1.1\r\nHost: n\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n\
                    0\r\n\r\nGET /pods HTTP/1.1\r\nHost: n\r\n\r\n";
    both.get_mut().write_all(smuggled.as_bytes()).unwrap();
    let answer = Answer::read(&mut both);
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.code >= 400));
    // A token in a head is in no answer.
    let bearer = client.bearing("s3cr3t-t0ken");
    for line in [
        "GET /none",
        "GET /pods/x",
        "POST /run/a/b/c",
        "GET /exec/a/b/c",
        "PUT /debug/flags/v",
        "GET /logs/no",
    ] {
        let answer = bearer.ask(line);
        assert!(
            answer.code >= 400 && !answer.head.contains("s3cr3t") && !answer.text().contains("s3cr3t"),
            "{line}"
        );
    }
}

/// Forms and levels have a length; what is too long is not read to its end.
fn bodies(client: &Client) {
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    let long = vec![b'a'; 4 << 20];
    for (line, codes) in [
        ("POST /stats/summary", [500, 413]),
        ("PUT /debug/flags/v", [400, 413]),
        ("POST /run/default/none/main", [404, 400]),
    ] {
        // The client may be cut off while it sends.
        if let Ok(answer) = client.try_send(line, form, &long) {
            assert!(codes.contains(&answer.code), "{line}: {answer:?}");
            assert!(answer.body.len() < 1000, "{line}");
        }
    }
    for (query, text) in
        [("%zz", "invalid URL escape \"%zz\""), ("a;b", "invalid semicolon separator in query")]
    {
        let answer = client.ask(&format!("GET /stats/summary?{query}"));
        assert_eq!(answer.code, 500);
        assert!(answer.text().contains(text), "{}", answer.text());
    }
}

/// Those who never finish what they say keep nobody away.
fn slow(client: &Client, port: u16) {
    let mut silent = vec![];
    let mut hesitant = vec![];
    for _ in 0..100 {
        silent.push(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap());
        let mut half = client.connect();
        half.get_mut().write_all(b"GET /healthz HTTP/1.1\r\nHost: n\r\nX-Slow: ").unwrap();
        hesitant.push(half);
    }
    for _ in 0..20 {
        for half in &mut hesitant {
            half.get_mut().write_all(b"x").unwrap();
        }
        assert_eq!(client.page("/healthz"), "ok");
    }
    for noise in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x16, 3, 1, 0xff, 0xff], &[0; 100], b"\x16\x03\x01\x00\x05hello"]
    {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.write_all(noise).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut said = vec![];
        let _ = stream.read_to_end(&mut said);
        assert!(!String::from_utf8_lossy(&said).contains("HTTP/1.1 2"), "{noise:?}");
    }
    // Whoever does finish is answered.
    let mut last = hesitant.pop().unwrap();
    last.get_mut().write_all(b"\r\n\r\n").unwrap();
    assert_eq!(Answer::read(&mut last).unwrap().code, 200);
}

fn methods(client: &Client) {
    for (line, code, allowed) in [
        ("POST /pods", 405, "GET"),
        ("DELETE /runningpods/", 405, "GET"),
        ("PUT /stats/summary", 405, "GET, POST"),
        ("PUT /exec/a/b/c", 405, "GET, POST"),
        ("GET /run/a/b/c", 405, "POST"),
        ("GET /checkpoint/a/b/c", 405, "POST"),
        ("POST /containerLogs/a/b/c", 405, "GET"),
        ("TRACE /pods", 405, "GET"),
        ("BREW /pods", 405, "GET"),
        ("CONNECT /pods", 404, ""),
        ("GET /exec/a%2", 400, ""),
        ("GET /exec/%zz/b/c", 400, ""),
    ] {
        let answer = client.ask(line);
        assert_eq!((answer.code, answer.header("allow")), (code, allowed), "{line}: {}", answer.text());
    }
}

#[test]
fn kubelet_api_changes_its_certificate_under_load() {
    let (node, client, old) = open_node("");
    let new = authority("serving-2");
    let (done, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let after = Client::of(&node, &[&new], None);
    let both = Client::of(&node, &[&old, &new], None);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                // Who is connected stays so.
                let mut kept = client.connect();
                while !done.load(Ordering::SeqCst) {
                    kept.get_mut().write_all(b"GET /healthz HTTP/1.1\r\nHost: n\r\n\r\n").unwrap();
                    assert_eq!(Answer::read(&mut kept).unwrap().code, 200);
                    // Whoever comes gets the one certificate or the other.
                    assert_eq!(both.ask("GET /pods").code, 200);
                    served.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let rounds = |count: usize| {
            let wanted = served.load(Ordering::SeqCst) + count;
            wait::until("requests to be served", PATIENCE, || match served.load(Ordering::SeqCst) {
                seen if seen >= wanted => Ok(()),
                seen => Err(seen.to_string()),
            });
        };
        let shows = |who: &Client| {
            wait::until("the certificate to be shown", PATIENCE, || match who.try_connect() {
                Ok(_) => Ok(()),
                Err(error) => Err(error.to_string()),
            });
        };
        rounds(8);
        serve_by(&new, &node);
        shows(&after);
        rounds(8);
        assert!(client.try_connect().is_err(), "the old certificate is shown still");
        // Half of a pair, and nonsense, change nothing.
        fs::write(node.path("serving.crt"), "nonsense").unwrap();
        rounds(8);
        shows(&after);
        serve_by(&old, &node);
        shows(&client);
        rounds(8);
        done.store(true, Ordering::SeqCst);
    });
}
