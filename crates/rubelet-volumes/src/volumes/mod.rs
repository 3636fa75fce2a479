//! All volumes of a pod: made ready together, kept up to date, removed on proof that nothing of the pod runs.
//!
//! Owns the order gather → plan → do for each volume. Called by the pod's worker before containers start, again
//! whenever something a volume shows may have changed, and once at the end.

pub(crate) mod pending;
pub(crate) mod take_down;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{join, join_all};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod, Volume};
use rubelet_core::claims::Claim;
use rubelet_core::downward::DownwardFacts;
use rubelet_core::env::Missing;
use rubelet_core::ids::PodUid;
use rubelet_core::projection::{
    FilesSource, Gathered, Needs, ObjectKind, TOKEN_RETRY_SECONDS, TokenKey, adopted_token, clean_path, needs,
};
use rubelet_core::tally::volume_plugin;
use rubelet_core::volumes::{CsiVolume, inline_csi};
use rubelet_linux::fs_pool::FsPool;
use tokio::time::Instant;

use crate::atomic::DATA;
use crate::csi::{CSI_PLUGIN, Csi, CsiUse};
use crate::error::{Problem, VolumeError, VolumeErrors};
use crate::group::Notices;
use crate::journal::{MountJournal, MountSource};
use crate::kinds::tmpfs::Tmpfs;
use crate::kinds::{PlanFacts, VolumePlan, files_home, is_set_up};
use crate::objects::ObjectReader;
use crate::tokens::TokenManager;
use pending::Pending;
pub use take_down::{TearDownError, TearDownErrors};

/// Largest token that is looked for in a volume, bytes.
const TOKEN_LIMIT: u64 = 64 * 1024;

/// A volume that is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadyVolume {
    /// Where it lies on the node.
    pub path: PathBuf,
    /// The agent made it, so that its SELinux label may be changed.
    pub ours: bool,
    /// Containers may only read it, whatever their mounts say.
    pub read_only: bool,
}

/// The volumes of a pod, by name.
pub type VolumePaths = BTreeMap<String, ReadyVolume>;

/// What is known of node and pod when volumes are made ready.
#[derive(Clone, Debug)]
pub struct VolumeFacts {
    /// For downward API files and for the size of volumes in memory.
    pub downward: DownwardFacts,
    /// The node as the API has it, once known: volumes may be for certain nodes.
    pub node: Option<Arc<Node>>,
    /// The time now.
    pub now: Timestamp,
}

/// Something that users should know of a volume that is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeWarning {
    /// The event's reason.
    pub reason: &'static str,
    /// The event's message.
    pub message: String,
    /// The event is a normal one: something was done.
    pub normal: bool,
}

/// All volumes of a pod, ready.
#[derive(Debug)]
pub struct MountedVolumes {
    /// Where they lie.
    pub paths: VolumePaths,
    /// When to call again at the latest, for a token that is due or a volume that is behind.
    pub refresh_at: Option<Timestamp>,
    /// Volumes that could not be brought up to date and show what they showed before: to be told, not to stop for.
    pub behind: Vec<VolumeError>,
    /// What else is to be told.
    pub warnings: Vec<VolumeWarning>,
}

/// An operation on a volume that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VolumeOperation {
    /// The kind of volume, by the name of upstream's plugin.
    pub plugin: &'static str,
    /// What was done, as upstream calls it: `volume_mount`. Volumes are removed all together, whatever their kind.
    pub operation: &'static str,
    /// Whether it was done.
    pub done: bool,
    /// How long it took.
    pub took: Duration,
}

/// Is told of operations; must not block.
pub type VolumeObserver = Arc<dyn Fn(&VolumeOperation) + Send + Sync>;

/// Is told before and after each thing that is done outside the agent, so that tests can end it there. Must not block.
pub type Steps = Arc<dyn Fn(&str) + Send + Sync>;

/// The volumes of this node's pods. Cheap to clone.
#[derive(Clone)]
pub struct Volumes {
    pub(crate) fs: FsPool,
    pub(crate) objects: Option<Arc<dyn ObjectReader>>,
    tokens: Option<Arc<TokenManager>>,
    pub(crate) tmpfs: Tmpfs,
    pub(crate) journal: MountJournal,
    pub(crate) pending: Pending,
    pub(crate) csi: Option<Csi>,
    observer: Option<VolumeObserver>,
    pub(crate) notices: Option<Notices>,
    steps: Option<Steps>,
}

