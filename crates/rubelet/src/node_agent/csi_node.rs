//! The CSINode of this node: made before the Node becomes Ready, and told of each driver that registers and leaves.
//!
//! Owns the writes of the CSINode and of what the Node says of drivers; what they say is `rubelet_core::node::csi`'. Run
//! by the node agent, used by whoever hears of drivers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::CSINode;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use rubelet_core::node::csi::{
    self, CsiNodeError, DriverOnNode, NOT_INITIALIZED, install, is_owned, new_csi_node, node_patch,
    node_patch_without, uninstall,
};
use tokio::sync::{Mutex, Notify, watch};
use tracing::{debug, info, warn};

use super::complaint::Complaint;
use super::requests::{RequestError, ask};
use crate::node_view::NodeView;

/// Tries of one change (upstream `updateBackoff`).
const TRIES: u32 = 4;
/// First pause between tries.
const TRY_PAUSE: Duration = Duration::from_millis(10);
/// First pause between tries to make the CSINode.
const INIT_PAUSE: Duration = Duration::from_millis(30);
/// Longest pause between them.
const INIT_LONGEST: Duration = Duration::from_secs(7);

/// Why the API server does not say what a driver says.
#[derive(Debug, thiserror::Error)]
pub(super) enum CsiNodeProblem {
    /// The driver's word cannot be taken.
    #[error(transparent)]
    Driver(#[from] CsiNodeError),
    /// The node is not registered yet.
    #[error("this node is not in the API yet")]
    NoNode,
    /// The API server.
    #[error("{what}: {problem}")]
    Request {
        /// What was asked for.
        what: &'static str,
        /// What came of it.
        problem: String,
    },
    /// The object was another Node's; it is gone now, and made anew at the next try.
    #[error("the CSINode belonged to an earlier node of this name and was deleted")]
    OfAnotherNode,
}

/// The CSINode; cheap to clone.
#[derive(Clone)]
pub struct CsiNodes(Arc<Shared>);

struct Shared {
    name: String,
    nodes: Api<Node>,
    objects: Api<CSINode>,
    limit: Duration,
    node: NodeView,
    /// Why the Node cannot be Ready.
    problem: watch::Sender<Option<String>>,
    /// What is to be told. Held over each change, so that none undoes another.
    wanted: Mutex<Wanted>,
    /// Something could not be told, or the Node is another one.
    again: Notify,
}

/// What the API server is to say of drivers. It may know of others, which were here before and may come back.
#[derive(Default)]
struct Wanted {
    /// Those that are registered.
    drivers: BTreeMap<String, DriverOnNode>,
    /// Those that have left and have not been taken out yet.
    gone: BTreeSet<String>,
}

impl CsiNodes {
    pub(super) fn new(client: kube::Client, name: String, limit: Duration, node: NodeView) -> Self {
        Self(Arc::new(Shared {
            name,
            nodes: Api::all(client.clone()),
            objects: Api::all(client),
            limit,
            node,
            problem: watch::Sender::new(Some(NOT_INITIALIZED.to_owned())),
            wanted: Mutex::default(),
            again: Notify::new(),
        }))
    }

    /// Why the node cannot be Ready for what volumes need.
    pub(super) fn problem(&self) -> watch::Receiver<Option<String>> {
        self.0.problem.subscribe()
    }

    /// A driver has registered, or says something else: the Node and the CSINode say so before this returns, if the API
    /// server can be reached, or else as soon as it can. What is mounted must be usable meanwhile.
    ///
    /// # Errors
    /// The driver's word cannot be taken: it must not count as registered.
    pub async fn install(&self, driver: &str, said: DriverOnNode) -> Result<(), CsiNodeError> {
        let mut wanted = self.0.wanted.lock().await;
        let told = self.tell(driver, &said).await;
        if let Err(CsiNodeProblem::Driver(error)) = told {
            return Err(error);
        }
        wanted.gone.remove(driver);
        wanted.drivers.insert(driver.to_owned(), said);
        self.later(told, driver);
        Ok(())
    }

