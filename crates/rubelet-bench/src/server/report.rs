//! The words of the kubelet API's result. Pure; what was measured comes in.
//!
//! Called by the plan of this part at its end. Rows and their printing are those of the benchmark's report.

use super::client::Protocol;
use super::followers::{Delivery, Followed, Slow};
use super::scrapes::{DOCUMENTS, FLOOR, OF_THE_RUNTIME, Scraped};
use super::{Measured, Scrapes};
use crate::numbers::Spread;
use crate::procfs::Memory;
use crate::report::{Report, Section};

/// CPU time of a scrape at 100 pods, ms.
const SCRAPE: f64 = 10.0;
/// What the whole of `rubelet local` may take with 100 pods, MiB.
const LOCAL_MEMORY: f64 = 30.0;

/// The report of a measurement under these conditions.
pub(super) fn report(measured: &Measured, conditions: Vec<(&'static str, String)>) -> Report {
    let mut sections = vec![];
    for followed in &measured.followed {
        sections.push(followed_section(followed, &measured.sockets));
    }
    for slow in &measured.slow {
        sections.push(slow_section(slow));
    }
    sections.extend(exec_section(measured));
    sections.extend(sessions_section(measured));
    for scrapes in &measured.scrapes {
        sections.push(scrapes_section(scrapes));
    }
    sections.extend(local_section(measured));
    Report::new(conditions, sections)
}

fn single(value: f64) -> Option<Spread> {
    Spread::of([value])
}

fn mib(memory: Memory) -> Option<Spread> {
    single(memory.rss_kib as f64 / 1024.0)
}

/// How much more is in memory than before, KiB.
fn more(now: Memory, before: Memory) -> f64 {
    now.rss_kib as f64 - before.rss_kib as f64
}

fn key_of(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http1 => "http1",
        Protocol::Http2 => "http2",
    }
}

fn followed_section(followed: &Followed, sockets: &[Delivery]) -> Section {
    let Followed { protocol, logs, followers, .. } = *followed;
    let what = if logs == 1 { "one" } else { "many" };
    let name = |part: &str| format!("server_followers_{}_{what}.{part}", key_of(protocol));
    let each = |memory: Memory| single(more(memory, followed.before) / followers.max(1) as f64);
    let times = |value: fn(&Delivery) -> f64| {
        Spread::of(followed.deliveries.iter().map(|delivery| value(delivery) * 1000.0))
    };
    let last = |deliveries: &[Delivery]| deliveries.iter().map(|delivery| delivery.last).collect::<Vec<_>>();
    let floor = Spread::of(last(sockets).into_iter().map(|last| last * 1000.0));
    let ratio = Spread::of_ratios(&last(&followed.deliveries), &last(sockets));
    let idle = followed.idle.as_ref();
    let of_logs = if logs == 1 { "one log".to_owned() } else { format!("{logs} logs") };
    Section::new(format!("{followers} followers of {of_logs}, {}", protocol.name()))
        .row(&name("opened"), "first request to the last answer", "s", single(followed.opened), None)
        .row(&name("before"), "memory: RSS before", "MiB", mib(followed.before), None)
        .row(&name("with"), "memory: RSS with all", "MiB", mib(followed.with), None)
        .row(&name("each"), "memory: RSS for each follower", "KiB", each(followed.with), None)
        .row(&name("each_written"), "… after the lines", "KiB", each(followed.written), None)
        .row(&name("after"), "memory: RSS when all have gone", "MiB", mib(followed.after), None)
        .row(
            &name("cpu"),
            format!("CPU at rest, over {:.0} s", idle.map_or(0.0, |idle| idle.seconds)),
            "% of a core",
            idle.and_then(|idle| single(idle.cpu_percent)),
            Some(0.5),
        )
        .row(
            &name("wakeups"),
            "wake-ups a second at rest, all threads",
            "/s",
            idle.and_then(|idle| single(idle.wakeups_per_second)),
            None,
        )
        .row(&name("half"), "line written to half of them having it", "ms", times(|d| d.half), None)
        .row(&name("last"), "line written to the last having it", "ms", times(|d| d.last), None)
        .row(&name("floor"), "floor: to as many plain sockets, the last", "ms", floor, None)
        .row(&name("ratio"), "the last / floor", "x", ratio, None)
        .row(
            &name("cpu_of_a_line"),
            "CPU time for a line of 1000 followers",
            "ms",
            single(followed.cpu_of_a_line * 1e6),
            None,
        )
}

