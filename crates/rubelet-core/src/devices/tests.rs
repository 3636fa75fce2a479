//! The book of devices against checkpoints that kubelets wrote, and with plugins that come, go and lie.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::fixtures::pod;
use crate::topology::Hint;

const GPU: &str = "example.com/gpu";
const START: Duration = Duration::from_secs(1000);
const LATER: Duration = Duration::from_secs(2000);
const ANYWHERE: Hint = Hint { nodes: None, preferred: true };

fn mask(nodes: &[u32]) -> NumaMask {
    nodes.iter().copied().collect()
}

/// `a b@0 c@1 d@0,1 -e` (ill).
fn told(text: &str) -> Vec<ToldDevice> {
    let device = |word: &str| {
        let (id, nodes) = word.split_once('@').unwrap_or((word, ""));
        ToldDevice {
            id: id.trim_start_matches('-').to_owned(),
            healthy: !id.starts_with('-'),
            nodes: nodes.split(',').filter_map(|node| node.parse().ok()).collect(),
        }
    };
    text.split_whitespace().map(device).collect()
}

fn book(devices: &str) -> DeviceBook {
    let mut book = DeviceBook::new(mask(&[0, 1, 2, 3]));
    book.connected(GPU, PluginOptions::default(), START);
    assert_eq!(book.listed(GPU, told(devices)).problems, [""; 0]);
    book
}

fn container(name: &str, count: u32) -> Value {
    json!({"name": name, "resources": {"limits": {GPU: count.to_string(), "cpu": "1", "example.com/other": "1"}}})
}

fn one(uid: &str, count: u32) -> crate::Pod {
    let mut pod = pod(json!({"containers": [container("app", count)]}));
    pod.metadata.uid = Some(uid.to_owned());
    pod
}

fn names(ids: &[String]) -> String {
    ids.join(" ")
}

/// Gives a pod's containers in order what they ask for, near these nodes; what each got, or why not.
fn give(book: &mut DeviceBook, pod: &crate::Pod, nodes: Option<&[u32]>, preferred: &[&str]) -> Vec<String> {
    let affinity = Hint { nodes: nodes.map(mask), preferred: true };
    let preferred: Vec<String> = preferred.iter().map(|id| (*id).to_owned()).collect();
    let spec = pod.spec.clone().unwrap();
    let mut said = Vec::new();
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        for (resource, count) in book.wishes(pod, container) {
            let uid = crate::ids::pod_uid(pod);
            said.push(match book.need(pod, container, (&resource, count), &affinity, LATER) {
                Ok(Need::Choose(choice)) => {
                    let ids = choice.settle(&preferred);
                    book.commit((&uid, &container.name), &resource, &ids, b"answer".to_vec());
                    names(&ids)
                }
                Ok(Need::Nothing) => "=".to_owned(),
                Ok(Need::Wait(text)) => text,
                Err(refusal) => refusal.to_string(),
            });
        }
    }
    said
}

#[track_caller]
fn check(devices: &str, count: u32, nodes: Option<&[u32]>, preferred: &[&str], expected: &str) {
    assert_eq!(give(&mut book(devices), &one("u1", count), nodes, preferred), [expected]);
}

#[test]
fn ids_are_chosen_near_and_as_the_plugin_prefers() {
    check("a b c", 2, None, &[], "a b");
    check("a b c", 2, None, &["c", "b"], "c b");
    check("a b c", 2, None, &["z", "c", "c"], "c a");
    check("a b -c", 2, None, &["c"], "a b");
    // Near first, then elsewhere, then those that do not tell.
    check("a@0 b@1 c d@1", 2, Some(&[1]), &["a"], "b d");
    check("a@0 b@1 c d@1", 1, Some(&[1]), &["d"], "d");
    check("a@0 b@1 c d@1", 3, Some(&[1]), &["c"], "b d c");
    check("a@0 b@1 c d@1", 3, Some(&[1]), &[], "b d a");
    // Where few are left is used up first.
    check("a@0 b@0 c@1", 1, Some(&[0, 1]), &[], "c");
    // Nobody tells a node: no node is better.
    check("a b", 1, Some(&[1]), &["b"], "b");
}

