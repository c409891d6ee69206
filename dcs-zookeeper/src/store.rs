//! ZooKeeper as a [`KeyValueStore`]: nodes are keys, a session is the handle.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dcs_core::model::Revision;
use dcs_core::{
    Capabilities, Changes, Clock, Consistency, Cursor, Deadline, Deletion, Entry, Error, Expect, Handle, KeyValueStore, LockAttempt,
    LockRenewal, Snapshot, Timing, WatchScope, Write,
};
use zookeeper_client as zk;

use crate::client::{Client, Need};
use crate::config::{Config, Grant, Permission};
use crate::connection::Connection;
use crate::error::Failure;
use crate::session::handle_id;
use crate::tree::{self, Node, Reading, Shapes};
use crate::watch::Watcher;

/// What one request may have by default (`jute.maxbuffer`), less what it needs around the value.
const LARGEST_VALUE: usize = (1 << 20) - (8 << 10);

/// How often a key may appear and vanish between the requests of one write.
const MOST_ATTEMPTS: usize = 4;

/// An ensemble of ZooKeeper servers, as one agent or control tool sees it.
///
/// Connects when it is first asked for something. Needs a tokio runtime then.
pub struct ZooKeeper {
    pub(crate) client: Client,
    section: &'static str,
    /// In front of every key.
    root: String,
    shapes: Shapes,
    pub(crate) watcher: Watcher,
}

impl fmt::Debug for ZooKeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZooKeeper").field("client", &self.client).field("root", &self.root).finish_non_exhaustive()
    }
}

impl ZooKeeper {
    /// A store at the servers of `config`. Nothing is sent yet.
    pub fn new(config: Config, timing: Timing, clock: Arc<dyn Clock>) -> Self {
        let client = Client::new(&config, timing, clock);
        let watcher = Watcher::new(client.clone(), config.root.clone());
        Self { client, section: config.section, root: config.root, shapes: Shapes::default(), watcher }
    }

    /// Goes on with the credentials, the certificates and the ACLs of `config`, without losing the session. The servers stay
    /// those that the store was made with.
    ///
    /// # Errors
    ///
    /// The certificates cannot be used; then nothing changes.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future means that nothing changes.
    pub async fn set_access(&self, config: &Config) -> Result<(), dcs_core::tls::TlsError> {
        let access = config.access.clone();
        if let Some(tls) = access.tls.clone().filter(|tls| self.client.access().tls.as_ref() != Some(tls)) {
            // A broken file must not cost a connection that works. What cannot be judged now shows at the next connection.
            let made = tokio::task::spawn_blocking(move || tls.config()).await;
            made.map_or(Ok(()), |made| made.map(drop))?;
        }
        self.client.set_access(access);
        Ok(())
    }

    /// The server in use, as `host:port`, for logs and tests. Nothing before the first request and after a failure.
    pub fn server(&self) -> Option<String> {
        self.client.server()
    }

    /// Where `key` is in ZooKeeper.
    pub(crate) fn path(&self, key: &str) -> String {
        format!("{}{key}", self.root)
    }

    /// The node as the contract wants to see it.
    pub(crate) fn entry(&self, node: Node) -> Entry {
        let Node { path, data, stat } = node;
        let key = path.strip_prefix(&self.root).unwrap_or(&path).to_owned();
        let handle = (stat.ephemeral_owner != 0).then(|| handle_id(stat.ephemeral_owner));
        Entry { key, value: data, revision: revision_of(&stat), handle }
    }

    /// What every new node allows to whom.
    pub(crate) fn acls(&self) -> Acls {
        Acls(self.client.access().acls.iter().map(acl).collect())
    }

    async fn look_at(&self, key: &str, deadline: Deadline) -> Result<Option<Node>, Failure> {
        let path = self.path(key);
        let path = path.as_str();
        self.client
            .read(deadline, |client| async move {
                // The read behind a `sync` shows everything that was acknowledged before it.
                let (synced, node) = futures::join!(client.sync(path), tree::node(&client, path));
                synced?;
                node
            })
            .await
    }

