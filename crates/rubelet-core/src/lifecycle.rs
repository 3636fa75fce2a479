//! The pod worker's state machine: stages of one pod UID and the only way from one to the next.
