//! Shows what a runtime says about itself and what it holds: `cargo run --example runtime_info -- unix:///path.sock`.
//! Asks only; changes nothing. For people who look into a node by hand.

use std::time::Duration;

use futures::StreamExt;
use rubelet_cri::observe::Listing;
use rubelet_cri::{CriClient, Deadlines, ImageService, RuntimeService, connect, v1};

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::process::ExitCode {
    match show().await {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            std::process::ExitCode::FAILURE
        }
    }
}

async fn show() -> Result<(), Box<dyn std::error::Error>> {
    let endpoint = std::env::args().nth(1).unwrap_or("unix:///run/containerd/containerd.sock".to_owned());
    let client = CriClient::new(&endpoint, Deadlines::with_request(Duration::from_secs(5)))?;
    println!("{:#?}", connect::check_runtime(&client).await?);
    let sandboxes = client.list_pod_sandbox(v1::ListPodSandboxRequest::default()).await?.items;
    let containers = client.list_containers(v1::ListContainersRequest::default()).await?.containers;
    println!("{:#?}", Listing::observe(&sandboxes, &containers));
    for image in client.list_images(v1::ListImagesRequest::default()).await?.images {
        println!("image {} {:?}", image.id, image.repo_tags);
    }
    match client.container_events().await {
        Ok(mut events) => match tokio::time::timeout(Duration::from_secs(2), events.next()).await {
            Ok(event) => println!("first event: {event:?}"),
            Err(_) => println!("events: open, none within two seconds"),
        },
        Err(error) => println!("events: {error}"),
    }
    Ok(())
}