    /// Reads everything below `prefix`. Both kinds of reads begin with a `sync`, sent together with the first questions: a
    /// server may be behind the others, and it costs no time of its own.
    async fn load(&self, prefix: &str, deadline: Deadline) -> Result<Vec<Node>, Failure> {
        let path = self.path(prefix.trim_end_matches('/'));
        let path = path.as_str();
        let mut reading = Reading::of(path, self.shapes.of(path));
        let mut first = true;
        while let Some(questions) = reading.questions() {
            let answers = self.client.read(deadline, |client| async move {
                if !first {
                    return tree::ask(&client, questions).await;
                }
                // The read behind a `sync` shows everything that was acknowledged before it.
                let (synced, answers) = futures::join!(client.sync(path), tree::ask(&client, questions));
                synced?;
                answers
            });
            reading.take(answers.await?)?;
            first = false;
        }
        let nodes = reading.nodes();
        self.shapes.remember(path, &nodes);
        Ok(nodes)
    }

    /// Makes every node above `path` that is not there.
    pub(crate) async fn make_parents(&self, connection: &Connection, path: &str, deadline: Deadline) -> Result<(), Failure> {
        let acls = self.acls();
        let made = self.client.ask_on(connection, deadline, |client| async move {
            let options = zk::CreateMode::Persistent.with_acls(acls.get());
            let parents = path.match_indices('/').map(|(at, _)| &path[..at]).filter(|parent| !parent.is_empty());
            // All are sent at once, the topmost first.
            let made: Vec<_> = parents.map(|parent| client.create(parent, b"", &options)).collect();
            let mut denied = None;
            for made in futures::future::join_all(made).await {
                match made {
                    Ok(_) | Err(zk::Error::NodeExists) => denied = None,
                    // Where we may not create anything, it may be there already: then the one below it can be made.
                    Err(zk::Error::NoAuth) => denied = Some(zk::Error::NoAuth),
                    Err(zk::Error::NoNode) if denied.is_some() => {}
                    Err(error) => return Err(error.into()),
                }
            }
            denied.map_or(Ok(()), |denied| Err(denied.into()))
        });
        made.await.map(drop)
    }

    /// Creates a node of that kind, and what is above it.
    async fn create(
        &self,
        connection: &Connection,
        path: &str,
        value: &[u8],
        mode: zk::CreateMode,
        deadline: Deadline,
    ) -> Result<zk::Stat, Failure> {
        let create = async || {
            let writing = self.watcher.writes(connection, path);
            let acls = self.acls();
            let made = self
                .client
                .ask_on(connection, deadline, |client| async move { Ok(client.create(path, value, &mode.with_acls(acls.get())).await?.0) });
            let (stat, _) = made.await?;
            writing.applied(1, Some(revision_of(&stat)));
            Ok(stat)
        };
        match create().await {
            Err(Failure::Client(zk::Error::NoNode)) => {
                self.make_parents(connection, path, deadline).await?;
                create().await
            }
            outcome => outcome,
        }
    }

    async fn set(
        &self,
        connection: &Connection,
        path: &str,
        value: &[u8],
        version: Option<i32>,
        deadline: Deadline,
    ) -> Result<zk::Stat, Failure> {
        let writing = self.watcher.writes(connection, path);
        let set = self.client.ask_on(connection, deadline, |client| async move { Ok(client.set_data(path, value, version).await?) });
        let (stat, _) = set.await?;
        writing.applied(1, Some(revision_of(&stat)));
        Ok(stat)
    }

    /// Puts another kind of node in the place of the one that is there, if it still has `version`.
    async fn exchange(
        &self,
        connection: &Connection,
        path: &str,
        value: &[u8],
        version: Option<i32>,
        mode: zk::CreateMode,
        deadline: Deadline,
    ) -> Result<(), Failure> {
        let writing = self.watcher.writes(connection, path);
        let acls = self.acls();
        let exchanged = self.client.ask_on(connection, deadline, |client| async move {
            let mut transaction = client.new_multi_writer();
            transaction.add_delete(path, version)?;
            transaction.add_create(path, value, &mode.with_acls(acls.get()))?;
            transaction.commit().await.map_err(zk::Error::from)?;
            Ok(())
        });
        exchanged.await?;
        writing.applied(2, None);
        Ok(())
    }

