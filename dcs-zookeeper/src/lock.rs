//! The leader lock: an ephemeral node of our session with our name in it.
//!
//! # One question proves everything
//!
//! Taking and renewing the lock send the same two requests at once: create the node, and read it. Creating goes through
//! ZooKeeper's leader and a majority even if it fails because the node exists, and is refused if the session is gone; the
//! read behind it, in the same session, shows whose the node is as of then. A read alone would prove little: a server that
//! was cut off from the others answers reads for some time, while they let its sessions expire.
//!
//! # Replacing a node of our own
//!
//! A node with our name and another session (of an earlier process, or of another ttl) is replaced in one transaction: set,
//! delete, create. Its condition is the version, which starts at zero again in every new node; so the answer to the
//! `set` is what tells which node it really was. Should it have been another one, made by somebody who took the lock
//! between our look and the transaction, or should no answer come at all, then our new node is left alone, with its session,
//! until it expires: nobody can take the lock meanwhile, and whoever had it has noticed before that.

use std::time::Duration;

use dcs_core::model::Revision;
use dcs_core::{Deadline, Entry, ErrorKind, Expect, Grip, LockAttempt, LockRenewal, Moment};
use zookeeper_client as zk;

use crate::client::Need;
use crate::connection::Connection;
use crate::error::Failure;
use crate::session::handle_id;
use crate::store::{Acls, ZooKeeper, revision_of};
use crate::tree::{self, Node};

/// A new session and another try are not begun with less than this.
const LEAST_TIME_FOR_A_NEW_SESSION: Duration = Duration::from_secs(1);

/// How often the node may change between a look and what follows from it, within one call.
const MOST_LOOKS: usize = 4;

/// What became of the attempt to create the lock's node.
enum Claim {
    /// It was not there, and is ours now.
    Created(Option<Revision>),
    /// It is there.
    Exists(Node),
}

/// What became of the attempt to replace a node of our own.
enum Replacement {
    Done(Option<Revision>),
    /// It had changed meanwhile; nothing happened.
    Changed,
}

impl ZooKeeper {
    pub(crate) async fn acquire(&self, key: &str, owner: &str, deadline: Deadline) -> Result<LockAttempt, Failure> {
        let mut again = true;
        loop {
            let connection = self.client.connection(Need::CurrentTtl, deadline).await?;
            match self.claim(&connection, key, owner, deadline).await {
                Ok((Claim::Created(written), sent_at)) => {
                    connection.session.has_replaced();
                    let lease = connection.session.is_proved(sent_at);
                    return Ok(LockAttempt::Won(Grip { lease, written }));
                }
                Ok((Claim::Exists(node), sent_at)) => {
                    if connection.session.is_replacing() && node.stat.ephemeral_owner == connection.session.id {
                        self.client.disown(&connection);
                    } else {
                        connection.session.is_proved(sent_at);
                    }
                    return Ok(LockAttempt::Held(Some(self.entry(node))));
                }
                Err(failure) if gone(&failure) && again && deadline.remaining() >= LEAST_TIME_FOR_A_NEW_SESSION => again = false,
                Err(failure) => return Err(failure),
            }
        }
    }

