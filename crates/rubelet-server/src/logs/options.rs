//! What a client asks of a log (upstream `PodLogOptions`): read from the query, checked, refused in upstream's words.

use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use rubelet_core::validation::field::{Errors, Path};
use rubelet_core::validation::{FieldError, Reason};
use serde_json::json;

use crate::problem::Problem;
use crate::query::Query;

/// Which of a container's outputs are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wanted {
    /// Both, in the order they were written.
    #[default]
    All,
    /// Standard output only.
    Stdout,
    /// Standard error only.
    Stderr,
}

/// From when on lines are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// So many seconds before the request.
    Seconds(i64),
    /// From a point in time.
    Time(Timestamp),
}

/// What is wanted of a log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogOptions {
    /// The container; the only one of the pod when absent.
    pub container: Option<String>,
    /// Go on with what is written from now on, until the container has ended.
    pub follow: bool,
    /// The container's run before this one.
    pub previous: bool,
    /// Older lines are left out.
    pub since: Option<Since>,
    /// Each line begins with the time it was written.
    pub timestamps: bool,
    /// So many lines from the end.
    pub tail_lines: Option<u64>,
    /// No more bytes than this.
    pub limit_bytes: Option<u64>,
    /// Which outputs.
    pub wanted: Wanted,
}

/// Why a query was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// A value is none: 400.
    #[error("{0}")]
    Query(String),
    /// Values that may not be, or not together: 422.
    #[error("invalid log options")]
    Invalid(Vec<FieldError>),
}

impl OptionsError {
    /// The answer as kube-apiserver words it for the log of pod `name`.
    pub fn problem(&self, name: &str) -> Problem {
        match self {
            OptionsError::Query(why) => Problem::bad_request(why),
            OptionsError::Invalid(errors) => {
                let listed: Vec<String> = errors.iter().map(FieldError::to_string).collect();
                let listed = match listed.as_slice() {
                    [one] => one.clone(),
                    many => format!("[{}]", many.join(", ")),
                };
                let causes: Vec<_> = errors
                    .iter()
                    .map(|error| {
                        let whole = error.to_string();
                        let message = whole.strip_prefix(&error.field).unwrap_or(&whole);
                        json!({
                            "reason": cause(error.reason),
                            "message": message.trim_start_matches(": "),
                            "field": error.field,
                        })
                    })
                    .collect();
                Problem {
                    code: StatusCode::UNPROCESSABLE_ENTITY,
                    message: format!("PodLogOptions {name:?} is invalid: {listed}"),
                    details: json!({"name": name, "kind": "PodLogOptions", "causes": causes}),
                }
            }
        }
    }

    /// The answer as the node's own port words it: a small JSON text.
    pub fn node_problem(&self) -> Problem {
        let (code, text) = match self {
            OptionsError::Query(_) => (StatusCode::BAD_REQUEST, "Unable to decode query."),
            OptionsError::Invalid(_) => (StatusCode::UNPROCESSABLE_ENTITY, "Invalid request."),
        };
        Problem::new(code, format!("{{\"message\": \"{text}\"}}"))
    }
}

fn cause(reason: Reason) -> &'static str {
    match reason {
        Reason::Unsupported => "FieldValueNotSupported",
        Reason::Forbidden => "FieldValueForbidden",
        Reason::Required => "FieldValueRequired",
        _ => "FieldValueInvalid",
    }
}

impl LogOptions {
    /// Reads a query as the API and the node's `/containerLogs` take it; the old `tail` (with `all`) is understood.
    ///
    /// # Errors
    /// [`OptionsError`], as kube-apiserver and kubelet refuse (upstream `ValidatePodLogOptions`).
    pub fn from_query(query: &str) -> Result<Self, OptionsError> {
        let query = Query::parse(query);
        let number = |name: &str| query.integer(name).map_err(OptionsError::Query);
        let tail = match query.first("tail").filter(|tail| !tail.is_empty()) {
            Some("all") => None,
            Some(tail) => Some(crate::query::integer(tail).map_err(OptionsError::Query)?),
            None => number("tailLines")?,
        };
        let limit = number("limitBytes")?;
        let seconds = number("sinceSeconds")?;
        let time = match query.first("sinceTime") {
            None | Some("" | "null") => None,
            Some(text) => Some(text.parse::<Timestamp>().map_err(|_| {
                OptionsError::Query(format!(
                    "parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse"
                ))
            })?),
        };

        let mut errors = Errors::default();
        if let Some(tail) = tail.filter(|tail| *tail < 0) {
            errors.invalid(&Path::new("tailLines"), &tail, "must be greater than or equal to 0");
        }
        if let Some(limit) = limit.filter(|limit| *limit < 1) {
            errors.invalid(&Path::new("limitBytes"), &limit, "must be greater than 0");
        }
        let since = match (seconds, time) {
            (Some(_), Some(_)) => {
                let both = "at most one of `sinceTime` or `sinceSeconds` may be specified";
                errors.forbidden(&Path::new(""), both);
                None
            }
            (Some(seconds), None) => {
                if seconds < 1 {
                    errors.invalid(&Path::new("sinceSeconds"), &seconds, "must be greater than 0");
                }
                Some(Since::Seconds(seconds))
            }
            (None, time) => time.map(Since::Time),
        };
        let wanted = match query.first("stream") {
            None | Some("All") => Wanted::All,
            Some("Stdout") => Wanted::Stdout,
            Some("Stderr") => Wanted::Stderr,
            Some(other) => {
                errors.unsupported(&Path::new("stream"), other, &["All", "Stderr", "Stdout"]);
                Wanted::All
            }
        };
        if tail.is_some() && !matches!(query.first("stream"), None | Some("All")) {
            let both = "`tailLines` and specific `stream` are mutually exclusive for now";
            errors.forbidden(&Path::new(""), both);
        }
        if !errors.0.is_empty() {
            return Err(OptionsError::Invalid(errors.0));
        }
        Ok(Self {
            container: query.first("container").filter(|name| !name.is_empty()).map(str::to_owned),
            follow: query.flag("follow"),
            previous: query.flag("previous"),
            since,
            timestamps: query.flag("timestamps"),
            tail_lines: tail.and_then(|tail| u64::try_from(tail).ok()),
            limit_bytes: limit.and_then(|limit| u64::try_from(limit).ok()),
            wanted,
        })
    }

