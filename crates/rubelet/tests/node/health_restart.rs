//! Ready pods with probes, and an agent that is killed again and again: nobody notices, neither in the API nor in the
//! runtime nor at the doors that the probes knock on.
//!
//! `RUBELET_TEST_PODS` says how many pods there are (20 without it).

use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use crate::adoption::assert_ready;
use crate::cluster::Cluster;
use crate::pods::{self, container, containers};
use crate::probes_servers::{Answer, Health, HealthServer, Web};
use crate::wait;

/// Period of every probe, in seconds.
const PERIOD: f64 = 2.0;
/// How often the agent is killed.
const KILLS: u32 = 10;
/// What a machine that does much else may add to a time that is measured, in seconds.
const JITTER: f64 = 0.8;
/// How long an agent that is back may need for each pod until it knows again what runs, in seconds.
const ADOPTS: f64 = 0.01;
/// How long so many pods may take to be there.
const MANY: Duration = Duration::from_secs(300);

fn wanted_pods() -> usize {
    let given = std::env::var("RUBELET_TEST_PODS").ok();
    given.map_or(20, |given| given.parse().unwrap())
}

/// How a probe's questions are known: one series of times for each probe.
enum Door {
    Http(String),
    Grpc(&'static str),
    Exec(&'static str),
}

/// The doors of a node.
struct Doors {
    web: Web,
    grpc: HealthServer,
    all: Vec<Door>,
}

impl Doors {
    /// When a door was knocked on.
    fn times(&self, cluster: &Cluster, door: &Door) -> Vec<f64> {
        match door {
            Door::Http(path) => self.web.asked(path).iter().map(|asked| asked.at).collect(),
            Door::Grpc(service) => self.grpc.asked_at(service),
            Door::Exec(file) => cluster.node.lines(file).iter().map(|line| line.parse().unwrap()).collect(),
        }
    }
}

impl Door {
    fn name(&self) -> &str {
        match self {
            Self::Http(name) => name,
            Self::Grpc(name) | Self::Exec(name) => name,
        }
    }
}

/// One container that is probed: readiness, liveness, and startup, each by its own door.
fn spec(handler: impl Fn(&str) -> String, more: &str) -> String {
    // One failure is enough, so that no wrong answer is hidden.
    let probe = |kind: &str, name: &str| {
        format!(
            "  {kind}: {{{}, periodSeconds: {PERIOD}, timeoutSeconds: 10, failureThreshold: 1}}\n",
            handler(name)
        )
    };
    format!(
        "terminationGracePeriodSeconds: 1
containers:
- name: c
  image: $IMAGE
  command: [sh, -c, 'trap \"exit 0\" TERM; while true; do sleep 0.5; done']
{}{}{}{more}",
        probe("readinessProbe", "ready"),
        probe("livenessProbe", "live"),
        probe("startupProbe", "start"),
    )
}

fn open_doors(cluster: &Cluster, count: usize) -> Doors {
    let (web, grpc) = (Web::start(), HealthServer::new());
    let mut all = vec![];
    for number in 0..count.saturating_sub(2) {
        let page = |kind: &str| format!("/p{number}/{kind}");
        for kind in ["ready", "live", "start"] {
            web.page(&page(kind), Answer::code(200));
        }
        all.extend(["ready", "live"].map(|kind| Door::Http(page(kind))));
        let handler =
            |kind: &str| format!("httpGet: {{host: 127.0.0.1, port: {}, path: {}}}", web.port, page(kind));
        cluster.run(&format!("p{number}"), &spec(handler, ""));
    }

    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    grpc.serve(listener);
    for service in ["ready", "live", "start"] {
        grpc.set(service, Health::Serving(1));
    }
    all.extend(["ready", "live"].map(Door::Grpc));
    let handler = |kind: &str| format!("grpc: {{port: {port}, service: {kind}}}");
    cluster.run("grpc", &spec(handler, "hostNetwork: true\n"));

    all.extend(["ready", "live"].map(Door::Exec));
    let handler =
        |kind: &str| format!("exec: {{command: [sh, -c, 'cut -d\" \" -f1 /proc/uptime >> /share/{kind}']}}");
    let share = "  volumeMounts: [{name: share, mountPath: /share}]
volumes: [{name: share, hostPath: {path: $SHARE}}]
";
    cluster.run("exec", &spec(handler, share));
    Doors { web, grpc, all }
}

/// Waits until the agent tells that all pods are ready.
fn wait_all_ready(cluster: &Cluster, count: usize) {
    wait::until("all pods to be ready", MANY, || {
        let pods = cluster.node.try_pods()?;
        let ready = pods.iter().filter(|pod| pods::ready(pod)).count();
        if ready == count { Ok(()) } else { Err(format!("{ready} of {}", pods.len())) }
    });
}

/// What nobody is to see a change of: when and since when the pod is ready, and which instances run.
fn face(pod: &Pod) -> (Vec<String>, Vec<String>) {
    let conditions = pods::status(pod).conditions.unwrap_or_default().into_iter();
    let conditions =
        conditions.map(|of| format!("{} {} {:?}", of.type_, of.status, of.last_transition_time)).collect();
    let containers = containers(pod).into_iter().map(|of| {
        let state = pods::word(of.state.as_ref());
        format!(
            "{} {state} {:?} {} {:?} {}",
            of.name, of.container_id, of.ready, of.started, of.restart_count
        )
    });
    (conditions, containers.collect())
}

#[test]
fn health_of_ready_pods_survives_an_agent_that_is_killed_ten_times() {
    let mut cluster = Cluster::start();
    let count = wanted_pods();
    let doors = open_doors(&cluster, count);
    wait_all_ready(&cluster, count);
    let before: Vec<Pod> = wait::until("the API to have it", MANY, || {
        let pods = cluster.api.list::<Pod>("default");
        if pods.iter().all(pods::ready) { Ok(pods) } else { Err("not ready".to_owned()) }
    });
    let starts = |doors: &Doors, cluster: &Cluster| {
        let http = (0..count).map(|number| doors.web.asked(&format!("/p{number}/start")).len());
        http.chain([doors.grpc.asked_at("start").len(), cluster.node.lines("start").len()]).sum::<usize>()
    };
    let started = starts(&doors, &cluster);
    let written: usize = before.iter().map(|pod| cluster.status_writes(&name(pod)).len()).sum();

    let begin = wait::uptime();
    let (mut down, mut adopted) = (vec![], 0.0_f64);
    for kill in 0..KILLS {
        // Never the same part of a period.
        wait::pause(Duration::from_secs_f64(PERIOD * 0.137 * f64::from(kill % 7)));
        let killed = wait::uptime();
        cluster.node.kill_agent();
        cluster.node.launch_agent();
        wait_all_ready(&cluster, count);
        let back = wait::uptime();
        down.push((killed, back));
        // Two agents killed within a period may well miss two ticks.
        wait::until("every probe to be made again", MANY, || {
            let is_due = |door: &&Door| doors.times(&cluster, door).last().is_none_or(|last| *last < back);
            doors.all.iter().find(is_due).map_or(Ok(()), |door| Err(door.name().to_owned()))
        });
        adopted = adopted.max(wait::uptime() - back);
    }
    wait::pause(Duration::from_secs_f64(2.0 * PERIOD + JITTER));
    let end = wait::uptime();

    // The API: every version of every pod since.
    for pod in &before {
        let history = cluster.api.history::<Pod>(&pods::uid(pod));
        let since = history
            .iter()
            .rposition(|version| version.metadata.resource_version == pod.metadata.resource_version);
        for version in &history[since.unwrap()..] {
            assert_eq!(face(version), face(pod), "{}", name(pod));
        }
        assert_ready(&history[history.len() - 1..]);
        assert_eq!(container(pod, "c").started, Some(true));
        let told: Vec<_> = cluster.events(&name(pod)).into_iter().filter_map(|event| event.reason).collect();
        assert!(!told.iter().any(|reason| reason == "Unhealthy" || reason == "Killing"), "{told:?}");
    }
    assert_eq!(starts(&doors, &cluster), started, "who has started is known");

    // The doors: no probe missed or doubled beyond a period.
    let (mut longest, mut shortest, mut problems): (f64, f64, _) = (0.0, f64::MAX, vec![]);
    for door in &doors.all {
        let mut times: Vec<f64> =
            doors.times(&cluster, door).into_iter().filter(|at| (begin..end).contains(at)).collect();
        times.sort_by(f64::total_cmp);
        let edges = [begin].into_iter().chain(times.iter().copied()).chain([end]).collect::<Vec<_>>();
        for pair in edges.windows(2) {
            let gone: f64 =
                down.iter().map(|(from, to)| (pair[1].min(*to) - pair[0].max(*from)).max(0.0)).sum();
            let gap = pair[1] - pair[0];
            longest = longest.max(gap - gone);
            if gap > 2.0 * PERIOD + gone + JITTER + ADOPTS * count as f64 {
                problems.push(format!(
                    "{}: nothing for {gap:.2} s from {:.2} on, {gone:.2} s of them without agent",
                    door.name(),
                    pair[0] - begin
                ));
            }
        }
        for pair in times.windows(2) {
            shortest = shortest.min(pair[1] - pair[0]);
            if pair[1] - pair[0] < PERIOD / 2.0 - 0.1 {
                problems.push(format!("{}: twice in {:.2} s", door.name(), pair[1] - pair[0]));
            }
        }
    }
    let written = before.iter().map(|pod| cluster.status_writes(&name(pod)).len()).sum::<usize>() - written;
    let away = down.iter().map(|(from, to)| to - from).fold(0.0, f64::max);
    eprintln!(
        "{count} pods, {KILLS} kills: away for {away:.2} s at most, all probes made {adopted:.2} s later at most; \
         between two runs of a probe at most {longest:.2} s with an agent, and at least {shortest:.2} s; {written} \
         status writes"
    );
    let kills: Vec<String> =
        down.iter().map(|(from, to)| format!("{:.2}-{:.2}", from - begin, to - begin)).collect();
    assert!(problems.is_empty(), "{} problems, kills at {kills:?}:\n{}", problems.len(), problems.join("\n"));
}

fn name(pod: &Pod) -> String {
    pod.metadata.name.clone().unwrap()
}