impl Volumes {
    /// Volumes of a node; without `objects` and `tokens` one that has no API server.
    pub fn new(
        fs: FsPool,
        objects: Option<Arc<dyn ObjectReader>>,
        tokens: Option<Arc<TokenManager>>,
    ) -> Self {
        Self {
            fs,
            objects,
            tokens,
            tmpfs: Tmpfs::Mount,
            journal: MountJournal::in_memory(),
            pending: Pending::default(),
            csi: None,
            observer: None,
            notices: None,
            steps: None,
        }
    }

    /// Makes volumes in memory in another way.
    #[must_use]
    pub fn with_tmpfs(mut self, tmpfs: Tmpfs) -> Self {
        self.tmpfs = tmpfs;
        self
    }

    /// Keeps what is mounted for whom in this journal.
    #[must_use]
    pub fn with_journal(mut self, journal: MountJournal) -> Self {
        self.journal = journal;
        self
    }

    /// Has volumes of drivers, which a node without it cannot mount.
    #[must_use]
    pub fn with_csi(mut self, csi: Csi) -> Self {
        self.csi = Some(csi);
        self
    }

    /// Tells pods of what takes long, while it does.
    #[must_use]
    pub fn with_notices(mut self, notices: Notices) -> Self {
        self.notices = Some(notices);
        self
    }

    /// Tells of every operation on a volume.
    #[must_use]
    pub fn with_observer(mut self, observer: VolumeObserver) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Tells of every step. For tests.
    #[must_use]
    pub fn with_steps(mut self, steps: Steps) -> Self {
        self.steps = Some(steps);
        self
    }

    pub(crate) fn step(&self, what: &str) {
        if let Some(steps) = &self.steps {
            steps(what);
        }
    }

    /// Mounts a volume that lives outside the pod's own directories, as the journal knows before and after.
    pub(crate) async fn journaled<T>(
        &self,
        uid: &PodUid,
        volume: &str,
        source: MountSource,
        mount: impl Future<Output = Result<T, Problem>>,
    ) -> Result<T, Problem> {
        self.step("begin record");
        self.journal.begin(uid, volume, source).await?;
        self.step("mount");
        let mounted = mount.await?;
        self.step("mounted");
        self.journal.mounted(uid, volume).await?;
        self.step("recorded");
        Ok(mounted)
    }

    /// Does something with a volume, and tells how that went.
    pub(crate) async fn observed<T, E>(
        &self,
        plugin: &'static str,
        operation: &'static str,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let began = Instant::now();
        let result = work.await;
        if let Some(observer) = &self.observer {
            observer(&VolumeOperation { plugin, operation, done: result.is_ok(), took: began.elapsed() });
        }
        result
    }

    /// Makes every volume of the pod ready and up to date, all of them together; idempotent, writes only what changed.
    ///
    /// # Errors
    /// Every volume that is not there. One that was there before and cannot be brought up to date is none of them:
    /// see [`MountedVolumes::behind`].
    pub async fn set_up(
        &self,
        pod: &Pod,
        pod_dir: &Path,
        facts: &VolumeFacts,
    ) -> Result<MountedVolumes, VolumeErrors> {
        let uid = PodUid::from(pod.metadata.uid.as_deref().unwrap_or_default());
        let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        // The runtime mounts images.
        let volumes = volumes.filter(|volume| volume.image.is_none());
        let others = volumes.filter(|volume| Claim::of(pod, volume).is_none()).map(async |volume| {
            let _working = self.pending.begin(&uid, &volume.name);
            (volume, self.set_up_one(volume, pod, pod_dir, facts).boxed().await)
        });
        let (others, claims) = join(join_all(others), self.set_up_claims(pod, pod_dir, facts).boxed()).await;
        let mut mounted = MountedVolumes {
            paths: VolumePaths::new(),
            refresh_at: None,
            behind: Vec::new(),
            warnings: Vec::new(),
        };
        let mut errors = Vec::new();
        for (volume, outcome) in others.into_iter().chain(claims) {
            if let Some(at) = outcome.refresh_at {
                mounted.refresh_at = Some(mounted.refresh_at.map_or(at, |earliest| earliest.min(at)));
            }
            mounted.warnings.extend(outcome.warnings);
            if let Some(ready) = outcome.ready {
                mounted.paths.insert(volume.name.clone(), ready);
                mounted.behind.extend(outcome.problem);
            } else {
                errors.extend(outcome.problem);
            }
        }
        if errors.is_empty() { Ok(mounted) } else { Err(VolumeErrors(errors)) }
    }

    /// Groups that the mounted volumes of a pod ask for besides those of its spec.
    pub fn groups(&self, pod: &PodUid) -> Vec<i64> {
        self.journal.groups(pod)
    }