    /// Writes whatever is there, as a node of our session if `bound`, else as a permanent one.
    async fn write(&self, connection: &Connection, key: &str, value: &[u8], bound: bool, deadline: Deadline) -> Result<Revision, Failure> {
        let path = self.path(key);
        let (mode, owner) = if bound { (zk::CreateMode::Ephemeral, connection.session.id) } else { (zk::CreateMode::Persistent, 0) };
        for _ in 0..MOST_ATTEMPTS {
            match self.set(connection, &path, value, None, deadline).await {
                Ok(stat) if stat.ephemeral_owner == owner => return Ok(revision_of(&stat)),
                Ok(stat) => match self.exchange(connection, &path, value, Some(stat.version), mode, deadline).await {
                    // Not every server tells what a transaction has created; the next round writes it again, and says.
                    Ok(()) | Err(Failure::Client(zk::Error::BadVersion | zk::Error::NoNode | zk::Error::NodeExists)) => {}
                    Err(failure) => return Err(failure),
                },
                Err(Failure::Client(zk::Error::NoNode)) => match self.create(connection, &path, value, mode, deadline).await {
                    Ok(stat) => return Ok(revision_of(&stat)),
                    Err(Failure::Client(zk::Error::NodeExists)) => {}
                    Err(failure) => return Err(failure),
                },
                Err(failure) => return Err(failure),
            }
        }
        Err(Failure::Unproved("the key appears and vanishes all the time"))
    }

    /// The version of the node with `expected`, if that is still there.
    ///
    /// The version alone, which is all that ZooKeeper compares, would also fit a node that was deleted and made again. So this
    /// looks first; what is left is a node that is deleted, made and written as often again between this look and the
    /// write behind it.
    async fn version_of(&self, key: &str, expected: &Revision, deadline: Deadline) -> Result<Found, Failure> {
        Ok(match self.look_at(key, deadline).await? {
            None => Found::Nothing,
            Some(node) if revision_of(&node.stat) == *expected => Found::Expected(node.stat),
            Some(_) => Found::Other,
        })
    }

    async fn put_if(&self, key: &str, value: &[u8], expect: Expect<'_>, deadline: Deadline) -> Result<Write, Failure> {
        if value.len() > LARGEST_VALUE {
            return Err(Failure::TooLarge(value.len()));
        }
        match expect {
            Expect::Any => {
                let connection = self.client.connection(Need::Any, deadline).await?;
                self.write(&connection, key, value, false, deadline).await.map(Write::Applied)
            }
            Expect::Absent => {
                let connection = self.client.connection(Need::Any, deadline).await?;
                match self.create(&connection, &self.path(key), value, zk::CreateMode::Persistent, deadline).await {
                    Ok(stat) => Ok(Write::Applied(revision_of(&stat))),
                    Err(Failure::Client(zk::Error::NodeExists)) => Ok(Write::Refused),
                    Err(failure) => Err(failure),
                }
            }
            Expect::Revision(expected) => {
                let Found::Expected(there) = self.version_of(key, expected, deadline).await? else { return Ok(Write::Refused) };
                let connection = self.client.connection(Need::Any, deadline).await?;
                match self.set(&connection, &self.path(key), value, Some(there.version), deadline).await {
                    Ok(stat) if stat.czxid == there.czxid => Ok(Write::Applied(revision_of(&stat))),
                    Ok(_) => Err(Failure::Unproved("the key was deleted and made again while it was written")),
                    Err(Failure::Client(zk::Error::BadVersion | zk::Error::NoNode)) => Ok(Write::Refused),
                    Err(failure) => Err(failure),
                }
            }
        }
    }

