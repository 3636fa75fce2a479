//! Claims and volumes, carried from where a case begins to where no step is left.

use super::*;

/// Everything there is, and what was told of claims.
struct Scene {
    claims: Vec<Value>,
    volumes: Vec<Value>,
    classes: Vec<Value>,
    pods: Vec<Value>,
    told: Vec<String>,
}

fn claim(name: &str, spec: Value) -> Value {
    let mut claim = json!({
        "metadata": {"name": name, "namespace": "ns", "uid": format!("u-{name}"), "resourceVersion": "7"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
                 "volumeMode": "Filesystem", "storageClassName": ""},
        "status": {"phase": "Pending"},
    });
    claim["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    claim
}

fn volume(name: &str, size: &str, spec: Value) -> Value {
    let mut volume = json!({
        "metadata": {"name": name, "labels": {"disk": name}},
        "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": size}, "volumeMode": "Filesystem",
                 "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": "/x"}},
        "status": {"phase": "Pending"},
    });
    volume["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    volume
}

fn class(name: &str, provisioner: &str, mode: &str) -> Value {
    json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode, "reclaimPolicy": "Delete"})
}

fn put(all: &mut Vec<Value>, object: Value) {
    let name = text(&object, &["metadata", "name"]).to_owned();
    match all.iter_mut().find(|o| text(o, &["metadata", "name"]) == name) {
        Some(old) => *old = object,
        None => all.push(object),
    }
}

impl Scene {
    fn new(claims: &[Value], volumes: &[Value], classes: &[Value]) -> Self {
        Self {
            claims: claims.to_vec(),
            volumes: volumes.to_vec(),
            classes: classes.to_vec(),
            pods: Vec::new(),
            told: Vec::new(),
        }
    }

    fn next(&self) -> Vec<Step> {
        let world = World { volumes: &self.volumes, classes: &self.classes, pods: &self.pods, node: "n" };
        let mut steps: Vec<Step> = self.claims.iter().map(|claim| next_for_claim(claim, &world)).collect();
        steps.extend(self.volumes.iter().map(|volume| {
            let claim = self.claims.iter().find(|claim| is_of(volume, claim));
            next_for_volume(volume, claim)
        }));
        steps
    }

    /// Carries out one step after another until none is left.
    fn settle(&mut self) {
        for _ in 0..100 {
            let step = self.next().into_iter().find(|step| match step {
                Step::Done => false,
                Step::Wait { reason, message } => {
                    let line = format!("{reason}: {message}");
                    if !self.told.contains(&line) {
                        self.told.push(line);
                    }
                    false
                }
                _ => true,
            });
            match step {
                None => return,
                Some(Step::WriteVolume(volume) | Step::WriteVolumeStatus(volume)) => {
                    let gone = is_deleted(&volume) && !has_finalizer(&volume, VOLUME_PROTECTION);
                    put(&mut self.volumes, volume);
                    if gone {
                        self.volumes.retain(|v| !is_deleted(v));
                    }
                }
                Some(Step::WriteClaim(claim) | Step::WriteClaimStatus(claim)) => {
                    let gone = is_deleted(&claim) && !has_finalizer(&claim, CLAIM_PROTECTION);
                    put(&mut self.claims, claim);
                    if gone {
                        self.claims.retain(|c| !is_deleted(c));
                    }
                }
                Some(Step::Provision(mut volume)) => {
                    volume["spec"]["hostPath"]["path"] = json!("/made");
                    put(&mut self.volumes, volume);
                }
                Some(Step::Reclaim(volume)) => {
                    self.volumes.retain(|v| v["metadata"]["name"] != volume["metadata"]["name"]);
                }
                Some(Step::Done | Step::Wait { .. }) => unreachable!("these are no steps to carry out"),
            }
        }
        panic!("there is no end of steps");
    }

    /// `claim -> volume (phase)` of every claim, `volume (phase)` of every volume.
    fn told(&self) -> String {
        let claims = self.claims.iter().map(|c| {
            let (name, volume) = (text(c, &["metadata", "name"]), text(c, &["spec", "volumeName"]));
            format!("{name} -> {volume} {}", text(c, &["status", "phase"]))
        });
        let volumes = self
            .volumes
            .iter()
            .map(|v| format!("{} {}", text(v, &["metadata", "name"]), text(v, &["status", "phase"])));
        claims.chain(volumes).collect::<Vec<_>>().join("; ")
    }
}

