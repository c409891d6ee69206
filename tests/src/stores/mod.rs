//! Real servers of the stores.

mod etcd;

pub use etcd::Etcd;
