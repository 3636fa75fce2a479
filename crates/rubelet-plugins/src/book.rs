//! What is known of each socket in the folder, and what is to be done next. Decides; does nothing and knows no clock. The
//! registry feeds it with what it saw and heard, and carries out the steps it names.
//!
//! A socket is asked who is there; who answers is looked at and registered, or refused. One that is made anew is asked
//! again, and what it says then takes the place of what it said before: a plugin that restarts is not gone in between.
//! Only when its socket vanishes is it. Of several sockets with one name the last that was accepted has it; the others
//! wait until it goes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use crate::folder::Identity;
use crate::handler::Plugin;

/// First wait after a failure; upstream's.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// Longest wait; upstream's.
const LONGEST_WAIT: Duration = Duration::from_secs(122);
/// How many sockets are dealt with at the same time.
const AT_ONCE: usize = 16;

/// Kind and name.
type Name = (String, String);

fn name_of(plugin: &Plugin) -> Name {
    (plugin.kind.clone(), plugin.name.clone())
}

/// What is to be done. Each is answered by the method of its name in the past tense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Ask who is there: [`Book::asked`].
    Ask(PathBuf),
    /// Register, and tell the plugin: [`Book::registered`].
    Register(Plugin),
    /// Tell the plugin that it is refused: [`Book::refused`].
    Refuse(Plugin, String),
    /// Deregister: [`Book::deregistered`].
    Deregister(Plugin),
}

impl Step {
    /// The socket that it is about.
    #[cfg(test)]
    pub(crate) fn socket(&self) -> &Path {
        match self {
            Self::Ask(socket) => socket,
            Self::Register(plugin) | Self::Refuse(plugin, _) | Self::Deregister(plugin) => &plugin.socket,
        }
    }
}

/// How a registration ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Registration {
    /// Taken, and the plugin knows.
    Done,
    /// Taken, but the plugin could not be told.
    Untold(String),
    /// The handler did not take it; what it had under the name it still has.
    Failed(String),
}

/// What a socket is about now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing is under way; asked at this time, if at all.
    Idle(Option<Instant>),
    /// A step is under way.
    Busy,
}

#[derive(Debug)]
struct Entry {
    /// `None`: the socket has vanished, and is forgotten as soon as nothing of it is left.
    identity: Option<Identity>,
    /// To be asked once more at the end of what is under way: the socket was made anew, or its plugin renamed.
    again: bool,
    stage: Stage,
    /// The name that it gave last.
    wants: Option<Name>,
    /// What the handler has of it.
    registered: Option<Plugin>,
    /// It was dealt with at least once, whatever came of it.
    answered: bool,
    failures: u32,
    /// Why it could not be asked or registered when that was last tried.
    problem: Option<String>,
}

/// The table.
#[derive(Debug, Default)]
pub(crate) struct Book {
    entries: BTreeMap<PathBuf, Entry>,
    /// Which socket's plugin is registered under a name.
    owners: BTreeMap<Name, PathBuf>,
    /// Names that are being registered or deregistered.
    busy_names: BTreeSet<Name>,
    /// Steps that follow from what was seen and heard.
    ready: Vec<Step>,
    /// How many sockets have a step under way.
    busy: usize,
}

impl Book {
    /// Takes note of all sockets that lie in the folder.
    pub(crate) fn observe(&mut self, sockets: &BTreeMap<PathBuf, Identity>, now: Instant) {
        for (path, identity) in sockets {
            let entry = self.entries.entry(path.clone()).or_insert(Entry {
                identity: None,
                again: false,
                stage: Stage::Idle(None),
                wants: None,
                registered: None,
                answered: false,
                failures: 0,
                problem: None,
            });
            if entry.identity == Some(*identity) {
                continue;
            }
            entry.identity = Some(*identity);
            entry.failures = 0;
            match entry.stage {
                Stage::Busy => entry.again = true,
                Stage::Idle(_) => entry.stage = Stage::Idle(Some(now)),
            }
        }
        for (path, entry) in &mut self.entries {
            if !sockets.contains_key(path) {
                entry.identity = None;
                entry.again = false;
            }
        }
        self.settle();
    }

    /// The steps to begin now.
    pub(crate) fn steps(&mut self, now: Instant) -> Vec<Step> {
        let mut steps = std::mem::take(&mut self.ready);
        for (path, entry) in &mut self.entries {
            if self.busy >= AT_ONCE {
                break;
            }
            if let Stage::Idle(Some(at)) = entry.stage
                && at <= now
            {
                entry.stage = Stage::Busy;
                self.busy += 1;
                steps.push(Step::Ask(path.clone()));
            }
        }
        steps
    }

    /// When there is a step to begin, if nothing is seen or heard before. While as many steps are under way as may be,
    /// the end of one is waited for.
    pub(crate) fn due(&self) -> Option<Instant> {
        if self.busy >= AT_ONCE {
            return None;
        }
        let at = |entry: &Entry| if let Stage::Idle(at) = entry.stage { at } else { None };
        self.entries.values().filter_map(at).min()
    }

    /// Who is there, and whether the handler accepts it (`Err` within: why not).
    pub(crate) fn asked(
        &mut self,
        path: &Path,
        answer: Result<(Plugin, Result<(), String>), String>,
        now: Instant,
    ) {
        let Some(entry) = self.entries.get_mut(path) else { return };
        if entry.identity.is_none() || entry.again {
            // Who answered may be one that has gone.
            return self.end(path, now);
        }
        let (plugin, verdict) = match answer {
            Ok(answer) => answer,
            // A plugin that starts anew may take a while to answer: what it said before stays.
            Err(problem) => return self.fail(path, Some(problem), now),
        };
        let name = name_of(&plugin);
        entry.wants = Some(name.clone());
        if let Err(reason) = verdict {
            entry.problem = Some(reason.clone());
            self.ready.push(Step::Refuse(plugin, reason));
            return;
        }
        if let Some(old) = entry.registered.clone().filter(|old| name_of(old) != name) {
            // The old name goes, and then it is asked again.
            entry.again = true;
            return self.deregister(old, now);
        }
        if !self.busy_names.insert(name) {
            // Somebody else of that name is being dealt with: afterwards the handler may see it otherwise.
            return self.fail(path, None, now);
        }
        self.ready.push(Step::Register(plugin));
    }

