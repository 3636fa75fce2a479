//! The records on disk: what is written when, what an agent that comes after makes of it, and what damage does.

use rubelet_core::pulled_images::{PullSecret, file_name};

use super::*;

const IMAGE: &str = "r.example/team/app:1";
const ID: &str = "sha256:aa";

struct Bench {
    root: tempfile::TempDir,
    policy: VerificationPolicy,
}

impl Bench {
    fn new() -> Self {
        let policy = VerificationPolicy::NeverVerifyPreloadedImages;
        Self { root: tempfile::tempdir().unwrap(), policy }
    }

    /// An agent that has just started.
    fn agent(&self) -> PulledImages {
        let clock = Clock::simulated(Timestamp::from_second(1_729_513_600).unwrap());
        PulledImages::new(self.root.path(), self.policy.clone(), FsPool::inline(), clock, Metrics::new())
    }

    fn path(&self, kind: &str, about: &str) -> PathBuf {
        self.root.path().join("image_manager").join(kind).join(file_name(about))
    }

    fn has(&self, kind: &str, about: &str) -> bool {
        self.path(kind, about).exists()
    }
}

fn secret(uid: &str, hash: &str) -> PullSecret {
    PullSecret { uid: uid.into(), namespace: "ns".into(), name: "s".into(), credential_hash: hash.into() }
}

fn with(secret: PullSecret) -> PulledWith {
    PulledWith { kubernetes_secrets: vec![secret], ..PulledWith::default() }
}

async fn shown(records: &PulledImages, secrets: &[PullSecret]) -> Checked {
    let pod = PodCredentials { secrets: secrets.to_vec(), service_account: None };
    records.check(IMAGE, ID, async { pod }).await
}

fn listed() -> Vec<ListedImage> {
    vec![ListedImage { id: ID.into(), names: vec![IMAGE.into()], ..ListedImage::default() }]
}

#[tokio::test]
async fn a_pull_leaves_a_record_of_whose_credentials_did_it() {
    let bench = Bench::new();
    let records = bench.agent();
    assert_eq!(shown(&records, &[]).await, Checked::CredentialPolicyAllowed, "it was there before");
    records.begin(IMAGE).await.unwrap();
    assert!(bench.has("pulling", IMAGE) && !bench.has("pulled", ID));
    assert_eq!(shown(&records, &[]).await, Checked::MustAuthenticate, "it is being pulled");
    records.ended(IMAGE, Some((ID, &with(secret("1", "h"))))).await;
    assert!(!bench.has("pulling", IMAGE) && bench.has("pulled", ID));
    for records in [records, bench.agent()] {
        assert_eq!(shown(&records, &[]).await, Checked::MustAuthenticate);
        assert_eq!(shown(&records, &[secret("1", "h")]).await, Checked::CredentialRecordFound);
        assert_eq!(shown(&records, &[secret("9", "other")]).await, Checked::MustAuthenticate);
    }
    // The same credentials in another secret are remembered: that secret may change then.
    let records = bench.agent();
    assert_eq!(shown(&records, &[secret("2", "h")]).await, Checked::CredentialRecordFound);
    assert_eq!(shown(&bench.agent(), &[secret("2", "new")]).await, Checked::CredentialRecordFound);
    let mode = |path: PathBuf| {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    assert_eq!(mode(bench.path("pulled", ID)), 0o600);
    assert_eq!(mode(bench.root.path().join("image_manager/pulled")), 0o700);
}

#[tokio::test]
async fn an_intent_lasts_until_the_last_of_its_pulls_has_ended() {
    let bench = Bench::new();
    let records = bench.agent();
    records.begin(IMAGE).await.unwrap();
    records.begin(IMAGE).await.unwrap();
    records.ended(IMAGE, None).await;
    assert!(bench.has("pulling", IMAGE));
    records.ended(IMAGE, Some((ID, &PulledWith::node()))).await;
    assert!(!bench.has("pulling", IMAGE));
    assert_eq!(shown(&records, &[]).await, Checked::CredentialRecordFound);
}

#[tokio::test]
async fn a_pull_that_was_cut_short_makes_an_image_nobodys() {
    let bench = Bench::new();
    bench.agent().begin(IMAGE).await.unwrap();
    let records = bench.agent();
    records.adopt(&[]).await;
    assert!(bench.has("pulling", IMAGE), "it may still come");
    assert_eq!(shown(&records, &[secret("1", "h")]).await, Checked::MustAuthenticate);
    records.adopt(&listed()).await;
    assert!(!bench.has("pulling", IMAGE) && bench.has("pulled", ID));
    assert_eq!(shown(&records, &[secret("1", "h")]).await, Checked::MustAuthenticate);
    // One that is under way is no leftover.
    records.begin(IMAGE).await.unwrap();
    records.adopt(&listed()).await;
    assert!(bench.has("pulling", IMAGE));
}

#[tokio::test]
async fn damage_makes_the_check_stricter_and_costs_no_other_record() {
    let bench = Bench::new();
    let records = bench.agent();
    for (image, id) in [(IMAGE, ID), ("r.example/b:1", "sha256:bb")] {
        records.begin(image).await.unwrap();
        records.ended(image, Some((id, &PulledWith::node()))).await;
    }
    std::fs::write(bench.path("pulled", ID), "{").unwrap();
    std::fs::write(bench.path("pulled", "other").with_extension("tmp"), "half").unwrap();
    std::fs::create_dir(bench.path("pulled", "folder")).unwrap();
    let records = bench.agent();
    assert_eq!(shown(&records, &[]).await, Checked::MustAuthenticate);
    let other = records.check("r.example/b:1", "sha256:bb", async { panic!("not needed") }).await;
    assert_eq!(other, Checked::CredentialRecordFound);
    // A pull mends it.
    records.begin(IMAGE).await.unwrap();
    records.ended(IMAGE, Some((ID, &PulledWith::node()))).await;
    assert_eq!(shown(&bench.agent(), &[]).await, Checked::CredentialRecordFound);
}

#[tokio::test]
async fn a_disk_that_fails_lets_nobody_in() {
    let bench = Bench::new();
    std::fs::write(bench.root.path().join("image_manager"), "a file").unwrap();
    let records = bench.agent();
    assert!(records.begin(IMAGE).await.is_err());
    assert_eq!(shown(&records, &[]).await, Checked::Error);
    let never = Bench { policy: VerificationPolicy::NeverVerify, ..bench }.agent();
    assert_eq!(shown(&never, &[]).await, Checked::CredentialPolicyAllowed);
    assert_eq!(shown(&PulledImages::disabled(), &[]).await, Checked::CredentialPolicyAllowed);
}

#[tokio::test]
async fn records_go_with_their_images() {
    let bench = Bench::new();
    let records = bench.agent();
    records.begin(IMAGE).await.unwrap();
    records.ended(IMAGE, Some((ID, &PulledWith::node()))).await;
    let at = |second: i64| Timestamp::from_second(1_729_513_600 + second).unwrap();
    records.prune(&BTreeSet::from([ID]), at(60)).await;
    assert!(bench.has("pulled", ID));
    records.prune(&BTreeSet::new(), at(0)).await;
    assert!(bench.has("pulled", ID), "it was pulled since the list was made");
    records.prune(&BTreeSet::new(), at(60)).await;
    assert!(!bench.has("pulled", ID));
    assert_eq!(shown(&records, &[]).await, Checked::CredentialPolicyAllowed);
}
