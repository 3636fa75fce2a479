//! Graceful node shutdown: logind is asked to wait, and in that time pods end in the order of their priority.
//!
//! Owns the lock that holds the shutdown back, and the word that the node is shutting down, which admission and the Node
//! follow. What ends when is `rubelet_core::shutdown`'s to say; workers end the pods. A group is done when its pods are
//! gone with their volumes and the API has been told, at the latest when its time is over. Without a period configured
//! there is no such task, and without a bus it tries again.

mod logind;
mod state;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rubelet_config::{FeatureGates, Gate, KubeletConfiguration};
use rubelet_core::Pod;
use rubelet_core::ids::{PodUid, pod_uid};
use rubelet_core::lifecycle::PodState;
use rubelet_core::shutdown::{Group, MESSAGE, Period, Periods, REASON, grace};
use tokio::sync::watch;
use tracing::{info, warn};

use logind::{Hold, Logind, Session, SystemLogind};

use crate::api_pods::ApiPods;
use crate::clock::Clock;
use crate::events::{EventRecorder, EventSubject};
use crate::fs_pool::FsPool;
use crate::metrics::Metrics;
use crate::pod_kills::{PodKill, PodKills};
use crate::services::Services;
use crate::table::{PodRow, PodTable};

/// Pause before a bus that was not there is looked for again; doubles up to [`AGAIN_MAX`]. Upstream tries every second.
const AGAIN_FIRST: Duration = Duration::from_secs(1);
/// Longest such pause.
const AGAIN_MAX: Duration = Duration::from_secs(60);

/// What the task works with.
struct ShutdownParts {
    /// Who gets how much time.
    periods: Periods,
    /// How logind is reached.
    logind: Arc<dyn Logind>,
    /// The pods.
    table: PodTable,
    /// What the API has been told; `None` without an API.
    api: Option<ApiPods>,
    /// How pods are ended.
    kills: PodKills,
    /// Events.
    events: EventRecorder,
    /// Name of the node.
    node_name: String,
    /// Wall clock.
    clock: Clock,
    /// Where the times of the last shutdown are counted.
    metrics: Metrics,
    /// File system work.
    fs: FsPool,
    /// `graceful_node_shutdown_state`.
    state_file: PathBuf,
}

/// The task.
pub(crate) struct Shutdown {
    parts: ShutdownParts,
    /// Whether the node is shutting down.
    now: watch::Sender<bool>,
}

/// The periods of a configuration; `None` when shutdowns are not delayed.
pub(crate) fn periods(config: &KubeletConfiguration, gates: &FeatureGates) -> Option<Periods> {
    let listed = &config.shutdown_grace_period_by_pod_priority;
    let periods = if gates.enabled(Gate::GracefulNodeShutdownBasedOnPodPriority) && !listed.is_empty() {
        Periods::by_priority(listed.iter().map(|period| Period {
            priority: period.priority,
            seconds: u64::try_from(period.shutdown_grace_period_seconds).unwrap_or(0),
        }))
    } else {
        let critical = config.shutdown_grace_period_critical_pods.to_std();
        Periods::of_two(config.shutdown_grace_period.to_std(), critical)
    };
    (gates.enabled(Gate::GracefulNodeShutdown) && !periods.is_empty()).then_some(periods)
}

/// Why a session with logind ended.
enum Ended {
    /// It could not begin.
    Never,
    /// It was there and is gone.
    Lost,
}

impl Shutdown {
    /// The task of an agent.
    pub(crate) fn of(
        services: &Services,
        periods: Periods,
        api: Option<ApiPods>,
        now: watch::Sender<bool>,
    ) -> Self {
        let parts = ShutdownParts {
            periods,
            logind: Arc::new(SystemLogind::new(services.fs.clone())),
            table: services.table.clone(),
            api,
            kills: services.kills.clone(),
            events: services.events.clone(),
            node_name: services.node.name.clone(),
            clock: services.clock.clone(),
            metrics: services.metrics.clone(),
            fs: services.fs.clone(),
            state_file: services.node.root_dir.join("graceful_node_shutdown_state"),
        };
        Self::new(parts, now)
    }

    /// A task that has not begun; it says in `now` whether the node is shutting down.
    fn new(parts: ShutdownParts, now: watch::Sender<bool>) -> Self {
        Self { parts, now }
    }

    /// Runs until dropped.
    pub(crate) async fn run(self) {
        self.tell_last().await;
        let mut again = AGAIN_FIRST;
        loop {
            match self.watch().await {
                Ended::Lost => again = AGAIN_FIRST,
                Ended::Never => again = (again * 2).min(AGAIN_MAX),
            }
            tokio::time::sleep(again).await;
        }
    }

