//! What the table of upstream's outcomes (`tests/http.rs`) cannot show: that any bytes are survived, in little memory,
//! however they are cut.
