//! Env files (`fileKeyRef`): the strict subset of shell syntax they are written in.
//!
//! Owns the grammar (KEP-3721, upstream `envutil.ParseEnv`); never opens a file. Called while a container's
//! environment is made.

/// What is wrong with an env file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvFileError {
    /// A line is not `NAME='value'`.
    #[error("invalid environment variable format at line {line}: {problem}")]
    Line {
        /// Line number, from 1.
        line: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A quote is still open at the end.
    #[error("invalid environment variable format starting at line {0}: unclosed single quote")]
    Unclosed(usize),
}

/// The value of the first variable called `key`; empty when there is none. Lines after it are not looked at.
pub fn env_file_value(text: &str, key: &str) -> Result<String, EnvFileError> {
    const BLANKS: [char; 2] = [' ', '\t'];
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let fail = |problem| Err(EnvFileError::Line { line: index + 1, problem });
        let line = line.trim_start_matches(BLANKS);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, value)) = line.split_once('=') else {
            return fail("missing '='");
        };
        if name.trim_end_matches(BLANKS).is_empty() {
            return fail("empty variable name");
        }
        if name.ends_with(BLANKS) {
            return fail("whitespace before '=' is not allowed");
        }
        if value.starts_with(BLANKS) {
            // As in a shell: `NAME= 'value'` sets NAME to nothing.
            if name == key {
                return Ok(String::new());
            }
            continue;
        }
        let Some(mut rest) = value.strip_prefix('\'') else {
            return fail("value must be enclosed in single quotes");
        };
        let mut content = String::new();
        let mut at = index;
        let tail = loop {
            if let Some((inside, tail)) = rest.split_once('\'') {
                content.push_str(inside);
                break tail;
            }
            content.push_str(rest);
            content.push('\n');
            let Some((next_index, next_line)) = lines.next() else {
                return Err(EnvFileError::Unclosed(index + 1));
            };
            (at, rest) = (next_index, next_line);
        };
        let tail = tail.trim_start_matches(BLANKS);
        if !tail.is_empty() && !tail.starts_with('#') {
            return Err(EnvFileError::Line {
                line: at + 1,
                problem: "unexpected content after closing quote",
            });
        }
        if name == key {
            return Ok(content);
        }
    }
    Ok(String::new())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, key: &str, expected: Result<&str, &str>) {
        let found = env_file_value(text, key).map_err(|error| error.to_string());
        assert_eq!(found.as_deref().map_err(String::as_str), expected, "{text:?}");
    }

    #[test]
    fn reads_the_strict_subset() {
        check("A='1'\nB='2'\n", "B", Ok("2"));
        check("# note\n\n  A='x' # why\n", "A", Ok("x"));
        check("A='one\ntwo\n  three'\nB='4'", "A", Ok("one\ntwo\n  three"));
        check("A='one\ntwo'\nB='4'", "B", Ok("4"));
        check("A='$B \\n \"q\"'", "A", Ok("$B \\n \"q\""));
        check("A= 'x'", "A", Ok(""));
        check("A='1'\nA='2'", "A", Ok("1"));
        check("A='1'", "MISSING", Ok(""));
        check("A='1'\r\nB='2'\r\n", "B", Ok("2"));
        check("A='1'\ngarbage", "A", Ok("1"));
    }

    #[test]
    fn names_the_line_that_is_wrong() {
        check("A='1'\ngarbage", "B", Err("invalid environment variable format at line 2: missing '='"));
        check("='1'", "B", Err("invalid environment variable format at line 1: empty variable name"));
        check(
            "A ='1'",
            "A",
            Err("invalid environment variable format at line 1: whitespace before '=' is not allowed"),
        );
        check(
            "A=1",
            "A",
            Err("invalid environment variable format at line 1: value must be enclosed in single quotes"),
        );
        check(
            "A='1\n2'x",
            "A",
            Err("invalid environment variable format at line 2: unexpected content after closing quote"),
        );
        check(
            "\nA='1\n2",
            "A",
            Err("invalid environment variable format starting at line 2: unclosed single quote"),
        );
    }

    proptest! {
        #[test]
        fn any_text_ends_in_a_value_or_an_error(text in "[A='# \n\tx]{0,80}") {
            let _ = env_file_value(&text, "A");
        }
    }
}
