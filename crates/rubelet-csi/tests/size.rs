//! A call that waits for a driver is part of the state of a pod's worker: it has to be small.

use std::path::Path;

use rubelet_csi::{CsiClient, PublishRequest, StageRequest};

#[tokio::test]
async fn calls_take_little_room_in_their_callers() {
    let client = CsiClient::new(Path::new("/nowhere.sock"), "d");
    let sizes = [
        size_of_val(&client.stage(StageRequest::default())),
        size_of_val(&client.publish(PublishRequest::default())),
        size_of_val(&client.unstage("vol", Path::new("/s"))),
        size_of_val(&client.node_info()),
    ];
    assert!(sizes.iter().all(|size| *size <= 2048), "{sizes:?} bytes");
}
