//! Tests of the pages: what is rendered against upstream's catalogue, and the text itself.
