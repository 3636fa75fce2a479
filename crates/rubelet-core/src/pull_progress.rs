//! How far an image pull has come: `43 % of 120 MB at 12 MB/s`.
//!
//! Pure: the shell looks at what the runtime is downloading every few seconds (`rubelet_cri::containerd_content`) and
//! hands each [`PullLook`] to a [`PullMeter`], which makes a [`PullProgress`] of it. It says no more than is known: a
//! total that leaves out layers which are still to come is "at least", and downloads that cannot be told apart are
//! called those of the node.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::Deserialize;

use crate::image::parse_image_name;

/// The most parts a manifest may have to be read; images have a dozen, and the manifest comes from a registry.
const MOST_PARTS: usize = 1000;
/// How long nothing has to come in before this is worth saying.
const STILL: Duration = Duration::from_secs(5);

/// One download under way, as the runtime lists it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ingest {
    /// The runtime's name for it, such as `layer-sha256:…`.
    pub reference: String,
    /// Bytes that are here.
    pub offset: u64,
    /// Bytes it will have; 0 when the registry did not tell.
    pub total: u64,
}

impl Ingest {
    /// The digest of what is downloaded, when the name holds one.
    pub fn digest(&self) -> Option<&str> {
        let after = self.reference.rsplit('@').next()?;
        let start = ["sha256:", "sha384:", "sha512:"].iter().find_map(|algorithm| after.find(algorithm))?;
        after.get(start..)
    }
}

/// One part of an image: its config or a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImagePart {
    /// Its digest.
    pub digest: String,
    /// Its size as the registry stores it, in bytes.
    pub size: u64,
}

/// A manifest the runtime has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageManifest {
    /// Its digest.
    pub digest: String,
    /// What the image consists of, layers from the lowest up.
    pub parts: Vec<ImagePart>,
}

/// What the runtime is downloading at one moment, as far as it concerns one image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PullLook {
    /// Everything under way, whichever image it is for.
    pub ingests: Vec<Ingest>,
    /// Those manifests of the image's repository of which something is under way, and the one that was found to be the
    /// pull's at an earlier look ([`PullMeter::manifest`]).
    pub manifests: Vec<ImageManifest>,
    /// Digests of parts of these manifests that are here in full.
    pub present: BTreeSet<String>,
}

/// Reads the JSON of a manifest; `None` for anything else, an index of manifests for one.
pub fn parse_manifest(digest: &str, json: &[u8]) -> Option<ImageManifest> {
    #[derive(Deserialize)]
    struct Descriptor {
        digest: String,
        #[serde(default)]
        size: u64,
    }
    #[derive(Deserialize)]
    struct Manifest {
        config: Descriptor,
        layers: Vec<Descriptor>,
    }
    let manifest: Manifest = serde_json::from_slice(json).ok()?;
    if manifest.layers.len() >= MOST_PARTS {
        return None;
    }
    let parts = std::iter::once(manifest.config)
        .chain(manifest.layers)
        .map(|part| ImagePart { digest: part.digest, size: part.size })
        .collect();
    Some(ImageManifest { digest: digest.to_owned(), parts })
}

/// Under which host and path a runtime files what it pulled for an image: containerd's labels leave the port out.
/// `None` for a name that is none.
pub fn source_of(image: &str) -> Option<(String, String)> {
    let repository = parse_image_name(image).ok()?.repository;
    let (domain, path) = repository.split_once('/')?;
    let host = match domain.strip_prefix('[') {
        Some(bracketed) => bracketed.split(']').next()?,
        None => domain.split(':').next()?,
    };
    Some((host.to_owned(), path.to_owned()))
}

/// What a [`PullProgress`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullScope {
    /// The image, with all its layers.
    Image,
    /// Several images of one repository that are pulled at once and cannot be told apart.
    Repository,
    /// Everything the runtime downloads, as far as it has begun.
    Node,
}

/// How far a pull has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PullProgress {
    /// What is counted.
    pub scope: PullScope,
    /// Bytes that are here.
    pub done: u64,
    /// Bytes in all; for [`PullScope::Node`] only of what has begun, so at least this many.
    pub total: u64,
    /// Bytes a second since the look before; `None` at the first.
    pub rate: Option<u64>,
    /// For how long nothing has come in.
    pub still: Duration,
}