#[test]
fn who_cannot_have_devices_is_told_why() {
    check(
        "a",
        2,
        None,
        &[],
        "requested number of devices unavailable for example.com/gpu. Requested: 2, Available: 1",
    );
    check(
        "-a",
        1,
        None,
        &[],
        "no healthy devices present; cannot allocate unhealthy devices example.com/gpu",
    );
    let mut two = book("a b");
    assert_eq!(give(&mut two, &one("u1", 1), None, &[]), ["a"]);
    assert_eq!(
        give(&mut two, &one("u2", 2), None, &[]),
        ["requested number of devices unavailable for example.com/gpu. Requested: 2, Available: 1"]
    );
    assert_eq!(give(&mut two, &one("u1", 1), None, &["b"]), ["="]);
    assert!(two.release(&"u1".into()) && !two.release(&"u1".into()));
    assert_eq!(give(&mut two, &one("u2", 2), None, &[]), ["a b"]);
    // A device that fell ill while nothing of the pod ran is replaced.
    two.listed(GPU, told("-a b c"));
    assert_eq!(give(&mut two, &one("u2", 2), None, &[]), ["b c"]);
}

#[test]
fn what_init_containers_had_is_used_again() {
    let mut sidecar = container("side", 1);
    sidecar["restartPolicy"] = "Always".into();
    let spec = json!({"initContainers": [container("i1", 2), sidecar, container("i2", 3)],
                      "containers": [container("app", 2), container("more", 1)]});
    let mut book = book("a b c d");
    // The sidecar keeps one of the first's; the apps take what is left of all.
    assert_eq!(give(&mut book, &pod(spec.clone()), None, &[]), ["a b", "a", "b c d", "b c", "d"]);
    assert_eq!(book.hints(&pod(spec.clone()), &pod(spec).spec.unwrap().containers[0])[GPU], None);
}

#[test]
fn a_plugin_that_is_not_back_is_waited_for_and_then_given_up() {
    let mut book = DeviceBook::new(mask(&[0]));
    let waits = |book: &mut DeviceBook, now| {
        let pod = one("u1", 1);
        let container = pod.spec.as_ref().unwrap().containers[0].clone();
        book.need(&pod, &container, (GPU, 1), &ANYWHERE, now)
    };
    assert_eq!(waits(&mut book, START), Err(Refusal::Unregistered(GPU.to_owned())));
    assert!(book.wishes(&one("u1", 1), &one("u1", 1).spec.unwrap().containers[0]).is_empty());
    let checkpoint = Checkpoint { registered: [(GPU.to_owned(), vec![])].into(), ..Checkpoint::default() };
    book.restore(checkpoint, START);
    assert!(matches!(waits(&mut book, START), Ok(Need::Wait(_))));
    // Nothing is said of them: the node goes on telling what it told before.
    assert!(book.counts().is_empty() && book.concerns(&one("u1", 1)));
    book.connected(GPU, PluginOptions::default(), START);
    assert!(matches!(waits(&mut book, START), Ok(Need::Wait(_))) && book.counts().is_empty());
    book.listed(GPU, told(""));
    assert!(matches!(waits(&mut book, START), Ok(Need::Wait(_))), "it has just started");
    assert_eq!(waits(&mut book, START + SETTLING), Err(Refusal::NoneHealthy(GPU.to_owned())));
    assert!(book.listed(GPU, told("a -b")).changed);
    assert_eq!(book.counts()[GPU], Count { capacity: 2, allocatable: 1 });
    book.disconnected(GPU, START);
    assert_eq!(book.counts()[GPU], Count { capacity: 2, allocatable: 0 });
    assert_eq!(book.next_expiry(), Some(START + PLUGIN_GRACE));
    assert!(book.expire(START).is_empty());
    assert_eq!(book.expire(START + PLUGIN_GRACE), [GPU]);
    assert_eq!(book.counts()[GPU], Count::default());
    assert_eq!(waits(&mut book, LATER), Err(Refusal::Unregistered(GPU.to_owned())));
    // It comes back after all.
    book.connected(GPU, PluginOptions::default(), LATER);
    book.listed(GPU, told("a"));
    assert_eq!(book.counts()[GPU], Count { capacity: 1, allocatable: 1 });
}

