//! The last words to a client.

use crate::clock::within;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// How long a client is waited for after a last response that it did not ask for.
pub const LINGER: Duration = Duration::from_secs(2);
/// How many octets of input are dropped behind it.
const DROPPED_OCTETS_MAX: usize = 1 << 20;

/// A 421 that the host says by itself, when there is no core that could.
pub fn farewell(status: &str, name: &str, why: &str) -> String {
    format!("421 {status} {name} {why}; closing connection\r\n")
}

/// Writes a last response, and closes so that the client can read it: what it sends is read and dropped, as a socket that is
/// closed with unread input is reset. Without time to linger that is what is there already.
pub async fn say_goodbye<S>(stream: &mut S, output: &[u8], write_timeout: Duration, linger: Duration)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let write = async {
        stream.write_all(output).await?;
        stream.shutdown().await
    };
    if !matches!(within(write_timeout, write).await, Some(Ok(()))) {
        return;
    }
    let mut dropped = vec![0; 4 << 10];
    let drop_input = async {
        let mut octets = 0;
        while let Ok(read @ 1..) = stream.read(&mut dropped).await {
            octets += read;
            if octets > DROPPED_OCTETS_MAX {
                break;
            }
        }
    };
    // That the client takes longer is its own loss.
    within(linger, drop_input).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::Poll;

    #[tokio::test]
    async fn a_client_is_waited_for_as_long_as_was_said() {
        for (linger, is_waited_for) in [(Duration::ZERO, false), (LINGER, true)] {
            let (mut client, mut server) = tokio::io::duplex(100);
            client.write_all(b"NOOP\r\n").await.unwrap();
            let mut goodbye = pin!(say_goodbye(&mut server, b"221\r\n", LINGER, linger));
            let first = poll_fn(|context| Poll::Ready(goodbye.as_mut().poll(context))).await;
            assert_eq!(first.is_pending(), is_waited_for);
            let mut response = String::new();
            client.read_to_string(&mut response).await.unwrap();
            assert_eq!(response, "221\r\n");
            drop(client);
            if is_waited_for {
                goodbye.await;
            }
        }
    }
}
