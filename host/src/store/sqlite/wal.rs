//! How the write-ahead log is written. SQLite writes it page by page, each with two system calls; here the pages gather, and a
//! commit leaves in one piece when SQLite flushes it. All other files are as the system's own VFS has them.
//!
//! **Invariant:** what has gathered belongs to a commit under way, and nobody can miss it: with `synchronous=FULL` SQLite flushes
//! the log before it tells anyone of a commit, and without `cache_spill` it writes nothing before a commit. So nothing is
//! left of a transaction that was rolled back, to be written over what another connection has committed since.

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

/// A log that is open. Behind it in memory lies the file that the system's VFS makes of it.
#[repr(C)]
struct Wal {
    base: ffi::sqlite3_file,
    gathered: Vec<u8>,
    /// Where in the file that belongs.
    start: i64,
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
        wal.write(Wal { base: ffi::sqlite3_file { pMethods: methods }, gathered: Vec::new(), start: 0 });
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
    sync: xSync(flags: c_int);
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
        (*wal).start += gathered.len() as i64;
        gathered.clear();
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
mod tests {
    use super::*;

    /// A log and the file behind it, which keeps what it is told.
    #[repr(C)]
    struct Opened {
        wal: Wal,
        file: File,
    }

    #[repr(C)]
    struct File {
        base: ffi::sqlite3_file,
        written: Vec<(i64, Vec<u8>)>,
        is_full: bool,
    }

    unsafe extern "C" fn keep(file: *mut ffi::sqlite3_file, octets: *const c_void, count: c_int, start: i64) -> c_int {
        let file = unsafe { &mut *file.cast::<File>() };
        let octets = unsafe { slice::from_raw_parts(octets.cast::<u8>(), count as usize) };
        file.written.push((start, octets.to_vec()));
        if file.is_full { ffi::SQLITE_FULL } else { SQLITE_OK }
    }

    unsafe extern "C" fn synced(_: *mut ffi::sqlite3_file, _: c_int) -> c_int {
        SQLITE_OK
    }

    static KEEPING: ffi::sqlite3_io_methods =
        ffi::sqlite3_io_methods { xWrite: Some(keep), xSync: Some(synced), xClose: None, xRead: None, ..METHODS };

    impl Opened {
        fn new() -> Box<Opened> {
            let wal = Wal { base: ffi::sqlite3_file { pMethods: &METHODS }, gathered: Vec::new(), start: 0 };
            let base = ffi::sqlite3_file { pMethods: &KEEPING };
            Box::new(Opened { wal, file: File { base, written: Vec::new(), is_full: false } })
        }

        fn write(&mut self, octets: &[u8], start: i64) -> c_int {
            unsafe { write((&raw mut *self).cast(), octets.as_ptr().cast(), octets.len() as c_int, start) }
        }

        fn sync(&mut self) -> c_int {
            unsafe { sync((&raw mut *self).cast(), 0) }
        }
    }

    #[test]
    fn pages_leave_in_one_piece() {
        let mut opened = Opened::new();
        for (octets, start) in [(b"head", 0), (b"page", 4), (b"more", 8)] {
            assert_eq!(opened.write(octets, start), SQLITE_OK);
        }
        assert!(opened.file.written.is_empty());
        assert_eq!(opened.sync(), SQLITE_OK);
        assert_eq!(opened.write(b"next", 12), SQLITE_OK);
        // Elsewhere, as when the log begins again.
        assert_eq!(opened.write(b"HEAD", 0), SQLITE_OK);
        assert_eq!(opened.sync(), SQLITE_OK);
        assert_eq!(opened.sync(), SQLITE_OK);
        let pieces = [(0, b"headpagemore".to_vec()), (12, b"next".to_vec()), (0, b"HEAD".to_vec())];
        assert_eq!(opened.file.written, pieces);
    }

