//! What waits to be sent to another node, and what became of it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::lock;
use crate::command::{Condition, Done, Operation, Reply, StoredKey, Transaction};
use crate::message::{PeerFrame, Request, Response};

/// How many frames wait at most.
pub(super) const FRAMES: usize = 1024;
/// How many bytes wait at most, unless a single frame has more.
const BYTES: usize = 64 << 20;
/// How long a frame waits at most. The protocol says everything again, and whoever asked has gone by then.
const AGE: Duration = Duration::from_secs(5);

/// Something that the Raft protocol wants to know about what it sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkReport {
    /// Frames were lost, or may have been.
    FramesLost,
    /// A snapshot was sent. It may still have been lost on its way; the next entries will tell.
    SnapshotSent,
    /// A snapshot was lost, or may have been.
    SnapshotLost,
}

/// Frames for one node, oldest first. Whoever puts one in never waits: when it is full, the oldest is lost.
#[derive(Debug, Default)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    frames: VecDeque<Waiting>,
    bytes: usize,
    lost: bool,
    snapshot: Option<LinkReport>,
}

#[derive(Debug)]
struct Waiting {
    frame: PeerFrame,
    bytes: usize,
    since: Instant,
}

impl Queue {
    /// Puts a frame behind the others.
    pub(super) fn push(&self, frame: PeerFrame) {
        let bytes = size(&frame);
        let mut inner = lock(&self.inner);
        while !inner.frames.is_empty() && (inner.frames.len() >= FRAMES || inner.bytes + bytes > BYTES) {
            inner.drop_one();
        }
        inner.bytes += bytes;
        inner.frames.push_back(Waiting { frame, bytes, since: Instant::now() });
        drop(inner);
        self.filled.notify_one();
    }

    /// Takes the oldest frame, once there is one.
    ///
    /// # Cancel safety
    ///
    /// Nothing is taken.
    pub(super) async fn next(&self) -> PeerFrame {
        loop {
            if let Some(frame) = self.take() {
                return frame;
            }
            self.filled.notified().await;
        }
    }

    /// Takes the oldest frame, if there is one.
    pub(super) fn take(&self) -> Option<PeerFrame> {
        let mut inner = lock(&self.inner);
        inner.drop_old();
        let Waiting { frame, bytes, .. } = inner.frames.pop_front()?;
        inner.bytes -= bytes;
        Some(frame)
    }

    /// Nothing can be sent for now.
    pub(super) fn failed(&self) {
        let mut inner = lock(&self.inner);
        inner.drop_old();
        inner.lost = true;
    }

    /// What happened since this was asked last.
    pub(super) fn reports(&self) -> impl Iterator<Item = LinkReport> {
        let mut inner = lock(&self.inner);
        let lost = std::mem::take(&mut inner.lost).then_some(LinkReport::FramesLost);
        lost.into_iter().chain(inner.snapshot.take())
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        lock(&self.inner).frames.len()
    }
}

impl Inner {
    /// Of all frames, those that the protocol repeats by itself are missed least.
    fn drop_one(&mut self) {
        let oldest = self.frames.iter().position(|waiting| matches!(waiting.frame, PeerFrame::Raft(_))).unwrap_or(0);
        if let Some(waiting) = self.frames.remove(oldest) {
            self.dropped(&waiting);
        }
    }

    fn drop_old(&mut self) {
        while self.frames.front().is_some_and(|oldest| oldest.since.elapsed() > AGE) {
            if let Some(waiting) = self.frames.pop_front() {
                self.dropped(&waiting);
            }
        }
    }

    fn dropped(&mut self, waiting: &Waiting) {
        self.bytes -= waiting.bytes;
        self.lost = true;
        if is_snapshot(&waiting.frame) {
            self.snapshot = Some(LinkReport::SnapshotLost);
        }
    }
}

/// Frames on their way from the queue to the other side. What is not reported as sent is lost, also when the task that
/// sends is ended in the middle.
#[derive(Debug)]
pub(super) struct Batch {
    queue: Arc<Queue>,
    has_snapshot: bool,
    sent: bool,
}

impl Batch {
    /// Nothing yet.
    pub(super) const fn new(queue: Arc<Queue>) -> Self {
        Self { queue, has_snapshot: false, sent: false }
    }

    /// One more frame.
    pub(super) fn add(&mut self, frame: &PeerFrame) {
        self.has_snapshot |= is_snapshot(frame);
    }

    /// All of them were sent.
    pub(super) fn sent(mut self) {
        self.sent = true;
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let mut inner = lock(&self.queue.inner);
        inner.lost |= !self.sent;
        if self.has_snapshot {
            inner.snapshot = Some(if self.sent { LinkReport::SnapshotSent } else { LinkReport::SnapshotLost });
        }
    }
}

fn is_snapshot(frame: &PeerFrame) -> bool {
    matches!(frame, PeerFrame::Raft(message) if message.snapshot.is_some())
}

