//! Removes what a private containerd and its pods leave on the machine.
//!
//! Owns the order: containers, shims, the daemon, mounts, the bridge, iptables rules, cgroups, the folder. Works just
//! as well when the daemon hangs or is dead, because it asks runc and the kernel, not the daemon. Never touches what
//! carries another name than the folder's own. Called by `cargo xtask containerd stop` and `make stop`.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Handle, NAMESPACE, network, tag};
use crate::process::{command, command_line, find_program, output, process_ids, say, signal};
use crate::{host, wait};

/// Where the kernel shows control groups.
const CGROUPS: &str = "/sys/fs/cgroup";
/// Where libcni keeps a file per sandbox and network; containerd offers no setting for it.
const CNI_RESULTS: &str = "/var/lib/cni/results";
/// Where every containerd's shims have their sockets.
const SHIM_SOCKETS: &str = "/run/containerd/s/";
/// The chains that every portmap plugin of the machine shares, in the order in which they can go.
const PORTMAP_CHAINS: [&str; 3] = ["CNI-HOSTPORT-DNAT", "CNI-HOSTPORT-MASQ", "CNI-HOSTPORT-SETMARK"];

/// Ends the containerd in `dir` with all its pods and removes every trace of it.
pub(crate) fn bring_down(dir: &Path) -> Result<()> {
    let Ok(dir) = dir.canonicalize() else { return Ok(()) };
    if !host::is_root() {
        bail!("stopping a containerd needs root");
    }
    if let Some(handle) = Handle::load(&dir) {
        stop_processes(&handle)?;
        remove_network(&handle)?;
        remove_cgroup_root(&handle.cgroup_root)?;
    } else if dir.join("config.toml").exists() {
        bail!(
            "{} holds a containerd without containerd.json: end it by hand, then remove the folder",
            dir.display()
        );
    }
    unmount_below(&dir)?;
    fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))
}

fn stop_processes(handle: &Handle) -> Result<()> {
    // The daemon goes first, so that nothing restarts or re-reads what is taken away under it.
    if handle.is_running() {
        let ended = || Ok((!handle.is_running()).then_some(()));
        signal(handle.pid, "TERM");
        if wait::until("containerd to end", Duration::from_secs(5), ended).is_err() {
            say("containerd does not end by itself: killing it");
            signal(handle.pid, "KILL");
            wait::until("containerd to be gone", Duration::from_secs(10), ended)?;
        }
    }
    delete_containers(handle);
    let shims = || -> Vec<u32> {
        let mark = format!("-address {}", handle.socket.display());
        let is_ours = |pid: &u32| {
            let line = command_line(*pid);
            line.contains("containerd-shim") && line.contains(&mark)
        };
        process_ids().into_iter().filter(is_ours).collect()
    };
    for pid in shims() {
        signal(pid, "KILL");
    }
    remove_shim_sockets(handle);
    wait::until("the shims to end", Duration::from_secs(10), || Ok(shims().is_empty().then_some(())))?;
    // A container that was being made while the first round ran.
    delete_containers(handle);
    Ok(())
}

/// Kills and deletes every container that runc knows, which removes its cgroup too.
fn delete_containers(handle: &Handle) {
    let Ok(entries) = fs::read_dir(handle.runc_root()) else { return };
    for entry in entries.flatten() {
        let deleted = output(
            command([&handle.runc])
                .arg("--root")
                .arg(handle.runc_root())
                .args(["delete", "--force"])
                .arg(entry.file_name()),
        );
        if let Err(error) = deleted {
            say(&format!("container {}: {error:#}", entry.file_name().to_string_lossy()));
        }
    }
}

