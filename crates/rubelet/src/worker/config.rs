//! Gathers what a sandbox or a container is made from, and has `rubelet_cri::translate` assemble it. Reads and
//! writes the small files this takes (resolv.conf, hosts, termination message); decides nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Container, Pod};
use rubelet_core::admission::is_static_pod;
use rubelet_core::dns::{self, DnsFacts, DnsSettings};
use rubelet_core::env::{self, EnvError, EnvObjects, Missing};
use rubelet_core::hosts;
use rubelet_core::ids::{ContainerId, PodUid};
use rubelet_core::mounts::plan_mounts;
use rubelet_core::observed::{ObservedPod, ObservedSandbox};
use rubelet_core::plan::{ContainerKind, StartContainer};
use rubelet_core::qos::pod_qos;
use rubelet_core::resources::{CgroupRoot, cgroup_path};
use rubelet_core::security::{ImageUser, SecurityFacts, UserNamespaceFacts};
use rubelet_core::status::{StartError, pod_addresses};
use rubelet_cri::translate::{
    self, ContainerInputs, DeviceInputs, SandboxFacts, TranslateError, hosts_mount, termination_mount,
};
use rubelet_cri::v1;
use rubelet_volumes::VolumePaths;
use tracing::warn;

use super::PodWorker;
use super::image::ImageMounts;
use super::mounts::mount_sources;
use super::sync::host_network;
use crate::events::EventSubject;
use crate::images::PresentImage;
use crate::pod_dirs;
use crate::services::Services;

/// Longest environment file.
const ENV_FILE_BYTES: u64 = 1024 * 1024;

/// Where the tree of pod cgroups hangs, with the driver the runtime told.
pub(super) fn cgroup_root(services: &Services) -> CgroupRoot {
    services.runtime_state.borrow().cgroup_root(&services.node.cgroups)
}

/// The cgroup of a pod; empty when there is no tree.
pub(super) fn pod_cgroup(services: &Services, pod: &Pod, uid: &PodUid) -> String {
    cgroup_path(&cgroup_root(services), pod_qos(pod), Some(uid))
}

pub(super) fn failed(reason: &str, message: impl Into<String>) -> StartError {
    StartError { reason: reason.to_owned(), message: message.into() }
}

pub(super) fn config_failed(error: &dyn std::error::Error) -> StartError {
    failed(TranslateError::REASON, crate::logging::chain(error))
}

/// What a container is made from that only its worker knows.
pub(super) struct Instance<'a> {
    /// Which container, and of which kind.
    pub start: &'a StartContainer,
    /// The sandbox it goes into.
    pub sandbox: &'a ObservedSandbox,
    /// The configuration of that sandbox.
    pub sandbox_config: &'a v1::PodSandboxConfig,
    /// The pod as last observed.
    pub observed: &'a ObservedPod,
    /// The image.
    pub image: &'a PresentImage,
    /// Restart count of the instance.
    pub count: u32,
    /// Volumes that are ready.
    pub volumes: &'a VolumePaths,
    /// Volumes that are images.
    pub image_volumes: &'a ImageMounts,
}

impl PodWorker {
    /// The sandbox's configuration and runtime handler.
    pub(super) async fn sandbox_config(
        &self,
        pod: &Pod,
        attempt: u32,
    ) -> Result<(v1::PodSandboxConfig, String), String> {
        let services = &self.services;
        let handler = self.runtime_handler(pod).await?;
        let dns = self.dns(pod).await?;
        let paths = self.paths().map_err(|error| error.to_string())?;
        let security = self.security_facts(pod, &handler).await?;
        let config = translate::sandbox_config(
            pod,
            &SandboxFacts {
                attempt,
                dns: &dns,
                cluster_domain: &services.node.cluster_domain,
                log_directory: &paths.logs,
                cgroup_parent: &pod_cgroup(services, pod, &self.uid),
                exclusive_cpus: services.containers.has_exclusive_cpus(&self.uid),
                security: &security,
                resources: &services.node.resources,
            },
        )
        .map_err(|error| crate::logging::chain(&error))?;
        Ok((config, handler))
    }

