//! All kinds but pods.

use super::*;

#[test]
fn nodes() {
    check_columns(
        "nodes",
        "Name | Status | Roles | Age | Version | +Internal-IP | +External-IP | +OS-Image | +Kernel-Version | \
         +Container-Runtime",
    );
    check(
        "nodes",
        json!({}),
        "x | Unknown | <none> | 5m |  | <none> | <none> | <unknown> | <unknown> | <unknown>",
    );
    check(
        "nodes",
        json!({
            "metadata": {"labels": {
                "node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/control-plane": "", "a": "b",
                "node-role.kubernetes.io/": "", "kubernetes.io/role": "special",
            }},
            "spec": {"unschedulable": true},
            "status": {
                "conditions": [{"type": "MemoryPressure", "status": "True"}, {"type": "Ready", "status": "True"}],
                "addresses": [
                    {"type": "Hostname", "address": "x"}, {"type": "InternalIP", "address": "10.0.0.1"},
                    {"type": "InternalIP", "address": "fd00::1"}, {"type": "ExternalIP", "address": "192.0.2.1"},
                ],
                "nodeInfo": {
                    "kubeletVersion": "v1.36.2", "osImage": "Some Linux 7", "kernelVersion": "6.1.0",
                    "architecture": "arm64", "containerRuntimeVersion": "containerd://2.1.0",
                },
            },
        }),
        "x | Ready,SchedulingDisabled | control-plane,special,worker | 5m | v1.36.2 | 10.0.0.1 | 192.0.2.1 | \
         Some Linux 7 | 6.1.0 (arm64) | containerd://2.1.0",
    );
    let unknown = json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}});
    check(
        "nodes",
        unknown,
        "x | NotReady | <none> | 5m |  | <none> | <none> | <unknown> | <unknown> | <unknown>",
    );
}

