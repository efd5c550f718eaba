//! Where the octets of a message are while it arrives: in memory up to a bound, then in an unlinked file under quotas of octets
//! and of files that all sessions share.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The bounds, and what is used of them.
#[derive(Debug)]
pub struct Spool {
    directory: PathBuf,
    memory_octets_max: usize,
    file_octets_max: u64,
    file_octets: AtomicU64,
    files: Arc<Semaphore>,
}

impl Spool {
    /// `memory_octets_max` counts for each message, `file_octets_max` for all files together, of which there are at most `files_max`.
    ///
    /// # Errors
    /// When there can be no file in that directory.
    pub fn open(
        directory: PathBuf,
        memory_octets_max: usize,
        file_octets_max: u64,
        files_max: u32,
    ) -> io::Result<Arc<Spool>> {
        tempfile::tempfile_in(&directory)?;
        let (file_octets, files) = (AtomicU64::new(0), Arc::new(Semaphore::new(files_max as usize)));
        Ok(Arc::new(Spool { directory, memory_octets_max, file_octets_max, file_octets, files }))
    }

    /// Octets in files now.
    pub fn file_octets(&self) -> u64 {
        self.file_octets.load(Ordering::Relaxed)
    }

    fn reserve(&self, octets: u64) -> io::Result<()> {
        let reserve = |used: u64| used.checked_add(octets).filter(|used| *used <= self.file_octets_max);
        match self.file_octets.try_update(Ordering::Relaxed, Ordering::Relaxed, reserve) {
            Ok(_) => Ok(()),
            Err(_) => Err(exceeded("the spool is full")),
        }
    }

    fn place(&self) -> io::Result<OwnedSemaphorePermit> {
        self.files.clone().try_acquire_owned().map_err(|_| exceeded("there are as many spool files as there may be"))
    }
}

fn exceeded(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::QuotaExceeded, what)
}

/// A message as far as it has arrived.
#[derive(Debug)]
pub struct Held {
    spool: Arc<Spool>,
    memory: Vec<u8>,
    file: Option<File>,
    /// Of the file.
    place: Option<OwnedSemaphorePermit>,
    file_octets: u64,
    /// Why octets could not be held, since the message began.
    failure: Option<io::Error>,
}

impl Held {
    /// Nothing, so far.
    pub fn new(spool: Arc<Spool>) -> Held {
        Held { spool, memory: Vec::new(), file: None, place: None, file_octets: 0, failure: None }
    }

    /// Octets held.
    pub fn octets(&self) -> u64 {
        self.file_octets + self.memory.len() as u64
    }

    /// Adds octets, which are in memory until [`Held::settle`]: the bound, and at most what one step appends beyond it.
    pub fn append(&mut self, octets: &[u8]) {
        if self.failure.is_none() {
            self.memory.extend_from_slice(octets);
        }
    }

    /// Whether more is in memory than may stay there.
    pub fn is_over(&self) -> bool {
        self.memory.len() > self.spool.memory_octets_max
    }

    /// Moves what is in memory to the file. A failure is kept and given by [`Held::take`]; the octets of a message that failed
    /// are let go.
    pub async fn settle(&mut self) {
        if let Err(error) = self.move_to_file().await {
            self.clear();
            self.failure = Some(error);
        }
    }

    async fn move_to_file(&mut self) -> io::Result<()> {
        if self.place.is_none() {
            self.place = Some(self.spool.place()?);
        }
        self.spool.reserve(self.memory.len() as u64)?;
        self.file_octets += self.memory.len() as u64;
        let (mut memory, file, spool) = (std::mem::take(&mut self.memory), self.file.take(), self.spool.clone());
        let written = blocking(move || {
            let mut file = file.map_or_else(|| tempfile::tempfile_in(&spool.directory), Ok)?;
            file.write_all(&memory)?;
            memory.clear();
            Ok((memory, file))
        });
        let (memory, file) = written.await?;
        (self.memory, self.file) = (memory, Some(file));
        Ok(())
    }

    /// Lets everything go.
    pub fn clear(&mut self) {
        *self = Held::new(self.spool.clone());
    }