    async fn set_up_one(&self, volume: &Volume, pod: &Pod, pod_dir: &Path, facts: &VolumeFacts) -> Outcome {
        match inline_csi(pod, volume) {
            Ok(None) => {}
            Ok(Some(csi)) => return self.set_up_inline(volume, csi, pod, pod_dir, facts).await,
            Err(problem) => return Outcome::failed(&volume.name, None, problem.into()),
        }
        let (gathered, refresh_at) = match FilesSource::of(volume) {
            Some(source) => self.gather(volume, source, pod, pod_dir, facts.now).await,
            None => (Gathered::default(), None),
        };
        let plan_facts = PlanFacts { pod, pod_dir, gathered: &gathered, downward: &facts.downward };
        let done = match VolumePlan::of(volume, &plan_facts) {
            Ok(plan) => {
                self.observed(volume_plugin(volume), "volume_mount", self.execute(plan, facts.now)).await
            }
            Err(problem) => Err(problem),
        };
        match done {
            Ok(ready) => Outcome { ready: Some(ready), refresh_at, ..Outcome::default() },
            Err(problem) => {
                let ready = self.present(volume, pod_dir).await;
                let soon = facts.now.checked_add(SignedDuration::from_secs(TOKEN_RETRY_SECONDS)).ok();
                Outcome {
                    ready,
                    problem: Some(VolumeError { volume: volume.name.clone(), persistent: None, problem }),
                    refresh_at: [refresh_at, soon].into_iter().flatten().min(),
                    warnings: Vec::new(),
                }
            }
        }
    }

    /// A driver's volume in the pod's own spec.
    async fn set_up_inline(
        &self,
        volume: &Volume,
        csi: CsiVolume,
        pod: &Pod,
        pod_dir: &Path,
        facts: &VolumeFacts,
    ) -> Outcome {
        let uid = PodUid::from(pod.metadata.uid.as_deref().unwrap_or_default());
        let call = CsiUse {
            pod,
            pod_dir,
            name: &volume.name,
            read_only: csi.read_only,
            claim: None,
            now: facts.now,
        };
        let mount = self.set_up_csi(&csi, &call);
        let mount = self.journaled(&uid, &volume.name, MountSource::Csi(csi.clone()), mount);
        match self.observed(CSI_PLUGIN, "volume_mount", mount).await {
            Ok(mounted) => mounted.into_outcome(&volume.name, None),
            Err(problem) => Outcome::failed(&volume.name, None, problem),
        }
    }

    pub(crate) async fn set_up_csi(&self, volume: &CsiVolume, call: &CsiUse<'_>) -> Result<Mounted, Problem> {
        let csi = self.csi.as_ref().ok_or(Problem::Unsupported("csi"))?;
        // Large while it waits, and gone when it is done.
        let ready = Box::pin(csi.set_up(volume, call)).await?;
        Ok(Mounted {
            ready: ready.volume,
            refresh_at: ready.refresh_at,
            behind: ready.behind.map(Problem::Csi),
            warnings: ready.warnings,
        })
    }

    pub(crate) async fn execute(&self, plan: VolumePlan, now: Timestamp) -> Result<ReadyVolume, Problem> {
        let (ready, what, tmpfs) = (plan.ready(), plan.describe(), self.tmpfs);
        self.step(&what);
        // What it shows may be anybody's, a hostPath above all.
        self.fs.run_in(&ready.path, what, move || plan.set_up(tmpfs, now)).await??;
        self.step("set up");
        Ok(ready)
    }

    /// The volume as it was made before, if it was.
    async fn present(&self, volume: &Volume, pod_dir: &Path) -> Option<ReadyVolume> {
        let (home, path) = files_home(volume, pod_dir)?;
        let (looked_at, tmpfs) = (path.clone(), self.tmpfs);
        let what = format!("look at volume {}", path.display());
        let there = self.fs.run(what, move || is_set_up(home, &looked_at, tmpfs)).await;
        there.is_ok_and(|there| there).then_some(ReadyVolume { path, ours: true, read_only: true })
    }