    #[test]
    fn no_more_gathers_than_there_is_room_for() {
        let mut opened = Opened::new();
        let page = vec![b'x'; 32 << 10];
        for number in 0..7 {
            assert_eq!(opened.write(&page, number * page.len() as i64), SQLITE_OK);
            assert!(opened.wal.gathered.len() <= GATHERED_OCTETS_MAX);
        }
        assert_eq!(opened.sync(), SQLITE_OK);
        let pieces: Vec<_> =
            opened.file.written.iter().map(|(start, octets)| (start >> 15, octets.len() >> 15)).collect();
        assert_eq!(pieces, [(0, 3), (3, 3), (6, 1)]);
    }

    #[test]
    fn what_a_full_disk_does_not_take_is_dropped() {
        let mut opened = Opened::new();
        opened.file.is_full = true;
        assert_eq!(opened.write(b"lost", 0), SQLITE_OK);
        assert_eq!(opened.sync(), ffi::SQLITE_FULL);
        opened.file.is_full = false;
        assert_eq!(opened.write(b"page", 0), SQLITE_OK);
        assert_eq!(opened.sync(), SQLITE_OK);
        assert_eq!(opened.file.written[1..], [(0, b"page".to_vec())]);
    }

    fn writer(path: &Path) -> Connection {
        let writer = open(path, OpenFlags::default()).unwrap();
        writer.pragma_update(None, "journal_mode", "WAL").unwrap();
        writer
            .execute_batch(
                "PRAGMA synchronous = FULL; PRAGMA cache_size = 8; CREATE TABLE t (i INTEGER PRIMARY KEY, x)",
            )
            .unwrap();
        writer
    }

    const FILL: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
                        INSERT INTO t SELECT NULL, randomblob(700) FROM n";

    fn rows(connection: &Connection) -> (i64, i64) {
        let is_whole: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(is_whole, "ok");
        let sql = "SELECT count(*), coalesce(sum(length(x)), 0) FROM t";
        connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
    }

    #[test]
    fn others_see_what_is_committed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("test.db");
        let (writer, reader) = (writer(&path), Connection::open(&path).unwrap());
        writer.execute_batch(&format!("BEGIN; {FILL}; ROLLBACK; BEGIN; {FILL}; SAVEPOINT s; {FILL}")).unwrap();
        assert_eq!((rows(&writer), rows(&reader)), ((1000, 700_000), (0, 0)));
        writer.execute_batch("ROLLBACK TO s; UPDATE t SET x = randomblob(600) WHERE i % 2; COMMIT").unwrap();
        assert_eq!((rows(&writer), rows(&reader)), ((500, 325_000), (500, 325_000)));
        writer.execute_batch("PRAGMA wal_checkpoint(TRUNCATE); DELETE FROM t WHERE i > 100").unwrap();
        for connection in [&writer, &reader, &Connection::open(&path).unwrap()] {
            assert_eq!(rows(connection).0, 100);
        }
    }

    /// What was rolled back would lie where the next commit goes, in a log that has just begun.
    #[test]
    fn nothing_is_left_of_what_was_rolled_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("test.db");
        let (writer, other) = (writer(&path), Connection::open(&path).unwrap());
        writer.execute_batch(&format!("{FILL}; PRAGMA wal_checkpoint(TRUNCATE)")).unwrap();
        writer.execute_batch(&format!("BEGIN; {FILL}; ROLLBACK")).unwrap();
        other.execute_batch("UPDATE t SET x = randomblob(600)").unwrap();
        assert_eq!((rows(&writer), rows(&other)), ((500, 300_000), (500, 300_000)));
        assert_eq!(rows(&Connection::open(&path).unwrap()), (500, 300_000));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_commit_is_one_write() {
        let directory = tempfile::tempdir().unwrap();
        let writer = writer(&directory.path().join("test.db"));
        writer.execute_batch("INSERT INTO t VALUES (1, 1)").unwrap();
        let writes = || -> u32 {
            let counters = std::fs::read_to_string("/proc/thread-self/io").unwrap();
            counters.lines().find_map(|line| line.strip_prefix("syscw: ")).unwrap().parse().unwrap()
        };
        let before = writes();
        writer.execute_batch("INSERT INTO t VALUES (2, randomblob(100000))").unwrap();
        assert_eq!(writes() - before, 1);
    }
}
