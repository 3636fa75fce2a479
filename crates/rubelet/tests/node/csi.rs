//! A cluster whose node has CSI drivers: real ones, of this test's own process, which refuse what the protocol forbids
//! (see `rubelet_testkit::csi_driver`). The test is every controller: it makes and binds claims, and attaches.
//!
//! What all these tests hold is checked at their end: no driver was asked for anything that the protocol forbids, and
//! where a test says so, nothing is left of any volume. Tests of one theme each are in the files beside.

use std::fs;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{
    Event, Node as NodeObject, PersistentVolumeClaim, PersistentVolumeClaimStatus, Pod,
};
use k8s_openapi::api::storage::v1::CSINode;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use rubelet_testkit::csi_driver::{Character, CsiDriver};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::node::NAME;
use crate::runtime::mounts_below;
use crate::wait::{self, PATIENCE};

pub const MIB: i64 = 1 << 20;
/// The name of the driver of most tests.
pub const DRIVER: &str = "files.csi.test";

/// A node with a driver. The driver is dropped first: its mounts and devices go before the folder they are in.
pub struct CsiNode {
    pub driver: CsiDriver,
    pub cluster: Cluster,
    before: Vec<String>,
}

impl CsiNode {
    /// A node with a driver called [`DRIVER`] whose volumes need not be attached.
    pub fn start() -> Self {
        Self::with(Character::named(DRIVER), &json!({"attachRequired": false}))
    }

    /// A node with a driver, and a CSIDriver object with this spec.
    pub fn with(character: Character, spec: &Value) -> Self {
        let mut node = Self::prepared(character, spec);
        node.driver.start().unwrap();
        node.cluster.start_agent();
        node.wait_registered(DRIVER);
        node.before = node.things();
        node
    }

    /// The same, with neither driver nor agent started.
    pub fn prepared(character: Character, spec: &Value) -> Self {
        let cluster = Cluster::without_agent("");
        let driver = driver_of(&cluster, character, "files");
        let this = Self { driver, cluster, before: vec![] };
        this.describe(DRIVER, spec);
        this
    }

    /// One more driver on the node, running, with its CSIDriver object.
    pub fn add(&mut self, character: Character, folder: &str, spec: &Value) -> CsiDriver {
        let name = character.name.clone();
        self.describe(&name, spec);
        let mut driver = driver_of(&self.cluster, character, folder);
        driver.start().unwrap();
        self.wait_registered(&name);
        self.before = self.things();
        driver
    }

