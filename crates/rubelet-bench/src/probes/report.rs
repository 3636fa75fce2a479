//! The words of the probes' result. Pure; what was measured comes in.
//!
//! Called by the plan of this part at its end. Rows and their printing are those of the benchmark's report.

use super::rotation::{LIMIT, Rotated};
use super::{Cost, Kind, Measured, Punctual, Real, Round};
use crate::numbers::Spread;
use crate::procfs::Idle;
use crate::report::{Report, Section, idle_section};

/// What CPU time for HTTP and TCP may be of that of the bare exchanges.
const RATIO: f64 = 2.0;
/// Commands a second in the report that is compared with: 100 pods, one every 10 s and one every 30 s in each.
const REPORTED_RATE: f64 = 100.0 / 10.0 + 100.0 / 30.0;
/// What somebody else reported of another machine.
const REPORTED: &str = "kubernetes#82440, September 2019, a node of unknown size: 100 pods with exec probes of /bin/true \
     every 10 s and every 30 s took its idle CPU from 93 % to 60 %";

/// The report of a measurement under these conditions.
pub(super) fn report(measured: &Measured, mut conditions: Vec<(&'static str, String)>) -> Report {
    conditions.push(("for comparison, not measured here", REPORTED.to_owned()));
    let pods = measured.pods;
    let rest = measured.idle.as_ref();
    let mut sections = vec![costs_section(&measured.costs, pods, rest)];
    sections.extend(measured.real.as_ref().map(real_section));
    for punctual in &measured.lateness {
        sections.push(lateness_section(punctual, pods));
    }
    let title = format!("idle with {pods} pods without probes");
    sections.push(idle_section("probes_idle_none", title, rest, None));
    let title = format!("idle with {pods} pods of three probes, each every 10 s");
    sections.push(idle_section("probes_idle_three", title, measured.three.as_ref(), None));
    for rotated in &measured.rotated {
        sections.push(rotation_section(rotated));
    }
    Report::new(conditions, sections)
}

fn single(value: f64) -> Option<Spread> {
    Spread::of([value])
}

fn name_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Http => "HTTP",
        Kind::Https => "HTTPS",
        Kind::Tcp => "TCP",
        Kind::Grpc => "gRPC",
        Kind::Exec => "exec (scripted runtime)",
    }
}

/// CPU milliseconds for 1,000 probes; of none, none.
fn for_a_thousand((count, cpu): (u64, f64)) -> f64 {
    if count == 0 { 0.0 } else { cpu.max(0.0) * 1e6 / count as f64 }
}

/// The agent's side of an interval without what it does at rest.
fn of_probes(round: &Round, rest: Option<&Idle>) -> (u64, f64) {
    let at_rest = rest.map_or(0.0, |idle| idle.cpu_percent / 100.0 * round.seconds);
    (round.agent.0, round.agent.1 - at_rest)
}

fn costs_section(costs: &[Cost], pods: usize, rest: Option<&Idle>) -> Section {
    let mut section = Section::new(format!("CPU for 1,000 probes, {pods} pods with one a second each"));
    for cost in costs {
        let name = |part: &str| format!("probes_{}.{part}", cost.kind.key());
        let kind = name_of(cost.kind);
        let agent: Vec<f64> =
            cost.rounds.iter().map(|round| for_a_thousand(of_probes(round, rest))).collect();
        let floor: Vec<f64> = cost.rounds.iter().map(|round| for_a_thousand(round.floor)).collect();
        let rate = cost.rounds.iter().map(|round| round.agent.0 as f64 / round.seconds);
        let aim = matches!(cost.kind, Kind::Http | Kind::Tcp).then_some(RATIO);
        section = section
            .row(&name("agent"), format!("{kind}: agent"), "ms", Spread::of(agent.iter().copied()), None)
            .row(&name("floor"), "… floor: bare exchanges", "ms", Spread::of(floor.iter().copied()), None)
            .row(&name("ratio"), "… agent / floor", "x", Spread::of_ratios(&agent, &floor), aim)
            .row(&name("rate"), "… probes a second that came", "/s", Spread::of(rate), None);
    }
    section
}

fn real_section(real: &Real) -> Section {
    let name = |part: &str| format!("probes_real_exec.{part}");
    let (count, agent_cpu, runtime_cpu) = real.agent;
    let agent = for_a_thousand((count, agent_cpu)) / 1e3;
    let runtime = for_a_thousand((count, runtime_cpu)) / 1e3;
    let floor = for_a_thousand(real.floor) / 1e3;
    let ratio = Spread::of_ratios(&[agent + runtime], &[floor]);
    let as_reported = |seconds: f64| single(seconds / 1e3 * REPORTED_RATE * 100.0);
    Section::new("CPU for 1,000 exec probes of the real runtime")
        .row(&name("agent"), "agent, with what it does at rest", "s", single(agent), None)
        .row(&name("runtime"), "runtime, shims, commands, asked by the agent", "s", single(runtime), None)
        .row(&name("floor"), "floor: the same, asked by bare ExecSync calls", "s", single(floor), None)
        .row(&name("ratio"), "agent and runtime / floor", "x", ratio, None)
        .row(&name("made"), "commands of probes", "", single(count as f64), None)
        .row(&name("made_floor"), "commands of the floor", "", single(real.floor.0 as f64), None)
        .row(
            &name("reported_agent"),
            format!("computed for {REPORTED_RATE:.1} commands a second: agent"),
            "% of a core",
            as_reported(agent),
            None,
        )
        .row(&name("reported_all"), "… agent and runtime", "% of a core", as_reported(agent + runtime), None)
}

