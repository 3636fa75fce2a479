//! The driver, and the client of the agent, at each other.

use std::time::Duration;

use rubelet_core::dra::ClaimKey;
use rubelet_core::dra::book::ClaimId;
use rubelet_core::dra::health::Health as Told;
use rubelet_plugins::dra::{DraClient, Service};
use tonic::Code;

use super::*;

fn claim(name: &str) -> ClaimId {
    ClaimId { key: ClaimKey::new("ns", name), uid: format!("uid-{name}") }
}

fn driver(dir: &Path) -> DraDriver {
    let character = Character::named("d.test").giving("a", "dev", &["gpu"], &["d.test/gpu=dev"]);
    let mut driver = DraDriver::new(character, "d", dir);
    driver.change(|character| character.devices.get_mut("a").unwrap()[0].share = Some("s".to_owned()));
    driver.start().unwrap();
    driver
}

#[tokio::test]
async fn both_versions_prepare_and_take_back() {
    let dir = tempfile::tempdir().unwrap();
    let driver = driver(dir.path());
    for (service, version, share) in [(Service::V1, "v1", Some("s")), (Service::V1Beta1, "v1beta1", None)] {
        let client = DraClient::new("d.test", driver.endpoint(), service);
        let answer = client.prepare(&[claim("a"), claim("b")]).await.unwrap();
        let devices = answer["uid-a"].as_ref().unwrap();
        assert_eq!((devices[0].device.as_str(), devices[0].pool.as_str()), ("dev", "pool"));
        assert_eq!(
            (devices[0].cdi.clone(), devices[0].share.as_deref()),
            (vec!["d.test/gpu=dev".to_owned()], share)
        );
        assert_eq!(answer["uid-b"], Ok(vec![]));
        assert_eq!(driver.prepared(), ["a", "b"]);
        assert_eq!(driver.calls().last().unwrap().version, version);
        let answer = client.unprepare(&[claim("a"), claim("b")]).await.unwrap();
        assert_eq!((answer.len(), driver.prepared().len()), (2, 0));
    }
    assert_eq!(driver.mistakes(), Vec::<String>::new());
}

#[tokio::test]
async fn failures_have_the_words_that_people_know() {
    let dir = tempfile::tempdir().unwrap();
    let mut driver = driver(dir.path());
    let client = DraClient::new("d.test", driver.endpoint(), Service::V1);
    let fault = driver.fault(Method::Prepare, "a", Fault::Refuse(Code::Internal));
    let error = client.prepare(&[claim("a")]).await.unwrap_err().to_string();
    assert_eq!(error, "rpc error: code = Internal desc = as the test ordered");
    fault.stop();
    let fault = driver.fault(Method::Prepare, "a", Fault::Fail("broken".to_owned()));
    assert_eq!(client.prepare(&[claim("a")]).await.unwrap()["uid-a"], Err("broken".to_owned()));
    fault.stop();
    let fault = driver.fault(Method::Prepare, "", Fault::Hang);
    let hasty = client.clone().with_deadline(Duration::from_millis(50));
    assert_eq!(hasty.prepare(&[claim("a")]).await.unwrap_err().code, Code::DeadlineExceeded);
    fault.stop();
    driver.crash();
    let error = client.prepare(&[claim("a")]).await.unwrap_err().to_string();
    assert!(error.contains("nothing listens on"), "{error}");
    driver.stop();
    let error = client.prepare(&[claim("a")]).await.unwrap_err().to_string();
    assert!(error.contains("does not exist; is the driver running?"), "{error}");
}

#[tokio::test]
async fn a_held_connection_tells_of_health_and_of_the_driver_s_death() {
    let dir = tempfile::tempdir().unwrap();
    let mut driver = driver(dir.path());
    let client = DraClient::new("d.test", driver.endpoint(), Service::V1);
    let link = client.link().await.unwrap();
    let mut reports = link.watch_health().await.unwrap().unwrap();
    driver.tell(&[("dev", Health::Unhealthy, "hot")]);
    let report = reports.next().await.unwrap().unwrap();
    assert_eq!(
        (report[0].device.as_str(), report[0].health, report[0].message.as_str()),
        ("dev", Told::Unhealthy, "hot")
    );
    assert!(tokio::time::timeout(Duration::from_millis(100), link.closed()).await.is_err());
    driver.crash();
    tokio::time::timeout(Duration::from_secs(10), link.closed()).await.unwrap();
    assert!(reports.next().await.is_err());
    driver.change(|character| character.tells_health = false);
    driver.start().unwrap();
    assert!(client.link().await.unwrap().watch_health().await.unwrap().is_none());
}
