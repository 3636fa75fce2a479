//! The task behind registration: looks into the folder when it changes, talks to plugins, calls handlers. What to do is
//! `book`'s to say. At rest it waits for the watch and for a scan every few minutes, in case a hint was lost.
//! Made and run by the shell, once.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::{FuturesUnordered, StreamExt as _};
use rubelet_linux::fs_pool::FsPool;
use rubelet_linux::watch::DirWatch;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::book::{Book, Registration, Step};
use crate::folder::{self, Found};
use crate::handler::{Plugin, PluginHandler};
use crate::registration;

/// How often the folder is looked at though nothing was heard.
const REPAIR: Duration = Duration::from_secs(300);
/// How often it is looked at while there is no watch.
const WITHOUT_WATCH: Duration = Duration::from_secs(10);

/// What is known of one socket in the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginView {
    /// The socket.
    pub socket: PathBuf,
    /// What is registered of it.
    pub registered: Option<Plugin>,
    /// What is wrong with it.
    pub problem: Option<String>,
}

/// All sockets in the folder, by path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PluginState {
    /// The folder was looked at once, and every socket that lay in it then was asked once and either registered or given
    /// an answer: from here on a plugin that is not registered is not there.
    pub settled: bool,
    /// The sockets.
    pub plugins: Vec<PluginView>,
}

/// Watches the folder and keeps plugins registered. See [`PluginRegistry::run`].
pub struct PluginRegistry {
    root: PathBuf,
    fs: FsPool,
    handlers: Vec<Arc<dyn PluginHandler>>,
    state: watch::Sender<PluginState>,
}

/// What ended.
enum Ended {
    Asked(PathBuf, Result<Plugin, String>),
    Registered(Plugin, Registration),
    Refused(Plugin),
    Deregistered(Plugin),
}

impl PluginRegistry {
    /// A registry of the plugins that register in `root` (upstream `plugins_registry`), which is made when it is missing.
    pub fn new(root: PathBuf, fs: FsPool, handlers: Vec<Arc<dyn PluginHandler>>) -> Self {
        Self { root, fs, handlers, state: watch::Sender::default() }
    }

    /// What is registered, as it changes: for `plugin_manager_total_plugins` and for whoever waits for the first round.
    pub fn state(&self) -> watch::Receiver<PluginState> {
        self.state.subscribe()
    }

    /// Runs until it is dropped. Dropping it forgets what is registered and tells nobody: plugins outlive the agent, and
    /// the next one asks them anew.
    pub async fn run(self) {
        let mut book = Book::default();
        let mut watch: Option<(DirWatch, Vec<PathBuf>)> = None;
        let mut under_way: FuturesUnordered<BoxFuture<'_, Ended>> = FuturesUnordered::new();
        let mut settled = false;
        let mut look = true;
        let mut first = None;
        let mut complained = false;
        loop {
            if look {
                match self.look(&mut watch).await {
                    Ok(found) => {
                        if found.truncated && !complained {
                            tracing::warn!(folder = %self.root.display(), "too much lies in the folder of plugins: some of it is left out");
                        }
                        complained = found.truncated;
                        first.get_or_insert_with(|| found.sockets.keys().cloned().collect::<Vec<_>>());
                        book.observe(&found.sockets, Instant::now());
                    }
                    Err(problem) => {
                        if !complained {
                            tracing::warn!(folder = %self.root.display(), %problem, "the folder of plugins cannot be read");
                        }
                        complained = true;
                    }
                }
            }
            for step in book.steps(Instant::now()) {
                under_way.push(self.begin(step));
            }
            if let Some(sockets) = &first
                && !settled
            {
                settled = sockets.iter().all(|socket| book.has_answered(socket));
            }
            self.publish(&book, settled);
            let period = if watch.is_some() { REPAIR } else { WITHOUT_WATCH };
            // All arms are cancel-safe: what is under way stays in its set, events stay in the kernel and in the watch, and
            // what is due stays in the book. The period begins anew with every turn, which only ever puts off a repair.
            look = tokio::select! {
                biased;
                Some(ended) = under_way.next() => {
                    self.note(&mut book, ended);
                    false
                }
                hint = changed(&mut watch) => {
                    if hint.is_err() {
                        watch = None;
                    }
                    true
                }
                () = at(book.due()) => false,
                () = tokio::time::sleep(period) => true,
            };
        }
    }

    /// Looks at the folder, and sees to it that what is in it is watched.
    async fn look(&self, watch: &mut Option<(DirWatch, Vec<PathBuf>)>) -> Result<Found, String> {
        let mut found = self.scan().await?;
        // A folder that appeared is watched from now on, and looked at again: what came in before is found then.
        if watch.as_ref().is_none_or(|(_, dirs)| *dirs != found.dirs) {
            let dirs = found.dirs.clone();
            let what = format!("watch {}", self.root.display());
            *watch = match self.fs.run(what, move || Ok((folder::watch(&dirs)?, dirs))).await {
                Ok(made) => Some(made),
                Err(error) => {
                    tracing::warn!(folder = %self.root.display(), %error, "the folder of plugins cannot be watched");
                    None
                }
            };
            found = self.scan().await?;
        }
        Ok(found)
    }

