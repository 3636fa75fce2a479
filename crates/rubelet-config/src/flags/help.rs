//! What the command line says about itself: `--help` and the one notice about deprecated flags.

use std::fmt::Write as _;

use crate::flags::parse::Given;
use crate::flags::rows::FLAGS;
use crate::flags::table::{Flag, Status};

/// The text of `--help`.
pub(crate) fn help_text() -> String {
    let mut text = String::from(
        "rubelet runs pods on a container runtime: a drop-in for the Kubernetes kubelet.\n\n\
         Usage:\n  rubelet [flags]\n  rubelet check [flags]    says what keeps an agent with these flags from working here\n  \
         rubelet local --help     a node of its own, with its API\n",
    );
    let current = FLAGS.iter().filter(|flag| flag.status == Status::Current);
    section(&mut text, "Flags", current);
    let deprecated = FLAGS.iter().filter(|flag| flag.status == Status::Deprecated);
    section(&mut text, "Deprecated flags (set the field in the --config file instead)", deprecated);
    text.truncate(text.trim_end().len());
    text
}

fn section<'a>(text: &mut String, title: &str, flags: impl Iterator<Item = &'a Flag>) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "\n{title}:");
    for flag in flags {
        let short = match flag.name {
            "v" => "-v, ",
            "help" => "-h, ",
            _ => "",
        };
        let space = if flag.value_name.is_empty() { "" } else { " " };
        let head = format!("{short}--{}{space}{}", flag.name, flag.value_name);
        let field = flag.field.map_or_else(String::new, |field| format!(" [{field}]"));
        let _ = writeln!(text, "  {head}\n        {}{field}", flag.help);
    }
}

/// One sentence about the deprecated flags that are used, or nothing.
pub(crate) fn deprecation_notice(given: &[Given<'_>]) -> Option<String> {
    let mut used: Vec<String> = Vec::new();
    let mut without_effect: Vec<String> = Vec::new();
    for given in given {
        let flag = given.flag;
        let (list, entry) = match (flag.status, flag.field) {
            (Status::Current, _) => continue,
            (Status::NoEffect, _) => (&mut without_effect, format!("--{}", flag.name)),
            (Status::Deprecated, Some(field)) => (&mut used, format!("--{} (field {field})", flag.name)),
            (Status::Deprecated, None) => (&mut used, format!("--{}", flag.name)),
        };
        if !list.contains(&entry) {
            list.push(entry);
        }
    }
    let mut notices = Vec::new();
    if !used.is_empty() {
        notices.push(format!(
            "these flags are deprecated, set them in the --config file instead where a field is named: {}",
            used.join(", ")
        ));
    }
    if !without_effect.is_empty() {
        notices.push(format!("these flags have no effect: {}", without_effect.join(", ")));
    }
    (!notices.is_empty()).then(|| notices.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::parse::parse;

    #[test]
    fn one_notice_names_all_deprecated_flags() {
        let args = ["--port=1", "--v=2", "--port=3", "--containerd=x", "--maximum-dead-containers=1"]
            .map(Into::into);
        let (given, _) = parse(&args);
        assert_eq!(
            deprecation_notice(&given).as_deref(),
            Some(
                "these flags are deprecated, set them in the --config file instead where a field is named: \
                 --port (field port), --maximum-dead-containers; these flags have no effect: --containerd"
            )
        );
        let args = ["--v=2"].map(Into::into);
        assert_eq!(deprecation_notice(&parse(&args).0), None);
    }

    #[test]
    fn help_names_every_flag_that_does_something() {
        let help = help_text();
        for flag in FLAGS.iter().filter(|flag| flag.status != Status::NoEffect) {
            assert!(help.contains(&format!("--{}", flag.name)), "{}", flag.name);
        }
    }
}
