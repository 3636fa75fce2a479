//! The way of every call: noted, judged by the script, done, noted again. Calls go on when their client is gone, as those
//! of a real driver do, and only one call at a time changes a volume.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde_json::Value;
use tonic::{Code, Response, Status};

use super::disk::{Disk, MISTAKE, mistake};
use super::script::{Character, Fault, Faults, Method};

/// One call, as the driver saw it.
#[derive(Clone, Debug, Serialize)]
pub struct Call {
    /// Which.
    pub method: Method,
    /// The volume's handle; empty for calls that are about none.
    pub volume: String,
    /// What was asked, by the protocol's names.
    pub request: Value,
    /// Seconds since boot when it came, as `/proc/uptime` shows them to containers too.
    pub begun: f64,
    /// Seconds since boot when it was answered; `None` while it is not.
    pub ended: Option<f64>,
    /// `OK`, or the code and message of the answer; empty while there is none.
    pub answer: String,
}

impl Call {
    /// A text of the request; empty when there is no such text.
    pub fn text(&self, key: &str) -> &str {
        self.request[key].as_str().unwrap_or_default()
    }

    /// Whether it was answered well.
    pub fn succeeded(&self) -> bool {
        self.answer == "OK"
    }
}

/// Method and volume, such as `NodeStageVolume vol-1`, with the answer unless all is well.
impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.method)?;
        if !self.volume.is_empty() {
            write!(f, " {}", self.volume)?;
        }
        if self.succeeded() { Ok(()) } else { write!(f, " => {:?}", self.answer) }
    }
}

#[derive(Debug, Default)]
struct Book {
    calls: Vec<Call>,
    mistakes: Vec<String>,
    /// Volumes about which the driver lied: what the client does with them is no mistake.
    lied: BTreeSet<String>,
    faults: Faults,
    /// Volumes that a call is changing, with whether its client still waits.
    busy: BTreeMap<String, Arc<AtomicBool>>,
}

/// Everything that the driver's services share.
#[derive(Debug)]
pub(super) struct Shared {
    book: Mutex<Book>,
    character: Mutex<Character>,
    pub disk: Disk,
}

impl Shared {
    pub(super) fn new(character: Character, disk: Disk) -> Self {
        Self { book: Mutex::default(), character: Mutex::new(character), disk }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn character(&self) -> MutexGuard<'_, Character> {
        self.character.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn calls(&self) -> Vec<Call> {
        self.book().calls.clone()
    }

    pub(super) fn mistakes(&self) -> Vec<String> {
        self.book().mistakes.clone()
    }

    pub(super) fn add_fault(&self, rule: super::Rule) -> super::FaultHandle {
        self.book().faults.add(rule)
    }

    /// What was under way when the driver died goes on no more.
    pub(super) fn forget_calls(&self) {
        let mut book = self.book();
        book.busy.clear();
        for call in book.calls.iter_mut().filter(|call| call.ended.is_none()) {
            call.ended = Some(uptime());
            "the driver died".clone_into(&mut call.answer);
        }
    }

    /// Does a call: `work` is what is really done, `lie` the answer when it is only said to be done.
    pub(super) async fn call<T: Send + 'static>(
        self: &Arc<Self>,
        method: Method,
        volume: &str,
        request: Value,
        work: impl FnOnce(&Self) -> Result<T, Status> + Send + 'static,
        lie: T,
    ) -> Result<Response<T>, Status> {
        let waits = Arc::new(AtomicBool::new(true));
        let _gone_with_the_client = Gone(waits.clone());
        let (shared, volume) = (self.clone(), volume.to_owned());
        let done = tokio::spawn(async move {
            let number = shared.note(method, &volume, request);
            let answer = match shared.take(method, &volume, &waits) {
                Err(busy) => Err(busy),
                Ok(_free_again) => shared.carry_out(method, &volume, work, lie).await,
            };
            shared.answered(number, answer.as_ref().err());
            answer
        });
        done.await.map_err(|error| Status::internal(error.to_string()))?.map(Response::new)
    }

    async fn carry_out<T: Send + 'static>(
        self: &Arc<Self>,
        method: Method,
        volume: &str,
        work: impl FnOnce(&Self) -> Result<T, Status> + Send + 'static,
        lie: T,
    ) -> Result<T, Status> {
        let fault = self.book().faults.strike(method, volume);
        let scripted = |code: Code| Status::new(code, "as the test ordered");
        match &fault {
            Some((Fault::Fail(code), _)) => return Err(scripted(*code)),
            Some((Fault::Lie, _)) => {
                self.book().lied.insert(volume.to_owned());
                return Ok(lie);
            }
            Some((Fault::Hang, handle)) => handle.stopped().await,
            Some((Fault::Late(time), _)) => tokio::time::sleep(*time).await,
            _ => {}
        }
        let shared = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&shared)).await;
        let done = done.map_err(|error| Status::internal(error.to_string()))?;
        match &fault {
            Some((Fault::DoThenFail(code), _)) => done.and(Err(scripted(*code))),
            Some((Fault::DoThenHang, handle)) => {
                handle.stopped().await;
                done
            }
            _ => done,
        }
    }

    fn note(&self, method: Method, volume: &str, request: Value) -> usize {
        let mut book = self.book();
        let volume = volume.to_owned();
        let begun = uptime();
        book.calls.push(Call { method, volume, request, begun, ended: None, answer: String::new() });
        book.calls.len() - 1
    }

    fn answered(&self, number: usize, refused: Option<&Status>) {
        let mut book = self.book();
        let answer = match refused {
            None => "OK".to_owned(),
            Some(status) => format!("{:?}: {}", status.code(), status.message()),
        };
        if let Some(status) = refused
            && let Some(what) = status.message().strip_prefix(MISTAKE)
            && !book.lied.contains(&book.calls[number].volume)
        {
            let told = format!("{:?}: {what}", book.calls[number].method);
            book.mistakes.push(told);
        }
        let call = &mut book.calls[number];
        call.ended = Some(uptime());
        call.answer = answer;
    }

    /// Lets a call have its volume, or refuses it while another call has it.
    fn take(self: &Arc<Self>, method: Method, volume: &str, waits: &Arc<AtomicBool>) -> Result<Busy, Status> {
        if !method.changes() {
            return Ok(Busy(None));
        }
        let mut book = self.book();
        if let Some(other) = book.busy.get(volume) {
            let what = format!("another operation on {volume} is under way");
            return Err(if other.load(Ordering::SeqCst) {
                mistake(Code::Aborted, what)
            } else {
                Status::aborted(what)
            });
        }
        book.busy.insert(volume.to_owned(), waits.clone());
        Ok(Busy(Some((self.clone(), volume.to_owned(), waits.clone()))))
    }
}

/// A client waits for its answer until this is dropped.
struct Gone(Arc<AtomicBool>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

/// A volume that a call is changing until this is dropped.
struct Busy(Option<(Arc<Shared>, String, Arc<AtomicBool>)>);

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some((shared, volume, waits)) = &self.0 {
            let mut book = shared.book();
            // One that outlived its driver has nothing to give back.
            if book.busy.get(volume).is_some_and(|holder| Arc::ptr_eq(holder, waits)) {
                book.busy.remove(volume);
            }
        }
    }
}

/// Seconds since boot, as containers see them too.
fn uptime() -> f64 {
    let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or_default()
}
