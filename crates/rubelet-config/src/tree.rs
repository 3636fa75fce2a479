//! YAML or JSON text as a tree in which every value and key knows its line and column.
//!
//! Owns the reading rules of upstream (`sigs.k8s.io/yaml`, which is YAML 1.1): `yes`/`on` are
//! booleans, `0644` is octal, `<<` merges, only the first document counts, a later duplicate key
//! wins and is reported. It knows nothing about fields. Called by the file loader only.

use std::collections::BTreeMap;
use std::sync::Arc;

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span};

use crate::problem::{Origin, Problem};

/// A value with its place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    pub(crate) line: usize,
    pub(crate) column: usize,
}

/// What a value is, after YAML 1.1 resolution of plain scalars.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    Null,
    Bool { value: bool, text: String },
    Int { value: i128, text: String },
    Float { value: f64, text: String },
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One key and its value in a mapping; keys are unique after parsing.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) line: usize,
    pub(crate) column: usize,
    pub(crate) value: Node,
}

impl Node {
    /// The place of this value in `file`.
    pub(crate) fn origin(&self, file: &Arc<str>) -> Origin {
        Origin::File { file: file.clone(), line: self.line, column: self.column }
    }

    /// The value of a key in a mapping.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        match &self.kind {
            Kind::Map(entries) => entries.iter().find(|e| e.key == key).map(|e| &e.value),
            _ => None,
        }
    }

    /// The value with an article, for messages.
    pub(crate) fn describe(&self) -> String {
        match &self.kind {
            Kind::Null => "nothing".to_owned(),
            Kind::Bool { text, .. } => format!("the boolean {text}"),
            Kind::Int { text, .. } | Kind::Float { text, .. } => format!("the number {text}"),
            Kind::Text(text) => format!("the text {text:?}"),
            Kind::List(_) => "a list".to_owned(),
            Kind::Map(_) => "a mapping".to_owned(),
        }
    }
}

/// The first document of a file, with what strict reading would refuse.
#[derive(Debug, PartialEq)]
pub(crate) struct Document {
    /// The root value; `None` when the text holds nothing but comments.
    pub(crate) root: Option<Node>,
    /// Keys that appear twice in one mapping.
    pub(crate) duplicates: Vec<Problem>,
    /// Whether more documents follow, which nobody reads.
    pub(crate) more_documents: bool,
}

/// Aliases may not blow a small file up into a large tree.
const MAX_NODES: usize = 100_000;
/// Deeper nesting than this is an attack, not a configuration.
const MAX_DEPTH: usize = 64;

/// Parses the text of `file`.
pub(crate) fn parse(text: &str, file: &Arc<str>) -> Result<Document, Problem> {
    let mut builder = Builder {
        parser: Parser::new_from_str(text),
        file: file.clone(),
        anchors: BTreeMap::new(),
        duplicates: Vec::new(),
        nodes: 0,
    };
    let mut root = None;
    let mut more_documents = false;
    let mut documents = 0;
    while let Some((event, span)) = builder.next()? {
        match event {
            Event::DocumentStart(..) => documents += 1,
            Event::StreamEnd => break,
            Event::Scalar(..) | Event::SequenceStart(..) | Event::MappingStart(..) | Event::Alias(..) => {
                if documents > 1 {
                    more_documents = true;
                    break;
                }
                root = Some(builder.node(event, span, 0)?);
            }
            _ => {}
        }
    }
    Ok(Document { root, duplicates: builder.duplicates, more_documents })
}

struct Builder<'a> {
    parser: Parser<'a, granit_parser::StrInput<'a>>,
    file: Arc<str>,
    anchors: BTreeMap<usize, Node>,
    duplicates: Vec<Problem>,
    nodes: usize,
}

impl<'a> Builder<'a> {
    fn next(&mut self) -> Result<Option<(Event<'a>, Span)>, Problem> {
        self.parser.next_event().transpose().map_err(|error| self.syntax(&error))
    }

    fn syntax(&self, error: &ScanError) -> Problem {
        let mark = error.marker();
        let message = format!("not valid YAML or JSON: {}", error.info());
        self.refuse(mark.line(), mark.col() + 1, message)
    }

    fn refuse(&self, line: usize, column: usize, message: impl Into<String>) -> Problem {
        let origin = Origin::File { file: self.file.clone(), line, column };
        Problem::plain(origin, "", message)
    }