    /// A driver has left. The API server hears of it now or as soon as it can be reached.
    pub async fn uninstall(&self, driver: &str) {
        let mut wanted = self.0.wanted.lock().await;
        wanted.drivers.remove(driver);
        let told = self.untell(driver).await;
        if told.is_err() {
            wanted.gone.insert(driver.to_owned());
        }
        self.later(told, driver);
    }

    /// The Node is another one than before, perhaps.
    pub(super) fn look(&self) {
        self.0.again.notify_one();
    }

    /// What could not be told is told by the task.
    fn later(&self, told: Result<(), CsiNodeProblem>, driver: &str) {
        if let Err(problem) = told {
            debug!("the API server has not heard of CSI driver {driver} yet: {problem}");
            self.0.again.notify_one();
        }
    }

    /// Makes the CSINode, and makes it again when the Node is another one; tells of drivers that could not be told of.
    pub(super) async fn run(self) {
        let mut complaint = Complaint::default();
        let mut known: Option<String> = None;
        let mut pause = INIT_PAUSE;
        loop {
            let uid = self.node_uid();
            if uid.is_none() || uid == known {
                // A notification is kept. Not the view's watch: it wakes its followers in an order of chance.
                self.0.again.notified().await;
                if self.node_uid() == known {
                    // Something could not be told.
                    known = None;
                }
                continue;
            }
            match self.initialize().await {
                Ok(()) => {
                    complaint.resolved("the CSINode of this node is up to date again");
                    (known, pause) = (uid, INIT_PAUSE);
                    self.0.problem.send_if_modified(|problem| problem.take().is_some());
                }
                Err(problem) => {
                    let text = format!("failed to initialize CSINode: {problem}");
                    complaint.say(text.clone());
                    // A node that was ready stays so: what is missing is missing for new volumes only.
                    self.0.problem.send_if_modified(|old| {
                        old.as_mut().is_some_and(|old| std::mem::replace(old, text.clone()) != text)
                    });
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(INIT_LONGEST);
                }
            }
        }
    }

    fn node_uid(&self) -> Option<String> {
        self.0.node.get()?.metadata.uid.clone()
    }

    async fn initialize(&self) -> Result<(), CsiNodeProblem> {
        let mut wanted = self.0.wanted.lock().await;
        self.change(csi::annotate).await?;
        let gone: Vec<String> = wanted.gone.iter().cloned().collect();
        for driver in gone {
            self.untell(&driver).await?;
            wanted.gone.remove(&driver);
        }
        for (driver, said) in &wanted.drivers {
            match self.tell(driver, said).await {
                // Somebody has changed the Node's labels since. The driver goes on; this is for its owner to see.
                Err(CsiNodeProblem::Driver(error)) => warn!("CSI driver {driver}: {error}"),
                told => told?,
            }
        }
        Ok(())
    }

    async fn tell(&self, driver: &str, said: &DriverOnNode) -> Result<(), CsiNodeProblem> {
        self.tries(Step::NodeSays(driver, said)).await?;
        self.tries(Step::Install(driver, said)).await
    }

    async fn untell(&self, driver: &str) -> Result<(), CsiNodeProblem> {
        self.tries(Step::Uninstall(driver)).await?;
        self.tries(Step::NodeSaysNot(driver)).await
    }

    async fn attempt(&self, step: &Step<'_>) -> Result<(), CsiNodeProblem> {
        match *step {
            Step::NodeSays(driver, said) => {
                let node = self.node().await?;
                self.patch_node(node_patch(&node, driver, said)?).await
            }
            Step::Install(driver, said) => self.change(|object| install(object, driver, said)).await,
            Step::Uninstall(driver) => {
                let Some(mut object) = self.object().await? else { return Ok(()) };
                if uninstall(&mut object, driver) {
                    self.replace(&object).await?;
                }
                Ok(())
            }
            Step::NodeSaysNot(driver) => {
                let node = self.node().await?;
                self.patch_node(node_patch_without(&node, driver)?).await
            }
        }
    }

