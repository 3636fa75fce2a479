//! Objects of `metrics.k8s.io`: what nodes and pods use, as metrics-server says it.
//!
//! Pure: from what was measured (`rubelet_core::stats::rates`) and the object it is of. Called by the server, which
//! knows no such objects before they are asked for.

use jiff::{SignedDuration, Timestamp};
use rubelet_core::quantity::{Amount, Format};
use rubelet_core::stats::rates::{PodRate, Rate};
use serde_json::{Map, Value, json};

/// The version of these objects.
pub const API_VERSION: &str = "metrics.k8s.io/v1beta1";

/// The NodeMetrics of a Node.
pub fn node(node: &Value, rate: &Rate, now: Timestamp) -> Value {
    let mut object = measured("NodeMetrics", node, rate.at, rate.window, now);
    object["usage"] = usage(rate);
    object
}

/// The PodMetrics of a Pod; none while none of its containers has been measured.
pub fn pod(pod: &Value, rate: &PodRate, now: Timestamp) -> Option<Value> {
    let (at, window) = rate.window()?;
    let mut object = measured("PodMetrics", pod, at, window, now);
    let container = |(name, rate): &(String, Rate)| json!({"name": name, "usage": usage(rate)});
    object["containers"] = rate.containers.iter().map(container).collect();
    Some(object)
}

/// What all these objects have: the name and the labels of what was measured, and when.
fn measured(kind: &str, of: &Value, at: Timestamp, window: SignedDuration, now: Timestamp) -> Value {
    let mut metadata = Map::new();
    for field in ["name", "namespace", "labels"] {
        if let Some(value) = of["metadata"].get(field) {
            metadata.insert(field.to_owned(), value.clone());
        }
    }
    metadata.insert("creationTimestamp".to_owned(), json!(seconds(now)));
    json!({"kind": kind, "apiVersion": API_VERSION, "metadata": metadata, "timestamp": seconds(at),
           "window": go_duration(window)})
}

fn seconds(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}

/// Cores in billionths, bytes in powers of two: the forms that clients of metrics-server know.
fn usage(rate: &Rate) -> Value {
    let whole = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let cpu = Amount::nano(whole(rate.nanocores), Format::DecimalSi);
    let memory = Amount::units(whole(rate.memory), Format::BinarySi);
    json!({"cpu": cpu.to_string(), "memory": memory.to_string()})
}

/// A duration of a second or more as Go prints it: `15.032s`, `1m0s`.
fn go_duration(duration: SignedDuration) -> String {
    let minutes = duration.as_secs() / 60;
    let seconds = duration.as_secs() % 60;
    let fraction = format!("{:09}", duration.subsec_nanos().unsigned_abs());
    let fraction = match fraction.trim_end_matches('0') {
        "" => String::new(),
        digits => format!(".{digits}"),
    };
    match minutes {
        0 => format!("{seconds}{fraction}s"),
        _ => format!("{minutes}m{seconds}{fraction}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(nanocores: u64, memory: u64, millis: i64) -> Rate {
        let at = "2026-01-01T00:00:15.5Z".parse().unwrap();
        Rate { at, window: SignedDuration::from_millis(millis), nanocores, memory }
    }

    #[test]
    fn objects_are_as_metrics_server_says_them() {
        let now = "2026-01-01T00:00:20Z".parse().unwrap();
        let labels = json!({"kubernetes.io/hostname": "n"});
        let of = json!({"metadata": {"name": "n", "labels": labels, "uid": "u"}, "status": {}});
        assert_eq!(
            node(&of, &rate(123_456_789, 12_345_344, 15_032), now),
            json!({
                "kind": "NodeMetrics", "apiVersion": "metrics.k8s.io/v1beta1",
                "metadata": {"name": "n", "labels": labels, "creationTimestamp": "2026-01-01T00:00:20Z"},
                "timestamp": "2026-01-01T00:00:15Z", "window": "15.032s",
                "usage": {"cpu": "123456789n", "memory": "12056Ki"},
            })
        );
        let of = json!({"metadata": {"name": "p", "namespace": "default"}});
        let containers =
            vec![("a".to_owned(), rate(0, 4097, 60_000)), ("b".to_owned(), rate(2_000_000, 1 << 20, 75_500))];
        let rates = PodRate { namespace: "default".into(), name: "p".into(), containers };
        let object = pod(&of, &rates, now).unwrap();
        assert_eq!(object["window"], "1m0s");
        assert_eq!(
            object["containers"],
            json!([
                {"name": "a", "usage": {"cpu": "0", "memory": "4097"}},
                {"name": "b", "usage": {"cpu": "2m", "memory": "1Mi"}},
            ])
        );
        assert_eq!(pod(&of, &PodRate { containers: Vec::new(), ..rates }, now), None);
    }

    #[test]
    fn durations_are_gos() {
        for (millis, text) in
            [(1000, "1s"), (1500, "1.5s"), (59_999, "59.999s"), (60_000, "1m0s"), (61_010, "1m1.01s")]
        {
            assert_eq!(go_duration(SignedDuration::from_millis(millis)), text);
        }
    }
}
