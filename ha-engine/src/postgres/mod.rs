//! The real PostgreSQL port. Not written yet.
