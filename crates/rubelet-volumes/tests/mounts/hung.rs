//! A file system whose server never answers: neighbours do not notice, it is named, and its pods can be deleted.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::time::Duration;

use futures::future::join_all;
use futures::stream::{FuturesUnordered, StreamExt as _};
use rubelet_linux::fs_pool::{DEADLINE, FsError, FsPool, PER_PLACE};
use rubelet_volumes::{MountJournal, Problem, Volumes};
use rustix::mount::{MountFlags, mount};
use serde_json::json;
use tokio::time::Instant;

use crate::node::{Api, facts, mounts_below, pod, proof};

/// Threads of the pool, fewer than there are pods with the dead mount.
const THREADS: usize = 6;

/// Mounts a FUSE file system at `path` whose server is this file, which nobody reads.
fn mount_dead(path: &Path) -> File {
    fs::create_dir_all(path).unwrap();
    let server = OpenOptions::new().read(true).write(true).open("/dev/fuse").unwrap();
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0\0", server.as_raw_fd());
    let options = std::ffi::CStr::from_bytes_with_nul(options.as_bytes()).unwrap();
    mount("dead", path, "fuse", MountFlags::empty(), options).unwrap();
    server
}

#[tokio::test]
async fn a_server_that_never_answers_delays_no_neighbour_and_its_pods_can_be_deleted() {
    let test = "hung::a_server_that_never_answers_delays_no_neighbour_and_its_pods_can_be_deleted";
    if !crate::has_own_mounts(test) {
        return;
    }
    if !Path::new("/dev/fuse").exists() {
        eprintln!("this machine has no FUSE: nothing is tested");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let (dead, disk) = (root.path().join("dead"), root.path().join("disk"));
    fs::create_dir(&disk).unwrap();
    let pods_dir = root.path().join("pods");
    let fs_pool = FsPool::new(THREADS);
    let api = Api::new(&[("disk", &disk)]);
    let volumes = Volumes::new(fs_pool.clone(), Some(api), None)
        .with_journal(MountJournal::new(root.path(), fs_pool.clone()));
    let neighbours: Vec<_> = (0..20)
        .map(|number| {
            let claim = json!({"name": "data", "persistentVolumeClaim": {"claimName": "disk"}});
            let memory = json!({"name": "memory", "emptyDir": {"medium": "Memory"}});
            pod(
                &format!("neighbour-{number}"),
                &[
                    claim,
                    memory,
                    json!({"name": "work", "emptyDir": {}}),
                    json!({"name": "config", "configMap": {"name": "settings"}}),
                    json!({"name": "secret", "secret": {"secretName": "password"}}),
                ],
            )
        })
        .collect();
    // What it takes without the dead mount is the measure.
    let round = async || {
        let all = join_all(neighbours.iter().map(async |pod| {
            let (began, uid) = (Instant::now(), pod.metadata.uid.clone().unwrap());
            volumes.set_up(pod, &pods_dir.join(&uid), &facts()).await.unwrap();
            let set_up = began.elapsed();
            volumes.tear_down(&proof(&uid), &pods_dir.join(&uid)).await.unwrap();
            (set_up, began.elapsed())
        }));
        let all: Vec<(Duration, Duration)> = all.await;
        (all.iter().map(|both| both.0).max().unwrap(), all.iter().map(|both| both.1).max().unwrap())
    };
    let alone = round().await;

    let server = mount_dead(&dead);
    let volumes_of_dead = |number: usize| {
        let volume = json!({"name": "share", "hostPath": {"path": dead, "type": "Directory"}});
        (format!("stuck-{number}"), pod(&format!("stuck-{number}"), &[volume]))
    };
    let stuck: Vec<_> = (0..THREADS * 3).map(volumes_of_dead).collect();
    let facts = facts();
    let mut stuck: FuturesUnordered<_> = stuck
        .iter()
        .map(async |(uid, pod)| (uid, volumes.set_up(pod, &pods_dir.join(uid), &facts).await))
        .collect();
    assert!(futures::poll!(stuck.next()).is_pending());
    let beside = tokio::select! {
        biased;
        _ = stuck.next() => panic!("the dead server answered"),
        beside = round() => beside,
    };
    println!(
        "20 pods of 5 volumes, the slowest: set up {:?} alone, {:?} beside {} pods on a dead server; and torn down \
         {:?} alone, {:?} beside them",
        alone.0,
        beside.0,
        THREADS * 3,
        alone.1,
        beside.1
    );

    // The deadline passes: each pod is told, and the place is named and left alone.
    tokio::time::pause();
    let told = async {
        let mut told = Vec::new();
        while let Some((uid, result)) = stuck.next().await {
            let error = result.unwrap_err();
            assert!(error.to_string().contains(&dead.display().to_string()), "{error}");
            told.push((uid, matches!(error.0[0].problem, Problem::Fs(FsError::Timeout { .. }))));
        }
        told
    };
    let (told, ()) = tokio::join!(told, tokio::time::advance(DEADLINE * 2));
    tokio::time::resume();
    assert_eq!(told.len(), THREADS * 3);
    assert_eq!(told.iter().filter(|(_, waited)| *waited).count(), PER_PLACE, "threads in the dead place");
    assert!(fs_pool.hangs(&dead) && fs_pool.hanging().iter().all(|what| what.contains("check hostPath")));
    println!("what hangs: {:?}", fs_pool.hanging());
    for (uid, _) in told {
        volumes.tear_down(&proof(uid), &pods_dir.join(uid)).await.unwrap();
    }
    let beside = round().await;
    println!("and after the deadline: {:?} set up, {:?} torn down too", beside.0, beside.1);

    // One that died below a pod's own directory, with a thread of the agent in it.
    let pod_dir = pods_dir.join("below");
    let volume = pod_dir.join("volumes/kubernetes.io~local-volume/disk");
    let server_below = mount_dead(&volume);
    tokio::time::pause();
    let looked_at = volume.clone();
    let look = fs_pool.run_in(&volume, "look at the volume", move || fs::metadata(looked_at).map(|_| ()));
    let (looked, ()) = tokio::join!(look, tokio::time::advance(DEADLINE * 2));
    tokio::time::resume();
    assert!(matches!(looked, Err(FsError::Timeout { .. })), "{looked:?}");
    assert_eq!(mounts_below(&pod_dir).len(), 1);
    // The first try has the kernel give up on it; the thread that is thereby freed may still be in there.
    let first = volumes.tear_down(&proof("below"), &pod_dir).await;
    while fs_pool.hangs(&volume) {
        tokio::task::yield_now().await;
    }
    println!("the first try: {first:?}");
    volumes.tear_down(&proof("below"), &pod_dir).await.unwrap();
    assert_eq!(mounts_below(&pod_dir), []);
    assert!(!volume.exists());
    drop((server, server_below));
    while fs_pool.hangs(&dead) {
        tokio::task::yield_now().await;
    }
}
