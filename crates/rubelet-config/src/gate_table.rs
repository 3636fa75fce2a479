//! The feature gates that Kubernetes 1.36 components know: stage, default, lock, dependencies.
//!
//! Data only, taken from upstream's versioned gate tables (`pkg/features`, apiserver,
//! apiextensions, client-go, component-base). The rules that use it are in `gates`.

use crate::gates::{GateSpec, Stage};

macro_rules! gates {
    ($( $gate:ident $stage:ident $default:ident $(locked $locked:tt)? $(=> $($needs:ident)*)? ; )*) => {
        /// A feature gate, by its upstream name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[expect(missing_docs, reason = "the names are upstream's and documented there")]
        pub enum Gate { $( $gate, )* }

        /// Every gate in the order of [`Gate`], which is the order of names.
        pub(crate) const GATES: &[GateSpec] = &[
            $( GateSpec {
                gate: Gate::$gate,
                name: stringify!($gate),
                stage: Stage::$stage,
                default: gates!(@ $default),
                locked: false $( || gates!(@ $locked) )?,
                needs: &[ $( $( Gate::$needs, )* )? ],
            }, )*
        ];
    };
    (@ on) => { true };
    (@ off) => { false };
    (@ yes) => { true };
}

gates! {
    APIResponseCompression Beta on;
    APIServerIdentity Beta on;
    APIServerTracing Ga on locked yes;
    APIServingWithRoutine Alpha off;
    AggregatedDiscoveryRemoveBetaType Deprecated on locked yes;
    AllowDNSOnlyNodeCSR Deprecated off;
    AllowInsecureKubeletCertificateSigningRequests Deprecated off;
    AllowOverwriteTerminationGracePeriodSeconds Deprecated off locked yes;
    AllowParsingUserUIDFromCertAuth Beta on;
    AllowServiceExternalIPs Ga on;
    AllowUnsafeMalformedObjectDeletion Alpha off;
    AnonymousAuthConfigurableEndpoints Ga on locked yes;
    AnyVolumeDataSource Ga on locked yes;
    AtomicFIFO Beta on;
    AuthorizeNodeWithSelectors Ga on locked yes => AuthorizeWithSelectors;
    AuthorizePodWebsocketUpgradeCreatePermission Beta on;
    AuthorizeWithSelectors Ga on locked yes;
    BtreeWatchCache Ga on locked yes;
    CBORServingAndStorage Alpha off;
    CPUManagerPolicyAlphaOptions Alpha off;
    CPUManagerPolicyBetaOptions Beta on;
    CPUManagerPolicyOptions Ga on locked yes;
    CRDObservedGenerationTracking Beta on;
    CRDValidationRatcheting Ga on locked yes;
    CRIListStreaming Alpha off;
    CSIServiceAccountTokenSecrets Ga on locked yes;
    CSIVolumeHealth Alpha off;
    ChangeContainerStatusOnKubeletRestart Deprecated off;
    ClearingNominatedNodeNameAfterBinding Beta on;
    ClientsAllowCARotation Beta on;
    ClientsAllowCBOR Alpha off;
    ClientsAllowTLSCacheGC Beta on;
    ClientsPreferCBOR Alpha off;
    CloudControllerManagerWatchBasedRoutesReconciliation Alpha off;
    CloudControllerManagerWebhook Alpha off;
    ClusterTrustBundle Beta off;
    ClusterTrustBundleProjection Beta off => ClusterTrustBundle;
    ComponentFlagz Beta on;
    ComponentStatusz Beta on;
    ConcurrentWatchObjectDecode Beta off;
    ConsistentListFromCache Ga on locked yes;
    ConstrainedImpersonation Beta on;
    ContainerCheckpoint Beta on;
    ContainerRestartRules Beta on;
    ContainerStopSignals Alpha off;
    ContextualLogging Beta on;
    CoordinatedLeaderElection Beta off;
    CrossNamespaceVolumeDataSource Alpha off;
    CustomCPUCFSQuotaPeriod Ga on;
    CustomResourceFieldSelectors Ga on locked yes;
    DRAAdminAccess Ga on locked yes => DynamicResourceAllocation;
    DRAConsumableCapacity Beta on => DynamicResourceAllocation;
    DRADeviceBindingConditions Beta on => DynamicResourceAllocation DRAResourceClaimDeviceStatus;
    DRADeviceTaintRules Beta off => DRADeviceTaints;
    DRADeviceTaints Beta on => DynamicResourceAllocation;
    DRAExtendedResource Beta on => DynamicResourceAllocation;
    DRAListTypeAttributes Alpha off => DynamicResourceAllocation;
    DRANodeAllocatableResources Alpha off => DynamicResourceAllocation;
    DRAPartitionableDevices Beta on => DynamicResourceAllocation;
    DRAPrioritizedList Ga on => DynamicResourceAllocation;
    DRAResourceClaimDeviceStatus Beta on;
    DRAResourceClaimGranularStatusAuthorization Beta on => DynamicResourceAllocation DRAResourceClaimDeviceStatus;
    DRAResourcePoolStatus Alpha off => DynamicResourceAllocation;
    DRASchedulerFilterTimeout Beta on => DynamicResourceAllocation;
    DRAWorkloadResourceClaims Alpha off => DynamicResourceAllocation GenericWorkload;
    DeclarativeValidation Ga on locked yes;
    DeclarativeValidationBeta Beta on => DeclarativeValidation;
    DeclarativeValidationTakeover Deprecated off => DeclarativeValidation;
    DeploymentReplicaSetTerminatingReplicas Beta on;
    DetectCacheInconsistency Beta on;
    DisableAllocatorDualWrite Ga on locked yes => MultiCIDRServiceAllocator;
    DisableCPUQuotaWithExclusiveCPUs Deprecated on;
    DisableNodeKubeProxyVersion Deprecated on locked yes;
    DynamicResourceAllocation Ga on locked yes;
    EnvFiles Beta on;
    EventedPLEG Alpha off;
    ExecProbeTimeout Ga on locked yes;
    ExtendWebSocketsToKubelet Beta on => NodeDeclaredFeatures;
    ExternalServiceAccountTokenSigner Ga on locked yes;
    GangScheduling Alpha off => GenericWorkload;
    GenericWorkload Alpha off;
    GitRepoVolumeDriver Deprecated off locked yes;
    GracefulNodeShutdown Beta on;
    GracefulNodeShutdownBasedOnPodPriority Beta on => GracefulNodeShutdown;
    HPAConfigurableTolerance Beta on;
    HPAScaleToZero Alpha off;
    HostnameOverride Beta on;
    ImageMaximumGCAge Ga on locked yes;
    ImageVolume Ga on locked yes;
    ImageVolumeWithDigest Alpha off => ImageVolume;
    InOrderInformers Ga on locked yes;
    InOrderInformersBatchProcess Beta on;
    InPlacePodLevelResourcesVerticalScaling Beta on => InPlacePodVerticalScaling PodLevelResources NodeDeclaredFeatures;
    InPlacePodVerticalScaling Ga on locked yes;
    InPlacePodVerticalScalingExclusiveCPUs Alpha off => InPlacePodVerticalScaling;
    InPlacePodVerticalScalingExclusiveMemory Alpha off => InPlacePodVerticalScaling;
    InPlacePodVerticalScalingInitContainers Beta on => InPlacePodVerticalScaling NodeDeclaredFeatures;
    InformerResourceVersion Ga on;
    JobBackoffLimitPerIndex Ga on locked yes;
    JobManagedBy Ga on locked yes;
    JobPodReplacementPolicy Ga on locked yes;
    JobSuccessPolicy Ga on locked yes;
    KMSv1 Deprecated off;
    KubeletCgroupDriverFromCRI Ga on locked yes;
    KubeletCrashLoopBackOffMax Beta on;
    KubeletEnsureSecretPulledImages Beta on;
    KubeletFineGrainedAuthz Ga on locked yes;
    KubeletInUserNamespace Alpha off;
    KubeletPSI Ga on locked yes;
    KubeletPodResourcesDynamicResources Ga on locked yes;
    KubeletPodResourcesGet Ga on locked yes;
    KubeletPodResourcesListUseActivePods Deprecated on;
    KubeletRegistrationGetOnExistsOnly Deprecated off;
    KubeletSeparateDiskGC Beta on;
    KubeletServiceAccountTokenForCredentialProviders Beta on;
    KubeletTracing Ga on locked yes;
    ListFromCacheSnapshot Beta on;
    LocalStorageCapacityIsolationFSQuotaMonitoring Beta off;
    LogarithmicScaleDown Ga on locked yes;
    LoggingAlphaOptions Alpha off;
    LoggingBetaOptions Beta on;
    ManifestBasedAdmissionControlConfig Alpha off;
    MatchLabelKeysInPodAffinity Ga on locked yes;
    MatchLabelKeysInPodTopologySpread Beta on;
    MatchLabelKeysInPodTopologySpreadSelectorMerge Beta on => MatchLabelKeysInPodTopologySpread;
    MaxUnavailableStatefulSet Beta off;
    MemoryQoS Alpha off;
    MultiCIDRServiceAllocator Ga on locked yes;
    MutableCSINodeAllocatableCount Ga on locked yes;
    MutablePVNodeAffinity Alpha off;
    MutablePodResourcesForSuspendedJobs Beta on;
    MutableSchedulingDirectivesForSuspendedJobs Beta on;
    MutatingAdmissionPolicy Ga on;
    NFTablesProxyMode Ga on locked yes;
    NativeHistograms Alpha off;
    NodeDeclaredFeatures Beta on;
    NodeInclusionPolicyInPodTopologySpread Ga on locked yes;
    NodeLogQuery Ga on locked yes;
    NodeSwap Ga on locked yes;
    NominatedNodeNameForExpectation Beta on;
    OpenAPIEnums Beta on;
    OpportunisticBatching Beta on;
    OrderedNamespaceDeletion Ga on locked yes;
    PLEGOnDemandRelist Beta on;
    PersistentVolumeClaimUnusedSinceTime Alpha off;
    PodAndContainerStatsFromCRI Alpha off;
    PodCertificateRequest Beta off => AuthorizeNodeWithSelectors;
    PodDeletionCost Beta on;
    PodLevelResourceManagers Alpha off => PodLevelResources;
    PodLevelResources Beta on;
    PodLifecycleSleepAction Ga on locked yes;
    PodLifecycleSleepActionAllowZero Ga on locked yes => PodLifecycleSleepAction;
    PodLogsQuerySplitStreams Alpha off;
    PodObservedGenerationTracking Ga on locked yes;
    PodReadyToStartContainersCondition Beta on;
    PodSchedulingReadiness Ga on locked yes;
    PodTopologyLabelsAdmission Beta on;
    PodsAPI Alpha off;
    PortForwardWebsockets Beta on;
    PreferSameTrafficDistribution Ga on locked yes;
    PreventStaticPodAPIReferences Beta on;
    ProcMountType Ga on locked yes => UserNamespacesSupport;
    QOSReserved Alpha off;
    RecoverVolumeExpansionFailure Ga on locked yes;
    RecursiveReadOnlyMounts Ga on locked yes;
    ReduceDefaultCrashLoopBackOffDecay Alpha off;
    RelaxedDNSSearchValidation Ga on locked yes;
    RelaxedEnvironmentVariableValidation Ga on locked yes;
    RelaxedServiceNameValidation Beta on;
    ReloadKubeletClientCAFile Beta on;
    ReloadKubeletServerCertificateFile Beta on;
    RemoteRequestHeaderUID Beta on;
    ResilientWatchCacheInitialization Ga on locked yes;
    ResourceHealthStatus Beta on => DynamicResourceAllocation;
    ResourceHealthStatusMessage Beta on => ResourceHealthStatus;
    RestartAllContainersOnContainerExits Beta on => ContainerRestartRules NodeDeclaredFeatures;
    RetryGenerateName Ga on locked yes;
    RotateKubeletServerCertificate Beta on;
    RuntimeClassInImageCriApi Alpha off;
    SELinuxChangePolicy Ga on locked yes;
    SELinuxMount Beta off;
    SELinuxMountReadWriteOncePod Ga on locked yes;
    SchedulerAsyncAPICalls Beta off;
    SchedulerAsyncPreemption Beta on;
    SchedulerPopFromBackoffQ Beta on;
    SchedulerQueueingHints Ga on locked yes;
    SeparateCacheWatchRPC Deprecated off locked yes;
    SeparateTaintEvictionController Ga on locked yes;
    ServiceAccountNodeAudienceRestriction Beta on;
    ServiceAccountTokenJTI Ga on locked yes;
    ServiceAccountTokenNodeBinding Ga on locked yes => ServiceAccountTokenNodeBindingValidation;
    ServiceAccountTokenNodeBindingValidation Ga on locked yes;
    ServiceAccountTokenPodNodeInfo Ga on locked yes;
    ServiceCIDRStatusFieldWiping Deprecated on;
    ShardedListAndWatch Alpha off;
    SidecarContainers Ga on locked yes;
    SizeBasedListCostEstimate Beta on;
    StaleControllerConsistencyDaemonSet Beta on => AtomicFIFO;
    StaleControllerConsistencyJob Beta on => AtomicFIFO;
    StaleControllerConsistencyReplicaSet Beta on => AtomicFIFO;
    StaleControllerConsistencyStatefulSet Beta on => AtomicFIFO;
    StatefulSetSemanticRevisionComparison Beta on;
    StorageCapacityScoring Alpha off;
    StorageNamespaceIndex Deprecated on;
    StorageVersionAPI Alpha off => APIServerIdentity;
    StorageVersionHash Beta on;
    StorageVersionMigrator Beta off;
    StreamingCollectionEncodingToJSON Ga on locked yes;
    StreamingCollectionEncodingToProtobuf Ga on locked yes;
    StrictIPCIDRValidation Beta on;
    StructuredAuthenticationConfiguration Ga on locked yes;
    StructuredAuthenticationConfigurationEgressSelector Beta on => StructuredAuthenticationConfiguration;
    StructuredAuthenticationConfigurationJWKSMetrics Beta on => StructuredAuthenticationConfiguration;
    SupplementalGroupsPolicy Ga on locked yes;
    SystemdWatchdog Ga on locked yes;
    TaintTolerationComparisonOperators Alpha off;
    TokenRequestServiceAccountUIDValidation Beta on;
    TopologyAwareWorkloadScheduling Alpha off => GenericWorkload;
    TopologyManagerPolicyAlphaOptions Alpha off;
    TopologyManagerPolicyBetaOptions Beta on;
    TopologyManagerPolicyOptions Ga on locked yes;
    TranslateStreamCloseWebsocketRequests Beta on;
    UnauthenticatedHTTP2DOSMitigation Beta on;
    UnknownVersionInteroperabilityProxy Beta on => APIServerIdentity;
    UnlockWhileProcessingFIFO Beta on;
    UserNamespacesHostNetworkSupport Alpha off => UserNamespacesSupport NodeDeclaredFeatures;
    UserNamespacesSupport Ga on locked yes;
    VolumeAttributesClass Ga on locked yes;
    VolumeLimitScaling Alpha off;
    WatchCacheInitializationPostStartHook Beta on;
    WatchList Beta on;
    WatchListClient Beta on;
    WinDSR Ga on locked yes;
    WinOverlay Ga on locked yes;
    WindowsCPUAndMemoryAffinity Alpha off;
    WindowsGracefulNodeShutdown Beta on => GracefulNodeShutdown;
    WindowsHostNetwork Deprecated off;
    WorkloadAwarePreemption Alpha off => GangScheduling;
    WorkloadWithJob Alpha off => GenericWorkload;
}
