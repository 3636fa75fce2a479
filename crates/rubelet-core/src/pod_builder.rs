//! Builders of pods: say what matters, get the rest as the API server would default it.
//!
//! For programs that make pods, and for tests. A built pod is an ordinary `Pod`; whoever runs it applies defaults and
//! validation.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EphemeralContainer, ExecAction,
    HostPathVolumeSource, Lifecycle, LifecycleHandler, Pod, PodSpec, Probe, SleepAction, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

/// A pod in the making: `default/<name>`, without a container.
///
/// ```
/// use rubelet_core::pod_builder::{ContainerBuilder, PodBuilder};
///
/// let pod = PodBuilder::new("hello")
///     .container(ContainerBuilder::new("main", "busybox:1").command(["sh", "-c", "echo hello; sleep 3600"]))
///     .build();
/// assert_eq!(pod.metadata.name.as_deref(), Some("hello"));
/// ```
#[derive(Clone, Debug)]
pub struct PodBuilder {
    pod: Pod,
}

impl PodBuilder {
    /// A pod of that name in the namespace `default`.
    pub fn new(name: &str) -> Self {
        let metadata = ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some("default".to_owned()),
            ..Default::default()
        };
        Self { pod: Pod { metadata, spec: Some(PodSpec::default()), status: None } }
    }

    /// The UID: who runs a pod of the same UID again goes on with its containers. Chosen for it when it has none.
    pub fn uid(self, uid: &str) -> Self {
        self.edit(|pod| pod.metadata.uid = Some(uid.to_owned()))
    }

    /// Another namespace than `default`.
    pub fn namespace(self, namespace: &str) -> Self {
        self.edit(|pod| pod.metadata.namespace = Some(namespace.to_owned()))
    }

    /// One more label.
    pub fn label(self, key: &str, value: &str) -> Self {
        self.edit(|pod| insert(&mut pod.metadata.labels, key, value))
    }

    /// One more annotation.
    pub fn annotation(self, key: &str, value: &str) -> Self {
        self.edit(|pod| insert(&mut pod.metadata.annotations, key, value))
    }

    /// When the object was created.
    pub fn created_at(self, at: Timestamp) -> Self {
        self.edit(|pod| pod.metadata.creation_timestamp = Some(Time(at)))
    }

    /// Marked for deletion at that time, with that many seconds of grace.
    pub fn deleted_at(self, at: Timestamp, grace_seconds: i64) -> Self {
        self.edit(|pod| {
            pod.metadata.deletion_timestamp = Some(Time(at));
            pod.metadata.deletion_grace_period_seconds = Some(grace_seconds);
        })
    }

    /// One more container.
    pub fn container(self, container: ContainerBuilder) -> Self {
        self.spec(|spec| spec.containers.push(container.build()))
    }

    /// One more init container; a sidecar when its restart policy is Always.
    pub fn init_container(self, container: ContainerBuilder) -> Self {
        self.spec(|spec| spec.init_containers.get_or_insert_default().push(container.build()))
    }

    /// One more ephemeral container.
    pub fn ephemeral_container(self, container: ContainerBuilder) -> Self {
        self.spec(|spec| spec.ephemeral_containers.get_or_insert_default().push(container.build_ephemeral()))
    }

    /// `restartPolicy`: Always, OnFailure or Never.
    pub fn restart_policy(self, policy: &str) -> Self {
        self.spec(|spec| spec.restart_policy = Some(policy.to_owned()))
    }

    /// `terminationGracePeriodSeconds`.
    pub fn grace(self, seconds: i64) -> Self {
        self.spec(|spec| spec.termination_grace_period_seconds = Some(seconds))
    }

    /// `activeDeadlineSeconds`.
    pub fn active_deadline(self, seconds: i64) -> Self {
        self.spec(|spec| spec.active_deadline_seconds = Some(seconds))
    }

    /// The node's network.
    pub fn host_network(self) -> Self {
        self.spec(|spec| spec.host_network = Some(true))
    }

    /// One more volume.
    pub fn volume(self, volume: Volume) -> Self {
        self.spec(|spec| spec.volumes.get_or_insert_default().push(volume))
    }

    /// A folder of the pod's own, which its containers share and which goes with it.
    pub fn empty_dir(self, name: &str) -> Self {
        let empty_dir = Some(EmptyDirVolumeSource::default());
        self.volume(Volume { name: name.to_owned(), empty_dir, ..Default::default() })
    }

    /// A file or folder of the machine.
    pub fn host_path(self, name: &str, path: &str) -> Self {
        let host_path = Some(HostPathVolumeSource { path: path.to_owned(), type_: None });
        self.volume(Volume { name: name.to_owned(), host_path, ..Default::default() })
    }

    /// Any change of the spec that has no method of its own.
    pub fn spec(mut self, edit: impl FnOnce(&mut PodSpec)) -> Self {
        edit(self.pod.spec.get_or_insert_default());
        self
    }

    /// Any change that has no method of its own.
    pub fn edit(mut self, edit: impl FnOnce(&mut Pod)) -> Self {
        edit(&mut self.pod);
        self
    }

    /// The pod.
    pub fn build(self) -> Pod {
        self.pod
    }
}

