//! Which request a watch makes next, and when: list, watch, list again. Pure: no clock, no I/O; the driver in the
//! parent module carries its requests out and tells it what came of them.
//!
//! Rules, from client-go's reflector where it has one: the first list asks for `resourceVersion=0` (any state the
//! server has cached), a later one for nothing older than what was seen; a version that has expired or that the
//! server does not know yet leads to a list of the latest; back-off goes from 800 ms by doubling to at most 30 s and
//! starts anew once a stream has proven itself.

use std::collections::BTreeSet;
use std::time::Duration;

use super::failure::{Class, Failure, ProblemKind};
use super::{WatchSpec, Watched, seed_of};

const BACKOFF_BASE: Duration = Duration::from_millis(800);
/// Half of the longest wait; jitter adds up to as much again.
const BACKOFF_CAP: Duration = Duration::from_secs(15);
/// Watches that were waiting begin within this once the server answers again.
const WOKEN_WITHIN: Duration = Duration::from_millis(500);
/// A server's wish for patience is followed so far.
const RETRY_AFTER_CAP: Duration = Duration::from_secs(300);

/// The next request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// One page. An empty version means the latest, `0` any.
    List { resource_version: String, limit: Option<u32>, token: Option<String> },
    /// A stream of what changes after this version.
    Watch { resource_version: String, timeout: Duration },
}

/// A request and how long to wait before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    pub wait: Duration,
    /// The server asked for the wait.
    pub ordered: bool,
    pub request: Request,
}

/// How a stream ended.
#[derive(Clone, Debug)]
pub(super) enum End {
    /// It never began.
    Refused(Failure),
    /// The server finished it.
    Clean,
    /// The connection broke, perhaps in the middle of an event.
    Broken(String),
    /// The server did not finish it when it had promised to.
    Silent,
    /// An ERROR event.
    Error(Failure),
    /// Something that is no event.
    Garbage(String),
    /// Versions went backwards: this is another history, such as a restored backup.
    WentBack,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PageVerdict {
    /// Another page is to come.
    More,
    /// This was the last page.
    Complete,
}

/// What the sink should hear beside objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    Problem { kind: ProblemKind, message: String, retry_in: Duration },
    Recovered,
}

/// Where a list starts.
#[derive(Clone, Debug, PartialEq, Eq)]
enum From {
    Any,
    NotBefore(String),
    Latest,
}

#[derive(Clone, Debug)]
enum Stage {
    /// Pages are being fetched. `version` is that of the first page, `token` leads to the next one.
    Listing { from: From, version: Option<String>, token: Option<String>, paged: bool },
    /// A stream is open or to be opened after `version`.
    Watching { version: String },
}

/// What must work again before a problem is over, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Cure {
    Listed,
    Opened,
    Proven,
}

#[derive(Debug)]
pub(super) struct Machine {
    seed: u64,
    draws: u64,
    min_timeout: Duration,
    page_limit: u32,
    stage: Stage,
    wait: Duration,
    ordered: bool,
    /// Failures in a row, for the back-off.
    failures: u32,
    /// One restart may be immediate; another only after a stream has proven itself.
    credit: bool,
    /// Whether the current stream has lived long enough to be healthy.
    proven: bool,
    /// Problems told and not yet over, and what ends them.
    told: BTreeSet<ProblemKind>,
    cure: Option<Cure>,
}

impl Machine {
    pub(super) fn new<K: Watched>(spec: &WatchSpec<K>) -> Self {
        Self {
            seed: spec.seed ^ seed_of(&spec.what()),
            draws: 0,
            min_timeout: spec.min_watch_timeout,
            page_limit: spec.page_limit,
            stage: listing(if spec.latest { From::Latest } else { From::Any }),
            wait: Duration::ZERO,
            ordered: false,
            failures: 0,
            credit: true,
            proven: false,
            told: BTreeSet::new(),
            cure: None,
        }
    }

    /// What to do now.
    pub(super) fn next(&mut self) -> Attempt {
        let wait = std::mem::take(&mut self.wait);
        let ordered = std::mem::take(&mut self.ordered);
        let request = match &self.stage {
            Stage::Listing { from, token, paged, .. } => {
                let (resource_version, limit) = match from {
                    From::Any => ("0".to_owned(), Some(self.page_limit)),
                    // With a limit the server would go to etcd for this; without, its cache answers.
                    From::NotBefore(version) => (version.clone(), None),
                    From::Latest => (String::new(), Some(self.page_limit)),
                };
                Request::List { resource_version, limit: limit.filter(|_| *paged), token: token.clone() }
            }
            Stage::Watching { version } => {
                let resource_version = version.clone();
                let timeout = self.min_timeout.mul_f64(1.0 + self.draw());
                self.proven = false;
                Request::Watch { resource_version, timeout: Duration::from_secs(timeout.as_secs()) }
            }
        };
        Attempt { wait, ordered, request }
    }

    /// The server answers again: failures while it did not count no more. Returns how long to wait after the news, for
    /// not everybody should come at once.
    pub(super) fn woken(&mut self) -> Duration {
        self.failures = 0;
        WOKEN_WITHIN.mul_f64(self.draw())
    }

    /// A page came. The version is the list's, the token leads to the next page if there is one.
    pub(super) fn on_page(
        &mut self,
        page_version: String,
        next: Option<String>,
    ) -> (PageVerdict, Option<Notice>) {
        let Stage::Listing { version, token, .. } = &mut self.stage else {
            return (PageVerdict::More, None);
        };
        // The first page's version: if a later page is newer, the events between are delivered once more.
        let first = version.get_or_insert(page_version);
        if let Some(next) = next {
            *token = Some(next);
            return (PageVerdict::More, None);
        }
        self.stage = Stage::Watching { version: std::mem::take(first) };
        (PageVerdict::Complete, self.recover(Cure::Listed))
    }

