//! How the write-ahead log is written. SQLite writes it page by page, each with two system calls; here the pages gather, and a
//! commit leaves in one piece when SQLite flushes it. All other files are as the system's own VFS has them.
//!
//! **Invariant:** what has gathered belongs to a commit under way, and nobody can miss it: with `synchronous=FULL` SQLite flushes
//! the log before it tells anyone of a commit, and without `cache_spill` it writes nothing before a commit. So nothing is
//! left of a transaction that was rolled back, to be written over what another connection has committed since.
//!
//! Of a commit that could not be flushed the frames may be in the file, and after a crash they would count, though its callers
//! were told that it failed. So its first frame is overwritten: what comes behind an invalid one counts for nothing.

#![allow(unsafe_code, reason = "SQLite calls a VFS by C functions, and keeps its files in memory of its own")]

use rusqlite::ffi::{self, SQLITE_IOERR, SQLITE_OK};
use rusqlite::{Connection, OpenFlags};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::Path;
use std::sync::Once;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::{ptr, slice};

/// The VFS with such logs.
const NAME: &CStr = c"gathering";

/// So much gathers, as the system's VFS writes no more at once. A page has at most 64 KiB.
const GATHERED_OCTETS_MAX: usize = (128 << 10) - 1;

/// What is in front of the page in a frame, in octets. No frame has a salt of zeros and a sum of zeros.
const FRAME_HEADER: [u8; 24] = [0; 24];

/// A log that is open. Behind it in memory lies the file that the system's VFS makes of it.
#[repr(C)]
struct Wal {
    base: ffi::sqlite3_file,
    gathered: Vec<u8>,
    /// Where in the file that belongs.
    start: i64,
    /// Where the commit begins of which something was written, and nothing was flushed since.
    unflushed: Option<i64>,
}

impl Wal {
    fn new(methods: *const ffi::sqlite3_io_methods) -> Wal {
        Wal { base: ffi::sqlite3_file { pMethods: methods }, gathered: Vec::new(), start: 0, unflushed: None }
    }
}

/// The VFS that all this stands in front of.
static SYSTEM: AtomicPtr<ffi::sqlite3_vfs> = AtomicPtr::new(ptr::null_mut());

/// Opens a connection that writes its log so. All pages of a commit are in memory until then.
pub(super) fn open(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(register);
    let connection = Connection::open_with_flags_and_vfs(path, flags, NAME)?;
    connection.pragma_update(None, "cache_spill", false)?;
    Ok(connection)
}

/// Should it fail, SQLite says that there is no such VFS.
fn register() {
    // SAFETY: a registered VFS lives as long as the program, and the system's is never taken out.
    unsafe {
        let system = ffi::sqlite3_vfs_find(ptr::null());
        SYSTEM.store(system, Ordering::Release);
        if let Some(system) = system.as_ref() {
            let file_octets = system.szOsFile + size_of::<Wal>() as c_int;
            let vfs =
                ffi::sqlite3_vfs { szOsFile: file_octets, zName: NAME.as_ptr(), xOpen: Some(open_file), ..*system };
            ffi::sqlite3_vfs_register(Box::leak(Box::new(vfs)), 0);
        }
    }
}

/// `xOpen`: there is room for a [`Wal`] and what the system makes of a file.
unsafe extern "C" fn open_file(
    _vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    unsafe {
        let system = SYSTEM.load(Ordering::Acquire);
        let Some(open) = system.as_ref().and_then(|system| system.xOpen) else { return SQLITE_IOERR };
        if flags & ffi::SQLITE_OPEN_WAL == 0 {
            return open(system, name, file, flags, out_flags);
        }
        let wal = file.cast::<Wal>();
        let code = open(system, name, behind(wal), flags, out_flags);
        // Methods are what SQLite knows an open file by.
        let methods = if (*behind(wal)).pMethods.is_null() { ptr::null() } else { &raw const METHODS };
        wal.write(Wal::new(methods));
        code
    }
}

/// The file as the system has it.
fn behind(wal: *mut Wal) -> *mut ffi::sqlite3_file {
    wal.wrapping_add(1).cast()
}

