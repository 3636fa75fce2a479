//! One configuration document: its bytes to a checked tree of the right kind.
//!
//! Owns the rules about apiVersion, kind, empty files and text encoding, and what strict and
//! lenient reading do. Called by `load` for the `--config` file and for each drop-in.

use std::sync::Arc;

use crate::configuration::KubeletConfiguration;
use crate::fields::{Field, Reader};
use crate::problem::{Origin, Origins, Problem};
use crate::tree::{self, Kind, Node};

const KIND: &str = "KubeletConfiguration";
const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";
/// Seen in articles; upstream refuses it.
const COPIED_API_VERSION: &str = "v1";

impl KubeletConfiguration {
    /// The configuration as a document that gives the same configuration when it is loaded, but for the values of
    /// `staticPodURLHeader`, which are masked: what `/configz` tells.
    #[must_use]
    pub fn to_document(&self) -> serde_json::Value {
        let mut document = self.to_json();
        document["kind"] = KIND.into();
        document["apiVersion"] = API_VERSION.into();
        document
    }
}

/// How much a document may deviate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strictness {
    /// A `--config` file: unknown and duplicate fields are warnings, as long as v1beta1 lasts.
    ConfigFile,
    /// A drop-in: unknown fields are warnings, duplicate fields are errors.
    DropIn,
}

/// What came out of a document beside the configuration.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) errors: Vec<Problem>,
    pub(crate) warnings: Vec<Problem>,
}

/// Lays a document over `config` and notes where each field came from.
pub(crate) fn lay_over(
    config: &mut KubeletConfiguration,
    origins: &mut Origins,
    file: &Arc<str>,
    bytes: &[u8],
    strictness: Strictness,
) -> Findings {
    let mut findings = Findings::default();
    let document = match text(bytes, file).and_then(|text| tree::parse(text, file)) {
        Ok(document) => document,
        Err(problem) => {
            findings.errors.push(problem);
            return findings;
        }
    };
    if document.more_documents {
        let message = "only the first document of the file is used";
        findings.warnings.push(Problem::plain(whole(file), "", message));
    }
    let Some(mut root) = document.root.filter(|root| root.kind != Kind::Null) else {
        findings.errors.push(Problem::plain(whole(file), "", "the file is empty"));
        return findings;
    };
    if !matches!(root.kind, Kind::Map(_)) {
        let message = format!("expected a mapping of fields, got {}", root.describe());
        findings.errors.push(Problem::plain(root.origin(file), "", message));
        return findings;
    }
    check_kind(&root, file, &mut findings);
    if let Kind::Map(entries) = &mut root.kind {
        entries.retain(|entry| entry.key != "apiVersion" && entry.key != "kind");
    }
    let mut reader = Reader::new(file.clone(), origins);
    config.merge(&root, &mut reader);
    findings.errors.extend(reader.errors);
    findings.warnings.extend(reader.unknown.into_iter().map(|p| with_note(p, "it is ignored")));
    match strictness {
        Strictness::ConfigFile => {
            let noted = document.duplicates.into_iter().map(|p| with_note(p, "the last one counts"));
            findings.warnings.extend(noted);
        }
        Strictness::DropIn => findings.errors.extend(document.duplicates),
    }
    findings
}

fn with_note(mut problem: Problem, note: &str) -> Problem {
    problem.message = format!("{}; {note}", problem.message);
    problem
}

/// The place of a file as a whole.
fn whole(file: &Arc<str>) -> Origin {
    Origin::File { file: file.clone(), line: 1, column: 1 }
}

fn text<'a>(bytes: &'a [u8], file: &Arc<str>) -> Result<&'a str, Problem> {
    std::str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        let column = 1 + before.iter().rev().take_while(|byte| **byte != b'\n').count();
        let origin = Origin::File { file: file.clone(), line, column };
        Problem::plain(origin, "", "not valid UTF-8 text")
    })
}

fn check_kind(root: &Node, file: &Arc<str>, findings: &mut Findings) {
    let expected = [("kind", KIND), ("apiVersion", API_VERSION)];
    for (field, right) in expected {
        let Some(node) = root.get(field) else {
            let message = format!("missing; write {field}: {right}");
            findings.errors.push(Problem::plain(whole(file), field, message));
            continue;
        };
        let Kind::Text(text) = &node.kind else {
            let message = format!("expected {right}, got {}", node.describe());
            findings.errors.push(Problem::plain(node.origin(file), field, message));
            continue;
        };
        if text == right {
            continue;
        }
        let mut problem = Problem::plain(node.origin(file), field, format!("must be {right}"));
        problem.value = Some(format!("{text:?}"));
        if field == "apiVersion" && text == COPIED_API_VERSION {
            problem.message = format!("the right apiVersion is {right}; read as that");
            findings.warnings.push(problem);
        } else {
            findings.errors.push(problem);
        }
    }
}