#[test]
fn services() {
    check_columns("services", "Name | Type | Cluster-IP | External-IP | Port(s) | Age | +Selector");
    let service = |spec: Value, status: Value| json!({"spec": spec, "status": status});
    for (spec, status, row) in [
        (
            json!({"type": "ClusterIP", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"],
                   "selector": {"b": "2", "a": "1"},
                   "ports": [{"port": 80, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}),
            json!({}),
            "x | ClusterIP | 10.0.0.1 | <none> | 80/TCP,53/UDP | 5m | a=1,b=2",
        ),
        (
            json!({"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"], "externalIPs": ["1.1.1.1", "0.0.0.1"]}),
            json!({}),
            "x | ClusterIP | None | 1.1.1.1,0.0.0.1 | <none> | 5m | <none>",
        ),
        (
            json!({"type": "NodePort", "clusterIPs": ["10.0.0.1"], "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}]}),
            json!({}),
            "x | NodePort | 10.0.0.1 | <none> | 80:30080/TCP | 5m | <none>",
        ),
        (
            json!({"type": "LoadBalancer", "clusterIPs": ["10.0.0.1"]}),
            json!({}),
            "x | LoadBalancer | 10.0.0.1 | <pending> | <none> | 5m | <none>",
        ),
        (
            json!({"type": "LoadBalancer", "clusterIPs": ["10.0.0.1"], "externalIPs": ["1.1.1.1"]}),
            json!({"loadBalancer": {"ingress": [{"ip": "9.9.9.9"}, {"hostname": "a.example"}, {"ip": "1.2.3.4"}]}}),
            "x | LoadBalancer | 10.0.0.1 | 1.2.3.4,9.9.9.9,a.example,1.1.1.1 | <none> | 5m | <none>",
        ),
        (
            json!({"type": "ExternalName", "externalName": "a.example"}),
            json!({}),
            "x | ExternalName | <none> | a.example | <none> | 5m | <none>",
        ),
    ] {
        check("services", service(spec, status), row);
    }
}

#[test]
fn endpoints() {
    check_columns("endpoints", "Name | Endpoints | Age");
    check("endpoints", json!({}), "x | <none> | 5m");
    let ips = |ips: &[&str]| ips.iter().map(|ip| json!({"ip": ip})).collect::<Value>();
    check(
        "endpoints",
        json!({"subsets": [{"addresses": ips(&["10.0.0.1", "fd00::1"]), "ports": [{"port": 80}]}]}),
        "x | 10.0.0.1:80,[fd00::1]:80 | 5m",
    );
    check(
        "endpoints",
        json!({"subsets": [{"addresses": ips(&["10.0.0.1", "10.0.0.2"])}]}),
        "x | 10.0.0.1,10.0.0.2 | 5m",
    );
    check(
        "endpoints",
        json!({"subsets": [
            {"addresses": ips(&["10.0.0.1", "10.0.0.2"]), "ports": [{"port": 80}, {"port": 81}]},
            {"addresses": ips(&["10.0.0.3"]), "ports": [{"port": 80}]},
        ]}),
        "x | 10.0.0.1:80,10.0.0.2:80,10.0.0.1:81 + 2 more... | 5m",
    );
    check(
        "endpoints",
        json!({"subsets": [{"notReadyAddresses": ips(&["10.0.0.1"]), "ports": [{"port": 80}]}]}),
        "x |  | 5m",
    );
}

#[test]
fn endpoint_slices() {
    let kind = "discovery.k8s.io/endpointslices";
    check_columns(kind, "Name | AddressType | Ports | Endpoints | Age");
    check(kind, json!({"addressType": "IPv4"}), "x | IPv4 | <unset> | <unset> | 5m");
    check(
        kind,
        json!({
            "addressType": "IPv6", "ports": [{"port": 80, "name": "a"}, {"name": "b"}, {}, {"port": 81}],
            "endpoints": [{"addresses": ["fd00::1", "fd00::2"]}, {"addresses": ["fd00::3"]}, {"addresses": ["fd00::4"]}],
        }),
        "x | IPv6 | 80,b,* + 1 more... | fd00::1,fd00::2,fd00::3 + 1 more... | 5m",
    );
}

#[test]
fn events() {
    let columns =
        "Last Seen | Type | Reason | Object | +Subobject | +Source | Message | +First Seen | +Count | +Name";
    check_columns("events", columns);
    check_columns("events.k8s.io/events", columns);
    let old = json!({
        "type": "Warning", "reason": "BackOff", "message": " no luck\n", "count": 4,
        "firstTimestamp": "2026-01-01T23:50:00Z", "lastTimestamp": "2026-01-01T23:59:00Z", "eventTime": null,
        "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "spec.containers{c}"},
        "source": {"component": "kubelet", "host": "n"}, "reportingComponent": "kubelet", "reportingInstance": "n",
    });
    let row = "60s | Warning | BackOff | pod/p | spec.containers{c} | kubelet, n | no luck | 10m | 4 | x";
    check("events", old.clone(), row);
    check("events.k8s.io/events", crate::events::to_events(old), row);
    let new = json!({
        "type": "Normal", "reason": "Scheduled", "note": "done", "eventTime": "2026-01-01T23:58:00.123456Z",
        "regarding": {"kind": "Node"}, "reportingController": "scheduler", "reportingInstance": "s-1",
    });
    let row = "119s | Normal | Scheduled | node |  | scheduler, s-1 | done | 119s | 1 | x";
    check("events.k8s.io/events", new.clone(), row);
    check("events", crate::events::to_core(new.clone()), row);
    let mut series = new;
    series["series"] = json!({"count": 9, "lastObservedTime": "2026-01-01T23:59:30.5Z"});
    series["reportingInstance"] = json!("");
    check(
        "events.k8s.io/events",
        series,
        "29s | Normal | Scheduled | node |  | scheduler | done | 119s | 9 | x",
    );
    check("events", json!({}), "<unknown> |  |  |  |  |  |  | <unknown> | 1 | x");
}

#[test]
fn what_pods_are_given() {
    check_columns("configmaps", "Name | Data | Age");
    check("configmaps", json!({"data": {"a": "1"}, "binaryData": {"b": "MQ==", "c": ""}}), "x | 3 | 5m");
    check_columns("secrets", "Name | Type | Data | Age");
    check("secrets", json!({"type": "Opaque", "data": {"a": "MQ=="}}), "x | Opaque | 1 | 5m");
    check_columns("serviceaccounts", "Name | Age");
    check("serviceaccounts", json!({}), "x | 5m");
}

#[test]
fn what_rules_over_pods_and_nodes() {
    check_columns("namespaces", "Name | Status | Age");
    check("namespaces", json!({"status": {"phase": "Active"}}), "x | Active | 5m");
    check_columns("coordination.k8s.io/leases", "Name | Holder | Age");
    check("coordination.k8s.io/leases", json!({"spec": {"holderIdentity": "n"}}), "x | n | 5m");
    check("coordination.k8s.io/leases", json!({}), "x |  | 5m");
    check_columns("node.k8s.io/runtimeclasses", "Name | Handler | Age");
    check("node.k8s.io/runtimeclasses", json!({"handler": "kata"}), "x | kata | 5m");
    let kind = "scheduling.k8s.io/priorityclasses";
    check_columns(kind, "Name | Value:integer | Global-Default:boolean | Age | PreemptionPolicy");
    check(kind, json!({"value": -7, "preemptionPolicy": "Never"}), "x | -7 | false | 5m | Never");
    check(kind, json!({"value": 100, "globalDefault": true}), "x | 100 | true | 5m | ");
    let kind = "policy/poddisruptionbudgets";
    check_columns(kind, "Name | Min Available | Max Unavailable | Allowed Disruptions:integer | Age");
    check(
        kind,
        json!({"spec": {"minAvailable": 2}, "status": {"disruptionsAllowed": 1}}),
        "x | 2 | N/A | 1 | 5m",
    );
    check(kind, json!({"spec": {"maxUnavailable": "30%"}}), "x | N/A | 30% | 0 | 5m");
}

#[test]
fn signing_requests() {
    let kind = "certificates.k8s.io/certificatesigningrequests";
    check_columns(kind, "Name | Age | SignerName | Requestor | RequestedDuration | Condition");
    let spec = json!({"signerName": "kubernetes.io/kubelet-serving", "username": "system:node:n", "expirationSeconds": 86400});
    check(
        kind,
        json!({"spec": spec}),
        "x | 5m | kubernetes.io/kubelet-serving | system:node:n | 24h | Pending",
    );
    for (conditions, certificate, state) in [
        (json!(["Approved"]), "", "Approved"),
        (json!(["Approved"]), "AAAA", "Approved,Issued"),
        (json!(["Approved", "Failed"]), "", "Approved,Failed"),
        (json!(["Approved", "Denied"]), "", "Denied"),
    ] {
        let conditions: Value =
            conditions.as_array().unwrap().iter().map(|kind| json!({"type": kind})).collect();
        let status = json!({"conditions": conditions, "certificate": certificate});
        check(kind, json!({"status": status}), &format!("x | 5m | <none> |  | <none> | {state}"));
    }
}

#[test]
fn devices() {
    let kind = "resource.k8s.io/resourceclaims";
    check_columns(kind, "Name | State | Age");
    let deleted = json!({"deletionTimestamp": "2026-01-01T23:59:00Z"});
    let given = json!({"allocation": {}});
    let taken = json!({"allocation": {}, "reservedFor": [{"name": "p"}]});
    check(kind, json!({}), "x | pending | 5m");
    check(kind, json!({"status": given}), "x | allocated | 5m");
    check(kind, json!({"status": taken}), "x | allocated,reserved | 5m");
    check(kind, json!({"metadata": deleted}), "x | deleted | 5m");
    check(kind, json!({"metadata": deleted, "status": taken}), "x | deleted,allocated,reserved | 5m");
    let kind = "resource.k8s.io/resourceslices";
    check_columns(kind, "Name | Node | Driver | Pool | Age");
    check(
        kind,
        json!({"spec": {"nodeName": "n", "driver": "d.example", "pool": {"name": "p"}}}),
        "x | n | d.example | p | 5m",
    );
}

#[test]
fn volumes_and_claims() {
    check_columns(
        "persistentvolumes",
        "Name | Capacity | Access Modes | Reclaim Policy | Status | Claim | StorageClass | VolumeAttributesClass | \
         Reason | Age | +VolumeMode",
    );
    let volume = json!({
        "spec": {"capacity": {"storage": "5Gi"}, "accessModes": ["ReadWriteMany", "ReadWriteOnce", "ReadWriteMany"],
                 "persistentVolumeReclaimPolicy": "Retain", "claimRef": {"namespace": "ns", "name": "c"},
                 "storageClassName": "fast", "volumeMode": "Filesystem"},
        "status": {"phase": "Bound"},
    });
    check(
        "persistentvolumes",
        volume.clone(),
        "x | 5Gi | RWO,RWX | Retain | Bound | ns/c | fast | <unset> |  | 5m | Filesystem",
    );
    check(
        "persistentvolumes",
        json!({
            "metadata": {"deletionTimestamp": "2026-01-01T23:59:00Z",
                         "annotations": {"volume.beta.kubernetes.io/storage-class": ""}},
            "spec": {"storageClassName": "fast", "volumeAttributesClassName": "gold"},
            "status": {"phase": "Released", "reason": "Stuck"},
        }),
        "x | 0 |  |  | Terminating |  |  | gold | Stuck | 5m | <unset>",
    );
    check_columns(
        "persistentvolumeclaims",
        "Name | Status | Volume | Capacity | Access Modes | StorageClass | VolumeAttributesClass | Age | +VolumeMode",
    );
    let mut claim = json!({
        "spec": {"accessModes": ["ReadWriteOncePod"], "storageClassName": "fast", "volumeMode": "Block"},
        "status": {"phase": "Pending", "accessModes": ["ReadWriteOncePod", "ReadOnlyMany"], "capacity": {"storage": "1Gi"}},
    });
    check("persistentvolumeclaims", claim.clone(), "x | Pending |  |  |  | fast | <unset> | 5m | Block");
    claim["spec"]["volumeName"] = json!("v");
    check("persistentvolumeclaims", claim, "x | Pending | v | 1Gi | ROX,RWOP | fast | <unset> | 5m | Block");
}

#[test]
fn what_makes_volumes() {
    let kind = "storage.k8s.io/storageclasses";
    check_columns(
        kind,
        "Name | Provisioner | ReclaimPolicy | VolumeBindingMode | AllowVolumeExpansion | Age",
    );
    check(kind, json!({"provisioner": "p.example"}), "x | p.example | Delete | Immediate | false | 5m");
    check(
        kind,
        json!({
            "metadata": {"annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
            "provisioner": "p.example", "reclaimPolicy": "Retain", "volumeBindingMode": "WaitForFirstConsumer",
            "allowVolumeExpansion": true,
        }),
        "x (default) | p.example | Retain | WaitForFirstConsumer | true | 5m",
    );
    let kind = "storage.k8s.io/volumeattachments";
    check_columns(kind, "Name | Attacher:name | PV | Node | Attached:boolean | Age");
    check(
        kind,
        json!({"spec": {"attacher": "d.example", "nodeName": "n", "source": {"persistentVolumeName": "v"}},
               "status": {"attached": true}}),
        "x | d.example | v | n | true | 5m",
    );
    check_columns("storage.k8s.io/csinodes", "Name | Drivers:integer | Age");
    check("storage.k8s.io/csinodes", json!({"spec": {"drivers": [{}, {}]}}), "x | 2 | 5m");
    let kind = "storage.k8s.io/csidrivers";
    check_columns(
        kind,
        "Name | AttachRequired:boolean | PodInfoOnMount:boolean | StorageCapacity:boolean | TokenRequests | \
         RequiresRepublish:boolean | Modes | Age",
    );
    check(kind, json!({}), "x | true | false | false | <unset> | false | <none> | 5m");
    check(
        kind,
        json!({"spec": {
            "attachRequired": false, "podInfoOnMount": true, "tokenRequests": [{"audience": "a"}, {"audience": "b"}],
            "volumeLifecycleModes": ["Persistent", "Ephemeral"],
        }}),
        "x | false | true | false | a,b | false | Persistent,Ephemeral | 5m",
    );
}

#[test]
fn kinds_without_columns() {
    let kind = "authorization.k8s.io/selfsubjectaccessreviews";
    check_columns(kind, "Name | Created At:date");
    check(kind, json!({}), "x | 2026-01-01T23:55:00Z");
    let review = print(kind, &[json!({"metadata": {}})], IncludeObject::None, true);
    assert_eq!(review["rows"][0]["cells"], json!(["", "0001-01-01T00:00:00Z"]));
}

#[test]
fn metrics_are_summed_over_containers() {
    let node = json!({"usage": {"cpu": "123456789n", "memory": "2Mi"}, "window": "15s"});
    check_columns("metrics.k8s.io/nodes", "Name | cpu | memory | Window");
    check("metrics.k8s.io/nodes", node, "x | 123456789n | 2Mi | 15s");
    let used = |cpu: &str, memory: &str| json!({"name": "c", "usage": {"cpu": cpu, "memory": memory}});
    let pod = json!({"containers": [used("1500000n", "1Mi"), used("500u", "1024Ki")], "window": "1m0s"});
    check_columns("metrics.k8s.io/pods", "Name | cpu | memory | Window");
    check("metrics.k8s.io/pods", pod, "x | 2m | 2Mi | 1m0s");
}