impl PullProgress {
    /// Hundredths that are here, rounded down; `None` where the total is not known.
    pub fn percent(&self) -> Option<u64> {
        if self.scope == PullScope::Node || self.total == 0 {
            return None;
        }
        u64::try_from(u128::from(self.done) * 100 / u128::from(self.total)).ok()
    }
}

impl fmt::Display for PullProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = Bytes(self.total);
        match self.percent() {
            Some(_) if self.done >= self.total => return write!(f, "all {total} downloaded, unpacking"),
            Some(percent) => write!(f, "{percent} % of {total}")?,
            None if self.total > self.done => write!(f, "{} of at least {total}", Bytes(self.done))?,
            None => write!(f, "{}", Bytes(self.done))?,
        }
        if self.still >= STILL {
            write!(f, ", nothing new for {} s", self.still.as_secs())?;
        } else if let Some(rate) = self.rate {
            write!(f, " at {}/s", Bytes(rate))?;
        }
        match self.scope {
            PullScope::Image => Ok(()),
            PullScope::Repository => f.write_str(" (with other images of the repository)"),
            PullScope::Node => f.write_str(" (all downloads of the node)"),
        }
    }
}

/// A number of bytes in units people read: decimal, two digits at least.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, size) = match self.0 {
            0..1_000_000 => ("kB", 1_000),
            1_000_000..1_000_000_000 => ("MB", 1_000_000),
            _ => ("GB", 1_000_000_000),
        };
        match self.0 / size {
            whole @ 1..10 => write!(f, "{whole}.{} {unit}", self.0 % size * 10 / size),
            whole => write!(f, "{whole} {unit}"),
        }
    }
}

/// Follows one pull from look to look. Holds what the last look showed and nothing else.
#[derive(Clone, Debug, Default)]
pub struct PullMeter {
    /// The manifest the pull was found to be of.
    manifest: Option<String>,
    /// The image's name holds the digest of its manifest: it can be no other.
    pinned: bool,
    last: Option<Last>,
}

#[derive(Clone, Debug)]
struct Last {
    at: Duration,
    scope: PullScope,
    done: u64,
    /// When the last byte came in.
    moved_at: Duration,
    /// What is or was under way on the node since it was first looked at: bytes here and in all, by name.
    seen: BTreeMap<String, (u64, u64)>,
}

impl PullMeter {
    /// For the pull of an image of this name.
    pub fn new(image: &str) -> Self {
        let manifest = parse_image_name(image).ok().and_then(|name| name.digest);
        Self { pinned: manifest.is_some(), manifest, last: None }
    }

    /// Digest of the manifest the pull was found to be of: a look is to include it, whether or not something of it is
    /// under way.
    pub fn manifest(&self) -> Option<&str> {
        self.manifest.as_deref()
    }

    /// Takes in a look at the time `at` (any axis that only grows, the age of the pull for one). `None` while nothing
    /// is being downloaded: the registry has not answered yet, or all of the image is here and is being unpacked by a
    /// runtime that has not told what it consists of.
    pub fn read(&mut self, look: &PullLook, at: Duration) -> Option<PullProgress> {
        let seen = self.seen(look);
        let Some((scope, done, total)) = self.of_image(look).or_else(|| of_node(&seen)) else {
            self.last = None;
            return None;
        };
        let last = self.last.take().filter(|last| last.scope == scope && last.at < at);
        let rate = last.as_ref().map(|last| per_second(done.saturating_sub(last.done), at - last.at));
        let moved_at = last.filter(|last| last.done == done).map_or(at, |last| last.moved_at);
        self.last = Some(Last { at, scope, done, moved_at, seen });
        Some(PullProgress { scope, done, total, rate, still: at.saturating_sub(moved_at) })
    }

    /// All that was under way since the first look. What is gone is taken to be here in full: a download that was
    /// broken off ends its pull as well.
    fn seen(&self, look: &PullLook) -> BTreeMap<String, (u64, u64)> {
        let mut seen: BTreeMap<String, (u64, u64)> = match &self.last {
            Some(last) if !look.ingests.is_empty() => last
                .seen
                .iter()
                .map(|(name, (offset, total))| (name.clone(), (*total.max(offset), *total.max(offset))))
                .collect(),
            _ => BTreeMap::new(),
        };
        for ingest in &look.ingests {
            seen.insert(ingest.reference.clone(), (ingest.offset, ingest.total.max(ingest.offset)));
        }
        seen
    }

