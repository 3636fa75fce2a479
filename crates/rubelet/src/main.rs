//! The `rubelet` program: reads its configuration, starts the agent, and runs until SIGTERM or SIGINT.

use std::ffi::OsString;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use rubelet::clock::Clock;
use rubelet::control_plane::{ApiFiles, ApiServer};
use rubelet::local;
use rubelet::logging::{self, LogFormat, chain};
use rubelet::node_agent::NodeFlags;
use rubelet::pull_credentials::ProviderFiles;
use rubelet::root_lock::RootLock;
use rubelet::tracing_export::{self, PreparedExport};
use rubelet::{Kubelet, notify};
use rubelet_config::{KUBERNETES_VERSION, KubeletFlags, Loaded, LocalCommand, LocalFlags, OsFiles, Outcome};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

/// How often free memory is given back to the system.
const HEAP_PERIOD: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    // Fewer arenas cost an agent of few threads nothing and keep its memory small.
    rubelet_linux::process::limit_malloc_arenas();
    let mut args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let local = if args.first().is_some_and(|word| word == "local") {
        match rubelet_config::parse_local(args.drain(1..)) {
            Ok(LocalCommand::Run(flags, rest)) => {
                args = rest;
                Some(flags)
            }
            Ok(command) => return without_agent(&command),
            Err(errors) => {
                let _ = writeln!(std::io::stderr(), "{errors}");
                return ExitCode::FAILURE;
            }
        }
    } else {
        None
    };
    let checks = local.is_none() && args.first().is_some_and(|word| word == "check");
    if checks {
        args.remove(0);
    }
    let loaded = match rubelet_config::load_from(args, &OsFiles) {
        Ok(Outcome::Run(loaded)) => loaded,
        Ok(Outcome::Print(text)) => {
            // Whoever reads only the first lines of the help closes the pipe.
            let _ = writeln!(std::io::stdout(), "{text}");
            return ExitCode::SUCCESS;
        }
        Err(errors) => {
            let _ = writeln!(std::io::stderr(), "{errors}");
            return ExitCode::FAILURE;
        }
    };
    if checks {
        return check(&loaded);
    }
    let format = if loaded.config.logging.format == "json" { LogFormat::Json } else { LogFormat::Text };
    let (layer, export) = loaded.config.tracing.as_ref().map(tracing_export::prepare).unzip();
    logging::init(format, loaded.config.logging.verbosity, layer);
    let root =
        std::path::absolute(&loaded.flags.root_dir).unwrap_or_else(|_| PathBuf::from(&loaded.flags.root_dir));
    // Until the process ends.
    let _lock = match RootLock::take(&root) {
        Ok(lock) => lock,
        Err(problem) => return refuse(&chain(&problem)),
    };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(problem) => return refuse(&problem.to_string()),
    };
    let code = runtime.block_on(run(*loaded, local, export));
    // A file system operation that hangs must not keep the process.
    runtime.shutdown_timeout(Duration::from_millis(200));
    code
}

