//! The records of pulled images on disk, and the check whether a pod may use an image that is there
//! (`image_manager/pulling` and `image_manager/pulled` under the root directory, in upstream's format).
//!
//! Owns the files and a copy of them in memory; what they mean is decided by `rubelet_core::pulled_images`. Called by
//! `ImageManager` around each pull, by workers before they use an image that is there, and by the clean-up. Never pulls,
//! never removes an image. A file that cannot be read stays where it is and makes the check stricter, not laxer.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use rubelet_core::image_gc::{ImageUse, ListedImage};
use rubelet_core::pulled_images::{
    Access, Checked, ImagePullIntent, ImagePulledRecord, Known, PodCredentials, PulledWith,
    VerificationPolicy, check, check_credentials, file_name, is_record_file, untagged,
};
use tokio::sync::{Mutex, MutexGuard};
use tracing::{info, warn};

use crate::clock::Clock;
use crate::fs_pool::{FsError, FsPool};
use crate::metrics::Metrics;

/// A larger file is no record.
const SIZE_LIMIT: u64 = 4 << 20;

/// Handle; cheap to clone.
#[derive(Clone)]
pub struct PulledImages(Option<Arc<Inner>>);

struct Inner {
    pulling: PathBuf,
    pulled: PathBuf,
    policy: VerificationPolicy,
    fs: FsPool,
    clock: Clock,
    metrics: Metrics,
    /// `None` before the files were read.
    books: Mutex<Option<Books>>,
}

/// What the files say. Bounded by the images that were pulled and not yet removed.
#[derive(Debug, Default)]
struct Books {
    /// Images whose pull was begun, with the number of pulls under way: none for what an agent before left.
    intents: BTreeMap<String, usize>,
    records: BTreeMap<String, ImagePulledRecord>,
    /// Names of files that cannot be read.
    damaged: BTreeSet<String>,
}

impl PulledImages {
    /// Keeps no records and lets every pod use every image: the gate KubeletEnsureSecretPulledImages is off.
    pub fn disabled() -> Self {
        Self(None)
    }

    /// Records under this root directory. Nothing is read yet.
    pub fn new(
        root_dir: &Path,
        policy: VerificationPolicy,
        fs: FsPool,
        clock: Clock,
        metrics: Metrics,
    ) -> Self {
        let dir = root_dir.join("image_manager");
        let (pulling, pulled) = (dir.join("pulling"), dir.join("pulled"));
        let books = Mutex::new(None);
        Self(Some(Arc::new(Inner { pulling, pulled, policy, fs, clock, metrics, books })))
    }

    /// A pull of this image begins. While it is under way, and should the agent end meanwhile, the image counts as
    /// pulled by the agent.
    ///
    /// # Errors
    /// When that cannot be written: an image whose pull left no trace would be anybody's.
    pub(crate) async fn begin(&self, image: &str) -> Result<(), FsError> {
        let Some(inner) = &self.0 else { return Ok(()) };
        let mut books = inner.books().await?;
        let Some(books) = books.as_mut() else { return Ok(()) };
        let under_way = books.intents.get(image).copied().unwrap_or(0);
        if under_way == 0 {
            let intent = ImagePullIntent { image: image.to_owned() };
            inner.write(&inner.pulling, image, intent.encode()).await?;
        }
        books.intents.insert(image.to_owned(), under_way + 1);
        inner.count(books);
        Ok(())
    }

    /// A pull has ended; `pulled` is what the runtime calls the image and whose credentials did it.
    pub(crate) async fn ended(&self, image: &str, pulled: Option<(&str, &PulledWith)>) {
        let Some(inner) = &self.0 else { return };
        let mut books = match inner.books().await {
            Ok(books) => books,
            Err(error) => return warn!("{}", crate::logging::chain(&error)),
        };
        let Some(books) = books.as_mut() else { return };
        if let Some((reference, with)) = pulled
            && let Err(error) = inner.add(books, image, reference, with).await
        {
            // The intent stays: the image still counts as pulled by the agent.
            warn!(image, "cannot record who may use an image: {}", crate::logging::chain(&error));
            return;
        }
        match books.intents.get_mut(image) {
            Some(under_way) if *under_way > 1 => *under_way -= 1,
            _ => match inner.remove(&inner.pulling, image).await {
                Ok(()) => drop(books.intents.remove(image)),
                Err(error) => warn!(image, "{}", crate::logging::chain(&error)),
            },
        }
        inner.count(books);
    }

    /// Somebody waited for a pull that was begun for others with the same credentials: he may use the image too.
    pub(crate) async fn shared(&self, image: &str, reference: &str, with: &PulledWith) {
        let Some(inner) = &self.0 else { return };
        let added = async {
            match inner.books().await?.as_mut() {
                Some(books) => inner.add(books, image, reference, with).await,
                None => Ok(()),
            }
        };
        if let Err(error) = added.await {
            warn!(image, "cannot record who may use an image: {}", crate::logging::chain(&error));
        }
    }

