//! What surrounds every call: its record, the hook, faults, durations, deadlines and broken connections. The
//! effects themselves are in `runtime.rs` and `image.rs`.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use rubelet_cri::{CriError, CriErrorKind, CriFuture};
use tokio::time::Instant;

use super::fault::Fault;
use super::history::{Call, Outcome, Subject};
use super::model::Model;
use super::op::Op;
use super::{ScriptedCri, sleep_until};

pub(super) type Hook = Arc<dyn Fn(&CallPoint) -> HookAction + Send + Sync>;

/// A point in a call at which the hook is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallPoint {
    /// Number of the call among all calls.
    pub n: u64,
    /// The operation.
    pub op: Op,
    /// Whom it is about.
    pub subject: Subject,
    /// Before or after the effect.
    pub phase: Phase,
}

/// Before or after the effect of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing was done yet.
    Before,
    /// The effect happened, the caller does not know yet.
    After,
}

/// What the hook wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookAction {
    /// Go on.
    Continue,
    /// Never answer, not even after the deadline: the caller is about to be dropped.
    Park,
}

/// What is known of a call before it is made.
#[derive(Debug, Default)]
pub(super) struct About {
    pub(super) subject: Subject,
    pub(super) grace: Option<i64>,
    pub(super) command: Vec<String>,
}

impl About {
    pub(super) fn subject(subject: Subject) -> Self {
        Self { subject, ..Self::default() }
    }
}

/// A call under way.
struct Ticket {
    cri: ScriptedCri,
    n: u64,
    op: Op,
    subject: Subject,
    epoch: u64,
    fault: Option<Fault>,
    /// Where it stands in the history, when it is kept there.
    record: Option<usize>,
}

/// Why a call did not come to an answer of its own.
enum Stop {
    Park,
    Error(CriError),
}

impl ScriptedCri {
    /// Makes one call: everything but its effect, which is `apply`.
    pub(super) fn call<T, F, Fut>(&self, op: Op, about: About, deadline: Duration, apply: F) -> CriFuture<T>
    where
        T: Send + 'static,
        F: FnOnce(ScriptedCri) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, CriError>> + Send + 'static,
    {
        self.call_with_code(op, about, deadline, apply, |_| None)
    }

    /// The same, of which the exit code in its answer is noted.
    pub(super) fn call_with_code<T, F, Fut>(
        &self,
        op: Op,
        about: About,
        deadline: Duration,
        apply: F,
        code: fn(&T) -> Option<i32>,
    ) -> CriFuture<T>
    where
        T: Send + 'static,
        F: FnOnce(ScriptedCri) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, CriError>> + Send + 'static,
    {
        let cri = self.clone();
        async move {
            let mut ticket = Ticket::open(&cri, op, about);
            let epoch = ticket.epoch;
            let result = tokio::select! {
                // In this order, so that a result that is there wins over a deadline that passes with it.
                biased;
                result = ticket.run(apply) => result,
                () = cri.broken_since(epoch) => Err(Stop::Error(unreachable(op))),
                () = tokio::time::sleep(deadline) => {
                    let words = format!("no answer from the runtime within {deadline:?}");
                    Err(Stop::Error(CriError::new(op.name(), CriErrorKind::DeadlineExceeded, words)))
                }
            };
            match result {
                Ok(value) => {
                    ticket.close(Outcome::Answered, code(&value));
                    Ok(value)
                }
                Err(Stop::Error(error)) => {
                    ticket.close(Outcome::Failed(error.kind), None);
                    Err(error)
                }
                Err(Stop::Park) => std::future::pending().await,
            }
        }
        .boxed()
    }

    /// Waits until connections that were made in an epoch are broken.
    pub(super) async fn broken_since(&self, epoch: u64) {
        self.wait_for(|cri| cri.with(|model, _| (model.epoch != epoch).then_some(()))).await;
    }

