//! What the driver and the API server are asked and told: attaching, groups, secrets, tokens, growing, statistics.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use rubelet_core::ids::PodUid;
use rubelet_core::volumes::attach::attachment_name;
use rubelet_core::volumes::{CsiVolume, SecretPlace};
use rubelet_testkit::csi_driver::{Capability, Character, Fault, Method, Rule, Usage};
use serde_json::{Value, json};

use crate::world::*;

fn unique() -> String {
    volume().unique_name()
}

fn attachment(status: Value) -> (String, Value) {
    let name = attachment_name("vol", DRIVER, "n1");
    let spec = json!({"attacher": DRIVER, "nodeName": "n1", "source": {}});
    (name.clone(), json!({"metadata": {"name": name}, "spec": spec, "status": status}))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_waited_for_until_it_is_attached() {
    let world = World::usual().await;
    world.driver_object(json!({}));
    let volume = volume();
    let mut set_up = Box::pin(world.set_up("a", &volume));
    tokio::select! {
        outcome = &mut set_up => panic!("{outcome:?}"),
        () = until(|| world.api.objects().in_use.contains(&unique())) => {}
    }
    assert_eq!(world.driver.changes_of("vol"), Vec::<String>::new());
    let metadata = json!({"devicePath": "/dev/x"});
    let (name, object) = attachment(json!({"attached": true, "attachmentMetadata": metadata}));
    world.api.objects().attachments.insert(name, object);
    world.api.attach(&unique());
    set_up.await.unwrap();
    let staged = &world.driver.calls_of(Method::NodeStageVolume, "vol")[0];
    assert_eq!(staged.request["publish_context"], metadata);
    world.tear_down("a").await.unwrap();
    world.settled().await;
    until(|| world.api.objects().in_use.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_cannot_be_attached_is_not_waited_for_and_not_kept() {
    let world = World::usual().await;
    world.driver_object(json!({}));
    let (name, object) = attachment(json!({"attached": false, "attachError": {"message": "no such disk"}}));
    world.api.objects().attachments.insert(name, object);
    let problem = world.set_up("a", &volume()).await.unwrap_err();
    assert_eq!(
        (problem.step.name(), problem.to_string().as_str()),
        ("MountVolume.WaitForAttach failed", "no such disk")
    );
    // The pod goes: nothing is mounted, and the volume is in use no longer.
    world.tear_down("a").await.unwrap();
    until(|| world.api.objects().in_use.is_empty()).await;
    assert_eq!(world.driver.changes_of("vol"), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inline_volume_is_told_of_its_pod() {
    let world = World::usual().await;
    let inline = CsiVolume {
        inline: true,
        handle: "csi-1".into(),
        spec_name: "data".into(),
        publish_secret: Some(SecretPlace { namespace: "shop".into(), name: "key".into() }),
        ..volume()
    };
    let problem = world.set_up("a", &inline).await.unwrap_err();
    assert!(problem.to_string().contains("only supports"), "{problem}");
    world.driver_object(json!({
        "volumeLifecycleModes": ["Ephemeral"], "podInfoOnMount": true,
        "tokenRequests": [{"audience": "vault"}], "serviceAccountTokenInSecrets": false,
    }));
    let problem = world.set_up("a", &inline).await.unwrap_err();
    assert!(problem.to_string().starts_with("fetching NodePublishSecretRef shop/key failed"), "{problem}");
    world.api.objects().secrets.insert("key".into(), json!({"data": {"user": "YmFrZXI="}}));
    world.set_up("a", &inline).await.unwrap();
    let published = &world.driver.calls_of(Method::NodePublishVolume, "csi-1")[0];
    let context = &published.request["volume_context"];
    assert_eq!(context["csi.storage.k8s.io/pod.name"], "pod-a");
    assert_eq!(context["csi.storage.k8s.io/serviceAccount.name"], "baker");
    assert_eq!(context["csi.storage.k8s.io/ephemeral"], "true");
    let tokens = context["csi.storage.k8s.io/serviceAccount.tokens"].as_str().unwrap();
    let tokens: Value = serde_json::from_str(tokens).unwrap();
    assert_eq!(tokens["vault"]["token"], "token for vault");
    world.tear_down("a").await.unwrap();
    world.settled().await;
    assert_eq!(world.driver.changes_of("csi-1"), ["NodePublishVolume", "NodeUnpublishVolume"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_handed_to_the_group_by_the_agent_or_by_the_driver() {
    let with_group = pod("a", json!({"securityContext": {"fsGroup": 4321}}));
    let world = World::usual().await;
    let ready = world.set_up_at(&with_group, &volume(), None, 0).await.unwrap();
    let root = fs::metadata(&ready.volume.path).unwrap();
    assert_eq!((root.gid(), root.mode() & 0o2070), (4321, 0o2070));
    world.tear_down("a").await.unwrap();
    world.settled().await;

    let world = World::new(Character::named(DRIVER).that_can(&[Capability::VolumeMountGroup])).await;
    world.set_up_at(&with_group, &volume(), None, 0).await.unwrap();
    let published = &world.driver.calls_of(Method::NodePublishVolume, "vol")[0];
    assert!(published.request.to_string().contains("4321"), "{}", published.request);
    world.tear_down("a").await.unwrap();
    world.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_wants_it_publishes_again_and_what_fails_then_harms_nobody() {
    let world = World::usual().await;
    world.driver_object(json!({"attachRequired": false, "requiresRepublish": true}));
    let of_a = pod("a", json!({}));
    let ready = world.set_up_at(&of_a, &volume(), None, 0).await.unwrap();
    assert_eq!(ready.refresh_at, Some(at(60)));
    world.set_up_at(&of_a, &volume(), None, 59).await.unwrap();
    assert_eq!(world.driver.calls_of(Method::NodePublishVolume, "vol").len(), 1);
    world.set_up_at(&of_a, &volume(), None, 60).await.unwrap();
    assert_eq!(world.driver.calls_of(Method::NodePublishVolume, "vol").len(), 2);
    let code = rubelet_csi::Code::Internal;
    world.driver.fault(Rule::on(Method::NodePublishVolume, Fault::Fail(code)).times(1));
    let ready = world.set_up_at(&of_a, &volume(), None, 120).await.unwrap();
    assert!(ready.behind.is_some());
    assert_eq!(ready.refresh_at, Some(at(130)));
    assert_eq!(world.driver.places().len(), 2, "the pod keeps its mount");
    tokio::time::sleep(Duration::from_millis(600)).await;
    let ready = world.set_up_at(&of_a, &volume(), None, 130).await.unwrap();
    assert!(ready.behind.is_none());
    world.tear_down("a").await.unwrap();
    world.settled().await;
    assert_eq!(world.driver.mistakes(), Vec::<String>::new());
}

fn sizes(world: &World, volume: &str, claim: &str, status: Option<&str>) {
    let mut objects = world.api.objects();
    objects
        .volumes
        .insert("pv".into(), json!({"metadata": {"name": "pv"}, "spec": {"capacity": {"storage": volume}}}));
    objects.claims.insert(
        "disk".into(),
        json!({
            "metadata": {"namespace": "shop", "name": "disk"},
            "spec": {"resources": {"requests": {"storage": volume}}},
            "status": {
                "capacity": {"storage": claim},
                "allocatedResources": {"storage": volume},
                "allocatedResourceStatuses": status.map(|status| json!({"storage": status})),
            },
        }),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_grows_when_it_is_mounted_and_while_it_is_used() {
    let world = World::usual().await;
    let of_a = pod("a", json!({}));
    sizes(&world, "2Mi", "1Mi", Some("NodeResizePending"));
    let code = rubelet_csi::Code::Internal;
    world.driver.fault(Rule::on(Method::NodeExpandVolume, Fault::Fail(code)).times(1));
    let problem = world.set_up_at(&of_a, &volume(), Some("disk"), 0).await.unwrap_err();
    assert_eq!(problem.step.name(), "MountVolume.Setup failed while expanding volume");
    tokio::time::sleep(Duration::from_millis(600)).await;
    let ready = world.set_up_at(&of_a, &volume(), Some("disk"), 1).await.unwrap();
    assert_eq!(world.driver.capacity("vol"), Some(2 * MIB));
    assert_eq!(ready.refresh_at, Some(at(121)));
    assert_eq!(ready.warnings.len(), 1);
    assert!(ready.warnings[0].normal && ready.warnings[0].reason == "FileSystemResizeSuccessful");
    {
        let told = std::mem::take(&mut world.api.objects().told);
        assert_eq!(told.len(), 4, "{told:?}");
        assert!(told[1].starts_with("disk does not grow, infeasible: false"), "{told:?}");
        assert_eq!(told[3], "disk has 2 Mi");
    }
    sizes(&world, "2Mi", "2Mi", None);
    let ready = world.set_up_at(&of_a, &volume(), Some("disk"), 60).await.unwrap();
    assert_eq!((ready.refresh_at, ready.warnings.len()), (Some(at(121)), 0));
    sizes(&world, "3Mi", "2Mi", Some("NodeResizePending"));
    world.set_up_at(&of_a, &volume(), Some("disk"), 121).await.unwrap();
    assert_eq!(world.driver.capacity("vol"), Some(3 * MIB));
    assert_eq!(world.driver.calls_of(Method::NodeExpandVolume, "vol").len(), 3);
    assert_eq!(world.driver.calls_of(Method::NodePublishVolume, "vol").len(), 1);
    world.tear_down("a").await.unwrap();
    world.settled().await;
    assert_eq!(world.driver.mistakes(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_measured_once_at_a_time() {
    let world = World::usual().await;
    world.set_up("a", &volume()).await.unwrap();
    world.driver.change(|driver| {
        let usage = Usage { total: 100, used: 40, available: 60, inodes: (10, 4, 6) };
        driver.usage.insert("vol".into(), usage);
        driver.abnormal.insert("vol".into(), "it smells".into());
    });
    let (uid, dir) = (PodUid::from("a"), world.pod_dir("a"));
    let stats = world.csi.stats(&volume(), &uid, &dir).await.unwrap();
    assert_eq!(stats.bytes.map(|bytes| (bytes.total, bytes.used, bytes.available)), Some((100, 40, 60)));
    assert_eq!(stats.condition, None, "the driver does not say that it knows");
    let hanging = world.driver.fault(Rule::on(Method::NodeGetVolumeStats, Fault::Hang));
    let volume = volume();
    let mut first = Box::pin(world.csi.stats(&volume, &uid, &dir));
    tokio::select! {
        outcome = &mut first => panic!("{outcome:?}"),
        () = until(|| hanging.hits() == 1) => {}
    }
    let second = world.csi.stats(&volume, &uid, &dir).await.unwrap_err();
    assert!(second.to_string().contains("not yet answered"), "{second}");
    assert_eq!(hanging.hits(), 1);
    hanging.stop();
    first.await.unwrap();
    world.csi.stats(&volume, &uid, &dir).await.unwrap();
    world.tear_down("a").await.unwrap();
    world.settled().await;
}
