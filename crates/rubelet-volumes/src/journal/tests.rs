//! What a restart knows, whatever was under way and whatever became of the files.

use proptest::prelude::*;
use rubelet_core::claims::ClaimedSource;
use rubelet_core::volumes::{SecretPlace, VolumeMode};

use super::*;

fn claimed(name: &str, group: Option<i64>) -> ClaimedVolume {
    ClaimedVolume {
        name: name.to_owned(),
        source: ClaimedSource::HostPath(Default::default()),
        mode: VolumeMode::Filesystem,
        read_only: false,
        group,
        claim: ("shop".to_owned(), "disk".to_owned()),
        capacity: Some(1 << 30),
    }
}

fn csi(handle: &str) -> CsiVolume {
    CsiVolume {
        driver: "disk.example.com".to_owned(),
        handle: handle.to_owned(),
        spec_name: "pv".to_owned(),
        inline: false,
        mode: VolumeMode::Block,
        fs_type: "ext4".to_owned(),
        attributes: BTreeMap::from([("a".to_owned(), "b\n\"".to_owned())]),
        read_only: true,
        access_modes: vec!["ReadWriteOnce".to_owned()],
        mount_options: vec!["noatime".to_owned()],
        stage_secret: Some(SecretPlace { namespace: "n".to_owned(), name: "s".to_owned() }),
        publish_secret: None,
        expand_secret: None,
        migrated: false,
    }
}

async fn restarted(root: &Path) -> (MountJournal, Vec<String>) {
    let journal = MountJournal::new(root, FsPool::new(2));
    let problems = journal.load().await.unwrap();
    (journal, problems)
}

#[tokio::test]
async fn a_restart_knows_what_was_begun_and_what_is_mounted() {
    let root = tempfile::tempdir().unwrap();
    let (journal, problems) = restarted(root.path()).await;
    assert!(problems.is_empty() && journal.pods().is_empty());
    let pod = PodUid::from("../u1");
    journal.begin(&pod, "data", MountSource::Claimed(claimed("pv", Some(7)))).await.unwrap();
    assert_eq!(restarted(root.path()).await.0.claimed(&pod, "data"), None, "it is only begun");
    journal.mounted(&pod, "data").await.unwrap();
    let of_driver = ClaimedVolume { source: ClaimedSource::Csi(csi("h1")), ..claimed("pv2", Some(7)) };
    journal.begin(&pod, "disk", MountSource::Claimed(of_driver)).await.unwrap();
    journal.begin(&pod, "inline", MountSource::Csi(csi("h2"))).await.unwrap();
    // The claim has got another volume before the first one was mounted.
    journal.begin(&pod, "inline", MountSource::Csi(csi("h3"))).await.unwrap();
    journal.mounted(&pod, "inline").await.unwrap();
    journal.begin(&PodUid::from("u2"), "x", MountSource::Csi(csi("h1"))).await.unwrap();

    let (again, problems) = restarted(root.path()).await;
    assert_eq!(problems, Vec::<String>::new());
    assert_eq!(again.all(&pod), journal.all(&pod));
    assert_eq!(again.claimed(&pod, "data"), Some(claimed("pv", Some(7))));
    assert_eq!(again.groups(&pod), [7]);
    let handles: Vec<String> = again.csi_volumes(&pod).into_iter().map(|csi| csi.handle).collect();
    assert_eq!(handles, ["h1", "h2", "h3"]);
    let states: Vec<MountState> = again.all(&pod).iter().map(|entry| entry.state).collect();
    use MountState::{Begun, Mounted};
    assert_eq!(states, [Mounted, Begun, Begun, Mounted]);
    assert_eq!(again.users(&csi("h1").unique_name()), [pod.clone(), PodUid::from("u2")]);

    again.forget(&pod).await.unwrap();
    again.forget(&pod).await.unwrap();
    assert_eq!(restarted(root.path()).await.0.pods(), [PodUid::from("u2")]);
}

#[tokio::test]
async fn a_damaged_record_is_named_once_and_goes_with_its_pod() {
    let root = tempfile::tempdir().unwrap();
    let pod = PodUid::from("u1");
    let (journal, _) = restarted(root.path()).await;
    journal.begin(&pod, "data", MountSource::Csi(csi("h"))).await.unwrap();
    let path = root.path().join("rubelet/mounts/u1.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, &text[..text.len() - 9]).unwrap();
    let (again, problems) = restarted(root.path()).await;
    assert!(
        problems.len() == 1 && problems[0].contains("u1.json: the record is torn; set aside"),
        "{problems:?}"
    );
    assert!(restarted(root.path()).await.1.is_empty());
    assert_eq!(again.pods(), std::slice::from_ref(&pod));
    assert!(again.all(&pod).is_empty());
    again.forget(&pod).await.unwrap();
    assert_eq!(fs::read_dir(root.path().join("rubelet/mounts")).unwrap().count(), 0);
}

#[tokio::test]
async fn what_cannot_be_written_is_an_error_and_is_written_the_next_time() {
    let root = tempfile::tempdir().unwrap();
    let pod = PodUid::from("u1");
    fs::write(root.path().join("rubelet"), "in the way").unwrap();
    let journal = MountJournal::new(root.path(), FsPool::new(1));
    let begin = async || journal.begin(&pod, "data", MountSource::Csi(csi("h"))).await;
    begin().await.unwrap_err();
    begin().await.unwrap_err();
    fs::remove_file(root.path().join("rubelet")).unwrap();
    begin().await.unwrap();
    assert_eq!(restarted(root.path()).await.0.csi_volumes(&pod).len(), 1);
}

proptest! {
    #[test]
    fn any_bytes_are_survived(body in ".*") {
        let _ = decode(&body);
        let _ = decode(&record::encode(KIND.0, KIND.1, &body));
    }
}
