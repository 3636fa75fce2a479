//! CPU, memory, swap and pressure of control groups, as stats/v1alpha1 tells them. Called by `summary` and `resource`.

use super::types::{CpuStats, IoStats, MemoryStats, SwapStats};
use crate::stats::told::ToldPod;
use crate::stats::usage::{GroupUsage, NodeUsage};

/// From here on a limit is none (cAdvisor's `maxMemorySize`; the kernel rounds what stands for none).
const UNLIMITED: u64 = 1 << 62;

/// What a control group uses.
#[derive(Default)]
pub(in crate::stats) struct Figures {
    pub(in crate::stats) cpu: Option<CpuStats>,
    pub(in crate::stats) memory: Option<MemoryStats>,
    pub(in crate::stats) swap: Option<SwapStats>,
    pub(in crate::stats) io: Option<IoStats>,
}

impl Figures {
    /// Of a control group; nothing without one.
    pub(in crate::stats) fn of(group: Option<&GroupUsage>) -> Self {
        let Some(group) = group else { return Self::default() };
        let time = group.at.into();
        let pressure = &group.pressure;
        let left = |limit: Option<u64>, used: u64| {
            limit.filter(|limit| *limit <= UNLIMITED).map(|limit| limit.saturating_sub(used))
        };
        let memory = group.memory.as_ref();
        Self {
            cpu: group.cpu.as_ref().map(|cpu| CpuStats {
                time,
                usage_nano_cores: group.nanocores,
                usage_core_nano_seconds: Some(cpu.total),
                psi: pressure.cpu.map(Into::into),
            }),
            memory: memory.map(|memory| MemoryStats {
                time,
                available_bytes: left(memory.limit, memory.working_set),
                usage_bytes: Some(memory.usage),
                working_set_bytes: Some(memory.working_set),
                rss_bytes: memory.rss,
                page_faults: memory.page_faults,
                major_page_faults: memory.major_page_faults,
                psi: pressure.memory.map(Into::into),
            }),
            swap: memory.and_then(|memory| {
                let used = memory.swap?;
                Some(SwapStats {
                    time,
                    swap_available_bytes: left(memory.swap_limit, used),
                    swap_usage_bytes: Some(used),
                })
            }),
            io: pressure.io.map(|psi| IoStats { time, psi: Some(psi.into()) }),
        }
    }

    /// Of the node: the root control group, with what the machine itself tells of memory and swap that are left.
    pub(in crate::stats) fn of_node(usage: &NodeUsage) -> Self {
        let mut figures = Self::of(Some(&usage.root));
        if let Some(memory) = &mut figures.memory {
            memory.available_bytes = usage.memory_available.or(memory.available_bytes);
        }
        if let Some((used, available)) = usage.swap {
            figures.swap = Some(SwapStats {
                time: usage.root.at.into(),
                swap_available_bytes: Some(available),
                swap_usage_bytes: Some(used),
            });
        }
        figures
    }

    /// Of a pod: its control group's, or where that tells nothing the sum of its containers', without pressure.
    pub(in crate::stats) fn of_pod(pod: &ToldPod<'_>) -> Self {
        let mut figures = Self::of(pod.usage.group.as_ref());
        if figures.cpu.is_some() && figures.memory.is_some() {
            return figures;
        }
        let mut sum = Self::default();
        for container in &pod.containers {
            sum.add(Self::of(container.group.as_ref()));
        }
        figures.cpu = figures.cpu.or(sum.cpu);
        if figures.memory.is_none() {
            figures.memory = sum.memory;
            figures.swap = sum.swap;
        }
        figures
    }

    fn add(&mut self, other: Self) {
        if let Some(cpu) = other.cpu {
            let sum = self.cpu.get_or_insert_default();
            sum.time = sum.time.max(cpu.time);
            add(&mut sum.usage_nano_cores, cpu.usage_nano_cores);
            add(&mut sum.usage_core_nano_seconds, cpu.usage_core_nano_seconds);
        }
        if let Some(memory) = other.memory {
            let sum = self.memory.get_or_insert_default();
            sum.time = sum.time.max(memory.time);
            add(&mut sum.available_bytes, memory.available_bytes);
            add(&mut sum.usage_bytes, memory.usage_bytes);
            add(&mut sum.working_set_bytes, memory.working_set_bytes);
            add(&mut sum.rss_bytes, memory.rss_bytes);
            add(&mut sum.page_faults, memory.page_faults);
            add(&mut sum.major_page_faults, memory.major_page_faults);
        }
        if let Some(swap) = other.swap {
            let sum = self.swap.get_or_insert_default();
            sum.time = sum.time.max(swap.time);
            add(&mut sum.swap_available_bytes, swap.swap_available_bytes);
            add(&mut sum.swap_usage_bytes, swap.swap_usage_bytes);
        }
    }
}

/// Adds what is known to what is known.
pub(super) fn add(sum: &mut Option<u64>, part: Option<u64>) {
    if let Some(part) = part {
        *sum = Some(sum.unwrap_or_default().saturating_add(part));
    }
}
