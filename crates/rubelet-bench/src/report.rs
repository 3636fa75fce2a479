//! The words of the result: a table for people, JSON for programs. Pure; what was measured comes in.
//!
//! Every row has a key that stays the same between versions. Called by `main` at the end, and by the control plane's part
//! for its own rows.

use rubelet_linux::facts::MachineFacts;
use serde_json::{Value, json};

use crate::numbers::{Spread, quantile};
use crate::plan::{Adoption, Measured, Pair};
use crate::procfs::Idle;

/// One number with its spread.
struct Row {
    key: String,
    words: String,
    unit: &'static str,
    spread: Spread,
    /// What the project aims at; the number should not be greater.
    aim: Option<f64>,
}

/// Rows that belong together.
pub(crate) struct Section {
    title: String,
    rows: Vec<Row>,
}

/// The result.
pub(crate) struct Report {
    conditions: Vec<(&'static str, String)>,
    sections: Vec<Section>,
}

impl Section {
    /// A section without rows.
    pub(crate) fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), rows: vec![] }
    }

    /// Adds a row; one without a value is left out.
    pub(crate) fn row(
        mut self,
        key: &str,
        words: impl Into<String>,
        unit: &'static str,
        spread: Option<Spread>,
        aim: Option<f64>,
    ) -> Self {
        if let Some(spread) = spread {
            self.rows.push(Row { key: key.to_owned(), words: words.into(), unit, spread, aim });
        }
        self
    }
}

