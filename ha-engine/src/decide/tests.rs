//! Situations and what is decided in them.