/// Removes the sockets of killed shims, which the folders of their containers name.
fn remove_shim_sockets(handle: &Handle) {
    let bundles = handle.dir.join("state/io.containerd.runtime.v2.task").join(NAMESPACE);
    for bundle in fs::read_dir(bundles).into_iter().flatten().flatten() {
        if let Some(socket) = shim_socket(&bundle.path()).filter(|path| path.starts_with(SHIM_SOCKETS)) {
            let _gone_already = fs::remove_file(socket);
        }
    }
}

/// The shim's socket: containerd 1 keeps its address as a text, containerd 2 as a part of a JSON object.
fn shim_socket(bundle: &Path) -> Option<PathBuf> {
    let address = fs::read_to_string(bundle.join("address")).ok().or_else(|| {
        let bootstrap: Value =
            serde_json::from_str(&fs::read_to_string(bundle.join("bootstrap.json")).ok()?).ok()?;
        bootstrap["address"].as_str().map(str::to_owned)
    })?;
    address.trim().strip_prefix("unix://").map(PathBuf::from)
}

/// Removes what libcni noted about the sandboxes of network `name`, and about their loopback interfaces.
fn remove_cni_results(folder: &Path, name: &str) {
    let files = || {
        fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|file| file.file_name().into_string().ok())
    };
    let prefix = format!("{name}-");
    let sandboxes: Vec<String> =
        files().filter_map(|file| Some(file.strip_prefix(&prefix)?.split('-').next()?.to_owned())).collect();
    for file in files() {
        let loopback = || sandboxes.iter().any(|sandbox| file == format!("cni-loopback-{sandbox}-lo"));
        if file.starts_with(&prefix) || loopback() {
            let _gone_already = fs::remove_file(folder.join(file));
        }
    }
}

/// Unmounts everything under `dir`, the deepest first.
pub(crate) fn unmount_below(dir: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mounts")?;
    for target in mounts_below(&mounts, dir) {
        output(command(["umount", "--lazy", "--no-canonicalize"]).arg(&target))?;
    }
    Ok(())
}

/// The mount points under `dir` in the order in which they can go. Later mounts may cover earlier ones.
fn mounts_below(mountinfo: &str, dir: &Path) -> Vec<PathBuf> {
    let targets = mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    let mut below: Vec<PathBuf> = targets.filter(|target| target.starts_with(dir) && target != dir).collect();
    below.reverse();
    below
}

/// Undoes the octal escapes of mountinfo.
fn unescape(field: &str) -> PathBuf {
    let mut text = field.to_owned();
    for (escape, plain) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        text = text.replace(escape, plain);
    }
    PathBuf::from(text)
}

