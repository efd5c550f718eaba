//! A connection's octets: in the clear, or under TLS from some point on.

use crate::tls::HANDSHAKE_TIMEOUT;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// A connection.
pub enum Stream<S> {
    /// As it came.
    Clear(S),
    /// Under TLS.
    Secure(Box<TlsStream<S>>),
    /// Lost while TLS was to begin.
    Lost,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream<S> {
    /// Begins TLS.
    ///
    /// # Errors
    /// When the client takes too long or does it wrong; the connection is lost then.
    pub async fn secure(&mut self, acceptor: TlsAcceptor) -> io::Result<()> {
        let Stream::Clear(stream) = std::mem::replace(self, Stream::Lost) else {
            return Err(io::Error::other("there is TLS already"));
        };
        // Of many connections few begin TLS at a time; its state is not to be a part of each.
        let secured = Box::pin(timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream))).await??;
        *self = Stream::Secure(Box::new(secured));
        Ok(())
    }

    /// Whether it is under TLS.
    pub fn is_secure(&self) -> bool {
        matches!(self, Stream::Secure(_))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Clear(stream) => Pin::new(stream).poll_read(context, into),
            Stream::Secure(stream) => Pin::new(stream).poll_read(context, into),
            Stream::Lost => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Clear(stream) => Pin::new(stream).poll_write(context, octets),
            Stream::Secure(stream) => Pin::new(stream).poll_write(context, octets),
            Stream::Lost => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Clear(stream) => Pin::new(stream).poll_flush(context),
            Stream::Secure(stream) => Pin::new(stream).poll_flush(context),
            Stream::Lost => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Clear(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Secure(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Lost => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}
