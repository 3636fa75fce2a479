//! The API server as a source of pods: turns what the watch delivers into desired pods and into the view of what
//! the API holds. Mirror pods belong to the view alone. The echo of a status this agent wrote changes the view and
//! wakes nobody.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use rubelet_apiclient::level::Level;
use rubelet_apiclient::watch::{BadObject, Update};
use rubelet_core::admission::is_mirror_pod;
use rubelet_core::ids::{PodUid, pod_uid};
use rubelet_core::pod_change::{PodChange, classify};
use rubelet_core::static_pod::{
    self, CONFIG_HASH_ANNOTATION, CONFIG_MIRROR_ANNOTATION, CONFIG_SEEN_ANNOTATION,
};
use tracing::{info, warn};

use crate::api_pods::{ApiPodSet, ApiPods};
use crate::clock::Clock;
use crate::desired::{PodConfig, SourceKind};
use crate::events::{EventRecorder, EventSubject};
use crate::metrics::StartupLatency;

/// The source; fed by the watch of this node's pods.
pub(crate) struct ApiSource {
    config: PodConfig,
    view: Arc<Level<Arc<ApiPodSet>>>,
    events: EventRecorder,
    clock: Clock,
    /// What is desired: the pods as last told to the workers, without mirrors.
    desired: BTreeMap<PodUid, Arc<Pod>>,
    /// What the API holds, without specs.
    held: BTreeMap<PodUid, Arc<Pod>>,
    /// Pods that cannot be decoded now, and whether an earlier version of them is known.
    bad: BTreeMap<String, BadObject>,
    /// Told of what the watch shows.
    startups: StartupLatency,
}

impl ApiSource {
    /// A source that has heard nothing yet.
    pub(crate) fn new(config: PodConfig, events: EventRecorder, clock: Clock) -> Self {
        Self {
            config,
            view: Arc::new(Level::new(Arc::default())),
            events,
            clock,
            desired: BTreeMap::new(),
            held: BTreeMap::new(),
            bad: BTreeMap::new(),
            startups: StartupLatency::default(),
        }
    }

    /// Has the start of pods measured.
    pub(crate) fn with_startups(mut self, startups: StartupLatency) -> Self {
        self.startups = startups;
        self
    }

    /// Tells those who follow this level what the API holds.
    pub(crate) fn with_view(mut self, view: Arc<Level<Arc<ApiPodSet>>>) -> Self {
        self.view = view;
        self
    }

    /// What the API holds, for those who compare with it.
    pub(crate) fn view(&self) -> ApiPods {
        self.view.follow()
    }

    /// Takes what the watch delivered.
    pub(crate) fn apply(&mut self, update: Update<Pod>) {
        match update {
            Update::Set { items, bad } => {
                let uids: std::collections::BTreeSet<PodUid> = items.iter().map(|pod| pod_uid(pod)).collect();
                // What cannot be read now is still wanted as it was: only what the list does not hold is gone.
                self.desired.retain(|uid, _| {
                    uids.contains(uid) || bad.iter().any(|object| object.uid == uid.as_str())
                });
                self.startups.keep(|uid| uids.contains(uid));
                self.held.retain(|uid, _| bad.iter().any(|object| object.uid == uid.as_str()));
                self.bad = BTreeMap::new();
                for object in bad {
                    self.take_bad(object);
                }
                for pod in items {
                    self.take(&pod);
                }
                self.publish_view();
                self.publish_desired();
            }
            Update::Applied(pod) => {
                self.bad.remove(pod.metadata.uid.as_deref().unwrap_or_default());
                let news = self.take(&pod);
                // The view first: what is told of a pod is compared with it.
                self.publish_view();
                if news {
                    self.publish_desired();
                }
            }
            Update::Deleted { object } => {
                let uid = pod_uid(&object);
                self.startups.forget(&uid);
                self.bad.remove(uid.as_str());
                self.held.remove(&uid);
                if self.desired.remove(&uid).is_some() {
                    self.publish_desired();
                }
                self.publish_view();
            }
            Update::Bad(object) => {
                self.take_bad(object);
                self.publish_desired();
            }
            Update::BadDeleted(object) => {
                self.bad.remove(&object.uid);
                let uid = PodUid::from(object.uid);
                self.startups.forget(&uid);
                self.held.remove(&uid);
                self.desired.remove(&uid);
                self.publish_desired();
                self.publish_view();
            }
            Update::Problem(problem) => warn!("{problem}; what runs goes on"),
            Update::Recovered => info!("pods are watched again"),
        }
    }

    /// Takes one pod. Returns whether what is desired changed.
    fn take(&mut self, pod: &Arc<Pod>) -> bool {
        let uid = pod_uid(pod);
        self.held.insert(uid.clone(), Arc::new(held(pod)));
        if is_mirror_pod(pod) {
            return false;
        }
        self.startups.seen(pod, self.clock.now());
        let known = self.desired.get(&uid);
        if known.is_some_and(|known| matches!(classify(known, pod), PodChange::None | PodChange::StatusOnly))
        {
            return false;
        }
        let mut pod = Pod::clone(pod);
        if let Some(seen) = known.and_then(|known| annotation(known, CONFIG_SEEN_ANNOTATION)) {
            let seen = seen.to_owned();
            pod.metadata.annotations.get_or_insert_default().insert(CONFIG_SEEN_ANNOTATION.into(), seen);
        }
        static_pod::mark(&mut pod, "api", self.clock.now());
        self.desired.insert(uid, Arc::new(pod));
        true
    }

