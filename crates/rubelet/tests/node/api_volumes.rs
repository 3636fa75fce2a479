//! Volumes made of API objects: what is in them as seen from inside, that changes arrive, and that nothing stays.

use std::path::Path;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use serde_json::json;

use crate::cluster::Cluster;
use crate::pods;
use crate::runtime::mounts_below;
use crate::wait::{self, PATIENCE};

/// A pod that shows every volume, and shows some of it again whenever it is asked.
const SPEC: &str = "
terminationGracePeriodSeconds: 1
containers:
- name: c
  image: $IMAGE
  command:
  - sh
  - -c
  - |
    trap 'exit 0' TERM
    cat /map/color /map/sub/size /secret/token /down/name /all/color /all/token /all/uid
    echo
    stat -Lc '%a %n' /map/color /map/sub/size /secret/token
    cd /var/run/secrets/kubernetes.io/serviceaccount
    cut -d. -f2 < token; grep CERTIFICATE ca.crt; cat namespace; echo; echo ALL SHOWN
    while sleep 0.05; do cat /map/color /secret/token > /share/seen.new; mv /share/seen.new /share/seen; done
  volumeMounts:
  - {name: map, mountPath: /map}
  - {name: secret, mountPath: /secret}
  - {name: down, mountPath: /down}
  - {name: all, mountPath: /all}
  - {name: mem, mountPath: /mem}
  - {name: share, mountPath: /share}
volumes:
- {name: share, hostPath: {path: $SHARE}}
- {name: mem, emptyDir: {medium: Memory}}
- {name: map, configMap: {name: settings, items: [{key: color, path: color}, {key: size, path: sub/size, mode: 256}]}}
- {name: secret, secret: {secretName: keys, defaultMode: 288}}
- {name: down, downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}
- name: all
  projected:
    sources:
    - configMap: {name: settings}
    - secret: {name: keys}
    - downwardAPI: {items: [{path: uid, fieldRef: {fieldPath: metadata.uid}}]}
";

fn objects(cluster: &Cluster) {
    cluster
        .api
        .create_json(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"},
        "data": {"color": "blue\n", "size": "9\n"}}));
    cluster.api.create_json(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"},
        "data": {"token": "b25lCg=="}}));
}

#[test]
fn api_volumes_of_objects_are_filled_kept_up_and_taken_away() {
    let cluster = Cluster::start();
    objects(&cluster);
    cluster.run("full", SPEC);
    let pod = cluster.wait_ready("full");
    let uid = pods::uid(&pod);
    let log = cluster.node.wait_log(&pod, "c", "ALL SHOWN");
    let shown: Vec<&str> = log.lines().collect();
    let expected = format!("full{}", "blue");
    assert_eq!(&shown[..3], ["blue", "9", "one"], "{log}");
    assert_eq!(&shown[3..6], [expected.as_str(), "one", uid.as_str()], "{log}");
    for line in ["644 /map/color", "400 /map/sub/size", "440 /secret/token", "default"] {
        assert!(shown.contains(&line), "no line {line:?} in:\n{log}");
    }
    assert!(log.contains("-----BEGIN CERTIFICATE-----"), "{log}");
    let claims = shown.iter().find(|line| line.len() > 100 && !line.contains(' ')).unwrap();
    let claims = {
        use base64::Engine as _;
        let decoded = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(claims).unwrap();
        serde_json::from_slice::<serde_json::Value>(&decoded).unwrap()
    };
    assert_eq!(claims["sub"], "system:serviceaccount:default:default");
    assert_eq!(claims["kubernetes.io"]["pod"]["uid"], uid);

    // What holds secrets is in memory only.
    let dir = cluster.pod_dir(&pod);
    let mounts = mounts_below(&dir);
    for volume in
        ["kubernetes.io~secret/secret", "kubernetes.io~projected/all", "kubernetes.io~empty-dir/mem"]
    {
        let point = dir.join("volumes").join(volume);
        assert!(mounts.iter().any(|mount| Path::new(mount) == point), "{} in {mounts:?}", point.display());
    }

    cluster.api.modify::<ConfigMap>("default", "settings", |map| {
        map.data.as_mut().unwrap().insert("color".to_owned(), "green\n".to_owned());
    });
    cluster.api.modify::<Secret>("default", "keys", |secret| {
        let two = k8s_openapi::ByteString(b"two\n".to_vec());
        secret.data.as_mut().unwrap().insert("token".to_owned(), two);
    });
    let begin = wait::uptime();
    cluster.node.wait_lines("seen", &["green", "two"]);
    println!("a change was seen in the container after {:.1} s", wait::uptime() - begin);
    assert_eq!(pods::restarts(&cluster.pod("full"), "c"), 0);

    cluster.api.delete::<Pod>("default", "full");
    cluster.wait_gone(&pod);
    cluster.wait_nothing_left(&pod);
    assert_eq!(mounts_below(&dir), Vec::<String>::new());
}

#[test]
fn api_a_volume_waits_for_its_object_and_a_pod_that_waits_can_be_deleted() {
    let cluster = Cluster::start();
    let first = cluster.run("late", SPEC);
    let second = cluster.run("never", SPEC);
    for name in ["late", "never"] {
        let event = cluster.wait_event(name, "FailedMount");
        let message = event.message.unwrap_or_default();
        assert!(message.contains("settings") || message.contains("keys"), "{message}");
        assert_eq!(pods::phase(&cluster.pod(name)), "Pending");
    }
    cluster.api.delete::<Pod>("default", "never");
    cluster.wait_gone(&second);
    cluster.wait_nothing_left(&second);
    objects(&cluster);
    cluster.wait_ready("late");
    cluster.api.delete_with_grace::<Pod>("default", "late", 0);
    cluster.wait_nothing_left(&first);
    wait::until("no mount to be left", PATIENCE, || {
        let left = mounts_below(&cluster.node.root());
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}