/// Removes the bridge, the rules of its pods, and the shared chains when nobody else uses them.
fn remove_network(handle: &Handle) -> Result<()> {
    if Path::new("/sys/class/net").join(&handle.bridge).exists()
        && let Some(ip) = find_program("ip")
    {
        output(command([ip]).args(["link", "delete", &handle.bridge]))?;
    }
    remove_cni_results(Path::new(CNI_RESULTS), &network::name(&tag(&handle.dir)));
    let Some(iptables) = find_program("iptables") else { return Ok(()) };
    let run = |arguments: &[&str]| output(command([&iptables]).args(["-w", "-t", "nat"]).args(arguments));
    let Ok(rules) = run(&["-S"]) else { return Ok(()) };
    for words in removals(&rules, &network::name(&tag(&handle.dir))) {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        if let Err(error) = run(&words) {
            say(&format!("iptables: {error:#}"));
        }
    }
    if let (Some(restore), Ok(rules)) = (find_program("iptables-restore"), run(&["-S"]))
        && let Some(text) = shared_removal(&rules)
    {
        // Not a word when it fails: then somebody else uses the chains.
        let mut call = command([restore]);
        let call =
            call.args(["-w", "--noflush"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Ok(mut child) = call.spawn() {
            if let Some(mut stdin) = child.stdin.take() {
                let _ = stdin.write_all(text.as_bytes());
            }
            let _ = child.wait();
        }
    }
    Ok(())
}

/// The iptables calls that take the rules of network `name` out of the nat table listed in `rules`.
fn removals(rules: &str, name: &str) -> Vec<Vec<String>> {
    let rules: Vec<Vec<String>> = rules.lines().map(words).collect();
    let named = format!("name: \"{name}\"");
    let is_ours = |rule: &&Vec<String>| rule.iter().any(|word| word.contains(&named));
    let mut calls = Vec::new();
    let mut chains: Vec<&str> = Vec::new();
    for rule in rules.iter().filter(is_ours) {
        let chain = rule.get(1).map(String::as_str).unwrap_or_default();
        // A rule in a pod's own chain goes with the chain; a jump to it, from a shared chain, goes alone.
        if let Some(target) = jump(rule).filter(|target| target.starts_with("CNI-") && *target != chain) {
            if !PORTMAP_CHAINS.contains(&target) && !chains.contains(&target) {
                chains.push(target);
            }
            if !chain.starts_with("CNI-") || PORTMAP_CHAINS.contains(&chain) {
                calls.push(deletion(rule));
            }
        }
    }
    for chain in chains {
        calls.push(vec!["-F".to_owned(), chain.to_owned()]);
        calls.push(vec!["-X".to_owned(), chain.to_owned()]);
    }
    // What a cut-short removal has left: chains of the network to which nothing jumps any more.
    for rule in rules.iter().filter(is_ours) {
        let chain = rule.get(1).map(String::as_str).unwrap_or_default();
        let leftover = chain.starts_with("CNI-") && !PORTMAP_CHAINS.contains(&chain);
        if leftover && !calls.iter().any(|call| call.as_slice() == ["-X", chain]) {
            calls.push(vec!["-F".to_owned(), chain.to_owned()]);
            calls.push(vec!["-X".to_owned(), chain.to_owned()]);
        }
    }
    calls
}

/// The transaction that takes away the chains all networks share, for `iptables-restore`, when `rules` show no pod in
/// them; `None` otherwise. It deletes the first chain without emptying it: if a pod of anyone has got a port in the
/// meantime, that fails, and with it the whole transaction.
fn shared_removal(rules: &str) -> Option<String> {
    let lines = |prefix: &str| rules.lines().filter(|line| line.starts_with(prefix)).collect::<Vec<_>>();
    let present: Vec<&str> = PORTMAP_CHAINS
        .into_iter()
        .filter(|chain| rules.lines().any(|line| line == format!("-N {chain}")))
        .collect();
    let first = PORTMAP_CHAINS[0];
    if present.is_empty() || !lines(&format!("-A {first} ")).is_empty() {
        return None;
    }
    let mut text = String::from("*nat\n");
    let ends_in = |line: &str, chain: &str| line.ends_with(&format!("-j {chain}"));
    let jumps = lines("-A ").into_iter().filter(|line| present.iter().any(|chain| ends_in(line, chain)));
    let inner = present.iter().flat_map(|chain| lines(&format!("-A {chain} ")));
    let mut deleted: Vec<&str> = jumps.chain(inner).collect();
    deleted.dedup();
    for line in deleted {
        text.push_str(&format!("-D{}\n", &line[2..]));
    }
    for chain in present {
        text.push_str(&format!("-X {chain}\n"));
    }
    text.push_str("COMMIT\n");
    Some(text)
}

fn jump(rule: &[String]) -> Option<&str> {
    let at = rule.iter().position(|word| word == "-j")?;
    rule.get(at + 1).map(String::as_str)
}

fn deletion(rule: &[String]) -> Vec<String> {
    let mut call = rule.to_vec();
    if let Some(first) = call.first_mut() {
        *first = "-D".to_owned();
    }
    call
}

/// Splits a line of `iptables -S` as a shell would: blanks part, double quotes hold together, a backslash escapes.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted, mut any) = (Vec::new(), String::new(), false, false);
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' if quoted => word.extend(characters.next()),
            '"' => (quoted, any) = (!quoted, true),
            blank if blank.is_whitespace() && !quoted => {
                if any || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                any = false;
            }
            plain => word.push(plain),
        }
    }
    if any || !word.is_empty() {
        words.push(word);
    }
    words
}

