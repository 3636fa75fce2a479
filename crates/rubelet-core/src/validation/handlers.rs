//! Probes and lifecycle hooks.
//!
//! Owns the rules about handlers (exec, HTTP, TCP, gRPC, sleep), thresholds and stop signals.

use k8s_openapi::api::core::v1::{
    Container, ExecAction, GRPCAction, HTTPGetAction, Lifecycle, LifecycleHandler, Probe, SleepAction,
    TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::field::{Errors, Path};
use super::{Facts, names, text};

/// Probes and hooks of a container that may have them: any but an init container that ends.
pub(super) fn validate(errors: &mut Errors, facts: &Facts<'_>, container: &Container, path: &Path) {
    if let Some(hooks) = &container.lifecycle {
        lifecycle(errors, facts, hooks, &path.child("lifecycle"));
    }
    if let Some(liveness) = &container.liveness_probe {
        let path = path.child("livenessProbe");
        probe(errors, facts, liveness, &path);
        success_is_one(errors, liveness, &path);
    }
    if let Some(readiness) = &container.readiness_probe {
        let path = path.child("readinessProbe");
        probe(errors, facts, readiness, &path);
        if let Some(seconds) = readiness.termination_grace_period_seconds {
            let path = path.child("terminationGracePeriodSeconds");
            errors.invalid(&path, &seconds, "must not be set for readinessProbes");
        }
    }
    if let Some(startup) = &container.startup_probe {
        let path = path.child("startupProbe");
        probe(errors, facts, startup, &path);
        success_is_one(errors, startup, &path);
    }
}

fn success_is_one(errors: &mut Errors, probe: &Probe, path: &Path) {
    let threshold = probe.success_threshold.unwrap_or_default();
    if threshold != 1 {
        errors.invalid(&path.child("successThreshold"), &threshold, "must be 1");
    }
}

fn probe(errors: &mut Errors, facts: &Facts<'_>, probe: &Probe, path: &Path) {
    let handler = Handler {
        exec: probe.exec.as_ref(),
        http_get: probe.http_get.as_ref(),
        tcp_socket: probe.tcp_socket.as_ref(),
        grpc: probe.grpc.as_ref(),
        sleep: None,
    };
    handler.validate(errors, facts, path);
    let numbers = [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ];
    for (field, number) in numbers {
        if let Some(number) = number.filter(|number| *number < 0) {
            errors.invalid(&path.child(field), &number, "must be greater than or equal to 0");
        }
    }
    if let Some(seconds) = probe.termination_grace_period_seconds.filter(|seconds| *seconds <= 0) {
        errors.invalid(&path.child("terminationGracePeriodSeconds"), &seconds, "must be greater than 0");
    }
}

fn lifecycle(errors: &mut Errors, facts: &Facts<'_>, lifecycle: &Lifecycle, path: &Path) {
    let hooks: [(&str, &Option<LifecycleHandler>); 2] =
        [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)];
    for (field, hook) in hooks {
        let Some(hook) = hook else { continue };
        let handler = Handler {
            exec: hook.exec.as_ref(),
            http_get: hook.http_get.as_ref(),
            tcp_socket: hook.tcp_socket.as_ref(),
            grpc: None,
            sleep: hook.sleep.as_ref(),
        };
        handler.validate(errors, facts, &path.child(field));
    }
    if let Some(signal) = &lifecycle.stop_signal {
        stop_signal(errors, facts, signal, &path.child("stopSignal"));
    }
}

fn stop_signal(errors: &mut Errors, facts: &Facts<'_>, signal: &str, path: &Path) {
    match facts.spec.os.as_ref().map(|os| os.name.as_str()) {
        None => errors.forbidden(path, "may not be set for containers with empty `spec.os.name`"),
        Some("linux") => {
            let mut signals: Vec<String> = PLAIN_SIGNALS.iter().map(|name| format!("SIG{name}")).collect();
            signals.extend((1..=15).map(|offset| format!("SIGRTMIN+{offset}")));
            signals.extend((1..=14).map(|offset| format!("SIGRTMAX-{offset}")));
            signals.sort();
            let signals: Vec<&str> = signals.iter().map(String::as_str).collect();
            errors.optional_one_of(path, Some(signal), &signals);
        }
        Some(_) => {}
    }
}

const PLAIN_SIGNALS: &[&str] = &[
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE",
    "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU",
    "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX",
];

/// The actions of a probe or hook, of which exactly one has to be set.
struct Handler<'a> {
    exec: Option<&'a ExecAction>,
    http_get: Option<&'a HTTPGetAction>,
    tcp_socket: Option<&'a TCPSocketAction>,
    grpc: Option<&'a GRPCAction>,
    sleep: Option<&'a SleepAction>,
}

impl Handler<'_> {
    fn validate(&self, errors: &mut Errors, facts: &Facts<'_>, path: &Path) {
        let mut first = true;
        let mut alone = |errors: &mut Errors, path: &Path| {
            if !std::mem::take(&mut first) {
                errors.forbidden(path, "may not specify more than 1 handler type");
                return false;
            }
            true
        };
        if let Some(exec) = self.exec {
            let path = path.child("exec");
            if alone(errors, &path) && exec.command.as_ref().is_none_or(Vec::is_empty) {
                errors.required(&path.child("command"), "");
            }
        }
        if let Some(get) = self.http_get {
            let path = path.child("httpGet");
            if alone(errors, &path) {
                http_get(errors, get, &path);
            }
        }
        if let Some(socket) = self.tcp_socket {
            let path = path.child("tcpSocket");
            if alone(errors, &path) {
                port(errors, &socket.port, &path.child("port"));
            }
        }
        if let Some(grpc) = self.grpc {
            let path = path.child("grpc");
            if alone(errors, &path) {
                port(errors, &IntOrString::Int(grpc.port), &path.child("port"));
            }
        }
        if let Some(sleep) = self.sleep {
            let path = path.child("sleep");
            if alone(errors, &path)
                && let Some(grace) = facts.grace_seconds
                && !(0..=grace).contains(&sleep.seconds)
            {
                let rule =
                    format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
                errors.invalid(&path, &sleep.seconds, rule);
            }
        }
        if first {
            errors.required(path, "must specify a handler type");
        }
    }
}

fn http_get(errors: &mut Errors, get: &HTTPGetAction, path: &Path) {
    if text(&get.path).is_empty() {
        errors.required(&path.child("path"), "");
    }
    port(errors, &get.port, &path.child("port"));
    errors.optional_one_of(&path.child("scheme"), Some(text(&get.scheme)), &["HTTP", "HTTPS"]);
    for header in get.http_headers.iter().flatten() {
        errors.invalid_each(&path.child("httpHeaders"), &header.name, names::header_name(&header.name));
    }
}

fn port(errors: &mut Errors, port: &IntOrString, path: &Path) {
    match port {
        IntOrString::Int(number) => errors.invalid_each(path, number, names::port_number(*number)),
        IntOrString::String(name) => errors.invalid_each(path, name, names::port_name(name)),
    }
}