fn lateness_section(punctual: &Punctual, pods: usize) -> Section {
    let (key, among) = match punctual.beset {
        false => ("probes_late", ""),
        true => ("probes_late_beset", ", among two that hang"),
    };
    let name = |part: &str| format!("{key}.{part}");
    let mut section = Section::new(format!("lateness, {pods} HTTP probes a second{among}"));
    for (side, lateness) in [("agent", punctual.agent), ("floor", punctual.floor)] {
        let Some(lateness) = lateness else { continue };
        let ms = |seconds: f64| single(seconds * 1000.0);
        let row = |part: &str| name(&format!("{side}_{part}"));
        section = section
            .row(&row("p50"), format!("{side}: of half of the probes at most"), "ms", ms(lateness.p50), None)
            .row(&row("p99"), "… of 99 in 100", "ms", ms(lateness.p99), None)
            .row(&row("max"), "… of all", "ms", ms(lateness.max), None)
            .row(&row("came"), "… probes that came", "", single(lateness.came as f64), None)
            .row(&row("missed"), "… probes that did not come", "", single(lateness.missed as f64), None);
    }
    section
}

fn rotation_section(rotated: &Rotated) -> Section {
    let Rotated { rate, bytes, seconds, largest, rotations, compressed, cpu } = *rotated;
    let key = if rate.is_some() { "steady" } else { "fast" };
    let name = |part: &str| format!("probes_rotation_{key}.{part}");
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    let gib = mib(bytes as f64) / 1024.0;
    let over = mib(largest.saturating_sub(LIMIT) as f64);
    let pace = mib(bytes as f64) / seconds.max(f64::MIN_POSITIVE);
    Section::new(format!("rotation of a log that is written {}", super::words_of(rate)))
        .row(&name("written"), "written", "GiB", single(gib), None)
        .row(&name("pace"), "… a second", "MiB", single(pace), None)
        .row(&name("rotations"), "rotations", "", single(rotations as f64), None)
        .row(&name("files"), "files at the end", "", single(compressed.1 as f64), None)
        .row(&name("compressed"), "… of them compressed", "", single(compressed.0 as f64), None)
        .row(&name("cpu"), "CPU of the agent for a GiB", "s", single(cpu / gib.max(f64::MIN_POSITIVE)), None)
        .row(
            &name("over"),
            format!("largest file beyond its limit of {} MiB", LIMIT >> 20),
            "MiB",
            single(over),
            None,
        )
        .row(
            &name("over_seconds"),
            "… in time of writing",
            "ms",
            single(over / pace.max(f64::MIN_POSITIVE) * 1000.0),
            None,
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_probes_cost_what_each_does_without_the_agents_rest() {
        let idle = Idle {
            seconds: 60.0,
            cpu_percent: 1.0,
            wakeups_per_second: 1.0,
            threads: 3,
            memory: Default::default(),
        };
        let round = Round { seconds: 10.0, agent: (1000, 0.3), floor: (1000, 0.1) };
        assert!((for_a_thousand(of_probes(&round, Some(&idle))) - 200.0).abs() < 1e-6);
        assert!((for_a_thousand(round.floor) - 100.0).abs() < 1e-6);
        assert_eq!(for_a_thousand((0, 1.0)), 0.0);
    }

    #[test]
    fn every_row_has_a_key_of_its_own() {
        let lateness = super::super::Lateness { p50: 0.001, p99: 0.002, max: 0.003, came: 5, missed: 0 };
        let punctual = |beset| Punctual { beset, agent: Some(lateness), floor: Some(lateness) };
        let rotated = |rate| Rotated {
            rate,
            bytes: 1 << 30,
            seconds: 10.0,
            largest: 11 << 20,
            rotations: 9,
            compressed: (3, 5),
            cpu: 0.1,
        };
        let round = Round { seconds: 10.0, agent: (1000, 0.3), floor: (1000, 0.1) };
        let measured = Measured {
            pods: 10,
            costs: Kind::ALL.map(|kind| Cost { kind, rounds: vec![round] }).into(),
            lateness: vec![punctual(false), punctual(true)],
            real: Some(Real { agent: (240, 1.0, 10.0), floor: (240, 10.0) }),
            rotated: vec![rotated(Some(2 << 20)), rotated(None)],
            ..Measured::default()
        };
        let report = report(&measured, vec![]).to_json();
        let rows = report["rows"].as_object().unwrap();
        assert_eq!(rows.len(), 5 * 4 + 8 + 2 * 10 + 2 * 8);
        let ratio = rows["probes_http.ratio"]["median"].as_f64().unwrap();
        assert!((ratio - 3.0).abs() < 1e-9, "{ratio}");
    }
}
