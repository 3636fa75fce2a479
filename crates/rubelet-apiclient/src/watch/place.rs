//! Where in a JSON text a decoder stopped, as the path of the field. Scans the text instead of decoding it once more
//! with a deserializer that keeps track: that one would be compiled for every type that is watched.

/// The path of the field at a position of `serde_json::Error`, as `spec.ports[0].port`; empty at the top. The text has
/// to be JSON.
pub(super) fn path_at(text: &str, line: usize, column: usize) -> String {
    let start: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let end = (start + column).min(text.len());
    let mut path: Vec<Step<'_>> = vec![];
    let mut bytes = text.as_bytes().iter().enumerate().take(end);
    let mut before_key = false;
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'{' => {
                path.push(Step::Field(""));
                before_key = true;
            }
            b'[' => path.push(Step::Item(0)),
            b'}' | b']' => {
                path.pop();
            }
            b',' => match path.last_mut() {
                Some(Step::Item(index)) => *index += 1,
                _ => before_key = true,
            },
            b'"' => {
                let mut close = at;
                while let Some((here, byte)) = bytes.next() {
                    match byte {
                        b'\\' => {
                            bytes.next();
                        }
                        b'"' => {
                            close = here;
                            break;
                        }
                        _ => {}
                    }
                }
                if before_key && let Some(Step::Field(name)) = path.last_mut() {
                    *name = text.get(at + 1..close).unwrap_or_default();
                    before_key = false;
                }
            }
            _ => {}
        }
    }
    let mut shown = String::new();
    for step in path {
        match step {
            Step::Field(name) if shown.is_empty() => shown.push_str(name),
            Step::Field(name) => {
                shown.push('.');
                shown.push_str(name);
            }
            Step::Item(index) => shown.push_str(&format!("[{index}]")),
        }
    }
    shown
}

enum Step<'a> {
    Field(&'a str),
    Item(usize),
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let error = serde_json::from_str::<Pod>(text).unwrap_err();
        assert_eq!(path_at(text, error.line(), error.column()), expected, "{error}");
    }

    #[test]
    fn the_field_that_is_wrong_is_named() {
        check(r#"{"spec":{"containers":[{"name":"a"},{"name":7}]}}"#, "spec.containers[1].name");
        check(r#"{"metadata":{"name":"a","labels":7}}"#, "metadata.labels");
        check(
            "{\"metadata\":{\"name\":\"a{\\\"\"},\n \"spec\":\n {\"hostNetwork\": \"yes\"}}",
            "spec.hostNetwork",
        );
        check(
            r#"{"spec":{"containers":[{"ports":[{"containerPort":1},{"containerPort":99999999999}]}]}}"#,
            "spec.containers[0].ports[1].containerPort",
        );
        check(r#"[]"#, "");
    }
}
