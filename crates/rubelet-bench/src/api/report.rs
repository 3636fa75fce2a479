//! The words of the control plane's result. Pure; what was measured comes in.
//!
//! Called by the plan of this part at its end. Rows and their printing are those of the benchmark's report.

use std::collections::{BTreeMap, BTreeSet};

use super::moments::Moment;
use super::requests::Tally;
use super::{Measured, NodeStart, Run};
use crate::numbers::{Spread, quantile};
use crate::report::{AGENT_MEMORY, Report, Section, idle_section};

/// The report of a measurement under these conditions.
pub(super) fn report(measured: &Measured, mut conditions: Vec<(&'static str, String)>) -> Report {
    let refused = match measured.refused.as_slice() {
        [] => "none".to_owned(),
        some => some.join("; "),
    };
    conditions.push(("requests that no node may make", refused));
    let pods = measured.size.pods;
    let mut sections = vec![
        node_section(&measured.fresh, &measured.known),
        pods_section("api_one_pod", "one pod", "ms", &measured.one),
        request_section("api_one_pod_requests", "one pod: requests", &measured.one),
        pods_section("api_many_pods", &format!("{pods} pods at once"), "s", &measured.many),
        request_section(
            "api_many_pods_requests",
            &format!("{pods} pods at once: requests for each pod"),
            &measured.many,
        ),
        moment_section("api_in_turn", &format!("{pods} pods one after the other"), &measured.in_turn),
        moment_section(
            "api_at_once",
            &format!("{pods} pods at once, telling when they run"),
            &measured.at_once,
        ),
    ];
    let idles = [
        ("api_idle_empty", "idle in a cluster without pods".to_owned(), &measured.idle_empty, None),
        (
            "api_idle_many",
            format!("idle in a cluster with {pods} pods"),
            &measured.idle_many,
            Some(AGENT_MEMORY),
        ),
    ];
    for (key, title, idle, aims) in idles {
        let section = idle_section(key, title, idle.as_ref().map(|(idle, _)| idle), aims);
        sections.push(match idle {
            Some((idle, tally)) => minute(section, key, tally, idle.seconds / 60.0),
            None => section,
        });
    }
    Report::new(conditions, sections)
}

fn node_section(fresh: &[NodeStart], known: &[NodeStart]) -> Section {
    let time = |starts: &[NodeStart]| Spread::of(starts.iter().map(|start| start.ready * 1000.0));
    let section = Section::new("the node")
        .row("api_node.fresh", "start to Ready=True in the API, new node", "ms", time(fresh), Some(600.0))
        .row("api_node.known", "start to Ready=True in the API, known node", "ms", time(known), Some(600.0));
    let counted = |starts: &[NodeStart]| -> Vec<(Tally, usize)> {
        starts.iter().map(|start| (start.requests.clone(), 1)).collect()
    };
    let section = tallies(section, "api_node.new", "new node, until Ready", &counted(fresh));
    tallies(section, "api_node.old", "known node, until Ready", &counted(known))
}

/// How long pods take. `unit` is `s` or `ms`.
fn pods_section(key: &str, title: &str, unit: &'static str, runs: &[Run]) -> Section {
    let scale = if unit == "ms" { 1000.0 } else { 1.0 };
    let times = |value: &dyn Fn(&Run) -> f64| Spread::of(runs.iter().map(|run| value(run) * scale));
    let name = |part: &str| format!("{key}.{part}");
    let (ready, gone) = (|run: &Run| last(&run.ready), |run: &Run| last(&run.gone));
    let half = |times: &[f64]| quantile(times, 0.5).unwrap_or_default();
    let (half_ready, half_gone) = (|run: &Run| half(&run.ready), |run: &Run| half(&run.gone));
    let values = |value: &dyn Fn(&Run) -> f64| runs.iter().map(value).collect::<Vec<f64>>();
    let ratio = Spread::of_ratios(&values(&ready), &values(&|run| run.floor));
    let each = |value: &dyn Fn(&Run) -> f64| {
        Spread::of(runs.iter().map(|run| value(run) * 1000.0 / run.ready.len().max(1) as f64))
    };
    let many = runs.iter().any(|run| run.ready.len() > 1);
    let only_many = |spread: Option<Spread>| spread.filter(|_| many);
    Section::new(title)
        .row(&name("floor"), "floor: first call to last answer", unit, times(&|run| run.floor), None)
        .row(&name("ready"), "bound to Running and Ready in the API", unit, times(&ready), None)
        .row(&name("ratio"), "bound to Ready / floor", "x", ratio, None)
        .row(
            &name("half_ready"),
            "bound to half of the pods Ready",
            unit,
            only_many(times(&half_ready)),
            None,
        )
        .row(&name("gone"), "deleted to gone from the API", unit, times(&gone), None)
        .row(&name("half_gone"), "deleted to half of the pods gone", unit, only_many(times(&half_gone)), None)
        .row(&name("cpu"), "CPU time for each pod, start", "ms", each(&|run| run.cpu), None)
        .row(&name("end_cpu"), "CPU time for each pod, end", "ms", each(&|run| run.end_cpu), None)
}

fn request_section(key: &str, title: &str, runs: &[Run]) -> Section {
    let writes = runs.iter().flat_map(|run| run.writes.iter().map(|count| *count as f64));
    let section = Section::new(title).row(
        &format!("{key}.status_writes"),
        "status writes of a pod until Ready",
        "writes",
        Spread::of(writes),
        Some(4.0),
    );
    let starts: Vec<(Tally, usize)> = runs.iter().map(|run| (run.start.clone(), run.ready.len())).collect();
    let ends: Vec<(Tally, usize)> = runs.iter().map(|run| (run.end.clone(), run.gone.len())).collect();
    let section = tallies(section, &format!("{key}.start"), "start", &starts);
    tallies(section, &format!("{key}.end"), "end", &ends)
}

/// Rows of what was asked, for each of the pods: all, by kind, bytes.
fn tallies(section: Section, key: &str, phase: &str, runs: &[(Tally, usize)]) -> Section {
    let each = |value: &dyn Fn(&Tally) -> Option<f64>| {
        Spread::of(runs.iter().filter_map(|(tally, pods)| Some(value(tally)? / (*pods).max(1) as f64)))
    };
    let mut section = section.row(
        &format!("{key}.all"),
        format!("{phase}: all requests"),
        "requests",
        each(&|tally| Some(tally.total() as f64)),
        None,
    );
    let kinds: BTreeSet<&String> = runs.iter().flat_map(|(tally, _)| tally.by_kind.keys()).collect();
    for kind in kinds {
        let count = each(&|tally| Some(tally.by_kind.get(kind).copied().unwrap_or_default() as f64));
        section = section.row(
            &format!("{key}.{}", word(kind)),
            format!("{phase}:   {kind}"),
            "requests",
            count,
            None,
        );
    }
    let failed = each(&|tally| Some(tally.failed as f64)).filter(|spread| spread.max > 0.0);
    section
        .row(&format!("{key}.failed"), format!("{phase}: answered with an error"), "requests", failed, None)
        .row(
            &format!("{key}.bytes"),
            format!("{phase}: bodies of requests and answers"),
            "KiB",
            each(&|tally| Some(tally.bytes as f64 / 1024.0)),
            None,
        )
        .row(
            &format!("{key}.wire"),
            format!("{phase}: on the connections, watches and TLS included"),
            "KiB",
            each(&|tally| Some(tally.wire? as f64 / 1024.0)),
            None,
        )
}

/// Rows of what an agent at rest asks in a minute.
fn minute(section: Section, key: &str, tally: &Tally, minutes: f64) -> Section {
    let each = |count: f64| Spread::of([count / minutes.max(f64::MIN_POSITIVE)]);
    let counts: BTreeMap<&String, f64> =
        tally.by_kind.iter().map(|(kind, count)| (kind, *count as f64)).collect();
    let mut section = section.row(
        &format!("{key}.requests"),
        "a minute: all requests",
        "requests",
        each(tally.total() as f64),
        None,
    );
    for (kind, count) in counts {
        let key = format!("{key}.{}", word(kind));
        section = section.row(&key, format!("a minute:   {kind}"), "requests", each(count), None);
    }
    let wire = tally.wire.and_then(|bytes| each(bytes as f64 / 1024.0));
    section
        .row(
            &format!("{key}.bytes"),
            "a minute: bodies of requests and answers",
            "KiB",
            each(tally.bytes as f64 / 1024.0),
            None,
        )
        .row(
            &format!("{key}.wire"),
            "a minute: on the connections, watches and TLS included",
            "KiB",
            wire,
            None,
        )
}

/// How late the API knows that a container runs.
fn moment_section(key: &str, title: &str, moments: &[Moment]) -> Section {
    let late = |value: fn(&Moment) -> f64| {
        let mut times: Vec<f64> = moments.iter().map(|moment| value(moment) * 1000.0).collect();
        times.sort_by(f64::total_cmp);
        times
    };
    let facts: [(&str, &str, Vec<f64>, Option<f64>); 3] = [
        (
            "started",
            "started (the runtime's word) to Ready in the API",
            late(|m| m.ready - m.started),
            Some(20.0),
        ),
        ("acted", "the container's first act to Ready in the API", late(|m| m.ready - m.acted), None),
        (
            "runtime",
            "the container's first act to started (the runtime's share)",
            late(|m| m.started - m.acted),
            None,
        ),
    ];
    let mut section = Section::new(title);
    for (part, words, times, aim) in facts {
        let (p50, p99) = (format!("{key}.{part}"), format!("{key}.{part}_p99"));
        let high = quantile(&times, 0.99).and_then(|time| Spread::of([time]));
        section = section.row(&p50, words, "ms", Spread::of(times), aim).row(
            &p99,
            "… 99 of 100 within",
            "ms",
            high,
            None,
        );
    }
    section
}

fn last(times: &[f64]) -> f64 {
    times.last().copied().unwrap_or_default()
}

/// A kind of request as a part of a key.
fn word(kind: &str) -> String {
    kind.replace([' ', '/'], "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(kinds: &[(&str, usize)]) -> Tally {
        let by_kind = kinds.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect();
        Tally { by_kind, bytes: 2048, wire: None, failed: 0 }
    }

    #[test]
    fn requests_are_shared_out_over_the_pods() {
        let run = Run {
            floor: 1.0,
            ready: vec![1.0, 2.0],
            cpu: 0.02,
            start: tally(&[("patch pods/status", 6), ("create events", 1)]),
            writes: vec![3, 3],
            gone: vec![0.5, 0.5],
            end_cpu: 0.0,
            end: tally(&[("delete pods", 2)]),
        };
        let section = request_section("r", "requests", &[run]);
        let json = Report::new(vec![], vec![section]).to_json();
        let median = |key: &str| json["rows"][key]["median"].as_f64();
        assert_eq!(median("r.start.all"), Some(3.5));
        assert_eq!(median("r.start.patch_pods_status"), Some(3.0));
        assert_eq!(median("r.end.delete_pods"), Some(1.0));
        assert_eq!(median("r.status_writes"), Some(3.0));
        assert_eq!(median("r.start.wire"), None);
    }

    #[test]
    fn a_short_look_is_told_for_a_minute() {
        let section = minute(Section::new("idle"), "i", &tally(&[("update leases", 2)]), 0.5);
        let json = Report::new(vec![], vec![section]).to_json();
        assert_eq!(json["rows"]["i.update_leases"]["median"], 4.0);
        assert_eq!(json["rows"]["i.bytes"]["median"], 4.0);
    }

    #[test]
    fn what_was_not_measured_is_not_told() {
        assert_eq!(
            Report::new(vec![], vec![moment_section("m", "moments", &[])]).to_json()["rows"],
            serde_json::json!({})
        );
    }
}
