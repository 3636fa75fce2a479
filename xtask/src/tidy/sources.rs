//! What every Rust file must have, and what none may have.
//!
//! Owns the header rule, the length limit with its exceptions, and the list of forbidden calls. Never parses Rust: lines
//! are enough. Called by the tidy task for every Rust file.

use super::TextFile;

/// The longest a file may be.
const LINES_MAX: usize = 1000;

/// Files that may be longer, each with its reason.
const LONG_FILES: [(&str, &str); 0] = [];

/// What no file may contain outside of comments, in parts so that this file does not contain it either.
const FORBIDDEN: [(&str, &str, &str); 3] = [
    ("#[ign", "ore", "a test that does not run proves nothing: mend it or remove it"),
    ("tod", "o!(", "unfinished work belongs into an issue"),
    ("unimpl", "emented!(", "unfinished work belongs into an issue"),
];

/// Every rule that the file breaks.
pub(crate) fn problems(file: &TextFile) -> Vec<String> {
    let path = &file.path;
    let mut problems = Vec::new();
    let first = file.text.lines().find(|line| !line.trim().is_empty() && !line.starts_with("#!/"));
    if !first.is_some_and(|line| line.starts_with("//!")) {
        problems.push(format!(
            "{path}: must open with a //! header: what it owns, what it never does, who calls it"
        ));
    }
    let lines = file.text.lines().count();
    let listed = LONG_FILES.iter().any(|(long, _)| long == path);
    if lines > LINES_MAX && !listed {
        problems.push(format!("{path}: {lines} lines, more than {LINES_MAX}: it asks for a seam"));
    }
    for (index, line) in
        file.text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"))
    {
        for (head, tail, why) in FORBIDDEN {
            let word = format!("{head}{tail}");
            if line.contains(&word) {
                problems.push(format!("{path}:{}: {word}: {why}", index + 1));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, wanted: &[&str]) {
        let file = TextFile { path: "a.rs".to_owned(), text: text.to_owned() };
        let found = problems(&file);
        assert_eq!(found.len(), wanted.len(), "{found:?}");
        for (problem, part) in found.iter().zip(wanted) {
            assert!(problem.contains(part), "{part:?} is missing in {problem:?}");
        }
    }

    #[test]
    fn a_header_is_asked_for() {
        check("//! Owns nothing.\nfn main() {}\n", &[]);
        check("\n//! Owns nothing.\n", &[]);
        check("fn main() {}\n", &["header"]);
        check("", &["header"]);
    }

    #[test]
    fn unfinished_work_is_found_but_may_be_talked_about() {
        let call = ["tod", "o!()"].concat();
        check(&format!("//! Owns nothing.\n// {call}\nfn x() {{ {call} }}\n"), &["a.rs:3"]);
        check(&format!("//! Owns nothing.\n{}\n", ["#[ign", "ore = \"slow\"]"].concat()), &["a.rs:2"]);
    }

    #[test]
    fn long_files_are_found() {
        let line = "//! x\n";
        check(&line.repeat(LINES_MAX), &[]);
        check(&line.repeat(LINES_MAX + 1), &["1001 lines"]);
    }
}
