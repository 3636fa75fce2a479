//! From an argument list to a validated configuration: which source wins, and what is reported.
//!
//! Owns the order of sources (defaults, `--config` file, `--config-dir` drop-ins, flags), the
//! defaults that depend on other fields, and the collecting of every problem. All file access goes
//! through [`Files`]. Called once, by the agent's start.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use crate::acted_on::not_acted_on;
use crate::configuration::KubeletConfiguration;
use crate::document::{Strictness, lay_over};
use crate::files::{Files, OsFiles};
use crate::flags::{self, Given, KubeletFlags, Settings};
use crate::gate_table::Gate;
use crate::gates::FeatureGates;
use crate::problem::{Origin, Origins, Problem};
use crate::validate::{check_flags, skipped_node_ips};

/// The Kubernetes release whose behaviour this configuration describes.
pub const KUBERNETES_VERSION: &str = "v1.36.2";

/// What the command line asks for.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Run the agent.
    Run(Box<Loaded>),
    /// Print this text and a line end to standard output and exit successfully (`--help`, `--version`).
    Print(String),
}

/// A complete, validated configuration.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The merged configuration.
    pub config: KubeletConfiguration,
    /// The flags that are no configuration fields.
    pub flags: KubeletFlags,
    /// The state of all feature gates.
    pub gates: FeatureGates,
    /// Where each field that somebody set came from.
    pub origins: Origins,
    /// To be logged once at start.
    pub warnings: Vec<String>,
    /// The files that were read, in the order of their precedence.
    pub files: Vec<PathBuf>,
    /// Files in the drop-in directory that do not end in `.conf`.
    pub skipped_files: Vec<PathBuf>,
    /// Flags that were given and are no configuration fields, without dashes.
    pub flags_given: BTreeSet<&'static str>,
}

/// Everything that keeps the agent from starting, in the order of the sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadErrors(pub Vec<Problem>);

impl fmt::Display for LoadErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            // It has no place but the configuration as a whole, which has just been named.
            [one] if one.origin == Origin::Nowhere => write!(f, "invalid {one}"),
            [one] => write!(f, "invalid configuration: {one}"),
            many => {
                write!(f, "invalid configuration, {} problems:", many.len())?;
                many.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
            }
        }
    }
}

impl std::error::Error for LoadErrors {}

/// Reads the process's arguments, the first of which is the program's name, and the files they name.
///
/// # Errors
/// As [`load_from`].
pub fn load(args: impl IntoIterator<Item = OsString>) -> Result<Outcome, LoadErrors> {
    load_from(args.into_iter().skip(1), &OsFiles)
}

/// Reads arguments, without the program's name, and the files they name.
///
/// # Errors
/// Every problem of the command line, the files and the resulting configuration, each with its
/// place, the field, the value and what is allowed.
pub fn load_from(args: impl IntoIterator<Item = OsString>, files: &dyn Files) -> Result<Outcome, LoadErrors> {
    let args: Vec<OsString> = args.into_iter().collect();
    let (given, problems) = flags::parse(&args);
    let mut loader = Loader {
        files,
        errors: problems,
        warnings: Vec::new(),
        origins: Origins::default(),
        read: Vec::new(),
        skipped: Vec::new(),
    };
    let mut settings = Settings { config: legacy_defaults(), flags: KubeletFlags::default() };
    let mut ignored = Origins::default();
    let bad_values = apply_flags(&given, &mut settings, &mut ignored);
    loader.errors.extend(bad_values);
    if let Some(text) = printed(&settings.flags) {
        return Ok(Outcome::Print(text));
    }
    let mut config = match settings.flags.config.as_str() {
        "" => legacy_defaults(),
        path => loader.config_file(Path::new(path)),
    };
    if !settings.flags.config_dir.is_empty() {
        loader.drop_ins(Path::new(&settings.flags.config_dir), &mut config);
    }
    settings.config = config;
    // Values that do not parse have been reported above.
    let _ = apply_flags(&given, &mut settings, &mut loader.origins);
    loader.finish(settings, &given)
}

/// The text of `--help` or `--version`, when one of them was given.
fn printed(flags: &KubeletFlags) -> Option<String> {
    if flags.help {
        return Some(flags::help_text());
    }
    match flags.version.as_str() {
        "true" => Some(format!("Kubernetes {KUBERNETES_VERSION}")),
        "raw" => Some(format!(
            "rubelet {} (behaves as Kubernetes {KUBERNETES_VERSION})",
            env!("CARGO_PKG_VERSION")
        )),
        _ => None,
    }
}

