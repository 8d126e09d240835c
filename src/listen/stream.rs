//! An established TLS connection as Pingora reads and writes it.
//!
//! What is written is gathered and becomes TLS records when it is flushed, so a response's
//! header and body leave as one record and one `send`.

use std::fmt;
use std::io;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use boring::ssl::{ErrorCode, SslStream};
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Edge;
use super::connection::{Connection, Cut};
use super::transport::{OUTBOX_BYTES, Transport};

/// The plaintext of one TLS record (RFC 8446 §5.1).
const RECORD_BYTES: usize = 16 * 1024;
/// A peer that is behind must take this much ...
const WRITE_PROGRESS_BYTES: usize = 64 * 1024;
/// ... in this time, or all that waits for it.
const WRITE_PROGRESS_TIME: Duration = Duration::from_secs(30);
/// How long a closed connection is read, so that a reset does not destroy the last answer.
const LINGER_TIME: Duration = Duration::from_millis(500);
const LINGER_BYTES: usize = 256 * 1024;

/// A device's TLS connection.
pub struct DeviceStream {
    tls: SslStream<Transport>,
    edge: Arc<Edge>,
    digest: Option<Arc<ProxyDigest>>,
    h2: bool,
    gathered: Vec<u8>,
    behind: Option<usize>,
    header: HeaderBudget,
}

/// Bytes that may still come before the current request's header is complete.
struct HeaderBudget {
    request: u64,
    left: usize,
}

impl DeviceStream {
    /// `digest` carries the connection to the request phases, where there are some.
    pub fn new(
        edge: Arc<Edge>,
        tls: SslStream<Transport>,
        digest: Option<Arc<ProxyDigest>>,
        h2: bool,
    ) -> DeviceStream {
        DeviceStream {
            tls,
            edge,
            digest,
            h2,
            gathered: Vec::new(),
            behind: None,
            header: HeaderBudget { request: 0, left: usize::MAX },
        }
    }

    pub fn connection(&self) -> &Arc<Connection> {
        self.tls.get_ref().connection()
    }

    /// The next request's header may bring up to `bytes` before it is complete.
    pub fn expect_header(&mut self, bytes: usize) {
        self.header = HeaderBudget { request: self.connection().requests(), left: bytes };
    }

    /// Ready once the peer has sent something or closed; sends what is left before waiting.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        if self.tls.ssl().pending() > 0 {
            return Poll::Ready(Ok(()));
        }
        self.tls.get_ref().poll_readable(cx)
    }

    /// Fills `buf` with what has arrived, as far as it goes.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut filled = 0;
        while let Some(rest) = buf.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let mut rest = ReadBuf::new(rest);
            match Pin::new(&mut *self).poll_read(cx, &mut rest) {
                Poll::Pending if filled == 0 => return Poll::Pending,
                Poll::Ready(Err(error)) if filled == 0 => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) if !rest.filled().is_empty() => filled += rest.filled().len(),
                // The end, or a fault, is found again by the next call.
                _ => break,
            }
        }
        Poll::Ready(Ok(filled))
    }

    /// Encrypts `bytes`; they leave with the next [`DeviceStream::poll_send`].
    pub fn encrypt(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let n = write_record(&mut self.tls, rest)?;
            rest = rest.get(n..).unwrap_or_default();
        }
        Ok(())
    }

    /// Ciphertext that waits to be sent.
    pub fn unsent(&self) -> usize {
        self.tls.get_ref().unsent()
    }

    pub fn tls_version(&self) -> &'static str {
        self.tls.ssl().version_str()
    }

    pub fn tcp(&self) -> &tokio::net::TcpStream {
        self.tls.get_ref().tcp()
    }

    fn count(&mut self, n: usize) -> Poll<io::Result<()>> {
        let connection = self.tls.get_ref().connection();
        connection.received(n);
        if connection.requests() == self.header.request {
            match self.header.left.checked_sub(n) {
                Some(left) => self.header.left = left,
                None => {
                    connection.mark(Cut::HeaderTooLarge);
                    let error = io::Error::new(io::ErrorKind::InvalidData, "header too large");
                    return Poll::Ready(Err(error));
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Encrypts what is gathered.
    fn seal(&mut self) -> io::Result<()> {
        let mut rest = self.gathered.as_slice();
        while !rest.is_empty() {
            let n = write_record(&mut self.tls, rest)?;
            rest = rest.get(n..).unwrap_or_default();
        }
        // A kept buffer would cost each idle connection its size.
        self.gathered = Vec::new();
        Ok(())
    }

    /// Sends what is encrypted, and holds a peer that does not take it to its deadline.
    pub fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut sent = 0;
        let result = self.tls.get_mut().poll_send(cx, &mut sent);
        let connection = self.tls.get_ref().connection();
        if result.is_pending() {
            let progress = self.behind.map(|before| before + sent);
            if progress.is_none_or(|bytes| bytes >= WRITE_PROGRESS_BYTES) {
                connection.write_until(self.edge.connections.after(WRITE_PROGRESS_TIME));
                self.behind = Some(0);
            } else {
                self.behind = progress;
            }
        } else if self.behind.take().is_some() {
            connection.write_until(0);
        }
        result
    }
}

fn write_record(tls: &mut SslStream<Transport>, bytes: &[u8]) -> io::Result<usize> {
    let record = bytes.get(..RECORD_BYTES).unwrap_or(bytes);
    tls.ssl_write(record).map_err(|error| error.into_io_error().unwrap_or_else(io::Error::other))
}

impl AsyncRead for DeviceStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.tls.get_mut().poll_for(cx);
        // `ReadBuf` wants initialised bytes; Pingora's buffers are small and reused.
        let unfilled = buf.initialize_unfilled();
        match this.tls.ssl_read(unfilled) {
            Ok(n) => {
                buf.advance(n);
                this.count(n)
            }
            Err(error) => match error.code() {
                ErrorCode::WANT_READ | ErrorCode::WANT_WRITE => {
                    // About to wait for the peer: what TLS itself has to say leaves now.
                    match this.poll_send(cx) {
                        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                        _ => Poll::Pending,
                    }
                }
                ErrorCode::ZERO_RETURN => Poll::Ready(Ok(())),
                _ => {
                    // Pingora drops the stream now: the alert leaves here or never.
                    let _ = this.poll_send(cx);
                    Poll::Ready(Err(error.into_io_error().unwrap_or_else(io::Error::other)))
                }
            },
        }
    }
}

