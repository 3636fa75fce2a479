//! What a node agent serves of its pods: logs, and the streams of exec, attach and port-forward.
//!
//! Each is a function from a request to a response; who may ask is decided by whoever listens.