/// A container in the making: name and image.
#[derive(Clone, Debug)]
pub struct ContainerBuilder {
    container: Container,
}

impl ContainerBuilder {
    /// A container of that name and image.
    pub fn new(name: &str, image: &str) -> Self {
        let container =
            Container { name: name.to_owned(), image: Some(image.to_owned()), ..Default::default() };
        Self { container }
    }

    /// Another image.
    pub fn image(self, image: &str) -> Self {
        self.edit(|c| c.image = Some(image.to_owned()))
    }

    /// `imagePullPolicy`: Always, IfNotPresent or Never.
    pub fn pull_policy(self, policy: &str) -> Self {
        self.edit(|c| c.image_pull_policy = Some(policy.to_owned()))
    }

    /// The command, instead of the image's entry point.
    pub fn command<const N: usize>(self, command: [&str; N]) -> Self {
        self.edit(|c| c.command = Some(command.map(str::to_owned).to_vec()))
    }

    /// The command's arguments, instead of the image's.
    pub fn args<const N: usize>(self, args: [&str; N]) -> Self {
        self.edit(|c| c.args = Some(args.map(str::to_owned).to_vec()))
    }

    /// What the container asks for and is sure to get, such as `("cpu", "100m")`.
    pub fn request(self, resource: &str, amount: &str) -> Self {
        let (resource, amount) = (resource.to_owned(), Quantity(amount.to_owned()));
        self.edit(|c| {
            let resources = c.resources.get_or_insert_default();
            resources.requests.get_or_insert_default().insert(resource, amount);
        })
    }

    /// What the container may use at most, such as `("memory", "64Mi")`.
    pub fn limit(self, resource: &str, amount: &str) -> Self {
        let (resource, amount) = (resource.to_owned(), Quantity(amount.to_owned()));
        self.edit(|c| {
            let resources = c.resources.get_or_insert_default();
            resources.limits.get_or_insert_default().insert(resource, amount);
        })
    }

    /// One more environment variable.
    pub fn env(self, name: &str, value: &str) -> Self {
        let variable = EnvVar { name: name.to_owned(), value: Some(value.to_owned()), value_from: None };
        self.edit(|c| c.env.get_or_insert_default().push(variable))
    }

    /// One more TCP port.
    pub fn port(self, port: i32) -> Self {
        let port =
            ContainerPort { container_port: port, protocol: Some("TCP".to_owned()), ..Default::default() };
        self.edit(|c| c.ports.get_or_insert_default().push(port))
    }

    /// One more mount.
    pub fn mount(self, volume: &str, path: &str) -> Self {
        let mount =
            VolumeMount { name: volume.to_owned(), mount_path: path.to_owned(), ..Default::default() };
        self.edit(|c| c.volume_mounts.get_or_insert_default().push(mount))
    }

