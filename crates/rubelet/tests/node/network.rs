//! A pod's network identity: host name, hosts file, DNS.

use std::fs;
use std::path::Path;

use crate::node::{NAME, Node, free_port, http_get};
use crate::pods::status;
use crate::wait::{self, PATIENCE};

const SHOW: &str = "
containers:
- name: main
  image: $IMAGE
  command: [sh, -c, 'hostname; echo HOSTS; cat /etc/hosts; echo RESOLV; cat /etc/resolv.conf; echo END; exec sleep 1000']
";

/// What a pod printed: host name, hosts file, resolv.conf.
fn shown(node: &Node, name: &str) -> (String, String, String) {
    let pod = node.wait_ready(name);
    let log = node.wait_log(&pod, "main", "END\n");
    let (hostname, rest) = log.split_once("HOSTS\n").unwrap();
    let (hosts, rest) = rest.split_once("RESOLV\n").unwrap();
    (hostname.trim().to_owned(), hosts.to_owned(), rest.replace("END\n", ""))
}

/// The values of one keyword of a resolv.conf.
fn values(resolv: &str, keyword: &str) -> Vec<String> {
    let mut values = vec![];
    for line in resolv.lines() {
        let mut words = line.split_whitespace();
        if words.next() == Some(keyword) {
            values.extend(words.map(str::to_owned));
        }
    }
    values
}

const DNS: &str = "clusterDNS: [10.96.0.10]\nclusterDomain: corp.test";

#[test]
fn a_pod_gets_its_own_hosts_file_and_cluster_dns() {
    let node = Node::configured(DNS);
    node.apply("own", SHOW);
    let (hostname, hosts, resolv) = shown(&node, "own");
    assert_eq!(hostname, format!("own-{NAME}"));
    let ip = status(&node.pod("own")).pod_ip.unwrap();
    let expected = [
        "# Kubernetes-managed hosts file.".to_owned(),
        "127.0.0.1\tlocalhost".to_owned(),
        "::1\tlocalhost ip6-localhost ip6-loopback".to_owned(),
        "fe00::0\tip6-localnet".to_owned(),
        "fe00::0\tip6-mcastprefix".to_owned(),
        "fe00::1\tip6-allnodes".to_owned(),
        "fe00::2\tip6-allrouters".to_owned(),
        format!("{ip}\town-{NAME}"),
    ];
    assert_eq!(hosts.lines().collect::<Vec<_>>(), expected);
    let node_resolv = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let mut searches = ["default.svc.corp.test", "svc.corp.test", "corp.test"].map(str::to_owned).to_vec();
    searches.extend(values(&node_resolv, "search"));
    assert_eq!(values(&resolv, "nameserver"), ["10.96.0.10"]);
    assert_eq!(values(&resolv, "search"), searches);
    assert_eq!(values(&resolv, "options"), ["ndots:5"]);
}

#[test]
fn names_aliases_and_dns_settings_are_the_pods_to_choose() {
    let node = Node::configured(DNS);
    node.apply(
        "named",
        &format!(
            "hostname: web\nsubdomain: farm\nhostAliases:\n- {{ip: 10.1.2.3, hostnames: [foo, bar.example]}}\n\
             dnsPolicy: None\ndnsConfig:\n  nameservers: [192.0.2.1]\n  searches: [a.example, b.example]\n  \
             options: [{{name: timeout, value: '3'}}, {{name: rotate}}]{SHOW}"
        ),
    );
    node.apply("fqdn", &format!("hostname: web\nsubdomain: farm\nsetHostnameAsFQDN: true{SHOW}"));
    node.apply(
        "merged",
        &format!("dnsConfig:\n  nameservers: [192.0.2.7]\n  options: [{{name: ndots, value: '2'}}]{SHOW}"),
    );
    node.apply("default", &format!("dnsPolicy: Default{SHOW}"));

    let (hostname, hosts, resolv) = shown(&node, "named");
    assert_eq!(hostname, "web");
    let ip = status(&node.pod("named")).pod_ip.unwrap();
    assert!(hosts.contains(&format!("{ip}\tweb.farm.default.svc.corp.test\tweb\n")), "{hosts}");
    let aliases = "\n# Entries added by HostAliases.\n10.1.2.3\tfoo\tbar.example\n";
    assert!(hosts.ends_with(aliases), "{hosts}");
    assert_eq!(values(&resolv, "nameserver"), ["192.0.2.1"]);
    assert_eq!(values(&resolv, "search"), ["a.example", "b.example"]);
    assert_eq!(values(&resolv, "options"), ["timeout:3", "rotate"]);

    assert_eq!(shown(&node, "fqdn").0, "web.farm.default.svc.corp.test");

    let (_, _, resolv) = shown(&node, "merged");
    assert_eq!(values(&resolv, "nameserver"), ["10.96.0.10", "192.0.2.7"]);
    assert_eq!(values(&resolv, "options"), ["ndots:2"]);

    let (_, _, resolv) = shown(&node, "default");
    let node_resolv = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    for keyword in ["nameserver", "search"] {
        assert_eq!(values(&resolv, keyword), values(&node_resolv, keyword), "{keyword}");
    }
}

