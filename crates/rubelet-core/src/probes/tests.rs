//! Tables and invariants of probes: the script of a container in, runs and verdicts out.
