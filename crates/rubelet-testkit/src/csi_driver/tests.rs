//! The driver before it is let loose on an agent: what it does, what it refuses, and that its script is followed.

use std::fs;
use std::time::Duration;

use rubelet_csi::v1;
use rubelet_csi::v1::node_client::NodeClient;
use rubelet_csi::v1::volume_capability::access_mode::Mode;
use rubelet_csi::v1::volume_capability::{AccessMode, AccessType, MountVolume};
use tempfile::TempDir;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::*;

const MIB: i64 = 1 << 20;

/// A driver that serves, and a client of it.
async fn started(character: Character) -> (TempDir, CsiDriver, NodeClient<Channel>) {
    let dir = tempfile::tempdir().unwrap();
    let mut driver =
        CsiDriver::new(character, "d", &dir.path().join("root"), &dir.path().join("data")).unwrap();
    driver.start().unwrap();
    let channel = connect(&driver);
    (dir, driver, NodeClient::new(channel))
}

fn connect(driver: &CsiDriver) -> Channel {
    Endpoint::from_shared(format!("unix://{}", driver.endpoint().display())).unwrap().connect_lazy()
}

fn files() -> Option<v1::VolumeCapability> {
    Some(v1::VolumeCapability {
        access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter.into() }),
        access_type: Some(AccessType::Mount(MountVolume::default())),
    })
}

fn stage(dir: &TempDir) -> v1::NodeStageVolumeRequest {
    v1::NodeStageVolumeRequest {
        volume_id: "vol".to_owned(),
        staging_target_path: dir.path().join("staging").display().to_string(),
        volume_capability: files(),
        ..v1::NodeStageVolumeRequest::default()
    }
}

