//! Services: defaults, addresses, ports, rules.

use super::*;

fn service(spec: Value) -> Value {
    object("v1", "Service", json!({"spec": spec}))
}

fn port(number: i64) -> Value {
    json!([{"port": number}])
}

#[test]
fn what_is_left_out_is_filled_in() {
    let mut world = World::new();
    world.made(object("v1", "Service", json!({"metadata": {"name": "first"}, "spec": {"ports": port(1)}})));
    let check = |spec: Value, expected: Value| {
        let made = world.create(service(spec)).expect("created");
        expect_part(&made["spec"], &expected);
        assert_eq!(made["status"], json!({"loadBalancer": {}}));
    };
    check(
        json!({"ports": port(80)}),
        json!({
            "type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
            "clusterIP": "10.96.0.17", "clusterIPs": ["10.96.0.17"], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
            "externalTrafficPolicy": null,
        }),
    );
    check(
        json!({"type": "NodePort", "ports": [{"name": "a", "port": 53}, {"name": "b", "port": 53, "protocol": "UDP"}]}),
        json!({
            "externalTrafficPolicy": "Cluster",
            "ports": [
                {"name": "a", "port": 53, "protocol": "TCP", "targetPort": 53, "nodePort": 30086},
                {"name": "b", "port": 53, "protocol": "UDP", "targetPort": 53, "nodePort": 30086},
            ],
        }),
    );
    check(
        json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": port(80)}),
        json!({"allocateLoadBalancerNodePorts": true, "healthCheckNodePort": 30087}),
    );
    check(
        json!({"clusterIP": "None", "selector": {"a": "b"}}),
        json!({"clusterIPs": ["None"], "ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"]}),
    );
    check(
        json!({"clusterIP": "None"}),
        json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4", "IPv6"]}),
    );
    check(
        json!({"type": "ExternalName", "externalName": "example.com."}),
        json!({"clusterIP": null, "ipFamilies": null, "internalTrafficPolicy": null}),
    );
    check(
        json!({"sessionAffinity": "ClientIP", "ports": port(1)}),
        json!({"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}}}),
    );
    check(json!({"clusterIP": "10.96.0.200", "ports": port(1)}), json!({"clusterIPs": ["10.96.0.200"]}));
}

#[test]
fn bad_services_are_refused() {
    let mut world = World::new();
    world.made(object(
        "v1",
        "Service",
        json!({"metadata": {"name": "first"}, "spec": {"type": "NodePort", "ports": port(1)}}),
    ));
    let check = |spec: Value, expected: &[&str]| expect_broken(&world.create(service(spec)), expected);
    check(json!({}), &["spec.ports: Required value"]);
    check(
        json!({"type": "Odd", "ports": port(1)}),
        &["spec.type: Unsupported value: \"Odd\": supported values: \"ClusterIP\", \"ExternalName\", \
           \"LoadBalancer\", \"NodePort\""],
    );
    check(
        json!({"ports": [{"port": 0}, {"name": "b", "port": 70000, "protocol": "ICMP"}]}),
        &[
            "spec.ports[0].name: Required value",
            "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            "spec.ports[0].targetPort: Invalid value: 0",
            "spec.ports[1].port: Invalid value: 70000",
            "spec.ports[1].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
            "spec.ports[1].targetPort: Invalid value: 70000",
        ],
    );
    check(
        json!({"ports": [{"name": "a", "port": 1}, {"name": "a", "port": 1}]}),
        &[
            "spec.ports[1].name: Duplicate value: \"a\"",
            "spec.ports[1]: Duplicate value: {\"port\":1,\"protocol\":\"TCP\"}",
        ],
    );
    check(
        json!({"clusterIP": "10.96.0.16", "ports": port(1)}),
        &[
            "spec.clusterIPs: Invalid value: [\"10.96.0.16\"]: failed to allocate IP 10.96.0.16: provided IP is already \
           allocated",
        ],
    );
    check(
        json!({"clusterIP": "10.97.0.1", "ports": port(1)}),
        &[
            "spec.clusterIPs: Invalid value: [\"10.97.0.1\"]: failed to allocate IP 10.97.0.1: the provided IP \
           (10.97.0.1) is not in the valid range. The range of valid IPs is 10.96.0.0/24",
        ],
    );
    check(
        json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 30086}]}),
        &["spec.ports[0].nodePort: Invalid value: 30086: provided port is already allocated"],
    );
    check(
        json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 80}]}),
        &[
            "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid \
           ports is 30000-32767",
        ],
    );
    check(
        json!({"ports": [{"port": 1, "nodePort": 30001}]}),
        &["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
    );
    check(json!({"type": "ExternalName"}), &["spec.externalName: Required value"]);
    check(
        json!({"type": "NodePort", "clusterIP": "None", "ports": port(1)}),
        &["spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services"],
    );
    check(
        json!({"clusterIP": "x", "ports": port(1)}),
        &["spec.clusterIPs[0]: Invalid value: \"x\": must be a valid IP"],
    );
    check(
        json!({"ipFamilyPolicy": "RequireDualStack", "ports": port(1)}),
        &[
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack",
        ],
    );
    check(
        json!({"ipFamilies": ["IPv6"], "ports": port(1)}),
        &["spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster"],
    );
    check(
        json!({"externalIPs": ["127.0.0.1"], "ports": port(1)}),
        &[
            "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
        ],
    );
    check(
        json!({"externalTrafficPolicy": "Local", "ports": port(1)}),
        &[
            "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
        ],
    );
}