    pub(super) fn on_list_failed(&mut self, failure: &Failure) -> Option<Notice> {
        let Stage::Listing { from, token, paged, .. } = &self.stage else { return None };
        let in_pages = token.is_some();
        let restart = match failure.class {
            // A token lives for minutes; a list that outlives it goes on without pages the second time.
            Class::Expired | Class::Hopeless if in_pages => {
                let paged = *paged && *from != From::Latest;
                Some(Stage::Listing { from: From::Latest, version: None, token: None, paged })
            }
            Class::Expired | Class::TooNew if *from != From::Latest => Some(listing(From::Latest)),
            _ => None,
        };
        match restart {
            Some(stage) => {
                self.stage = stage;
                self.wait = self.restart_wait();
                None
            }
            None => Some(self.fail(failure, Cure::Listed)).flatten(),
        }
    }

    /// The server accepted the watch.
    pub(super) fn on_watch_opened(&mut self) -> Option<Notice> {
        self.recover(Cure::Opened)
    }

    /// The stream has lived long enough to be healthy.
    pub(super) fn on_proven(&mut self) -> Option<Notice> {
        self.proven = true;
        self.failures = 0;
        self.credit = true;
        self.recover(Cure::Proven)
    }

    /// An event or bookmark of this version came. False if versions went backwards: the event must not be used.
    pub(super) fn on_event(&mut self, new: Option<String>) -> bool {
        let (Stage::Watching { version }, Some(new)) = (&mut self.stage, new) else { return true };
        if let (Ok(old), Ok(new)) = (version.parse::<u128>(), new.parse::<u128>())
            && new < old
        {
            return false;
        }
        if !new.is_empty() {
            *version = new;
        }
        true
    }

    pub(super) fn on_watch_ended(&mut self, end: End) -> Option<Notice> {
        let Stage::Watching { version } = &self.stage else { return None };
        let seen = From::NotBefore(version.clone());
        match end {
            End::Clean => {
                self.wait = self.restart_wait();
                if self.wait.is_zero() {
                    return None;
                }
                let message = "the server ends the stream as soon as it has begun".to_owned();
                self.tell(ProblemKind::Interrupted, message, Cure::Proven)
            }
            End::Broken(_) if self.proven => {
                // One broken connection is no problem yet, but many nodes may have lost theirs together.
                self.wait = BACKOFF_BASE.mul_f64(self.draw());
                None
            }
            End::Broken(message) => self.fail(&Failure::unreachable(message), Cure::Proven),
            End::Silent => {
                self.stage = listing(seen);
                self.wait = BACKOFF_BASE.mul_f64(self.draw());
                None
            }
            End::WentBack => {
                self.stage = listing(From::Latest);
                self.wait = self.restart_wait();
                None
            }
            End::Garbage(message) => {
                self.stage = listing(seen);
                self.fail(&Failure::garbled(message), Cure::Proven)
            }
            End::Refused(failure) => self.on_watch_failed(&failure, seen, Cure::Opened),
            End::Error(failure) => self.on_watch_failed(&failure, seen, Cure::Proven),
        }
    }

    fn on_watch_failed(&mut self, failure: &Failure, seen: From, cure: Cure) -> Option<Notice> {
        match failure.class {
            Class::Expired => {
                self.stage = listing(seen);
                self.wait = self.restart_wait();
                None
            }
            Class::TooNew => {
                self.stage = listing(From::Latest);
                self.wait = self.restart_wait();
                None
            }
            Class::Transient => self.fail(failure, cure),
            Class::Hopeless => {
                self.stage = listing(seen);
                self.fail(failure, cure)
            }
        }
    }

    /// The wait before a restart that nobody is to blame for: none the first time, then back-off.
    fn restart_wait(&mut self) -> Duration {
        if std::mem::replace(&mut self.credit, false) { Duration::ZERO } else { self.backoff() }
    }

    fn fail(&mut self, failure: &Failure, cure: Cure) -> Option<Notice> {
        let backoff = self.backoff();
        let wished =
            failure.retry_after.map(|wish| wish.min(RETRY_AFTER_CAP) + BACKOFF_BASE.mul_f64(self.draw()));
        self.ordered = wished.is_some();
        self.wait = wished.map_or(backoff, |wished| wished.max(backoff));
        self.tell(failure.kind, failure.message.clone(), cure)
    }

    fn tell(&mut self, kind: ProblemKind, message: String, cure: Cure) -> Option<Notice> {
        self.cure = self.cure.max(Some(cure));
        self.told.insert(kind).then_some(Notice::Problem { kind, message, retry_in: self.wait })
    }

    fn recover(&mut self, reached: Cure) -> Option<Notice> {
        if self.cure? > reached {
            return None;
        }
        self.cure = None;
        self.told.clear();
        Some(Notice::Recovered)
    }

    fn backoff(&mut self) -> Duration {
        let base = BACKOFF_BASE.saturating_mul(1 << self.failures.min(10)).min(BACKOFF_CAP);
        self.failures = self.failures.saturating_add(1);
        base.mul_f64(1.0 + self.draw())
    }

    /// The next number of a fixed row, evenly spread in 0..1 (splitmix64 over seed and count).
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit an f64")]
    fn draw(&mut self) -> f64 {
        self.draws = self.draws.wrapping_add(1);
        let mut z = self.seed.wrapping_add(self.draws.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

fn listing(from: From) -> Stage {
    Stage::Listing { from, version: None, token: None, paged: true }
}
