//! What a request says beside its object: the options of its query, checked as `k8s.io/apimachinery` checks them.
//!
//! Parsing and checking only.

use rubelet_apimachinery::decode::FieldValidation;
use rubelet_apimachinery::status::{ApiError, Cause, bad_request};
use serde_json::json;

use super::request::{Query, quoted};

/// The longest name of a field manager.
const MAX_MANAGER: usize = 128;

/// Options of a create, update or patch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct WriteOptions {
    pub(crate) dry_run: bool,
    /// Empty when the client names none.
    pub(crate) manager: String,
    pub(crate) validation: FieldValidation,
    pub(crate) force: bool,
}

/// The 422 answer for options of this kind.
pub(crate) fn invalid_options(kind: &str, causes: &[Cause]) -> ApiError {
    let lines: Vec<String> = causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect();
    let lines = if lines.len() == 1 { lines.concat() } else { format!("[{}]", lines.join(", ")) };
    let mut error = ApiError::new(422, "Invalid", format!("{kind}.meta.k8s.io \"\" is invalid: {lines}"));
    let causes: Vec<_> =
        causes.iter().map(|c| json!({"reason": c.reason, "message": c.message, "field": c.field})).collect();
    error.details = json!({"group": "meta.k8s.io", "kind": kind, "causes": causes});
    error
}

fn cause(field: &str, reason: &'static str, message: impl Into<String>) -> Cause {
    Cause { field: field.into(), reason, message: message.into() }
}

impl WriteOptions {
    /// Reads the options of a write; `kind` is `CreateOptions`, `UpdateOptions` or `PatchOptions`, `apply` says whether
    /// it is a server-side apply.
    ///
    /// # Errors
    /// 422 that lists everything wrong.
    pub(crate) fn read(query: &Query, kind: &str, apply: bool) -> Result<Self, ApiError> {
        let mut causes = Vec::new();
        let manager = query.text("fieldManager").unwrap_or_default();
        if kind == "PatchOptions" {
            if apply && manager.is_empty() {
                let message = "Required value: is required for apply patch";
                causes.push(cause("fieldManager", "FieldValueRequired", message));
            }
            if !apply && query.has("force") {
                let message = "Forbidden: may not be specified for non-apply patch";
                causes.push(cause("force", "FieldValueForbidden", message));
            }
        }
        if manager.len() > MAX_MANAGER {
            let message = format!("Too long: may not be more than {MAX_MANAGER} bytes");
            causes.push(cause("fieldManager", "FieldValueTooLong", message));
        }
        for (at, odd) in manager.char_indices().filter(|(_, c)| c.is_control()) {
            let message = format!(
                "Invalid value: {}: invalid character U+{:04X} (at position {at})",
                quoted(manager),
                u32::from(odd)
            );
            causes.push(cause("fieldManager", "FieldValueInvalid", message));
        }
        let dry_run = dry_run(query.all("dryRun"), &mut causes);
        let said = query.text("fieldValidation").unwrap_or_default();
        let validation = FieldValidation::parse(said);
        if validation.is_none() {
            let message = format!(
                "Unsupported value: {}: supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"",
                quoted(said)
            );
            causes.push(cause("fieldValidation", "FieldValueNotSupported", message));
        }
        if !causes.is_empty() {
            return Err(invalid_options(kind, &causes));
        }
        let force = query.flag("force").unwrap_or(false);
        Ok(Self { dry_run, manager: manager.to_owned(), validation: validation.unwrap_or_default(), force })
    }
}

/// Whether these values of `dryRun` ask for one.
pub(crate) fn dry_run<'a>(values: impl Iterator<Item = &'a str>, causes: &mut Vec<Cause>) -> bool {
    let values: Vec<&str> = values.collect();
    if values.iter().any(|value| *value != "All") {
        let message = format!("Unsupported value: {values:?}: supported values: \"All\"");
        causes.push(cause("dryRun", "FieldValueNotSupported", message));
    }
    !values.is_empty()
}

/// The resource version a read asks for; `None` when the client does not care.
///
/// # Errors
/// 400 for what is none.
pub(crate) fn version(query: &Query) -> Result<Option<u64>, ApiError> {
    let Some(text) = query.text("resourceVersion") else { return Ok(None) };
    text.parse().map(Some).map_err(|_| {
        let text = quoted(text);
        bad_request(format!(
            "resourceVersion: Invalid value: {text}: strconv.ParseUint: parsing {text}: invalid syntax"
        ))
    })
}