/// The hierarchies of this machine: one per v1 controller and the unified one, or the one of cgroup v2.
fn hierarchies() -> Vec<PathBuf> {
    let top = PathBuf::from(CGROUPS);
    if top.join("cgroup.controllers").exists() {
        return vec![top];
    }
    let Ok(entries) = fs::read_dir(&top) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.join("cgroup.procs").exists())
        .collect();
    found.sort();
    found
}

/// Makes the cgroup that the agent is pointed to, in every hierarchy.
pub(crate) fn create_cgroup_root(name: &str) -> Result<()> {
    for hierarchy in hierarchies() {
        let group = hierarchy.join(name.trim_start_matches('/'));
        if let Err(error) = fs::create_dir(&group)
            && error.kind() != std::io::ErrorKind::AlreadyExists
        {
            return Err(error).with_context(|| format!("cannot create {}", group.display()));
        }
        // A new v1 cpuset has no cpu and no memory node until it is told.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if hierarchy.join("cgroup.clone_children").exists() && group.join(file).exists() {
                fs::write(group.join(file), fs::read(hierarchy.join(file))?)
                    .with_context(|| format!("cannot set {}", group.join(file).display()))?;
            }
        }
    }
    Ok(())
}

/// Removes the cgroup and those below it from every hierarchy; what still holds a process is killed first.
fn remove_cgroup_root(name: &str) -> Result<()> {
    for hierarchy in hierarchies() {
        let group = hierarchy.join(name.trim_start_matches('/'));
        wait::until(&format!("{} to be removable", group.display()), Duration::from_secs(10), || {
            Ok((!group.exists() || remove_cgroup_tree(&group)).then_some(()))
        })?;
    }
    Ok(())
}

