//! `/runningpods`: the pods of which something runs, from nothing but the runtime's two lists (upstream
//! `GetRunningPods` and `Pod.ToAPIPod`).

use std::collections::BTreeMap;

use bytes::Bytes;
use rubelet_cri::observe::label;
use rubelet_cri::{RuntimeService, v1};
use rubelet_server::Problem;
use serde_json::{Value, json};

/// A v1 PodList of what the runtime says that runs, newest sandboxes first.
pub(super) async fn list(runtime: &dyn RuntimeService) -> Result<Bytes, Problem> {
    let sandboxes = v1::ListPodSandboxRequest {
        filter: Some(v1::PodSandboxFilter {
            state: Some(v1::PodSandboxStateValue { state: v1::PodSandboxState::SandboxReady.into() }),
            ..Default::default()
        }),
    };
    let containers = v1::ListContainersRequest {
        filter: Some(v1::ContainerFilter {
            state: Some(v1::ContainerStateValue { state: v1::ContainerState::ContainerRunning.into() }),
            ..Default::default()
        }),
    };
    let (sandboxes, containers) =
        futures::try_join!(runtime.list_pod_sandbox(sandboxes), runtime.list_containers(containers))
            .map_err(Problem::internal)?;
    let list = pod_list(&sandboxes.items, &containers.containers).to_string();
    Ok(Bytes::from(list))
}

/// The list, of what the runtime answered. What is not labelled as a pod's is somebody else's.
fn pod_list(sandboxes: &[v1::PodSandbox], containers: &[v1::Container]) -> Value {
    let mut pods: BTreeMap<&str, (i64, Value)> = BTreeMap::new();
    let all = sandboxes.iter().map(|sandbox| (&sandbox.labels, sandbox.created_at));
    // A container whose sandbox is not ready any more runs all the same.
    let all = all.chain(containers.iter().map(|container| (&container.labels, 0)));
    for (labels, created) in all {
        let text = |name: &str| labels.get(name).map(String::as_str).unwrap_or_default();
        let uid = text(label::POD_UID);
        if uid.is_empty() {
            continue;
        }
        let (newest, _) = pods.entry(uid).or_insert_with(|| {
            let metadata =
                json!({"name": text(label::POD_NAME), "namespace": text(label::POD_NAMESPACE), "uid": uid});
            (0, json!({"metadata": metadata, "spec": {"containers": []}, "status": {}}))
        });
        *newest = created.max(*newest);
    }
    for container in containers {
        let text = |name: &str| container.labels.get(name).map(String::as_str).unwrap_or_default();
        let image = container.image.as_ref().map(|image| image.image.as_str()).unwrap_or_default();
        if let Some((_, pod)) = pods.get_mut(text(label::POD_UID))
            && let Some(listed) = pod["spec"]["containers"].as_array_mut()
        {
            listed.push(json!({"name": text(label::CONTAINER_NAME), "image": image, "resources": {}}));
        }
    }
    let mut pods: Vec<(i64, Value)> = pods.into_values().collect();
    pods.sort_by_key(|(created, _)| std::cmp::Reverse(*created));
    let items: Vec<Value> = pods.into_iter().map(|(_, pod)| pod).collect();
    json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn sandbox(uid: &str, created_at: i64) -> v1::PodSandbox {
        let labels = labels(&[(label::POD_UID, uid), (label::POD_NAME, uid), (label::POD_NAMESPACE, "ns")]);
        v1::PodSandbox { id: format!("s-{uid}"), labels, created_at, ..Default::default() }
    }

    fn container(uid: &str, name: &str) -> v1::Container {
        let labels = labels(&[
            (label::POD_UID, uid),
            (label::POD_NAME, uid),
            (label::POD_NAMESPACE, "ns"),
            (label::CONTAINER_NAME, name),
        ]);
        let image = v1::ImageSpec { image: format!("{name}:1"), ..Default::default() };
        v1::Container { labels, image: Some(image), ..Default::default() }
    }

    #[test]
    fn pods_are_what_the_runtime_says_runs() {
        let foreign = v1::PodSandbox { id: "x".to_owned(), ..Default::default() };
        let list = pod_list(
            &[sandbox("old", 1), foreign, sandbox("new", 9)],
            &[container("old", "a"), container("gone", "c"), container("old", "b"), v1::Container::default()],
        );
        let pod = |uid: &str, containers: &[&str]| {
            let containers: Vec<Value> = containers
                .iter()
                .map(|name| json!({"name": name, "image": format!("{name}:1"), "resources": {}}))
                .collect();
            json!({"metadata": {"name": uid, "namespace": "ns", "uid": uid}, "spec": {"containers": containers}, "status": {}})
        };
        assert_eq!(
            list,
            json!({"kind": "PodList", "apiVersion": "v1", "metadata": {},
                "items": [pod("new", &[]), pod("old", &["a", "b"]), pod("gone", &["c"])]})
        );
    }
}
