//! The argument list, read as pflag reads it: `--flag value`, `--flag=value`, bare booleans,
//! `-v4`, `--` and underscores for dashes.
//!
//! Owns the token rules and reports every bad argument, not only the first. Written by hand and not
//! with an argument parser crate because each rule is visible to users of upstream's command lines.

use std::ffi::OsString;

use crate::flags::rows::{FLAGS, REMOVED};
use crate::flags::table::Flag;
use crate::problem::{Origin, Problem};
use crate::suggest;

/// One use of a flag with its text.
#[derive(Clone, Copy)]
pub(crate) struct Given<'a> {
    pub(crate) flag: &'static Flag,
    pub(crate) text: &'a str,
}

/// Reads arguments (without the program's name) into uses of flags and what is wrong.
pub(crate) fn parse(args: &[OsString]) -> (Vec<Given<'_>>, Vec<Problem>) {
    let mut given = Vec::new();
    let mut problems = Vec::new();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let Some(arg) = arg.to_str() else {
            let shown = arg.to_string_lossy();
            problems.push(refuse(&shown, "not valid UTF-8"));
            continue;
        };
        if arg == "--" {
            problems.extend(rest.map(|arg| not_a_flag(&arg.to_string_lossy())));
            break;
        }
        let (name, inline) = match split(arg) {
            Ok(parts) => parts,
            Err(problem) => {
                problems.push(problem);
                continue;
            }
        };
        let Some(flag) = Flag::named(&name) else {
            problems.push(unknown(&name));
            // What follows is most likely its value, and not worth a second complaint.
            if inline.is_none() && !is_flag(rest.as_slice().first()) {
                rest.next();
            }
            continue;
        };
        let text = match inline {
            Some(text) => text,
            None if flag.stands_alone() => "true",
            None => match rest.next().map(|next| next.to_str()) {
                Some(Some(text)) => text,
                Some(None) => {
                    problems.push(refuse(&format!("--{name}"), "its value is not valid UTF-8"));
                    continue;
                }
                None => {
                    problems.push(refuse(&format!("--{name}"), "needs a value"));
                    continue;
                }
            },
        };
        given.push(Given { flag, text });
    }
    (given, problems)
}

fn is_flag(arg: Option<&OsString>) -> bool {
    arg.is_none_or(|arg| arg.as_encoded_bytes().starts_with(b"-"))
}

/// An argument as flag name and, when it is part of the argument, its text.
fn split(arg: &str) -> Result<(String, Option<&str>), Problem> {
    if let Some(long) = arg.strip_prefix("--") {
        let (name, text) = match long.split_once('=') {
            Some((name, text)) => (name, Some(text)),
            None => (long, None),
        };
        if name.is_empty() || name.starts_with('-') {
            return Err(refuse(arg, "bad flag syntax"));
        }
        return Ok((name.replace('_', "-"), text));
    }
    let Some(short) = arg.strip_prefix('-').filter(|short| !short.is_empty()) else {
        return Err(not_a_flag(arg));
    };
    if let Some(text) = short.strip_prefix('v') {
        let text = text.strip_prefix('=').unwrap_or(text);
        let bare = short == "v";
        return if bare || text.starts_with(|c: char| c.is_ascii_digit()) || short.starts_with("v=") {
            Ok(("v".to_owned(), (!bare).then_some(text)))
        } else {
            Err(single_dash(arg))
        };
    }
    match short {
        "h" => Ok(("help".to_owned(), None)),
        _ => Err(single_dash(arg)),
    }
}

/// A problem with an argument as it was written.
fn refuse(arg: &str, message: &str) -> Problem {
    Problem::plain(Origin::CommandLine, arg, message)
}

fn not_a_flag(arg: &str) -> Problem {
    let arg: String = arg.chars().take(80).collect();
    refuse(&arg, "unknown command; only flags are accepted")
}

fn single_dash(arg: &str) -> Problem {
    let name = arg.trim_start_matches('-').split('=').next().unwrap_or_default().replace('_', "-");
    if Flag::named(&name).is_some() {
        let message = format!("a flag of this length takes two dashes: --{name}");
        return refuse(&format!("-{name}"), &message);
    }
    refuse(&format!("-{name}"), "unknown shorthand flag; only -h and -v exist")
}

fn unknown(name: &str) -> Problem {
    let origin = Origin::Flag(name.to_owned());
    if let Some((_, advice)) = REMOVED.iter().find(|(removed, _)| *removed == name) {
        return Problem::plain(origin, "", format!("this flag has been removed: {advice}"));
    }
    let hint = match suggest::nearest(name, FLAGS.iter().map(|flag| flag.name)) {
        Some(near) => format!("; did you mean --{near}?"),
        None => String::new(),
    };
    Problem::plain(origin, "", format!("unknown flag{hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(line: &str, expected: &[&str]) {
        let args: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        let (given, problems) = parse(&args);
        let mut actual: Vec<String> = given.iter().map(|g| format!("{} {}", g.flag.name, g.text)).collect();
        actual.extend(problems.iter().map(ToString::to_string));
        assert_eq!(actual, expected, "{line}");
    }

    #[test]
    fn reads_every_form() {
        check("--port=1 --port 2 --max_pods=3", &["port 1", "port 2", "max-pods 3"]);
        check("--fail-swap-on --runonce=false", &["fail-swap-on true", "runonce false"]);
        check("-v=4 -v4 -v 4 --v=4 --v 4", &["v 4"; 5]);
        check(
            "-h --help --version --version=raw",
            &["help true", "help true", "version true", "version raw"],
        );
        check("--oom-score-adj -999", &["oom-score-adj -999"]);
        check("--root-dir=", &["root-dir "]);
        check("--node-labels a=b,c=d", &["node-labels a=b,c=d"]);
    }

    #[test]
    fn every_bad_argument_is_reported() {
        check(
            "--prot=1 start --pod-infra-container-image=x --container_runtime docker -x --port",
            &[
                "flag --prot: unknown flag; did you mean --port?",
                "command line: start: unknown command; only flags are accepted",
                "flag --pod-infra-container-image: this flag has been removed: remove it; the sandbox image is set in the container runtime's configuration",
                "flag --container-runtime: this flag has been removed: remove it; CRI is the only kind, its socket is set with containerRuntimeEndpoint in the --config file",
                "command line: -x: unknown shorthand flag; only -h and -v exist",
                "command line: --port: needs a value",
            ],
        );
        check("-config=x", &["command line: -config: a flag of this length takes two dashes: --config"]);
        check("---x --=y", &["command line: ---x: bad flag syntax", "command line: --=y: bad flag syntax"]);
        check(
            "--fail-swap-on false",
            &["fail-swap-on true", "command line: false: unknown command; only flags are accepted"],
        );
        check("-- --port=1", &["command line: --port=1: unknown command; only flags are accepted"]);
    }

    proptest! {
        #[test]
        fn never_panics(args in proptest::collection::vec("-{0,3}[a-z_=,:;<\"0-9.é-]{0,20}", 0..6)) {
            let args: Vec<OsString> = args.into_iter().map(OsString::from).collect();
            let _ = parse(&args);
        }

        #[test]
        fn no_text_makes_a_setter_panic(index in 0..FLAGS.len(), text in "[a-z0-9=<:;,.\"%_ é+-]{0,20}", first: bool) {
            let mut settings = crate::flags::Settings {
                config: crate::KubeletConfiguration::default(),
                flags: crate::KubeletFlags::default(),
            };
            let _ = (FLAGS[index].set)(&mut settings, &text, first);
        }
    }
}
