//! The registry against real registration servers on unix sockets, in a folder that others use as they please.

// A test fails by panicking.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _};
use rubelet_linux::fs_pool::FsPool;
use rubelet_plugins::registration::v1;
use rubelet_plugins::registration::v1::registration_server::{Registration, RegistrationServer};
use rubelet_plugins::{CSI_PLUGIN, Plugin, PluginHandler, PluginRegistry, PluginState};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// Nothing that a test waits for takes this long; a test that waits longer has failed.
const LONG: Duration = Duration::from_secs(60);

/// A plugin at a socket. Ends with the value; its socket stays, as after a kill.
struct Served {
    task: JoinHandle<()>,
    verdicts: mpsc::UnboundedReceiver<(bool, String)>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Served {
    async fn verdict(&mut self) -> (bool, String) {
        tokio::time::timeout(LONG, self.verdicts.recv()).await.expect("a verdict").unwrap()
    }
}

#[derive(Clone)]
struct Registrar {
    info: v1::PluginInfo,
    hangs: bool,
    deaf: bool,
    verdicts: mpsc::UnboundedSender<(bool, String)>,
}

#[tonic::async_trait]
impl Registration for Registrar {
    async fn get_info(&self, _: Request<v1::InfoRequest>) -> Result<Response<v1::PluginInfo>, Status> {
        if self.hangs {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(self.info.clone()))
    }
    async fn notify_registration_status(
        &self,
        request: Request<v1::RegistrationStatus>,
    ) -> Result<Response<v1::RegistrationStatusResponse>, Status> {
        let status = request.into_inner();
        let _ended = self.verdicts.send((status.plugin_registered, status.error));
        if self.deaf {
            Err(Status::internal("deaf"))
        } else {
            Ok(Response::new(v1::RegistrationStatusResponse {}))
        }
    }
}

fn info(name: &str, endpoint: &str, versions: &[&str]) -> v1::PluginInfo {
    v1::PluginInfo {
        r#type: CSI_PLUGIN.into(),
        name: name.into(),
        endpoint: endpoint.into(),
        supported_versions: versions.iter().map(ToString::to_string).collect(),
    }
}

fn serve_with(socket: &Path, info: v1::PluginInfo, change: impl FnOnce(&mut Registrar)) -> Served {
    let (sender, verdicts) = mpsc::unbounded_channel();
    let mut registrar = Registrar { info, hangs: false, deaf: false, verdicts: sender };
    change(&mut registrar);
    let listener = UnixListener::bind(socket).unwrap();
    let task = tokio::spawn(async move {
        let server = Server::builder().add_service(RegistrationServer::new(registrar));
        server.serve_with_incoming(UnixListenerStream::new(listener)).await.unwrap();
    });
    Served { task, verdicts }
}

fn serve(socket: &Path, info: v1::PluginInfo) -> Served {
    serve_with(socket, info, |_| {})
}

/// Takes drivers with version 1, as many as there are names; notes what it hears.
#[derive(Default)]
struct Drivers {
    heard: Mutex<Vec<String>>,
    registered: Mutex<BTreeMap<String, Plugin>>,
    /// Registrations to fail.
    fail: Mutex<u32>,
}

impl PluginHandler for Drivers {
    fn kind(&self) -> &str {
        CSI_PLUGIN
    }
    fn validate(&self, plugin: &Plugin) -> Result<(), String> {
        if !plugin.versions.iter().any(|version| version.starts_with("1.")) {
            return Err(format!("none of {:?} is supported", plugin.versions));
        }
        let registered = self.registered.lock().unwrap();
        let other = registered.get(&plugin.name).filter(|old| old.socket != plugin.socket);
        if other.is_some_and(|old| old.versions >= plugin.versions) {
            return Err("another driver has the name".to_owned());
        }
        Ok(())
    }
    fn register<'a>(&'a self, plugin: &'a Plugin) -> BoxFuture<'a, Result<(), String>> {
        async move {
            let mut fail = self.fail.lock().unwrap();
            if *fail > 0 {
                *fail -= 1;
                return Err("the driver is not ready".to_owned());
            }
            let row = format!("+{} {} {}", plugin.name, plugin.endpoint.display(), plugin.versions.join(","));
            self.heard.lock().unwrap().push(row);
            self.registered.lock().unwrap().insert(plugin.name.clone(), plugin.clone());
            Ok(())
        }
        .boxed()
    }
    fn deregister<'a>(&'a self, plugin: &'a Plugin) -> BoxFuture<'a, ()> {
        async move {
            self.heard.lock().unwrap().push(format!("-{}", plugin.name));
            self.registered.lock().unwrap().remove(&plugin.name);
        }
        .boxed()
    }
}

/// A registry that runs.
struct Node {
    dir: tempfile::TempDir,
    drivers: Arc<Drivers>,
    state: watch::Receiver<PluginState>,
    task: JoinHandle<()>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Node {
    fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap())
    }

