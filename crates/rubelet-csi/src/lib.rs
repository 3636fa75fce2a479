//! The Container Storage Interface (CSI 1.x): wire types generated from `proto/csi.proto`, and a client of a driver's
//! identity and node services with deadlines. It speaks; what to call when is `rubelet-volumes`'.
