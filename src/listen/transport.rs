//! The socket under a TLS session, made for few system calls and little memory.
//!
//! BoringSSL reads a record as five bytes and then the rest; here one `recv` brings in all
//! that has arrived. What BoringSSL writes is gathered and leaves in one `send`, when it is
//! flushed or when the edge is about to wait for the peer. Both buffers exist only while
//! they hold bytes, so an idle connection carries none.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::caps::Place;
use super::connection::{Connection, Registered};

/// One record and its header, so that a full record needs one `recv`.
const RECEIVE_BYTES: usize = 16 * 1024 + 256;

/// Ciphertext that may wait before the writer is held back.
pub const OUTBOX_BYTES: usize = 64 * 1024;

thread_local! {
    /// What a `recv` writes into; only what BoringSSL does not take at once is kept.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; RECEIVE_BYTES].into_boxed_slice());
}

/// A TCP socket with the two buffers. BoringSSL sees it through `Read` and `Write`, which
/// never block: they answer `WouldBlock` after having arranged that the task of the last
/// [`Transport::poll_for`] wakes up.
pub struct Transport {
    // Declared first: leaves the register before the socket closes.
    registered: Registered,
    place: Place,
    tcp: TcpStream,
    inbox: Vec<u8>,
    inbox_taken: usize,
    outbox: Vec<u8>,
    outbox_sent: usize,
    waker: Option<Waker>,
}

impl Transport {
    pub fn new(tcp: TcpStream, registered: Registered, place: Place) -> Transport {
        Transport {
            registered,
            place,
            tcp,
            inbox: Vec::new(),
            inbox_taken: 0,
            outbox: Vec::new(),
            outbox_sent: 0,
            waker: None,
        }
    }

    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    pub fn connection(&self) -> &Arc<Connection> {
        self.registered.connection()
    }

    /// What the connection takes of the caps.
    pub fn place(&mut self) -> &mut Place {
        &mut self.place
    }

    /// Says which task the next reads are for.
    pub fn poll_for(&mut self, cx: &Context<'_>) {
        match &mut self.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }

    /// Bytes that wait to be sent.
    pub fn unsent(&self) -> usize {
        self.outbox.len() - self.outbox_sent
    }

    /// Sends what waits. Returns the number of bytes sent by this call through `sent`.
    pub fn poll_send(&mut self, cx: &mut Context<'_>, sent: &mut usize) -> Poll<io::Result<()>> {
        while self.outbox_sent < self.outbox.len() {
            let rest = self.outbox.get(self.outbox_sent..).unwrap_or_default();
            match Pin::new(&mut self.tcp).poll_write(cx, rest) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => {
                    self.outbox_sent += n;
                    *sent += n;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    // A writer that never waits for all of it to be sent must not keep all that
                    // was ever sent.
                    if self.outbox_sent >= OUTBOX_BYTES / 2 {
                        self.outbox.drain(..self.outbox_sent);
                        self.outbox_sent = 0;
                    }
                    return Poll::Pending;
                }
            }
        }
        self.outbox = Vec::new();
        self.outbox_sent = 0;
        Poll::Ready(Ok(()))
    }

    /// Ready as soon as there is a byte, or the end of the stream, to be read.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.inbox_taken < self.inbox.len() {
            return Poll::Ready(Ok(()));
        }
        self.tcp.poll_read_ready(cx)
    }

    /// Receives into the inbox, up to `limit` bytes in all, and returns what it holds. Used
    /// before TLS starts, for the PROXY protocol header.
    pub async fn receive(&mut self, limit: usize) -> io::Result<&[u8]> {
        let room = limit.saturating_sub(self.inbox.len());
        if room > 0 {
            let mut chunk = [0; 512];
            let chunk = &mut chunk[..room.min(512)];
            let n = tokio::io::AsyncReadExt::read(&mut self.tcp, chunk).await?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.inbox.extend_from_slice(chunk.get(..n).unwrap_or_default());
        }
        Ok(&self.inbox)
    }

    /// Drops the first `n` bytes of the inbox.
    pub fn consume(&mut self, n: usize) {
        self.inbox_taken = (self.inbox_taken + n).min(self.inbox.len());
        self.release_inbox();
    }

    fn take_from_inbox(&mut self, buf: &mut [u8]) -> usize {
        let rest = self.inbox.get(self.inbox_taken..).unwrap_or_default();
        let n = rest.len().min(buf.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..n), rest.get(..n)) {
            to.copy_from_slice(from);
        }
        self.inbox_taken += n;
        self.release_inbox();
        n
    }

    fn release_inbox(&mut self) {
        if self.inbox_taken == self.inbox.len() {
            self.inbox = Vec::new();
            self.inbox_taken = 0;
        }
    }
}

impl Read for Transport {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if !self.inbox.is_empty() {
            return Ok(self.take_from_inbox(buf));
        }
        let Some(waker) = &self.waker else { return Err(io::ErrorKind::WouldBlock.into()) };
        let mut cx = Context::from_waker(waker);
        let tcp = Pin::new(&mut self.tcp);
        if buf.len() >= RECEIVE_BYTES {
            let mut direct = ReadBuf::new(buf);
            return match tcp.poll_read(&mut cx, &mut direct) {
                Poll::Ready(result) => result.map(|()| direct.filled().len()),
                Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
            };
        }
        let inbox = &mut self.inbox;
        let received = SCRATCH.with_borrow_mut(|scratch| {
            let mut scratch = ReadBuf::new(scratch);
            match tcp.poll_read(&mut cx, &mut scratch) {
                Poll::Ready(result) => result.map(|()| {
                    let (now, later) =
                        scratch.filled().split_at(scratch.filled().len().min(buf.len()));
                    if let Some(to) = buf.get_mut(..now.len()) {
                        to.copy_from_slice(now);
                    }
                    inbox.extend_from_slice(later);
                    now.len()
                }),
                Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
            }
        })?;
        Ok(received)
    }
}

impl Write for Transport {
    /// Takes everything; the caller bounds it by [`OUTBOX_BYTES`].
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.outbox.extend_from_slice(buf);
        Ok(buf.len())
    }

    /// Nothing to do: sending waits for `poll_send`.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
