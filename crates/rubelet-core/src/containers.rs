//! The containers of a pod spec, seen as one list.
//!
//! Owns the conversion of ephemeral containers into ordinary ones and the order in which lists are walked.
//! Never judges what should run. Called by everything that treats all kinds of containers alike.

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec};

/// An ephemeral container as the ordinary container it is run as. Only `targetContainerName` is left out.
pub fn ephemeral_as_container(ephemeral: &EphemeralContainer) -> Container {
    let source = ephemeral.clone();
    Container {
        args: source.args,
        command: source.command,
        env: source.env,
        env_from: source.env_from,
        image: source.image,
        image_pull_policy: source.image_pull_policy,
        lifecycle: source.lifecycle,
        liveness_probe: source.liveness_probe,
        name: source.name,
        ports: source.ports,
        readiness_probe: source.readiness_probe,
        resize_policy: source.resize_policy,
        resources: source.resources,
        restart_policy: source.restart_policy,
        restart_policy_rules: source.restart_policy_rules,
        security_context: source.security_context,
        startup_probe: source.startup_probe,
        stdin: source.stdin,
        stdin_once: source.stdin_once,
        termination_message_path: source.termination_message_path,
        termination_message_policy: source.termination_message_policy,
        tty: source.tty,
        volume_devices: source.volume_devices,
        volume_mounts: source.volume_mounts,
        working_dir: source.working_dir,
    }
}

/// Whether an init container is a sidecar: `restartPolicy: Always`.
pub fn is_sidecar(init_container: &Container) -> bool {
    init_container.restart_policy.as_deref() == Some("Always")
}

/// The init containers of a spec, sidecars included.
pub fn init_containers(spec: &PodSpec) -> &[Container] {
    spec.init_containers.as_deref().unwrap_or_default()
}

/// Init containers, then app containers: all that can have resources and ports.
pub fn regular_containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    init_containers(spec).iter().chain(&spec.containers)
}

/// The spec of a pod, or an empty one.
pub fn spec_of(pod: &Pod) -> &PodSpec {
    static EMPTY: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
    pod.spec.as_ref().unwrap_or(&EMPTY)
}

/// `name_namespace(uid)`: how upstream names a pod inside messages (`format.Pod`).
pub fn described(pod: &Pod) -> String {
    let metadata = &pod.metadata;
    format!(
        "{}_{}({})",
        metadata.name.as_deref().unwrap_or_default(),
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.uid.as_deref().unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ephemeral_container_keeps_every_field_but_its_target() {
        let json = serde_json::json!({
            "name": "debug", "image": "busybox", "command": ["sh"], "args": ["-c"], "tty": true, "stdin": true,
            "stdinOnce": true, "workingDir": "/w", "terminationMessagePath": "/t", "terminationMessagePolicy": "File",
            "imagePullPolicy": "Always", "env": [{"name": "A", "value": "b"}],
            "securityContext": {"privileged": true}, "volumeMounts": [{"name": "v", "mountPath": "/v"}],
        });
        let mut with_target = json.clone();
        with_target["targetContainerName"] = "app".into();
        let ephemeral: EphemeralContainer = serde_json::from_value(with_target).unwrap();
        assert_eq!(serde_json::to_value(ephemeral_as_container(&ephemeral)).unwrap(), json);
    }

    #[test]
    fn a_pod_is_described_by_name_namespace_and_uid() {
        let mut pod = Pod::default();
        assert_eq!(described(&pod), "_()");
        pod.metadata.name = Some("web".into());
        pod.metadata.namespace = Some("shop".into());
        pod.metadata.uid = Some("1-2".into());
        assert_eq!(described(&pod), "web_shop(1-2)");
    }
}
