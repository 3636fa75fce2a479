//! Rotation on a paused clock: at the right time, as the right identity, through failures and odd clocks.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use jiff::SignedDuration;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::*;
use crate::csr::test_ca::{FakeCsrApi, Fault, Policy, test_clock};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86400);
const START: &str = "2026-01-01T00:00:00Z";

struct Node {
    _directory: TempDir,
    store: CertStore,
    api: FakeCsrApi,
    now: Now,
    /// Added to the clock: a jump.
    offset: Arc<Mutex<SignedDuration>>,
    wanted: watch::Sender<Option<WantedCertificate>>,
    status: watch::Sender<RotationStatus>,
    told: Arc<AtomicU32>,
}

fn node(life: Duration) -> Node {
    let directory = TempDir::new().unwrap();
    let store = CertStore::open(directory.path(), CertificatePurpose::Client).unwrap();
    let base = test_clock(START.parse().unwrap());
    let offset = Arc::new(Mutex::new(SignedDuration::ZERO));
    let jump = Arc::clone(&offset);
    let now: Now = Arc::new(move || base() + *jump.lock().unwrap());
    let api = FakeCsrApi::new(Policy::Sign { after: Duration::from_secs(1), life }, Arc::clone(&now));
    Node {
        _directory: directory,
        store,
        api,
        now,
        offset,
        wanted: watch::Sender::new(Some(WantedCertificate::node("n1"))),
        status: watch::Sender::default(),
        told: Arc::default(),
    }
}

impl Node {
    fn params(&self) -> RotationParams {
        let source = |user: &'static str| -> ClientSource {
            let api = self.api.clone();
            Arc::new(move || {
                let api = api.clone();
                Box::pin(async move { Ok(api.client(user)) })
            })
        };
        let told = Arc::clone(&self.told);
        RotationParams {
            store: self.store.clone(),
            purpose: CertificatePurpose::Client,
            wanted: self.wanted.subscribe(),
            borrowed: None,
            current: source("node"),
            bootstrap: Some(source("boot")),
            rotated: Arc::new(move || {
                told.fetch_add(1, Ordering::Relaxed);
                Box::pin(std::future::ready(()))
            }),
            now: Arc::clone(&self.now),
            status: self.status.clone(),
        }
    }

    /// A certificate that began now and lives so long.
    fn give(&self, life: Duration) {
        let now = (self.now)();
        self.store.store(&self.api.ca().pair(now, now + life), now).unwrap();
    }

    fn start(&self) -> Running {
        Running(tokio::spawn(run(self.params())))
    }

    fn told(&self) -> u32 {
        self.told.load(Ordering::Relaxed)
    }

    fn since_start(&self) -> Duration {
        (self.now)().duration_since(START.parse().unwrap()).try_into().unwrap()
    }

    fn expires(&self) -> Option<Timestamp> {
        self.status.borrow().expires
    }

    /// Waits until the state says so.
    async fn wait(&self, until: impl FnMut(&RotationStatus) -> bool) {
        self.status.subscribe().wait_for(until).await.unwrap();
    }

    fn users(&self) -> Vec<String> {
        let posts = self.api.log().into_iter().filter(|line| line.contains(" POST "));
        posts.map(|line| line.split(' ').next().unwrap().to_owned()).collect()
    }
}

