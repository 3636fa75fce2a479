//! Wire types, clients and servers of dynamic resource allocation, generated from `proto/dra_*.proto` by `build.rs`. Never
//! edited by hand; used by the client and by drivers of the tests.

// The code is generated: names, shapes and missing documentation are the protocol's and the generator's.
#![allow(
    missing_docs,
    unreachable_pub,
    deprecated,
    rustdoc::all,
    clippy::all,
    clippy::unwrap_used,
    clippy::panic,
    rust_2018_idioms
)]

pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/dra/k8s.io.kubelet.pkg.apis.dra.v1.rs"));
}

pub mod v1beta1 {
    include!(concat!(env!("OUT_DIR"), "/dra/k8s.io.kubelet.pkg.apis.dra.v1beta1.rs"));
}

pub mod health {
    include!(concat!(env!("OUT_DIR"), "/dra/v1alpha1.rs"));
}
