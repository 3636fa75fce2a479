//! The words of the volumes' result. Pure; what was measured comes in. Called by the plan of this part at its end.

use super::{Handed, Measured, Starts};
use crate::numbers::{Spread, quantile};
use crate::report::{Report, Section};

/// What volumes may add to a start beyond their mounts, ms.
const AIM_EXTRA: f64 = 5.0;
/// How late a change may be seen, ms.
const AIM_CHANGE: f64 = 1000.0;

/// The report of a measurement under these conditions.
pub(super) fn report(measured: &Measured, mut conditions: Vec<(&'static str, String)>) -> Report {
    let refused = match measured.refused.as_slice() {
        [] => "none".to_owned(),
        some => some.join("; "),
    };
    conditions.push(("requests that no node may make", refused));
    let mut sections: Vec<Section> = measured.starts.iter().map(start_section).collect();
    sections.push(change_section(measured));
    sections.push(group_section(measured.files, &measured.groups));
    Report::new(conditions, sections)
}

fn start_section(starts: &Starts) -> Section {
    let key = |part: &str| format!("volumes_{}.{part}", starts.eight.key());
    let ms = |value: &dyn Fn((f64, f64), f64) -> f64| {
        Spread::of(starts.runs.iter().zip(&starts.bare).map(|(run, bare)| value(*run, *bare) * 1000.0))
    };
    let extra: Vec<f64> = starts.runs.iter().map(|(without, with)| with - without).collect();
    Section::new(format!("eight volumes {}, scripted runtime", starts.eight.words()))
        .row(&key("bare"), "floor: the bare directories, mounts and files", "ms", ms(&|_, bare| bare), None)
        .row(&key("without"), "agent: bound to Ready without volumes", "ms", ms(&|run, _| run.0), None)
        .row(&key("with"), "agent: bound to Ready with eight", "ms", ms(&|run, _| run.1), None)
        .row(
            &key("beyond"),
            "agent: what eight add, beyond the floor",
            "ms",
            ms(&|run, bare| run.1 - run.0 - bare),
            Some(AIM_EXTRA),
        )
        .row(
            &key("ratio"),
            "agent: what eight add / floor",
            "x",
            Spread::of_ratios(&extra, &starts.bare),
            None,
        )
}

fn change_section(measured: &Measured) -> Section {
    let spread = |times: &[f64]| Spread::of(times.iter().map(|time| time * 1000.0));
    let p99 = |times: &[f64]| {
        let mut sorted = times.to_vec();
        sorted.sort_by(f64::total_cmp);
        quantile(&sorted, 0.99).and_then(|time| Spread::of([time * 1000.0]))
    };
    let ratio = || {
        let middle = |times: &[f64]| Spread::of(times.iter().copied()).map(|spread| spread.median);
        Spread::of([middle(&measured.changes)? / middle(&measured.bare_changes)?])
    };
    Section::new("a ConfigMap changes")
        .row(
            "volumes_change.bare",
            "floor: writing and swapping the same files",
            "ms",
            spread(&measured.bare_changes),
            None,
        )
        .row("volumes_change.one", "changed to file, one pod", "ms", spread(&measured.changes), None)
        .row(
            "volumes_change.one_p99",
            "changed to file, one pod: 99 of 100",
            "ms",
            p99(&measured.changes),
            Some(AIM_CHANGE),
        )
        .row("volumes_change.ratio", "changed to file, one pod / floor", "x", ratio(), None)
        .row(
            "volumes_change.many",
            format!("changed to the last file of {} pods", measured.pods),
            "ms",
            spread(&measured.changes_of_many),
            Some(AIM_CHANGE),
        )
}

fn group_section(files: usize, groups: &[Handed]) -> Section {
    let ms = |value: fn(&Handed) -> f64| Spread::of(groups.iter().map(|handed| value(handed) * 1000.0));
    let each = |value: fn(&Handed) -> f64| groups.iter().map(value).collect::<Vec<f64>>();
    let ratio =
        |above: fn(&Handed) -> f64, below: fn(&Handed) -> f64| Spread::of_ratios(&each(above), &each(below));
    Section::new(format!("{files} files for an fsGroup"))
        .row("volumes_group.chown", "floor: chown -R", "ms", ms(|h| h.chown), None)
        .row("volumes_group.chmod", "floor: chown -R and chmod -R", "ms", ms(|h| h.chmod), None)
        .row("volumes_group.change", "agent: another group", "ms", ms(|h| h.change), None)
        .row("volumes_group.ratio", "agent / chown -R", "x", ratio(|h| h.change, |h| h.chown), Some(1.0))
        .row(
            "volumes_group.ratio_both",
            "agent / chown -R and chmod -R",
            "x",
            ratio(|h| h.change, |h| h.chmod),
            None,
        )
        .row("volumes_group.again", "agent: the same group again", "ms", ms(|h| h.again), None)
        .row("volumes_group.again_ratio", "the same / chown -R", "x", ratio(|h| h.again, |h| h.chown), None)
        .row(
            "volumes_group.root",
            "agent: the same again, OnRootMismatch",
            "ms",
            ms(|h| h.on_root_mismatch),
            None,
        )
}

#[cfg(test)]
mod tests {
    use super::super::objects::Eight;
    use super::*;

    #[test]
    fn what_is_told_is_beyond_the_floor() {
        let starts = Starts { eight: Eight::OfTheNode, runs: vec![(0.010, 0.016)], bare: vec![0.002] };
        let handed = Handed { chown: 2.0, chmod: 3.0, change: 1.0, again: 0.5, on_root_mismatch: 0.01 };
        let measured = Measured {
            starts: vec![starts],
            changes: vec![0.004],
            bare_changes: vec![0.001],
            groups: vec![handed],
            ..Measured::default()
        };
        let json = report(&measured, vec![]).to_json();
        let near = |key: &str, wanted: f64| {
            let found = json["rows"][key]["median"].as_f64().unwrap();
            assert!((found - wanted).abs() < 1e-6, "{key}: {found}");
        };
        near("volumes_node.beyond", 4.0);
        near("volumes_node.ratio", 3.0);
        near("volumes_change.one_p99", 4.0);
        near("volumes_change.ratio", 4.0);
        near("volumes_group.ratio", 0.5);
        assert!(json["rows"]["volumes_change.many"].is_null());
    }
}