    /// Whether a pod may use an image that is there as `reference`. `credentials` are looked up only when they matter.
    pub(crate) async fn check(
        &self,
        image: &str,
        reference: &str,
        credentials: impl Future<Output = PodCredentials>,
    ) -> Checked {
        let Some(inner) = &self.0 else { return Checked::CredentialPolicyAllowed };
        let checked = inner.check(image, reference, credentials).await;
        inner.metrics.images.must_pull_checks.with([checked.label()]).inc();
        checked
    }

    /// Makes records of pulls that an agent before began and did not see the end of, and whose image is there: without
    /// credentials, for nobody knows with whose it was pulled.
    pub(crate) async fn adopt(&self, images: &[ListedImage]) {
        let Some(inner) = &self.0 else { return };
        let adopted = async {
            let mut books = inner.books().await?;
            let Some(books) = books.as_mut() else { return Ok::<_, FsError>(()) };
            let left = books.intents.iter().filter(|(_, under_way)| **under_way == 0);
            let left: Vec<String> = left.map(|(image, _)| image.clone()).collect();
            for image in left {
                let names: ImageUse = [image.as_str()].into_iter().collect();
                let found: Vec<&ListedImage> = images.iter().filter(|listed| names.covers(listed)).collect();
                for listed in &found {
                    inner.add(books, &image, &listed.id, &PulledWith::default()).await?;
                }
                if !found.is_empty() {
                    inner.remove(&inner.pulling, &image).await?;
                    books.intents.remove(&image);
                    info!(image, "its pull was cut short: whoever wants it has to show credentials");
                }
            }
            inner.count(books);
            Ok(())
        };
        if let Err(error) = adopted.await {
            warn!("{}", crate::logging::chain(&error));
        }
    }

    /// Forgets images that are there no more; `listed` is what was there at `listed_at`. What was recorded since stays.
    pub(crate) async fn prune(&self, listed: &BTreeSet<&str>, listed_at: Timestamp) {
        let Some(inner) = &self.0 else { return };
        let pruned = async {
            let mut books = inner.books().await?;
            let Some(books) = books.as_mut() else { return Ok::<_, FsError>(()) };
            let is_old = |record: &ImagePulledRecord| {
                record.last_updated_time.is_none_or(|at| at.as_second() < listed_at.as_second())
            };
            let gone =
                books.records.iter().filter(|(id, record)| !listed.contains(id.as_str()) && is_old(record));
            for id in gone.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
                inner.remove(&inner.pulled, &id).await?;
                books.records.remove(&id);
            }
            inner.count(books);
            Ok(())
        };
        if let Err(error) = pruned.await {
            warn!("{}", crate::logging::chain(&error));
        }
    }
}

impl Inner {
    async fn check(
        &self,
        image: &str,
        reference: &str,
        credentials: impl Future<Output = PodCredentials>,
    ) -> Checked {
        let with = {
            let books = match self.books().await {
                Ok(books) => books,
                Err(error) => {
                    warn!("{}", crate::logging::chain(&error));
                    // As if it were ours: nobody gets in because a disk fails.
                    return match check(&self.policy, image, Known::Intent) {
                        Access::Decided(Checked::CredentialPolicyAllowed) => Checked::CredentialPolicyAllowed,
                        _ => Checked::Error,
                    };
                }
            };
            let Some(books) = books.as_ref() else { return Checked::Error };
            match check(&self.policy, image, books.known(image, reference)) {
                Access::Decided(checked) => return checked,
                Access::Compare(with) => with.clone(),
            }
        };
        // Not under the lock: a plugin may take a minute.
        let (checked, learnt) = check_credentials(&with, &credentials.await);
        if let Some(secret) = learnt {
            let with = PulledWith { kubernetes_secrets: vec![secret], ..PulledWith::default() };
            PulledImages::learn(self, image, reference, &with).await;
        }
        checked
    }

