//! The manual page and the shell completions, made of what the program itself says with `--help`.
//!
//! Owns reading that text and the few sentences of the page that are not in it. Called by `package` only.

use anyhow::{Context, Result, bail};
use clap::{Arg, ArgAction, Command};
use clap_complete::Shell;

/// A flag as help shows it.
#[derive(Debug, PartialEq, Eq)]
struct Flag {
    short: Option<char>,
    name: String,
    /// What its value is called; empty when it stands alone.
    value: String,
    help: String,
    /// Whether it is told to leave it out.
    deprecated: bool,
}

/// The whole command line, from the help of the agent and of `rubelet local`.
pub(super) fn command_line(agent: &str, local: &str) -> Result<Command> {
    let (flags, of_local) = (flags(agent)?, flags(local)?);
    if flags.is_empty() || of_local.is_empty() {
        bail!("the program's help shows no flags");
    }
    let file =
        |help: &'static str| Arg::new("FILE").required(true).value_hint(clap::ValueHint::FilePath).help(help);
    let data_dir = || of_local.iter().filter(|flag| flag.name == "data-dir").map(argument);
    let local = Command::new("local")
        .about("Run a Kubernetes API and the node agent of this machine in one process; takes all flags of the agent, too")
        .args(of_local.iter().map(argument))
        .subcommand(Command::new("backup").about("Write a copy of the store to a file").arg(file("The file to write")).args(data_dir()))
        .subcommand(Command::new("restore").about("Make the store what a copy says").arg(file("The copy")).args(data_dir()));
    Ok(Command::new("rubelet")
        .about("Node agent of Kubernetes")
        .long_about(
            "rubelet runs pods on a container runtime: as a node of a cluster in the place of the kubelet, whose flags, \
             configuration files, paths and endpoints it has, or on its own with an API that plain kubectl talks to \
             (rubelet local). It needs root. Containers go on when it ends, and the next start takes them up again.",
        )
        .after_help(
            "FILES: /etc/rubelet/config.yaml, the configuration (KubeletConfiguration); /etc/default/rubelet, flags of \
             the systemd units; /var/lib/kubelet, files of pods and the agent's state; /var/lib/rubelet, objects, keys \
             and volumes of rubelet local; /var/log/pods, logs of containers.",
        )
        .disable_help_flag(true)
        .args(flags.iter().map(argument))
        .subcommand(local))
}

fn argument(flag: &Flag) -> Arg {
    let mut argument = Arg::new(flag.name.clone()).long(flag.name.clone()).help(flag.help.clone());
    if let Some(short) = flag.short {
        argument = argument.short(short);
    }
    argument = match flag.value.as_str() {
        "" => argument.action(ArgAction::SetTrue),
        value => argument.value_name(value.to_owned()).value_hint(hint(&flag.name)),
    };
    argument.hide(flag.deprecated)
}

/// What a shell completes a value with.
fn hint(name: &str) -> clap::ValueHint {
    match name {
        "config" | "kubeconfig" | "bootstrap-kubeconfig" | "lock-file" | "write-kubeconfig" => {
            clap::ValueHint::FilePath
        }
        name if name.ends_with("-dir") => clap::ValueHint::DirPath,
        _ => clap::ValueHint::Unknown,
    }
}

/// Reads `--help`: sections with a colon, in them a line for the flag and, deeper, what it does.
fn flags(help: &str) -> Result<Vec<Flag>> {
    let (mut found, mut in_flags, mut deprecated): (Vec<Flag>, _, _) = (Vec::new(), false, false);
    for line in help.lines() {
        if let Some(title) = line.strip_suffix(':').filter(|title| !title.starts_with(' ')) {
            in_flags = title.contains("lags");
            deprecated = title.starts_with("Deprecated") || title.contains("no effect");
        } else if let (true, Some(text)) = (in_flags, line.strip_prefix("        ")) {
            let flag = found.last_mut().context("the help explains a flag before it names one")?;
            if !flag.help.is_empty() {
                flag.help.push(' ');
            }
            flag.help.push_str(text.trim());
        } else if let (true, Some(head)) = (in_flags, line.strip_prefix("  ")) {
            let (short, head) = match head.strip_prefix('-').and_then(|rest| rest.split_once(", ")) {
                Some((short, rest)) if !head.starts_with("--") => (short.chars().next(), rest),
                _ => (None, head),
            };
            let head = head.strip_prefix("--").with_context(|| format!("{line:?} is no flag"))?;
            let (name, value) = head.split_once(' ').unwrap_or((head, ""));
            let (name, value) = (name.to_owned(), value.to_owned());
            found.push(Flag { short, name, value, help: String::new(), deprecated });
        }
    }
    Ok(found)
}