#[test]
fn a_pod_in_the_nodes_network_has_the_nodes_names() {
    let node = Node::configured(DNS);
    node.apply(
        "host",
        &format!("hostNetwork: true\nhostAliases: [{{ip: 10.1.2.3, hostnames: [foo]}}]{SHOW}"),
    );
    let (_, hosts, resolv) = shown(&node, "host");
    let own = fs::read_to_string("/etc/hosts").unwrap();
    assert!(hosts.starts_with("# Kubernetes-managed hosts file (host network).\n"), "{hosts}");
    assert!(hosts.contains(own.trim_end()), "{hosts}");
    assert!(hosts.ends_with("10.1.2.3\tfoo\n"), "{hosts}");
    assert_ne!(values(&resolv, "nameserver"), ["10.96.0.10"], "ClusterFirst means Default here");
    node.apply("really", &format!("hostNetwork: true\ndnsPolicy: ClusterFirstWithHostNet{SHOW}"));
    assert_eq!(values(&shown(&node, "really").2, "nameserver"), ["10.96.0.10"]);
}

#[test]
fn a_hosts_file_of_the_containers_own_is_left_alone() {
    let node = Node::start();
    fs::write(node.share("hosts"), "192.0.2.9 mine\n").unwrap();
    node.apply(
        "own-hosts",
        &format!(
            "{SHOW}  volumeMounts: [{{name: hosts, mountPath: /etc/hosts}}]\n\
             volumes: [{{name: hosts, hostPath: {{path: $SHARE/hosts, type: File}}}}]"
        ),
    );
    assert_eq!(shown(&node, "own-hosts").1, "192.0.2.9 mine\n");
}

#[test]
fn a_host_port_leads_to_the_pod() {
    let node = Node::start();
    let port = free_port();
    node.apply(
        "web",
        &format!(
            "
containers:
- name: main
  image: $IMAGE
  command: [sh, -c, 'mkdir /www; echo hello from the pod > /www/index.html; exec httpd -f -p 8080 -h /www']
  ports: [{{containerPort: 8080, hostPort: {port}}}]
"
        ),
    );
    let pod = node.wait_ready("web");
    let (ip, host) = (status(&pod).pod_ip.unwrap(), status(&pod).host_ip.unwrap());
    for address in [format!("{ip}:8080"), format!("{host}:{port}")] {
        wait::until(&format!("an answer from {address}"), PATIENCE, || {
            let page = http_get(&address, "/index.html")?;
            if page == "hello from the pod\n" { Ok(()) } else { Err(page) }
        });
    }
}

#[test]
fn pods_wait_for_a_network_unless_they_have_the_nodes() {
    let mut node = Node::without_agent("");
    let conf = node.runtime.get("cni_conf_dir").to_owned();
    let aside = node.share("cni");
    node.runtime.kill();
    fs::rename(&conf, &aside).unwrap();
    fs::create_dir(&conf).unwrap();
    // Started by hand: the task runner would write the folder anew.
    let mut daemon = node.runtime.spawn_as_it_is();
    node.start_agent();
    node.apply("own", "containers: [{name: c, image: $IMAGE, command: [sleep, '1000']}]");
    node.apply("host", "hostNetwork: true\ncontainers: [{name: c, image: $IMAGE, command: [sleep, '1000']}]");
    node.wait_ready("host");
    node.wait_agent_log(&["NetworkNotReady", "own-node-1"]);
    assert!(status(&node.pod("own")).pod_ip.is_none());
    for file in fs::read_dir(&aside).unwrap().flatten() {
        // Written, not moved there: containerd looks only at writes.
        fs::copy(file.path(), Path::new(&conf).join(file.file_name())).unwrap();
    }
    node.wait_ready("own");
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}
