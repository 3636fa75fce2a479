//! Wire types, client and server of plugin registration v1, generated from `proto/registration.proto` by `build.rs`.
//! Never edited by hand; used by the registry and by plugins of the tests.

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

tonic::include_proto!("pluginregistration");
