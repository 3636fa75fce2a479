//! The test driver against the order and the codes that csi-sanity asks of every driver's node service, and the client of the
//! agent against the driver: if the two agree here, a node test that fails is about the agent. Mounts, so only root
//! gets through all of it.

// A test fails by panicking.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::PathBuf;

use rubelet_csi::v1;
use rubelet_csi::v1::node_client::NodeClient;
use rubelet_csi::{
    AccessMode, Capability, Code, CsiClient, CsiError, ExpandRequest, PublishRequest, StageRequest,
    StatsRequest,
};
use rubelet_testkit::csi_driver::{Character, CsiDriver};
use tonic::transport::{Channel, Endpoint};

const MIB: i64 = 1 << 20;

struct Bench {
    _dir: tempfile::TempDir,
    driver: CsiDriver,
    client: CsiClient,
    staging: PathBuf,
    target: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (root, data) = (dir.path().join("root"), dir.path().join("data"));
        let mut driver = CsiDriver::new(Character::named("d"), "d", &root, &data).unwrap();
        driver.start().unwrap();
        let client = CsiClient::new(driver.endpoint(), "d");
        let (staging, target) = (dir.path().join("staging"), dir.path().join("pod/mount"));
        std::fs::create_dir(&staging).unwrap();
        std::fs::create_dir(target.parent().unwrap()).unwrap();
        Self { _dir: dir, driver, client, staging, target }
    }

    fn stage(&self, volume: &str) -> StageRequest {
        StageRequest {
            volume_id: volume.to_owned(),
            staging_path: self.staging.clone(),
            capability: used(),
            ..StageRequest::default()
        }
    }

    fn publish(&self, volume: &str) -> PublishRequest {
        PublishRequest {
            volume_id: volume.to_owned(),
            staging_path: Some(self.staging.clone()),
            target_path: self.target.clone(),
            capability: used(),
            ..PublishRequest::default()
        }
    }

    fn stats(&self, volume: &str) -> StatsRequest {
        StatsRequest { volume_id: volume.to_owned(), volume_path: self.target.clone(), staging_path: None }
    }

    fn expand(&self, volume: &str, bytes: i64) -> ExpandRequest {
        ExpandRequest {
            volume_id: volume.to_owned(),
            volume_path: self.target.clone(),
            staging_path: Some(self.staging.clone()),
            required_bytes: bytes,
            capability: used(),
            ..ExpandRequest::default()
        }
    }
}

fn used() -> Capability {
    Capability { mode: AccessMode::SingleNodeWriter, ..Capability::default() }
}

fn code<T: std::fmt::Debug>(result: Result<T, CsiError>) -> Code {
    let error = result.unwrap_err();
    assert!(error.final_ && error.reached, "{error:?}");
    error.code
}

fn root() -> bool {
    rustix::process::geteuid().is_root()
}

#[tokio::test]
async fn the_whole_way_of_a_volume_works_and_every_step_may_be_repeated() {
    if !root() {
        return;
    }
    let bench = Bench::new();
    let Bench { driver, client, .. } = &bench;
    driver.provide("vol", MIB).unwrap();
    assert!(client.probe().await.unwrap());
    assert_eq!(client.plugin_info().await.unwrap().name, "d");
    assert_eq!(client.node_info().await.unwrap().node_id, "node-of-d");
    let can = client.capabilities().await.unwrap();
    assert!(can.stage_unstage && can.volume_stats && can.expand && !can.volume_mount_group, "{can:?}");
    for _ in 0..2 {
        client.stage(bench.stage("vol")).await.unwrap();
    }
    for _ in 0..2 {
        client.publish(bench.publish("vol")).await.unwrap();
    }
    assert!(client.stats(bench.stats("vol")).await.unwrap().bytes.is_some());
    for _ in 0..2 {
        assert_eq!(client.expand(bench.expand("vol", 2 * MIB)).await.unwrap(), 2 * MIB);
    }
    for _ in 0..2 {
        client.unpublish("vol", &bench.target).await.unwrap();
    }
    assert!(!bench.target.exists(), "the target is the driver's to make and to remove");
    for _ in 0..2 {
        client.unstage("vol", &bench.staging).await.unwrap();
    }
    // And once more from the beginning, as after a restart of the pod.
    client.stage(bench.stage("vol")).await.unwrap();
    client.publish(bench.publish("vol")).await.unwrap();
    client.unpublish("vol", &bench.target).await.unwrap();
    client.unstage("vol", &bench.staging).await.unwrap();
    assert_eq!((driver.places(), driver.mistakes()), (vec![], vec![]));
}