    /// Makes a CSIDriver object.
    pub fn describe(&self, name: &str, spec: &Value) {
        self.cluster.api.create_json(&json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver",
            "metadata": {"name": name}, "spec": spec}));
    }

    /// The node's CSINode.
    pub fn csi_node(&self) -> Option<CSINode> {
        self.cluster.api.get("", NAME)
    }

    /// The entry of a driver in the CSINode.
    pub fn entry(&self, driver: &str) -> Option<k8s_openapi::api::storage::v1::CSINodeDriver> {
        self.csi_node()?.spec.drivers.into_iter().find(|entry| entry.name == driver)
    }

    /// Waits until the CSINode names a driver.
    pub fn wait_registered(&self, driver: &str) {
        wait::until(&format!("{driver} to be in the CSINode"), PATIENCE, || {
            self.entry(driver).map(drop).ok_or_else(|| format!("{:?}", self.csi_node().map(|node| node.spec)))
        });
    }

    /// Makes a volume of files in the driver and a claim bound to it, all of one name. `more` goes into the spec of the
    /// PersistentVolume. Gives the folder where the files really are.
    pub fn claim(&self, name: &str, more: &Value) -> PathBuf {
        let folder = self.driver.provide(name, MIB).unwrap();
        self.bind(DRIVER, name, more);
        folder
    }

    /// Makes a PersistentVolume of a driver and a claim, bound to each other.
    pub fn bind(&self, driver: &str, name: &str, more: &Value) {
        let mut spec = json!({
            "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Mi"}, "storageClassName": "",
            "persistentVolumeReclaimPolicy": "Retain",
            "csi": {"driver": driver, "volumeHandle": name},
        });
        merge(&mut spec, more);
        let claim = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"namespace": "default", "name": name},
            "spec": {"accessModes": spec["accessModes"], "resources": {"requests": {"storage": "1Mi"}},
                     "volumeName": name, "storageClassName": spec["storageClassName"],
                     "volumeMode": spec["volumeMode"]},
        });
        let claim = self.cluster.api.create_json(&claim);
        spec["claimRef"] = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": "default",
            "name": name, "uid": claim["metadata"]["uid"]});
        self.cluster.api.create_json(&json!({"apiVersion": "v1", "kind": "PersistentVolume",
            "metadata": {"name": name}, "spec": spec}));
        self.set_bound(name);
    }

    /// Says that a claim is bound and has one MiB.
    pub fn set_bound(&self, name: &str) {
        self.cluster.api.modify_status::<PersistentVolumeClaim>("default", name, |claim| {
            claim.status = Some(PersistentVolumeClaimStatus {
                phase: Some("Bound".to_owned()),
                access_modes: claim.spec.as_ref().and_then(|spec| spec.access_modes.clone()),
                capacity: Some([("storage".to_owned(), Quantity("1Mi".to_owned()))].into()),
                ..PersistentVolumeClaimStatus::default()
            });
        });
    }

    /// The size that a claim's status tells.
    pub fn claimed_size(&self, name: &str) -> String {
        let claim: PersistentVolumeClaim = self.cluster.api.get("default", name).unwrap();
        let capacity = claim.status.and_then(|status| status.capacity).unwrap_or_default();
        capacity.get("storage").map(|size| size.0.clone()).unwrap_or_default()
    }

    /// A pod that shows a claim at `/data`.
    pub fn run(&self, name: &str, claim: &str, script: &str) -> Pod {
        self.cluster.run(name, &claiming(claim, script, ""))
    }

    /// Deletes a pod and waits until it is gone, with all that the node had of it.
    pub fn end(&self, pod: &Pod) {
        self.cluster.api.delete::<Pod>("default", pod.metadata.name.as_deref().unwrap());
        self.cluster.wait_gone(pod);
        self.cluster.wait_nothing_left(pod);
    }

    /// Waits until no volume is anywhere any more: mount table and directories are as they were when the driver had
    /// registered.
    pub fn wait_nothing_left(&self) {
        wait::until("nothing to be left of any volume", PATIENCE, || {
            let (now, places) = (self.things(), self.driver.places());
            if now == self.before && places.is_empty() {
                return Ok(());
            }
            let more: Vec<_> = now.iter().filter(|thing| !self.before.contains(thing)).collect();
            let less: Vec<_> = self.before.iter().filter(|thing| !now.contains(thing)).collect();
            Err(format!("more: {more:#?} less: {less:#?} places: {places:?}"))
        });
    }

    /// Mounts and directories that volumes could be in, without those that every node has that had volumes.
    fn things(&self) -> Vec<String> {
        let root = self.cluster.node.root();
        let mut things: Vec<String> =
            mounts_below(&root).iter().map(|point| format!("mount {point}")).collect();
        for part in ["pods", "plugins"] {
            walk(&root.join(part), &mut things);
        }
        // The folders of all drivers' volumes stay, as they do with upstream.
        let csi = root.join("plugins/kubernetes.io");
        let kept = |thing: &String| {
            let below = Path::new(thing).strip_prefix(&csi).ok();
            below.is_some_and(|below| {
                let below = below.to_string_lossy();
                ["", "csi", "csi/volumeDevices", "csi/volumeDevices/staging", "csi/volumeDevices/publish"]
                    .contains(&below.as_ref())
                    || below
                        .strip_prefix("csi/")
                        .is_some_and(|rest| rest.ends_with(".test") && !rest.contains('/'))
            })
        };
        things.retain(|thing| !kept(thing));
        things.sort();
        things
    }

    /// Unique names in `status.volumesInUse` of the node.
    pub fn volumes_in_use(&self) -> Vec<String> {
        let status = self.cluster.node_object().status.unwrap_or_default();
        status.volumes_in_use.unwrap_or_default()
    }

    /// Attaches a volume to the node, as its controllers would.
    pub fn attach(&self, handle: &str, metadata: &Value) {
        let name = rubelet_core::volumes::attach::attachment_name(handle, DRIVER, NAME);
        self.cluster.api.create_json(&json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment", "metadata": {"name": name},
            "spec": {"attacher": DRIVER, "nodeName": NAME, "source": {"persistentVolumeName": handle}},
        }));
        let metadata = metadata.clone();
        self.cluster.api.modify_status::<k8s_openapi::api::storage::v1::VolumeAttachment>(
            "",
            &name,
            |attachment| {
                attachment.status =
                    serde_json::from_value(json!({"attached": true, "attachmentMetadata": metadata}))
                        .unwrap();
            },
        );
        self.cluster.api.modify_status::<NodeObject>("", NAME, |node| {
            let attached = json!([{"name": unique_name(handle), "devicePath": ""}]);
            node.status.get_or_insert_default().volumes_attached = serde_json::from_value(attached).unwrap();
        });
    }

    /// Waits until a pod has an Event of this reason whose message has all these words.
    pub fn wait_told(&self, pod: &str, reason: &str, words: &[&str]) -> String {
        wait::until(&format!("{pod} to say {reason} with {words:?}"), PATIENCE, || {
            let told: Vec<(String, String)> = self.cluster.events(pod).iter().map(said).collect();
            let found =
                told.iter().find(|(of, text)| of == reason && words.iter().all(|word| text.contains(word)));
            found.map(|(_, text)| text.clone()).ok_or_else(|| format!("{told:#?}"))
        })
    }

    /// The directory of a CSI volume of a pod.
    pub fn volume_dir(&self, pod: &Pod, volume: &str) -> PathBuf {
        self.cluster.pod_dir(pod).join("volumes/kubernetes.io~csi").join(volume)
    }
}

