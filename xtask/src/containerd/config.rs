//! The configuration file of a private containerd.
//!
//! Owns which settings differ from containerd's defaults and how each configuration version spells them. Never reads
//! the machine: everything comes in by [`Settings`]. Called when a private containerd is started.

use std::path::PathBuf;

use crate::images;

/// What a configuration is made of.
pub(crate) struct Settings {
    /// The folder that holds everything.
    pub(crate) dir: PathBuf,
    /// The runc to use.
    pub(crate) runc: PathBuf,
    /// `overlayfs` or `native`.
    pub(crate) snapshotter: String,
    /// Set where the machine does not let a process lower an OOM score.
    pub(crate) restrict_oom_score_adj: bool,
    /// Where the network is described.
    pub(crate) cni_conf_dir: PathBuf,
    /// Where the CNI plugins are.
    pub(crate) cni_bin_dir: PathBuf,
    /// Where runc keeps its state.
    pub(crate) runc_root: PathBuf,
    /// Whether systemd makes the control groups of containers.
    pub(crate) systemd_cgroups: bool,
}

impl Settings {
    /// The text for a containerd of that (major, minor): 1.x reads configuration version 2, 2.x version 3.
    pub(crate) fn render(&self, line: (u32, u32)) -> String {
        if line < (2, 0) {
            self.common(2) + &self.cri_whole()
        } else {
            self.common(3) + &self.cri_split(line)
        }
    }

    /// Everything outside of CRI. Plugins that would write outside the folder are moved into it or left out.
    fn common(&self, version: u32) -> String {
        let at = |name: &str| quote(&self.dir.join(name).display().to_string());
        format!(
            r#"# Made by `cargo xtask containerd start`; made anew at every start.
version = {version}
root = {root}
state = {state}
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.blockfile",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.erofs",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.internal.v1.tracing",
]

[grpc]
  address = {socket}

[plugins."io.containerd.internal.v1.opt"]
  path = {opt}

[plugins."io.containerd.nri.v1.nri"]
  disable = true
"#,
            root = at("root"),
            state = at("state"),
            socket = at("containerd.sock"),
            opt = at("opt"),
        )
    }

    /// CRI as one plugin: containerd 1.6 and 1.7.
    fn cri_whole(&self) -> String {
        format!(
            r#"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = {pause}
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  netns_mounts_under_state_dir = true
  restrict_oom_score_adj = {restrict}

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = {bin}
  conf_dir = {conf}

[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = {snapshotter}
  default_runtime_name = "runc"
{runtime}"#,
            pause = quote(images::PAUSE),
            restrict = self.restrict_oom_score_adj,
            bin = quote(&self.cni_bin_dir.display().to_string()),
            conf = quote(&self.cni_conf_dir.display().to_string()),
            snapshotter = quote(&self.snapshotter),
            runtime = self.runtime("io.containerd.grpc.v1.cri"),
        )
    }

    /// CRI as an image, a runtime and a service plugin: containerd 2.
    fn cri_split(&self, line: (u32, u32)) -> String {
        format!(
            r#"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = {snapshotter}

[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = {pause}

[plugins."io.containerd.cri.v1.runtime"]
  netns_mounts_under_state_dir = true
  restrict_oom_score_adj = {restrict}

[plugins."io.containerd.cri.v1.runtime".cni]
  {bin}
  conf_dir = {conf}

[plugins."io.containerd.cri.v1.runtime".containerd]
  default_runtime_name = "runc"
{runtime}
[plugins."io.containerd.grpc.v1.cri"]
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
"#,
            pause = quote(images::PAUSE),
            restrict = self.restrict_oom_score_adj,
            // 2.1 takes a list, and warns about the one folder that 2.0 knows.
            bin = match quote(&self.cni_bin_dir.display().to_string()) {
                folder if line < (2, 1) => format!("bin_dir = {folder}"),
                folder => format!("bin_dirs = [{folder}]"),
            },
            conf = quote(&self.cni_conf_dir.display().to_string()),
            snapshotter = quote(&self.snapshotter),
            runtime = self.runtime("io.containerd.cri.v1.runtime"),
        )
    }

    /// The one runtime handler, runc with its state in the folder.
    fn runtime(&self, plugin: &str) -> String {
        format!(
            r#"
[plugins."{plugin}".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins."{plugin}".containerd.runtimes.runc.options]
  BinaryName = {runc}
  Root = {root}
  SystemdCgroup = {systemd}
"#,
            runc = quote(&self.runc.display().to_string()),
            root = quote(&self.runc_root.display().to_string()),
            systemd = self.systemd_cgroups,
        )
    }
}

/// A TOML basic string.
fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            control if control.is_control() => quoted += &format!("\\u{:04X}", control as u32),
            plain => quoted.push(plain),
        }
    }
    quoted + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            dir: "/d".into(),
            runc: "/usr/sbin/runc".into(),
            snapshotter: "native".to_owned(),
            restrict_oom_score_adj: true,
            cni_conf_dir: "/d/cni".into(),
            cni_bin_dir: "/usr/lib/cni".into(),
            runc_root: "/d/state/runc".into(),
            systemd_cgroups: false,
        }
    }

    fn check(line: (u32, u32), wanted: &[&str], unwanted: &[&str]) {
        let text = settings().render(line);
        for line in wanted {
            assert!(text.lines().any(|has| has.trim() == *line), "{line:?} is missing in:\n{text}");
        }
        for part in unwanted {
            assert!(!text.contains(part), "{part:?} should not be in:\n{text}");
        }
    }

    const BOTH: [&str; 9] = [
        "root = \"/d/root\"",
        "state = \"/d/state\"",
        "address = \"/d/containerd.sock\"",
        "path = \"/d/opt\"",
        "restrict_oom_score_adj = true",
        "netns_mounts_under_state_dir = true",
        "snapshotter = \"native\"",
        "Root = \"/d/state/runc\"",
        "conf_dir = \"/d/cni\"",
    ];

    #[test]
    fn containerd_1_gets_version_2_with_one_cri_plugin() {
        check((1, 7), &BOTH, &["io.containerd.cri.v1"]);
        check((1, 7), &["version = 2", "sandbox_image = \"rubelet.local/pause:1\""], &[]);
    }

    #[test]
    fn containerd_2_gets_version_3_with_cri_in_parts() {
        check((2, 1), &BOTH, &["sandbox_image"]);
        check(
            (2, 0),
            &["version = 3", "sandbox = \"rubelet.local/pause:1\"", "bin_dir = \"/usr/lib/cni\""],
            &[],
        );
        check((2, 1), &["bin_dirs = [\"/usr/lib/cni\"]"], &["bin_dir ="]);
    }

    #[test]
    fn control_groups_are_made_by_runc_or_by_systemd() {
        for line in [(1, 6), (2, 0)] {
            check(line, &["SystemdCgroup = false"], &[]);
            let text = Settings { systemd_cgroups: true, ..settings() }.render(line);
            assert!(text.lines().any(|line| line.trim() == "SystemdCgroup = true"), "{text}");
        }
    }

    #[test]
    fn strings_are_quoted_as_toml_wants() {
        assert_eq!(quote(r#"a "b" \c"#), r#""a \"b\" \\c""#);
        assert_eq!(quote("a\nb"), "\"a\\u000Ab\"");
    }
}
