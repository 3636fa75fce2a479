//! From the bytes of a manifest to a JSON value: YAML (of which JSON is a part), with the traps of YAML 1.1 that
//! Kubernetes manifests rely on. Called by the file and URL sources; knows nothing of pods.
//!
//! The reading is `rubelet_apimachinery::decode`'s; what a scalar means follows upstream's YAML reader, as the golden
//! manifests of rubelet-core show. Like there, a text that begins with `{` is read as JSON.

use rubelet_apimachinery::decode::{Read, yaml_documents};
use serde_json::Value;

/// Why bytes are no manifest.
#[derive(Debug, thiserror::Error)]
pub enum YamlError {
    /// Not text.
    #[error("the content is not UTF-8 text (byte {0} is not valid); is it a binary file?")]
    NotText(usize),
    /// Nothing in it.
    #[error("the content is empty; a manifest holds one object with apiVersion: v1 and kind: Pod")]
    Empty,
    /// Not YAML.
    #[error("not valid YAML or JSON: {0}")]
    Syntax(String),
}

/// A document and what is odd about it.
#[derive(Debug)]
pub struct Parsed {
    /// The document.
    pub value: Value,
    /// Keys that occur twice in one object, with their path; documents after the first.
    pub warnings: Vec<String>,
}

/// Parses the first document. Empty documents around it, as a trailing `---` makes them, do not count.
///
/// # Errors
/// [`YamlError`], with line and column where the text goes wrong.
pub fn parse(bytes: &[u8]) -> Result<Parsed, YamlError> {
    let text = std::str::from_utf8(bytes).map_err(|error| YamlError::NotText(error.valid_up_to()))?;
    let text = text.trim_start_matches('\u{feff}');
    if text.trim().is_empty() {
        return Err(YamlError::Empty);
    }
    let mut documents = if text.trim_start().starts_with('{') { json(text) } else { yaml(text) }?;
    let count = documents.len();
    documents.truncate(1);
    let document = documents.pop().ok_or(YamlError::Empty)?;
    let repeated = document.duplicates.iter();
    let mut warnings: Vec<String> =
        repeated.map(|path| format!("key {path:?} occurs twice; the last value counts")).collect();
    if count > 1 {
        // As upstream, so that a pod that runs from such a file is adopted.
        warnings.push(format!(
            "the content holds {count} YAML documents and only the first one counts; write each object into a file of its own"
        ));
    }
    Ok(Parsed { warnings, value: document.value })
}

fn json(text: &str) -> Result<Vec<Read>, YamlError> {
    match serde_json::from_str(text) {
        Ok(document) => Ok(vec![document]),
        // YAML's flow style looks like JSON at first sight.
        Err(error) => yaml(text).map_err(|_| YamlError::Syntax(error.to_string())),
    }
}

