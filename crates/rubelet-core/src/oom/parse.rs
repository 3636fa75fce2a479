//! From records of `/dev/kmsg` to kills, over the wordings of all kernels since 3.10.
//!
//! A report is many records. What begins one says `invoked oom-killer:`; kernels before 5.0 then tell the groups
//! (`Task in A killed as a result of limit of B`), later ones tell group and victim in one (`oom-kill:constraint=…`);
//! what counts is the record of the kill itself (`Killed process 1 (a)`): before 5.2 the victim may be a child of the
//! chosen process. With `memory.oom.group` more kills follow. The kernel leaves the report out, not the kill, when there
//! are more than ten in five seconds: then the group is not known and is not guessed.
//!
//! Records of programs (anyone who may write to `/dev/kmsg`) are not looked at.

use std::time::Duration;

use super::{Constraint, OomKill};

/// Longest time between a report and its kill.
const REPORT_AGE: Duration = Duration::from_secs(10);
/// Longest time between the announcement of a group's end and a kill in it.
const GROUP_AGE: Duration = Duration::from_secs(1);
/// Longest line that is put together of fragments.
const LINE_LIMIT: usize = 8192;

/// Reads records one after another.
#[derive(Debug, Default)]
pub struct OomParser {
    report: Option<Report>,
    /// The last line that could go on in the next record.
    line: String,
}

/// What was told of a kill before it.
#[derive(Debug, Default)]
struct Report {
    since: Duration,
    constraint: Option<Constraint>,
    oom_memcg: Option<String>,
    task_memcg: Option<String>,
    /// The chosen process, by the newer kernels.
    pid: Option<i32>,
    /// A child may be killed in its place.
    sacrifices_child: bool,
    /// Who was killed by it.
    victim: Option<i32>,
    /// The whole group `task_memcg` is killed, since then.
    group_since: Option<Duration>,
    limit: Option<u64>,
    shmem: Option<u64>,
}

impl OomParser {
    /// Takes one record as it was read, any bytes; the kill it completes, if it does.
    pub fn record(&mut self, raw: &[u8]) -> Option<OomKill> {
        let record = Record::parse(raw)?;
        if !record.of_kernel {
            return None;
        }
        // Fragments of a line are marked, but not which is the first of them.
        if record.fragment && !starts_line(record.text) {
            if self.line.is_empty() || self.line.len() + record.text.len() > LINE_LIMIT {
                return None;
            }
            self.line.push_str(record.text);
            let line = std::mem::take(&mut self.line);
            let kill = self.line(&line, record.at);
            self.line = line;
            return kill;
        }
        self.line.clear();
        if record.text.starts_with("Task") || record.text.starts_with("oom-kill:") {
            self.line.push_str(record.text);
        }
        self.line(record.text, record.at)
    }

    /// Records were lost: what follows does not belong to what was before.
    pub fn lost(&mut self) {
        *self = Self::default();
    }

    fn line(&mut self, line: &str, at: Duration) -> Option<OomKill> {
        if line.contains(" invoked oom-killer:") {
            self.report = Some(Report { since: at, ..Report::default() });
        } else if let Some(facts) = line.strip_prefix("oom-kill:constraint=") {
            self.chosen(facts, at);
        } else if let Some((task, oom)) = between(line, "Task in ", " killed as a result of limit of ") {
            let report = self.fresh(at);
            report.constraint = Some(Constraint::Memcg);
            report.task_memcg = group(task);
            report.oom_memcg = group(oom);
        } else if let Some((task, _)) =
            between(line, "Tasks in ", " are going to be killed due to memory.oom.group set")
        {
            let report = self.following(at);
            report.task_memcg = group(task);
            report.group_since = Some(at);
        } else if let Some((_, limit)) = between(line, "memory: usage ", ", limit ") {
            let bytes = limit.split_once("kB").and_then(|(number, _)| number.parse::<u64>().ok());
            if let Some(report) = self.open_report(at) {
                report.limit = bytes.and_then(|kib| kib.checked_mul(1024));
            }
        } else if let Some(bytes) = line.strip_prefix("shmem ") {
            if let Some(report) = self.open_report(at) {
                report.shmem = bytes.trim().parse().ok();
            }
        } else if line.contains("ill") {
            return self.kill(line, at);
        }
        None
    }

    /// `oom-kill:constraint=…` tells everything; names and groups may hold commas and whatever looks like a key.
    fn chosen(&mut self, facts: &str, at: Duration) {
        let Some((constraint, facts)) = facts.split_once(',') else { return };
        let Some((before, uid)) = facts.rsplit_once(",uid=") else { return };
        let Some((before, pid)) = before.rsplit_once(",pid=") else { return };
        let (Ok(pid), true) = (pid.parse(), uid.trim_end().parse::<u32>().is_ok()) else { return };
        let Some((groups, _process)) = before.split_once(",task=") else { return };
        let (oom, task) = match groups.split_once(",task_memcg=") {
            Some((oom, task)) => (oom, Some(task)),
            None => (groups, None),
        };
        let report = self.fresh(at);
        report.constraint = Some(match constraint {
            "CONSTRAINT_MEMCG" => Constraint::Memcg,
            "CONSTRAINT_CPUSET" => Constraint::Cpuset,
            "CONSTRAINT_MEMORY_POLICY" => Constraint::MemoryPolicy,
            _ => Constraint::Node,
        });
        report.oom_memcg = oom.split_once(",oom_memcg=").and_then(|(_, path)| group(path));
        report.task_memcg = task.and_then(group);
        report.pid = Some(pid);
    }