    pub(crate) async fn delete_if(&self, key: &str, expect: Expect<'_>, deadline: Deadline) -> Result<Deletion, Failure> {
        let version = match expect {
            Expect::Any => None,
            Expect::Absent => {
                let there = self.look_at(key, deadline).await?;
                return Ok(if there.is_some() { Deletion::Refused } else { Deletion::Absent });
            }
            Expect::Revision(expected) => match self.version_of(key, expected, deadline).await? {
                Found::Nothing => return Ok(Deletion::Absent),
                Found::Other => return Ok(Deletion::Refused),
                Found::Expected(stat) => Some(stat.version),
            },
        };
        let connection = self.client.connection(Need::Any, deadline).await?;
        let path = self.path(key);
        let path = path.as_str();
        let deleted = self.client.ask_on(&connection, deadline, |client| async move { Ok(client.delete(path, version).await?) });
        match deleted.await {
            Ok(_) => Ok(Deletion::Deleted(None)),
            Err(Failure::Client(zk::Error::NoNode)) => Ok(Deletion::Absent),
            Err(Failure::Client(zk::Error::BadVersion)) => Ok(Deletion::Refused),
            Err(failure) => Err(failure),
        }
    }

    async fn delete_below(&self, prefix: &str, deadline: Deadline) -> Result<(), Failure> {
        let root = self.path(prefix.trim_end_matches('/'));
        loop {
            let nodes = self.load(prefix, deadline).await?;
            // What is deepest comes first. In the order of their paths, nodes stand before what is below them.
            let paths: Vec<&str> = nodes.iter().rev().map(|node| node.path.as_str()).chain([root.as_str()]).collect();
            let connection = self.client.connection(Need::Any, deadline).await?;
            let deleted = self.client.ask_on(&connection, deadline, |client| async move {
                let requests: Vec<_> = paths.into_iter().map(|path| client.delete(path, None)).collect();
                let mut all = true;
                for deleted in futures::future::join_all(requests).await {
                    match deleted {
                        Ok(()) | Err(zk::Error::NoNode) => {}
                        // Somebody has made another one below it.
                        Err(zk::Error::NotEmpty) => all = false,
                        Err(error) => return Err(error.into()),
                    }
                }
                Ok(all)
            });
            if deleted.await?.0 {
                return Ok(());
            }
        }
    }
}

/// What was found where something was expected.
enum Found {
    Nothing,
    Expected(zk::Stat),
    Other,
}

