//! What clients are told is served.

use serde_json::{Value, json};

use super::{Aggregated, Root, aggregated, core_versions, group, groups, paths, resources, version_info};
use crate::kinds::Resource;

fn none(_: &Resource) -> bool {
    false
}

fn all(_: &Resource) -> bool {
    true
}

fn named<'a>(list: &'a Value, key: &str, name: &str) -> Option<&'a Value> {
    list.as_array().unwrap().iter().find(|entry| entry[key] == name)
}

#[test]
fn version() {
    let version = version_info("v1.36.2+rubelet.0.1.0");
    assert_eq!((version["major"].as_str(), version["minor"].as_str()), (Some("1"), Some("36")));
    assert_eq!(version["gitVersion"], "v1.36.2+rubelet.0.1.0");
}

#[test]
fn resources_of_the_core_group() {
    let list = resources("", "v1", &none).unwrap();
    assert_eq!(list["groupVersion"], "v1");
    let rows = &list["resources"];
    let pods = named(rows, "name", "pods").unwrap();
    assert_eq!(pods["shortNames"], json!(["po"]));
    assert_eq!(pods["categories"], json!(["all"]));
    assert_eq!(pods["singularName"], "pod");
    let eviction = named(rows, "name", "pods/eviction").unwrap();
    assert_eq!(
        *eviction,
        json!({"name": "pods/eviction", "singularName": "", "namespaced": true, "group": "policy", "version": "v1",
               "kind": "Eviction", "verbs": ["create"]})
    );
    // Known, but not to be had here.
    assert_eq!(named(rows, "name", "replicationcontrollers").unwrap()["verbs"], json!(["create"]));
    let names: Vec<&str> = rows.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert!(names.is_sorted(), "{names:?}");
    assert_eq!(resources("", "v2", &all), None);
}

#[test]
fn kinds_that_are_not_served_are_listed_with_create_alone() {
    let name = "policy";
    assert_eq!(
        group(name).unwrap(),
        json!({"kind": "APIGroup", "apiVersion": "v1", "name": name,
               "versions": [{"groupVersion": "policy/v1", "version": "v1"}],
               "preferredVersion": {"groupVersion": "policy/v1", "version": "v1"}})
    );
    assert!(named(&groups()["groups"], "name", name).is_some());
    assert!(paths()["paths"].to_string().contains("/apis/policy/v1"));
    let budgets = |on| resources(name, "v1", on).unwrap()["resources"].clone();
    let row = json!({"name": "poddisruptionbudgets", "singularName": "poddisruptionbudget", "namespaced": true,
                     "kind": "PodDisruptionBudget", "verbs": ["create"], "shortNames": ["pdb"]});
    assert_eq!(budgets(&none), json!([row]));
    assert!(named(&budgets(&all), "name", "poddisruptionbudgets/status").is_some());
    assert_eq!((group("none"), resources(name, "v2", &all)), (None, None));
}

#[test]
fn proxies_and_metrics_are_listed_as_upstream_lists_them() {
    let verbs = json!(["create", "delete", "get", "patch", "update"]);
    let core = resources("", "v1", &all).unwrap()["resources"].clone();
    for (name, kind) in [("nodes/proxy", "NodeProxyOptions"), ("pods/proxy", "PodProxyOptions")] {
        let row = named(&core, "name", name).unwrap();
        assert_eq!((&row["kind"], &row["verbs"]), (&json!(kind), &verbs));
    }
    let row = |plural: &str, kind: &str, namespaced: bool| json!({"name": plural, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": ["get", "list"]});
    let metrics = resources("metrics.k8s.io", "v1beta1", &all).unwrap()["resources"].clone();
    assert_eq!(metrics, json!([row("nodes", "NodeMetrics", false), row("pods", "PodMetrics", true)]));
    // A server without a node agent has nothing to measure.
    assert_eq!(
        resources("metrics.k8s.io", "v1beta1", &none).unwrap()["resources"][0]["verbs"],
        json!(["create"])
    );
}

#[test]
fn aggregated_documents_say_the_same_as_the_plain_ones() {
    let core = aggregated(Root::Core, Aggregated::V2, &all);
    assert_eq!(core["apiVersion"], "apidiscovery.k8s.io/v2");
    assert_eq!(core["items"][0]["metadata"], json!({}));
    let named_groups = aggregated(Root::Groups, Aggregated::V2Beta1, &all);
    assert_eq!(named_groups["apiVersion"], "apidiscovery.k8s.io/v2beta1");
    let items = [&core, &named_groups].map(|list| list["items"].as_array().unwrap().clone()).concat();
    assert_eq!(items.len(), 1 + groups()["groups"].as_array().unwrap().len());
    for item in items {
        let group = item["metadata"]["name"].as_str().unwrap_or_default();
        let version = &item["versions"][0];
        let plain = resources(group, version["version"].as_str().unwrap(), &all).unwrap();
        let mut rows = Vec::new();
        for resource in version["resources"].as_array().unwrap() {
            let name = resource["resource"].as_str().unwrap();
            rows.push((name.to_owned(), resource["verbs"].clone(), resource["responseKind"]["kind"].clone()));
            for sub in resource["subresources"].as_array().into_iter().flatten() {
                let name = format!("{name}/{}", sub["subresource"].as_str().unwrap());
                rows.push((name, sub["verbs"].clone(), sub["responseKind"]["kind"].clone()));
            }
        }
        let expected: Vec<_> = plain["resources"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| (row["name"].as_str().unwrap().to_owned(), row["verbs"].clone(), row["kind"].clone()))
            .collect();
        assert_eq!(rows, expected);
    }
}

#[test]
fn the_form_follows_the_accept_header() {
    #[track_caller]
    fn check(accept: &str, form: Option<Aggregated>) {
        assert_eq!(Aggregated::accepted(accept), form, "{accept}");
    }
    let new = Aggregated::V2.content_type();
    let old = Aggregated::V2Beta1.content_type();
    check(&format!("{new},{old},application/json"), Some(Aggregated::V2));
    check(&format!("{old}, application/json"), Some(Aggregated::V2Beta1));
    check("application/json", None);
    check("*/*", None);
    check("", None);
    check("application/json;q=0.9", None);
    check("application/json;g=apidiscovery.k8s.io;v=v3;as=APIGroupDiscoveryList,application/json", None);
    check(&format!("application/vnd.kubernetes.protobuf,{new}"), Some(Aggregated::V2));
    check(";;=;,,", None);
}

#[test]
fn the_core_group_has_one_version() {
    let said = core_versions("127.0.0.1:6443");
    assert_eq!(said["versions"], json!(["v1"]));
    assert_eq!(said["serverAddressByClientCIDRs"][0]["serverAddress"], "127.0.0.1:6443");
}