    /// The time before which lines are left out, when it is `now`.
    pub fn since(&self, now: Timestamp) -> Option<Timestamp> {
        self.since.map(|since| match since {
            Since::Time(time) => time,
            Since::Seconds(seconds) => {
                now.checked_sub(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MIN)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(query: &str, code: u16, message: &str) {
        let problem = LogOptions::from_query(query).unwrap_err().problem("web");
        assert_eq!((problem.code.as_u16(), problem.message.as_str()), (code, message), "{query}");
    }

    #[test]
    fn reads_every_option() {
        let options = LogOptions::from_query(
            "container=c&follow=true&previous&sinceTime=2024-01-02T03:04:05%2B01:00&timestamps=1&tailLines=5&limitBytes=7",
        )
        .unwrap();
        assert_eq!(
            options,
            LogOptions {
                container: Some("c".to_owned()),
                follow: true,
                previous: true,
                since: Some(Since::Time("2024-01-02T02:04:05Z".parse().unwrap())),
                timestamps: true,
                tail_lines: Some(5),
                limit_bytes: Some(7),
                wanted: Wanted::All,
            }
        );
        assert_eq!(LogOptions::from_query("").unwrap(), LogOptions::default());
        assert_eq!(LogOptions::from_query("tail=all&tailLines=3").unwrap().tail_lines, None);
        assert_eq!(LogOptions::from_query("tail=4").unwrap().tail_lines, Some(4));
        assert_eq!(LogOptions::from_query("stream=Stderr").unwrap().wanted, Wanted::Stderr);
    }

    #[test]
    fn counts_seconds_from_now() {
        let now: Timestamp = "2024-01-02T00:00:10Z".parse().unwrap();
        let since =
            |query: &str| LogOptions::from_query(query).unwrap().since(now).map(|time| time.to_string());
        assert_eq!(since("sinceSeconds=10").as_deref(), Some("2024-01-02T00:00:00Z"));
        assert_eq!(since("sinceSeconds=9223372036854775807"), Some(Timestamp::MIN.to_string()));
        assert_eq!(since(""), None);
    }

    #[test]
    fn refuses_as_upstream_does() {
        refused("tailLines=x", 400, "strconv.ParseInt: parsing \"x\": invalid syntax");
        let start = "PodLogOptions \"web\" is invalid: ";
        for (query, rest) in [
            ("tailLines=-1", "tailLines: Invalid value: -1: must be greater than or equal to 0"),
            ("limitBytes=0", "limitBytes: Invalid value: 0: must be greater than 0"),
            ("sinceSeconds=0", "sinceSeconds: Invalid value: 0: must be greater than 0"),
            (
                "sinceSeconds=1&sinceTime=2024-01-01T00:00:00Z",
                ": Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified",
            ),
            (
                "stream=x",
                "stream: Unsupported value: \"x\": supported values: \"All\", \"Stderr\", \"Stdout\"",
            ),
            (
                "stream=Stdout&tailLines=1",
                ": Forbidden: `tailLines` and specific `stream` are mutually exclusive for now",
            ),
            (
                "limitBytes=0&tailLines=-2",
                "[tailLines: Invalid value: -2: must be greater than or equal to 0, limitBytes: Invalid value: 0: must be greater than 0]",
            ),
        ] {
            refused(query, 422, &format!("{start}{rest}"));
        }
        let error = LogOptions::from_query("tailLines=-1").unwrap_err();
        assert_eq!(error.node_problem().message, "{\"message\": \"Invalid request.\"}");
        assert_eq!(
            error.problem("web").details["causes"][0],
            json!({"reason": "FieldValueInvalid", "field": "tailLines",
                "message": "Invalid value: -1: must be greater than or equal to 0"})
        );
    }
}