    /// `restartPolicy` of the container; Always makes an init container a sidecar.
    pub fn restart_policy(self, policy: &str) -> Self {
        self.edit(|c| c.restart_policy = Some(policy.to_owned()))
    }

    /// A sidecar: restart policy Always.
    pub fn sidecar(self) -> Self {
        self.restart_policy("Always")
    }

    /// A postStart hook that runs a command.
    pub fn post_start<const N: usize>(self, command: [&str; N]) -> Self {
        self.edit(|c| c.lifecycle.get_or_insert_with(Lifecycle::default).post_start = Some(exec(command)))
    }

    /// A preStop hook that runs a command.
    pub fn pre_stop<const N: usize>(self, command: [&str; N]) -> Self {
        self.edit(|c| c.lifecycle.get_or_insert_with(Lifecycle::default).pre_stop = Some(exec(command)))
    }

    /// A preStop hook that sleeps.
    pub fn pre_stop_sleep(self, seconds: i64) -> Self {
        let handler = LifecycleHandler { sleep: Some(SleepAction { seconds }), ..Default::default() };
        self.edit(|c| c.lifecycle.get_or_insert_with(Lifecycle::default).pre_stop = Some(handler))
    }

    /// A readiness probe.
    pub fn readiness_probe(self, probe: Probe) -> Self {
        self.edit(|c| c.readiness_probe = Some(probe))
    }

    /// A liveness probe.
    pub fn liveness_probe(self, probe: Probe) -> Self {
        self.edit(|c| c.liveness_probe = Some(probe))
    }

    /// A startup probe.
    pub fn startup_probe(self, probe: Probe) -> Self {
        self.edit(|c| c.startup_probe = Some(probe))
    }

    /// Any change that has no method of its own.
    pub fn edit(mut self, edit: impl FnOnce(&mut Container)) -> Self {
        edit(&mut self.container);
        self
    }

    /// The container.
    pub fn build(self) -> Container {
        self.container
    }

    /// The container as an ephemeral one, without the fields those lack.
    pub fn build_ephemeral(self) -> EphemeralContainer {
        let c = self.container;
        EphemeralContainer {
            name: c.name,
            image: c.image,
            image_pull_policy: c.image_pull_policy,
            command: c.command,
            args: c.args,
            env: c.env,
            volume_mounts: c.volume_mounts,
            security_context: c.security_context,
            termination_message_path: c.termination_message_path,
            termination_message_policy: c.termination_message_policy,
            ..Default::default()
        }
    }
}

fn exec<const N: usize>(command: [&str; N]) -> LifecycleHandler {
    let action = ExecAction { command: Some(command.map(str::to_owned).to_vec()) };
    LifecycleHandler { exec: Some(action), ..Default::default() }
}

fn insert(map: &mut Option<BTreeMap<String, String>>, key: &str, value: &str) {
    map.get_or_insert_default().insert(key.to_owned(), value.to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_has_what_was_said_and_passes_validation() {
        let mut pod = PodBuilder::new("web")
            .label("app", "web")
            .restart_policy("Never")
            .empty_dir("cache")
            .init_container(ContainerBuilder::new("proxy", "envoy:1").sidecar())
            .container(
                ContainerBuilder::new("app", "nginx:1")
                    .pre_stop(["nginx", "-s", "quit"])
                    .mount("cache", "/cache")
                    .request("cpu", "100m")
                    .limit("memory", "64Mi"),
            )
            .build();
        crate::defaults::apply(&mut pod);
        assert_eq!(crate::validation::validate_pod(&pod), []);
        let text = serde_json::to_value(&pod).unwrap();
        assert_eq!(text["spec"]["initContainers"][0]["restartPolicy"], "Always");
        assert_eq!(text["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][2], "quit");
        assert_eq!(text["spec"]["containers"][0]["resources"]["limits"]["memory"], "64Mi");
        assert_eq!(text["spec"]["volumes"][0]["emptyDir"], serde_json::json!({}));
    }
}