/// The pages of section 8, as troff: names, and the agent's or a command's.
pub(super) fn manuals(cli: &Command) -> Result<Vec<(String, Vec<u8>)>> {
    let mut cli = cli.clone().disable_help_subcommand(true);
    // Names commands as their pages are called.
    cli.build();
    let (mut pages, mut open) = (Vec::new(), vec![cli]);
    while let Some(command) = open.pop() {
        let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
        open.extend(command.get_subcommands().cloned());
        let mut page = Vec::new();
        let man = clap_mangen::Man::new(command).title(name.clone()).section("8");
        man.render(&mut page).with_context(|| format!("cannot write the manual page of {name}"))?;
        pages.push((format!("{name}.8"), page));
    }
    Ok(pages)
}

/// The completion script of a shell.
pub(super) fn completion(cli: &Command, shell: &str) -> Result<Vec<u8>> {
    let shell: Shell = shell.parse().ok().with_context(|| format!("no shell {shell}"))?;
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut cli.clone(), "rubelet", &mut script);
    Ok(script)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGENT: &str = "rubelet runs pods.\n\nUsage:\n  rubelet [flags]\n\nFlags:\n  --config string\n        \
                         Configuration file.\n  -v, --v Level\n        Log verbosity. [logging.verbosity]\n  \
                         --seccomp-default\n        Give pods a profile.\n\n\
                         Deprecated flags (set the field in the --config file instead):\n  --port int\n        A port.\n";
    const LOCAL: &str = "Runs.\n\nUsage:\n  rubelet local [flags]\n\nFlags:\n  --data-dir DIR\n        Where\n        \
                         it is.\n\nAll flags of the kubelet are taken too.\n";

    #[test]
    fn help_is_read() {
        let found = flags(AGENT).unwrap();
        let names: Vec<&str> = found.iter().map(|flag| &*flag.name).collect();
        assert_eq!(names, ["config", "v", "seccomp-default", "port"]);
        assert_eq!(found[1].short, Some('v'));
        assert_eq!((&*found[0].value, &*found[2].value), ("string", ""));
        assert_eq!(found[1].help, "Log verbosity. [logging.verbosity]");
        assert!(found[3].deprecated && !found[0].deprecated);
        assert_eq!(flags(LOCAL).unwrap()[0].help, "Where it is.");
        assert!(flags("Flags:\n  what is this\n").is_err());
        assert!(command_line("Usage:\n", LOCAL).is_err());
    }

    #[test]
    fn pages_name_the_flags() {
        let cli = command_line(AGENT, LOCAL).unwrap();
        cli.clone().debug_assert();
        let pages = manuals(&cli).unwrap();
        let mut names: Vec<&str> = pages.iter().map(|(name, _)| &**name).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            ["rubelet-local-backup.8", "rubelet-local-restore.8", "rubelet-local.8", "rubelet.8"]
        );
        let page = String::from_utf8(pages[0].1.clone()).unwrap();
        for part in ["Configuration file.", "seccomp", "/var/lib/kubelet", "local"] {
            assert!(page.contains(part), "{part} is missing in\n{page}");
        }
        for shell in ["bash", "zsh", "fish"] {
            let script = String::from_utf8(completion(&cli, shell).unwrap()).unwrap();
            for flag in ["seccomp-default", "data-dir", "backup"] {
                assert!(script.contains(flag), "{flag} is missing for {shell}");
            }
        }
        assert!(completion(&cli, "tcsh").is_err());
    }
}