    fn start_in(dir: tempfile::TempDir) -> Self {
        let drivers = Arc::new(Drivers::default());
        let root = dir.path().join("plugins_registry");
        let registry = PluginRegistry::new(root, FsPool::new(2), vec![drivers.clone()]);
        let state = registry.state();
        Self { dir, drivers, state, task: tokio::spawn(registry.run()) }
    }

    /// A socket in the folder; the folder is there.
    async fn socket(&mut self, name: &str) -> PathBuf {
        self.until(|state| state.settled).await;
        self.dir.path().join("plugins_registry").join(name)
    }

    async fn until(&mut self, wanted: impl FnMut(&PluginState) -> bool) -> PluginState {
        let waited = tokio::time::timeout(LONG, self.state.wait_for(wanted)).await;
        waited.expect("the state comes about").unwrap().clone()
    }

    /// Waits until these plugins and no others are registered, as `name endpoint versions`.
    async fn registered(&mut self, wanted: &[&str]) {
        let row = |plugin: &Plugin| {
            format!("{} {} {}", plugin.name, plugin.endpoint.display(), plugin.versions.join(","))
        };
        self.until(|state| {
            let rows = state.plugins.iter().filter_map(|view| view.registered.as_ref()).map(row);
            rows.collect::<Vec<_>>() == wanted
        })
        .await;
    }

    fn heard(&self) -> Vec<String> {
        std::mem::take(&mut *self.drivers.heard.lock().unwrap())
    }
}

#[tokio::test]
async fn who_is_there_at_the_start_and_who_comes_later_are_registered() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("plugins_registry");
    std::fs::create_dir(&root).unwrap();
    let mut early = serve(&root.join("a-reg.sock"), info("a", "/a.sock", &["1.0.0"]));
    let mut node = Node::start_in(dir);
    let state = node.until(|state| state.settled).await;
    assert!(state.plugins[0].registered.is_some(), "settled only once all are asked: {state:?}");
    assert_eq!(early.verdict().await, (true, String::new()));
    let late_socket = node.socket("b-reg.sock").await;
    let mut late = serve(&late_socket, info("b", "", &["1.0.0", "1.2.0"]));
    assert_eq!(late.verdict().await, (true, String::new()));
    // Who names no endpoint is spoken to where it registers.
    let second = format!("b {} 1.0.0,1.2.0", late_socket.display());
    node.registered(&["a /a.sock 1.0.0", &second]).await;
    std::fs::remove_file(root.join("a-reg.sock")).unwrap();
    node.registered(&[&second]).await;
    assert_eq!(node.heard(), ["+a /a.sock 1.0.0".to_owned(), format!("+{second}"), "-a".to_owned()]);
}