    /// Bytes of the image that is pulled, when a manifest tells what they are.
    fn of_image(&mut self, look: &PullLook) -> Option<(PullScope, u64, u64)> {
        let offsets: BTreeMap<&str, u64> =
            look.ingests.iter().filter_map(|ingest| Some((ingest.digest()?, ingest.offset))).collect();
        let known = |digest: &String| look.manifests.iter().find(|manifest| manifest.digest == *digest);
        let chosen = self.manifest.as_ref().and_then(known);
        if let Some(manifest) = chosen
            && self.pinned
        {
            return Some(count(PullScope::Image, &[manifest], &offsets, look));
        }
        let under_way = |manifest: &&ImageManifest| {
            manifest.parts.iter().any(|part| offsets.contains_key(part.digest.as_str()))
        };
        let candidates: Vec<&ImageManifest> = look
            .manifests
            .iter()
            .filter(|manifest| Some(*manifest) == chosen || under_way(manifest))
            .collect();
        match candidates.as_slice() {
            [] => None,
            [one] => {
                // The digest in a name may be that of an index, which this is a manifest of.
                self.pinned = false;
                self.manifest = Some(one.digest.clone());
                Some(count(PullScope::Image, &candidates, &offsets, look))
            }
            // A tag tells nothing of the digest behind it before the pull is done.
            _ => Some(count(PullScope::Repository, &candidates, &offsets, look)),
        }
    }
}

/// Adds up the parts of manifests, a part they share once.
fn count(
    scope: PullScope,
    manifests: &[&ImageManifest],
    offsets: &BTreeMap<&str, u64>,
    look: &PullLook,
) -> (PullScope, u64, u64) {
    let (mut done, mut total) = (0_u64, 0_u64);
    let mut counted = BTreeSet::new();
    for manifest in manifests {
        let lowest_under_way =
            manifest.parts.iter().skip(1).position(|part| offsets.contains_key(part.digest.as_str()));
        for (place, part) in manifest.parts.iter().enumerate() {
            let here = if look.present.contains(&part.digest) {
                part.size
            } else if let Some(offset) = offsets.get(part.digest.as_str()) {
                (*offset).min(part.size)
            } else if place > 0 && lowest_under_way.is_some_and(|lowest| place <= lowest) {
                // Layers are begun from the lowest up; one that was left out is unpacked already, for another image.
                continue;
            } else {
                0
            };
            if counted.insert(part.digest.as_str()) {
                total = total.saturating_add(part.size);
                done = done.saturating_add(here);
            }
        }
    }
    (scope, done, total)
}

/// Adds up everything that is under way; `None` when there is nothing.
fn of_node(seen: &BTreeMap<String, (u64, u64)>) -> Option<(PullScope, u64, u64)> {
    let sum = |pick: fn(&(u64, u64)) -> u64| seen.values().map(pick).fold(0, u64::saturating_add);
    (!seen.is_empty()).then(|| (PullScope::Node, sum(|bytes| bytes.0), sum(|bytes| bytes.1)))
}

