use super::*;
use crate::cell::{DEFAULT_CORE, Engine};
use std::sync::Mutex;

fn disk(directory: &Path, octets_max: u64) -> Disk {
    Disk {
        directory: directory.to_owned(),
        octets_max,
        age_max: Duration::from_secs(100),
        with_content: false,
        dropped: Arc::default(),
        report: |_| {},
        used: 0,
        tidied: Instant::now(),
    }
}

#[test]
fn what_is_too_old_or_too_much_goes_and_other_files_stay() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let name = |kind: &str, number: u8| format!("{kind}-019e2f6a-30f4-7d11-9a51-5b1f0b6c2a{number:02x}.txt");
    let write = |name: &str, age: u64| {
        fs::write(path(name), [b'x'; 100]).unwrap();
        let at = SystemTime::now() - Duration::from_secs(age);
        File::options().write(true).open(path(name)).unwrap().set_modified(at).unwrap();
    };
    write("notes.txt", 1_000);
    write("session-notes.txt", 1_000);
    for (number, age) in [(1, 1_000), (2, 50), (3, 40), (4, 30)] {
        write(&name("session", number), age);
    }
    write(&name("fault", 5).replace(".txt", ".part"), 0);
    let mut disk = disk(directory.path(), 300);
    disk.sweep().unwrap();
    disk.tidy(100).unwrap();
    let mut left: Vec<_> =
        fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    assert_eq!(left, ["notes.txt".to_owned(), name("session", 3), name("session", 4), "session-notes.txt".to_owned()]);
}

#[test]
fn what_somebody_else_removes_meanwhile_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    for extension in [EXTENSION, UNFINISHED] {
        for number in 0..2_000 {
            let name = format!("session-019e2f6a-30f4-7d11-9a51-5b1f0b6c{number:04}.{extension}");
            fs::write(directory.path().join(name), "x").unwrap();
        }
    }
    let tidy = || {
        let mut disk = disk(directory.path(), 0);
        disk.sweep().and_then(|()| disk.tidy(0))
    };
    std::thread::scope(|scope| [(); 4].map(|()| scope.spawn(tidy)).map(|tidied| tidied.join().unwrap().unwrap()));
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
}

#[test]
fn the_oldest_make_room_for_many_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let write = |number: u8| {
        let name = format!("session-019e2f6a-30f4-7d11-9a51-5b1f0b6c2a{number:02x}.txt");
        fs::write(directory.path().join(name), [b'x'; 100]).unwrap();
    };
    let count = || fs::read_dir(&directory).unwrap().count();
    let mut disk = disk(directory.path(), 8_000);
    (0..80).for_each(write);
    disk.tidy(0).unwrap();
    disk.make_room(1).unwrap();
    assert_eq!((count(), disk.used), (70, 7_000));
    // While there is room, nobody looks what there is.
    (80..100).for_each(write);
    disk.make_room(1_000).unwrap();
    assert_eq!(count(), 90);
    disk.make_room(1_001).unwrap();
    assert_eq!((count(), disk.used), (69, 6_900));
}

#[test]
fn what_becomes_too_old_goes_though_nothing_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("session-019e2f6a-30f4-7d11-9a51-5b1f0b6c2a01.txt");
    fs::write(&path, "x").unwrap();
    let settings = Settings {
        record_directory: Some(directory.path().to_owned()),
        record_age: Duration::from_millis(500),
        ..Settings::default()
    };
    let _recordings = Recordings::start(&settings).unwrap().unwrap();
    assert!(path.exists());
    let started = std::time::Instant::now();
    while path.exists() {
        assert!(started.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[tokio::test]
async fn a_burst_beyond_what_may_wait_is_said_in_few_lines() {
    static SAID: Mutex<Vec<u64>> = Mutex::new(Vec::new());
    let directory = tempfile::tempdir().unwrap();
    let settings = Settings { record_directory: Some(directory.path().to_owned()), record: 100, ..Settings::default() };
    let recordings = Recordings::start_with(&settings, |sessions| SAID.lock().unwrap().push(sessions)).unwrap();
    let recordings = recordings.unwrap();
    let core = Generation::from_bytes(&Engine::new(4).unwrap(), DEFAULT_CORE).unwrap();
    let facts = Facts { config: Arc::default(), address: "127.0.0.1".to_owned() };
    let burst = 20 * WAITING_MAX as u64;
    (0..burst).for_each(|_| recordings.begin(&core, &facts).finish());
    // They are told to finish while as many as can be wait.
    recordings.finish().await;
    let said = SAID.lock().unwrap().clone();
    let recorded = files(directory.path()).unwrap().len() as u64;
    assert!(recorded >= WAITING_MAX as u64 && recorded + said.iter().sum::<u64>() == burst, "{recorded}, {said:?}");
    assert!((1..=3).contains(&said.len()), "{said:?}");
}
