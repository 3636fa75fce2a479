//! The command line of `rubelet local`: its own flags, and the kubelet's, which follow the same rules.
//!
//! Owns which flags belong to the local API and what they may say; hands everything else on to be read as the kubelet's
//! command line is. Called by the program's start when the first word is `local`.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use crate::flags;
use crate::load::LoadErrors;
use crate::problem::{Origin, Problem};
use crate::suggest;

/// What a pod's service account may do in the local API (`--service-account-access`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ServiceAccountAccess {
    /// Learn who it is.
    None,
    /// Read its own namespace, without secrets.
    #[default]
    View,
    /// Everything.
    Admin,
}

/// The flags of `rubelet local` itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalFlags {
    /// Where objects, keys and volumes are kept.
    pub data_dir: PathBuf,
    /// Where the API listens.
    pub address: SocketAddr,
    /// What pods and kubeconfigs are told to connect to; the listening address when it is not given.
    pub advertise_address: Option<IpAddr>,
    /// Where the owner's kubeconfig is written; in the data folder when it is not given.
    pub kubeconfig: Option<PathBuf>,
    /// What pods may do.
    pub service_account_access: ServiceAccountAccess,
    /// Cluster IPs of Services: network and prefix length.
    pub service_network: (Ipv4Addr, u8),
}

impl Default for LocalFlags {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("/var/lib/rubelet"),
            address: SocketAddr::from(([127, 0, 0, 1], 6443)),
            advertise_address: None,
            kubeconfig: None,
            service_account_access: ServiceAccountAccess::default(),
            service_network: (Ipv4Addr::new(10, 96, 0, 0), 16),
        }
    }
}

impl LocalFlags {
    /// Where the owner's kubeconfig is written.
    pub fn kubeconfig_path(&self) -> PathBuf {
        self.kubeconfig.clone().unwrap_or_else(|| self.data_dir.join("admin.conf"))
    }
}

/// What `rubelet local …` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalCommand {
    /// Run API and agent; the second part is the kubelet's command line.
    Run(LocalFlags, Vec<OsString>),
    /// Write a copy of the store to a file.
    Backup {
        /// Whose store.
        flags: LocalFlags,
        /// The file to write.
        to: PathBuf,
    },
    /// Make the store what a copy says.
    Restore {
        /// Whose store.
        flags: LocalFlags,
        /// The copy.
        from: PathBuf,
    },
    /// Print this text and exit successfully.
    Print(String),
}