fn per_second(bytes: u64, time: Duration) -> u64 {
    u64::try_from(u128::from(bytes) * 1000 / time.as_millis().max(1)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MB: u64 = 1_000_000;

    fn ingest(name: &str, offset: u64, total: u64) -> Ingest {
        Ingest { reference: format!("layer-sha256:{name}"), offset: offset * MB, total: total * MB }
    }

    /// A manifest without a config of any size, and layers of so many MB.
    fn manifest(name: &str, layers: &[(&str, u64)]) -> ImageManifest {
        let config = ImagePart { digest: format!("sha256:{name}-config"), size: 0 };
        let layers =
            layers.iter().map(|(n, size)| ImagePart { digest: format!("sha256:{n}"), size: size * MB });
        ImageManifest { digest: name.into(), parts: std::iter::once(config).chain(layers).collect() }
    }

    fn look(ingests: &[Ingest], manifests: &[ImageManifest], present: &[&str]) -> PullLook {
        PullLook {
            ingests: ingests.to_vec(),
            manifests: manifests.to_vec(),
            present: present.iter().map(|name| format!("sha256:{name}")).collect(),
        }
    }

    /// What is said of looks that are ten seconds apart.
    #[track_caller]
    fn check(looks: &[PullLook], expected: &[&str]) {
        let mut meter = PullMeter::default();
        let said: Vec<String> = (0..)
            .zip(looks)
            .map(|(n, look)| {
                let progress = meter.read(look, Duration::from_secs(n * 10));
                progress.map_or("-".to_owned(), |progress| progress.to_string())
            })
            .collect();
        assert_eq!(said, expected);
    }

    #[test]
    fn an_image_with_a_known_manifest_has_a_percentage() {
        let app = [manifest("app", &[("a", 20), ("b", 100)])];
        check(
            &[
                look(&[], &[], &[]),
                look(&[ingest("a", 10, 20)], &app, &[]),
                look(&[ingest("b", 32, 100)], &app, &["a"]),
                look(&[ingest("b", 32, 100)], &app, &["a"]),
                look(&[ingest("b", 99, 100)], &app, &["a"]),
                look(&[], &app, &["a", "b"]),
            ],
            &[
                "-",
                "8 % of 120 MB",
                "43 % of 120 MB at 4.2 MB/s",
                "43 % of 120 MB, nothing new for 10 s",
                "99 % of 120 MB at 6.7 MB/s",
                "all 120 MB downloaded, unpacking",
            ],
        );
    }

    #[test]
    fn without_a_manifest_the_downloads_of_the_node_are_told_as_such() {
        check(
            &[
                look(&[ingest("a", 10, 20)], &[], &[]),
                look(&[ingest("a", 20, 20), ingest("b", 20, 100)], &[], &[]),
                look(&[ingest("b", 32, 100)], &[], &[]),
                look(&[ingest("b", 32, 0)], &[], &[]),
                look(&[], &[], &[]),
            ],
            &[
                "10 MB of at least 20 MB (all downloads of the node)",
                "40 MB of at least 120 MB at 3.0 MB/s (all downloads of the node)",
                "52 MB of at least 120 MB at 1.2 MB/s (all downloads of the node)",
                "52 MB, nothing new for 10 s (all downloads of the node)",
                "-",
            ],
        );
    }

    #[test]
    fn several_pulls_are_told_apart() {
        let app = manifest("app", &[("base", 10), ("a", 30)]);
        // Another image's layers are under way, and an old image of the same repository lacks a layer that the
        // runtime threw away.
        let old = manifest("old", &[("gone", 50)]);
        let one = look(&[ingest("a", 15, 30), ingest("x", 70, 80)], &[old, app.clone()], &["base"]);
        check(&[one], &["62 % of 40 MB"]);
        // Two tags of one repository that share a layer.
        let next = manifest("next", &[("base", 10), ("b", 60)]);
        let both = [app, next];
        check(
            &[look(&[ingest("base", 5, 10), ingest("a", 5, 30), ingest("b", 10, 60)], &both, &[])],
            &["20 % of 100 MB (with other images of the repository)"],
        );
    }

    #[test]
    fn a_pull_that_was_recognized_stays_so_between_layers() {
        let app = [manifest("app", &[("a", 10), ("b", 10)])];
        let other = ingest("c", 5, 10);
        check(
            &[
                look(&[ingest("a", 5, 10)], &app, &[]),
                look(std::slice::from_ref(&other), &app, &["a"]),
                look(&[other, ingest("b", 1, 10)], &app, &["a"]),
            ],
            &["25 % of 20 MB", "50 % of 20 MB at 500 kB/s", "55 % of 20 MB at 100 kB/s"],
        );
    }

    #[test]
    fn of_two_tags_that_are_pulled_at_once_neither_is_taken_for_the_other() {
        let (app, next) = (manifest("app", &[("a", 10)]), manifest("next", &[("b", 30)]));
        check(
            &[
                look(&[ingest("a", 5, 10)], std::slice::from_ref(&app), &[]),
                look(&[ingest("a", 9, 10), ingest("b", 1, 30)], &[app.clone(), next.clone()], &[]),
                look(&[ingest("b", 20, 30)], &[app, next], &["a"]),
            ],
            &[
                "50 % of 10 MB",
                "25 % of 40 MB (with other images of the repository)",
                "75 % of 40 MB at 2.0 MB/s (with other images of the repository)",
            ],
        );
    }

    #[test]
    fn a_digest_in_the_name_settles_which_image_it_is() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let app = manifest(&digest, &[("a", 10)]);
        let next = manifest("next", &[("a", 10), ("b", 30)]);
        let both = look(&[ingest("a", 5, 10), ingest("b", 5, 30)], &[next, app], &[]);
        let said = |image: &str| {
            PullMeter::new(image).read(&both, Duration::ZERO).map(|progress| progress.to_string())
        };
        assert_eq!(said(&format!("r.test/app@{digest}")).as_deref(), Some("50 % of 10 MB"));
        let index = format!("r.test/app@sha256:{}", "1".repeat(64));
        assert_eq!(said(&index), said("r.test/app:1"));
        assert_eq!(said(&index).as_deref(), Some("25 % of 40 MB (with other images of the repository)"));
    }

    #[test]
    fn layers_that_are_unpacked_already_are_not_waited_for() {
        let app = [manifest("app", &[("base", 100), ("a", 10), ("b", 10)])];
        check(&[look(&[ingest("a", 5, 10)], &app, &[])], &["25 % of 20 MB"]);
    }

    #[test]
    fn a_download_that_begins_anew_has_no_negative_rate() {
        let app = [manifest("app", &[("a", 100)])];
        let at = |offset| look(&[ingest("a", offset, 100)], &app, &[]);
        check(&[at(50), at(10)], &["50 % of 100 MB", "10 % of 100 MB at 0 kB/s"]);
    }

    #[test]
    fn bytes_are_in_units_people_read() {
        for (bytes, expected) in [
            (0, "0 kB"),
            (1_500, "1.5 kB"),
            (999_999, "999 kB"),
            (1_000_000, "1.0 MB"),
            (12_345_678, "12 MB"),
            (9_990_000_000, "9.9 GB"),
            (u64::MAX, "18446744073 GB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), expected);
        }
    }

    #[test]
    fn digests_are_found_in_names_of_downloads() {
        for (reference, expected) in [
            ("layer-sha256:abc", Some("sha256:abc")),
            ("manifest-v1@sha256:abc", Some("sha256:abc")),
            ("config-sha512:abc", Some("sha512:abc")),
            ("something", None),
            ("", None),
        ] {
            let ingest = Ingest { reference: reference.into(), ..Ingest::default() };
            assert_eq!(ingest.digest(), expected, "{reference}");
        }
    }

    #[test]
    fn sources_of_images() {
        for (image, expected) in [
            ("busybox", Some(("docker.io", "library/busybox"))),
            ("registry.example.com/team/app:1", Some(("registry.example.com", "team/app"))),
            (
                "127.0.0.1:5000/app@sha256:0000000000000000000000000000000000000000000000000000000000000000",
                Some(("127.0.0.1", "app")),
            ),
            ("[::1]:5000/app", Some(("::1", "app"))),
            ("Not A Name", None),
        ] {
            let source = source_of(image);
            assert_eq!(source.as_ref().map(|(h, p)| (h.as_str(), p.as_str())), expected, "{image}");
        }
    }

    #[test]
    fn manifests_are_read_and_nothing_else() {
        let json = br#"{"schemaVersion":2,"config":{"digest":"sha256:c","size":3},"layers":[{"digest":"sha256:l","size":7,"mediaType":"x"}]}"#;
        let part = |digest: &str, size| ImagePart { digest: digest.into(), size };
        let parts = vec![part("sha256:c", 3), part("sha256:l", 7)];
        assert_eq!(parse_manifest("d", json), Some(ImageManifest { digest: "d".into(), parts }));
        for other in
            [&br#"{"manifests":[]}"#[..], b"", b"[]", br#"{"config":{"digest":"x","size":-1},"layers":[]}"#]
        {
            assert_eq!(parse_manifest("d", other), None);
        }
    }

    proptest! {
        #[test]
        fn what_is_here_is_never_more_than_all(
            sizes in prop::collection::vec(any::<u64>(), 0..6),
            offsets in prop::collection::vec((0..8_usize, any::<u64>(), any::<u64>()), 0..6),
            present in prop::collection::btree_set(0..6_usize, 0..4),
        ) {
            let digest = |n: usize| format!("sha256:{n}");
            let parts = sizes.iter().enumerate().map(|(n, &size)| ImagePart { digest: digest(n), size }).collect();
            let look = PullLook {
                ingests: offsets.iter().map(|&(n, offset, total)| Ingest { reference: format!("layer-{}", digest(n)), offset, total }).collect(),
                manifests: vec![ImageManifest { digest: "m".into(), parts }],
                present: present.into_iter().map(digest).collect(),
            };
            let mut meter = PullMeter::default();
            for at in 0..2 {
                if let Some(progress) = meter.read(&look, Duration::from_secs(at)) {
                    prop_assert!(progress.done <= progress.total);
                    prop_assert!(progress.percent().is_none_or(|percent| percent <= 100));
                    let _ = progress.to_string();
                }
            }
        }
    }
}
