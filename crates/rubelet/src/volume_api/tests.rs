//! Volumes' way to the API server, on a paused clock against the fake API, which refuses what a real one would.

use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::CSIDriver;
use rubelet_testkit::FakeApi;
use rubelet_testkit::fake_api::{Failure, Fault};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use super::*;

const NODE: &str = "node-1";

struct Rig {
    api: FakeApi,
    in_use: VolumesInUse,
    node: watch::Sender<Option<Arc<Node>>>,
    volumes: ApiVolumes,
}

impl Rig {
    fn new() -> Self {
        let api = FakeApi::new();
        let (node, view) = watch::channel(None);
        let view = NodeView::new(view, mpsc::channel(1).0);
        let in_use = VolumesInUse::default();
        let clock = Clock::simulated("2026-01-01T00:00:00Z".parse().unwrap());
        let client = api.client("system:node:node-1");
        let volumes = ApiVolumes::new(client, 1, Wake::default(), in_use.clone(), view, clock);
        Self { api, in_use, node, volumes }
    }

    /// A pod of this node with a claim that is bound to a volume of a driver.
    fn with_pod(self) -> Self {
        let api = &self.api;
        api.create_json(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}));
        api.create_json(&json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pv"},
            "spec": {
                "capacity": {"storage": "2Gi"}, "accessModes": ["ReadWriteOnce"],
                "csi": {"driver": "d.example.com", "volumeHandle": "h"},
                "claimRef": {"namespace": "default", "name": "claim"},
            },
        }));
        api.create_json(&json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": "claim", "namespace": "default"},
            "spec": {
                "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}},
                "volumeName": "pv", "storageClassName": "",
            },
        }));
        api.modify_status::<PersistentVolumeClaim>("default", "claim", |claim| {
            claim.status = serde_json::from_value(json!({
                "phase": "Bound", "capacity": {"storage": "1Gi"},
                "allocatedResourceStatuses": {"storage": "NodeResizePending"},
                "conditions": [{"type": "FileSystemResizePending", "status": "True"}],
            }))
            .unwrap();
        });
        api.create_json(&json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod", "namespace": "default"},
            "spec": {
                "nodeName": NODE, "containers": [{"name": "c", "image": "i"}],
                "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "claim"}}],
            },
        }));
        self
    }

    fn claim(&self) -> Value {
        let claim = self.api.get::<PersistentVolumeClaim>("default", "claim").unwrap();
        let mut status = serde_json::to_value(claim.status).unwrap();
        for condition in status["conditions"].as_array_mut().into_iter().flatten() {
            condition.as_object_mut().unwrap().remove("lastTransitionTime");
        }
        json!([status["capacity"]["storage"], status["allocatedResourceStatuses"], status["conditions"]])
    }
}

#[tokio::test(start_paused = true)]
async fn drivers_are_watched_once_somebody_asks() {
    let rig = Rig::new();
    let driver = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": {"name": "d.example.com"},
        "spec": {"attachRequired": false},
    });
    rig.api.create_json(&driver);
    tokio::task::yield_now().await;
    assert!(rig.api.watches().is_empty(), "nobody asked");
    let known = rig.volumes.csi_driver("d.example.com").await.unwrap().unwrap();
    assert_eq!(known.spec.attach_required, Some(false));
    assert_eq!(rig.volumes.csi_driver("other.example.com").await.unwrap(), None);
    rig.api.modify::<CSIDriver>("", "d.example.com", |driver| {
        driver.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
        driver.spec.requires_republish = Some(true);
    });
    let mut changes = rig.volumes.drivers().changes();
    changes.mark_unchanged();
    while rig.volumes.csi_driver("d.example.com").await.unwrap().unwrap().spec.requires_republish
        != Some(true)
    {
        changes.changed().await.unwrap();
    }
    let lists = rig.api.requests().iter().filter(|asked| asked.request.path.contains("csidrivers")).count();
    assert!(lists <= 2, "one list and one watch");
    rig.volumes.end();
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_list_drivers_is_waited_for_no_longer_than_that() {
    let rig = Rig::new();
    rig.api.fail(Fault::on("list", "csidrivers", Failure::Hang));
    let Err(Missing::Failed(text)) = rig.volumes.csi_driver("d").await else { panic!("it is not known") };
    assert_eq!(text, "CSIDriver \"d\" is not known yet: the API server has not listed CSIDrivers");
}