    /// Changes the object, after making it if there is none. `change` says whether it changed anything.
    async fn change(&self, change: impl Fn(&mut CSINode) -> bool + Send) -> Result<(), CsiNodeProblem> {
        let uid = self.node_uid().ok_or(CsiNodeProblem::NoNode)?;
        let Some(mut object) = self.object().await? else {
            let mut object = new_csi_node(&self.0.name, &uid);
            change(&mut object);
            let made = ask(self.0.limit, self.0.objects.create(&PostParams::default(), &object)).await;
            made.map_err(|error| request("error creating CSINode", &error))?;
            info!(node = self.0.name, "made the CSINode");
            return Ok(());
        };
        if !is_owned(&object, &self.0.name, &uid) {
            warn!(node = self.0.name, "the CSINode belongs to an earlier node of this name and is deleted");
            let only = Preconditions { uid: object.metadata.uid.take(), resource_version: None };
            let options = DeleteParams { preconditions: Some(only), ..Default::default() };
            let gone = ask(self.0.limit, self.0.objects.delete(&self.0.name, &options)).await;
            gone.map_err(|error| request("error deleting existing CSINode", &error))?;
            return Err(CsiNodeProblem::OfAnotherNode);
        }
        if change(&mut object) {
            self.replace(&object).await?;
        }
        Ok(())
    }

    async fn object(&self) -> Result<Option<CSINode>, CsiNodeProblem> {
        match ask(self.0.limit, self.0.objects.get(&self.0.name)).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.code() == Some(404) => Ok(None),
            Err(error) => Err(request("error getting CSINode", &error)),
        }
    }

    async fn replace(&self, object: &CSINode) -> Result<(), CsiNodeProblem> {
        let options = PostParams::default();
        let replaced = ask(self.0.limit, self.0.objects.replace(&self.0.name, &options, object)).await;
        replaced.map(drop).map_err(|error| request("error updating CSINode", &error))
    }

    async fn node(&self) -> Result<Node, CsiNodeProblem> {
        let node = ask(self.0.limit, self.0.nodes.get(&self.0.name)).await;
        node.map_err(|error| request("error getting the node", &error))
    }

    async fn patch_node(&self, patch: Option<serde_json::Value>) -> Result<(), CsiNodeProblem> {
        let Some(patch) = patch else { return Ok(()) };
        let (options, patch) = (PatchParams::default(), Patch::Strategic(patch));
        let patched = ask(self.0.limit, self.0.nodes.patch_status(&self.0.name, &options, &patch)).await;
        patched.map(drop).map_err(|error| request("error updating node", &error))
    }

    /// Does it a few times, as long as a retry can help.
    async fn tries(&self, step: Step<'_>) -> Result<(), CsiNodeProblem> {
        let mut pause = TRY_PAUSE;
        let mut tries = 1;
        loop {
            match self.attempt(&step).await {
                Err(CsiNodeProblem::Request { .. } | CsiNodeProblem::OfAnotherNode) if tries < TRIES => {}
                done => return done,
            }
            tokio::time::sleep(pause).await;
            (pause, tries) = (pause * 5, tries + 1);
        }
    }
}

/// One write, done anew from the start when it fails.
enum Step<'a> {
    /// The Node's annotation and labels of a driver.
    NodeSays(&'a str, &'a DriverOnNode),
    /// The driver's entry in the CSINode.
    Install(&'a str, &'a DriverOnNode),
    /// The entry is taken out.
    Uninstall(&'a str),
    /// The Node's annotation is.
    NodeSaysNot(&'a str),
}

fn request(what: &'static str, error: &RequestError) -> CsiNodeProblem {
    CsiNodeProblem::Request { what, problem: error.to_string() }
}

#[cfg(test)]
mod tests;