#[tokio::test]
async fn forbidden_calls_are_refused_and_noted() {
    let (dir, driver, mut client) = started(Character::named("d")).await;
    driver.provide("vol", MIB).unwrap();
    let no_directory = client.node_stage_volume(stage(&dir)).await.unwrap_err();
    assert_eq!(no_directory.code(), Code::Internal, "{no_directory}");
    fs::create_dir_all(dir.path().join("staging")).unwrap();
    let publish = v1::NodePublishVolumeRequest {
        volume_id: "vol".to_owned(),
        staging_target_path: stage(&dir).staging_target_path,
        target_path: dir.path().join("target").display().to_string(),
        volume_capability: files(),
        ..v1::NodePublishVolumeRequest::default()
    };
    let unstaged = client.node_publish_volume(publish).await.unwrap_err();
    assert_eq!(unstaged.code(), Code::FailedPrecondition, "{unstaged}");
    let nothing = client.node_stage_volume(v1::NodeStageVolumeRequest::default()).await.unwrap_err();
    assert_eq!(nothing.code(), Code::InvalidArgument, "{nothing}");
    // What is not there is gone already, and a volume that nobody made is nobody's mistake.
    let unstage = v1::NodeUnstageVolumeRequest {
        volume_id: "other".to_owned(),
        staging_target_path: stage(&dir).staging_target_path,
    };
    client.node_unstage_volume(unstage).await.unwrap();
    let unknown = v1::NodeStageVolumeRequest { volume_id: "other".to_owned(), ..stage(&dir) };
    assert_eq!(client.node_stage_volume(unknown).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(driver.mistakes().len(), 3, "{:?}", driver.mistakes());
    let words: Vec<String> = driver.calls().iter().map(|call| call.to_string()).collect();
    assert_eq!(words.len(), 5);
    assert_eq!(words[3], "NodeUnstageVolume other");
    assert!(words[1].starts_with("NodePublishVolume vol => \"FailedPrecondition: "), "{words:?}");
}

#[tokio::test]
async fn the_script_is_followed_and_a_volume_has_one_call_at_a_time() {
    let (dir, mut driver, mut client) = started(Character::named("d")).await;
    driver.fault(Rule::on(Method::NodeStageVolume, Fault::Fail(Code::OutOfRange)).times(1));
    driver.fault(Rule::on(Method::NodeStageVolume, Fault::Lie).volume("other"));
    let hang = driver.fault(Rule::on(Method::NodeStageVolume, Fault::Hang).volume("vol"));
    assert_eq!(client.node_stage_volume(stage(&dir)).await.unwrap_err().code(), Code::OutOfRange);
    let other = v1::NodeStageVolumeRequest { volume_id: "other".to_owned(), ..stage(&dir) };
    client.node_stage_volume(other).await.unwrap();
    assert_eq!(driver.places(), []);

    let mut other = client.clone();
    let request = stage(&dir);
    let hanging = tokio::spawn(async move { other.node_stage_volume(request).await });
    while hang.hits() == 0 {
        tokio::task::yield_now().await;
    }
    let second = client.node_stage_volume(stage(&dir)).await.unwrap_err();
    assert_eq!(second.code(), Code::Aborted);
    assert_eq!(driver.mistakes().len(), 1, "the first client still waits: {:?}", driver.mistakes());
    hang.stop();
    let told = hanging.await.unwrap().unwrap_err();
    assert_eq!(told.code(), Code::Internal, "goes on where it hung, to find no directory: {told}");

    // A driver that dies takes its calls with it, and comes back.
    let hang = driver.fault(Rule::on(Method::NodeGetInfo, Fault::Hang).times(1));
    let mut other = client.clone();
    let hanging = tokio::spawn(async move { other.node_get_info(v1::NodeGetInfoRequest {}).await });
    while hang.hits() == 0 {
        tokio::task::yield_now().await;
    }
    driver.crash();
    tokio::time::timeout(Duration::from_secs(20), hanging).await.unwrap().unwrap().unwrap_err();
    assert!(driver.endpoint().exists());
    driver.start().unwrap();
    let mut client = NodeClient::new(connect(&driver));
    let info = client.node_get_info(v1::NodeGetInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.node_id, "node-of-d");
    driver.stop();
    assert!(!driver.endpoint().exists() && !driver.registration_socket().exists());
}

fn target(dir: &TempDir, name: &str) -> std::path::PathBuf {
    dir.path().join(name)
}

fn publish(
    dir: &TempDir,
    volume: &str,
    capability: Option<v1::VolumeCapability>,
) -> v1::NodePublishVolumeRequest {
    v1::NodePublishVolumeRequest {
        volume_id: volume.to_owned(),
        staging_target_path: stage(dir).staging_target_path,
        target_path: target(dir, volume).display().to_string(),
        volume_capability: capability,
        ..v1::NodePublishVolumeRequest::default()
    }
}

#[tokio::test]
async fn files_and_devices_come_and_go_for_real() {
    let (dir, driver, mut client) = started(Character::named("d")).await;
    let folder = driver.provide("vol", MIB).unwrap();
    driver.provide_device("raw", MIB).unwrap();
    fs::write(folder.join("file"), "text").unwrap();
    fs::create_dir_all(dir.path().join("staging")).unwrap();
    let staged = client.node_stage_volume(stage(&dir)).await;
    if !rustix::process::geteuid().is_root() {
        assert!(staged.unwrap_err().message().contains("binding"), "only root may mount");
        return;
    }
    client.node_publish_volume(publish(&dir, "vol", files())).await.unwrap();
    client.node_publish_volume(publish(&dir, "vol", files())).await.unwrap();
    assert_eq!(fs::read_to_string(target(&dir, "vol").join("file")).unwrap(), "text");
    let unstage = v1::NodeUnstageVolumeRequest {
        volume_id: "vol".to_owned(),
        staging_target_path: stage(&dir).staging_target_path,
    };
    let early = client.node_unstage_volume(unstage.clone()).await.unwrap_err();
    assert_eq!(early.code(), Code::FailedPrecondition, "{early}");
    let unpublish = |volume: &str| v1::NodeUnpublishVolumeRequest {
        volume_id: volume.to_owned(),
        target_path: target(&dir, volume).display().to_string(),
    };
    client.node_unpublish_volume(unpublish("vol")).await.unwrap();
    client.node_unstage_volume(unstage.clone()).await.unwrap();
    assert!(!target(&dir, "vol").exists() && folder.join("file").exists());

    let device = Some(v1::VolumeCapability {
        access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter.into() }),
        access_type: Some(AccessType::Block(v1::volume_capability::BlockVolume {})),
    });
    let stage_raw = v1::NodeStageVolumeRequest {
        volume_id: "raw".to_owned(),
        volume_capability: device.clone(),
        ..stage(&dir)
    };
    client.node_stage_volume(stage_raw).await.unwrap();
    client.node_publish_volume(publish(&dir, "raw", device)).await.unwrap();
    fs::write(target(&dir, "raw"), "to the device").unwrap();
    let expand = v1::NodeExpandVolumeRequest {
        volume_id: "raw".to_owned(),
        volume_path: target(&dir, "raw").display().to_string(),
        capacity_range: Some(v1::CapacityRange { required_bytes: 2 * MIB, limit_bytes: 0 }),
        ..v1::NodeExpandVolumeRequest::default()
    };
    let grown = client.node_expand_volume(expand).await.unwrap().into_inner();
    assert_eq!(grown.capacity_bytes, 2 * MIB);
    client.node_unpublish_volume(unpublish("raw")).await.unwrap();
    client
        .node_unstage_volume(v1::NodeUnstageVolumeRequest { volume_id: "raw".to_owned(), ..unstage })
        .await
        .unwrap();
    assert!(fs::read(dir.path().join("data/raw.img")).unwrap().starts_with(b"to the device"));
    assert_eq!((driver.places().len(), driver.mistakes().len()), (0, 1));
}