/// Ends the task with the test.
struct Running(JoinHandle<Infallible>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_certificate_is_asked_for_between_seventy_and_ninety_percent_of_the_life() {
    let node = node(10 * DAY);
    node.give(10 * DAY);
    let first = node.store.load().unwrap().facts().validity.not_after;
    let _running = node.start();
    node.wait(|status| status.expires == Some(first)).await;
    node.wait(|status| status.expires != Some(first)).await;
    let share = node.since_start().as_secs_f64() / (10.0 * DAY.as_secs_f64());
    assert!((0.7..=0.91).contains(&share), "{share}");
    assert_eq!(node.users(), ["node"]);
    assert_eq!(node.store.load().unwrap().facts().validity.not_after, node.expires().unwrap());
    let lived = node.status.borrow().previous_lived.unwrap();
    assert!((7 * DAY..=9 * DAY + HOUR).contains(&lived), "{lived:?}");
}

#[tokio::test(start_paused = true)]
async fn certificates_follow_one_another_and_users_are_told_of_each() {
    let node = node(DAY);
    node.give(DAY);
    let _running = node.start();
    sleep(10 * DAY).await;
    assert!((11..=14).contains(&node.told()), "{}", node.told());
    assert_eq!(node.api.created(), node.told());
    assert!((node.now)() < node.expires().unwrap());
    assert!(!node.store.current_path().with_file_name("kubelet-client.key.tmp").exists());
}

#[tokio::test(start_paused = true)]
async fn without_a_certificate_one_is_asked_for_at_once_with_the_bootstrap_credential() {
    let node = node(DAY);
    let _running = node.start();
    node.wait(|status| status.expires.is_some()).await;
    assert!(node.since_start() < Duration::from_secs(5));
    assert_eq!(node.users(), ["boot"]);
}

#[tokio::test(start_paused = true)]
async fn a_borrowed_certificate_is_replaced_at_once() {
    let node = node(DAY);
    let now = (node.now)();
    let lent = node.api.ca().pair(now, now + 300 * DAY).facts().clone();
    let _running = Running(tokio::spawn(run(RotationParams { borrowed: Some(lent), ..node.params() })));
    sleep(Duration::from_secs(30)).await;
    assert_eq!((node.users(), node.told()), (vec!["node".to_owned()], 1));
}

#[tokio::test(start_paused = true)]
async fn failures_are_retried_less_and_less_often_and_counted() {
    let node = node(DAY);
    node.give(DAY);
    let _running = node.start();
    node.api.fail_always(Some(Fault::Unreachable));
    node.wait(|status| status.renew_errors == 1).await;
    let begin = node.since_start();
    node.wait(|status| status.renew_errors == 20).await;
    let took = (node.since_start() - begin).as_secs();
    // 2 + 4 + 8 + 16 and fifteen times 32 s, each with up to a tenth more.
    assert!((510..=561).contains(&took), "{took}");
    node.api.fail_always(None);
    let before = node.expires();
    node.wait(|status| status.expires != before).await;
    assert_eq!(node.api.created(), 1);
}

#[tokio::test(start_paused = true)]
async fn requests_that_nobody_decides_do_not_pile_up_even_over_restarts() {
    let node = node(DAY);
    node.give(DAY);
    node.api.set_policy(Policy::Leave);
    for _ in 0..3 {
        let _running = node.start();
        sleep(DAY / 2).await;
    }
    assert_eq!(node.api.created(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_expired_certificate_is_replaced_with_the_bootstrap_credential() {
    let node = node(DAY);
    node.give(HOUR);
    node.api.fail_always(Some(Fault::Unreachable));
    let _running = node.start();
    sleep(2 * HOUR).await;
    let expired = node.expires().unwrap();
    assert!(expired < (node.now)());
    node.api.fail_always(None);
    node.wait(|status| status.expires != Some(expired)).await;
    assert_eq!(node.users().last().unwrap(), "boot");
}

#[tokio::test(start_paused = true)]
async fn an_identity_that_the_server_refuses_gives_way_to_the_bootstrap_credential() {
    let node = node(DAY);
    node.give(DAY);
    let _running = node.start();
    sleep(DAY / 2).await;
    node.api.fail_next([Fault::Status(401, "Unauthorized")]);
    let before = node.expires();
    node.wait(|status| status.expires != before).await;
    assert_eq!(node.users(), ["node", "boot"]);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_forward_is_noticed_within_minutes() {
    let node = node(365 * DAY);
    node.give(365 * DAY);
    let _running = node.start();
    sleep(HOUR).await;
    assert_eq!(node.api.created(), 0);
    *node.offset.lock().unwrap() = SignedDuration::from_hours(24 * 340);
    sleep(Duration::from_secs(620)).await;
    assert_eq!(node.told(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_back_renews_nothing() {
    let node = node(DAY);
    node.give(DAY);
    let _running = node.start();
    sleep(DAY / 2).await;
    *node.offset.lock().unwrap() = SignedDuration::from_hours(-48);
    sleep(2 * DAY).await;
    assert_eq!(node.api.created(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_signer_whose_certificates_are_due_at_once_is_not_asked_without_pause() {
    let node = node(HOUR);
    node.api.let_signer_lag(Duration::from_secs(55 * 60));
    let _running = node.start();
    sleep(HOUR).await;
    // 32 s and the second the signer takes, after the first few.
    assert!((90..=125).contains(&node.api.created()), "{}", node.api.created());
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_somebody_else_put_there_is_taken() {
    let node = node(DAY);
    node.give(DAY);
    let _running = node.start();
    sleep(HOUR).await;
    node.give(30 * DAY);
    let theirs = node.store.load().unwrap().facts().validity.not_after;
    node.wait(|status| status.expires == Some(theirs)).await;
    sleep(HOUR).await;
    assert_eq!((node.told(), node.api.created()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_damaged_certificate_is_replaced() {
    let node = node(DAY);
    node.give(DAY);
    std::fs::write(std::fs::read_link(node.store.current_path()).unwrap(), "torn").unwrap();
    let _running = node.start();
    node.wait(|status| status.expires.is_some()).await;
    node.store.load().unwrap();
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_for_until_it_is_known_what_and_a_change_asks_at_once() {
    let node = node(DAY);
    node.wanted.send_replace(None);
    let serving = |address: &str| {
        Some(WantedCertificate {
            ip_addresses: [address.parse().unwrap()].into(),
            ..WantedCertificate::node("n1")
        })
    };
    let params = RotationParams { purpose: CertificatePurpose::Serving, ..node.params() };
    let _running = Running(tokio::spawn(run(params)));
    sleep(DAY).await;
    assert_eq!(node.api.log().len(), 0);
    node.wanted.send_replace(serving("10.0.0.1"));
    sleep(Duration::from_secs(5)).await;
    assert_eq!(node.told(), 1);
    // A change while nobody decides gives the request up for the right one.
    node.api.set_policy(Policy::Leave);
    node.wanted.send_replace(serving("10.0.0.2"));
    sleep(Duration::from_secs(5)).await;
    node.api.set_policy(Policy::Sign { after: Duration::from_secs(1), life: DAY });
    node.wanted.send_replace(serving("10.0.0.3"));
    sleep(Duration::from_secs(5)).await;
    let facts = node.store.load().unwrap().facts().clone();
    assert_eq!(facts.ip_addresses, ["10.0.0.3".parse().unwrap()].into());
    let signers: Vec<String> =
        node.api.names().iter().map(|name| node.api.get(name).spec.signer_name).collect();
    assert_eq!(signers, ["kubernetes.io/kubelet-serving"; 3]);
}