    /// The container's configuration and that of its sandbox.
    pub(super) async fn container_config(
        &self,
        pod: &Pod,
        container: &Container,
        instance: &Instance<'_>,
    ) -> Result<(v1::ContainerConfig, v1::PodSandboxConfig), StartError> {
        let services = &self.services;
        let sandbox_config = instance.sandbox_config.clone();
        let handler = self.runtime_handler(pod).await.map_err(|p| failed(TranslateError::REASON, p))?;
        let node_ips = services.node_ips();
        let pod_ips = if host_network(pod) { node_ips } else { pod_addresses(instance.sandbox, &node_ips) };
        let pod_ips: Vec<String> = pod_ips.iter().map(ToString::to_string).collect();
        let downward = services.downward(pod_ips.clone());
        let objects = self.env_objects(pod, container, instance.volumes).await;
        let services_env = self.service_env(pod).await?;
        let mut env = env::make_env(pod, container, &objects, &services_env, &downward)
            .map_err(|error| failed(EnvError::REASON, crate::logging::chain(&error)))?;
        let features = services.runtime_state.borrow().handler(&handler).cloned();
        let recursive = features.is_some_and(|features| features.recursive_read_only_mounts);
        let sources = mount_sources(instance.volumes, instance.image_volumes);
        let planned =
            plan_mounts(container, &env, &sources, recursive).map_err(|error| config_failed(&error))?;
        let mut mounts = self.volume_mounts(container, &planned, instance.image_volumes).await?;
        let share = services.containers.share(&self.uid, &container.name);
        let mut devices = share.devices;
        devices.extend(self.volume_devices(container, &sources).await?);
        // What a volume is mounted at, a device does not cover.
        mounts.splice(0..0, share.mounts);
        env.splice(0..0, share.envs.into_iter().map(|(name, value)| env::EnvVar { name, value }));
        mounts.extend(self.own_mounts(pod, container, &pod_ips, &mounts).await?);
        let security = self
            .security_facts(pod, &handler)
            .await
            .map_err(|problem| failed(TranslateError::REASON, problem))?;
        let mut cdi_names = share.cdi_devices;
        cdi_names.extend(services.claims.cdi_devices(pod, container).map_err(|error| config_failed(&error))?);
        let target = ephemeral_target(pod, instance);
        let mut config = translate::container_config(
            pod,
            container,
            &ContainerInputs {
                restart_count: instance.count,
                image_ref: &instance.image.reference,
                image_user: &image_user(instance.image),
                env: &env,
                mounts: &mounts,
                devices: &DeviceInputs {
                    devices,
                    cdi_names,
                    annotations: share.annotations.into_iter().collect(),
                },
                target: target.as_ref(),
                exclusive_cpus: share.exclusive_cpus,
                security: &security,
                resources: &services.node.resources,
            },
        )
        .map_err(|error| config_failed(&error))?;
        let linux = config.linux.get_or_insert_default().resources.get_or_insert_default();
        linux.cpuset_cpus = share.cpus.map(|cpus| cpus.to_string()).unwrap_or_default();
        linux.cpuset_mems = share.memory_nodes.map(|nodes| nodes.to_string()).unwrap_or_default();
        Ok((config, sandbox_config))
    }

    /// Reads the objects and files that the environment refers to.
    async fn env_objects(&self, pod: &Pod, container: &Container, volumes: &VolumePaths) -> EnvObjects {
        let wanted = env::env_references(container);
        let mut objects = match &self.services.api {
            Some(api) => {
                let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                api.env_objects(namespace, &wanted).await
            }
            None => EnvObjects::default(),
        };
        for (volume, path) in wanted.files {
            let Some(root) = volumes.get(&volume).map(|ready| ready.path.clone()) else { continue };
            let relative = PathBuf::from(&path);
            let read = self.services.fs.run(format!("read {path} of volume {volume}"), move || {
                rubelet_linux::beneath::read_file(&root, &relative, ENV_FILE_BYTES)
            });
            let text = match read.await {
                Ok(bytes) => {
                    String::from_utf8(bytes).map_err(|_| Missing::Failed("it is not UTF-8 text".to_owned()))
                }
                Err(error) => Err(Missing::Failed(crate::logging::chain(&error))),
            };
            objects.files.insert((volume, path), text);
        }
        objects
    }

    /// The variables that tell of Services. Pods that do not come from the API need not wait for it: they are told
    /// of what is known.
    async fn service_env(&self, pod: &Pod) -> Result<BTreeMap<String, String>, StartError> {
        match &self.services.api {
            Some(api) if !is_static_pod(pod) => {
                api.service_env(pod).await.map_err(|error| failed(EnvError::REASON, error.to_string()))
            }
            _ => Ok(BTreeMap::new()),
        }
    }

    /// The runtime handler of a pod.
    pub(super) async fn runtime_handler(&self, pod: &Pod) -> Result<String, String> {
        if let Some(api) = self.services.api.as_ref().filter(|_| !is_static_pod(pod)) {
            return api.runtime_handler(pod).await.map_err(|error| error.to_string());
        }
        // Without an API the class's name is taken for the handler's, which is what most classes say.
        Ok(pod.spec.as_ref().and_then(|spec| spec.runtime_class_name.clone()).unwrap_or_default())
    }

    /// The mounts the agent adds: hosts file and termination message, each unless the container has its own.
    async fn own_mounts(
        &self,
        pod: &Pod,
        container: &Container,
        pod_ips: &[String],
        present: &[v1::Mount],
    ) -> Result<Vec<v1::Mount>, StartError> {
        let services = &self.services;
        let paths = self.paths().map_err(|error| config_failed(&error))?;
        let mut mounts = vec![];
        if hosts::mounts_hosts_file(pod, container, pod_ips) {
            let content =
                self.hosts_content(pod, pod_ips).await.map_err(|p| failed(TranslateError::REASON, p))?;
            let file = paths.hosts_file();
            pod_dirs::write_hosts(&services.fs, &file, content)
                .await
                .map_err(|error| config_failed(&error))?;
            mounts.push(hosts_mount(&file, services.node.selinux));
        }
        let name = unique_name();
        let file = paths.termination_log(&container.name, name).map_err(|error| config_failed(&error))?;
        if let Some(mount) = termination_mount(container, &file, services.node.selinux)
            && !present.iter().any(|other| other.container_path == mount.container_path)
        {
            pod_dirs::make_termination_file(&services.fs, &file)
                .await
                .map_err(|error| config_failed(&error))?;
            mounts.push(mount);
        }
        Ok(mounts)
    }