    /// The books, read when they are asked for first.
    async fn books(&self) -> Result<MutexGuard<'_, Option<Books>>, FsError> {
        let mut books = self.books.lock().await;
        if books.is_none() {
            let (pulling, pulled) = (self.pulling.clone(), self.pulled.clone());
            let what = format!("read the records of pulled images below {}", pulled.display());
            let (read, problems) = self.fs.run(what, move || read_all(&pulling, &pulled)).await?;
            for problem in problems {
                warn!(
                    "a record of pulled images cannot be read; who wants the image has to show credentials: {problem}"
                );
            }
            self.count(&read);
            *books = Some(read);
        }
        Ok(books)
    }

    async fn add(
        &self,
        books: &mut Books,
        image: &str,
        reference: &str,
        with: &PulledWith,
    ) -> Result<(), FsError> {
        let now = self.clock.now();
        let name = untagged(image).unwrap_or(image);
        let known = books.records.get(reference);
        let fresh = || ImagePulledRecord::without_credentials(reference, now);
        let mut record = known.cloned().unwrap_or_else(fresh);
        if record.add(name, with, now) || known.is_none() {
            self.write(&self.pulled, reference, record.encode()).await?;
            books.damaged.remove(&file_name(reference));
            books.records.insert(reference.to_owned(), record);
            self.count(books);
        }
        Ok(())
    }

    async fn write(
        &self,
        dir: &Path,
        about: &str,
        content: Result<Vec<u8>, impl std::error::Error + Send + Sync + 'static>,
    ) -> Result<(), FsError> {
        let (dir, name) = (dir.to_owned(), file_name(about));
        let content = content.map_err(io::Error::other);
        let what = format!("write {}", dir.join(&name).display());
        self.fs.run(what, move || replace(&dir, &name, &content?)).await
    }

    async fn remove(&self, dir: &Path, about: &str) -> Result<(), FsError> {
        let path = dir.join(file_name(about));
        self.fs
            .run(format!("remove {}", path.display()), move || match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            })
            .await
    }

    fn count(&self, books: &Books) {
        let figure = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        self.metrics.images.pull_intents.set(figure(books.intents.len()));
        self.metrics.images.pulled_records.set(figure(books.records.len()));
    }
}

impl PulledImages {
    async fn learn(inner: &Inner, image: &str, reference: &str, with: &PulledWith) {
        let added = async {
            match inner.books().await?.as_mut() {
                // One that was forgotten meanwhile is not made anew.
                Some(books) if books.records.contains_key(reference) => {
                    inner.add(books, image, reference, with).await
                }
                _ => Ok(()),
            }
        };
        if let Err(error) = added.await {
            warn!(image, "{}", crate::logging::chain(&error));
        }
    }
}

impl Books {
    fn known(&self, image: &str, reference: &str) -> Known<'_> {
        match self.records.get(reference) {
            Some(record) => Known::Record(record),
            None if self.damaged.contains(&file_name(reference))
                || self.damaged.contains(&file_name(image))
                || self.intents.contains_key(image) =>
            {
                Known::Intent
            }
            None => Known::Nothing,
        }
    }
}

/// Replaces a file; makes its directory, which is nobody else's to read.
fn replace(dir: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let fresh = dir.join(format!("{name}.tmp"));
    let mut options = std::fs::OpenOptions::new();
    let written = options.write(true).create(true).truncate(true).mode(0o600).open(&fresh);
    let replaced = written
        .and_then(|mut file| file.write_all(content))
        .and_then(|()| std::fs::rename(&fresh, dir.join(name)));
    if replaced.is_err() {
        let _ = std::fs::remove_file(&fresh);
    }
    replaced
}

fn read_all(pulling: &Path, pulled: &Path) -> io::Result<(Books, Vec<String>)> {
    let (mut books, mut problems) = (Books::default(), Vec::new());
    for (path, name) in record_files(pulling)? {
        match read(&path).and_then(|bytes| ImagePullIntent::decode(&bytes).map_err(io::Error::other)) {
            Ok(intent) if file_name(&intent.image) == name => drop(books.intents.insert(intent.image, 0)),
            found => {
                problems.push(problem(&path, found.err()));
                books.damaged.insert(name);
            }
        }
    }
    for (path, name) in record_files(pulled)? {
        match read(&path).and_then(|bytes| ImagePulledRecord::decode(&bytes).map_err(io::Error::other)) {
            Ok(record) if file_name(&record.image_ref) == name => {
                books.records.insert(record.image_ref.clone(), record);
            }
            found => {
                problems.push(problem(&path, found.err()));
                books.damaged.insert(name);
            }
        }
    }
    Ok((books, problems))
}

fn problem(path: &Path, error: Option<io::Error>) -> String {
    match error {
        Some(error) => format!("{}: {}", path.display(), crate::logging::chain(&error)),
        None => format!("{}: it is about another image than its name says", path.display()),
    }
}

fn record_files(dir: &Path) -> io::Result<Vec<(PathBuf, String)>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        entries => entries?,
    };
    let named =
        entries.flatten().filter_map(|entry| Some((entry.path(), entry.file_name().into_string().ok()?)));
    Ok(named.filter(|(_, name)| is_record_file(name)).collect())
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let about = std::fs::symlink_metadata(path)?;
    if !about.is_file() || about.len() > SIZE_LIMIT {
        return Err(io::Error::other("not a regular file, or too large for a record"));
    }
    std::fs::read(path)
}

#[cfg(test)]
mod tests;
