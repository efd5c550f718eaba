//! Where the octets of a message are while it arrives: in memory up to a bound, then in an unlinked file under a quota
//! that all sessions share.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The bounds, and what is used of them.
#[derive(Debug)]
pub struct Spool {
    directory: PathBuf,
    memory_octets_max: usize,
    file_octets_max: u64,
    file_octets: AtomicU64,
}

impl Spool {
    /// `memory_octets_max` counts for each message, `file_octets_max` for all files together.
    pub fn new(directory: PathBuf, memory_octets_max: usize, file_octets_max: u64) -> Arc<Spool> {
        Arc::new(Spool { directory, memory_octets_max, file_octets_max, file_octets: AtomicU64::new(0) })
    }

    /// Octets in files now.
    pub fn file_octets(&self) -> u64 {
        self.file_octets.load(Ordering::Relaxed)
    }

    fn reserve(&self, octets: u64) -> io::Result<()> {
        let reserve = |used: u64| used.checked_add(octets).filter(|used| *used <= self.file_octets_max);
        match self.file_octets.try_update(Ordering::Relaxed, Ordering::Relaxed, reserve) {
            Ok(_) => Ok(()),
            Err(_) => Err(io::Error::new(io::ErrorKind::QuotaExceeded, "the spool is full")),
        }
    }
}

/// A message as far as it has arrived.
#[derive(Debug)]
pub struct Held {
    spool: Arc<Spool>,
    memory: Vec<u8>,
    file: Option<File>,
    file_octets: u64,
    /// Why octets could not be held, since the message began.
    failure: Option<io::Error>,
}

impl Held {
    /// Nothing, so far.
    pub fn new(spool: Arc<Spool>) -> Held {
        Held { spool, memory: Vec::new(), file: None, file_octets: 0, failure: None }
    }

    /// Octets held.
    pub fn octets(&self) -> u64 {
        self.file_octets + self.memory.len() as u64
    }

    /// Adds octets. A failure is kept and given by [`Held::take`]; the octets of a message that failed are let go.
    pub fn append(&mut self, octets: &[u8]) {
        if self.failure.is_some() {
            return;
        }
        if self.file.is_none() && self.memory.len() + octets.len() <= self.spool.memory_octets_max {
            self.memory.extend_from_slice(octets);
        } else if let Err(error) = tokio::task::block_in_place(|| self.append_to_file(octets)) {
            self.clear();
            self.failure = Some(error);
        }
    }

    fn append_to_file(&mut self, octets: &[u8]) -> io::Result<()> {
        let memory = std::mem::take(&mut self.memory);
        let added = (memory.len() + octets.len()) as u64;
        self.spool.reserve(added)?;
        self.file_octets += added;
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(tempfile::tempfile_in(&self.spool.directory)?),
        };
        file.write_all(&memory)?;
        file.write_all(octets)
    }

    /// Lets everything go.
    pub fn clear(&mut self) {
        *self = Held::new(self.spool.clone());
    }

    /// Gives the message in two parts, header section and body, and holds nothing any more.
    ///
    /// # Errors
    /// When an octet could not be held, or cannot be read again.
    pub fn take(&mut self, header_octets: usize) -> io::Result<(Vec<u8>, Vec<u8>)> {
        let taken = self.read(header_octets);
        self.clear();
        taken
    }

    fn read(&mut self, header_octets: usize) -> io::Result<(Vec<u8>, Vec<u8>)> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let Some(file) = &mut self.file else {
            let mut headers = std::mem::take(&mut self.memory);
            let body = headers.split_off(header_octets);
            return Ok((headers, body));
        };
        tokio::task::block_in_place(|| {
            file.rewind()?;
            let mut headers = vec![0; header_octets];
            file.read_exact(&mut headers)?;
            let mut body = vec![0; self.file_octets as usize - header_octets];
            file.read_exact(&mut body)?;
            Ok((headers, body))
        })
    }
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
        Spool::new(std::env::temp_dir(), 8, 20)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_message_moves_to_a_file_and_comes_back_whole() {
        let spool = spool();
        let mut held = Held::new(spool.clone());
        for block in [&b"12345678"[..], b"9", b"abc"] {
            held.append(block);
        }
        assert_eq!((held.octets(), spool.file_octets()), (12, 12));
        assert_eq!(held.take(2).unwrap(), (b"12".to_vec(), b"3456789abc".to_vec()));
        assert_eq!((held.octets(), spool.file_octets()), (0, 0));
        held.append(b"xy");
        assert_eq!(held.take(2).unwrap(), (b"xy".to_vec(), Vec::new()));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_quota_is_shared_and_given_back() {
        let spool = spool();
        let (mut one, mut other) = (Held::new(spool.clone()), Held::new(spool.clone()));
        one.append(&[b'x'; 15]);
        other.append(&[b'x'; 15]);
        other.append(b"later");
        assert_eq!(other.take(0).unwrap_err().kind(), io::ErrorKind::QuotaExceeded);
        assert_eq!(spool.file_octets(), 15);
        drop(one);
        assert_eq!(spool.file_octets(), 0);
        other.append(&[b'x'; 15]);
        assert_eq!(other.take(0).unwrap().1.len(), 15);
    }
}