    /// Reads what a volume's files are made of, and says when a token is due next.
    async fn gather(
        &self,
        volume: &Volume,
        source: FilesSource<'_>,
        pod: &Pod,
        pod_dir: &Path,
        now: Timestamp,
    ) -> (Gathered, Option<Timestamp>) {
        let Needs { objects, tokens, trust_bundles } = needs(source, pod);
        let mut gathered = Gathered::default();
        if let Some(reader) = &self.objects {
            let reads = objects.iter().map(|object| async {
                match object.kind {
                    ObjectKind::ConfigMap => {
                        Read::ConfigMap(reader.config_map(&object.namespace, &object.name).await)
                    }
                    ObjectKind::Secret => Read::Secret(reader.secret(&object.namespace, &object.name).await),
                }
            });
            for (object, read) in objects.iter().zip(join_all(reads).await) {
                match read {
                    Read::ConfigMap(read) => {
                        gathered.config_maps.insert(object.name.clone(), read);
                    }
                    Read::Secret(read) => {
                        gathered.secrets.insert(object.name.clone(), read);
                    }
                }
            }
        }
        if let Some(reader) = self.objects.as_ref().filter(|_| trust_bundles) {
            gathered.trust_bundles = Some(reader.cluster_trust_bundles().await);
        }
        let mut refresh_at = None;
        if let Some(manager) = &self.tokens {
            self.adopt_tokens(manager, volume, source, pod, pod_dir, now).await;
            let answers = join_all(tokens.iter().map(|key| manager.token(key, now))).await;
            for (key, answer) in tokens.into_iter().zip(answers) {
                let answer = answer.map(|current| {
                    let at = current.refresh_at;
                    refresh_at = Some(refresh_at.map_or(at, |earliest: Timestamp| earliest.min(at)));
                    current.token
                });
                gathered.tokens.insert(key, answer.map_err(|error| error.to_string()));
            }
        }
        (gathered, refresh_at)
    }

    /// Takes over tokens that an earlier run of the agent left in the volume, so that a restart of the agent does not
    /// ask the API server for all of them at once.
    async fn adopt_tokens(
        &self,
        manager: &TokenManager,
        volume: &Volume,
        source: FilesSource<'_>,
        pod: &Pod,
        pod_dir: &Path,
        now: Timestamp,
    ) {
        let (FilesSource::Projected(projected), Some((_, path))) = (source, files_home(volume, pod_dir))
        else {
            return;
        };
        for token in
            projected.sources.iter().flatten().filter_map(|source| source.service_account_token.as_ref())
        {
            let key = TokenKey::of(pod, token);
            let Ok(file) = clean_path(&token.path) else { continue };
            if manager.knows(&key) {
                continue;
            }
            let root = path.clone();
            let read = move || match rubelet_linux::beneath::read_file(
                &root,
                &Path::new(DATA).join(file),
                TOKEN_LIMIT,
            ) {
                Ok(bytes) => Ok(Some(bytes)),
                // None there is the common case: the pod is new.
                Err(_) => Ok(None),
            };
            let read = self.fs.run(format!("read a token in {}", path.display()), read).await;
            if let Ok(Some(bytes)) = read
                && let Some(issued) = adopted_token(&key, &bytes, now)
            {
                manager.adopt(key, issued);
            }
        }
    }
}

/// What came of one volume.
#[derive(Default)]
pub(crate) struct Outcome {
    /// The volume, as it is now or still is.
    pub(crate) ready: Option<ReadyVolume>,
    pub(crate) problem: Option<VolumeError>,
    pub(crate) refresh_at: Option<Timestamp>,
    pub(crate) warnings: Vec<VolumeWarning>,
}

impl Outcome {
    /// It is not there. `persistent`: the PersistentVolume behind it, once known.
    pub(crate) fn failed(volume: &str, persistent: Option<&str>, problem: Problem) -> Self {
        let persistent = persistent.map(str::to_owned);
        let error = VolumeError { volume: volume.to_owned(), persistent, problem };
        Self { problem: Some(error), ..Self::default() }
    }
}

/// A volume that is mounted, with what came of it besides.
pub(crate) struct Mounted {
    pub(crate) ready: ReadyVolume,
    pub(crate) refresh_at: Option<Timestamp>,
    /// It could not be brought up to date.
    pub(crate) behind: Option<Problem>,
    pub(crate) warnings: Vec<VolumeWarning>,
}

impl Mounted {
    pub(crate) fn plain(ready: ReadyVolume) -> Self {
        Self { ready, refresh_at: None, behind: None, warnings: Vec::new() }
    }

    pub(crate) fn into_outcome(self, volume: &str, persistent: Option<&str>) -> Outcome {
        let behind = self.behind.map(|problem| VolumeError {
            volume: volume.to_owned(),
            persistent: persistent.map(str::to_owned),
            problem,
        });
        Outcome {
            ready: Some(self.ready),
            problem: behind,
            refresh_at: self.refresh_at,
            warnings: self.warnings,
        }
    }
}

enum Read {
    ConfigMap(Result<Arc<k8s_openapi::api::core::v1::ConfigMap>, Missing>),
    Secret(Result<Arc<k8s_openapi::api::core::v1::Secret>, Missing>),
}

#[cfg(test)]
mod tests;
