//! The operations of the scripted runtime, as a closed enum: what faults, hooks and the history speak of.

macro_rules! operations {
    ($($name:ident),+ $(,)?) => {
        /// One RPC of CRI, named as in the protocol.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(missing_docs)] // The names are the protocol's; see `rubelet_cri::RuntimeService`.
        pub enum Op { $($name),+ }

        impl Op {
            /// Every operation.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// Its name in the protocol.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),+ }
            }
        }
    };
}

operations!(
    Version,
    Status,
    RuntimeConfig,
    UpdateRuntimeConfig,
    RunPodSandbox,
    StopPodSandbox,
    RemovePodSandbox,
    PodSandboxStatus,
    ListPodSandbox,
    UpdatePodSandboxResources,
    CreateContainer,
    StartContainer,
    StopContainer,
    RemoveContainer,
    ListContainers,
    ContainerStatus,
    UpdateContainerResources,
    ReopenContainerLog,
    CheckpointContainer,
    ExecSync,
    Exec,
    Attach,
    PortForward,
    GetContainerEvents,
    ContainerStats,
    ListContainerStats,
    PodSandboxStats,
    ListPodSandboxStats,
    ListMetricDescriptors,
    ListPodSandboxMetrics,
    ListImages,
    ImageStatus,
    PullImage,
    RemoveImage,
    ImageFsInfo,
);

impl Op {
    /// Whether it acts on the world: only those are kept in the history.
    pub fn acts(self) -> bool {
        use Op::*;
        matches!(
            self,
            RunPodSandbox
                | StopPodSandbox
                | RemovePodSandbox
                | UpdatePodSandboxResources
                | CreateContainer
                | StartContainer
                | StopContainer
                | RemoveContainer
                | UpdateContainerResources
                | CheckpointContainer
                | ExecSync
                | PullImage
                | RemoveImage
        )
    }
}
