//! The last words to a client.

use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// How long, and for how many octets, a client's input is read and dropped after the last response: a socket that is
/// closed with unread input is reset, and the client may never see that response.
const LINGER: (Duration, usize) = (Duration::from_secs(2), 1 << 20);

/// A 421 that the host says by itself, when there is no core that could.
pub fn farewell(status: &str, name: &str, why: &str) -> String {
    format!("421 {status} {name} {why}; closing connection\r\n")
}

/// Writes a last response, and closes so that the client can read it.
pub async fn say_goodbye<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, output: &[u8], wait: Duration) {
    let written = timeout(wait, async {
        stream.write_all(output).await?;
        stream.shutdown().await
    });
    if !matches!(written.await, Ok(Ok(()))) {
        return;
    }
    let (wait, octets_max) = LINGER;
    let mut dropped = vec![0; 4 << 10];
    let drain = async {
        let mut octets = 0;
        while let Ok(read @ 1..) = stream.read(&mut dropped).await {
            octets += read;
            if octets > octets_max {
                break;
            }
        }
    };
    // That the client takes longer is its own loss.
    let _ = timeout(wait, drain).await;
}