/// Calls a method of the file behind a log.
macro_rules! call {
    ($wal:expr, $method:ident $(, $argument:expr)*) => {{
        let file = behind($wal);
        match (*(*file).pMethods).$method {
            Some(method) => method(file $(, $argument)*),
            None => SQLITE_IOERR,
        }
    }};
}

/// Methods that are those of the file behind, once something else has gone well.
macro_rules! forward {
    ($first:ident; $($name:ident: $method:ident($($argument:ident: $type:ty),*);)*) => {
        $(unsafe extern "C" fn $name(file: *mut ffi::sqlite3_file $(, $argument: $type)*) -> c_int {
            unsafe {
                match $first(file.cast()) {
                    SQLITE_OK => call!(file.cast(), $method $(, $argument)*),
                    code => code,
                }
            }
        })*
    };
}

forward! { write_out;
    read: xRead(octets: *mut c_void, count: c_int, offset: i64);
    truncate: xTruncate(size: i64);
    file_size: xFileSize(size: *mut i64);
    file_control: xFileControl(operation: c_int, argument: *mut c_void);
}

forward! { drop_gathered;
    close: xClose();
}

forward! { nothing;
    lock: xLock(level: c_int);
    unlock: xUnlock(level: c_int);
    check_reserved_lock: xCheckReservedLock(is_reserved: *mut c_int);
    sector_size: xSectorSize();
    device_characteristics: xDeviceCharacteristics();
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 1,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    // Of a database, not of its log.
    xShmMap: None,
    xShmLock: None,
    xShmBarrier: None,
    xShmUnmap: None,
    xFetch: None,
    xUnfetch: None,
};

unsafe extern "C" fn write(file: *mut ffi::sqlite3_file, octets: *const c_void, count: c_int, offset: i64) -> c_int {
    unsafe {
        let wal = file.cast::<Wal>();
        let octets = slice::from_raw_parts(octets.cast::<u8>(), count as usize);
        let end = (*wal).start + (*wal).gathered.len() as i64;
        if offset != end || (*wal).gathered.len() + octets.len() > GATHERED_OCTETS_MAX {
            let code = write_out(wal);
            if code != SQLITE_OK {
                return code;
            }
            (*wal).start = offset;
        }
        let gathered = &mut (*wal).gathered;
        if gathered.try_reserve(octets.len()).is_err() {
            // The commit fails, and nothing of it may be left.
            gathered.clear();
            (*wal).unflushed = None;
            return ffi::SQLITE_NOMEM;
        }
        gathered.extend_from_slice(octets);
        SQLITE_OK
    }
}

/// What cannot be written is dropped: SQLite is told, rolls back, and writes there again.
unsafe fn write_out(wal: *mut Wal) -> c_int {
    unsafe {
        let gathered = &mut (*wal).gathered;
        if gathered.is_empty() {
            return SQLITE_OK;
        }
        let code = call!(wal, xWrite, gathered.as_ptr().cast(), gathered.len() as c_int, (*wal).start);
        // Of a commit that is not whole nothing counts, and another connection's may come there.
        (*wal).unflushed = (code == SQLITE_OK).then_some((*wal).unflushed.unwrap_or((*wal).start));
        (*wal).start += gathered.len() as i64;
        gathered.clear();
        code
    }
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
    unsafe {
        let wal = file.cast::<Wal>();
        let written = write_out(wal);
        if written != SQLITE_OK {
            return written;
        }
        let code = call!(wal, xSync, flags);
        let unflushed = (*wal).unflushed.take();
        if let Some(start) = unflushed.filter(|_| code != SQLITE_OK) {
            // As well as such a disk allows.
            call!(wal, xWrite, FRAME_HEADER.as_ptr().cast(), FRAME_HEADER.len() as c_int, start);
            call!(wal, xSync, flags);
        }
        code
    }
}

/// What has gathered when the log is closed is of no commit.
unsafe fn drop_gathered(wal: *mut Wal) -> c_int {
    unsafe { (*wal).gathered = Vec::new() };
    SQLITE_OK
}

fn nothing(_: *mut Wal) -> c_int {
    SQLITE_OK
}

#[cfg(test)]
#[path = "wal_tests.rs"]
mod tests;
