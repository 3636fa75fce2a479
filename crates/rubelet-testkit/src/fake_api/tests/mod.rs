//! Tests of the fake itself: a fake that is wrong makes every test that uses it wrong.

mod basics;