#[tokio::test]
async fn a_volume_that_there_is_not_is_not_found() {
    let bench = Bench::new();
    let client = &bench.client;
    assert_eq!(code(client.stage(bench.stage("none")).await), Code::NotFound);
    assert_eq!(code(client.expand(bench.expand("none", MIB)).await), Code::NotFound);
    assert_eq!(code(client.stats(bench.stats("none")).await), Code::NotFound);
    // What is not there is away already.
    client.unpublish("none", &bench.target).await.unwrap();
    client.unstage("none", &bench.staging).await.unwrap();
}

#[tokio::test]
async fn statistics_are_of_places_where_the_volume_is() {
    if !root() {
        return;
    }
    let bench = Bench::new();
    let client = &bench.client;
    bench.driver.provide("vol", MIB).unwrap();
    client.stage(bench.stage("vol")).await.unwrap();
    client.publish(bench.publish("vol")).await.unwrap();
    let elsewhere = StatsRequest { volume_path: "/some/path".into(), ..bench.stats("vol") };
    assert_eq!(code(client.stats(elsewhere).await), Code::NotFound);
    client.unpublish("vol", &bench.target).await.unwrap();
    client.unstage("vol", &bench.staging).await.unwrap();
}

/// What the agent's client never sends, and csi-sanity does.
#[tokio::test]
async fn what_lacks_a_required_field_is_refused() {
    let bench = Bench::new();
    bench.driver.provide("vol", MIB).unwrap();
    let uri = format!("unix://{}", bench.driver.endpoint().display());
    let mut raw: NodeClient<Channel> = NodeClient::new(Endpoint::from_shared(uri).unwrap().connect_lazy());
    let (id, path) = ("vol".to_owned(), bench.staging.display().to_string());
    let mut refused: Vec<(&str, Code)> = Vec::new();
    macro_rules! check {
        ($what:literal, $method:ident, $request:expr) => {
            refused.push(($what, raw.$method($request).await.unwrap_err().code()));
        };
    }
    let stage = v1::NodeStageVolumeRequest {
        volume_id: id.clone(),
        staging_target_path: path.clone(),
        volume_capability: Some(used().into()),
        ..Default::default()
    };
    let without = v1::NodeStageVolumeRequest { volume_id: String::new(), ..stage.clone() };
    check!("stage without id", node_stage_volume, without);
    let without = v1::NodeStageVolumeRequest { staging_target_path: String::new(), ..stage.clone() };
    check!("stage without path", node_stage_volume, without);
    let without = v1::NodeStageVolumeRequest { volume_capability: None, ..stage };
    check!("stage without capability", node_stage_volume, without);
    let unstage =
        v1::NodeUnstageVolumeRequest { volume_id: String::new(), staging_target_path: path.clone() };
    check!("unstage without id", node_unstage_volume, unstage);
    let unstage = v1::NodeUnstageVolumeRequest { volume_id: id.clone(), staging_target_path: String::new() };
    check!("unstage without path", node_unstage_volume, unstage);
    let publish = v1::NodePublishVolumeRequest {
        volume_id: id.clone(),
        staging_target_path: path.clone(),
        target_path: bench.target.display().to_string(),
        volume_capability: Some(used().into()),
        ..Default::default()
    };
    let without = v1::NodePublishVolumeRequest { volume_id: String::new(), ..publish.clone() };
    check!("publish without id", node_publish_volume, without);
    let without = v1::NodePublishVolumeRequest { target_path: String::new(), ..publish.clone() };
    check!("publish without path", node_publish_volume, without);
    let without = v1::NodePublishVolumeRequest { volume_capability: None, ..publish };
    check!("publish without capability", node_publish_volume, without);
    let unpublish = v1::NodeUnpublishVolumeRequest { volume_id: String::new(), target_path: path.clone() };
    check!("unpublish without id", node_unpublish_volume, unpublish);
    let unpublish = v1::NodeUnpublishVolumeRequest { volume_id: id.clone(), target_path: String::new() };
    check!("unpublish without path", node_unpublish_volume, unpublish);
    let stats = v1::NodeGetVolumeStatsRequest { volume_path: path.clone(), ..Default::default() };
    check!("stats without id", node_get_volume_stats, stats);
    let stats = v1::NodeGetVolumeStatsRequest { volume_id: id.clone(), ..Default::default() };
    check!("stats without path", node_get_volume_stats, stats);
    let expand = v1::NodeExpandVolumeRequest { volume_path: path, ..Default::default() };
    check!("expand without id", node_expand_volume, expand);
    let expand = v1::NodeExpandVolumeRequest { volume_id: id, ..Default::default() };
    check!("expand without path", node_expand_volume, expand);
    refused.retain(|(_, code)| *code != Code::InvalidArgument);
    assert_eq!(refused, []);
}
