//! `/metrics/resource`: CPU, memory and swap of node, pods and containers, which metrics-server scrapes.
//!
//! Called by the server. The figures are those of `/stats/summary` with only CPU and memory, as upstream's
//! `resourceMetricsCollector` takes them from there; samples have the time of their reading. `scrape_error`, the old
//! name of `resource_scrape_error`, is not told: upstream 1.36 hides it, deprecated since 1.29.

use super::exposition::{Exposition, Kind, Labels, Value};
use super::summary::figures::Figures;
use super::summary::types::Time;
use super::told;
use super::usage::NodeUsage;

/// A figure of a subject, and when it was read.
type Figure = fn(&Subject) -> Option<(Value, Time)>;

/// Node, pod or container: its labels and what is known of it.
struct Subject {
    labels: Labels,
    figures: Figures,
    /// When it started, microseconds since the epoch; for containers.
    started: Option<i64>,
}

/// Writes the families in the order of their names.
pub fn write(usage: &NodeUsage, document: &mut Exposition) {
    let mut pods = Vec::new();
    let mut containers = Vec::new();
    for pod in told::pods(usage) {
        for container in &pod.containers {
            containers.push(Subject {
                labels: Labels::new(&[
                    ("container", &container.name),
                    ("namespace", pod.namespace),
                    ("pod", pod.name),
                ]),
                figures: Figures::of(container.group.as_ref()),
                started: container.started_at.map(|at| at.as_microsecond()),
            });
        }
        let labels = Labels::new(&[("namespace", pod.namespace), ("pod", pod.name)]);
        pods.push(Subject { labels, figures: Figures::of_pod(&pod), started: None });
    }
    let node = [Subject { labels: Labels::default(), figures: Figures::of_node(usage), started: None }];
    let mut family = |name: &str, help: &str, kind: Kind, subjects: &[Subject], figure: Figure| {
        document.family(name, help, kind);
        for subject in subjects {
            if let Some((value, time)) = figure(subject) {
                document.sample_of(&subject.labels, &[], value, time.milliseconds());
            }
        }
    };
    let (gauge, counter) = (Kind::Gauge, Kind::Counter);
    let help = "[STABLE] CPU time the container has used since it started, in seconds";
    family("container_cpu_usage_seconds_total", help, counter, &containers, cpu);
    let help = "[STABLE] Memory of the container that cannot simply be taken back, in bytes";
    family("container_memory_working_set_bytes", help, gauge, &containers, working_set);
    let help = "[STABLE] When the container started, in seconds since the epoch";
    family("container_start_time_seconds", help, gauge, &containers, started);
    let help = "[ALPHA] The most swap the container may use, in bytes";
    family("container_swap_limit_bytes", help, gauge, &containers, swap_limit);
    let help = "[ALPHA] Swap the container uses, in bytes";
    family("container_swap_usage_bytes", help, gauge, &containers, swap);
    let help = "[STABLE] CPU time the node has used since it started, in seconds";
    family("node_cpu_usage_seconds_total", help, counter, &node, cpu);
    let help = "[STABLE] Memory of the node that cannot simply be taken back, in bytes";
    family("node_memory_working_set_bytes", help, gauge, &node, working_set);
    let help = "[ALPHA] Swap the node uses, in bytes";
    family("node_swap_usage_bytes", help, gauge, &node, swap);
    let help = "[STABLE] CPU time the pod has used since it started, in seconds";
    family("pod_cpu_usage_seconds_total", help, counter, &pods, cpu);
    let help = "[STABLE] Memory of the pod that cannot simply be taken back, in bytes";
    family("pod_memory_working_set_bytes", help, gauge, &pods, working_set);
    let help = "[ALPHA] Swap the pod uses, in bytes";
    family("pod_swap_usage_bytes", help, gauge, &pods, swap);
    let help = "[STABLE] 1 when something could not be read, otherwise 0";
    document.family("resource_scrape_error", help, gauge);
    document.sample("resource_scrape_error", &[], !usage.problems.is_empty(), None);
}

fn cpu(subject: &Subject) -> Option<(Value, Time)> {
    let cpu = subject.figures.cpu.as_ref()?;
    Some((Value::nanoseconds(cpu.usage_core_nano_seconds?), cpu.time))
}

fn working_set(subject: &Subject) -> Option<(Value, Time)> {
    let memory = subject.figures.memory.as_ref()?;
    Some((memory.working_set_bytes?.into(), memory.time))
}

fn swap(subject: &Subject) -> Option<(Value, Time)> {
    let swap = subject.figures.swap.as_ref()?;
    Some((swap.swap_usage_bytes?.into(), swap.time))
}

fn swap_limit(subject: &Subject) -> Option<(Value, Time)> {
    let swap = subject.figures.swap.as_ref()?;
    let limit = swap.swap_available_bytes?.saturating_add(swap.swap_usage_bytes.unwrap_or_default());
    Some((limit.into(), swap.time))
}

