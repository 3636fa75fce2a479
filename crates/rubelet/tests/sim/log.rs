//! The one ordered story of a run: calls, facts of the runtime, and what the simulation itself did or saw.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use rubelet::table::PodRow;
use rubelet_core::lifecycle::PodState;
use rubelet_testkit::ScriptedCri;
use rubelet_testkit::scripted::{Call, Fact};

/// What the simulation did or saw.
#[derive(Clone, Debug)]
pub enum Mark {
    /// A new agent was made.
    AgentStarted,
    /// The agent was gone, and how.
    AgentGone(String),
    /// The source gave its full set to the agent, by UID.
    Delivered(BTreeMap<String, Arc<Pod>>),
    /// The runtime carried out a list of containers for the agent that runs.
    Listed,
    /// The agent published a status.
    Status(StatusView),
    /// The agent published nothing about a pod any more.
    RowGone(String),
    /// Anything else.
    Note(String),
    /// Something that must not be, noticed while it happened.
    Wrong(String),
}

/// What matters of a published status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusView {
    pub uid: String,
    pub phase: String,
    pub ready: bool,
    /// The stage of the pod's worker is Syncing.
    pub syncing: bool,
    /// It ends, or has.
    pub ends: bool,
    pub containers: Vec<ContainerView>,
}

/// What matters of a container's status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerView {
    pub name: String,
    pub restarts: i32,
    pub ready: bool,
    /// Whether its startup probe has passed, or it has none.
    pub started: bool,
    /// The ID of the instance that is said to run.
    pub running: Option<String>,
    /// The state's short form.
    pub state: String,
}

impl StatusView {
    /// The view of a row.
    pub fn of(uid: &str, row: &PodRow) -> Self {
        let status: &PodStatus = &row.status;
        let ready = status
            .conditions
            .iter()
            .flatten()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True");
        let lists = [
            &status.init_container_statuses,
            &status.container_statuses,
            &status.ephemeral_container_statuses,
        ];
        Self {
            uid: uid.to_owned(),
            phase: status.phase.clone().unwrap_or_default(),
            ready,
            syncing: matches!(row.state, PodState::Syncing),
            ends: !matches!(row.state, PodState::Syncing | PodState::WaitingForPredecessor),
            containers: lists.into_iter().flatten().flatten().map(ContainerView::of).collect(),
        }
    }
}

impl ContainerView {
    fn of(status: &ContainerStatus) -> Self {
        let id = status.container_id.as_deref().unwrap_or_default();
        let id = id.rsplit("//").next().unwrap_or_default().to_owned();
        let (running, state) = match &status.state {
            Some(state) if state.running.is_some() => (Some(id.clone()), format!("running {id}")),
            Some(state) => match (&state.waiting, &state.terminated) {
                (Some(waiting), _) => {
                    (None, format!("waiting {}", waiting.reason.as_deref().unwrap_or_default()))
                }
                (_, Some(end)) => (None, format!("ended {} {id}", end.exit_code)),
                _ => (None, "none".to_owned()),
            },
            None => (None, "none".to_owned()),
        };
        Self {
            name: status.name.clone(),
            restarts: status.restart_count,
            ready: status.ready,
            started: status.started == Some(true),
            running,
            state,
        }
    }
}

/// Marks in the making; cheap to clone.
#[derive(Clone, Default)]
pub struct Marks(Arc<Mutex<Vec<(u64, Timestamp, Mark)>>>);

impl Marks {
    /// Adds one.
    pub fn add(&self, cri: &ScriptedCri, mark: Mark) {
        let (seq, at) = (cri.mark(), cri.now());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((seq, at, mark));
    }