    fn take_bad(&mut self, object: BadObject) {
        let known = self.desired.contains_key(&PodUid::from(object.uid.as_str()));
        let name = format!("{}/{}", object.namespace, object.name);
        let going_on = if known { "; it goes on as it was" } else { "" };
        let subject = EventSubject { uid: object.uid.as_str().into(), name, container: None };
        self.events.warning(
            &subject,
            "FailedValidation",
            format!("Pod cannot be decoded{going_on}: {}", object.error),
        );
        self.bad.insert(object.uid.clone(), object);
    }

    fn publish_desired(&self) {
        // What only the runtime knows may be one of the pods that cannot be read.
        let doubtful = self.bad.keys().any(|uid| !self.desired.contains_key(&PodUid::from(uid.as_str())));
        self.config.publish(SourceKind::Api, self.desired.values().cloned().collect(), doubtful);
    }

    fn publish_view(&self) {
        self.view.set(Arc::new(ApiPodSet::of(self.held.values().cloned())));
    }
}

fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// What is kept of the API's copy: identity, deletion and status. The spec is kept once, by what is desired.
fn held(pod: &Pod) -> Pod {
    let mut metadata = pod.metadata.clone();
    metadata.labels = None;
    metadata.managed_fields = None;
    metadata.annotations = metadata.annotations.map(|mut all| {
        all.retain(|key, _| key == CONFIG_MIRROR_ANNOTATION || key == CONFIG_HASH_ANNOTATION);
        all
    });
    Pod { metadata, spec: None, status: pod.status.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, version: &str, image: &str) -> Arc<Pod> {
        let value = serde_json::json!({
            "metadata": {"name": uid, "namespace": "default", "uid": uid, "resourceVersion": version},
            "spec": {"containers": [{"name": "c", "image": image}]},
        });
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn bad(uid: &str) -> BadObject {
        BadObject {
            namespace: "default".into(),
            name: uid.into(),
            uid: uid.into(),
            resource_version: Some("9".into()),
            error: "spec.containers: expected a list".into(),
        }
    }

    fn source() -> (ApiSource, PodConfig) {
        let config = PodConfig::new([SourceKind::Api]);
        let clock = Clock::simulated(jiff::Timestamp::UNIX_EPOCH);
        (ApiSource::new(config.clone(), EventRecorder::new(clock.clone()), clock), config)
    }

    fn desired(config: &PodConfig) -> (Vec<String>, bool, bool) {
        let watch = config.watch();
        let desired = watch.borrow();
        (desired.pods.keys().map(ToString::to_string).collect(), desired.complete, desired.doubtful)
    }

    #[tokio::test]
    async fn the_first_set_completes_the_source_and_an_echo_wakes_nobody() {
        let (mut source, config) = source();
        assert_eq!(desired(&config), (vec![], false, false));
        source.apply(Update::Set { items: vec![pod("a", "1", "x")], bad: vec![] });
        assert_eq!(desired(&config), (vec!["a".into()], true, false));
        let mut watch = config.watch();
        watch.borrow_and_update();
        let mut echo = Pod::clone(&pod("a", "2", "x"));
        echo.status.get_or_insert_default().phase = Some("Running".into());
        source.apply(Update::Applied(Arc::new(echo)));
        assert!(!watch.has_changed().unwrap(), "a status alone is no news to workers");
        let view = source.view();
        let held = view.borrow().by_uid[&PodUid::from("a")].clone();
        assert_eq!(held.metadata.resource_version.as_deref(), Some("2"));
        assert_eq!(held.status.as_ref().unwrap().phase.as_deref(), Some("Running"));
        source.apply(Update::Applied(pod("a", "3", "y")));
        assert!(watch.has_changed().unwrap());
    }

    #[tokio::test]
    async fn an_undecodable_pod_is_not_gone_and_hides_no_other() {
        let (mut source, config) = source();
        source
            .apply(Update::Set { items: vec![pod("a", "1", "x"), pod("b", "1", "x")], bad: vec![bad("c")] });
        // Nothing is known of c: what the runtime holds may be it.
        assert_eq!(desired(&config), (vec!["a".into(), "b".into()], true, true));
        source.apply(Update::Applied(pod("c", "2", "x")));
        assert_eq!(desired(&config), (vec!["a".into(), "b".into(), "c".into()], true, false));
        // It was readable once: it goes on as it was.
        source.apply(Update::Bad(bad("a")));
        source.apply(Update::Set { items: vec![pod("b", "3", "x")], bad: vec![bad("a")] });
        assert_eq!(desired(&config), (vec!["a".into(), "b".into()], true, false));
        let view = source.view();
        let held = |uid: &str| view.borrow().by_uid.contains_key(&PodUid::from(uid));
        assert!(held("a") && held("b") && !held("c"), "the API still holds what cannot be read");
        source.apply(Update::Deleted { object: pod("a", "4", "x") });
        assert_eq!(desired(&config), (vec!["b".into()], true, false));
    }

    #[tokio::test]
    async fn a_mirror_is_held_and_not_desired() {
        let (mut source, config) = source();
        let mut mirror = Pod::clone(&pod("m", "1", "x"));
        mirror.metadata.annotations = Some([(CONFIG_MIRROR_ANNOTATION.to_owned(), "hash".to_owned())].into());
        source.apply(Update::Set { items: vec![Arc::new(mirror)], bad: vec![] });
        assert_eq!(desired(&config), (vec![], true, false));
        let view = source.view();
        let mut of_manifest = Pod::clone(&pod("static", "", "x"));
        of_manifest.metadata.name = Some("m".into());
        assert!(view.borrow().mirror_of(&of_manifest).is_some());
    }
}
