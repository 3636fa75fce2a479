//! Claims with a driver that is none: what is decided before anyone is called.