/// Tries to remove a cgroup and all below it; false when a process is left in it, which has been sent SIGKILL.
fn remove_cgroup_tree(group: &Path) -> bool {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup_tree(&entry.path());
        }
    }
    let left = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    for pid in left.lines().filter_map(|line| line.parse().ok()) {
        signal(pid, "KILL");
    }
    fs::remove_dir(group).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_taken_down_from_the_last_one_and_only_below_the_folder() {
        let mountinfo = "1 0 8:1 / / rw - ext4 /dev/sda rw\n\
                         2 1 0:5 / /d/state/a rw - overlay overlay rw\n\
                         3 1 0:6 / /d/state/a/b\\040c rw - tmpfs tmpfs rw\n\
                         4 1 0:7 / /dx rw - tmpfs tmpfs rw\n\
                         5 1 0:8 / /d rw - tmpfs tmpfs rw\n";
        let found = mounts_below(mountinfo, Path::new("/d"));
        assert_eq!(found, [PathBuf::from("/d/state/a/b c"), PathBuf::from("/d/state/a")]);
    }

    const MASQUERADE: &str = "-P PREROUTING ACCEPT\n\
        -N CNI-aaa\n\
        -A POSTROUTING -s 10.1.0.2/32 -m comment --comment \"name: \\\"rubelet-1\\\" id: \\\"x\\\"\" -j CNI-aaa\n\
        -A CNI-aaa -d 10.1.0.0/24 -m comment --comment \"name: \\\"rubelet-1\\\" id: \\\"x\\\"\" -j ACCEPT\n";

    const PORTMAP: &str = "-N CNI-DN-bbb\n\
        -N CNI-HOSTPORT-DNAT\n\
        -N CNI-HOSTPORT-MASQ\n\
        -N CNI-HOSTPORT-SETMARK\n\
        -A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT\n\
        -A POSTROUTING -m comment --comment \"CNI portfwd requiring masquerade\" -j CNI-HOSTPORT-MASQ\n\
        -A CNI-DN-bbb -s 10.1.0.0/24 -p tcp -m tcp --dport 80 -j CNI-HOSTPORT-SETMARK\n\
        -A CNI-HOSTPORT-DNAT -p tcp -m comment --comment \"dnat name: \\\"rubelet-1\\\" id: \\\"x\\\"\" -j CNI-DN-bbb\n\
        -A CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE\n";

    fn check_removals(rules: &str, wanted: &[&str]) {
        let calls: Vec<String> = removals(rules, "rubelet-1").iter().map(|call| call.join(" ")).collect();
        assert_eq!(calls, wanted);
    }

    #[test]
    fn the_rules_of_one_network_go_and_others_stay() {
        let jump =
            "-D POSTROUTING -s 10.1.0.2/32 -m comment --comment name: \"rubelet-1\" id: \"x\" -j CNI-aaa";
        check_removals(MASQUERADE, &[jump, "-F CNI-aaa", "-X CNI-aaa"]);
        check_removals(&MASQUERADE.replace("rubelet-1", "rubelet-10"), &[]);
    }

    #[test]
    fn the_shared_chains_go_with_their_last_pod() {
        let dnat = "-D CNI-HOSTPORT-DNAT -p tcp -m comment --comment dnat name: \"rubelet-1\" id: \"x\" -j CNI-DN-bbb";
        check_removals(PORTMAP, &[dnat, "-F CNI-DN-bbb", "-X CNI-DN-bbb"]);
        assert_eq!(shared_removal(PORTMAP), None, "a pod is listed");
        let empty: Vec<&str> = PORTMAP.lines().filter(|line| !line.contains("CNI-DN-bbb")).collect();
        assert_eq!(
            shared_removal(&empty.join("\n")).unwrap(),
            "*nat\n\
             -D PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT\n\
             -D POSTROUTING -m comment --comment \"CNI portfwd requiring masquerade\" -j CNI-HOSTPORT-MASQ\n\
             -D CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE\n\
             -X CNI-HOSTPORT-DNAT\n-X CNI-HOSTPORT-MASQ\n-X CNI-HOSTPORT-SETMARK\nCOMMIT\n"
        );
        assert_eq!(shared_removal("-P PREROUTING ACCEPT\n"), None);
    }

    #[test]
    fn a_chain_nothing_jumps_to_goes_too() {
        let rules = "-N CNI-ccc\n-A CNI-ccc -m comment --comment \"name: \\\"rubelet-1\\\" id: \\\"x\\\"\" -j ACCEPT\n";
        check_removals(rules, &["-F CNI-ccc", "-X CNI-ccc"]);
    }

    #[test]
    fn both_generations_of_shims_name_their_socket() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(shim_socket(folder.path()), None);
        fs::write(folder.path().join("bootstrap.json"), r#"{"version":3,"address":"unix:///run/a"}"#)
            .unwrap();
        assert_eq!(shim_socket(folder.path()), Some("/run/a".into()));
        fs::write(folder.path().join("address"), "unix:///run/b\n").unwrap();
        assert_eq!(shim_socket(folder.path()), Some("/run/b".into()));
    }

    #[test]
    fn notes_about_other_networks_stay() {
        let folder = tempfile::tempdir().unwrap();
        for file in ["rubelet-1-aa-eth0", "cni-loopback-aa-lo", "rubelet-10-bb-eth0", "cni-loopback-bb-lo"] {
            fs::write(folder.path().join(file), "").unwrap();
        }
        remove_cni_results(folder.path(), "rubelet-1");
        let mut left: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["cni-loopback-bb-lo", "rubelet-10-bb-eth0"]);
    }

    #[test]
    fn removing_what_never_was_is_no_error() {
        bring_down(Path::new("/no/such/folder")).unwrap();
    }
}