#[test]
fn lists_that_lie_are_read_as_far_as_they_can_be() {
    let mut book = book("a");
    let mut list = told("b@0 b@1 c@9 @1");
    list.push(ToldDevice { id: "d".into(), healthy: true, nodes: vec![-1, i64::MAX, 1] });
    let news = book.listed(GPU, list);
    assert_eq!(
        news.problems,
        [
            "device \"b\" twice",
            "device \"c\" is on NUMA node 9, which this machine does not have",
            "a device without an ID",
            "device \"d\" is on NUMA node -1, which this machine does not have",
        ]
    );
    let known = &book.allocatable()[GPU];
    assert_eq!(known.keys().map(String::as_str).collect::<Vec<_>>(), ["b", "c", "d"]);
    assert_eq!((known["b"].nodes, known["c"].nodes, known["d"].nodes), (mask(&[1]), mask(&[]), mask(&[1])));
    assert_eq!(book.listed("example.com/unknown", told("a")), Listed::default());
}

#[test]
fn health_is_told_to_those_who_have_the_device() {
    let mut book = book("a b");
    give(&mut book, &one("u1", 1), None, &[]);
    let health = |book: &DeviceBook| {
        let status = book.health(&"u1".into(), "app");
        assert_eq!(status[0].name, GPU);
        status[0].resources.as_ref().unwrap()[0].health.clone().unwrap()
    };
    assert!(book.listed(GPU, told("a -b")).pods.is_empty());
    assert_eq!(health(&book), "Healthy");
    let news = book.listed(GPU, told("-a b"));
    assert_eq!((news.pods, news.changed, news.registered), (BTreeSet::from(["u1".into()]), true, true));
    assert_eq!(health(&book), "Unhealthy");
    assert!(book.listed(GPU, told("b")).pods.is_empty());
    assert_eq!(health(&book), "Healthy");
    assert_eq!(book.retain(|_| false), ["u1".into()]);
    assert!(book.health(&"u1".into(), "app").is_empty());
}

#[test]
fn claims_stand_for_their_resources_themselves() {
    let book = book("a");
    let mut claimed = one("u1", 1);
    claimed.status = serde_json::from_value(json!({"extendedResourceClaimStatus": {"resourceClaimName": "c",
        "requestMappings": [{"containerName": "app", "resourceName": GPU, "requestName": "r"}]}}))
    .unwrap();
    assert!(!book.concerns(&claimed) && book.concerns(&one("u1", 1)) && !book.concerns(&one("u1", 0)));
}

fn shown(hints: Option<&Option<Vec<Hint>>>) -> String {
    let text = |hint: &Hint| format!("{}{}", hint.nodes.unwrap(), if hint.preferred { "!" } else { "" });
    match hints {
        None => "-".to_owned(),
        Some(None) => "any".to_owned(),
        Some(Some(hints)) => hints.iter().map(text).collect::<Vec<_>>().join(" "),
    }
}

