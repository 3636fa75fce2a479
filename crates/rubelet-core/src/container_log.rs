//! Which instance of a container a log is asked of, as the pod's status tells.
//!
//! The rules and words are upstream's `validateContainerLogStatus`, which kubectl shows as they are.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod, PodStatus};

use crate::ids::ContainerId;

/// The instance of `container` whose log is meant: the one that runs, else the last one that ran; with `previous` the
/// one before.
///
/// # Errors
/// Why there is none, for people.
pub fn instance(
    pod: &str,
    status: &PodStatus,
    container: &str,
    previous: bool,
) -> Result<ContainerId, String> {
    let all =
        [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    let found = all.into_iter().flatten().flatten().find(|status| status.name == container);
    let Some(found) = found else {
        return Err(format!("container {container:?} in pod {pod:?} is not available"));
    };
    let last = terminated(found.last_state.as_ref());
    if previous {
        return last
            .ok_or_else(|| format!("previous terminated container {container:?} in pod {pod:?} not found"));
    }
    let state = found.state.as_ref();
    if state.is_some_and(|state| state.running.is_some()) {
        return id(found.container_id.as_deref())
            .ok_or_else(|| format!("container {container:?} in pod {pod:?} is not available"));
    }
    if let Some(ended) = terminated(state) {
        return Ok(ended);
    }
    if let Some(last) = last {
        return Ok(last);
    }
    let waiting = state.and_then(|state| state.waiting.as_ref());
    Err(match waiting.and_then(|waiting| waiting.reason.as_deref()) {
        Some("ErrImagePull") => {
            format!("container {container:?} in pod {pod:?} is waiting to start: image can't be pulled")
        }
        Some("ImagePullBackOff") => {
            format!(
                "container {container:?} in pod {pod:?} is waiting to start: trying and failing to pull image"
            )
        }
        Some(reason) => format!("container {container:?} in pod {pod:?} is waiting to start: {reason}"),
        None => format!("container {container:?} in pod {pod:?} is terminated"),
    })
}

/// Whether the instance still runs, by what the status says.
pub fn is_running(status: &PodStatus, id: &ContainerId) -> bool {
    let all =
        [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    all.into_iter().flatten().flatten().any(|status: &ContainerStatus| {
        status.state.as_ref().is_some_and(|state| state.running.is_some())
            && self::id(status.container_id.as_deref()).as_ref() == Some(id)
    })
}

/// The container a command runs in: the one named, or the only one; with several the one that the pod's annotation
/// `kubectl.kubernetes.io/default-container` names, or the first.
pub fn named_or_default<'a>(pod: &'a Pod, name: Option<&'a str>) -> Option<&'a str> {
    let spec = pod.spec.as_ref()?;
    name.or_else(|| {
        let annotations = pod.metadata.annotations.as_ref()?;
        let name = annotations.get("kubectl.kubernetes.io/default-container")?;
        spec.containers.iter().any(|c| c.name == *name).then_some(name.as_str())
    })
    .or_else(|| spec.containers.first().map(|c| c.name.as_str()))
}

fn terminated(state: Option<&ContainerState>) -> Option<ContainerId> {
    id(state?.terminated.as_ref()?.container_id.as_deref())
}

/// The runtime's ID in `<runtime>://<id>`.
fn id(text: Option<&str>) -> Option<ContainerId> {
    let (_, id) = text?.split_once("://")?;
    (!id.is_empty()).then(|| id.into())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(state: Value, last: Value, previous: bool, expected: Result<&str, &str>) {
        let status: PodStatus = serde_json::from_value(json!({"containerStatuses": [{
            "name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "containerID": "containerd://now", "state": state, "lastState": last,
        }]}))
        .unwrap();
        let got = instance("p", &status, "c", previous).map(|id| id.to_string());
        assert_eq!(got.as_deref().map_err(String::as_str), expected);
    }

    #[test]
    fn the_log_is_that_of_the_instance_meant() {
        let none = || json!({});
        let ended =
            |id: &str| json!({"terminated": {"exitCode": 1, "containerID": format!("containerd://{id}")}});
        let waits = |reason: &str| json!({"waiting": {"reason": reason}});
        check(json!({"running": {}}), none(), false, Ok("now"));
        check(json!({"running": {}}), ended("old"), true, Ok("old"));
        check(
            json!({"running": {}}),
            none(),
            true,
            Err(r#"previous terminated container "c" in pod "p" not found"#),
        );
        check(ended("now"), ended("old"), false, Ok("now"));
        check(waits("CrashLoopBackOff"), ended("old"), false, Ok("old"));
        let waiting = |what: &str| format!(r#"container "c" in pod "p" is waiting to start: {what}"#);
        check(waits("ContainerCreating"), none(), false, Err(&waiting("ContainerCreating")));
        check(waits("ErrImagePull"), none(), false, Err(&waiting("image can't be pulled")));
        check(waits("ImagePullBackOff"), none(), false, Err(&waiting("trying and failing to pull image")));
        assert!(instance("p", &PodStatus::default(), "c", false).unwrap_err().contains("is not available"));
    }
}
