//! Real servers of the stores, for the tests of all crates.