/// What a case comes to.
fn check(claims: &[Value], volumes: &[Value], classes: &[Value], expected: &str) -> Scene {
    let mut scene = Scene::new(claims, volumes, classes);
    scene.settle();
    assert_eq!(scene.told(), expected, "{:?}", scene.told);
    scene
}

#[test]
fn the_smallest_volume_that_fits_is_bound_both_ways() {
    let volumes = [
        volume("big", "10Gi", json!({})),
        volume("fits", "2Gi", json!({})),
        volume("small", "1Mi", json!({})),
        volume("fast", "1Gi", json!({"storageClassName": "fast"})),
        volume("block", "1Gi", json!({"volumeMode": "Block"})),
        volume("taken", "1Gi", json!({"claimRef": {"namespace": "ns", "name": "other"}})),
    ];
    let scene = check(
        &[claim("c", json!({}))],
        &volumes,
        &[],
        "c -> fits Bound; big Available; fits Bound; small Available; fast Available; block Available; taken Available",
    );
    assert_eq!(scene.claims[0]["status"]["capacity"]["storage"], "2Gi");
    assert_eq!(scene.volumes[1]["spec"]["claimRef"]["uid"], "u-c");
    assert_eq!(annotation(&scene.claims[0], BIND_COMPLETED), Some("yes"));
    assert_eq!(annotation(&scene.volumes[1], BOUND_BY_CONTROLLER), Some("yes"));
}

#[test]
fn a_volume_made_for_a_claim_is_its_own_and_a_named_one_too() {
    let made = volume("made", "5Gi", json!({"claimRef": {"namespace": "ns", "name": "c"}}));
    let free = volume("free", "1Gi", json!({}));
    let scene = check(
        &[claim("c", json!({}))],
        &[free.clone(), made],
        &[],
        "c -> made Bound; free Available; made Bound",
    );
    assert_eq!(annotation(&scene.volumes[1], BOUND_BY_CONTROLLER), None);
    let big = volume("big", "9Gi", json!({}));
    let named = claim("c", json!({"volumeName": "big"}));
    check(&[named], &[free, big], &[], "c -> big Bound; free Available; big Bound");
    let scene = check(&[claim("c", json!({"volumeName": "none"}))], &[], &[], "c -> none Pending");
    assert_eq!(scene.told, ["FailedBinding: volume \"none\" not found."]);
}

#[test]
fn selectors_and_access_modes_are_met_or_the_claim_waits() {
    let volumes =
        [volume("a", "1Gi", json!({})), volume("b", "1Gi", json!({"accessModes": ["ReadWriteMany"]}))];
    let selected = claim(
        "c",
        json!({"selector": {"matchExpressions": [
        {"key": "disk", "operator": "In", "values": ["b"]}]}, "accessModes": ["ReadWriteMany"]}),
    );
    check(&[selected], &volumes, &[], "c -> b Bound; a Available; b Bound");
    let scene = check(
        &[claim("c", json!({"accessModes": ["ReadOnlyMany"]}))],
        &volumes,
        &[],
        "c ->  Pending; a Available; b Available",
    );
    assert!(scene.told[0].starts_with("FailedBinding: no persistent volumes available"), "{:?}", scene.told);
}

#[test]
fn our_provisioner_makes_a_folder_and_takes_it_back() {
    let classes = [class("local-path", PROVISIONER, "Immediate")];
    let wanted = claim("c", json!({"storageClassName": "local-path"}));
    let mut scene = check(&[wanted], &[], &classes, "c -> pvc-u-c Bound; pvc-u-c Bound");
    scene.claims.clear();
    scene.settle();
    assert_eq!(scene.told(), "");
    let mut kept = class("kept", PROVISIONER, "Immediate");
    kept["reclaimPolicy"] = json!("Retain");
    let mut scene = check(
        &[claim("c", json!({"storageClassName": "kept"}))],
        &[],
        &[kept],
        "c -> pvc-u-c Bound; pvc-u-c Bound",
    );
    scene.claims.clear();
    scene.settle();
    assert_eq!(scene.told(), "pvc-u-c Released");
    // A claim of the same name is another claim.
    let mut again = claim("c", json!({"storageClassName": "kept"}));
    again["metadata"]["uid"] = json!("u-2");
    scene.claims.push(again);
    scene.settle();
    assert_eq!(scene.told(), "c -> pvc-u-2 Bound; pvc-u-c Released; pvc-u-2 Bound");
}