/// Upstream's `TestGetTopologyHints`, in short.
#[test]
fn hints_name_every_set_of_nodes_that_would_do() {
    #[track_caller]
    fn check(devices: &str, held: u32, count: u32, expected: &str) {
        let mut book = book(devices);
        if held > 0 {
            give(&mut book, &one("other", held), None, &[]);
        }
        let pod = one("u1", count);
        let container = &pod.spec.as_ref().unwrap().containers[0];
        assert_eq!(shown(book.hints(&pod, container).get(GPU)), expected);
        assert_eq!(shown(book.pod_hints(&pod).get(GPU)), expected);
    }
    check("a b", 0, 1, "any");
    check("a@0", 0, 0, "-");
    check("a@0 b@1", 0, 1, "0! 1! 0,1");
    check("a@0 b@1", 0, 2, "0,1!");
    check("a@0 b@1", 0, 3, "");
    // One of node 0 is taken: two are still to be had there only in theory.
    check("a@0 b@0 c@1", 1, 2, "0,1");
    check("a@0 b@0 c@1 d@1", 1, 2, "1! 0,1");
    check("a@0,1 b@2", 0, 1, "0! 1! 2! 0,1 0,2 1,2 0,1,2");
    // Nodes without devices are no part of it.
    check("a@3", 0, 1, "3!");
}

#[test]
fn hints_of_a_pod_that_has_its_devices_name_them() {
    let mut book = book("a@0 b@1");
    let pod = one("u1", 1);
    give(&mut book, &pod, Some(&[1]), &[]);
    let hints = book.hints(&pod, &pod.spec.as_ref().unwrap().containers[0]);
    assert_eq!(shown(hints.get(GPU)), "1! 0,1");
    assert_eq!(shown(book.pod_hints(&pod).get(GPU)), "1! 0,1");
}

/// Files of kubelets of others, found in the open.
#[test]
fn checkpoints_of_kubelets_are_read_and_written_alike() {
    for text in [
        r#"{"Data":{"PodDeviceEntries":null,"RegisteredDevices":{"nvidia.com/gpu":["GPU-0650a168-e770-3ea8-8ac3-8a1d419763e0"]}},"Checksum":3952659280}"#,
        r#"{"Data":{"PodDeviceEntries":[{"PodUID":"bf52b2cd-b611-4e79-86b1-280b283185c3","ContainerName":"check","ResourceName":"nvidia.com/gpu","DeviceIDs":{"-1":["tegra"]},"AllocResp":"Ch8KFk5WSURJQV9WSVNJQkxFX0RFVklDRVMSBXRlZ3Jh"}],"RegisteredDevices":{"nvidia.com/gpu":["tegra"]}},"Checksum":3660592824}"#,
        r#"{"Data":{"PodDeviceEntries":[{"PodUID":"9a15d2b5-c152-46b9-96e0-d57032629e1f","ContainerName":"app","ResourceName":"nvidia.com/gpu","DeviceIDs":{"1":["GPU-9b341c59-f96b-ba85-c137-78c3652fea65","GPU-c1e9f249-b37b-81c2-a8d9-ba5ca0294841"]},"AllocResp":"CmsKFk5WSURJQV9WSVNJQkxFX0RFVklDRVMSUUdQVS1jMWU5ZjI0OS1iMzdiLTgxYzItYThkOS1iYTVjYTAyOTQ4NDEsR1BVLTliMzQxYzU5LWY5NmItYmE4NS1jMTM3LTc4YzM2NTJmZWE2NRokCg4vZGV2L252aWRpYWN0bBIOL2Rldi9udmlkaWFjdGwaAnJ3GiYKDy9kZXYvbnZpZGlhLXV2bRIPL2Rldi9udmlkaWEtdXZtGgJydxoyChUvZGV2L252aWRpYS11dm0tdG9vbHMSFS9kZXYvbnZpZGlhLXV2bS10b29scxoCcncaLgoTL2Rldi9udmlkaWEtbW9kZXNldBITL2Rldi9udmlkaWEtbW9kZXNldBoCcncaIAoML2Rldi9udmlkaWExEgwvZGV2L252aWRpYTEaAnJ3GiAKDC9kZXYvbnZpZGlhMhIML2Rldi9udmlkaWEyGgJydw=="}],"RegisteredDevices":{"nvidia.com/gpu":["GPU-77a702db-e37f-3a74-d46d-c5713f66058c","GPU-9b341c59-f96b-ba85-c137-78c3652fea65","GPU-c1e9f249-b37b-81c2-a8d9-ba5ca0294841"]}},"Checksum":2530956716}"#,
    ] {
        let (checkpoint, right) = Checkpoint::decode(text.as_bytes()).unwrap();
        assert!(right, "{text}");
        assert_eq!(checkpoint.encode().unwrap(), text);
        let mut book = DeviceBook::new(mask(&[0]));
        book.restore(checkpoint.clone(), START);
        assert_eq!(book.checkpoint().entries, checkpoint.entries);
        assert!(!Checkpoint::decode(text.replace("nvidia.com", "amd.com").as_bytes()).unwrap().1);
    }
    let old = r#"{"Data":{"PodDeviceEntries":[{"PodUID":"p","ContainerName":"c","ResourceName":"r","DeviceIDs":["a","b"],"AllocResp":null}]},"Checksum":1}"#;
    let (checkpoint, _) = Checkpoint::decode(old.as_bytes()).unwrap();
    assert_eq!(checkpoint.entries[0].devices, [(NO_NODE, vec!["a".to_owned(), "b".to_owned()])].into());
}