    async fn hosts_content(&self, pod: &Pod, pod_ips: &[String]) -> Result<Vec<u8>, String> {
        let services = &self.services;
        let aliases = pod.spec.as_ref().and_then(|spec| spec.host_aliases.as_deref()).unwrap_or_default();
        if host_network(pod) {
            let path = hosts::HOSTS_PATH;
            let read = services.fs.run(format!("read {path}"), move || std::fs::read(path)).await;
            let node_hosts = read.map_err(|error| crate::logging::chain(&error))?;
            return Ok(hosts::host_network_hosts(&node_hosts, aliases));
        }
        let name = rubelet_core::hostname::pod_hostname(pod, &services.node.cluster_domain)
            .map_err(|error| error.to_string())?;
        Ok(hosts::managed_hosts(pod_ips, &name, aliases).into_bytes())
    }

    async fn dns(&self, pod: &Pod) -> Result<DnsSettings, String> {
        let services = &self.services;
        let facts = DnsFacts {
            cluster_dns: services.node.cluster_dns.clone(),
            cluster_domain: services.node.cluster_domain.clone(),
            node: node_dns(services).await?,
            node_ips: services.node_ips(),
        };
        let (settings, mut events) = dns::pod_dns(pod, &facts);
        if !services.node.expects_cluster_dns {
            events.retain(|event| event.reason != dns::MISSING_CLUSTER_DNS);
        }
        for event in events {
            let node = event.on_node.then(|| EventSubject::node(&services.node.name));
            services.events.warning(node.as_ref().unwrap_or(&self.subject), event.reason, event.message);
        }
        Ok(settings)
    }

    async fn security_facts(&self, pod: &Pod, handler: &str) -> Result<SecurityFacts, String> {
        let services = &self.services;
        let supported = services.runtime_state.borrow().handler(handler).is_some_and(|f| f.user_namespaces);
        let wanted = pod.spec.as_ref().is_some_and(|spec| spec.host_users == Some(false));
        let range = match wanted && supported {
            true => Some(services.user_namespaces.range_of(&services.fs, &self.uid).await?),
            false => None,
        };
        Ok(SecurityFacts {
            seccomp_root: services.node.root_dir.join("seccomp").to_string_lossy().into_owned(),
            seccomp_default: services.node.seccomp_default,
            thermal_throttle_paths: services.node.thermal_throttle_paths.clone(),
            volume_groups: services.volumes.groups(&self.uid),
            user_namespace: UserNamespaceFacts { supported, handler: handler.to_owned(), range },
        })
    }
}

/// The node's own DNS settings; `None` when `resolvConf` is empty.
async fn node_dns(services: &Services) -> Result<Option<DnsSettings>, String> {
    let path = services.node.resolv_conf.clone();
    if path.is_empty() {
        return Ok(None);
    }
    let read = path.clone();
    let text =
        services.fs.run(format!("read {path} (resolvConf)"), move || match std::fs::read_to_string(&read) {
            // A machine without the file has no settings to pass on, as with upstream's Go resolver defaults.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            text => text,
        });
    let text = text.await.map_err(|error| crate::logging::chain(&error))?;
    match dns::parse_resolv_conf(&text) {
        Ok(settings) => Ok(Some(settings)),
        Err(error) => Err(format!("{path}: {error}")),
    }
}

fn image_user(image: &PresentImage) -> ImageUser {
    match (image.uid, image.username.as_str()) {
        (Some(uid), _) => ImageUser::Uid(uid),
        (None, "") => ImageUser::Unset,
        (None, name) => ImageUser::Name(name.to_owned()),
    }
}

/// The instance whose processes an ephemeral container looks at.
fn ephemeral_target(pod: &Pod, instance: &Instance<'_>) -> Option<ContainerId> {
    if instance.start.kind != ContainerKind::Ephemeral {
        return None;
    }
    let ephemeral = pod.spec.as_ref()?.ephemeral_containers.as_ref()?.get(instance.start.index)?;
    let target = ephemeral.target_container_name.as_deref().filter(|name| !name.is_empty())?;
    let found = instance.observed.newest_container(target);
    if found.is_none() {
        warn!(container = ephemeral.name, target, "the target of an ephemeral container does not run");
    }
    found.map(|container| container.id.clone())
}

/// A number that differs between the instances of a container, also across restarts of the agent as long as
/// process IDs differ; a file of that name is simply truncated.
fn unique_name() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let seed = std::process::id().wrapping_mul(0x9e37_79b9);
    seed.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x85eb_ca6b))
}