#[test]
fn what_nobody_here_can_make_is_explained() {
    let check = |spec: Value, told: &str| {
        let classes = [class("ebs", "ebs.csi", "Immediate"), class("local-path", PROVISIONER, "Immediate")];
        let scene = check(&[claim("c", spec)], &[], &classes, "c ->  Pending");
        assert!(scene.told.iter().any(|line| line.contains(told)), "{:?}", scene.told);
    };
    check(json!({"storageClassName": "ebs"}), "ExternalProvisioning: Waiting for a volume");
    check(json!({"storageClassName": "none"}), "storageclass.storage.k8s.io \"none\" not found");
    check(json!({"storageClassName": "local-path", "volumeMode": "Block"}), "not block devices");
    check(json!({"storageClassName": "local-path", "selector": {}}), "selector");
    let mut class = class("local-path", PROVISIONER, "Immediate");
    class["mountOptions"] = json!(["noatime"]);
    let wanted = claim("c", json!({"storageClassName": "local-path"}));
    let scene = self::check(&[wanted], &[], &[class], "c ->  Pending");
    assert_eq!(
        scene.told,
        [
            "ProvisioningFailed: Mount options are not supported by the provisioner but StorageClass \"local-path\" has \
             mount options [\"noatime\"]"
        ]
    );
}

#[test]
fn a_class_may_wait_for_the_first_pod() {
    let classes = [class("later", PROVISIONER, "WaitForFirstConsumer")];
    let mut scene =
        check(&[claim("c", json!({"storageClassName": "later"}))], &[], &classes, "c ->  Pending");
    assert_eq!(scene.told, ["WaitForFirstConsumer: waiting for first consumer to be created before binding"]);
    scene.pods = vec![json!({"metadata": {"namespace": "ns", "name": "p"}, "spec": {"volumes": [
        {"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}})];
    scene.settle();
    assert_eq!(scene.told(), "c -> pvc-u-c Bound; pvc-u-c Bound");
}

#[test]
fn claims_and_volumes_in_use_are_kept_until_they_are_not() {
    let classes = [class("local-path", PROVISIONER, "Immediate")];
    let mut wanted = claim("c", json!({"storageClassName": "local-path"}));
    wanted["metadata"]["finalizers"] = json!([CLAIM_PROTECTION]);
    let mut scene = check(&[wanted], &[], &classes, "c -> pvc-u-c Bound; pvc-u-c Bound");
    scene.pods = vec![json!({"metadata": {"namespace": "ns", "name": "p"}, "spec": {"volumes": [
        {"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}})];
    scene.claims[0]["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    scene.volumes[0]["metadata"]["finalizers"] = json!([VOLUME_PROTECTION]);
    scene.settle();
    assert_eq!(scene.told(), "c -> pvc-u-c Bound; pvc-u-c Bound");
    scene.pods.clear();
    scene.volumes[0]["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    scene.settle();
    assert_eq!(scene.told(), "");
}

#[test]
fn a_claim_whose_volume_is_gone_is_lost() {
    let mut scene =
        check(&[claim("c", json!({}))], &[volume("v", "1Gi", json!({}))], &[], "c -> v Bound; v Bound");
    scene.volumes.clear();
    scene.settle();
    assert_eq!(scene.told(), "c -> v Lost");
}

#[test]
fn the_claim_of_an_ephemeral_volume_is_its_pods() {
    let pod = json!({"metadata": {"namespace": "ns", "name": "p", "uid": "u1"}, "spec": {"volumes": [
        {"name": "named", "persistentVolumeClaim": {"claimName": "c"}},
        {"name": "none", "emptyDir": {}},
        {"name": "own", "ephemeral": {"volumeClaimTemplate": {
            "metadata": {"labels": {"a": "b"}}, "spec": {"accessModes": ["ReadWriteOnce"]}}}},
    ]}});
    let claims: Vec<_> = claims_of(&pod).collect();
    let told: Vec<_> = claims.iter().map(|claim| (claim.name.as_str(), claim.ephemeral)).collect();
    assert_eq!(told, [("c", false), ("p-own", true)]);
    let made = new_claim(&claims[1], &pod);
    assert_eq!(made["metadata"]["labels"], json!({"a": "b"}));
    assert!(made["metadata"].get("annotations").is_none());
    assert_eq!(made["spec"], json!({"accessModes": ["ReadWriteOnce"]}));
    assert!(is_made_for(&made, &pod));
    let mut other = pod.clone();
    other["metadata"]["uid"] = json!("u2");
    assert!(!is_made_for(&made, &other) && !is_made_for(&claim("p-own", json!({})), &pod));
    assert_eq!(not_made_for(&made, &other), "PVC ns/p-own was not created for pod ns/p (pod is not owner)");
}
