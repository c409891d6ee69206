//! The PostgreSQL port against real servers.

mod building;
mod changing;
mod embedding;
mod lab;
mod lifecycle;
mod logical_slots;
mod replication;
mod running;
mod synchronous;
mod waiting;

/// Declares tests that get a lab, each under its own name.
#[macro_export]
macro_rules! lab_tests {
    ($($(#[$attribute:meta])* $name:ident => $body:expr;)+) => {
        $($(#[$attribute])* #[test] fn $name() { $crate::lab::run(concat!(module_path!(), "::", stringify!($name)), $body); })+
    };
}
