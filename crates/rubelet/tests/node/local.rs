//! A node with an API of its own: `rubelet local` on a private containerd, and kubectl of two versions to ask it.
//!
//! `RUBELET_TEST_REFERENCE` names the kubeconfig of a real cluster to run the same transcripts on, for whoever wants to
//! know what is right; what runs there needs the workload image.

use std::path::PathBuf;

use tempfile::TempDir;

use crate::kubectl::{Kubectl, Version};
use crate::node::Node;

/// A node that is its own control plane. Fields are dropped in this order.
pub struct LocalNode {
    /// None when the transcripts run on a real cluster.
    node: Option<Node>,
    /// The owner's.
    pub kubeconfig: PathBuf,
    /// Homes of the kubectls.
    dir: TempDir,
}

impl LocalNode {
    /// A node whose API answers.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// A node whose program has more arguments.
    pub fn with(arguments: &[&str]) -> Self {
        let mut node = Self::prepared(arguments);
        if let Some(node) = &mut node.node {
            node.start_agent();
        }
        node
    }

    /// A node that is yet to be started.
    pub fn prepared(arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        if let Some(kubeconfig) = std::env::var_os("RUBELET_TEST_REFERENCE") {
            return Self { node: None, kubeconfig: kubeconfig.into(), dir };
        }
        let kubeconfig = dir.path().join("admin.conf");
        // Other work on this machine may use up its disk, which is not to keep pods away.
        let mut node = Node::without_agent("evictionHard: {memory.available: 1Mi}");
        node.subcommand = Some("local");
        node.arguments = vec![
            format!("--data-dir={}", node.data_dir().display()),
            "--secure-port=0".to_owned(),
            format!("--write-kubeconfig={}", kubeconfig.display()),
        ];
        node.arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        Self { node: Some(node), kubeconfig, dir }
    }

    /// The node, to be stopped and started.
    pub fn node_mut(&mut self) -> &mut Node {
        self.node.as_mut().expect("this transcript ends the node's program")
    }

    /// The node, for what only its machine can tell.
    pub fn node(&self) -> &Node {
        self.node.as_ref().expect("this transcript looks at the node's machine")
    }

    /// A kubectl with a namespace of its own on this node.
    pub fn kubectl(&self, version: Version) -> Kubectl {
        Kubectl::new(version, &self.kubeconfig, &self.dir.path().join(format!("{version:?}")))
    }

    /// Lets kubectl of each version go through a theme, at the same time.
    pub fn each(&self, theme: impl Fn(&Kubectl) + Sync) {
        std::thread::scope(|scope| {
            let themes = [Version::V1_20, Version::V1_35].map(|version| {
                let theme = &theme;
                scope.spawn(move || theme(&self.kubectl(version)))
            });
            for theme in themes {
                if let Err(problem) = theme.join() {
                    std::panic::resume_unwind(problem);
                }
            }
        });
    }
}