impl Drop for CsiNode {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for call in self.driver.calls() {
                eprintln!("{:.2} {call} {}", call.begun, call.request);
            }
            for pod in self.cluster.api.list_all::<Event>() {
                eprintln!("{:?}", said(&pod));
            }
            eprintln!("mistakes: {:#?}", self.driver.mistakes());
        } else {
            assert_eq!(self.driver.mistakes(), Vec::<String>::new(), "the protocol forbids these calls");
        }
    }
}

fn said(event: &Event) -> (String, String) {
    (event.reason.clone().unwrap_or_default(), event.message.clone().unwrap_or_default())
}

fn driver_of(cluster: &Cluster, character: Character, folder: &str) -> CsiDriver {
    let data = cluster.node.path(&format!("driver-{folder}"));
    CsiDriver::new(character, folder, &cluster.node.root(), &data).unwrap()
}

/// The name by which node status and controllers know a volume of [`DRIVER`].
pub fn unique_name(handle: &str) -> String {
    format!("kubernetes.io/csi/{DRIVER}^{handle}")
}

/// The spec of a pod that shows a claim at `/data`; `more` are more lines of the spec. Its only container runs `script`
/// and then waits to be ended.
pub fn claiming(claim: &str, script: &str, more: &str) -> String {
    showing(&format!("persistentVolumeClaim: {{claimName: {claim}}}"), script, more)
}

/// The same with any volume.
pub fn showing(volume: &str, script: &str, more: &str) -> String {
    let script = script.replace('\'', "''");
    format!(
        "
terminationGracePeriodSeconds: 10
{more}
containers:
- name: c
  image: $IMAGE
  command: [sh, -c, 'trap \"exit 0\" TERM; {script}; echo ALL SHOWN; while :; do sleep 1 & wait $!; done']
  volumeMounts: [{{name: data, mountPath: /data}}]
volumes:
- {{name: data, {volume}}}
"
    )
}

fn merge(into: &mut Value, more: &Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, more) => into.clone_from(more),
    }
}

/// Every directory, link and file below `dir`, sockets left out; never into a mount.
fn walk(dir: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "sock") {
            continue;
        }
        found.push(path.display().to_string());
        if kind.is_dir() {
            walk(&path, found);
        }
    }
}