#[test]
fn allocated_values_stay() {
    let mut world = World::new();
    let old = world.made(service(json!({"type": "NodePort", "ports": port(80)})));
    let again = world.update("", &old, |new| new["spec"] = json!({"type": "NodePort", "ports": port(80)}));
    assert_eq!(again.expect("the same file again")["spec"], old["spec"]);
    expect_broken(
        &world.update("", &old, |new| new["spec"]["clusterIP"] = json!("10.96.0.99")),
        &["spec.clusterIPs[0]: Invalid value: [\"10.96.0.99\"]: may not change once set"],
    );
    let internal = world
        .update("", &old, |new| new["spec"]["type"] = json!("ClusterIP"))
        .expect("a service that needs no node port");
    expect_part(&internal["spec"], &json!({"externalTrafficPolicy": null, "clusterIP": "10.96.0.16"}));
    assert_eq!(internal["spec"]["ports"][0].get("nodePort"), None);
    let named = world
        .update("", &old, |new| {
            new["spec"]["type"] = json!("ExternalName");
            new["spec"]["externalName"] = json!("example.com");
        })
        .expect("a name instead of an address");
    expect_part(&named["spec"], &json!({"clusterIP": null, "clusterIPs": null, "ipFamilies": null}));
}

#[test]
fn the_network_is_used_up_from_above_the_band_for_fixed_addresses() {
    let mut world = World::new();
    world.settings.service_network = (Ipv4Addr::new(10, 0, 0, 0), 28);
    let mut given = Vec::new();
    for index in 0..13 {
        let name = format!("s{index}");
        let made = world.made(object(
            "v1",
            "Service",
            json!({"metadata": {"name": name}, "spec": {"ports": port(1)}}),
        ));
        given.push(made["spec"]["clusterIP"].as_str().expect("an address").to_owned());
    }
    assert_eq!(given.first().map(String::as_str), Some("10.0.0.2"));
    assert_eq!(given.last().map(String::as_str), Some("10.0.0.14"));
    expect_broken(
        &world.create(service(json!({"ports": port(1)}))),
        &["500 Internal error occurred: failed to allocate a serviceIP for Service \"x\": range is full"],
    );
    world.user = crate::user::User::admin();
    let kubernetes = builtin::kubernetes_service([192, 0, 2, 7].into(), 6443);
    let kubernetes = world.create(kubernetes).expect("the server's own address");
    assert_eq!(kubernetes["spec"]["clusterIP"], "192.0.2.7");
}

#[test]
fn a_status_write_leaves_the_spec() {
    let mut world = World::new();
    let old = world.made(service(json!({"ports": port(80)})));
    let status = json!({"loadBalancer": {"ingress": [{"ip": "1.2.3.4", "ipMode": "VIP"}]}});
    expect_broken(
        &world.update("status", &old, |new| new["status"] = status.clone()),
        &["status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is 'LoadBalancer'"],
    );
    let balanced = world.made(object(
        "v1",
        "Service",
        json!({"metadata": {"name": "y"}, "spec": {"type": "LoadBalancer", "ports": port(80)}}),
    ));
    let new = world
        .update("status", &balanced, |new| {
            new["status"] = status.clone();
            new["spec"]["type"] = json!("ClusterIP");
        })
        .expect("a status");
    assert_eq!((&new["status"], &new["spec"]), (&status, &balanced["spec"]));
    let kept = world.update("", &balanced, |new| new["status"] = status).expect("an update");
    assert_eq!(kept["status"], json!({"loadBalancer": {}}));
}