fn slow_section(slow: &Slow) -> Section {
    let name = |part: &str| format!("server_slow_{}.{part}", key_of(slow.protocol));
    let (readers, bytes) = (slow.readers, |bytes: u64| bytes as f64 / f64::from(1 << 20));
    let peak = slow.with.peak_kib as f64;
    let kept = (peak - slow.before.rss_kib as f64) / readers.max(1) as f64;
    Section::new(format!("{readers} readers that never read, {}", slow.protocol.name()))
        .row(&name("written"), "written to the log", "MiB", single(bytes(slow.written)), None)
        .row(&name("speed"), "… a second", "MiB", single(bytes(slow.written) / slow.seconds), None)
        .row(
            &name("read"),
            "read meanwhile by one that reads, a second",
            "MiB",
            single(bytes(slow.read) / slow.seconds),
            None,
        )
        .row(&name("before"), "memory: RSS before", "MiB", mib(slow.before), None)
        .row(&name("peak"), "memory: greatest RSS", "MiB", single(peak / 1024.0), None)
        .row(&name("each"), "… for each reader", "KiB", single(kept), None)
        .row(&name("with"), "memory: RSS at the end of the writing", "MiB", mib(slow.with), None)
        .row(&name("after"), "memory: RSS when all have gone", "MiB", mib(slow.after), None)
}

fn exec_section(measured: &Measured) -> Option<Section> {
    let execs = measured.execs.as_ref()?;
    let name = |part: &str| format!("server_exec.{part}");
    let ms = |times: &[f64]| Spread::of(times.iter().map(|time| time * 1000.0));
    let ratio = Spread::of_ratios;
    let section = Section::new("a command (true), there and back")
        .row(&name("sync"), "floor: CRI ExecSync", "ms", ms(&execs.sync), None)
        .row(
            &name("raw_socket"),
            "floor: CRI Exec and its URL, WebSocket v4",
            "ms",
            ms(&execs.raw_socket),
            None,
        )
        .row(&name("raw_spdy"), "floor: CRI Exec and its URL, SPDY", "ms", ms(&execs.raw_spdy), None)
        .row(&name("socket4"), "/exec, WebSocket v4", "ms", ms(&execs.socket4), None)
        .row(&name("socket5"), "/exec, WebSocket v5", "ms", ms(&execs.socket5), None)
        .row(&name("spdy"), "/exec, SPDY", "ms", ms(&execs.spdy), None)
        .row(
            &name("socket4_ratio"),
            "WebSocket v4 / floor of the same",
            "x",
            ratio(&execs.socket4, &execs.raw_socket),
            None,
        )
        .row(
            &name("socket5_ratio"),
            "WebSocket v5 / floor of v4",
            "x",
            ratio(&execs.socket5, &execs.raw_socket),
            None,
        )
        .row(&name("spdy_ratio"), "SPDY / floor of the same", "x", ratio(&execs.spdy, &execs.raw_spdy), None)
        .row(
            &name("socket5_sync_ratio"),
            "WebSocket v5 / ExecSync",
            "x",
            ratio(&execs.socket5, &execs.sync),
            None,
        )
        .row(&name("cpu"), "CPU time of the agent for each", "ms", single(execs.cpu * 1000.0), None);
    Some(section)
}

fn sessions_section(measured: &Measured) -> Option<Section> {
    let sessions = measured.sessions.as_ref()?;
    let name = |part: &str| format!("server_sessions.{part}");
    let count = sessions.count;
    let growth = more(sessions.after, sessions.warm) / count.max(1) as f64 * 1024.0;
    let section = Section::new(format!("{count} commands through /exec, four at a time"))
        .row(&name("rate"), "commands a second", "/s", single(count as f64 / sessions.seconds), None)
        .row(&name("before"), "memory: RSS before", "MiB", mib(sessions.before), None)
        .row(&name("warm"), "memory: RSS after a tenth as many before them", "MiB", mib(sessions.warm), None)
        .row(&name("after"), "memory: RSS after all", "MiB", mib(sessions.after), None)
        .row(&name("later"), "memory: RSS 40 s later", "MiB", mib(sessions.later), None)
        .row(&name("growth"), "growth for each command", "bytes", single(growth), None)
        .row(&name("files_before"), "descriptors before", "", single(sessions.files.0 as f64), None)
        .row(&name("files"), "descriptors 40 s later", "", single(sessions.files.1 as f64), None);
    Some(section)
}

