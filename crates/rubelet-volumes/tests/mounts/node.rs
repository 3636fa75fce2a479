//! A node of these tests: a scripted API, pods, the proof that nothing of a pod runs, and the table of mounts.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, Secret};
use rubelet_core::downward::DownwardFacts;
use rubelet_core::env::Missing;
use rubelet_core::lifecycle::{ContainersStopped, Effect, Input, PodState, TerminationCause, step};
use rubelet_core::observed::ObservedPod;
use rubelet_volumes::{ObjectReader, VolumeFacts};
use serde_json::{Value, json};

/// An API of fixed objects: a ConfigMap `settings`, a Secret `password`, and for each disk the claim and
/// PersistentVolume `NAME` of a local directory.
pub struct Api(pub BTreeMap<String, Value>);

impl Api {
    pub fn new(disks: &[(&str, &Path)]) -> Arc<Self> {
        let mut objects = BTreeMap::from([
            ("settings".to_owned(), json!({"data": {"a": "1"}})),
            ("password".to_owned(), json!({"data": {"key": "aHVzaA=="}})),
        ]);
        for (name, path) in disks {
            let claim = json!({"metadata": {"uid": name}, "spec": {"volumeName": name}, "status": {"phase": "Bound"}});
            objects.insert(format!("claim/{name}"), claim);
            let volume = json!({"metadata": {"name": name}, "spec": {"claimRef": {"uid": name}, "local": {"path": path}}});
            objects.insert(format!("volume/{name}"), volume);
        }
        Arc::new(Self(objects))
    }

    fn get<T: serde::de::DeserializeOwned + Send + Sync + 'static>(
        &self,
        name: &str,
    ) -> BoxFuture<'_, Result<Arc<T>, Missing>> {
        let found = self.0.get(name).map(|object| Arc::new(serde_json::from_value(object.clone()).unwrap()));
        let found = found.ok_or_else(|| Missing::NotFound(format!("{name} not found")));
        Box::pin(std::future::ready(found))
    }
}

impl ObjectReader for Api {
    fn config_map<'a>(&'a self, _: &'a str, name: &'a str) -> BoxFuture<'a, Result<Arc<ConfigMap>, Missing>> {
        self.get(name)
    }
    fn secret<'a>(&'a self, _: &'a str, name: &'a str) -> BoxFuture<'a, Result<Arc<Secret>, Missing>> {
        self.get(name)
    }
    fn claim<'a>(
        &'a self,
        _: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<PersistentVolumeClaim>, Missing>> {
        self.get(&format!("claim/{name}"))
    }
    fn persistent_volume<'a>(
        &'a self,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<PersistentVolume>, Missing>> {
        self.get(&format!("volume/{name}"))
    }
}

/// A pod that mounts these volumes, all of them.
pub fn pod(uid: &str, volumes: &[Value]) -> Pod {
    let mounts: Vec<Value> =
        volumes.iter().map(|volume| json!({"name": volume["name"], "mountPath": "/x"})).collect();
    serde_json::from_value(json!({
        "metadata": {"name": uid, "namespace": "shop", "uid": uid},
        "spec": {"volumes": volumes, "containers": [{"name": "c", "volumeMounts": mounts}]},
    }))
    .unwrap()
}

pub fn facts() -> VolumeFacts {
    let downward = DownwardFacts::default();
    VolumeFacts { downward, node: None, now: Timestamp::from_second(1000).unwrap() }
}

pub fn proof(uid: &str) -> ContainersStopped {
    let observed = ObservedPod {
        uid: uid.into(),
        name: uid.to_owned(),
        namespace: "shop".to_owned(),
        sandboxes: Vec::new(),
        containers: Vec::new(),
    };
    let since = Timestamp::from_second(0).unwrap();
    let state = PodState::Terminating { since, grace: 1, cause: TerminationCause::Completed };
    let (_, effects) = step(&state, Input::Observed(&observed), Timestamp::from_second(2).unwrap());
    let proof = effects.into_iter().find_map(|effect| match effect {
        Effect::CleanUp(proof) => Some(proof),
        _ => None,
    });
    proof.unwrap()
}

/// The mounts below a directory: identity and where. One place can be there twice.
pub fn mounts_below(root: &Path) -> Vec<(String, String)> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounts = table.lines().map(|line| {
        let mut fields = line.split(' ');
        (fields.next().unwrap().to_owned(), fields.nth(3).unwrap().to_owned())
    });
    mounts.filter(|(_, point)| Path::new(point).starts_with(root)).collect()
}