impl Report {
    /// A report of these sections.
    pub(crate) fn new(conditions: Vec<(&'static str, String)>, sections: Vec<Section>) -> Self {
        Self { conditions, sections }
    }

    /// The report of a measurement against the floor.
    pub(crate) fn of(measured: &Measured, conditions: Vec<(&'static str, String)>) -> Self {
        let pods = measured.size.pods;
        Self {
            conditions,
            sections: vec![
                pair_section("one_pod", "one pod", 1.0, "ms", &measured.one, &[]),
                pair_section(
                    "many_pods",
                    &format!("{pods} pods"),
                    pods as f64,
                    "s",
                    &measured.many,
                    &measured.other_floors,
                ),
                idle_section(
                    "idle_empty",
                    "idle without pods".to_owned(),
                    measured.idle_empty.as_ref(),
                    None,
                ),
                idle_section(
                    "idle_many",
                    format!("idle with {pods} pods"),
                    measured.idle_many.as_ref(),
                    Some(AGENT_MEMORY),
                ),
                idle_section(
                    "idle_adopted",
                    format!("idle with {pods} pods after a restart of the agent"),
                    measured.adoption.as_ref().and_then(|adoption| adoption.idle.as_ref()),
                    Some(AGENT_MEMORY),
                ),
                agent_section(measured),
            ],
        }
    }

    /// For people.
    pub(crate) fn to_text(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.conditions {
            text += &format!("{name}: {value}\n");
        }
        for section in self.sections.iter().filter(|section| !section.rows.is_empty()) {
            text += &format!("\n{:<64} {:>10} {:>10} {:>10}\n", section.title, "median", "min", "max");
            for row in &section.rows {
                let Spread { median, min, max, runs } = row.spread;
                let digits = match row.unit {
                    "ms" if median < 100.0 => 1,
                    "ms" | "KiB" | "" => 0,
                    _ => 2,
                };
                text += &format!("  {:<62} {median:>10.digits$}", row.words);
                match runs {
                    1 => text += &format!(" {:>10} {:>10}", "", ""),
                    _ => text += &format!(" {min:>10.digits$} {max:>10.digits$}"),
                }
                text += &format!(" {}", row.unit);
                if let Some(aim) = row.aim {
                    text += &format!(" (aim: at most {aim})");
                }
                text.truncate(text.trim_end().len());
                text.push('\n');
            }
        }
        text
    }

    /// For programs: every row under its key.
    pub(crate) fn to_json(&self) -> Value {
        let conditions: serde_json::Map<String, Value> =
            self.conditions.iter().map(|(name, value)| (name.replace(' ', "_"), json!(value))).collect();
        let rows: serde_json::Map<String, Value> = self
            .sections
            .iter()
            .flat_map(|section| &section.rows)
            .map(|row| {
                let Spread { median, min, max, runs } = row.spread;
                let value = json!({"unit": row.unit, "median": median, "min": min, "max": max, "runs": runs, "aim": row.aim});
                (row.key.clone(), value)
            })
            .collect();
        json!({"conditions": conditions, "rows": rows})
    }
}

/// The runtime and the machine, and what else it was doing: its load before every run.
pub(crate) fn conditions(
    runtime: String,
    machine: &MachineFacts,
    loads: &[f64],
) -> Vec<(&'static str, String)> {
    let load = Spread::of(loads.iter().copied()).map_or_else(
        || "unknown".to_owned(),
        |load| format!("{:.1} to {:.1}, median {:.1}", load.min, load.max, load.median),
    );
    let machine = format!(
        "{} CPUs, {} MiB memory, Linux {}, cgroup v{}",
        machine.cpus,
        machine.memory / (1 << 20),
        machine.kernel_release,
        if machine.cgroup_v2 { 2 } else { 1 }
    );
    vec![("runtime", runtime), ("machine", machine), ("load of the machine before the runs", load)]
}

/// Agent against floor. `unit` is `s` or `ms`.
fn pair_section(
    key: &str,
    title: &str,
    pods: f64,
    unit: &'static str,
    pairs: &[Pair],
    other_floors: &[(usize, Vec<f64>)],
) -> Section {
    let scale = if unit == "ms" { 1000.0 } else { 1.0 };
    let of = |value: &dyn Fn(&Pair) -> f64| pairs.iter().map(value).collect::<Vec<f64>>();
    let times = |value: &dyn Fn(&Pair) -> f64| Spread::of(pairs.iter().map(|pair| value(pair) * scale));
    let ratio = |above: &dyn Fn(&Pair) -> f64, below: &dyn Fn(&Pair) -> f64| {
        Spread::of_ratios(&of(above), &of(below))
    };
    let floor = |pair: &Pair| pair.floor.total;
    let agent = |pair: &Pair| pair.agent.total;
    let floor_head = |pair: &Pair| pair.floor_sandbox_at - pair.floor.began_at;
    let agent_head = |pair: &Pair| pair.agent_sandbox_at - pair.agent.began_at;
    let floor_tail = |pair: &Pair| floor(pair) - floor_head(pair);
    let agent_tail = |pair: &Pair| agent(pair) - agent_head(pair);
    let many = pods > 1.0;
    let at_once = if many { ", all at once" } else { "" };
    let name = |part: &str| format!("{key}.{part}");
    let mut section = Section::new(title)
        .row(&name("floor"), format!("floor: first call to last answer{at_once}"), unit, times(&floor), None)
        .row(&name("agent"), "agent: manifests in place to all Running and Ready", unit, times(&agent), None)
        .row(&name("ratio"), "agent / floor", "x", ratio(&agent, &floor), Some(1.1))
        .row(
            &name("floor_head"),
            "floor: first call to first sandbox created",
            unit,
            times(&floor_head),
            None,
        )
        .row(
            &name("agent_head"),
            "agent: manifests in place to first sandbox created",
            unit,
            times(&agent_head),
            None,
        )
        .row(
            &name("floor_tail"),
            "floor: first sandbox created to last answer",
            unit,
            times(&floor_tail),
            None,
        )
        .row(
            &name("agent_tail"),
            "agent: first sandbox created to all Running and Ready",
            unit,
            times(&agent_tail),
            None,
        )
        .row(
            &name("tail_ratio"),
            "agent / floor, from the first sandbox on",
            "x",
            ratio(&agent_tail, &floor_tail),
            None,
        );
    if many {
        let middle = |each: &[f64]| quantile(each, 0.5).unwrap_or_default();
        let (floor_each, agent_each) =
            (|pair: &Pair| middle(&pair.floor.each), |pair: &Pair| middle(&pair.agent.each));
        section = section
            .row(&name("floor_median_pod"), "floor: half of the pods started", unit, times(&floor_each), None)
            .row(
                &name("agent_median_pod"),
                "agent: half of the pods Running and Ready",
                unit,
                times(&agent_each),
                None,
            );
    }
    for (at_once, totals) in other_floors {
        section = section.row(
            &format!("{key}.floor_at_{at_once}"),
            format!("for comparison, floor: {at_once} at once"),
            unit,
            Spread::of(totals.iter().map(|total| total * scale)),
            None,
        );
    }
    let cpu = Spread::of(pairs.iter().map(|pair| pair.agent_cpu * 1000.0 / pods));
    section.row(
        &name("agent_cpu"),
        "agent: CPU time for each pod until ready, polling included",
        "ms",
        cpu,
        None,
    )
}

/// What the agent alone may take with many pods, MiB.
pub(crate) const AGENT_MEMORY: f64 = 12.0;

/// A process at rest; empty when it was not watched. Aims, of which `aim_rss` is in MiB, are for one with many pods.
pub(crate) fn idle_section(key: &str, title: String, idle: Option<&Idle>, aim_rss: Option<f64>) -> Section {
    let section = Section::new(title);
    let Some(idle) = idle else { return section };
    let single = |value: f64| Spread::of([value]);
    let mib = |kib: u64| single(kib as f64 / 1024.0);
    let name = |part: &str| format!("{key}.{part}");
    let memory = idle.memory;
    section
        .row(&name("rss"), "memory: RSS", "MiB", mib(memory.rss_kib), aim_rss)
        .row(&name("pss"), "memory: PSS", "MiB", mib(memory.pss_kib), None)
        .row(&name("rss_anon"), "memory: RssAnon (heap and stacks)", "MiB", mib(memory.rss_anon_kib), None)
        .row(&name("peak"), "memory: greatest RSS so far", "MiB", mib(memory.peak_kib), None)
        .row(
            &name("cpu"),
            format!("CPU over {:.0} s", idle.seconds),
            "% of a core",
            single(idle.cpu_percent),
            aim_rss.map(|_| 0.5),
        )
        .row(&name("wakeups"), "wake-ups a second, all threads", "/s", single(idle.wakeups_per_second), None)
        .row(&name("threads"), "threads", "", single(idle.threads as f64), None)
}

fn agent_section(measured: &Measured) -> Section {
    let starts = Spread::of(measured.starts.iter().map(|start| start * 1000.0));
    let pods = measured.size.pods;
    let adoption =
        |value: fn(&Adoption) -> f64| Spread::of(measured.adoption.iter().map(|a| value(a) * 1000.0));
    let mib = measured.binary_bytes as f64 / f64::from(1 << 20);
    Section::new("the agent")
        .row("agent.binary", "size of the binary", "MiB", Spread::of([mib]), Some(20.0))
        .row("agent.start", "start to first healthz", "ms", starts, None)
        .row(
            "agent.start_among_pods",
            format!("start among {pods} running pods to first healthz"),
            "ms",
            adoption(|a| a.start_to_healthz),
            None,
        )
        .row(
            "agent.adoption",
            format!("start among {pods} running pods to all of them Ready in /pods"),
            "ms",
            adoption(|a| a.start_to_ready),
            None,
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            conditions: vec![("runtime", "containerd 2".to_owned())],
            sections: vec![
                Section::new("one pod")
                    .row("one.ratio", "agent / floor", "x", Spread::of([1.0, 2.0, 4.0]), Some(1.1))
                    .row("one.none", "never measured", "x", None, None)
                    .row("one.size", "size", "MiB", Spread::of([3.0]), None),
            ],
        }
    }

    #[test]
    fn a_row_shows_its_spread_and_a_single_value_only_itself() {
        let text = report().to_text();
        let words = |part: &str| -> Vec<String> {
            let line = text.lines().find(|line| line.contains(part)).unwrap();
            line.split_whitespace().map(str::to_owned).collect()
        };
        assert_eq!(words("agent / floor")[3..], ["2.00", "1.00", "4.00", "x", "(aim:", "at", "most", "1.1)"]);
        assert_eq!(words("size"), ["size", "3.00", "MiB"]);
        assert!(!text.contains("never measured"));
    }

    #[test]
    fn json_has_every_row_by_its_key() {
        let json = report().to_json();
        assert_eq!(json["rows"]["one.ratio"]["median"], 2.0);
        assert_eq!(json["rows"]["one.ratio"]["aim"], 1.1);
        assert_eq!(json["conditions"]["runtime"], "containerd 2");
        assert_eq!(json["rows"].as_object().unwrap().len(), 2);
    }
}
