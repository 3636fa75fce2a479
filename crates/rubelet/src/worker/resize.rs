//! Carries out what the pod was given of other resources: its own cgroup and its containers, resource by resource, in an
//! order in which requests stay below limits. What is to be done is `rubelet_core::resize`'s; what was done is written
//! into the book of actuated resources, so that an agent that is killed here goes on where it was.

use std::collections::BTreeMap;
use std::sync::Arc;

use rubelet_core::Pod;
use rubelet_core::containers::{init_containers, spec_of};
use rubelet_core::observed::ObservedPod;
use rubelet_core::plan::PodPlan;
use rubelet_core::resize::{
    ContainerUpdate, GroupValues, PodGroupPart, ResizePlan, ResizeProgress, Resizing, extend_plan,
    group_steps, memory_shrink, message, shrink_problem,
};
use rubelet_core::resources::{GroupSettings, container_resources, sandbox_overhead};
use rubelet_cri::translate::linux_resources;
use rubelet_cri::v1;
use tokio::time::Instant;
use tracing::warn;

use super::PodWorker;
use super::sync::Stop;

/// gRPC's code of a call that the runtime does not have.
const UNIMPLEMENTED: i32 = 12;

impl PodWorker {
    /// Adds to the plan what it takes to give the pod what was allocated, and notes how its resize stands.
    pub(super) fn plan_resize(&mut self, pod: &Arc<Pod>, observed: &ObservedPod, plan: &mut PodPlan) {
        let services = self.services.clone();
        let allocations = &services.allocations;
        let actuated = allocations.actuated(&self.uid);
        extend_plan(
            plan,
            &Resizing {
                pod,
                observed,
                actuated: actuated.as_ref(),
                gates: allocations.settings().gates,
                resources: &services.node.resources,
            },
        );
        for name in std::mem::take(&mut plan.resize.adopt) {
            if let Some(container) = container_named(pod, &name) {
                allocations.actuate_container(&self.uid, pod, &name, container.resources.as_ref());
            }
        }
        let news = allocations.take_news(&self.uid);
        self.resize.pending = news.pending;
        if let Some(generation) = news.accepted {
            self.resize.progress = Some(ResizeProgress { generation, error: None });
        }
        if plan.resize.in_progress() {
            let generation = pod.metadata.generation;
            self.resize.progress.get_or_insert(ResizeProgress { generation, error: None });
        } else if let Some(done) = self.resize.progress.take() {
            let text = message("Pod resize completed", pod, done.generation, "");
            services.events.normal(&self.subject, "ResizeCompleted", text);
            allocations.freed();
        }
        allocations.note_progress(&self.uid, self.resize.progress.is_some());
    }

    /// Carries a resize out. One that fails is told of, and tried again by the next sync.
    pub(super) async fn execute_resize(
        &mut self,
        pod: &Arc<Pod>,
        observed: &ObservedPod,
        resize: &ResizePlan,
    ) -> Result<(), Stop> {
        if !resize.in_progress() {
            return Ok(());
        }
        let services = self.services.clone();
        // What was allocated is on the disk before anything is done with it: after a crash nothing goes back.
        services.allocations.flush().await;
        let began = Instant::now();
        let done = self.actuate(pod, observed, resize).await;
        let success = if done.is_ok() { "true" } else { "false" };
        let took = began.elapsed().as_secs_f64() * 1000.0;
        services.metrics.pods.resize_duration.with([success]).observe(took);
        // The lists do not show what changed; the next look asks for all of it.
        for update in resize.memory.iter().chain(&resize.cpu) {
            services.pleg.reread(&update.id);
        }
        let Err(problem) = done else { return Ok(()) };
        warn!(pod = self.subject.name, "its resize failed: {problem}");
        let progress = self.resize.progress.get_or_insert_default();
        // Amounts in it change from one attempt to the next: that is no news.
        let words = |text: &str| text.replace(|c: char| c.is_ascii_digit(), "");
        if progress.error.as_deref().map(words) != Some(words(&problem)) {
            let text = message("Pod resize error", pod, progress.generation, &problem);
            services.events.warning(&self.subject, "ResizeError", text);
            progress.error = Some(problem);
        }
        Err(Stop::Failed)
    }

