//! Machines and pods for the tests of pinning.

use proptest::prelude::*;

use crate::Pod;
use crate::cpu_set::CpuSet;
use crate::pod_builder::{ContainerBuilder, PodBuilder};
use crate::topology::{Cpu, MachineTopology, NumaNode};

/// How threads are numbered.
#[derive(Clone, Copy, Debug)]
pub(super) enum Numbering {
    /// First threads of all cores, node by node, then second ones.
    Far,
    /// The threads of a core one after the other.
    Adjacent,
    /// First threads, one of each node in turn, then second ones.
    Interleaved,
}

/// A node of a machine to be.
#[derive(Clone, Debug)]
pub(super) struct NodeShape {
    pub(super) socket: u32,
    /// Threads of each core.
    pub(super) cores: Vec<usize>,
    /// Cores that share a cache.
    pub(super) per_cache: usize,
}

/// An even machine: sockets, nodes of each, cores of each, threads of each, cores of a cache.
pub(super) fn even(shape: [usize; 5], numbering: Numbering) -> MachineTopology {
    let [sockets, nodes, cores, threads, per_cache] = shape;
    let all = (0..sockets * nodes).map(|node| NodeShape {
        socket: u32::try_from(node / nodes).unwrap(),
        cores: vec![threads; cores],
        per_cache,
    });
    build(&all.collect::<Vec<_>>(), numbering)
}

pub(super) fn build(shapes: &[NodeShape], numbering: Numbering) -> MachineTopology {
    // (node, core within the node, thread) in the order of their numbers.
    let mut places: Vec<(usize, usize, usize)> = Vec::new();
    for (node, shape) in shapes.iter().enumerate() {
        for (core, threads) in shape.cores.iter().enumerate() {
            places.extend((0..*threads).map(|thread| (node, core, thread)));
        }
    }
    places.sort_by_key(|(node, core, thread)| match numbering {
        Numbering::Far => (*thread, *node, *core),
        Numbering::Adjacent => (*node, *core, *thread),
        Numbering::Interleaved => (*thread, *core, *node),
    });
    let number = |wanted: &dyn Fn(usize, usize) -> bool| {
        u32::try_from(places.iter().position(|(node, core, _)| wanted(*node, *core)).unwrap()).unwrap()
    };
    let cpus = places.iter().enumerate().map(|(id, (node, core, _))| Cpu {
        id: u32::try_from(id).unwrap(),
        core: number(&|n, c| n == *node && c == *core),
        socket: shapes[*node].socket,
        numa: u32::try_from(*node).unwrap(),
        cache: number(&|n, c| n == *node && c / shapes[n].per_cache == core / shapes[n].per_cache),
    });
    let nodes =
        (0..shapes.len()).map(|id| NumaNode { id: u32::try_from(id).unwrap(), ..NumaNode::default() });
    MachineTopology { cpus: cpus.collect(), nodes: nodes.collect() }
}

/// Machines of 1 to 8 nodes, of even and uneven nodes, with one or two threads a core or both.
pub(super) fn any_machine() -> impl Strategy<Value = MachineTopology> {
    let numbering =
        prop_oneof![Just(Numbering::Far), Just(Numbering::Adjacent), Just(Numbering::Interleaved)];
    let threads = prop_oneof![Just(vec![1]), Just(vec![2]), Just(vec![2, 1])];
    let cores = proptest::collection::vec(1_usize..5, 1..9);
    (cores, 1_usize..4, threads, 1_usize..4, numbering).prop_map(
        |(cores, per_socket, threads, per_cache, numbering)| {
            let shapes: Vec<NodeShape> = cores
                .iter()
                .enumerate()
                .map(|(node, cores)| NodeShape {
                    socket: u32::try_from(node / per_socket).unwrap(),
                    cores: (0..*cores).map(|core| threads[core % threads.len()]).collect(),
                    per_cache,
                })
                .collect();
            build(&shapes, numbering)
        },
    )
}

/// What a container is, in the order in which pods start them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Init,
    Sidecar,
    App,
}

/// A Guaranteed pod of these containers, named `c0`, `c1` and so on, with so many CPUs as given.
pub(super) fn pod(uid: &str, containers: &[(Role, &str)]) -> Pod {
    let mut pod = PodBuilder::new(uid).uid(uid);
    for (index, (role, cpus)) in containers.iter().enumerate() {
        let container = ContainerBuilder::new(&format!("c{index}"), "image");
        let container = [("cpu", *cpus), ("memory", "1Gi")]
            .into_iter()
            .fold(container, |container, (name, amount)| container.request(name, amount).limit(name, amount));
        pod = match role {
            Role::Init => pod.init_container(container),
            Role::Sidecar => pod.init_container(container.sidecar()),
            Role::App => pod.container(container),
        };
    }
    pod.build()
}

pub(super) fn set(text: &str) -> CpuSet {
    text.parse().unwrap()
}