/// What `rubelet check` does: says what keeps an agent with this command line from working.
fn check(loaded: &Loaded) -> ExitCode {
    for warning in &loaded.warnings {
        let _ = writeln!(std::io::stderr(), "{warning}");
    }
    let report = runtime()
        .and_then(|runtime| runtime.block_on(rubelet::preflight::check(&loaded.config, &loaded.flags)));
    match report {
        Ok(report) => {
            let _ = writeln!(std::io::stdout(), "{}", report.text);
            if report.passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(problem) => {
            let _ = writeln!(std::io::stderr(), "the machine cannot be read: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// Says why there is no agent.
fn refuse(problem: &str) -> ExitCode {
    error!("cannot start: {problem}{}", root_hint(problem));
    ExitCode::FAILURE
}

/// What to do about a refusal of the system, where that is for want of rights.
fn root_hint(problem: &str) -> &'static str {
    let refused = ["(os error 1)", "(os error 13)"].iter().any(|error| problem.contains(error));
    if refused && !rustix::process::geteuid().is_root() {
        "; this process does not run as root, which it needs to (sudo rubelet …)"
    } else {
        ""
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(2);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        // Files that hang may take all of their pools (24 and 8) with the spare threads of both: names are looked up on
        // the others. None is there before it is needed.
        .max_blocking_threads(32 + 2 * rubelet_linux::fs_pool::SPARE + 16)
        .thread_keep_alive(Duration::from_secs(2))
        // Only what is used of it is memory. Unoptimised, the YAML parser needs 24 KiB for each level of a document.
        .thread_stack_size(2 * 1024 * 1024)
        .thread_name("rubelet")
        .enable_all()
        .build()
}

/// What `rubelet local` does besides running.
fn without_agent(command: &LocalCommand) -> ExitCode {
    let clock = Clock::system();
    let done = match command {
        LocalCommand::Print(text) => Ok(text.clone()),
        LocalCommand::Run(..) => Ok(String::new()),
        LocalCommand::Backup { flags, to } => {
            runtime().map_err(|problem| problem.to_string()).and_then(|runtime| {
                let made =
                    runtime.block_on(local::backup(flags, to, &clock)).map_err(|problem| chain(&problem))?;
                Ok(format!("{} objects of revision {} are in {}", made.objects, made.revision, to.display()))
            })
        }
        LocalCommand::Restore { flags, from } => local::restore(flags, from, &clock)
            .map(|made| format!("{} objects are restored from {}", made.objects, from.display()))
            .map_err(|problem| chain(&problem)),
    };
    match done {
        Ok(text) => {
            let _ = writeln!(std::io::stdout(), "{text}");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            let _ = writeln!(std::io::stderr(), "{problem}{}", root_hint(&problem));
            ExitCode::FAILURE
        }
    }
}

async fn run(loaded: Loaded, local: Option<LocalFlags>, export: Option<PreparedExport>) -> ExitCode {
    let Loaded { mut config, flags, flags_given, warnings, origins, .. } = loaded;
    info!(version = env!("CARGO_PKG_VERSION"), kubernetes = KUBERNETES_VERSION, "rubelet");
    if !origins.is_set("serializeImagePulls") {
        // Upstream's default pulls one image after another; see docs/divergence.md.
        config.serialize_image_pulls = false;
    }
    if local.is_some() {
        rubelet_config::apply_local_defaults(&mut config, &origins);
    }
    for warning in warnings {
        warn!("{warning}");
    }
    if let Err(problem) = rubelet_linux::process::set_oom_score_adj(config.oom_score_adj) {
        // Without CAP_SYS_RESOURCE the score cannot be lowered: the agent runs on as any other process.
        warn!(
            "the agent's OOM score stays as it is: oomScoreAdj {} cannot be set: {problem}",
            config.oom_score_adj
        );
    }
    if let Err(problem) = rubelet_linux::process::allow_open_files(config.max_open_files) {
        warn!("the limit of open files stays as it is: maxOpenFiles cannot be set: {problem}");
    }
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(mut terminate), Ok(mut interrupt)) = signals else {
        error!("cannot listen for signals");
        return ExitCode::FAILURE;
    };
    let named = match flags.hostname_override.trim() {
        "" => rubelet_linux::facts::machine().map(|machine| machine.hostname),
        name => Ok(name.to_owned()),
    };
    let name = match named {
        Ok(name) => name.trim().to_lowercase(),
        Err(problem) => return refuse(&format!("the machine cannot be read: {problem}")),
    };
    let export = match export.map(|prepared| prepared.start(&name)).transpose() {
        Ok(export) => export,
        Err(problem) => return refuse(&chain(&problem)),
    };
    // Before clients are answered: a machine that is refused is to be refused at once.
    if let Err(problem) = rubelet::check_machine(&config) {
        return refuse(&chain(&problem));
    }
    let mut ips: Vec<IpAddr> = flags.node_ip.split(',').filter_map(|ip| ip.trim().parse().ok()).collect();
    ips.retain(|ip| !ip.is_unspecified());
    let (server, api) = match &local {
        None => (api_server(&flags), None),
        Some(local) => match local::open(local, &name, &Clock::system()).await {
            Ok(node) => {
                if config.server_tls_bootstrap {
                    warn!("serverTLSBootstrap is not used: the local API signs no certificates of nodes");
                    config.server_tls_bootstrap = false;
                }
                if !origins.is_set("authentication.x509.clientCAFile") {
                    config.authentication.x509.client_ca_file = node.client_ca.display().to_string();
                }
                (Some(ApiServer::Connected(node.connections)), Some((node.api, node.door)))
            }
            Err(problem) => return refuse(&chain(&problem)),
        },
    };
    // Clients are answered before the agent is ready: how it comes up is what they may want to see.
    let (end_api, api_ended) = tokio::sync::oneshot::channel::<()>();
    let mut door = None;
    let serving = api.map(|(api, opened)| {
        door = Some(opened);
        tokio::spawn(api.run(async { api_ended.await.unwrap_or_default() }))
    });
    if ips.is_empty() {
        ips = rubelet_linux::facts::default_route_ips();
        if server.is_some() {
            // A Node that was not given addresses says one: pods are told no other before it is known.
            ips.truncate(1);
        }
    }
    let mut builder = Kubelet::builder(config).root_dir(&flags.root_dir).node_name(&name);
    builder = builder.node_flags(NodeFlags::from(&flags)).flags(flags.clone());
    if local.is_none() || flags_given.contains("cert-dir") {
        builder = builder.cert_dir(&flags.cert_dir);
    }
    if local.is_some() {
        builder = builder.without_cluster_dns();
    }
    if server.is_none() && !flags.bootstrap_kubeconfig.is_empty() {
        warn!("--bootstrap-kubeconfig is not used without --kubeconfig: this agent joins no cluster");
    }
    if let Some(home) = std::env::home_dir() {
        builder = builder.home_dir(home);
    }
    match credential_providers(&flags) {
        Ok(Some(files)) => builder = builder.credential_providers(files),
        Ok(None) => {}
        Err(problem) => return refuse(problem),
    }
    if let Some(server) = server {
        builder = builder.api_server(server);
    }
    let kubelet = match builder.node_ips(ips).build().await {
        Ok(kubelet) => kubelet,
        Err(problem) => return refuse(&chain(&problem)),
    };
    if let Some(door) = door {
        door.open(local::Agent::from(&kubelet.handle()));
    }
    notify::ready();
    let health = kubelet.health();
    let stop = async move {
        // Every arm is cancel-safe: signals are kept until they are taken, the other two only repeat themselves.
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = notify::watchdog(health) => {}
            () = keep_heap_small() => {}
        }
    };
    let ended = kubelet.run(stop).await;
    notify::stopping();
    if let Some(serving) = serving {
        let _ = end_api.send(());
        // It ends by itself, in a moment.
        let _ = serving.await;
    }
    if let Some(export) = export {
        export.finish().await;
    }
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            error!("{problem}");
            ExitCode::FAILURE
        }
    }
}

/// The credential provider plugins, if the flags name any.
fn credential_providers(flags: &KubeletFlags) -> Result<Option<ProviderFiles>, &'static str> {
    match (flags.image_credential_provider_config.as_str(), flags.image_credential_provider_bin_dir.as_str())
    {
        ("", "") => Ok(None),
        ("", _) | (_, "") => Err(
            "--image-credential-provider-config and --image-credential-provider-bin-dir go together: set both or none",
        ),
        (config, bin_dir) => Ok(Some(ProviderFiles { config: config.into(), bin_dir: bin_dir.into() })),
    }
}

/// The way to the API server, if the flags name one.
fn api_server(flags: &KubeletFlags) -> Option<ApiServer> {
    let path = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
    let files = ApiFiles {
        kubeconfig: path(&flags.kubeconfig)?,
        bootstrap_kubeconfig: path(&flags.bootstrap_kubeconfig),
        cert_dir: PathBuf::from(&flags.cert_dir),
    };
    Some(ApiServer::Files(files))
}

/// Gives memory that is not used any more back from time to time; never ends.
async fn keep_heap_small() {
    loop {
        tokio::time::sleep(HEAP_PERIOD).await;
        rubelet_linux::process::give_back_memory();
    }
}
