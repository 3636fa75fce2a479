//! What an owner does with the data folder: restarts, moves, backs up, restores, mistakes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;

use http::Method;
use serde_json::{Value, json};

use crate::client::{Client, config_map, others_are_served};
use crate::program::{PATIENCE, Program};
use crate::wait;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn told(output: &Output) -> (bool, String) {
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

async fn make(program: &Program, name: &str) -> Value {
    let owner = Client::owner(program).await.unwrap();
    let (code, made) = owner.call(Method::POST, MAPS, &config_map(name, 5)).await.unwrap();
    assert_eq!(code, 201, "{made}");
    made
}

async fn names(program: &Program) -> Vec<String> {
    let (_, list) = Client::owner(program).await.unwrap().get(MAPS).await.unwrap();
    let names =
        list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap());
    names.filter(|name| *name != "kube-root-ca.crt").map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_the_owners_alone() {
    let program = Program::start();
    let data = program.data_dir();
    for file in ["admin.conf", "pki/ca.key", "pki/apiserver.key", "pki/sa.key"] {
        assert_eq!(mode(&data.join(file)), 0o600, "{file}");
    }
    for folder in ["pki", "store"] {
        assert_eq!(mode(&data.join(folder)), 0o700, "{folder}");
    }
    // Secrets are in there.
    for file in fs::read_dir(data.join("store")).unwrap().flatten() {
        assert_eq!(mode(&file.path()) & 0o077, 0, "{:?}", file.path());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_finds_everything_again_at_another_address_too() {
    let mut program = Program::start();
    let before = make(&program, "kept").await;
    let ca = program.owner().ca_pem;
    fs::set_permissions(program.kubeconfig(), fs::Permissions::from_mode(0o644)).unwrap();
    program.stop();
    program.arguments = vec!["--bind-address=127.0.0.3".to_owned()];
    program.launch();
    let owner = program.owner();
    assert_eq!(owner.server, format!("https://{}", program.address), "the kubeconfig follows the address");
    assert!(program.address.ip().to_string() == "127.0.0.3");
    assert_eq!(owner.ca_pem, ca, "the authority stays");
    assert_eq!(mode(&program.kubeconfig()), 0o600, "it was made readable for all");
    let client = Client::owner(&program).await.unwrap();
    let (_, after) = client.get(&format!("{MAPS}/kept")).await.unwrap();
    assert_eq!(after, before);
    program.stop();
    // What pods are told can be another address of the machine than the one that is listened on.
    program.arguments = vec!["--advertise-address=192.0.2.7".to_owned()];
    program.launch();
    assert_eq!(program.owner().server, format!("https://192.0.2.7:{}", program.address.port()));
    let path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
    let (_, slice) = Client::owner(&program).await.unwrap().get(path).await.unwrap();
    assert_eq!(slice["endpoints"][0]["addresses"], json!(["192.0.2.7"]), "{slice}");
    assert_eq!(slice["ports"][0]["port"], program.address.port());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_data_folder_is_for_one_process() {
    let program = Program::start();
    let mut second = Program::prepared();
    second.data = Some(program.data_dir());
    let kubeconfig = fs::read(program.kubeconfig()).unwrap();
    second.spawn();
    let (well, log) = second.ended();
    assert!(!well && log.contains("in use by"), "{log}");
    assert_eq!(fs::read(program.kubeconfig()).unwrap(), kubeconfig, "the first one's kubeconfig");
    others_are_served(&program).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_root_folder_is_for_one_process() {
    let mut program = Program::start();
    let mut second = Program::prepared();
    second.arguments = vec![format!("--root-dir={}", program.dir.path().join("root").display())];
    second.spawn();
    let (well, log) = second.ended();
    let other = format!("another agent, process {},", program.process());
    assert!(!well && log.contains(&other) && log.contains("--root-dir"), "{log}");
    assert!(!second.data_dir().exists(), "it was refused before it began anything");
    others_are_served(&program).await;
    // Whatever the end of the first, the next has the folder.
    program.kill();
    second.launch();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_stops_misses_nothing() {
    let mut program = Program::start();
    wait::until("the node to be there", PATIENCE, || {
        let log = program.log();
        log.contains("registered").then_some(()).ok_or(log)
    });
    program.stop();
    let log = program.log();
    let (_, end) = log.split_once("stopping; containers go on running").unwrap();
    // That there is no runtime is true.
    let mut complaints = end.lines().filter(|line| line.contains("WARN") || line.contains("ERROR"));
    assert_eq!(complaints.find(|line| !line.contains("runtime")), None, "{log}");
}

#[test]
fn mistyped_words_are_told_what_may_be_meant() {
    let program = Program::prepared();
    for (word, meant) in [("bakcup", "\"backup\""), ("--bind-adress=::1", "--bind-address")] {
        let (well, text) = told(&program.command(&["local", word]).output().unwrap());
        assert!(!well && text.contains(&format!("did you mean {meant}?")), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_address_is_named() {
    let program = Program::start();
    let mut second = Program::prepared();
    second.arguments = vec![format!("--secure-port={}", program.address.port())];
    second.spawn();
    let (well, log) = second.ended();
    assert!(!well && log.contains(&format!("cannot listen on {}", program.address)), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_are_made_at_any_time_and_restored_at_rest() {
    let mut program = Program::start();
    let (running, stopped) = (program.dir.path().join("running"), program.dir.path().join("stopped"));
    let backup = |program: &Program, to: &Path| {
        told(&program.command(&["local", "backup", &to.display().to_string()]).output().unwrap())
    };
    let restore = |program: &Program, from: &Path| {
        told(&program.command(&["local", "restore", &from.display().to_string()]).output().unwrap())
    };
    make(&program, "first").await;
    let (well, text) = backup(&program, &running);
    assert!(well && text.contains("objects of revision"), "{text}");
    assert_eq!(mode(&running), 0o600);
    let (well, text) = backup(&program, &running);
    assert!(!well && text.contains("is there already"), "{text}");
    let (well, text) = backup(&program, &program.dir.path().join("no/such/folder"));
    assert!(!well && !text.is_empty(), "{text}");
    let last = make(&program, "second").await;
    let (well, text) = restore(&program, &running);
    assert!(!well && text.contains("in use"), "{text}");
    program.stop();
    let (well, text) = backup(&program, &stopped);
    assert!(well, "{text}");
    assert_eq!(mode(&stopped), 0o600);

    let (well, text) = restore(&program, &running);
    assert!(well && text.contains("are restored"), "{text}");
    program.launch();
    assert_eq!(names(&program).await, ["first"]);
    // Who remembers what is gone now is told to list again.
    let seen = last["metadata"]["resourceVersion"].as_str().unwrap();
    let client = Client::owner(&program).await.unwrap();
    let mut watch = client.watch(&format!("{MAPS}?watch=1&resourceVersion={seen}")).await.unwrap();
    let event = watch.next().await.unwrap();
    assert_eq!((event["type"].as_str(), event["object"]["code"].as_u64()), (Some("ERROR"), Some(410)));
    program.stop();

    let (well, text) = restore(&program, &stopped);
    assert!(well, "{text}");
    program.launch();
    assert_eq!(names(&program).await, ["first", "second"]);
    program.stop();

    let bytes = fs::read(&stopped).unwrap();
    let cut = program.dir.path().join("cut");
    for (what, content) in [("half", &bytes[..bytes.len() / 2]), ("text", b"hello"), ("nothing", b"")] {
        fs::write(&cut, content).unwrap();
        let (well, text) = restore(&program, &cut);
        assert!(!well && text.contains("cut"), "{what}: {text}");
        assert_eq!(text.contains("is no backup"), what != "half", "{what}: {text}");
    }
    let (well, text) = restore(&program, &program.dir.path().join("nowhere"));
    assert!(!well && text.contains("nowhere"), "{text}");
    program.launch();
    assert_eq!(names(&program).await, ["first", "second"], "a restore that fails changes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_store_or_key_is_named_and_nothing_is_begun_anew() {
    let mut program = Program::start();
    make(&program, "kept").await;
    program.stop();
    let key = program.data_dir().join("pki/ca.key");
    let good = fs::read(&key).unwrap();
    fs::write(&key, "nothing").unwrap();
    program.spawn();
    let (well, log) = program.ended();
    assert!(!well && log.contains("pki") && log.contains("cannot be used"), "{log}");
    fs::write(&key, good).unwrap();

    let store = fs::read_dir(program.data_dir().join("store")).unwrap().flatten().map(|file| file.path());
    let store = store.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let good = fs::read(&store).unwrap();
    for bad in [b"".as_slice(), b"hello", &good[..good.len() / 3]] {
        fs::write(&store, bad).unwrap();
        program.spawn();
        let (well, log) = program.ended();
        assert!(!well && log.contains(&store.display().to_string()), "{log}");
        assert_eq!(fs::read(&store).unwrap(), bad, "what is damaged stays for whoever can read it");
    }
    fs::write(&store, good).unwrap();
    program.launch();
    assert_eq!(names(&program).await, ["kept"]);
}
