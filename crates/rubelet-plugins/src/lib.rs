//! Plugins of the node: the folder they register in is watched, each is asked who it is and told whether it was taken.
//! What a kind of plugin is for is its handler's business.

pub mod registration;