    pub(crate) async fn renew(&self, key: &str, owner: &str, seen: &Entry, deadline: Deadline) -> Result<LockRenewal, Failure> {
        let mut looks = 0;
        loop {
            looks += 1;
            let connection = self.client.connection(Need::CurrentTtl, deadline).await?;
            let session = &connection.session;
            let (claim, sent_at) = match self.claim(&connection, key, owner, deadline).await {
                Err(failure) if gone(&failure) && looks < MOST_LOOKS => continue,
                claim => claim?,
            };
            let node = match claim {
                Claim::Created(written) => {
                    session.has_replaced();
                    return Ok(LockRenewal::Kept(Grip { lease: session.is_proved(sent_at), written }));
                }
                Claim::Exists(node) => node,
            };
            let ours = node.data == owner.as_bytes();
            if node.stat.ephemeral_owner == session.id {
                if session.is_replacing() {
                    self.client.disown(&connection);
                    return Err(Failure::Unproved("it is not known whose node the leader key's node replaced"));
                }
                // Nobody writes into another's node; a name that is not ours there is no lock of ours.
                return Ok(if ours {
                    LockRenewal::Kept(Grip { lease: session.is_proved(sent_at), written: None })
                } else {
                    LockRenewal::Lost
                });
            }
            // What was sent before has been executed by now, and the node is not the one that it would have made.
            session.has_replaced();
            session.is_proved(sent_at);
            if !ours {
                return Ok(LockRenewal::Lost);
            }
            if self.client.is_disowned(node.stat.ephemeral_owner) {
                return Err(Failure::Unproved("the leader key belongs to a session that was left, and expires with it"));
            }
            if revision_of(&node.stat) != seen.revision || Some(handle_id(node.stat.ephemeral_owner)) != seen.handle {
                return Ok(LockRenewal::Moved(self.entry(node)));
            }
            match self.replace(&connection, &node, owner, deadline).await {
                Ok((Replacement::Done(written), sent_at)) => {
                    let lease = session.is_proved(sent_at);
                    return Ok(LockRenewal::Kept(Grip { lease, written }));
                }
                Ok((Replacement::Changed, _)) if looks < MOST_LOOKS => {}
                Ok((Replacement::Changed, _)) => return Err(Failure::Unproved("the leader key changes all the time")),
                Err(failure) if gone(&failure) && looks < MOST_LOOKS => {}
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Creates the lock's node and reads it, in one go.
    async fn claim(&self, connection: &Connection, key: &str, owner: &str, deadline: Deadline) -> Result<(Claim, Moment), Failure> {
        let path = self.path(key);
        let mut parents = true;
        for _ in 0..MOST_LOOKS {
            let writing = self.watcher.writes(connection, &path);
            let (acls, path) = (self.acls(), &path);
            let (answers, sent_at) = self
                .client
                .ask_on(connection, deadline, |client| async move {
                    // Both are sent here, in this order, before anything is awaited.
                    let options = zk::CreateMode::Ephemeral.with_acls(acls.get());
                    let create = client.create(path, owner.as_bytes(), &options);
                    let look = tree::node(&client, path);
                    match futures::join!(create, look) {
                        (Ok((stat, _)), _) => Ok(Ok(stat)),
                        (Err(zk::Error::NodeExists), node) => Ok(Err(Some(node?))),
                        (Err(zk::Error::NoNode), _) => Ok(Err(None)),
                        (Err(error), _) => Err(error.into()),
                    }
                })
                .await?;
            match answers {
                Ok(stat) => {
                    let written = written(&stat);
                    writing.applied(1, written.clone());
                    return Ok((Claim::Created(written), sent_at));
                }
                Err(Some(Some(node))) => return Ok((Claim::Exists(node), sent_at)),
                // It vanished between the two.
                Err(Some(None)) => {}
                Err(None) if parents => {
                    parents = false;
                    self.make_parents(connection, path, deadline).await?;
                }
                Err(None) => return Err(zk::Error::NoNode.into()),
            }
        }
        Err(Failure::Unproved("the leader key changes all the time"))
    }

    /// Puts a node of the connection's session in the place of `node`.
    ///
    /// # Cancel safety
    ///
    /// The session remembers that it is not known what became of it.
    async fn replace(
        &self,
        connection: &Connection,
        node: &Node,
        owner: &str,
        deadline: Deadline,
    ) -> Result<(Replacement, Moment), Failure> {
        let session = &connection.session;
        let (acls, path, version) = (self.acls(), node.path.as_str(), node.stat.version);
        let writing = self.watcher.writes(connection, path);
        session.begins_to_replace();
        let answer = self
            .client
            .ask_on(connection, deadline, |client| async move {
                let mut transaction = client.new_multi_writer();
                transaction.add_set_data(path, owner.as_bytes(), Some(version))?;
                transaction.add_delete(path, Some(version.wrapping_add(1)))?;
                transaction.add_create(path, owner.as_bytes(), &zk::CreateMode::Ephemeral.with_acls(acls.get()))?;
                Ok(transaction.commit().await.map_err(zk::Error::from)?)
            })
            .await;
        match answer {
            Ok((results, sent_at)) => match results.as_slice() {
                [zk::MultiWriteResult::SetData { stat }, _, zk::MultiWriteResult::Create { stat: created, .. }] => {
                    if stat.czxid != node.stat.czxid {
                        self.client.disown(connection);
                        return Err(Failure::Unproved("somebody had taken the lock just before its node was replaced"));
                    }
                    session.has_replaced();
                    let written = written(created);
                    writing.applied(3, written.clone());
                    tracing::info!(
                        was = format!("{:#x}", node.stat.ephemeral_owner),
                        now = format!("{:#x}", session.id),
                        "the leader key is bound to our session now"
                    );
                    Ok((Replacement::Done(written), sent_at))
                }
                _ => Err(Failure::Malformed("the transaction's answer lacks what was asked for")),
            },
            Err(Failure::Client(zk::Error::BadVersion | zk::Error::NoNode | zk::Error::NodeExists)) => {
                session.has_replaced();
                Ok((Replacement::Changed, self.client.now()))
            }
            Err(failure) => {
                if failure.judge().1 == dcs_core::Fate::NotApplied {
                    session.has_replaced();
                }
                Err(failure)
            }
        }
    }

    pub(crate) async fn release(&self, held: &Entry, deadline: Deadline) -> Result<dcs_core::Deletion, Failure> {
        self.delete_if(&held.key, Expect::Revision(&held.revision), deadline).await
    }
}

/// The revision of a node that was just written, if the server told it: some versions leave it out of a transaction's answer.
fn written(stat: &zk::Stat) -> Option<Revision> {
    (!stat.is_invalid()).then(|| revision_of(stat))
}

fn gone(failure: &Failure) -> bool {
    failure.judge().0 == ErrorKind::HandleGone
}

impl Acls {
    pub(crate) fn get(&self) -> zk::Acls<'_> {
        if self.0.is_empty() { zk::Acls::anyone_all() } else { zk::Acls::new(&self.0) }
    }
}
