//! Messages as bytes: a length, a checksum where nothing else would notice damage, and the message in postcard's form.

use bytes::{Buf as _, BytesMut};
use dcs_core::Deadline;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::error::TransportError;

/// The largest frame while nobody knows yet who the other side is.
pub(super) const STRANGER_LIMIT: usize = 64 << 10;
/// The largest frame afterwards.
pub(super) const LIMIT: usize = 64 << 20;

/// Space for a large frame is made as its bytes arrive, so that a length alone costs nothing.
const CHUNK: usize = 64 << 10;
/// A buffer that one large frame left behind is not kept for the small ones.
const KEPT: usize = 1 << 20;
const LENGTH: usize = 4;
const CHECKSUM: usize = 4;

/// Puts a frame behind what is in `out`. Nothing is put there if it fails.
pub(super) fn encode<T: Serialize>(message: &T, checksummed: bool, out: &mut Vec<u8>) -> Result<(), TransportError> {
    let body = postcard::to_stdvec(message).map_err(TransportError::Malformed)?;
    let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= LIMIT);
    let Some(length) = length else { return Err(TransportError::TooLarge { size: body.len(), limit: LIMIT }) };
    out.extend_from_slice(&length.to_be_bytes());
    if checksummed {
        out.extend_from_slice(&crc32fast::hash(&body).to_be_bytes());
    }
    out.extend_from_slice(&body);
    Ok(())
}

/// Reads frames.
#[derive(Debug)]
pub(super) struct FrameReader<R> {
    io: R,
    buffer: BytesMut,
    limit: usize,
    checksummed: bool,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads from a stranger.
    pub(super) fn new(io: R, checksummed: bool) -> Self {
        Self { io, buffer: BytesMut::new(), limit: STRANGER_LIMIT, checksummed }
    }

    /// The other side is no stranger any more.
    pub(super) fn allow_large(&mut self) {
        self.limit = LIMIT;
    }

    /// The next message. Waits for it as long as it takes.
    ///
    /// # Cancel safety
    ///
    /// What was read so far is kept for the next call.
    pub(super) async fn next<T: DeserializeOwned>(&mut self) -> Result<T, TransportError> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(message);
            }
            self.buffer.reserve(CHUNK);
            let read = self.io.read_buf(&mut self.buffer).await.map_err(TransportError::from_io)?;
            if read == 0 {
                return Err(TransportError::Closed);
            }
        }
    }

    fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>, TransportError> {
        let Some(length) = self.buffer.first_chunk::<LENGTH>() else { return Ok(None) };
        let size = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if size > self.limit {
            return Err(TransportError::TooLarge { size, limit: self.limit });
        }
        let header = if self.checksummed { LENGTH + CHECKSUM } else { LENGTH };
        if self.buffer.len() < header + size {
            return Ok(None);
        }
        let mut frame = self.buffer.split_to(header + size);
        if self.buffer.is_empty() && frame.len() > KEPT {
            self.buffer = BytesMut::new();
        }
        frame.advance(LENGTH);
        if self.checksummed && frame.get_u32() != crc32fast::hash(&frame) {
            return Err(TransportError::Damaged);
        }
        match postcard::take_from_bytes(&frame) {
            Ok((message, [])) => Ok(Some(message)),
            Ok(_) => Err(TransportError::Malformed(postcard::Error::DeserializeBadEncoding)),
            Err(error) => Err(TransportError::Malformed(error)),
        }
    }
}

/// Writes frames.
#[derive(Debug)]
pub(super) struct FrameWriter<W> {
    io: W,
    checksummed: bool,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    /// Writes to the other side.
    pub(super) const fn new(io: W, checksummed: bool) -> Self {
        Self { io, checksummed }
    }

    /// Whether [`encode`] is to add checksums.
    pub(super) const fn is_checksummed(&self) -> bool {
        self.checksummed
    }