    async fn scan(&self) -> Result<Found, String> {
        let root = self.root.clone();
        let what = format!("look into {}", self.root.display());
        let scan = move || {
            folder::create(&root)?;
            folder::scan(&root)
        };
        self.fs.run(what, scan).await.map_err(|error| {
            let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            format!("{error}: {source}")
        })
    }

    fn handler(&self, plugin: &Plugin) -> Result<&Arc<dyn PluginHandler>, String> {
        self.handlers.iter().find(|handler| handler.kind() == plugin.kind).ok_or_else(|| {
            format!(
                "RegisterPlugin error -- no handler registered for plugin type: {} at socket {}",
                plugin.kind,
                plugin.socket.display()
            )
        })
    }

    /// Whether a plugin may register; the words are upstream's, which registrars log.
    fn verdict(&self, plugin: &Plugin) -> Result<(), String> {
        let validated = self.handler(plugin)?.validate(plugin);
        validated
            .map_err(|reason| format!("RegisterPlugin error -- plugin validation failed with err: {reason}"))
    }

    /// Begins one step; it ends by itself.
    fn begin(&self, step: Step) -> BoxFuture<'_, Ended> {
        async move {
            match step {
                Step::Ask(socket) => {
                    let answer = registration::ask(&socket).await;
                    Ended::Asked(socket, answer)
                }
                Step::Register(plugin) => {
                    let result = self.register(&plugin).await;
                    Ended::Registered(plugin, result)
                }
                Step::Refuse(plugin, reason) => {
                    // Whether it hears it or not, it is refused.
                    let _unheard = registration::tell(&plugin.socket, Err(reason)).await;
                    Ended::Refused(plugin)
                }
                Step::Deregister(plugin) => {
                    if let Ok(handler) = self.handler(&plugin) {
                        handler.deregister(&plugin).await;
                    }
                    Ended::Deregistered(plugin)
                }
            }
        }
        .boxed()
    }

    async fn register(&self, plugin: &Plugin) -> Registration {
        let taken = match self.handler(plugin) {
            Ok(handler) => handler.register(plugin).await,
            Err(reason) => Err(reason),
        };
        let taken = taken.map_err(|reason| {
            format!("RegisterPlugin error -- plugin registration failed with err: {reason}")
        });
        let told = registration::tell(&plugin.socket, taken.clone()).await;
        match (taken, told) {
            (Ok(()), Ok(())) => Registration::Done,
            (Ok(()), Err(problem)) => Registration::Untold(problem),
            (Err(problem), _) => Registration::Failed(problem),
        }
    }

    /// Tells the book what ended, and the log what is new in that.
    fn note(&self, book: &mut Book, ended: Ended) {
        let now = Instant::now();
        let socket = match &ended {
            Ended::Asked(socket, _) => socket.clone(),
            Ended::Registered(plugin, _) | Ended::Refused(plugin) | Ended::Deregistered(plugin) => {
                plugin.socket.clone()
            }
        };
        let before = book.problem(&socket).map(str::to_owned);
        match ended {
            Ended::Asked(socket, answer) => {
                let answer = answer.map(|plugin| {
                    let verdict = self.verdict(&plugin);
                    (plugin, verdict)
                });
                book.asked(&socket, answer, now);
            }
            Ended::Registered(plugin, result) => {
                if !matches!(result, Registration::Failed(_)) {
                    let Plugin { kind, name, endpoint, versions, .. } = &plugin;
                    tracing::info!(kind, name, endpoint = %endpoint.display(), ?versions, "plugin registered");
                }
                book.registered(plugin, result, now);
            }
            Ended::Refused(plugin) => book.refused(&plugin, now),
            Ended::Deregistered(plugin) => {
                tracing::info!(kind = plugin.kind, name = plugin.name, "plugin deregistered");
                book.deregistered(&plugin, now);
            }
        }
        let problem = book.problem(&socket);
        if let Some(problem) = problem.filter(|problem| before.as_deref() != Some(*problem)) {
            tracing::warn!(socket = %socket.display(), problem, "plugin not registered");
        }
    }

    /// Tells those who look on, if there is anything new.
    fn publish(&self, book: &Book, settled: bool) {
        let view = |(socket, registered, problem): (&Path, Option<&Plugin>, Option<&str>)| PluginView {
            socket: socket.to_path_buf(),
            registered: registered.cloned(),
            problem: problem.map(str::to_owned),
        };
        let state = PluginState { settled, plugins: book.view().map(view).collect() };
        self.state.send_if_modified(|old| {
            let new = *old != state;
            if new {
                *old = state;
            }
            new
        });
    }
}

/// The next hint of the watch, if there is one.
async fn changed(watch: &mut Option<(DirWatch, Vec<PathBuf>)>) -> std::io::Result<()> {
    match watch {
        Some((watch, _)) => watch.changed().await,
        None => std::future::pending().await,
    }
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
