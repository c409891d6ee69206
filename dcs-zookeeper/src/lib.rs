//! ZooKeeper as a store of leader lock, members and cluster state.