    /// Writes one message.
    ///
    /// # Cancel safety
    ///
    /// None: the connection cannot be used any more.
    pub(super) async fn send<T: Serialize>(&mut self, message: &T, deadline: Deadline) -> Result<(), TransportError> {
        let mut bytes = Vec::new();
        encode(message, self.checksummed, &mut bytes)?;
        self.send_encoded(&bytes, deadline).await
    }

    /// Writes what [`encode`] made.
    ///
    /// # Cancel safety
    ///
    /// None: the connection cannot be used any more.
    pub(super) async fn send_encoded(&mut self, bytes: &[u8], deadline: Deadline) -> Result<(), TransportError> {
        let write = async {
            self.io.write_all(bytes).await?;
            self.io.flush().await
        };
        deadline.bound("send to the other side", write).await?.map_err(TransportError::from_io)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn encoded(messages: &[Vec<u8>], checksummed: bool) -> Vec<u8> {
        let mut out = Vec::new();
        for message in messages {
            encode(message, checksummed, &mut out).unwrap();
        }
        out
    }

    async fn read_all(bytes: &[u8], checksummed: bool) -> (Vec<Vec<u8>>, TransportError) {
        let mut reader = FrameReader::new(bytes, checksummed);
        let mut messages = Vec::new();
        loop {
            match reader.next().await {
                Ok(message) => messages.push(message),
                Err(error) => return (messages, error),
            }
        }
    }

    fn run<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_and_nothing_else(
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..8),
            checksummed: bool,
        ) {
            let (read, end) = run(read_all(&encoded(&messages, checksummed), checksummed));
            prop_assert_eq!(read, messages);
            prop_assert!(matches!(end, TransportError::Closed));
        }

        #[test]
        fn a_changed_byte_is_noticed_where_there_is_a_checksum(
            message in proptest::collection::vec(any::<u8>(), 1..200),
            place: prop::sample::Index,
            change in 1_u8..,
        ) {
            let mut bytes = encoded(std::slice::from_ref(&message), true);
            let place = place.index(bytes.len());
            bytes[place] ^= change;
            let (read, _) = run(read_all(&bytes, true));
            prop_assert!(read.is_empty(), "{:?}", read);
        }

        #[test]
        fn garbage_is_an_error_and_no_more(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            run(read_all(&bytes, false));
        }
    }

    #[tokio::test]
    async fn a_frame_that_is_too_large_is_refused_by_its_length_alone() {
        for (allowed, limit) in [(false, STRANGER_LIMIT), (true, LIMIT)] {
            let length = u32::try_from(limit).unwrap() + 1;
            let bytes = length.to_be_bytes();
            let mut reader = FrameReader::new(&bytes[..], false);
            if allowed {
                reader.allow_large();
            }
            let error = reader.next::<Vec<u8>>().await.unwrap_err();
            assert!(matches!(error, TransportError::TooLarge { limit: said, .. } if said == limit), "{error}");
            assert!(reader.buffer.capacity() <= 2 * CHUNK);
        }
    }

    #[test]
    fn what_the_other_side_would_refuse_is_not_sent() {
        let mut out = vec![7];
        let error = encode(&vec![0_u8; LIMIT], false, &mut out).unwrap_err();
        assert!(matches!(error, TransportError::TooLarge { .. }), "{error}");
        assert_eq!(out, [7]);
    }

    #[tokio::test]
    async fn a_read_that_was_given_up_loses_nothing() {
        let (near, far) = tokio::io::duplex(1024);
        let mut reader = FrameReader::new(near, true);
        let mut writer = FrameWriter::new(far, true);
        let message = vec![1_u8; 100];
        let bytes = encoded(std::slice::from_ref(&message), true);
        let soon = || Deadline::after(Duration::from_secs(10));
        for part in bytes.chunks(7) {
            assert!(futures::poll!(Box::pin(reader.next::<Vec<u8>>())).is_pending());
            writer.send_encoded(part, soon()).await.unwrap();
        }
        assert_eq!(reader.next::<Vec<u8>>().await.unwrap(), message);
    }
}
