//! `/healthz` and the checks below it (upstream `apiserver/pkg/server/healthz`).
//!
//! The sum of all names the check that failed and keeps its reason back, which only the check itself tells.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use http::{Response, StatusCode};

use super::settings::Site;
use super::{Api, answers};
use crate::body::Body;
use crate::node::Check;
use crate::query::Query;

impl Api {
    /// Answers `/healthz`, or one check.
    pub(super) fn health(&self, check: Option<&str>, query: Option<&str>) -> Response<Body> {
        // On its own port only the process itself is asked.
        let checks = match self.site {
            Site::Healthz => vec![Check::passed("ping", None)],
            _ => self.node.checks(),
        };
        match check {
            None => self.all(&checks, &Query::parse(query.unwrap_or_default())),
            Some(name) => match checks.into_iter().find(|check| check.name == name) {
                None => super::nothing_here(),
                Some(Check { problem: None, note: None, .. }) => answers::text(StatusCode::OK, "ok"),
                Some(Check { problem: None, note: Some(note), .. }) => {
                    answers::text(StatusCode::OK, format!("ok: {note}"))
                }
                Some(Check { problem: Some(problem), .. }) => answers::error(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    &format!("internal server error: {problem}"),
                ),
            },
        }
    }

    fn all(&self, checks: &[Check], query: &Query) -> Response<Body> {
        let excluded: BTreeSet<&str> = query.all("exclude").collect();
        let mut unknown = excluded.clone();
        let mut report = String::new();
        let mut failed = false;
        for check in checks {
            let Check { name, problem, note } = check;
            if excluded.contains(name) {
                unknown.remove(name);
                let _ = writeln!(report, "[+]{name} excluded: ok");
                continue;
            }
            if self.site != Site::Healthz {
                self.metrics.observe_checks(std::slice::from_ref(check), "healthz");
            }
            match problem {
                None => {
                    let _ = match note {
                        None => writeln!(report, "[+]{name} ok"),
                        Some(note) => writeln!(report, "[+]{name} ok: {note}"),
                    };
                }
                Some(problem) => {
                    // Who says that the log is blocked must not wait for it.
                    if *name != "log" {
                        tracing::info!("healthz check failed: {name}: {problem}");
                    }
                    failed = true;
                    let _ = writeln!(report, "[-]{name} failed: reason withheld");
                }
            }
        }
        if !unknown.is_empty() {
            let names: Vec<String> = unknown.iter().map(|name| format!("{name:?}")).collect();
            let names = names.join(",");
            let _ = writeln!(report, "warn: some health checks cannot be excluded: no matches for {names}");
        }
        if failed {
            let message = format!("{report}healthz check failed");
            return answers::error(StatusCode::INTERNAL_SERVER_ERROR, &message);
        }
        if query.first("verbose").is_none() {
            return answers::plain(StatusCode::OK, "ok");
        }
        answers::plain(StatusCode::OK, format!("{report}healthz check passed\n"))
    }
}
