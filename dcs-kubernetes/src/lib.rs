//! The Kubernetes API as a store of leader lock, members and cluster state.