    /// Gives the message in two parts, header section and body, and holds nothing any more.
    ///
    /// # Errors
    /// When an octet could not be held, or cannot be read again.
    pub async fn take(&mut self, header_octets: usize) -> io::Result<(Vec<u8>, Vec<u8>)> {
        let taken = self.read(header_octets).await;
        self.clear();
        taken
    }

    /// Lets everything go, as [`Held::take`] does, and reads nothing.
    ///
    /// # Errors
    /// When an octet could not be held.
    pub fn finish(&mut self) -> io::Result<()> {
        let failure = self.failure.take();
        self.clear();
        failure.map_or(Ok(()), Err)
    }

    async fn read(&mut self, header_octets: usize) -> io::Result<(Vec<u8>, Vec<u8>)> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        if self.file.is_none() {
            let mut headers = std::mem::take(&mut self.memory);
            let body = headers.split_off(header_octets);
            return Ok((headers, body));
        }
        self.move_to_file().await?;
        let (file, octets) = (self.file.take(), self.file_octets as usize);
        blocking(move || {
            let mut file = file.ok_or(io::ErrorKind::NotFound)?;
            file.rewind()?;
            let mut headers = vec![0; header_octets];
            file.read_exact(&mut headers)?;
            let mut body = vec![0; octets - header_octets];
            file.read_exact(&mut body)?;
            Ok((headers, body))
        })
        .await
    }
}

/// Files may block, and a thread that serves sessions may not.
async fn blocking<T: Send + 'static>(act: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(act).await.unwrap_or_else(|panic| Err(io::Error::other(panic)))
}

impl Drop for Held {
    fn drop(&mut self) {
        self.spool.file_octets.fetch_sub(self.file_octets, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spool() -> Arc<Spool> {
        Spool::open(std::env::temp_dir(), 8, 20, 2).unwrap()
    }

    async fn hold(held: &mut Held, octets: &[u8]) {
        held.append(octets);
        if held.is_over() {
            held.settle().await;
        }
    }

    #[tokio::test]
    async fn a_message_moves_to_a_file_and_comes_back_whole() {
        let spool = spool();
        let mut held = Held::new(spool.clone());
        for block in [&b"12345678"[..], b"9", b"abc"] {
            hold(&mut held, block).await;
        }
        assert_eq!((held.octets(), spool.file_octets()), (12, 9));
        assert_eq!(held.take(2).await.unwrap(), (b"12".to_vec(), b"3456789abc".to_vec()));
        assert_eq!((held.octets(), spool.file_octets()), (0, 0));
        hold(&mut held, b"xy").await;
        assert_eq!(held.take(2).await.unwrap(), (b"xy".to_vec(), Vec::new()));
    }

    #[tokio::test]
    async fn the_quota_is_shared_and_given_back() {
        let spool = spool();
        let (mut one, mut other) = (Held::new(spool.clone()), Held::new(spool.clone()));
        hold(&mut one, &[b'x'; 15]).await;
        hold(&mut other, &[b'x'; 15]).await;
        hold(&mut other, b"later").await;
        assert_eq!(other.take(0).await.unwrap_err().kind(), io::ErrorKind::QuotaExceeded);
        assert_eq!(spool.file_octets(), 15);
        drop(one);
        assert_eq!(spool.file_octets(), 0);
        hold(&mut other, &[b'x'; 15]).await;
        assert_eq!(other.take(0).await.unwrap().1.len(), 15);
    }

    #[tokio::test]
    async fn there_are_no_more_files_than_there_may_be() {
        let spool = spool();
        let mut held = [(); 3].map(|()| Held::new(spool.clone()));
        for held in &mut held {
            hold(held, b"123456").await;
            assert!(held.failure.is_none(), "no file is needed");
            held.settle().await;
        }
        assert_eq!(held[2].take(0).await.unwrap_err().kind(), io::ErrorKind::QuotaExceeded);
        held[0].clear();
        hold(&mut held[2], b"123456789").await;
        assert_eq!(held[2].take(0).await.unwrap().1, b"123456789");
    }

    #[test]
    fn a_directory_that_takes_no_file_is_an_error() {
        assert!(Spool::open("/nonexistent".into(), 8, 20, 1).is_err());
    }
}