    /// `[message: ]Killed process 1 (a) total-vm:…`, and what older kernels say before it.
    fn kill(&mut self, line: &str, at: Duration) -> Option<OomKill> {
        let memcg = line.starts_with("Memory cgroup out of memory");
        let of_oom = memcg || line.starts_with("Out of memory");
        let found = line.split_once("Kill process ").filter(|_| of_oom);
        if found.is_some() {
            let report = self.fresh(at);
            report.sacrifices_child = line.ends_with("or sacrifice child");
            if memcg {
                report.constraint = Some(Constraint::Memcg);
            }
            return None;
        }
        let (before, after) = line.split_once("Killed process ")?;
        if !(of_oom || before.is_empty()) {
            return None;
        }
        let (pid, process) = victim(after)?;
        let by_message = match (of_oom, memcg) {
            (true, true) => Some(Constraint::Memcg),
            (true, false) => Some(Constraint::Node),
            (false, _) => None,
        };
        let Some(report) = self.report_of(pid, at) else {
            // The report was left out. A kill that does not even say what ran out may be anything.
            let constraint = by_message?;
            return Some(OomKill {
                process,
                pid,
                task_memcg: None,
                oom_memcg: None,
                constraint,
                limit: None,
                shmem: None,
                at,
            });
        };
        if report.victim == Some(pid) {
            return None; // It is told again as a member of its group.
        }
        report.victim.get_or_insert(pid);
        Some(OomKill {
            process,
            pid,
            task_memcg: report.task_memcg.clone(),
            oom_memcg: report.oom_memcg.clone(),
            constraint: report.constraint.or(by_message).unwrap_or(Constraint::Node),
            limit: report.limit,
            shmem: report.shmem,
            at,
        })
    }

    /// The report that a kill belongs to.
    fn report_of(&mut self, pid: i32, at: Duration) -> Option<&mut Report> {
        let report = self.report.as_mut()?;
        let in_group = report.group_since.is_some_and(|since| at.saturating_sub(since) <= GROUP_AGE);
        let first = report.victim.is_none()
            && at.saturating_sub(report.since) <= REPORT_AGE
            && (report.sacrifices_child || report.pid.is_none_or(|chosen| chosen == pid));
        (in_group || first).then_some(report)
    }

    /// The report under way.
    fn open_report(&mut self, at: Duration) -> Option<&mut Report> {
        let is_open =
            |report: &&mut Report| report.victim.is_none() && at.saturating_sub(report.since) <= REPORT_AGE;
        self.report.as_mut().filter(is_open)
    }

    /// The report under way; a new one when that has had its kill.
    fn fresh(&mut self, at: Duration) -> &mut Report {
        self.report = self.report.take().filter(|report| report.victim.is_none());
        self.following(at)
    }

    /// The report under way, even when it has had its kill.
    fn following(&mut self, at: Duration) -> &mut Report {
        let recent = |report: &Report| at.saturating_sub(report.since) <= REPORT_AGE;
        let report = self.report.take().filter(recent).unwrap_or_default();
        self.report.insert(Report { since: at, ..report })
    }
}

/// Whether a text is the beginning of one of the lines that are looked for.
fn starts_line(text: &str) -> bool {
    ["Task in ", "Tasks in ", "oom-kill:"].iter().any(|start| text.starts_with(start))
}

/// `1 (a) total-vm:…`, `1 (a), UID 0, total-vm:…`, and long ago `1, UID 0, (a) total-vm:…`.
fn victim(text: &str) -> Option<(i32, String)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (pid, rest) = text.split_at_checked(digits)?;
    let (_, rest) = rest.split_once('(')?;
    let figures = rest.find(") total-vm:").or_else(|| rest.find("), UID ")).or_else(|| rest.rfind(')'))?;
    Some((pid.parse().ok()?, rest.get(..figures)?.to_owned()))
}

/// What is between two texts at the beginning of a line, and what comes after the second.
fn between<'a>(line: &'a str, start: &str, middle: &str) -> Option<(&'a str, &'a str)> {
    line.strip_prefix(start)?.split_once(middle)
}

/// A control group's path; the kernel says `<no-memory>` and the like when it has none to print.
fn group(path: &str) -> Option<String> {
    let path = path.trim_end();
    path.starts_with('/').then(|| path.to_owned())
}

/// One record of `/dev/kmsg` (the kernel's `Documentation/ABI/testing/dev-kmsg`).
struct Record<'a> {
    of_kernel: bool,
    /// Since boot.
    at: Duration,
    fragment: bool,
    text: &'a str,
}

impl<'a> Record<'a> {
    /// `<facility * 8 + level>,<sequence>,<microseconds>,<flags>[,…];<text>`, then lines of a dictionary.
    fn parse(raw: &'a [u8]) -> Option<Self> {
        let end = raw.iter().position(|byte| *byte == b'\n').unwrap_or(raw.len());
        let line = raw.get(..end)?;
        let head_end = line.iter().position(|byte| *byte == b';')?;
        let head = std::str::from_utf8(line.get(..head_end)?).ok()?;
        let mut fields = head.split(',');
        let priority: u64 = fields.next()?.parse().ok()?;
        let _sequence: u64 = fields.next()?.parse().ok()?;
        let at = Duration::from_micros(fields.next()?.parse().ok()?);
        let fragment = fields.next().is_some_and(|flags| flags.contains(['c', '+']));
        // The kernel escapes what is not printable ASCII: anything else was not written by it.
        let text = std::str::from_utf8(line.get(head_end + 1..)?).ok()?;
        Some(Self { of_kernel: priority >> 3 == 0, at, fragment, text })
    }
}

#[cfg(test)]
mod tests;