#[tokio::test]
async fn one_that_restarts_with_another_endpoint_and_versions_replaces_itself() {
    let mut node = Node::start();
    let socket = node.socket("a-reg.sock").await;
    let first = serve(&socket, info("a", "/a.sock", &["1.0.0"]));
    node.registered(&["a /a.sock 1.0.0"]).await;
    drop(first);
    std::fs::remove_file(&socket).unwrap();
    let mut second = serve(&socket, info("a", "unix:///moved.sock", &["1.1.0"]));
    assert_eq!(second.verdict().await, (true, String::new()));
    node.registered(&["a /moved.sock 1.1.0"]).await;
    let heard = node.heard();
    // Whether the folder was looked at between removal and return is a matter of luck.
    let whole = ["+a /a.sock 1.0.0", "+a /moved.sock 1.1.0"];
    let seen_between = ["+a /a.sock 1.0.0", "-a", "+a /moved.sock 1.1.0"];
    assert!(heard == whole || heard == seen_between, "{heard:?}");
}

#[tokio::test]
async fn who_is_refused_is_told_why() {
    let mut node = Node::start();
    let socket = node.socket("old-reg.sock").await;
    let mut old = serve(&socket, info("old", "/o.sock", &["0.3.0"]));
    assert_eq!(
        old.verdict().await,
        (
            false,
            "RegisterPlugin error -- plugin validation failed with err: none of [\"0.3.0\"] is supported"
                .to_owned()
        )
    );
    let socket = node.socket("device-reg.sock").await;
    let kind = v1::PluginInfo { r#type: "ToasterPlugin".into(), ..info("t", "/t.sock", &["1.0.0"]) };
    let mut toaster = serve(&socket, kind);
    let text = format!(
        "RegisterPlugin error -- no handler registered for plugin type: ToasterPlugin at socket {}",
        socket.display()
    );
    assert_eq!(toaster.verdict().await, (false, text.clone()));
    let state = node.until(|state| state.plugins.iter().all(|view| view.problem.is_some())).await;
    assert_eq!(state.plugins[0].problem.as_ref(), Some(&text));
    // It is asked again, in case it thinks better of it.
    assert_eq!(toaster.verdict().await, (false, text));
    assert_eq!(node.heard(), Vec::<String>::new());
}

#[tokio::test]
async fn a_driver_that_is_not_ready_is_tried_again() {
    let mut node = Node::start();
    *node.drivers.fail.lock().unwrap() = 1;
    let socket = node.socket("a-reg.sock").await;
    let mut plugin = serve(&socket, info("a", "/a.sock", &["1.0.0"]));
    assert_eq!(
        plugin.verdict().await,
        (
            false,
            "RegisterPlugin error -- plugin registration failed with err: the driver is not ready".to_owned()
        )
    );
    assert_eq!(plugin.verdict().await, (true, String::new()));
    node.registered(&["a /a.sock 1.0.0"]).await;
}

#[tokio::test]
async fn who_hears_nothing_is_registered_and_told_again() {
    let mut node = Node::start();
    let socket = node.socket("a-reg.sock").await;
    let mut plugin = serve_with(&socket, info("a", "/a.sock", &["1.0.0"]), |registrar| registrar.deaf = true);
    assert_eq!(plugin.verdict().await, (true, String::new()));
    node.registered(&["a /a.sock 1.0.0"]).await;
    assert_eq!(plugin.verdict().await, (true, String::new()));
    assert!(!node.heard().contains(&"-a".to_owned()), "not taken back in between");
}

#[tokio::test]
async fn of_two_drivers_with_one_name_the_newer_version_has_it() {
    let mut node = Node::start();
    let (first, second) = (node.socket("1-reg.sock").await, node.socket("2-reg.sock").await);
    let _old = serve(&first, info("a", "/old.sock", &["1.0.0"]));
    node.registered(&["a /old.sock 1.0.0"]).await;
    let _new = serve(&second, info("a", "/new.sock", &["1.5.0"]));
    node.registered(&["a /new.sock 1.5.0"]).await;
    let mut third = serve(&node.socket("3-reg.sock").await, info("a", "/third.sock", &["1.2.0"]));
    assert_eq!(
        third.verdict().await.1,
        "RegisterPlugin error -- plugin validation failed with err: another driver has the name"
    );
    // The old one's end harms nobody; the new one's gives the name to who waits for it.
    std::fs::remove_file(&first).unwrap();
    node.until(|state| state.plugins.len() == 2).await;
    std::fs::remove_file(&second).unwrap();
    node.registered(&["a /third.sock 1.2.0"]).await;
    assert_eq!(node.heard(), ["+a /old.sock 1.0.0", "+a /new.sock 1.5.0", "-a", "+a /third.sock 1.2.0"]);
}

#[tokio::test]
async fn garbage_in_the_folder_and_silent_sockets_hold_up_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("plugins_registry");
    std::fs::create_dir_all(root.join("sub/deeper")).unwrap();
    std::fs::write(root.join("garbage.sock"), [0xff; 1000]).unwrap();
    std::fs::write(root.join("\u{fffd}\n.sock"), "").unwrap();
    symlink("nowhere", root.join("dangling.sock")).unwrap();
    symlink("/", root.join("everything")).unwrap();
    let outside = dir.path().join("outside.sock");
    let mut linked = serve(&outside, info("linked", "/l.sock", &["1.0.0"]));
    symlink(&outside, root.join("link-reg.sock")).unwrap();
    // Nobody accepts, nobody answers, nobody has a name, nobody says where.
    let _mute = UnixListener::bind(root.join("mute.sock")).unwrap();
    let _hangs =
        serve_with(&root.join("hangs.sock"), info("h", "/h", &["1.0.0"]), |plugin| plugin.hangs = true);
    let _nameless = serve(&root.join("nameless.sock"), info("", "/n", &["1.0.0"]));
    let _nowhere = serve(&root.join("nowhere.sock"), info("n", "relative.sock", &["1.0.0"]));
    let mut deep = serve(&root.join("sub/deeper/d-reg.sock"), info("deep", "/d.sock", &["1.0.0"]));
    let mut node = Node::start_in(dir);
    assert_eq!(deep.verdict().await, (true, String::new()));
    assert_eq!(linked.verdict().await, (true, String::new()));
    node.registered(&["linked /l.sock 1.0.0", "deep /d.sock 1.0.0"]).await;
    // A folder that is made later is watched as well, and one that goes takes its plugins with it.
    std::fs::create_dir(root.join("later")).unwrap();
    let mut later = serve(&root.join("later/x-reg.sock"), info("later", "/x.sock", &["1.0.0"]));
    assert_eq!(later.verdict().await, (true, String::new()));
    std::fs::remove_dir_all(root.join("sub")).unwrap();
    node.registered(&["later /x.sock 1.0.0", "linked /l.sock 1.0.0"]).await;
    let state = node.until(|state| state.settled).await;
    let problem = |name: &str| {
        let of = state.plugins.iter().find(|view| view.socket.ends_with(name));
        of.and_then(|view| view.problem.clone()).unwrap_or_default()
    };
    assert!(problem("nameless.sock").ends_with("the plugin has no name"), "{state:?}");
    assert!(problem("nowhere.sock").ends_with("endpoint \"relative.sock\" is not an absolute path"));
    assert!(problem("mute.sock").ends_with("no answer within 5 s"));
}

#[tokio::test]
async fn a_folder_that_is_removed_comes_back_and_is_watched_again() {
    let mut node = Node::start();
    let socket = node.socket("a-reg.sock").await;
    let first = serve(&socket, info("a", "/a.sock", &["1.0.0"]));
    node.registered(&["a /a.sock 1.0.0"]).await;
    drop(first);
    std::fs::remove_dir_all(socket.parent().unwrap()).unwrap();
    node.registered(&[]).await;
    let mut again = serve(&socket, info("a", "/a.sock", &["1.0.0"]));
    assert_eq!(again.verdict().await, (true, String::new()));
    node.registered(&["a /a.sock 1.0.0"]).await;
    assert_eq!(node.heard(), ["+a /a.sock 1.0.0", "-a", "+a /a.sock 1.0.0"]);
}