    fn take(&self) -> Vec<(u64, Timestamp, Mark)> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One entry of the story.
#[derive(Clone, Debug)]
pub struct Entry {
    pub seq: u64,
    pub at: Timestamp,
    pub what: What,
}

/// What an entry tells.
#[derive(Clone, Debug)]
pub enum What {
    /// A call began.
    Began(Box<Call>),
    /// A call ended.
    Ended(Box<Call>),
    /// Something became true.
    Fact(Fact),
    /// The simulation's own.
    Mark(Mark),
}

/// Everything in order.
pub fn story(cri: &ScriptedCri, marks: &Marks) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for call in cri.history() {
        if let (Some(seq), Some(at)) = (call.ended_seq, call.ended_at) {
            entries.push(Entry { seq, at, what: What::Ended(Box::new(call.clone())) });
        }
        entries.push(Entry { seq: call.began_seq, at: call.started_at, what: What::Began(Box::new(call)) });
    }
    entries.extend(cri.facts().into_iter().map(|fact| Entry {
        seq: fact.seq,
        at: fact.at,
        what: What::Fact(fact),
    }));
    entries.extend(marks.take().into_iter().map(|(seq, at, mark)| Entry { seq, at, what: What::Mark(mark) }));
    entries.sort_by_key(|entry| entry.seq);
    entries
}

/// The story around one place, for people.
pub fn told(story: &[Entry], around: u64, before: usize, after: usize) -> String {
    let index = story.partition_point(|entry| entry.seq < around);
    let mut text = String::new();
    let base = story.first().map_or(Timestamp::UNIX_EPOCH, |entry| entry.at);
    for (position, entry) in story.iter().enumerate().skip(index.saturating_sub(before)).take(before + after)
    {
        let seconds = entry.at.duration_since(base).as_secs_f64();
        let arrow = if position == index { "=>" } else { "  " };
        let _ = writeln!(text, "{arrow} {seconds:9.3} #{:<5} {}", entry.seq, line(&entry.what));
    }
    text
}

fn line(what: &What) -> String {
    let subject = |s: &rubelet_testkit::scripted::Subject| {
        format!("{} {}#{} {}", s.pod_uid, s.container, s.attempt, s.id)
    };
    match what {
        What::Began(call) => {
            let extra = match call.grace {
                Some(grace) => format!(" grace/timeout {grace} {:?}", call.command),
                None => String::new(),
            };
            format!("call  {:?} {}{extra} (call {})", call.op, subject(&call.subject), call.n)
        }
        What::Ended(call) => format!(
            "ended {:?} {} {:?}{}{} (call {})",
            call.op,
            subject(&call.subject),
            call.outcome,
            call.exit_code.map(|code| format!(" exit {code}")).unwrap_or_default(),
            if call.applied { ", applied" } else { "" },
            call.n
        ),
        What::Fact(fact) => format!("FACT  {:?} {}", fact.what, subject(&fact.subject)),
        What::Mark(Mark::Delivered(pods)) => {
            let pods: Vec<String> = pods
                .iter()
                .map(|(uid, pod)| match &pod.metadata.deletion_timestamp {
                    Some(_) => format!(
                        "{uid} (deleted, grace {:?})",
                        pod.metadata.deletion_grace_period_seconds.unwrap_or_default()
                    ),
                    None => uid.clone(),
                })
                .collect();
            format!("MARK  delivered {pods:?}")
        }
        What::Mark(Mark::Status(view)) => {
            let containers: Vec<String> = view
                .containers
                .iter()
                .map(|c| {
                    let word = match (c.started, c.ready) {
                        (_, true) => " ready",
                        (true, false) => " started",
                        _ => "",
                    };
                    format!("{}:{} r{}{word}", c.name, c.state, c.restarts)
                })
                .collect();
            format!(
                "MARK  status {} {}{}{} {containers:?}",
                view.uid,
                view.phase,
                if view.ready { " Ready" } else { "" },
                if view.syncing { "" } else { " (not syncing)" }
            )
        }
        What::Mark(Mark::AgentGone(how)) => format!("MARK  agent gone: {how}"),
        What::Mark(Mark::Note(note)) => format!("MARK  {note}"),
        What::Mark(mark) => format!("MARK  {mark:?}"),
    }
}
