//! Buffers to read into. They belong to threads, not to connections: a connection that waits for its client has none, and
//! ten thousand of them need no memory for what they might be sent.

use bytes::BytesMut;
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::Poll;
use tokio::io::{AsyncRead, AsyncReadExt};

/// How much is read at once: a whole block of message data.
const BUFFER_OCTETS: usize = crate::cell::limits::BLOCK_OCTETS_MAX;

/// Buffers that a thread keeps.
const BUFFERS_MAX: usize = 16;

thread_local! {
    static BUFFERS: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

fn take() -> BytesMut {
    BUFFERS.with_borrow_mut(Vec::pop).unwrap_or_else(|| BytesMut::with_capacity(BUFFER_OCTETS))
}

/// Gives a buffer back; whatever else has memory of its own frees it.
fn give(mut buffer: BytesMut) {
    buffer.clear();
    // The room in front of what was consumed comes back by this, without a copy.
    if buffer.try_reclaim(BUFFER_OCTETS) {
        BUFFERS.with_borrow_mut(|buffers| {
            if buffers.len() < BUFFERS_MAX {
                buffers.push(buffer);
            }
        });
    }
}

/// Reads what there is behind what `input` holds. Meanwhile that takes no more memory than it has octets.
///
/// # Errors
/// Of the stream.
pub async fn read<S: AsyncRead + Unpin>(stream: &mut S, input: &mut BytesMut) -> io::Result<usize> {
    poll_fn(|context| {
        let mut buffer = take();
        buffer.extend_from_slice(input);
        match pin!(stream.read_buf(&mut buffer)).poll(context) {
            Poll::Ready(read) => {
                give(std::mem::replace(input, buffer));
                Poll::Ready(read)
            }
            Poll::Pending => {
                give(buffer);
                if input.try_reclaim(BUFFER_OCTETS.saturating_sub(input.len())) {
                    give(std::mem::replace(input, BytesMut::from(&input[..])));
                }
                Poll::Pending
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn whoever_waits_has_no_buffer() {
        let (mut client, mut server) = tokio::io::duplex(1 << 20);
        let mut input = BytesMut::new();
        for part in ["MAIL", " FROM:<>\r\nRC"] {
            client.write_all(part.as_bytes()).await.unwrap();
            read(&mut server, &mut input).await.unwrap();
        }
        assert_eq!(input, "MAIL FROM:<>\r\nRC");
        let _ = input.split_to(14);
        let waiting = tokio::time::timeout(std::time::Duration::from_millis(1), read(&mut server, &mut input));
        assert!(waiting.await.is_err());
        assert_eq!(input, "RC");
        assert!(input.capacity() < 100, "{}", input.capacity());
        client.write_all(b"PT").await.unwrap();
        read(&mut server, &mut input).await.unwrap();
        assert_eq!(input, "RCPT");
        drop(client);
        assert_eq!(read(&mut server, &mut input).await.unwrap(), 0);
        assert_eq!(input, "RCPT");
    }
}