/// A flag: its name, what its value is called, what it does.
type Row = (&'static str, &'static str, &'static str);

const FLAGS: [Row; 7] = [
    ("data-dir", "DIR", "Where objects, keys and volumes are kept (default /var/lib/rubelet)"),
    ("bind-address", "IP", "Where the API listens (default 127.0.0.1)"),
    ("secure-port", "PORT", "The port it listens on; 0 takes a free one (default 6443)"),
    (
        "advertise-address",
        "IP",
        "What pods are told to connect to (default: the bind address). Pods have networks of their own: for them to \
         reach the API, bind to an address of this machine other than 127.0.0.1",
    ),
    ("write-kubeconfig", "FILE", "Where the owner's kubeconfig is written (default DIR/admin.conf)"),
    (
        "service-account-access",
        "none|view|admin",
        "What pods may do in the API: nothing, read their own namespace without its Secrets, or everything (default view)",
    ),
    (
        "service-cluster-ip-range",
        "CIDR",
        "IPv4 network for the cluster IPs of Services (default 10.96.0.0/16)",
    ),
];

/// What there is besides running.
const COMMANDS: [&str; 2] = ["backup", "restore"];

/// Flags of the kubelet that say where its API server is: here it is the one in this process.
const ELSEWHERE: [&str; 2] = ["kubeconfig", "bootstrap-kubeconfig"];

fn help() -> String {
    let mut text = String::from(
        "Runs a Kubernetes API and the node agent of this machine in one process.\n\n\
         Usage:\n  rubelet local [flags] [kubelet flags]\n  rubelet local backup FILE [--data-dir DIR]\n  \
         rubelet local restore FILE [--data-dir DIR]\n\nFlags:\n",
    );
    for (name, value, what) in FLAGS {
        text.push_str(&format!("  --{name} {value}\n        {what}\n"));
    }
    text.push_str("\nAll flags of the kubelet are taken too: `rubelet --help` lists them.");
    text
}

/// Reads the words after `rubelet local`.
///
/// # Errors
/// Every flag of the local API that is wrong; the kubelet's are judged by whoever reads them.
pub fn parse_local(args: impl IntoIterator<Item = OsString>) -> Result<LocalCommand, LoadErrors> {
    let mut args: Vec<OsString> = args.into_iter().collect();
    let command = match args.first().and_then(|a| a.to_str()) {
        Some(word) if COMMANDS.contains(&word) => Some(word.to_owned()),
        _ => None,
    };
    if command.is_some() {
        args.remove(0);
    }
    let mut reader = Reader::default();
    reader.read(args);
    if reader.wants_help {
        return Ok(LocalCommand::Print(help()));
    }
    let Reader { flags, ip, port, mut rest, mut problems, .. } = reader;
    problems.extend(mistyped(&mut rest, command.is_none()));
    let mut flags = flags;
    flags.address = SocketAddr::new(ip.unwrap_or(flags.address.ip()), port.unwrap_or(flags.address.port()));
    if flags.address.ip().is_unspecified() && flags.advertise_address.is_none() {
        let message = "the API cannot be advertised as listening everywhere: say --advertise-address, too";
        problems.push(Problem::plain(Origin::Flag("bind-address".to_owned()), "", message));
    }
    let outcome = match command.as_deref() {
        None => LocalCommand::Run(flags, rest),
        Some(word) => {
            let file =
                rest.iter().position(|a| !a.as_encoded_bytes().starts_with(b"-")).map(|at| rest.remove(at));
            problems.extend(rest.iter().map(|extra| {
                Problem::plain(Origin::CommandLine, &extra.to_string_lossy(), format!("not known to {word}"))
            }));
            match file.map(PathBuf::from) {
                None => {
                    let message = format!("`rubelet local {word}` needs a file");
                    problems.push(Problem::plain(Origin::CommandLine, "", message));
                    LocalCommand::Print(help())
                }
                Some(to) if word == "backup" => LocalCommand::Backup { flags, to },
                Some(from) => LocalCommand::Restore { flags, from },
            }
        }
    };
    if problems.is_empty() { Ok(outcome) } else { Err(LoadErrors(problems)) }
}

/// Takes out of the kubelet's command line what can be meant for this one only: a command, where none has been given, and
/// a flag that nobody has and that is nearest to one of ours.
fn mistyped(rest: &mut Vec<OsString>, may_be_command: bool) -> Vec<Problem> {
    let mut problems = Vec::new();
    let text = |arg: &OsString| arg.to_string_lossy().into_owned();
    if may_be_command && rest.first().is_some_and(|word| !text(word).starts_with('-')) {
        let word = text(&rest.remove(0));
        let hint = suggest::hint(&word, COMMANDS);
        let message =
            format!("unknown command: there are backup and restore, and flags alone run the node{hint}");
        problems.push(Problem::plain(Origin::CommandLine, &word, message));
        // What follows belongs to it.
        rest.clear();
        return problems;
    }
    let ours = || FLAGS.iter().map(|(name, ..)| *name);
    let mut at = 0;
    while at < rest.len() {
        let arg = text(&rest[at]);
        let name =
            arg.strip_prefix("--").map(|name| name.split('=').next().unwrap_or_default().replace('_', "-"));
        let near = name.as_deref().filter(|name| flags::is_unknown(name)).and_then(|name| {
            let everyones = flags::names().chain(ours());
            suggest::nearest(name, everyones).filter(|near| ours().any(|own| own == *near))
        });
        let (Some(near), Some(name)) = (near, name) else {
            at += 1;
            continue;
        };
        problems.push(Problem::plain(
            Origin::Flag(name),
            "",
            format!("unknown flag; did you mean --{near}?"),
        ));
        rest.remove(at);
        if !arg.contains('=') && rest.get(at).is_some_and(|value| !text(value).starts_with('-')) {
            rest.remove(at);
        }
    }
    problems
}

/// What has been read so far.
#[derive(Default)]
struct Reader {
    flags: LocalFlags,
    ip: Option<IpAddr>,
    port: Option<u16>,
    rest: Vec<OsString>,
    problems: Vec<Problem>,
    wants_help: bool,
}

impl Reader {
    fn read(&mut self, args: Vec<OsString>) {
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let Some(name) = arg.to_str().and_then(|a| a.strip_prefix("--")) else {
                self.wants_help |= arg == "-h";
                self.rest.push(arg);
                continue;
            };
            let (name, inline) = match name.split_once('=') {
                Some((name, value)) => (name.replace('_', "-"), Some(value.to_owned())),
                None => (name.replace('_', "-"), None),
            };
            if name == "help" {
                self.wants_help = true;
                continue;
            }
            let origin = || Origin::Flag(name.clone());
            if ELSEWHERE.contains(&name.as_str()) {
                let message = "`rubelet local` is its own API server: leave this flag out, or leave out `local` to join \
                               a cluster (--write-kubeconfig says where the owner's kubeconfig goes)";
                self.problems.push(Problem::plain(origin(), "", message));
                if inline.is_none() {
                    args.next();
                }
                continue;
            }
            if !FLAGS.iter().any(|(known, ..)| *known == name) {
                self.rest.push(arg);
                continue;
            }
            let value = match inline {
                Some(value) => value,
                None => match args.next().map(OsString::into_string) {
                    Some(Ok(value)) => value,
                    Some(Err(_)) => {
                        self.problems.push(Problem::plain(origin(), "", "its value is not valid UTF-8"));
                        continue;
                    }
                    None => {
                        self.problems.push(Problem::plain(origin(), "", "needs a value"));
                        continue;
                    }
                },
            };
            if let Err(message) = self.set(&name, &value) {
                self.problems.push(Problem {
                    origin: origin(),
                    field: String::new(),
                    value: Some(format!("{value:?}")),
                    message,
                });
            }
        }
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let ip = || value.parse::<IpAddr>().map_err(|_| "not an IP address".to_owned());
        let path = || {
            if value.is_empty() { Err("must not be empty".to_owned()) } else { Ok(PathBuf::from(value)) }
        };
        match name {
            "data-dir" => self.flags.data_dir = path()?,
            "bind-address" => self.ip = Some(ip()?),
            "secure-port" => {
                self.port = Some(value.parse().map_err(|_| "not a port: 0 to 65535".to_owned())?);
            }
            "advertise-address" => {
                let ip = ip()?;
                if ip.is_unspecified() {
                    return Err("nobody can connect to this address".to_owned());
                }
                self.flags.advertise_address = Some(ip);
            }
            "write-kubeconfig" => self.flags.kubeconfig = Some(path()?),
            "service-account-access" => {
                self.flags.service_account_access = match value {
                    "none" => ServiceAccountAccess::None,
                    "view" => ServiceAccountAccess::View,
                    "admin" => ServiceAccountAccess::Admin,
                    other => {
                        let hint = suggest::hint(other, ["none", "view", "admin"]);
                        return Err(format!("must be none, view or admin{hint}"));
                    }
                };
            }
            _ => self.flags.service_network = network(value)?,
        }
        Ok(())
    }
}