    async fn actuate(
        &self,
        pod: &Arc<Pod>,
        observed: &ObservedPod,
        resize: &ResizePlan,
    ) -> Result<(), String> {
        let services = &self.services;
        let wanted = services.cgroups.pod_settings(pod, &self.uid);
        let now = services.cgroups.read_pod(pod, &self.uid).await;
        let shrink = memory_shrink(resize, now.memory_limit, wanted.memory);
        if !shrink.is_empty() {
            let used = self.memory_of(resize, shrink.containers.keys()).await;
            let of_pod = now.memory_usage.and_then(|used| u64::try_from(used).ok());
            if let Some(problem) = shrink_problem(&shrink, of_pod, &used) {
                return Err(problem);
            }
        }
        let mut group = PodGroup {
            worker: self,
            pod,
            sandbox: observed.sandboxes.first().filter(|s| s.ready).map(|s| s.id.to_string()),
            // What the runtime is told the pod has.
            told: v1::LinuxContainerResources {
                cpu_shares: now.cpu_shares.unwrap_or(0),
                cpu_quota: now.cpu_quota.unwrap_or(0),
                cpu_period: now.cpu_period.unwrap_or(0),
                memory_limit_in_bytes: now.memory_limit.unwrap_or(0),
                ..Default::default()
            },
            wanted: &wanted,
        };
        let memory = (
            GroupValues { limit: now.memory_limit.unwrap_or(0), request: 0 },
            GroupValues { limit: given(wanted.memory, now.memory_limit), request: 0 },
        );
        let cpu = (
            GroupValues { limit: now.cpu_quota.unwrap_or(0), request: now.cpu_shares.unwrap_or(0) },
            GroupValues {
                limit: given(wanted.cpu_quota, now.cpu_quota),
                request: given(wanted.cpu_shares, now.cpu_shares),
            },
        );
        for (of_memory, updates, (current, new)) in
            [(true, &resize.memory, memory), (false, &resize.cpu, cpu)]
        {
            if !resize.touches_group(of_memory) {
                continue;
            }
            let (before, after) = group_steps(current, new);
            for part in before {
                group.set(of_memory, part).await?;
            }
            for update in updates {
                self.update_container(pod, update, of_memory).await?;
            }
            for part in after {
                group.set(of_memory, part).await?;
            }
        }
        if resize.pod_level {
            services.allocations.actuate_pod(&self.uid, pod);
        }
        Ok(())
    }

    /// Has the runtime give a container what it is to have of one resource. Memory comes first: while it changes, CPU
    /// stays as it was.
    async fn update_container(
        &self,
        pod: &Arc<Pod>,
        update: &ContainerUpdate,
        of_memory: bool,
    ) -> Result<(), String> {
        let services = &self.services;
        let Some(container) = container_named(pod, &update.name) else { return Ok(()) };
        // Memory changes first: by the time of CPU it is what it is to be.
        let settings = if of_memory { update.wanted.with_cpu_of(update.current) } else { update.wanted };
        let mut container = container.clone();
        let resources = settings.over(container.resources.as_ref());
        container.resources = Some(resources);
        let exclusive = services.containers.share(&self.uid, &update.name).exclusive_cpus;
        let numbers = container_resources(pod, &container, exclusive, &services.node.resources);
        let request = v1::UpdateContainerResourcesRequest {
            container_id: update.id.to_string(),
            linux: Some(linux_resources(numbers)),
            ..Default::default()
        };
        services.runtime.update_container_resources(request).await.map_err(|error| error.to_string())?;
        services.allocations.actuate_container(&self.uid, pod, &update.name, container.resources.as_ref());
        Ok(())
    }