impl AsyncWrite for DeviceStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.tls.get_ref().unsent() >= OUTBOX_BYTES {
            ready!(this.poll_send(cx))?;
        }
        if this.gathered.is_empty() && buf.len() >= RECORD_BYTES {
            return Poll::Ready(write_record(&mut this.tls, buf));
        }
        let n = buf.len().min(RECORD_BYTES - this.gathered.len());
        this.gathered.extend_from_slice(buf.get(..n).unwrap_or_default());
        if this.gathered.len() == RECORD_BYTES {
            this.seal()?;
        }
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.seal()?;
        this.poll_send(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.seal()?;
        // Queues close_notify once; a second call finds it sent.
        let _ = this.tls.shutdown();
        ready!(this.poll_send(cx))?;
        let socket = socket2::SockRef::from(this.tls.get_ref().tcp());
        Poll::Ready(socket.shutdown(std::net::Shutdown::Write))
    }
}

#[async_trait]
impl Shutdown for DeviceStream {
    /// Sends what is left and `close_notify`, then reads on for a moment: closing a socket
    /// with unread bytes would reset the connection and destroy what was just sent.
    async fn shutdown(&mut self) {
        close(&mut self.tls, &mut self.gathered).await;
    }
}

/// Closes a TLS connection in an orderly way, within [`LINGER_TIME`].
pub async fn close(tls: &mut SslStream<Transport>, gathered: &mut Vec<u8>) {
    for record in std::mem::take(gathered).chunks(RECORD_BYTES) {
        if write_record(tls, record).is_err() {
            return;
        }
    }
    let _ = tls.shutdown();
    finish(tls.get_mut()).await;
}

/// Sends what waits, ends the sending side and reads until the peer has closed too.
pub async fn finish(transport: &mut Transport) {
    let _ = tokio::time::timeout(LINGER_TIME, async {
        let mut sent = 0;
        std::future::poll_fn(|cx| transport.poll_send(cx, &mut sent)).await?;
        socket2::SockRef::from(transport.tcp()).shutdown(std::net::Shutdown::Write)?;
        let (mut scratch, mut total) = ([0; 2048], 0);
        while total < LINGER_BYTES {
            transport.tcp().readable().await?;
            match transport.tcp().try_read(&mut scratch) {
                Ok(0) => break,
                Ok(n) => total += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok::<(), io::Error>(())
    })
    .await;
}

impl UniqueID for DeviceStream {
    fn id(&self) -> UniqueIDType {
        self.tls.get_ref().tcp().as_raw_fd()
    }
}

impl Ssl for DeviceStream {
    fn selected_alpn_proto(&self) -> Option<ALPN> {
        Some(if self.h2 { ALPN::H2 } else { ALPN::H1 })
    }
}

impl GetTimingDigest for DeviceStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for DeviceStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.digest.clone()
    }
}

impl GetSocketDigest for DeviceStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }
}

impl Peek for DeviceStream {}

impl fmt::Debug for DeviceStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceStream({})", self.connection().id())
    }
}