/// Defaults for a command line without `--config` (upstream `applyLegacyDefaults`).
fn legacy_defaults() -> KubeletConfiguration {
    let mut config = KubeletConfiguration::default();
    config.authentication.anonymous.enabled = true;
    config.authentication.webhook.enabled = false;
    "AlwaysAllow".clone_into(&mut config.authorization.mode);
    config.read_only_port = 10255;
    config
}

/// Hard eviction thresholds of a `--config` file that says nothing (upstream `DefaultEvictionHard`).
fn default_eviction_hard() -> BTreeMap<String, String> {
    [
        ("memory.available", "100Mi"),
        ("nodefs.available", "10%"),
        ("nodefs.inodesFree", "5%"),
        ("imagefs.available", "15%"),
        ("imagefs.inodesFree", "5%"),
    ]
    .map(|(signal, amount)| (signal.to_owned(), amount.to_owned()))
    .into()
}

/// Applies flags in order and returns the values that do not parse.
///
/// Feature gates are merged with those set before; every other flag replaces its field.
fn apply_flags(given: &[Given<'_>], settings: &mut Settings, origins: &mut Origins) -> Vec<Problem> {
    let gates_before = settings.config.feature_gates.clone();
    let mut seen = BTreeSet::new();
    let mut problems = Vec::new();
    for given in given {
        let flag = given.flag;
        let first = seen.insert(flag.name);
        if let Err(message) = (flag.set)(settings, given.text, first) {
            let shown = if flag.is_secret() { "<masked>" } else { given.text };
            let mut problem = Problem::field(flag.field.unwrap_or_default(), shown, message);
            problem.origin = Origin::Flag(flag.name.to_owned());
            problems.push(problem);
            continue;
        }
        let Some(field) = flag.field else { continue };
        let origin = Origin::Flag(flag.name.to_owned());
        if field == "featureGates" {
            for name in settings.config.feature_gates.keys() {
                origins.set(&format!("featureGates[{name}]"), origin.clone());
            }
        } else {
            origins.unset(field);
        }
        origins.set(field, origin);
    }
    for (name, value) in gates_before {
        settings.config.feature_gates.entry(name).or_insert(value);
    }
    problems
}

struct Loader<'a> {
    files: &'a dyn Files,
    errors: Vec<Problem>,
    warnings: Vec<String>,
    origins: Origins,
    read: Vec<PathBuf>,
    skipped: Vec<PathBuf>,
}