    /// Builds the value that `event` starts.
    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, Problem> {
        let (line, column) = (span.start.line(), span.start.col() + 1);
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(self.refuse(line, column, "too many values; is an alias repeated?"));
        }
        if depth > MAX_DEPTH {
            return Err(self.refuse(line, column, "nested too deeply"));
        }
        let (kind, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && tag.is_none();
                let text = text.into_owned();
                (if plain { resolve(text) } else { Kind::Text(text) }, anchor)
            }
            Event::SequenceStart(_, anchor, _) => (self.list(depth)?, anchor),
            Event::MappingStart(_, anchor, _) => (self.map(depth)?, anchor),
            Event::Alias(id) => {
                let Some(target) = self.anchors.get(&id).cloned() else {
                    return Err(self.refuse(line, column, "an alias inside its own anchor"));
                };
                self.nodes += count(&target);
                return Ok(Node { line, column, ..target });
            }
            _ => return Err(self.refuse(line, column, "expected a value here")),
        };
        let node = Node { kind, line, column };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<Kind, Problem> {
        let mut items = Vec::new();
        while let Some((event, span)) = self.next()? {
            if event == Event::SequenceEnd {
                break;
            }
            if is_value(&event) {
                items.push(self.node(event, span, depth + 1)?);
            }
        }
        Ok(Kind::List(items))
    }

    fn map(&mut self, depth: usize) -> Result<Kind, Problem> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut merged: Vec<Entry> = Vec::new();
        let mut key: Option<Node> = None;
        while let Some((event, span)) = self.next()? {
            if event == Event::MappingEnd {
                break;
            }
            if !is_value(&event) {
                continue;
            }
            let node = self.node(event, span, depth + 1)?;
            let Some(key_node) = key.take() else {
                key = Some(node);
                continue;
            };
            let Some(name) = key_text(&key_node) else {
                return Err(self.refuse(key_node.line, key_node.column, "a key must be text"));
            };
            if name == "<<" {
                self.merge(node, &mut merged)?;
                continue;
            }
            let entry = Entry { key: name, line: key_node.line, column: key_node.column, value: node };
            if let Some(earlier) = entries.iter().position(|e| e.key == entry.key) {
                let first = entries.remove(earlier);
                self.report_duplicate(&first, &entry);
            }
            entries.push(entry);
        }
        // Keys written in the mapping win over keys that were merged in.
        merged.retain(|m| !entries.iter().any(|e| e.key == m.key));
        entries.extend(merged);
        Ok(Kind::Map(entries))
    }

    fn merge(&self, source: Node, merged: &mut Vec<Entry>) -> Result<(), Problem> {
        let (line, column) = (source.line, source.column);
        let sources = match source.kind {
            Kind::List(items) => items,
            kind => vec![Node { kind, line, column }],
        };
        for node in sources {
            let Kind::Map(entries) = node.kind else {
                return Err(self.refuse(line, column, "a merge key needs a mapping"));
            };
            for entry in entries {
                if !merged.iter().any(|m| m.key == entry.key) {
                    merged.push(entry);
                }
            }
        }
        Ok(())
    }

    fn report_duplicate(&mut self, first: &Entry, second: &Entry) {
        let message = format!("the key appears twice; the first is on line {}", first.line);
        let mut problem = self.refuse(second.line, second.column, message);
        problem.field.clone_from(&second.key);
        self.duplicates.push(problem);
    }
}

fn is_value(event: &Event<'_>) -> bool {
    matches!(event, Event::Scalar(..) | Event::SequenceStart(..) | Event::MappingStart(..) | Event::Alias(_))
}

fn count(node: &Node) -> usize {
    1 + match &node.kind {
        Kind::List(items) => items.iter().map(count).sum(),
        Kind::Map(entries) => entries.iter().map(|e| count(&e.value)).sum(),
        _ => 0,
    }
}

/// A key as JSON would have it: scalars become text.
fn key_text(node: &Node) -> Option<String> {
    match &node.kind {
        Kind::Text(text) | Kind::Bool { text, .. } | Kind::Int { text, .. } | Kind::Float { text, .. } => {
            Some(text.clone())
        }
        Kind::Null => Some("null".to_owned()),
        Kind::List(_) | Kind::Map(_) => None,
    }
}

/// The type of a plain scalar, by the rules of go-yaml v2.
fn resolve(text: String) -> Kind {
    match text.as_str() {
        "" | "~" | "null" | "Null" | "NULL" => return Kind::Null,
        "true" | "True" | "TRUE" | "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => {
            return Kind::Bool { value: true, text };
        }
        "false" | "False" | "FALSE" | "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => {
            return Kind::Bool { value: false, text };
        }
        _ => {}
    }
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return Kind::Text(text);
    }
    let plain: String = text.chars().filter(|c| *c != '_').collect();
    if let Some(value) = resolve_int(&plain) {
        return Kind::Int { value, text };
    }
    match plain.parse::<f64>() {
        Ok(value) if is_float_text(&plain) => Kind::Float { value, text },
        _ => Kind::Text(text),
    }
}

fn resolve_int(text: &str) -> Option<i128> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let value = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => i128::from_str_radix(&digits[2..], 16),
        [b'0', b'b' | b'B', ..] => i128::from_str_radix(&digits[2..], 2),
        [b'0', b'o' | b'O', ..] => i128::from_str_radix(&digits[2..], 8),
        // YAML 1.1: a leading zero means octal, so that file modes read as people mean them.
        [b'0', _, ..] => i128::from_str_radix(&digits[1..], 8),
        _ => digits.parse(),
    };
    value.ok().map(|value| if negative { -value } else { value })
}