fn scrapes_section(scrapes: &Scrapes) -> Section {
    let Scrapes { real, pods, .. } = *scrapes;
    let world = if real { "" } else { "_scripted" };
    let name = |document: &str, part: &str| format!("server_scrape{world}_{pods}.{document}_{part}");
    let wall = |scraped: &Scraped| Spread::of(scraped.wall.iter().map(|wall| wall * 1000.0));
    let cpu = |scraped: &Scraped| single(scraped.cpu * 1000.0);
    let of = if real { "of the runtime" } else { "of the scripted runtime" };
    let aim = (pods == 100).then_some(SCRAPE);
    let mut section = Section::new(format!("scrapes with {pods} pods {of}"))
        .row(&name(FLOOR.key, "wall"), "floor: GET /healthz", "ms", wall(&scrapes.floor), None)
        .row(&name(FLOOR.key, "cpu"), "… CPU time", "ms", cpu(&scrapes.floor), None);
    for (document, scraped) in DOCUMENTS.iter().zip(&scrapes.documents) {
        let compressed = if document.encoding.is_some() { ", compressed" } else { "" };
        let ratio = Spread::of_ratios(&scraped.wall, &scrapes.floor.wall);
        let kib = single(scraped.bytes as f64 / 1024.0);
        section = section
            .row(
                &name(document.key, "wall"),
                format!("{}{compressed}", document.path),
                "ms",
                wall(scraped),
                None,
            )
            .row(&name(document.key, "ratio"), "… / floor", "x", ratio, None)
            .row(&name(document.key, "cpu"), "… CPU time", "ms", cpu(scraped), aim)
            .row(&name(document.key, "size"), "… size", "KiB", kib, None);
    }
    for (index, scraped) in OF_THE_RUNTIME.iter().zip(&scrapes.with_runtime) {
        let document = &DOCUMENTS[*index];
        let words = format!("{}, every 15 s, the runtime asked too", document.path);
        section = section.row(&name(document.key, "runtime_wall"), words, "ms", wall(scraped), None).row(
            &name(document.key, "runtime_cpu"),
            "… CPU time",
            "ms",
            cpu(scraped),
            aim,
        );
    }
    let later = scrapes.later.and_then(mib);
    section
        .row(
            &name("agent", "cpu"),
            "CPU without scrapes, taken off above",
            "% of a core",
            single(scrapes.at_rest * 100.0),
            None,
        )
        .row(&name("agent", "before"), "memory: RSS before", "MiB", mib(scrapes.before), None)
        .row(&name("agent", "after"), "memory: RSS after", "MiB", mib(scrapes.after), None)
        .row(&name("agent", "later"), "memory: RSS 40 s later", "MiB", later, None)
}

fn local_section(measured: &Measured) -> Option<Section> {
    let (before, after) = measured.local?;
    let pods = measured.size.pods;
    let aim = (pods == 100).then_some(LOCAL_MEMORY);
    let section = Section::new(format!("rubelet local with {pods} pods, scraped through its API"))
        .row("server_local.before", "memory: RSS before", "MiB", mib(before), aim)
        .row("server_local.after", "memory: RSS after", "MiB", mib(after), aim);
    Some(section)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_follower_takes_is_the_difference_shared_out() {
        let memory = |rss_kib| Memory { rss_kib, ..Memory::default() };
        let delivery = |last| Delivery { half: last / 2.0, last };
        let followed = Followed {
            protocol: Protocol::Http2,
            logs: 1,
            followers: 100,
            opened: 0.5,
            before: memory(10_000),
            with: memory(12_000),
            idle: None,
            deliveries: vec![delivery(0.04), delivery(0.02)],
            cpu_of_a_line: 0.000_01,
            written: memory(13_000),
            after: memory(9_000),
        };
        let section = followed_section(&followed, &[delivery(0.01), delivery(0.01)]);
        let json = Report::new(vec![], vec![section]).to_json();
        let row = |part: &str| json["rows"][format!("server_followers_http2_one.{part}")]["median"].as_f64();
        let rows = [row("each"), row("each_written"), row("last"), row("ratio"), row("cpu")];
        let wanted = [Some(20.0), Some(30.0), Some(30.0), Some(3.0), None];
        for (row, wanted) in rows.iter().zip(wanted) {
            assert!(row.zip(wanted).is_none_or(|(row, wanted)| (row - wanted).abs() < 1e-6), "{rows:?}");
            assert_eq!(row.is_some(), wanted.is_some(), "{rows:?}");
        }
        assert_eq!(row("cpu_of_a_line").map(f64::round), Some(10.0), "ms for a line of 1000");
    }
}
