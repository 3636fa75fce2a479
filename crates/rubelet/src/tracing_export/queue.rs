//! The way of finished spans to the collector: a bounded queue that never makes anybody wait, and one task that
//! takes batches out of it. At rest the task sleeps without a timer. A collector that is away is told once, tried
//! ever more rarely, and told again when it is back; meanwhile the queue fills and what does not fit is counted and
//! lost. Owned by [`super::TracingExport`]; knows nothing of what spans mean.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanExporter, SpanProcessor};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Sizes and times; the sizes and the delay are OpenTelemetry's usual ones, which upstream keeps too.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Spans that may wait.
    pub queue: usize,
    /// Spans in one request.
    pub batch: usize,
    /// How long the first span of a batch waits for others.
    pub delay: Duration,
    /// The longest pause between tries while the collector is away; the first is twice the delay.
    pub longest_pause: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            queue: 2048,
            batch: 512,
            delay: Duration::from_secs(5),
            longest_pause: Duration::from_secs(60),
        }
    }
}

/// What both ends know.
#[derive(Debug)]
struct Shared {
    pace: Pace,
    /// A whole batch waits.
    full: Notify,
    /// Spans that did not fit.
    lost: AtomicU64,
}

/// The end that spans go into.
#[derive(Debug)]
pub(super) struct Queue {
    spans: mpsc::Sender<SpanData>,
    shared: Arc<Shared>,
}

/// The end that they are taken from.
#[derive(Debug)]
pub(super) struct Drain {
    spans: mpsc::Receiver<SpanData>,
    shared: Arc<Shared>,
}

impl Queue {
    /// Both ends of an empty queue, which takes memory as it fills.
    pub(super) fn new(pace: Pace) -> (Self, Drain) {
        let (sender, receiver) = mpsc::channel(pace.queue.max(1));
        let shared = Arc::new(Shared { pace, full: Notify::new(), lost: AtomicU64::new(0) });
        (Self { spans: sender, shared: shared.clone() }, Drain { spans: receiver, shared })
    }
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if !span.span_context.is_sampled() {
            return;
        }
        if self.spans.try_send(span).is_err() {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
        }
        let waiting = self.spans.max_capacity() - self.spans.capacity();
        if waiting >= self.shared.pace.batch {
            self.shared.full.notify_one();
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// What is known of the collector.
#[derive(Debug, Default)]
struct Away {
    /// How long to wait before the next try; `None` while it answers.
    pause: Option<Duration>,
    /// Spans lost since it went.
    lost: u64,
}

impl Drain {
    /// Exports until `end`, then what still waits unless the collector is away. `to` names it in messages.
    pub(super) async fn run(mut self, exporter: impl SpanExporter, to: String, end: CancellationToken) {
        let pace = self.shared.pace;
        let mut away = Away::default();
        let mut batch = Vec::new();
        'running: loop {
            // All arms are cancel-safe: what was taken is kept in `batch`.
            tokio::select! {
                biased;
                () = end.cancelled() => break 'running,
                first = self.spans.recv() => match first {
                    Some(span) => batch.push(span),
                    None => return,
                },
            }
            let due = Instant::now() + away.pause.unwrap_or(pace.delay);
            while away.pause.is_some() || batch.len() + self.spans.len() < pace.batch {
                tokio::select! {
                    biased;
                    () = end.cancelled() => break 'running,
                    () = tokio::time::sleep_until(due) => break,
                    // May be left over from a batch that is gone.
                    () = self.shared.full.notified(), if away.pause.is_none() => {}
                }
            }
            self.fill(&mut batch);
            self.export(&exporter, &to, &mut away, std::mem::take(&mut batch)).await;
        }
        self.spans.close();
        self.fill(&mut batch);
        while away.pause.is_none() && !batch.is_empty() {
            self.export(&exporter, &to, &mut away, std::mem::take(&mut batch)).await;
            self.fill(&mut batch);
        }
    }

    /// Takes what waits, as far as it belongs into one batch.
    fn fill(&mut self, batch: &mut Vec<SpanData>) {
        let room = self.shared.pace.batch.saturating_sub(batch.len());
        batch.reserve_exact(room.min(self.spans.len()));
        while batch.len() < self.shared.pace.batch
            && let Ok(span) = self.spans.try_recv()
        {
            batch.push(span);
        }
    }

    async fn export(&self, exporter: &impl SpanExporter, to: &str, away: &mut Away, batch: Vec<SpanData>) {
        let pace = self.shared.pace;
        let spans = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        let answer = exporter.export(batch).await;
        let overflown = self.shared.lost.swap(0, Ordering::Relaxed);
        match answer {
            Ok(()) => {
                let lost = away.lost + overflown;
                if away.pause.is_some() {
                    info!(lost, "traces are exported to {to} again");
                } else if lost > 0 {
                    warn!(lost, "spans come faster than {to} takes them");
                }
                *away = Away::default();
            }
            Err(problem) => {
                if away.pause.is_none() {
                    warn!("traces cannot be exported to {to}, they are lost until it takes them: {problem}");
                }
                away.lost += spans + overflown;
                let pause = away.pause.unwrap_or(pace.delay) * 2;
                away.pause = Some(pause.min(pace.longest_pause));
            }
        }
    }
}