fn yaml(text: &str) -> Result<Vec<Read>, YamlError> {
    yaml_documents(text).map_err(YamlError::Syntax)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn core_data() -> std::path::PathBuf {
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../rubelet-core/tests/data/static-uid")
    }

    /// Whole floats are the integers they equal.
    fn normalized(value: Value) -> Value {
        match value {
            Value::Number(number) => match number.as_f64() {
                Some(float) if float.fract() == 0.0 && float.abs() < 1e15 => json!(float as i64),
                _ => Value::Number(number),
            },
            Value::Array(items) => items.into_iter().map(normalized).collect(),
            Value::Object(entries) => {
                Value::Object(entries.into_iter().map(|(key, value)| (key, normalized(value))).collect())
            }
            other => other,
        }
    }

    #[test]
    fn manifests_read_as_upstream_reads_them() {
        let mut count = 0;
        for entry in std::fs::read_dir(core_data()).unwrap() {
            let path = entry.unwrap().path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".yaml")) else {
                continue;
            };
            let expected = std::fs::read(core_data().join(format!("{name}.expected.json"))).unwrap();
            let expected: Value = serde_json::from_slice(&expected).unwrap();
            let parsed = parse(&std::fs::read(&path).unwrap()).unwrap();
            assert_eq!(normalized(parsed.value), normalized(expected["manifest"].clone()), "{name}");
            assert_eq!(parsed.warnings, Vec::<String>::new(), "{name}");
            count += 1;
        }
        assert!(count >= 30);
    }

    /// Scalars and what upstream's reader makes of them.
    #[test]
    fn scalars_mean_what_they_mean_upstream() {
        for (text, expected) in [
            ("0644", json!(420)),
            ("0o644", json!(420)),
            ("0x1f", json!(31)),
            ("08", json!(8)),
            ("012", json!(10)),
            ("1_000", json!(1000)),
            ("0b11", json!(3)),
            ("1.0", json!(1)),
            ("1e3", json!(1000)),
            (".5", json!(0.5)),
            ("+5", json!(5)),
            ("-0", json!(0)),
            ("y", json!(true)),
            ("N", json!(false)),
            ("yes", json!(true)),
            ("off", json!(false)),
            ("On", json!(true)),
            ("TRUE", json!(true)),
            ("~", json!(null)),
            ("Null", json!(null)),
            ("", json!(null)),
            ("2024-05-01", json!("2024-05-01")),
            ("1:30", json!("1:30")),
            ("190:20:30", json!("190:20:30")),
            ("=", json!("=")),
            ("'0644'", json!("0644")),
            ("\"yes\"", json!("yes")),
            ("9223372036854775808", json!(9_223_372_036_854_775_808_u64)),
        ] {
            let parsed = parse(format!("v: {text}").as_bytes()).unwrap().value;
            assert_eq!(normalized(parsed["v"].clone()), expected, "{text}");
        }
    }

    #[test]
    fn keys_are_texts_and_the_last_of_equal_ones_counts() {
        let parsed = parse(b"a: 1\nb: {on: x, 1: z, c: 1, c: 2}\na: 3\nd: [{e: 1, e: 1}]").unwrap();
        assert_eq!(parsed.value, json!({"a": 3, "b": {"true": "x", "1": "z", "c": 2}, "d": [{"e": 1}]}));
        let paths: Vec<&str> =
            parsed.warnings.iter().filter_map(|warning| warning.split('"').nth(1)).collect();
        assert_eq!(paths, ["b.c", "a", "d[0].e"]);
        let json = parse(b"{\"a\": 1,\t\"a\": 2}").unwrap();
        assert_eq!((json.value, json.warnings.len()), (json!({"a": 2}), 1));
    }

    #[test]
    fn anchors_and_merges_are_followed() {
        let parsed = parse(b"base: &b {x: 1, z: 2}\nuse: {<<: *b, z: 3}\nagain: *b").unwrap().value;
        assert_eq!(parsed["use"], json!({"x": 1, "z": 3}));
        assert_eq!(parsed["again"], parsed["base"]);
    }

    #[track_caller]
    fn check_error(bytes: &[u8], expected: &str) {
        let message = parse(bytes).unwrap_err().to_string();
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
    }

    #[test]
    fn errors_say_what_is_wrong_and_where() {
        check_error(b"", "empty");
        check_error(b" \n\t\n", "empty");
        check_error(b"---\n---\n", "empty");
        check_error(b"# nothing\n", "empty");
        check_error(b"ab\xff", "byte 2");
        check_error(b"a: [1, 2\nb: 3", "line 2");
        check_error(b"a:\n\t- b", "line 2");
        check_error(b"{\"a\": 1", "line 1");
        check_error(b"v: .inf", "");
    }

    #[test]
    fn the_first_of_many_documents_counts_and_the_others_are_named() {
        let parsed = parse(b"a: 1\n---\nb: 2\n").unwrap();
        assert_eq!(parsed.value, json!({"a": 1}));
        assert!(parsed.warnings[0].contains("2 YAML documents and only the first one counts"));
    }

    #[test]
    fn empty_documents_around_the_one_do_not_count() {
        assert_eq!(parse(b"---\na: 1\n---\n").unwrap().value, json!({"a": 1}));
        assert_eq!(parse("\u{feff}a: 1".as_bytes()).unwrap().value, json!({"a": 1}));
    }

    #[test]
    fn deep_nesting_is_refused_before_the_stack_ends() {
        for start in ["[", "{a: ", "{\"a\":", "- ", "? ", "[{a: ", "{? ", "- [", "!x [", "&a [", "{[", "- ? "]
        {
            for depth in [70, 1000, 50_000] {
                assert!(parse(start.repeat(depth).as_bytes()).is_err(), "{start:?} {depth} deep");
            }
        }
        let block: String = (0..3000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
        assert!(parse(block.as_bytes()).is_err());
        let aliases: String = (1..12)
            .fold("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned(), |text, n| {
                text + &format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 10].join(", "))
            });
        assert!(parse(aliases.as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_value_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn any_yaml_like_text_gives_a_value_or_an_error(text in "[a-c0-9:{}\\[\\]&*!|>'\"%@,#?\n \t-]{0,80}") {
            let _ = parse(text.as_bytes());
        }
    }
}