#[async_trait]
impl KeyValueStore for ZooKeeper {
    fn name(&self) -> &'static str {
        self.section
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            watch: WatchScope::Prefix,
            empties_sync: true,
            follower_delay: Duration::from_millis(500),
            // A tick, and whatever the server needs to notice.
            expiry_granularity: Duration::from_secs(2),
            max_value: Some(LARGEST_VALUE),
            liveness_per_key: false,
        }
    }

    fn set_timing(&self, timing: Timing) {
        self.client.set_timing(timing);
    }

    async fn read(&self, prefix: &str, _: Consistency, deadline: Deadline) -> Result<Snapshot, Error> {
        self.client.loads();
        let cursor = self.watcher.position();
        let nodes = self.load(prefix, deadline).await.map_err(|failure| failure.during("load the cluster"))?;
        let entries = nodes.into_iter().filter(|node| !node.is_directory()).map(|node| self.entry(node)).collect();
        Ok(Snapshot { entries, cursor })
    }

    async fn get(&self, key: &str, deadline: Deadline) -> Result<Option<Entry>, Error> {
        let node = self.look_at(key, deadline).await.map_err(|failure| failure.during("read a key"))?;
        Ok(node.map(|node| self.entry(node)))
    }

    async fn put(&self, key: &str, value: &[u8], expect: Expect<'_>, deadline: Deadline) -> Result<Write, Error> {
        self.put_if(key, value, expect, deadline).await.map_err(|failure| failure.during("write a key"))
    }

    async fn delete(&self, key: &str, expect: Expect<'_>, deadline: Deadline) -> Result<Deletion, Error> {
        self.delete_if(key, expect, deadline).await.map_err(|failure| failure.during("delete a key"))
    }

    async fn delete_prefix(&self, prefix: &str, deadline: Deadline) -> Result<(), Error> {
        self.delete_below(prefix, deadline).await.map_err(|failure| failure.during("delete the cluster"))
    }

    fn handle(&self) -> Option<Handle> {
        self.client.session().map(|session| session.handle())
    }

    async fn ensure_handle(&self, deadline: Deadline) -> Result<Handle, Error> {
        const OPERATION: &str = "prove that the session is alive";
        loop {
            let connection = self.client.connection(Need::CurrentTtl, deadline).await.map_err(|failure| failure.during(OPERATION))?;
            let session = &connection.session;
            if self.client.now().saturating_since(session.heard()) < self.client.timing().loop_wait {
                return Ok(session.handle());
            }
            match self.client.ask_on(&connection, deadline, |client| async move { Ok(client.sync("/").await?) }).await {
                Ok(_) => return Ok(session.handle()),
                // It is resumed, or made anew.
                Err(_) if connection.lost().is_some() && !deadline.has_passed() => {}
                Err(failure) => return Err(failure.during(OPERATION)),
            }
        }
    }

    async fn put_bound(&self, key: &str, value: &[u8], deadline: Deadline) -> Result<Revision, Error> {
        const OPERATION: &str = "write a key with our session";
        if value.len() > LARGEST_VALUE {
            return Err(Failure::TooLarge(value.len()).during(OPERATION));
        }
        let write = async {
            let connection = self.client.connection(Need::CurrentTtl, deadline).await?;
            self.write(&connection, key, value, true, deadline).await
        };
        write.await.map_err(|failure| failure.during(OPERATION))
    }

    async fn acquire_lock(&self, key: &str, owner: &str, deadline: Deadline) -> Result<LockAttempt, Error> {
        self.acquire(key, owner, deadline).await.map_err(|failure| failure.during("acquire the leader lock"))
    }

    async fn take_lock(&self, key: &str, owner: &str, deadline: Deadline) -> Result<LockAttempt, Error> {
        self.acquire(key, owner, deadline).await.map_err(|failure| failure.during("take the leader lock"))
    }

    async fn renew_lock(&self, key: &str, owner: &str, seen: &Entry, deadline: Deadline) -> Result<LockRenewal, Error> {
        self.renew(key, owner, seen, deadline).await.map_err(|failure| failure.during("renew the leader lock"))
    }

    async fn release_lock(&self, _key: &str, held: &Entry, deadline: Deadline) -> Result<Deletion, Error> {
        self.release(held, deadline).await.map_err(|failure| failure.during("release the leader lock"))
    }

    async fn wait_for_changes(&self, prefix: &str, after: Cursor, deadline: Deadline) -> Result<Changes, Error> {
        let _use = self.client.uses();
        Ok(self.watcher.wait(prefix, after, deadline).await)
    }
}

/// What a node's revision says: which node it is, and how often it was written. Either alone is had again by others.
pub(crate) fn revision_of(stat: &zk::Stat) -> Revision {
    Revision::new(format!("{:x}.{}", stat.czxid, stat.version))
}

/// Owned, so that it can go into a request.
pub(crate) struct Acls(pub(crate) Vec<zk::Acl>);

fn acl(grant: &Grant) -> zk::Acl {
    let permission = grant.permissions.iter().map(|permission| match permission {
        Permission::Create => zk::Permission::CREATE,
        Permission::Read => zk::Permission::READ,
        Permission::Write => zk::Permission::WRITE,
        Permission::Delete => zk::Permission::DELETE,
        Permission::Admin => zk::Permission::ADMIN,
        Permission::All => zk::Permission::ALL,
    });
    zk::Acl::new(permission.fold(zk::Permission::NONE, |all, one| all | one), zk::AuthId::new("x509", &grant.principal))
}