/// Whether the text has YAML's number shape; `inf`, `nan` and hex floats are text.
fn is_float_text(text: &str) -> bool {
    text.bytes().any(|b| b.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file() -> Arc<str> {
        "k.yaml".into()
    }

    /// The tree in a compact form: `line:column` before each value.
    fn show(node: &Node) -> String {
        let body = match &node.kind {
            Kind::Null => "null".to_owned(),
            Kind::Bool { value, .. } => value.to_string(),
            Kind::Int { value, .. } => value.to_string(),
            Kind::Float { value, .. } => format!("{value:?}f"),
            Kind::Text(text) => format!("{text:?}"),
            Kind::List(items) => {
                format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(" "))
            }
            Kind::Map(entries) => {
                let all: Vec<String> =
                    entries.iter().map(|e| format!("{}={}", e.key, show(&e.value))).collect();
                format!("{{{}}}", all.join(" "))
            }
        };
        format!("{}:{} {body}", node.line, node.column)
    }

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let actual = match parse(text, &file()) {
            Ok(Document { root: Some(root), .. }) => show(&root),
            Ok(Document { root: None, .. }) => "nothing".to_owned(),
            Err(problem) => problem.to_string(),
        };
        assert_eq!(actual, expected);
    }

    #[test]
    fn every_value_knows_its_place() {
        check("a: 1\nb:\n  c: [x, 2]\n", "1:1 {a=1:4 1 b=3:3 {c=3:6 [3:7 \"x\" 3:10 2]}}");
        check("{\"a\": {\"b\": null}}", "1:1 {a=1:7 {b=1:13 null}}");
        check("# only a comment\n", "nothing");
        check("", "nothing");
    }

    #[test]
    fn scalars_resolve_as_go_resolves_them() {
        check("[yes, off, y, No]", "1:1 [1:2 true 1:7 false 1:12 true 1:15 false]");
        check("[0644, 0o17, 0x1f, 0b11, 1_000]", "1:1 [1:2 420 1:8 15 1:14 31 1:20 3 1:26 1000]");
        check("[08, 1e3, 1.5, -7]", "1:1 [1:2 8.0f 1:6 1000.0f 1:11 1.5f 1:16 -7]");
        check("[10%, 100Mi, 10.0.0.1, 1m]", "1:1 [1:2 \"10%\" 1:7 \"100Mi\" 1:14 \"10.0.0.1\" 1:24 \"1m\"]");
        check("['1', \"yes\", !!str 5]", "1:1 [1:2 \"1\" 1:7 \"yes\" 1:20 \"5\"]");
        check("[~, null]", "1:1 [1:2 null 1:5 null]");
        check(
            "[-, x]",
            "k.yaml:1:2: not valid YAML or JSON: plain scalar cannot start with '-' followed by ,[]{}",
        );
    }

    #[test]
    fn anchors_and_merge_keys_work() {
        check(
            "a: &x {p: 1, q: 2}\nb:\n  <<: *x\n  q: 3\n",
            "1:1 {a=1:7 {p=1:11 1 q=1:17 2} b=3:3 {q=4:6 3 p=1:11 1}}",
        );
    }

    #[test]
    fn the_last_duplicate_wins_and_is_reported() {
        let document = parse("a: 1\nb: 2\na: 3\n", &file()).expect("parses");
        assert_eq!(show(&document.root.expect("a root")), "1:1 {b=2:4 2 a=3:4 3}");
        assert_eq!(
            document.duplicates.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["k.yaml:3:1: a: the key appears twice; the first is on line 1"]
        );
    }

    #[test]
    fn only_the_first_document_counts() {
        let document = parse("---\na: 1\n---\na: 2\n", &file()).expect("parses");
        assert_eq!(show(&document.root.expect("a root")), "2:1 {a=2:4 1}");
        assert!(document.more_documents);
    }

    #[test]
    fn bombs_are_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..8 {
            let alias = format!("*a{}", i - 1);
            text.push_str(&format!("a{i}: &a{i} [{}]\n", vec![alias; 10].join(", ")));
        }
        let problem = parse(&text, &file()).expect_err("too large");
        assert_eq!(problem.message, "too many values; is an alias repeated?");
        let problem =
            parse(&format!("{}{}", "[".repeat(100), "]".repeat(100)), &file()).expect_err("too deep");
        assert!(problem.message.contains("nested too deeply"), "{problem}");
    }

    proptest! {
        #[test]
        fn never_panics(text in "[-\\[\\]{}:,&*<!'\"a-c01 \n#|>?%]{0,60}") {
            let _ = parse(&text, &file());
        }
    }
}