proptest! {
    #[test]
    fn any_bytes_are_a_checkpoint_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Checkpoint::decode(&bytes);
    }

    #[test]
    fn what_is_written_reads_back(
        entries in proptest::collection::vec((".{0,8}", "[a-z]{1,3}", "[a-z/]{1,9}", proptest::collection::btree_map(-1i64..9, proptest::collection::vec(".{1,5}", 0..3), 0..3), proptest::collection::vec(any::<u8>(), 0..9)), 0..4),
        registered in proptest::collection::btree_map("[a-z/]{1,9}", proptest::collection::vec(".{0,5}", 0..3), 0..3),
    ) {
        let entry = |(pod, container, resource, devices, response): (String, _, _, _, _)| Entry { pod: pod.into(), container, resource, devices, response };
        let checkpoint = Checkpoint { entries: entries.into_iter().map(entry).collect(), registered };
        let text = checkpoint.encode().unwrap();
        prop_assert_eq!(Checkpoint::decode(text.as_bytes()).unwrap(), (checkpoint, true));
    }

    /// Whatever comes and goes in whatever order: nobody has what another has, and who has gone has nothing.
    #[test]
    fn no_device_is_given_twice(steps in proptest::collection::vec((0u8..6, 0u8..4, 0u32..4, any::<u8>()), 1..40)) {
        let mut book = book("a@0 b@0 c@1 d@1,2 e");
        for (what, who, count, bits) in steps {
            let uid = format!("u{who}");
            match what {
                0 => { book.release(&uid.as_str().into()); }
                1 => {
                    let all = ["a@0", "b@0", "c@1", "d@1,2", "e", "f"];
                    let list: Vec<String> = all.iter().enumerate().map(|(at, word)| {
                        if bits >> at & 1 == 1 { (*word).to_owned() } else { format!("-{word}") }
                    }).collect();
                    book.listed(GPU, told(&list.join(" ")));
                }
                _ => {
                    let before = book.health(&uid.as_str().into(), "app");
                    let pod = one(&uid, count);
                    let said = give(&mut book, &pod, Some(&[u32::from(bits % 3)]), &["d", "a"]);
                    let has = book.of_container(&uid.as_str().into(), "app").next().map(|(_, had)| had.id_set().len());
                    match said.first() {
                        Some(text) if text.contains(' ') && text.contains("cannot") || said.iter().any(|text| text.starts_with("requested")) => {
                            prop_assert_eq!(before, book.health(&uid.as_str().into(), "app"));
                        }
                        Some(_) => prop_assert_eq!(has, Some(count as usize)),
                        None => {}
                    }
                }
            }
            let mut seen = BTreeSet::new();
            for entry in book.checkpoint().entries {
                let ids: BTreeSet<String> = entry.devices.into_values().flatten().collect();
                for id in ids {
                    prop_assert!(seen.insert(id.clone()), "{} is given twice", id);
                }
            }
        }
    }
}