#[tokio::test(start_paused = true)]
async fn an_attachment_is_asked_for_each_time() {
    let rig = Rig::new().with_pod();
    let Err(Missing::NotFound(_) | Missing::Failed(_)) = rig.volumes.volume_attachment("csi-x").await else {
        panic!("there is none")
    };
    rig.api.create_json(&json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment", "metadata": {"name": "csi-x"},
        "spec": {"attacher": "d.example.com", "nodeName": NODE, "source": {"persistentVolumeName": "pv"}},
    }));
    let attachment = rig.volumes.volume_attachment("csi-x").await.unwrap();
    assert_eq!(attachment.spec.attacher, "d.example.com");
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_the_node_does_not_say_is_told_in_upstreams_words() {
    let rig = Rig::new();
    let Err(Missing::Failed(text)) = rig.volumes.use_volume("a").await else { panic!("nobody wrote it") };
    assert_eq!(text, "Volume has not been added to the list of VolumesInUse in the node's volume status");
    rig.in_use.written(&rig.in_use.names(None));
    rig.volumes.use_volume("a").await.unwrap();
    rig.volumes.release_volume("a");
    assert!(rig.in_use.names(None).is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_attached_volume_is_heard_of_at_once() {
    let rig = Rig::new();
    let mut waiting = Box::pin(rig.volumes.wait_attached("a"));
    assert!(futures::poll!(&mut waiting).is_pending() && rig.volumes.attached("a").is_none());
    let node = json!({"status": {"volumesAttached": [{"name": "a", "devicePath": "/dev/x"}]}});
    rig.node.send_replace(Some(Arc::new(serde_json::from_value(node).unwrap())));
    assert_eq!(waiting.await, "/dev/x");
}

#[tokio::test(start_paused = true)]
async fn the_status_of_a_claim_that_grows_is_kept() {
    let rig = Rig::new().with_pod();
    let pending = json!({"type": "FileSystemResizePending", "status": "True"});
    rig.volumes.claim_expanding("default", "claim").await.unwrap();
    assert_eq!(rig.claim(), json!(["1Gi", {"storage": "NodeResizeInProgress"}, [pending]]));

    rig.volumes.claim_not_expanded("default", "claim", true, "no space").await.unwrap();
    let failed =
        json!({"type": "NodeResizeError", "status": "True", "message": "failed to expand pvc with no space"});
    assert_eq!(rig.claim(), json!(["1Gi", {"storage": "NodeResizeInfeasible"}, [pending, failed]]));

    rig.volumes.claim_expanded("default", "claim", 2 << 30).await.unwrap();
    assert_eq!(rig.claim(), json!(["2Gi", null, null]));
    assert_eq!(rig.api.violations(), []);
}

#[tokio::test(start_paused = true)]
async fn somebody_elses_write_in_between_is_not_lost() {
    let rig = Rig::new().with_pod();
    rig.api.fail(Fault::on("patch", "persistentvolumeclaims/status", Failure::Status(409, None)).times(2));
    rig.volumes.claim_expanded("default", "claim", 2 << 30).await.unwrap();
    assert_eq!(rig.claim(), json!(["2Gi", null, null]));
    rig.api.fail(Fault::on("patch", "persistentvolumeclaims/status", Failure::Status(409, None)));
    assert!(matches!(rig.volumes.claim_expanded("default", "claim", 3 << 30).await, Err(Missing::Failed(_))));
}
