//! Bytes between a client and the runtime, as they come.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::activity::Activity;
use super::{LAST_WORDS, LINGER};

const BLOCK: usize = 8 << 10;

/// Copies both ways until either side is done, nothing has moved for `idle`, or a side breaks. When the runtime is done,
/// the client gets everything it sent.
pub(crate) async fn pump<C, R>(client: C, runtime: R, idle: Duration)
where
    C: AsyncRead + AsyncWrite,
    R: AsyncRead + AsyncWrite,
{
    let activity = Activity::new();
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (from_runtime, to_runtime) = tokio::io::split(runtime);
    // Cancelled only to be dropped: whichever ends first ends the session, as upstream has it.
    let runtime_done = tokio::select! {
        biased;
        done = copy(from_runtime, &mut to_client, &activity) => done.is_ok(),
        _ = copy(&mut from_client, to_runtime, &activity) => false,
        () = activity.idle(idle) => false,
    };
    if runtime_done {
        let _ = tokio::time::timeout(LAST_WORDS, to_client.shutdown()).await;
        let mut block = [0; 512];
        let drain = async { while let Ok(1..) = from_client.read(&mut block).await {} };
        let _ = tokio::time::timeout(LINGER, drain).await;
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    activity: &Activity,
) -> io::Result<()> {
    let mut block = vec![0; BLOCK];
    loop {
        let read = from.read(&mut block).await?;
        if read == 0 {
            return to.flush().await;
        }
        activity.seen();
        to.write_all(&block[..read]).await?;
        to.flush().await?;
        activity.seen();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::duplex;
    use tokio::time::Instant;

    const DAY: Duration = Duration::from_secs(86_400);

    #[tokio::test(start_paused = true)]
    async fn bytes_go_both_ways_until_the_runtime_is_done() {
        let (mut client, client_side) = duplex(64);
        let (mut runtime, runtime_side) = duplex(64);
        let session = tokio::spawn(pump(client_side, runtime_side, DAY));
        client.write_all(b"in").await.unwrap();
        let mut read = [0; 2];
        runtime.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"in");
        let text = vec![b'x'; 100_000];
        let expected = text.clone();
        let writer = tokio::spawn(async move { runtime.write_all(&text).await });
        let mut all = Vec::new();
        client.read_to_end(&mut all).await.unwrap();
        assert!(all == expected);
        writer.await.unwrap().unwrap();
        drop(client);
        session.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_goes_frees_the_runtime() {
        let (client, client_side) = duplex(64);
        let (mut runtime, runtime_side) = duplex(64);
        let session = tokio::spawn(pump(client_side, runtime_side, DAY));
        drop(client);
        session.await.unwrap();
        assert_eq!(runtime.read(&mut [0; 1]).await.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_session() {
        let start = Instant::now();
        let (_client, client_side) = duplex(64);
        let (mut runtime, runtime_side) = duplex(64);
        let session = tokio::spawn(pump(client_side, runtime_side, Duration::from_secs(100)));
        tokio::time::sleep(Duration::from_secs(60)).await;
        runtime.write_all(b"x").await.unwrap();
        session.await.unwrap();
        assert_eq!(start.elapsed().as_secs(), 160);
        // Nor does it help not to read.
        let (_client, client_side) = duplex(1);
        let (mut runtime, runtime_side) = duplex(64);
        let session = tokio::spawn(pump(client_side, runtime_side, Duration::from_secs(100)));
        runtime.write_all(b"xxx").await.unwrap();
        session.await.unwrap();
    }
}