impl Loader<'_> {
    /// Lays one file over `config`; what cannot be read is reported and changes nothing.
    fn lay_over(&mut self, path: &Path, config: &mut KubeletConfiguration, how: Strictness) {
        let file: Arc<str> = path.display().to_string().into();
        match self.files.read(path) {
            Err(error) => self.unreadable(path, &error),
            Ok(bytes) => {
                let findings = lay_over(config, &mut self.origins, &file, &bytes, how);
                self.errors.extend(findings.errors);
                self.warnings.extend(findings.warnings.iter().map(ToString::to_string));
                self.read.push(path.to_owned());
            }
        }
    }

    fn unreadable(&mut self, path: &Path, error: &std::io::Error) {
        let message = format!("{}: cannot be read: {error}", path.display());
        self.errors.push(Problem::plain(Origin::Nowhere, "", message));
    }

    fn config_file(&mut self, path: &Path) -> KubeletConfiguration {
        let mut config = KubeletConfiguration::default();
        self.lay_over(path, &mut config, Strictness::ConfigFile);
        // Upstream settles these three right after the file, so drop-ins do not take part.
        if self.origins.is_set("nodeStatusUpdateFrequency")
            && !self.origins.is_set("nodeStatusReportFrequency")
        {
            config.node_status_report_frequency = config.node_status_update_frequency;
        }
        if !self.origins.is_set("evictionHard") {
            config.eviction_hard = default_eviction_hard();
        } else if config.merge_default_eviction_settings {
            for (signal, amount) in default_eviction_hard() {
                config.eviction_hard.entry(signal).or_insert(amount);
            }
        }
        match self.files.absolute(path) {
            Ok(absolute) => {
                resolve_paths(&mut config, absolute.parent().unwrap_or(Path::new("/")));
            }
            Err(error) => self.unreadable(path, &error),
        }
        config
    }

    fn drop_ins(&mut self, directory: &Path, config: &mut KubeletConfiguration) {
        let found = match self.files.walk(directory) {
            Ok(found) => found,
            Err(error) => return self.unreadable(directory, &error),
        };
        for path in found {
            if path.extension().is_some_and(|extension| extension == "conf") {
                self.lay_over(&path, config, Strictness::DropIn);
            } else {
                self.skipped.push(path);
            }
        }
    }

    /// Settles dependent defaults, validates, and puts everything together.
    fn finish(mut self, settings: Settings, given: &[Given<'_>]) -> Result<Outcome, LoadErrors> {
        let Settings { mut config, flags } = settings;
        config.seccomp_default |= flags.seccomp_default;
        settle(&mut config, &self.origins);
        // A field that could not be read holds its default; do not complain about that as well.
        let unread: BTreeSet<String> = self.errors.iter().map(|p| p.field.clone()).collect();
        let found = config.validate().into_iter().filter(|p| !unread.contains(&p.field));
        self.errors.extend(found.map(|problem| self.origins.locate(problem)));
        self.errors.extend(check_flags(&flags));
        if !self.errors.is_empty() {
            return Err(LoadErrors(self.errors));
        }
        let advice = config.advice().into_iter().map(|p| self.origins.locate(p).to_string());
        self.warnings.extend(advice);
        for part in skipped_node_ips(&flags.node_ip) {
            self.warnings.push(format!("flag --node-ip: {part:?}: not an IP address; it is ignored"));
        }
        let retiring = FeatureGates::retiring(&config.feature_gates);
        if !retiring.is_empty() {
            self.warnings.push(format!(
                "these feature gates will be removed in a later release, stop setting them: {}",
                retiring.join(", ")
            ));
        }
        self.warnings.extend(flags::deprecation_notice(given));
        let own = given.iter().map(|given| given.flag).filter(|flag| flag.field.is_none());
        let mut loaded = Loaded {
            gates: config.gates(),
            flags_given: own.map(|flag| flag.name).collect(),
            config,
            flags,
            origins: self.origins,
            warnings: self.warnings,
            files: self.read,
            skipped_files: self.skipped,
        };
        let not_yet = not_acted_on(&loaded);
        if !not_yet.is_empty() {
            let list = not_yet.join(", ");
            loaded.warnings.push(format!("these settings are accepted but not acted on yet: {list}"));
        }
        Ok(Outcome::Run(Box::new(loaded)))
    }
}

/// Defaults that depend on other fields and on gates, for fields nobody set.
fn settle(config: &mut KubeletConfiguration, origins: &Origins) {
    if !origins.is_set("serializeImagePulls") {
        config.serialize_image_pulls = config.max_parallel_image_pulls.is_none_or(|pulls| pulls < 2);
    }
    config.pod_pids_limit = config.pod_pids_limit.max(-1);
    let gates = config.gates();
    if !gates.enabled(Gate::KubeletCrashLoopBackOffMax)
        && !origins.is_set("crashLoopBackOff.maxContainerRestartPeriod")
    {
        config.crash_loop_back_off.max_container_restart_period = None;
    }
    if !gates.enabled(Gate::KubeletEnsureSecretPulledImages)
        && !origins.is_set("imagePullCredentialsVerificationPolicy")
    {
        config.image_pull_credentials_verification_policy.clear();
    }
}

/// Makes relative paths of a `--config` file absolute (upstream `KubeletConfigurationPathRefs`).
fn resolve_paths(config: &mut KubeletConfiguration, base: &Path) {
    for path in [
        &mut config.static_pod_path,
        &mut config.authentication.x509.client_ca_file,
        &mut config.tls_cert_file,
        &mut config.tls_private_key_file,
        &mut config.resolv_conf,
        &mut config.volume_plugin_dir,
        &mut config.pod_logs_dir,
    ] {
        if !path.is_empty() && !path.starts_with('/') {
            *path = clean(&base.join(&*path)).display().to_string();
        }
    }
}

/// The path without `.` and `..`, by its text alone.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                clean.pop();
            }
            other => clean.push(other),
        }
    }
    clean
}
