//! The words of the local API's result. Pure; what was measured comes in.
//!
//! Called by the plan of this part at its end. Rows and their printing are those of the benchmark's report.

use super::objects::{Lists, Objects, WATCHERS};
use super::server::Start;
use super::{Measured, Run};
use crate::numbers::{Spread, quantile};
use crate::report::{Report, Section, idle_section};

/// What the whole process may take with 100 pods, MiB.
const MEMORY: f64 = 30.0;
/// "Well under a second", ms.
const START: f64 = 500.0;

/// The report of a measurement under these conditions.
pub(super) fn report(measured: &Measured, conditions: Vec<(&'static str, String)>) -> Report {
    let mut sections =
        vec![start_section(measured), pods_section("local_one_pod", "one pod", "ms", &measured.one)];
    for (count, runs) in &measured.many {
        let key = format!("local_{count}_pods");
        sections.push(pods_section(&key, &format!("{count} pods at once"), "s", runs));
    }
    for (count, idle) in &measured.idle {
        let (key, title) = (format!("local_idle_{count}"), format!("idle with {count} pods, API and agent"));
        let aim = (*count == measured.size.pods).then_some(MEMORY);
        sections.push(idle_section(&key, title, Some(idle), aim));
    }
    if let Some(objects) = &measured.objects {
        sections.push(writes_section(objects));
        sections.push(lists_section(objects));
        sections.push(one_section(objects));
        let title = format!("idle with {} objects, started among them", objects.count);
        sections.push(idle_section("local_idle_objects", title, measured.idle_filled.as_ref(), None));
    }
    Report::new(conditions, sections)
}

fn start_section(measured: &Measured) -> Section {
    let api = |starts: &[Start]| Spread::of(starts.iter().map(|start| start.api * 1000.0));
    let node = |starts: &[Start]| Spread::of(starts.iter().map(|start| start.node * 1000.0));
    let mib = measured.binary_bytes as f64 / f64::from(1 << 20);
    let count = measured.objects.as_ref().map_or(0, |objects| objects.count);
    Section::new("start")
        .row("local.binary", "size of the binary", "MiB", Spread::of([mib]), Some(20.0))
        .row(
            "local_start.fresh",
            "start to /readyz with the written kubeconfig, no data",
            "ms",
            api(&measured.fresh),
            Some(START),
        )
        .row(
            "local_start.fresh_node",
            "start to Ready=True of the Node, no data",
            "ms",
            node(&measured.fresh),
            None,
        )
        .row("local_start.known", "start to /readyz, started before", "ms", api(&measured.known), Some(START))
        .row(
            "local_start.known_node",
            "start to Ready=True of the Node, started before",
            "ms",
            node(&measured.known),
            None,
        )
        .row(
            "local_start.filled",
            format!("start to /readyz among {count} objects"),
            "ms",
            api(&measured.filled),
            Some(START),
        )
        .row(
            "local_start.filled_node",
            format!("start to Ready=True of the Node among {count} objects"),
            "ms",
            node(&measured.filled),
            None,
        )
}

fn last(times: &[f64]) -> f64 {
    times.last().copied().unwrap_or_default()
}

/// How long pods take. `unit` is `s` or `ms`.
fn pods_section(key: &str, title: &str, unit: &'static str, runs: &[Run]) -> Section {
    let scale = if unit == "ms" { 1000.0 } else { 1.0 };
    let times = |value: &dyn Fn(&Run) -> f64| Spread::of(runs.iter().map(|run| value(run) * scale));
    let name = |part: &str| format!("{key}.{part}");
    let values = |value: &dyn Fn(&Run) -> f64| runs.iter().map(value).collect::<Vec<f64>>();
    let floors = values(&|run| run.floor);
    let ratio = |value: &dyn Fn(&Run) -> f64| Spread::of_ratios(&values(value), &floors);
    let (running, ready) = (|run: &Run| last(&run.came.running), |run: &Run| last(&run.came.ready));
    let half = |times: &[f64]| quantile(times, 0.5).unwrap_or_default();
    let each = |value: &dyn Fn(&Run) -> f64| {
        Spread::of(runs.iter().map(|run| value(run) * 1000.0 / run.came.ready.len().max(1) as f64))
    };
    let many = runs.iter().any(|run| run.came.ready.len() > 1);
    let only_many = |spread: Option<Spread>| spread.filter(|_| many);
    Section::new(title)
        .row(&name("floor"), "floor: first call to last answer", unit, times(&|run| run.floor), None)
        .row(&name("running"), "created to Running, told by a watch", unit, times(&running), None)
        .row(&name("ready"), "created to Running and Ready, told by a watch", unit, times(&ready), None)
        .row(&name("running_ratio"), "created to Running / floor", "x", ratio(&running), None)
        .row(&name("ratio"), "created to Ready / floor", "x", ratio(&ready), None)
        .row(
            &name("half_ready"),
            "created to half of the pods Ready",
            unit,
            only_many(times(&|run| half(&run.came.ready))),
            None,
        )
        .row(&name("gone"), "deleted to gone, told by a watch", unit, times(&|run| last(&run.gone)), None)
        .row(&name("cpu"), "CPU time for each pod, API and agent, start", "ms", each(&|run| run.cpu), None)
        .row(
            &name("gone_cpu"),
            "CPU time for each pod, API and agent, end",
            "ms",
            each(&|run| run.gone_cpu),
            None,
        )
}

fn ms(times: &[f64]) -> Option<Spread> {
    Spread::of(times.iter().map(|time| time * 1000.0))
}

/// How many times as long the median of one is as that of the other.
fn times_as_long(above: &[f64], below: &[f64]) -> Option<Spread> {
    let (above, below) = (Spread::of(above.iter().copied())?, Spread::of(below.iter().copied())?);
    Spread::of([above.median / below.median].into_iter().filter(|ratio| ratio.is_finite()))
}

fn writes_section(objects: &Objects) -> Section {
    let mib = objects.store_bytes as f64 / f64::from(1 << 20);
    Section::new(format!("{} objects of 5 KiB: written", objects.count))
        .row("local_write.sync", "reference: 4 KiB on the same disk, synced", "ms", ms(&objects.sync), None)
        .row("local_write.single", "created one after the other", "ms", ms(&objects.created), None)
        .row(
            "local_write.single_ratio",
            "created one after the other / synced (medians)",
            "x",
            times_as_long(&objects.created, &objects.sync),
            None,
        )
        .row("local_write.at_once", "created 32 at once", "/s", Spread::of([objects.at_once]), None)
        .row(
            "local_write.cpu",
            "CPU time for each of them",
            "ms",
            Spread::of([objects.at_once_cpu * 1000.0]),
            None,
        )
        .row("local_write.store", "the store's folder afterwards", "MiB", Spread::of([mib]), None)
}

fn lists_section(objects: &Objects) -> Section {
    let mut section = Section::new(format!("{} objects of 5 KiB: read", objects.count));
    let rows: [(&str, &str, &Lists); 4] = [
        ("whole", "listed whole", &objects.whole),
        ("pages", "listed by pages of 500", &objects.pages),
        ("selected", "listed by a label that 1 in 100 has", &objects.selected),
        ("watched", "told by a watch with initial events", &objects.watched),
    ];
    for (key, words, lists) in rows {
        let name = |part: &str| format!("local_list.{key}{part}");
        let single = |value: f64| Spread::of([value]);
        section = section
            .row(&name(""), words, "ms", ms(&lists.seconds), None)
            .row(&name(".cpu"), "… CPU time", "ms", single(lists.cpu * 1000.0), None)
            .row(&name(".bytes"), "… bytes", "MiB", single(lists.bytes as f64 / f64::from(1 << 20)), None)
            .row(&name(".peak"), "… greatest RSS", "MiB", single(lists.peak_kib as f64 / 1024.0), None);
    }
    section
}

fn one_section(objects: &Objects) -> Section {
    let title = format!("one of {} objects of 5 KiB", objects.count);
    let mut section = Section::new(title)
        .row(
            "local_one.bare",
            "reference: GET /livez over the same connection",
            "ms",
            ms(&objects.bare),
            None,
        )
        .row("local_one.sync", "reference: 4 KiB on the same disk, synced", "ms", ms(&objects.sync), None);
    for (key, words, times) in &objects.asked {
        section = section.row(&format!("local_one.{key}"), *words, "ms", ms(times), None);
    }
    section
        .row("local_one.told", "PUT sent to a watch having told of it", "ms", ms(&objects.told), None)
        .row(
            "local_one.told_to_all",
            format!("PUT sent to the last of {WATCHERS} watches having told of it"),
            "ms",
            ms(&objects.told_to_all),
            None,
        )
        .row(
            "local_one.watch_memory",
            "RSS for each watch with a connection of its own",
            "KiB",
            Spread::of([objects.watch_kib]),
            None,
        )
}
