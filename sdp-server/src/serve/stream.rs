//! A connection's TCP stream that a handler can still reach after it has been given to hyper, or to TLS. It holds the
//! connection's places among those that there may be at once, for as long as it is open, whatever it has become: a WebSocket, too.
//!
//! A viewer that stops reading fills the system's send buffer, and then nothing can be said to it, not even where to go on. So
//! its buffer is kept small ([`Socket::keep_room`]), which is also what a stalled viewer costs the system, and is made larger
//! for the last words ([`Socket::use_room`]). Where the system's limit (`net.core.wmem_max`) leaves no difference between the
//! two, a stalled viewer may not hear them; it goes on after the last line that it has.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::Places;

/// What a viewer's send buffer holds; the system doubles it for its own book-keeping.
const VIEWERS: usize = 64 * 1024;
/// For the rest of a frame and the last words; the system's limit may be lower.
const LAST_WORDS: usize = 1024 * 1024;

/// The stream, for hyper.
#[derive(Debug)]
pub(crate) struct Stream(Arc<Open>);

/// The same stream, in a request's extensions.
#[derive(Clone, Debug)]
pub(crate) struct Socket(Arc<Open>);

#[derive(Debug)]
struct Open {
    stream: TcpStream,
    _places: Places,
}

/// Both ends of the same stream.
pub(super) fn share(stream: TcpStream, places: Places) -> (Stream, Socket) {
    let open = Arc::new(Open { stream, _places: places });
    (Stream(open.clone()), Socket(open))
}

impl Socket {
    /// Keeps the send buffer small.
    pub(crate) fn keep_room(&self) {
        self.set_send_buffer(VIEWERS);
    }

    /// Lets in what is to be said at last, though the other side does not read.
    pub(crate) fn use_room(&self) {
        self.set_send_buffer(LAST_WORDS);
    }

    fn set_send_buffer(&self, bytes: usize) {
        if let Err(error) = SockRef::from(&self.0.stream).set_send_buffer_size(bytes) {
            tracing::debug!(%error, "the size of a send buffer could not be set");
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.stream.poll_read_ready(cx))?;
            match self.0.stream.try_read(buf.initialize_unfilled()) {
                Ok(read) => {
                    buf.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl Stream {
    fn poll_writing(
        &self,
        cx: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.stream.poll_write_ready(cx))?;
            match write(&self.0.stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_writing(cx, |stream| stream.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_writing(cx, |stream| stream.try_write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(&self.0.stream).shutdown(std::net::Shutdown::Write))
    }
}