/// Without a time: it is not a reading. Nanoseconds would not fit into the value.
fn started(subject: &Subject) -> Option<(Value, Time)> {
    let microseconds = u64::try_from(subject.started?).ok().filter(|at| *at >= 1_000_000)?;
    Some((Value::microseconds(microseconds), Time::default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::fixtures::{before, container, full_group, pod};
    use crate::stats::usage::{GroupUsage, MemoryUsage, PodUsage};

    fn written(usage: &NodeUsage) -> String {
        let mut document = Exposition::new();
        write(usage, &mut document);
        document.into_string()
    }

    #[test]
    fn a_small_node_in_full() {
        let pod = PodUsage {
            group: Some(full_group("/kubepods/web", 4)),
            containers: vec![container("app", Some(full_group("/kubepods/web/app", 3)))],
            ..pod("web", "shop")
        };
        let usage = NodeUsage {
            root: full_group("/", 1000),
            swap: Some((500_000, 0)),
            pods: vec![pod],
            ..NodeUsage::default()
        };
        let expected = r#"# HELP container_cpu_usage_seconds_total [STABLE] CPU time the container has used since it started, in seconds
# TYPE container_cpu_usage_seconds_total counter
container_cpu_usage_seconds_total{container="app",namespace="shop",pod="web"} 4.5 1700000000250
# HELP container_memory_working_set_bytes [STABLE] Memory of the container that cannot simply be taken back, in bytes
# TYPE container_memory_working_set_bytes gauge
container_memory_working_set_bytes{container="app",namespace="shop",pod="web"} 9216 1700000000250
# HELP container_start_time_seconds [STABLE] When the container started, in seconds since the epoch
# TYPE container_start_time_seconds gauge
container_start_time_seconds{container="app",namespace="shop",pod="web"} 1.69999995025e+09
# HELP container_swap_limit_bytes [ALPHA] The most swap the container may use, in bytes
# TYPE container_swap_limit_bytes gauge
container_swap_limit_bytes{container="app",namespace="shop",pod="web"} 600 1700000000250
# HELP container_swap_usage_bytes [ALPHA] Swap the container uses, in bytes
# TYPE container_swap_usage_bytes gauge
container_swap_usage_bytes{container="app",namespace="shop",pod="web"} 300 1700000000250
# HELP node_cpu_usage_seconds_total [STABLE] CPU time the node has used since it started, in seconds
# TYPE node_cpu_usage_seconds_total counter
node_cpu_usage_seconds_total 1500 1700000000250
# HELP node_memory_working_set_bytes [STABLE] Memory of the node that cannot simply be taken back, in bytes
# TYPE node_memory_working_set_bytes gauge
node_memory_working_set_bytes 3.072e+06 1700000000250
# HELP node_swap_usage_bytes [ALPHA] Swap the node uses, in bytes
# TYPE node_swap_usage_bytes gauge
node_swap_usage_bytes 500000 1700000000250
# HELP pod_cpu_usage_seconds_total [STABLE] CPU time the pod has used since it started, in seconds
# TYPE pod_cpu_usage_seconds_total counter
pod_cpu_usage_seconds_total{namespace="shop",pod="web"} 6 1700000000250
# HELP pod_memory_working_set_bytes [STABLE] Memory of the pod that cannot simply be taken back, in bytes
# TYPE pod_memory_working_set_bytes gauge
pod_memory_working_set_bytes{namespace="shop",pod="web"} 12288 1700000000250
# HELP pod_swap_usage_bytes [ALPHA] Swap the pod uses, in bytes
# TYPE pod_swap_usage_bytes gauge
pod_swap_usage_bytes{namespace="shop",pod="web"} 400 1700000000250
# HELP resource_scrape_error [STABLE] 1 when something could not be read, otherwise 0
# TYPE resource_scrape_error gauge
resource_scrape_error 0
"#;
        assert_eq!(written(&usage), expected);
    }

    #[test]
    fn a_container_that_could_not_be_read_has_its_start_alone() {
        let mut pod = pod("web", "shop");
        let swapless = MemoryUsage { working_set: 7, ..MemoryUsage::default() };
        let swapless = GroupUsage { memory: Some(swapless), ..GroupUsage::default() };
        pod.containers = vec![container("app", None), container("side", Some(swapless))];
        pod.containers[1].started_at = None;
        pod.containers[0].started_at = Some(before(1_700_000_000));
        let usage = NodeUsage { pods: vec![pod], ..NodeUsage::default() };
        let samples: Vec<String> =
            written(&usage).lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
        assert_eq!(
            samples,
            [
                r#"container_memory_working_set_bytes{container="side",namespace="shop",pod="web"} 7"#,
                r#"pod_memory_working_set_bytes{namespace="shop",pod="web"} 7"#,
                "resource_scrape_error 0",
            ],
            "a start at the epoch is none"
        );
    }
}
