//! Claimed volumes of whole pods: what lies where, what is asked for how often, and that nothing of a volume is lost.

use super::*;

const CLAIM: &str = "persistentvolumeclaims/shop/disk";
const VOLUME: &str = "persistentvolumes//pv";

/// A pod that mounts `disk` twice, once only to read.
fn claiming(context: Value) -> Pod {
    let mut pod = pod(json!([
        {"name": "data", "persistentVolumeClaim": {"claimName": "disk"}},
        {"name": "look", "persistentVolumeClaim": {"claimName": "disk", "readOnly": true}},
        {"name": "idle", "persistentVolumeClaim": {"claimName": "nobody-mounts-it"}},
    ]));
    let spec = pod.spec.as_mut().unwrap();
    spec.security_context = serde_json::from_value(context).unwrap();
    spec.containers[0].volume_mounts = serde_json::from_value(json!([
        {"name": "data", "mountPath": "/data"}, {"name": "look", "mountPath": "/look"}]))
    .unwrap();
    pod
}

fn bind(api: &Api, source: Value) {
    api.set(
        CLAIM,
        json!({"metadata": {"uid": "c1"}, "spec": {"volumeName": "pv"}, "status": {"phase": "Bound"}}),
    );
    let mut spec = json!({"claimRef": {"uid": "c1"}});
    spec.as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
    api.set(VOLUME, json!({"metadata": {"annotations": {"pv.beta.kubernetes.io/gid": "55"}}, "spec": spec}));
}

#[tokio::test]
async fn a_claim_is_asked_for_until_it_is_mounted() {
    let node = Node::new();
    let pod = claiming(json!({}));
    let missing = node.set_up(&pod, 1).await.unwrap_err();
    assert!(
        missing.contains("error processing PVC shop/disk: failed to fetch PVC from API server: ")
            && missing.contains("volumes=[data]")
            && missing.contains("volumes=[look]")
            && !missing.contains("idle"),
        "{missing}"
    );
    let elsewhere = json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [
        {"key": "zone", "operator": "In", "values": ["a"]}]}]}});
    let path = node.root.path().join("folder");
    let source = json!({"path": path, "type": "Directory"});
    bind(&node.api, json!({"hostPath": source, "nodeAffinity": elsewhere}));
    let unknown = node.set_up(&pod, 1).await.unwrap_err();
    assert!(unknown.contains("the labels of this node are not known yet"), "{unknown}");

    let own: k8s_openapi::api::core::v1::Node =
        serde_json::from_value(json!({"metadata": {"labels": {"zone": "a"}}})).unwrap();
    let facts = VolumeFacts { node: Some(Arc::new(own)), ..facts(1) };
    let set_up = async || {
        let done = node.volumes.set_up(&pod, node.root.path(), &facts).await;
        done.map_err(|errors| errors.to_string())
    };
    let absent = set_up().await.unwrap_err();
    let expected = format!(
        "MountVolume.SetUp failed for volume \"pv\" : hostPath type check failed: {} is not a directory",
        path.display()
    );
    assert_eq!(absent, format!("{expected}; {expected}"));
    fs::create_dir(&path).unwrap();
    let mounted = set_up().await.unwrap();
    let expected = |read_only| ReadyVolume { path: path.clone(), ours: false, read_only };
    let paths = [("data".to_owned(), expected(false)), ("look".to_owned(), expected(true))];
    assert_eq!(mounted.paths, BTreeMap::from(paths));
    assert_eq!(node.volumes.groups(&"u1".into()), [55]);

    // From here on the API server is not needed.
    node.api.objects.lock().unwrap().clear();
    assert_eq!(set_up().await.unwrap().paths, mounted.paths);
    node.tear_down().await.unwrap();
    assert!(path.is_dir() && node.volumes.groups(&"u1".into()).is_empty());
    assert!(set_up().await.is_err());
}

#[tokio::test]
async fn a_node_without_an_api_says_so() {
    let root = tempfile::tempdir().unwrap();
    let alone = Volumes::new(FsPool::new(1), None, None);
    let errors = alone.set_up(&claiming(json!({})), root.path(), &facts(1)).await.unwrap_err();
    assert!(errors.to_string().contains("this node has no API server"), "{errors}");
}

#[tokio::test]
async fn a_local_volume_is_bound_handed_to_a_group_and_never_emptied() {
    if !may_mount() {
        return;
    }
    let mut node = Node::new();
    node.volumes = volumes_of(&node.api, Tmpfs::Mount);
    let disk = tempfile::tempdir().unwrap();
    let source = disk.path().join("disk");
    bind(&node.api, json!({"local": {"path": source}, "mountOptions": ["noexec"]}));
    let (first, second) = (node.root.path().join("pods/u1"), node.root.path().join("pods/u2"));
    let set_up = async |dir: &Path, group: i64| {
        let mut pod = claiming(json!({"fsGroup": group}));
        pod.metadata.uid = Some(dir.file_name().unwrap().to_string_lossy().into_owned());
        node.volumes.set_up(&pod, dir, &facts(1)).await.map_err(|errors| errors.to_string())
    };
    let absent = set_up(&first, 77).await.unwrap_err();
    let expected = format!(
        "MountVolume.NewMounter initialization failed for volume \"pv\" : path \"{}\" does not exist",
        source.display()
    );
    assert_eq!(absent, format!("{expected}; {expected}"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("kept"), "x").unwrap();

    let mounted = set_up(&first, 77).await.unwrap();
    let other = set_up(&second, 78).await.unwrap();
    set_up(&first, 77).await.unwrap();
    let path = first.join("volumes/kubernetes.io~local-volume/pv");
    let seen = fs::read_to_string(path.join("kept"));
    let owner = fs::metadata(source.join("kept")).map(|found| (found.mode() & 0o777, found.gid()));
    let flags = rustix::fs::statvfs(&path).map(|found| found.f_flag);
    let torn = node.volumes.tear_down(&proof(), &first).await;
    let torn_again = node.volumes.tear_down(&proof(), &first).await;
    let second_sees = fs::read_to_string(second.join("volumes/kubernetes.io~local-volume/pv/kept"));
    let other_torn = node.volumes.tear_down(&proof(), &second).await;

    assert_eq!(mounted.paths["data"], ReadyVolume { path: path.clone(), ours: true, read_only: false });
    assert_eq!(mounted.paths["look"], ReadyVolume { path, ours: true, read_only: true });
    assert_eq!(mounted.warnings, []);
    assert_eq!(seen.unwrap(), "x");
    assert_eq!(owner.unwrap(), (0o664, 77));
    assert!(flags.unwrap().contains(rustix::fs::StatVfsMountFlags::NOEXEC));
    let told: Vec<&str> = other.warnings.iter().map(|warning| warning.message.as_str()).collect();
    assert_eq!(
        told,
        ["The requested fsGroup is 78, but the volume pv has GID 77. The volume may not be shareable."]
    );
    torn.unwrap();
    torn_again.unwrap();
    assert_eq!(second_sees.unwrap(), "x");
    other_torn.unwrap();
    assert_eq!(fs::read_to_string(source.join("kept")).unwrap(), "x");
    for dir in [&first, &second] {
        assert_eq!(fs::read_dir(dir.join("volumes")).unwrap().count(), 0);
    }
}
