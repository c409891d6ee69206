//! The run loop. Not written yet.
