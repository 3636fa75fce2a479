//! The task that tells of trouble with the runtime: events on pods and on the node, and a figure. At rest it waits for
//! news and has no timer.

use std::collections::BTreeMap;
use std::time::Duration;

use rubelet_core::ids::PodUid;
use rubelet_core::node::stuck::StuckCall;
use rubelet_core::node::telling::{Tell, Telling};
use rubelet_server::metrics::Metrics;
use tokio::sync::watch;

use super::calls::About;
use super::{CallWatch, changed};
use crate::events::{EventRecorder, EventSubject};
use crate::pleg::{Owner, Pleg};
use crate::runtime_monitor::RuntimeState;

/// Reason of the node's event: lists are slow or fail.
const SLOW: &str = "ContainerRuntimeSlow";
/// Reason of the node's event: that is over.
const RECOVERED: &str = "ContainerRuntimeRecovered";
/// Reason of a pod's event.
const STUCK: &str = "StuckInRuntime";
/// Reason of the node's event when it is not one pod only.
const SEVERAL_STUCK: &str = "PodsStuckInRuntime";
/// So many pods are several.
const SEVERAL: usize = 2;
/// So many of them are named.
const NAMED: usize = 5;

/// What telling is made of.
pub struct Parts {
    /// Whose things in the runtime are, and how lists go.
    pub pleg: Pleg,
    /// The runtime's state.
    pub runtime_state: watch::Receiver<RuntimeState>,
    /// Where it is told.
    pub events: EventRecorder,
    /// Where it is counted.
    pub metrics: Metrics,
    /// Name of the node.
    pub node_name: String,
}

/// A pod that hangs, with the call that has hung for the longest.
struct StuckPod {
    owner: Owner,
    call: StuckCall<About>,
}

struct Teller {
    watch: CallWatch,
    parts: Parts,
    pods: BTreeMap<PodUid, Telling>,
    several: Telling,
    lists: Telling,
    was_silent: bool,
}

/// Tells of trouble for ever.
pub async fn run(watch: CallWatch, parts: Parts) {
    let mut state = parts.runtime_state.clone();
    let mut teller = Teller {
        watch: watch.clone(),
        parts,
        pods: BTreeMap::new(),
        several: Telling::default(),
        lists: Telling::default(),
        was_silent: false,
    };
    loop {
        let known = state.borrow_and_update().clone();
        let again = teller.look(&known);
        // Both arms are cancel-safe: a watch keeps its news, and so do the calls.
        tokio::select! {
            biased;
            () = changed(&mut state) => {}
            () = watch.news(again) => {}
        }
    }
}

impl Teller {
    /// One look; returns when to look again if there is no news.
    fn look(&mut self, state: &RuntimeState) -> Option<Duration> {
        let silent = state.silent_since.is_some();
        if silent || self.was_silent {
            self.watch.forgive();
        }
        self.was_silent = silent;
        if silent {
            // The node's condition tells of that. Whether anything else is wrong will show when it answers.
            return None;
        }
        let now = self.watch.age();
        self.tell_lists(state, now);
        self.tell_stuck(now);
        let tellings = self.pods.values().chain([&self.several, &self.lists]);
        tellings.filter_map(Telling::next).min()
    }

    fn tell_lists(&mut self, state: &RuntimeState, now: Duration) {
        let Some(tell) = self.lists.step(state.list_trouble.is_some(), now) else { return };
        let node = EventSubject::node(&self.parts.node_name);
        match (tell, state.list_trouble) {
            (Tell::Over(lasted), _) => self.parts.events.normal(
                &node,
                RECOVERED,
                format!(
                    "what the container runtime runs is listed in good time again, after {}",
                    time(lasted)
                ),
            ),
            (Tell::Trouble, Some(trouble)) => {
                self.parts.events.warning(&node, SLOW, self.parts.pleg.lists().describe(trouble));
            }
            (Tell::Trouble, None) => {}
        }
    }

    fn tell_stuck(&mut self, now: Duration) {
        let stuck = self.stuck_pods();
        self.parts.metrics.runtime.stuck_pods.set(stuck.len() as f64);
        for uid in stuck.keys() {
            self.pods.entry(uid.clone()).or_default();
        }
        for (uid, telling) in &mut self.pods {
            let pod = stuck.get(uid);
            if telling.step(pod.is_some(), now) == Some(Tell::Trouble)
                && let Some(StuckPod { owner, call }) = pod
            {
                let subject = EventSubject {
                    uid: owner.uid.clone(),
                    name: owner.pod.clone(),
                    container: owner.container.clone(),
                };
                self.parts.events.warning(&subject, STUCK, describe(owner, call));
            }
        }
        self.pods.retain(|_, telling| !telling.is_idle(now));
        let Some(tell) = self.several.step(stuck.len() >= SEVERAL, now) else { return };
        let node = EventSubject::node(&self.parts.node_name);
        match tell {
            Tell::Trouble => {
                let names: Vec<&str> = stuck.values().take(NAMED).map(|pod| pod.owner.pod.as_str()).collect();
                let more = match stuck.len().saturating_sub(NAMED) {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                let (count, names) = (stuck.len(), names.join(", "));
                self.parts.events.warning(
                    &node,
                    SEVERAL_STUCK,
                    format!(
                        "{count} pods are stuck in the container runtime, which answers for others: {names}{more}"
                    ),
                );
            }
            Tell::Over(lasted) => self.parts.events.normal(
                &node,
                RECOVERED,
                format!(
                    "the container runtime answers for pods that were stuck in it, after {}",
                    time(lasted)
                ),
            ),
        }
    }

    fn stuck_pods(&self) -> BTreeMap<PodUid, StuckPod> {
        let mut pods: BTreeMap<PodUid, StuckPod> = BTreeMap::new();
        for call in self.watch.stuck() {
            let owner = match &call.about {
                About::New(owner) => Some(owner.clone()),
                About::Container(id) | About::Sandbox(id) => self.parts.pleg.owner(id),
            };
            // What nobody knows any more is nobody's trouble.
            let Some(owner) = owner else { continue };
            if pods.get(&owner.uid).is_none_or(|known| known.call.lasts < call.lasts) {
                pods.insert(owner.uid.clone(), StuckPod { owner, call });
            }
        }
        pods
    }
}

/// What a pod is told.
fn describe(owner: &Owner, StuckCall { call, about, lasts }: &StuckCall<About>) -> String {
    let name = |name: &Option<String>| name.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
    let what = match about {
        About::Container(id) => format!("container{} ({id})", name(&owner.container)),
        About::Sandbox(id) => format!("sandbox {id}"),
        About::New(Owner { container: None, .. }) => "the pod's sandbox".to_owned(),
        About::New(Owner { container, .. }) => format!("container{}", name(container)),
    };
    let lasts = time(*lasts);
    format!(
        "The container runtime has not answered {call} of {what} for {lasts}: this pod is stuck in it, other pods are \
         not affected"
    )
}

/// A time in seconds, or in minutes when it is long.
fn time(time: Duration) -> String {
    match time.as_secs() {
        seconds if seconds < 180 => format!("{seconds} s"),
        seconds => format!("{} min", seconds / 60),
    }
}