/// An IPv4 network with room for Services.
fn network(text: &str) -> Result<(Ipv4Addr, u8), String> {
    let wrong = || "not an IPv4 network such as 10.96.0.0/16".to_owned();
    let (address, length) = text.split_once('/').ok_or_else(wrong)?;
    let address: Ipv4Addr = address.parse().map_err(|_| wrong())?;
    let length: u8 = length.parse().map_err(|_| wrong())?;
    if !(12..=28).contains(&length) {
        return Err("the prefix length must be between 12 and 28".to_owned());
    }
    let mask = u32::MAX << (32 - u32::from(length));
    if u32::from(address) & !mask != 0 {
        return Err(format!(
            "has bits below its prefix: {}/{length} is meant",
            Ipv4Addr::from(u32::from(address) & mask)
        ));
    }
    Ok((address, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<LocalCommand, String> {
        parse_local(line.split_whitespace().map(OsString::from)).map_err(|e| e.to_string())
    }

    fn run(line: &str) -> (LocalFlags, Vec<String>) {
        match parse(line).unwrap() {
            LocalCommand::Run(flags, rest) => {
                (flags, rest.into_iter().map(|a| a.into_string().unwrap()).collect())
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn its_own_flags_are_taken_out_and_the_others_left() {
        let (flags, rest) = run(
            "--config k.yaml --data-dir=/d --secure-port 0 --v=4 --bind_address ::1 --service-account-access=admin \
             --service-cluster-ip-range 10.0.0.0/24 --hostname-override n",
        );
        assert_eq!(flags.data_dir, PathBuf::from("/d"));
        assert_eq!(flags.kubeconfig_path(), PathBuf::from("/d/admin.conf"));
        assert_eq!(flags.address, "[::1]:0".parse().unwrap());
        assert_eq!(flags.service_account_access, ServiceAccountAccess::Admin);
        assert_eq!(flags.service_network, (Ipv4Addr::new(10, 0, 0, 0), 24));
        assert_eq!(rest, ["--config", "k.yaml", "--v=4", "--hostname-override", "n"]);
        assert_eq!(run("").0, LocalFlags::default());
    }

    #[test]
    fn every_wrong_flag_is_told() {
        let check = |line: &str, message: &str| {
            let error = parse(line).unwrap_err();
            assert!(error.contains(message), "{error}");
        };
        check("--secure-port x", "flag --secure-port: \"x\": not a port");
        check("--bind-address=host", "not an IP address");
        check("--bind-address 0.0.0.0", "--advertise-address");
        check("--advertise-address ::", "nobody can connect");
        check("--service-account-access edmin", "did you mean \"admin\"?");
        check("--service-cluster-ip-range 10.0.0.1/24", "10.0.0.0/24 is meant");
        check("--service-cluster-ip-range fd00::/108", "not an IPv4 network");
        check("--kubeconfig /etc/k", "is its own API server");
        check("--data-dir", "needs a value");
        check("--data-dir= --secure-port=70000", "2 problems");
        check("backup", "needs a file");
        check("backup a b", "not known to backup");
        check("bakcup /b.db", "command line: bakcup: unknown command");
        check("bakcup /b.db", "; did you mean \"backup\"?");
        check("start", "there are backup and restore, and flags alone run the node");
        check("--data-dri /d --v=4", "flag --data-dri: unknown flag; did you mean --data-dir?");
        check("--bind_adress=::1", "did you mean --bind-address?");
        // What is near to a flag of the kubelet is left to be told by whoever reads those.
        assert_eq!(run("--node-pi 10.0.0.1").1, ["--node-pi", "10.0.0.1"]);
        assert_eq!(run("--address=::1 -v 2").1, ["--address=::1", "-v", "2"]);
    }

    #[test]
    fn backup_and_restore_name_a_file() {
        let flags = LocalFlags { data_dir: PathBuf::from("/d"), ..LocalFlags::default() };
        let to = PathBuf::from("/b.db");
        assert_eq!(
            parse("backup /b.db --data-dir /d"),
            Ok(LocalCommand::Backup { flags: flags.clone(), to: to.clone() })
        );
        assert_eq!(parse("restore --data-dir /d /b.db"), Ok(LocalCommand::Restore { flags, from: to }));
        assert!(matches!(parse("--help"), Ok(LocalCommand::Print(text)) if text.contains("--bind-address")));
    }
}
