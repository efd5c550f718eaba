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
    cannot_flush: bool,
}

unsafe extern "C" fn keep(file: *mut ffi::sqlite3_file, octets: *const c_void, count: c_int, start: i64) -> c_int {
    let file = unsafe { &mut *file.cast::<File>() };
    let octets = unsafe { slice::from_raw_parts(octets.cast::<u8>(), count as usize) };
    file.written.push((start, octets.to_vec()));
    if file.is_full { ffi::SQLITE_FULL } else { SQLITE_OK }
}

unsafe extern "C" fn synced(file: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    let file = unsafe { &*file.cast::<File>() };
    if file.cannot_flush { ffi::SQLITE_IOERR_FSYNC } else { SQLITE_OK }
}

static KEEPING: ffi::sqlite3_io_methods =
    ffi::sqlite3_io_methods { xWrite: Some(keep), xSync: Some(synced), xClose: None, xRead: None, ..METHODS };

impl Opened {
    fn new() -> Box<Opened> {
        let base = ffi::sqlite3_file { pMethods: &KEEPING };
        let file = File { base, written: Vec::new(), is_full: false, cannot_flush: false };
        Box::new(Opened { wal: Wal::new(&METHODS), file })
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
    let pieces: Vec<_> = opened.file.written.iter().map(|(start, octets)| (start >> 15, octets.len() >> 15)).collect();
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

#[test]
fn what_cannot_be_flushed_is_made_invalid() {
    let mut opened = Opened::new();
    assert_eq!(opened.write(b"good", 32), SQLITE_OK);
    assert_eq!(opened.sync(), SQLITE_OK);
    opened.file.cannot_flush = true;
    assert_eq!(opened.sync(), ffi::SQLITE_IOERR_FSYNC);
    let page = vec![b'x'; 64 << 10];
    for number in 0..3 {
        assert_eq!(opened.write(&page, 36 + number * page.len() as i64), SQLITE_OK);
    }
    assert_eq!(opened.sync(), ffi::SQLITE_IOERR_FSYNC);
    assert_eq!(opened.sync(), ffi::SQLITE_IOERR_FSYNC);
    let pieces: Vec<_> = opened.file.written.iter().map(|(start, octets)| (*start, octets.len())).collect();
    assert_eq!(pieces, [(32, 4), (36, 64 << 10), (36 + (64 << 10), 64 << 10), (36 + (128 << 10), 64 << 10), (36, 24)]);
    assert_eq!(opened.file.written[4].1, [0; 24]);
    // What others have committed there since is left alone when this connection writes again.
    opened.file.is_full = true;
    assert_eq!(opened.write(b"lost", 36), SQLITE_OK);
    assert_eq!(opened.sync(), ffi::SQLITE_FULL);
    opened.file.is_full = false;
    assert_eq!(opened.sync(), ffi::SQLITE_IOERR_FSYNC);
    assert_eq!(opened.file.written.len(), 6);
}

fn writer(path: &Path) -> Connection {
    let writer = open(path, OpenFlags::default()).unwrap();
    writer.pragma_update(None, "journal_mode", "WAL").unwrap();
    writer
        .execute_batch("PRAGMA synchronous = FULL; PRAGMA cache_size = 8; CREATE TABLE t (i INTEGER PRIMARY KEY, x)")
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
