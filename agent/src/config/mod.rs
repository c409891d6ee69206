//! What the operator configured.

pub mod tree;
pub mod yaml;