    /// Waits until the model gives a value or time is up.
    pub(super) async fn wait_in_model<T>(
        &self,
        give_up: Option<Instant>,
        mut ready: impl FnMut(&mut Model, Instant) -> Option<T>,
    ) -> Option<T> {
        loop {
            let mut changed = pin!(self.shared.changed.notified());
            changed.as_mut().enable();
            let (value, next, now) = self.with(|model, now| (ready(model, now), model.next_due(), now));
            if value.is_some() || give_up.is_some_and(|at| at <= now) {
                return value;
            }
            let wake = next.into_iter().chain(give_up).min();
            tokio::select! {
                biased;
                () = changed => {}
                () = sleep_until(wake) => {}
            }
        }
    }
}

impl Ticket {
    fn open(cri: &ScriptedCri, op: Op, about: About) -> Self {
        let About { subject, grace, command } = about;
        cri.with(|model, now| {
            let n = model.counts.values().sum();
            *model.counts.entry(op).or_default() += 1;
            let fault = model.faults.for_call(op, &subject.pod_name);
            let record = op.acts().then(|| {
                let started_at = model.wall(now);
                let began_seq = model.next_seq();
                model.history.push(Call {
                    n,
                    op,
                    subject: subject.clone(),
                    grace,
                    command,
                    started_at,
                    ended_at: None,
                    applied: false,
                    outcome: Outcome::Open,
                    exit_code: None,
                    began_seq,
                    ended_seq: None,
                });
                model.history.len() - 1
            });
            Self { cri: cri.clone(), n, op, subject, epoch: model.epoch, fault, record }
        })
    }

    async fn run<T, F, Fut>(&mut self, apply: F) -> Result<T, Stop>
    where
        F: FnOnce(ScriptedCri) -> Fut,
        Fut: Future<Output = Result<T, CriError>>,
    {
        let op = self.op;
        self.ask_hook(Phase::Before)?;
        if self.cri.with(|model, _| model.down_until.is_some()) {
            return Err(Stop::Error(unreachable(op)));
        }
        if !self.cri.with(|model, _| model.script.kind.offers(op)) {
            let words = format!("method {} not implemented", op.name());
            return Err(Stop::Error(CriError::new(op.name(), CriErrorKind::Unimplemented, words)));
        }
        match self.fault {
            Some(Fault::ErrorBefore(kind)) => return Err(Stop::Error(injected(op, kind))),
            Some(Fault::Delay(delay)) => tokio::time::sleep(delay).await,
            Some(Fault::Hang) => std::future::pending().await,
            _ => {}
        }
        let takes = self.cri.with(|model, _| model.duration(op));
        if !takes.is_zero() {
            tokio::time::sleep(takes).await;
        }
        let result = apply(self.cri.clone()).await;
        if let (Some(record), true) = (self.record, result.is_ok()) {
            self.cri.with(|model, _| model.history[record].applied = true);
        }
        self.ask_hook(Phase::After)?;
        match self.fault {
            Some(Fault::ErrorAfter(kind)) => Err(Stop::Error(injected(op, kind))),
            Some(Fault::HangAfter) => std::future::pending().await,
            _ => result.map_err(Stop::Error),
        }
    }

    fn ask_hook(&self, phase: Phase) -> Result<(), Stop> {
        let hook = self.cri.shared.hook.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(hook) = hook else { return Ok(()) };
        let point = CallPoint { n: self.n, op: self.op, subject: self.subject.clone(), phase };
        match hook(&point) {
            HookAction::Continue => Ok(()),
            HookAction::Park => Err(Stop::Park),
        }
    }

    fn close(&mut self, outcome: Outcome, exit_code: Option<i32>) {
        let Some(record) = self.record.take() else { return };
        self.cri.with(|model, now| {
            let ended_seq = Some(model.next_seq());
            let ended_at = Some(model.wall(now));
            let call = &mut model.history[record];
            (call.ended_at, call.ended_seq, call.outcome, call.exit_code) =
                (ended_at, ended_seq, outcome, exit_code);
        });
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.close(Outcome::GivenUp, None);
    }
}

pub(super) fn unreachable(op: Op) -> CriError {
    CriError::new(op.name(), CriErrorKind::Unreachable, "nothing listens on the scripted socket")
}

fn injected(op: Op, kind: CriErrorKind) -> CriError {
    CriError::new(op.name(), kind, "injected fault")
}