    /// One session with logind.
    async fn watch(&self) -> Ended {
        let mut session = match self.parts.logind.session().await {
            Ok(session) => session,
            Err(problem) => {
                warn!("pods get no time when this node is shut down: {problem}");
                return Ended::Never;
            }
        };
        let mut hold = match self.hold(&mut *session).await {
            Ok(hold) => Some(hold),
            Err(problem) => {
                warn!("pods get no time when this node is shut down: {problem}");
                return Ended::Never;
            }
        };
        info!(
            seconds = self.parts.periods.total().as_secs(),
            "a shutdown of this node will wait for its pods"
        );
        // An agent that is started in the middle of a shutdown has not heard of it, and is not to start pods.
        if session.is_under_way().await {
            self.shut_down().await;
            drop(hold.take());
        }
        while let Some(begins) = session.next().await {
            let what = if begins { "shutdown event" } else { "shutdown cancellation" };
            let node = EventSubject::node(&self.parts.node_name);
            self.parts.events.normal(&node, "Shutdown", format!("Shutdown manager detected {what}"));
            if begins {
                self.shut_down().await;
                // The machine goes down now.
                drop(hold.take());
            } else {
                self.now.send_replace(false);
                match session.hold().await {
                    Ok(new) => hold = Some(new),
                    Err(problem) => warn!("the next shutdown will not wait for pods: {problem}"),
                }
            }
        }
        warn!("the connection to logind is lost");
        Ended::Lost
    }

    /// Has logind wait as long as it takes, and takes the lock.
    async fn hold(&self, session: &mut dyn Session) -> Result<Hold, String> {
        let wanted = self.parts.periods.total();
        let allowed = session.longest_delay().await?;
        if allowed < wanted {
            session.allow_delay(wanted).await?;
        }
        session.hold().await
    }

    /// Ends the pods, one group after the other.
    async fn shut_down(&self) {
        self.now.send_replace(true);
        let began = self.parts.clock.now();
        self.tell(state::Times { began: Some(began), ended: None }).await;
        let rows = self.parts.table.snapshot();
        let active: Vec<&Pod> =
            rows.values().filter(|row| is_active(&row.state)).map(|row| &*row.pod).collect();
        for group in self.parts.periods.groups(active) {
            self.end(&group).await;
        }
        let ended = Some(self.parts.clock.now());
        self.tell(state::Times { began: Some(began), ended }).await;
        info!("the node's pods have ended, the shutdown may go on");
    }

    async fn end(&self, group: &Group<'_>) {
        let mut waiting: Vec<PodUid> = group.pods.iter().map(|pod| pod_uid(pod)).collect();
        for pod in &group.pods {
            self.parts.kills.request(PodKill {
                uid: pod_uid(pod),
                reason: REASON,
                message: MESSAGE.to_owned(),
                grace: Some(grace(pod, group.limit)),
                disruption: true,
            });
        }
        let mut changes = self.parts.table.changes();
        let mut api = self.parts.api.clone();
        let ending = async {
            loop {
                changes.mark_unchanged();
                waiting.retain(|uid| self.parts.table.get(uid).is_some_and(|row| !self.is_over(&row)));
                if waiting.is_empty() {
                    return;
                }
                // Both are cancel-safe: watches keep their news.
                let told = tokio::select! {
                    biased;
                    changed = changes.changed() => changed,
                    changed = changed(&mut api) => changed,
                };
                if told.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(group.limit, ending).await.is_err() {
            warn!(seconds = group.limit.as_secs(), pods = ?waiting, "the time of pods at shutdown is over");
        }
    }

    /// Whether nothing is left to wait for: the pod is gone with its volumes, and the API knows how it ended.
    fn is_over(&self, row: &PodRow) -> bool {
        if !matches!(row.state, PodState::Finished { .. }) {
            return false;
        }
        let Some(api) = &self.parts.api else { return true };
        let api = api.borrow();
        let Some(told) = api.reported(&row.pod) else { return true };
        let phase = told.status.as_ref().and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Failed" | "Succeeded"))
    }

    /// Says when the last shutdown was.
    async fn tell_last(&self) {
        match state::read(&self.parts.fs, &self.parts.state_file).await {
            Ok(times) => self.count(&times),
            Err(problem) => warn!("{problem}"),
        }
    }

    async fn tell(&self, times: state::Times) {
        self.count(&times);
        if let Err(problem) = state::write(&self.parts.fs, &self.parts.state_file, &times).await {
            warn!("{problem}");
        }
    }

    fn count(&self, times: &state::Times) {
        let node = &self.parts.metrics.node;
        let seconds = |at: Option<jiff::Timestamp>| at.map_or(0.0, |at| at.as_second() as f64);
        node.shutdown_began.set(seconds(times.began));
        node.shutdown_ended.set(seconds(times.ended));
    }
}

/// Whether a pod has something to end.
fn is_active(state: &PodState) -> bool {
    !matches!(state, PodState::Terminated { .. } | PodState::Finished { .. })
}

/// Waits for the API's side to change; for ever without one.
async fn changed(api: &mut Option<ApiPods>) -> Result<(), watch::error::RecvError> {
    match api {
        Some(api) => api.changed().await,
        None => std::future::pending().await,
    }
}