    /// How a registration ended.
    pub(crate) fn registered(&mut self, plugin: Plugin, result: Registration, now: Instant) {
        let path = plugin.socket.clone();
        let name = name_of(&plugin);
        self.busy_names.remove(&name);
        if let Registration::Failed(problem) = result {
            return self.fail(&path, Some(problem), now);
        }
        if let Some(before) = self.owners.insert(name, path.clone()).filter(|before| *before != path)
            && let Some(other) = self.entries.get_mut(&before)
        {
            // It waits until the name is free.
            other.registered = None;
        }
        if let Some(entry) = self.entries.get_mut(&path) {
            entry.registered = Some(plugin);
            entry.answered = true;
        }
        match result {
            Registration::Untold(problem) => self.fail(&path, Some(problem), now),
            Registration::Done | Registration::Failed(_) => {
                if let Some(entry) = self.entries.get_mut(&path) {
                    entry.failures = 0;
                    entry.problem = None;
                }
                self.end(&path, now);
            }
        }
    }

    /// A plugin was told, or could not be told, that it is refused. What it said before is no longer true.
    pub(crate) fn refused(&mut self, plugin: &Plugin, now: Instant) {
        let path = &plugin.socket;
        let Some(entry) = self.entries.get(path) else { return };
        let problem = entry.problem.clone();
        match entry.registered.clone() {
            Some(old) => self.deregister(old, now),
            None => self.fail(path, problem, now),
        }
    }

    /// A plugin was deregistered.
    pub(crate) fn deregistered(&mut self, plugin: &Plugin, now: Instant) {
        let path = &plugin.socket;
        let name = name_of(plugin);
        self.busy_names.remove(&name);
        if self.owners.get(&name) == Some(path) {
            self.owners.remove(&name);
        }
        // Whoever has use for the name is asked again.
        for (other, entry) in &mut self.entries {
            let wants = entry.wants.as_ref() == Some(&name) && entry.registered.is_none();
            if wants && other != path && matches!(entry.stage, Stage::Idle(_)) {
                entry.failures = 0;
                entry.stage = Stage::Idle(Some(now));
            }
        }
        if let Some(entry) = self.entries.get_mut(path) {
            entry.registered = None;
            let problem = entry.problem.clone();
            self.fail(path, problem, now);
        }
    }

    /// Every socket that is there, with what is registered of it and what is wrong with it.
    pub(crate) fn view(&self) -> impl Iterator<Item = (&Path, Option<&Plugin>, Option<&str>)> {
        self.entries
            .iter()
            .filter(|(_, entry)| entry.identity.is_some() || entry.registered.is_some())
            .map(|(path, entry)| (path.as_path(), entry.registered.as_ref(), entry.problem.as_deref()))
    }

    /// What is wrong with a socket.
    pub(crate) fn problem(&self, path: &Path) -> Option<&str> {
        self.entries.get(path)?.problem.as_deref()
    }

    /// Whether a socket was asked and dealt with at least once, or has gone.
    pub(crate) fn has_answered(&self, path: &Path) -> bool {
        self.entries.get(path).is_none_or(|entry| entry.answered)
    }

    /// The step of a socket goes on with a deregistration, unless its name is another's business just now.
    fn deregister(&mut self, plugin: Plugin, now: Instant) {
        if self.busy_names.insert(name_of(&plugin)) {
            self.ready.push(Step::Deregister(plugin));
        } else {
            let path = plugin.socket;
            self.fail(&path, None, now);
        }
    }

    /// The step of a socket is over.
    fn end(&mut self, path: &Path, now: Instant) {
        self.busy = self.busy.saturating_sub(1);
        if let Some(entry) = self.entries.get_mut(path) {
            let again = std::mem::take(&mut entry.again);
            entry.stage = Stage::Idle(again.then_some(now));
        }
        self.settle();
    }

    /// The step of a socket is over and is to be tried again later, at once where it was made anew.
    fn fail(&mut self, path: &Path, problem: Option<String>, now: Instant) {
        if let Some(entry) = self.entries.get_mut(path) {
            entry.problem = problem;
            entry.answered = true;
        }
        self.end(path, now);
        if let Some(entry) = self.entries.get_mut(path)
            && entry.stage == Stage::Idle(None)
            && entry.identity.is_some()
        {
            let wait = FIRST_WAIT.saturating_mul(1 << entry.failures.min(16)).min(LONGEST_WAIT);
            entry.failures = entry.failures.saturating_add(1);
            entry.stage = Stage::Idle(Some(now + wait));
        }
    }

    /// What has vanished and has no step under way is deregistered, if it is registered, and forgotten.
    fn settle(&mut self) {
        self.entries.retain(|_, entry| {
            if entry.identity.is_some() || entry.stage == Stage::Busy {
                return true;
            }
            entry.stage = Stage::Idle(None);
            let Some(plugin) = &entry.registered else { return false };
            if self.busy_names.insert(name_of(plugin)) {
                entry.stage = Stage::Busy;
                self.busy += 1;
                self.ready.push(Step::Deregister(plugin.clone()));
            }
            true
        });
    }
}

#[cfg(test)]
mod tests;