/// How the resource version of a list is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Match {
    Exact,
    NotOlderThan,
}

/// Options of a list, watch or deletecollection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ListOptions {
    pub(crate) labels: String,
    pub(crate) fields: String,
    /// `None` when the client does not care, `Some(0)` for "whatever is at hand".
    pub(crate) version: Option<u64>,
    pub(crate) version_match: Option<Match>,
    pub(crate) limit: usize,
    pub(crate) continued: Option<String>,
    /// Whether a watch is to begin with what is there; decided for every watch.
    pub(crate) initial_events: bool,
    /// Whether the client itself asked for the initial events, and so for the mark at their end.
    pub(crate) watch_list: bool,
    pub(crate) bookmarks: bool,
    pub(crate) timeout_seconds: Option<u64>,
}

impl ListOptions {
    /// Reads the options of a list (`watch` false) or watch.
    ///
    /// # Errors
    /// 400 for values that cannot be read, 422 for those that do not go together.
    pub(crate) fn read(query: &Query, watch: bool) -> Result<Self, ApiError> {
        let text = |name: &str| query.text(name).unwrap_or_default().to_owned();
        let version = version(query)?;
        let limit = usize::try_from(query.number("limit")?.unwrap_or(0)).unwrap_or(0);
        let timeout_seconds = query.number("timeoutSeconds")?.and_then(|t| u64::try_from(t).ok());
        let sends_initial = query.flag("sendInitialEvents");
        let continued = query.text("continue").map(str::to_owned);
        let mut causes = Vec::new();
        let version_match =
            check_match(query, watch, sends_initial.is_some(), continued.is_some(), &mut causes);
        if !causes.is_empty() {
            return Err(invalid_options("ListOptions", &causes));
        }
        let legacy = version.is_none_or(|version| version == 0);
        Ok(Self {
            labels: text("labelSelector"),
            fields: text("fieldSelector"),
            version,
            version_match,
            limit,
            continued,
            initial_events: sends_initial.unwrap_or(legacy),
            watch_list: sends_initial == Some(true),
            bookmarks: query.flag("allowWatchBookmarks").unwrap_or(false),
            timeout_seconds: timeout_seconds.filter(|seconds| *seconds > 0),
        })
    }
}

fn check_match(
    query: &Query,
    watch: bool,
    sends_initial: bool,
    continued: bool,
    causes: &mut Vec<Cause>,
) -> Option<Match> {
    let forbid = |field: &str, why: &str| cause(field, "FieldValueForbidden", format!("Forbidden: {why}"));
    let text = query.text("resourceVersionMatch");
    let found = match text {
        Some("Exact") => Some(Match::Exact),
        Some("NotOlderThan") => Some(Match::NotOlderThan),
        _ => None,
    };
    let field = "resourceVersionMatch";
    if watch {
        if sends_initial && found != Some(Match::NotOlderThan) {
            let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            causes.push(forbid(field, why));
        }
        if let Some(text) = text {
            if !sends_initial {
                let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
                causes.push(forbid(field, why));
            }
            if found != Some(Match::NotOlderThan) {
                let message =
                    format!("Unsupported value: {}: supported values: \"NotOlderThan\"", quoted(text));
                causes.push(cause(field, "FieldValueNotSupported", message));
            }
            if continued {
                causes.push(forbid(field, "resourceVersionMatch is forbidden when continue is provided"));
            }
        }
        return found;
    }
    if let Some(text) = text {
        if query.text("resourceVersion").is_none() {
            causes
                .push(forbid(field, "resourceVersionMatch is forbidden unless resourceVersion is provided"));
        }
        if continued {
            causes.push(forbid(field, "resourceVersionMatch is forbidden when continue is provided"));
        }
        if found.is_none() {
            let message = format!(
                "Unsupported value: {}: supported values: \"Exact\", \"NotOlderThan\", \"\"",
                quoted(text)
            );
            causes.push(cause(field, "FieldValueNotSupported", message));
        }
        if found == Some(Match::Exact) && query.text("resourceVersion") == Some("0") {
            let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            causes.push(forbid(field, why));
        }
    }
    if sends_initial {
        causes.push(forbid("sendInitialEvents", "sendInitialEvents is forbidden for list"));
    }
    found
}