    /// What these containers use of memory, bytes.
    async fn memory_of<'a>(
        &self,
        resize: &ResizePlan,
        names: impl Iterator<Item = &'a String>,
    ) -> BTreeMap<String, u64> {
        let mut used = BTreeMap::new();
        for name in names {
            let Some(update) = resize.memory.iter().find(|update| update.name == *name) else { continue };
            let request = v1::ContainerStatsRequest { container_id: update.id.to_string() };
            let memory = match self.services.runtime.container_stats(request).await {
                Ok(answer) => answer.stats.and_then(|stats| stats.memory),
                Err(error) => {
                    warn!(pod = self.subject.name, "{error}");
                    None
                }
            };
            let bytes = memory.and_then(|memory| memory.usage_bytes.or(memory.working_set_bytes));
            if let Some(bytes) = bytes {
                used.insert(name.clone(), bytes.value);
            }
        }
        used
    }
}

/// The pod's cgroup while it is resized: the runtime is told first and may refuse, then the files are written.
struct PodGroup<'a> {
    worker: &'a PodWorker,
    pod: &'a Pod,
    sandbox: Option<String>,
    told: v1::LinuxContainerResources,
    wanted: &'a GroupSettings,
}

impl PodGroup<'_> {
    async fn set(&mut self, of_memory: bool, part: PodGroupPart) -> Result<(), String> {
        let (before, wanted) = (self.told.clone(), self.wanted);
        let mut settings = GroupSettings::default();
        match (of_memory, part) {
            (true, PodGroupPart::Limit) => {
                settings.memory = wanted.memory;
                self.told.memory_limit_in_bytes = wanted.memory.unwrap_or(0).max(0);
            }
            // Requests of memory are in no file but those of memory QoS, which go with the limit.
            (true, PodGroupPart::Request) => return Ok(()),
            (false, PodGroupPart::Limit) => {
                (settings.cpu_quota, settings.cpu_period) = (wanted.cpu_quota, wanted.cpu_period);
                self.told.cpu_quota = wanted.cpu_quota.unwrap_or(0);
                self.told.cpu_period = wanted.cpu_period.unwrap_or(0);
            }
            (false, PodGroupPart::Request) => {
                settings.cpu_shares = wanted.cpu_shares;
                self.told.cpu_shares = wanted.cpu_shares.unwrap_or(0);
            }
        }
        if of_memory {
            settings.unified = wanted.unified.clone();
        }
        self.tell_runtime().await.map_err(|error| format!("the runtime rejected the resize: {error}"))?;
        let services = &self.worker.services;
        if let Err(error) = services.cgroups.set_pod(self.pod, &self.worker.uid, &settings).await {
            self.told = before;
            if let Err(error) = self.tell_runtime().await {
                warn!(pod = self.worker.subject.name, "the runtime does not take a resize back: {error}");
            }
            return Err(crate::logging::chain(&error));
        }
        Ok(())
    }

    /// Tells the runtime what the pod is to have, if it has the call.
    async fn tell_runtime(&mut self) -> Result<(), rubelet_cri::CriError> {
        let Some(sandbox) = self.sandbox.clone() else { return Ok(()) };
        let services = &self.worker.services;
        let request = v1::UpdatePodSandboxResourcesRequest {
            pod_sandbox_id: sandbox,
            overhead: Some(linux_resources(sandbox_overhead(self.pod, &services.node.resources))),
            resources: Some(self.told.clone()),
        };
        match services.runtime.update_pod_sandbox_resources(request).await {
            // Some versions of containerd say it in words only.
            Err(error) if error.code == UNIMPLEMENTED || error.message.contains("not implemented") => {
                self.sandbox = None;
                Ok(())
            }
            other => other.map(drop),
        }
    }
}

/// What is to be set, or what there is where that is left alone.
fn given(wanted: Option<i64>, now: Option<i64>) -> i64 {
    wanted.filter(|wanted| *wanted != 0).or(now).unwrap_or(0)
}

fn container_named<'a>(pod: &'a Pod, name: &str) -> Option<&'a k8s_openapi::api::core::v1::Container> {
    let spec = spec_of(pod);
    spec.containers.iter().chain(init_containers(spec)).find(|container| container.name == name)
}