/// About how many bytes a frame keeps in memory: what can be large is counted.
fn size(frame: &PeerFrame) -> usize {
    size_of::<PeerFrame>()
        + match frame {
            PeerFrame::Raft(message) => {
                let entries = message.entries.iter().map(|entry| size_of_val(entry) + entry.data.len() + entry.context.len());
                let snapshot = message.snapshot.as_ref().map_or(0, |snapshot| snapshot.state.len());
                entries.sum::<usize>() + snapshot + message.context.len()
            }
            PeerFrame::Forward { request: Request::Propose { transaction, .. }, .. } => {
                let Transaction { conditions, then, otherwise } = transaction;
                let compared = conditions.iter().map(|condition| match condition {
                    Condition::Value { value, .. } => value.len(),
                    _ => size_of_val(condition),
                });
                let written = then.iter().chain(otherwise).map(|operation| match operation {
                    Operation::Put { value, .. } => value.len(),
                    _ => size_of_val(operation),
                });
                compared.sum::<usize>() + written.sum::<usize>()
            }
            PeerFrame::Answer { response: Response::Keys { keys, .. }, .. } => keys.iter().map(stored).sum(),
            PeerFrame::Answer { response: Response::Applied(Reply { done, .. }), .. } => done
                .iter()
                .map(|done| match done {
                    Done::Found(Some(key)) => stored(key),
                    _ => size_of_val(done),
                })
                .sum(),
            PeerFrame::Forward { .. } | PeerFrame::Answer { .. } => 0,
        }
}

fn stored(key: &StoredKey) -> usize {
    size_of_val(key) + key.key.len() + key.value.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{LogEntry, RaftMessage, SnapshotData};

    fn raft(index: u64) -> PeerFrame {
        PeerFrame::Raft(RaftMessage { index, ..RaftMessage::default() })
    }

    fn entry(bytes: usize) -> PeerFrame {
        let entries = vec![LogEntry { data: vec![0; bytes], ..LogEntry::default() }];
        PeerFrame::Raft(RaftMessage { entries, ..RaftMessage::default() })
    }

    fn snapshot() -> PeerFrame {
        PeerFrame::Raft(RaftMessage { snapshot: Some(SnapshotData::default()), ..RaftMessage::default() })
    }

    fn reports(queue: &Queue) -> Vec<LinkReport> {
        queue.reports().collect()
    }

    #[test]
    fn a_full_queue_loses_its_oldest_raft_frame_and_says_so() {
        let queue = Queue::default();
        let request = PeerFrame::Forward { token: 1, request: Request::Status };
        queue.push(request.clone());
        for index in 0..=FRAMES as u64 {
            queue.push(raft(index));
        }
        assert_eq!(queue.len(), FRAMES);
        assert_eq!(queue.take(), Some(request));
        assert_eq!(queue.take(), Some(raft(2)));
        assert_eq!(reports(&queue), [LinkReport::FramesLost]);
        assert_eq!(reports(&queue), []);
    }

    #[test]
    fn requests_do_not_fill_the_queue_without_end() {
        let queue = Queue::default();
        for token in 0..2 * FRAMES as u64 {
            queue.push(PeerFrame::Forward { token, request: Request::Status });
        }
        assert_eq!(queue.len(), FRAMES);
    }

    #[test]
    fn large_frames_fill_the_queue_by_their_bytes() {
        let queue = Queue::default();
        for _ in 0..4 {
            queue.push(entry(BYTES / 3));
        }
        assert_eq!(queue.len(), 2);
        queue.push(entry(2 * BYTES));
        assert_eq!(queue.len(), 1, "a frame that is too large for the queue waits alone");
        queue.push(raft(1));
        assert_eq!(queue.take(), Some(raft(1)));
        assert_eq!(lock(&queue.inner).bytes, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_waited_too_long_is_not_sent_any_more() {
        let queue = Queue::default();
        queue.push(raft(1));
        tokio::time::advance(AGE + Duration::from_millis(1)).await;
        queue.push(raft(2));
        assert_eq!(queue.next().await, raft(2));
        assert_eq!(reports(&queue), [LinkReport::FramesLost]);
    }

    #[test]
    fn the_fate_of_a_snapshot_is_reported() {
        let queue = Arc::new(Queue::default());
        let batch = |frame: &PeerFrame| {
            let mut batch = Batch::new(Arc::clone(&queue));
            batch.add(frame);
            batch
        };
        batch(&snapshot()).sent();
        assert_eq!(reports(&queue), [LinkReport::SnapshotSent]);
        drop(batch(&snapshot()));
        assert_eq!(reports(&queue), [LinkReport::FramesLost, LinkReport::SnapshotLost]);
        batch(&raft(1)).sent();
        assert_eq!(reports(&queue), []);
        queue.push(snapshot());
        for index in 0..FRAMES as u64 {
            queue.push(raft(index));
        }
        assert_eq!(reports(&queue), [LinkReport::FramesLost, LinkReport::SnapshotLost]);
    }

    #[tokio::test]
    async fn waiting_ends_when_a_frame_comes() {
        let queue = Queue::default();
        let mut next = Box::pin(queue.next());
        assert!(futures::poll!(&mut next).is_pending());
        queue.push(raft(1));
        assert_eq!(next.await, raft(1));
    }
}
