//! The command line: what it does, what it prints, and how it says no.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use mailcell_tests::program::{Finished, command, run};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_mailcell-under-test");

struct Place(TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Runs a command in the directory, where the default database is.
    fn mailcell(&self, line: &str) -> Finished {
        self.mailcell_with(line, b"")
    }

    fn mailcell_with(&self, line: &str, input: &[u8]) -> Finished {
        let arguments: Vec<_> = line.split(' ').collect();
        let mut command = command(Path::new(PROGRAM), &arguments);
        command.current_dir(self.0.path());
        run(command, input)
    }

    #[track_caller]
    fn ok(&self, line: &str) -> String {
        let finished = self.mailcell(line);
        assert!(finished.status.success(), "{line}: {}", finished.stderr);
        finished.text()
    }

    /// Fails with exit code 1 and exactly one line, which holds `text`.
    #[track_caller]
    fn fails(&self, line: &str, text: &str) {
        self.ends_with(1, line, text);
    }

    /// The same with exit code 2.
    #[track_caller]
    fn is_misspelled(&self, line: &str, text: &str) {
        self.ends_with(2, line, text);
    }

    #[track_caller]
    fn ends_with(&self, code: i32, line: &str, text: &str) {
        let finished = self.mailcell(line);
        assert_eq!(finished.status.code(), Some(code), "{line}: {}", finished.stderr);
        let lines: Vec<_> = finished.stderr.lines().filter(|line| line.starts_with("mailcell: ")).collect();
        assert_eq!(lines.len(), 1, "{line}: {}", finished.stderr);
        assert!(lines[0].contains(text), "{line}: expected {text:?} in {:?}", lines[0]);
        assert!(!finished.stderr.contains("panicked") && !finished.stderr.contains("backtrace"), "{}", finished.stderr);
    }
}

#[test]
fn users_and_groups() {
    let place = Place::new();
    // Whoever asks what is in a database makes none.
    place.fails("user list", "there is no database mailcell.db");
    place.fails("message list --database sqlite:other.db", "there is no database other.db");
    assert_eq!(std::fs::read_dir(place.0.path()).unwrap().count(), 0);
    place.ok("user add Bob@MX.test --group Staff");
    place.ok("user add ann@mx.test --group staff");
    place.ok("user add zoe@mx.test");
    place.fails("user add bob@mx.test", "bob@mx.test exists already");
    assert_eq!(place.ok("group list"), "GROUP  MEMBERS\nstaff  2\n");
    assert_eq!(place.ok("group show STAFF"), "ADDRESS\nann@mx.test\nbob@mx.test\n");
    let added = place.mailcell_with("user set zoe@mx.test --group staff --password-stdin", b"secret\n");
    assert!(added.status.success(), "{}", added.stderr);
    let users: serde_json::Value = serde_json::from_str(&place.ok("user list --json")).unwrap();
    let user = |name, password| serde_json::json!({ "username": name, "domain": "mx.test", "mailgroup": "staff", "password": password });
    assert_eq!(users, serde_json::json!([user("ann", false), user("bob", false), user("zoe", true)]));
    place.ok("user set bob@mx.test --no-group");
    place.fails("user set eve@mx.test --no-group", "there is no user eve@mx.test");
    place.ok("user remove ann@mx.test");
    place.ok("user remove zoe@mx.test");
    place.fails("user remove zoe@mx.test", "there is no user zoe@mx.test");
    place.fails("group show staff", "there is no group staff");
    assert_eq!(place.ok("user list"), "ADDRESS      GROUP  PASSWORD\nbob@mx.test  -      -\n");
}

#[test]
fn messages_that_are_not_there() {
    let place = Place::new();
    place.ok("user add bob@mx.test");
    assert_eq!(place.ok("message list --json"), "[]\n");
    place.fails("message show 019a0f5e-7d3c-7b1e-9c55-2f6f3c1d4a7b", "there is no message 019a0f5e");
    place.fails("message remove 019a0f5e-7d3c-7b1e-9c55-2f6f3c1d4a7b", "there is no message");
}

#[test]
fn the_command_line_explains_itself() {
    let place = Place::new();
    assert!(place.ok("--help").contains("Examples:"));
    assert!(place.ok("serve --help").contains("--idle-timeout <DURATION>"));
    assert!(place.ok("--version").starts_with("mailcell "));
    for wrong in
        ["", "srve", "serve --no-such-flag", "message export", "core swap x.wasm --for 1h", "user set bob@mx.test"]
    {
        assert_eq!(place.mailcell(wrong).status.code(), Some(2), "{wrong}");
    }
}

#[test]
fn an_argument_of_the_wrong_form_is_told_from_what_is_not_done() {
    let place = Place::new();
    for (line, expected) in [
        ("message show no-id", "invalid value 'no-id'"),
        ("message list --since soon", "invalid value 'soon'"),
        ("user add bob", "invalid value 'bob' for '<ADDRESS>': expected local-part@domain"),
        ("user remove bob", "expected local-part@domain"),
        ("user add bob@mx.test --group a@b", "invalid value 'a@b' for '--group <NAME>': expected a word such as staff"),
        ("group show a@b", "expected a word such as staff"),
        ("core swap x.wasm --canary 0", "expected a number from 1 to 100"),
        ("core rollback --slot a/b", "expected a name of letters, digits and hyphens"),
        ("tls self-signed --name a_b", "expected a domain such as mx.example.org"),
        ("tls self-signed --name é.example", "in ASCII"),
    ] {
        let refused = place.mailcell(line);
        assert_eq!(refused.status.code(), Some(2), "{line}: {}", refused.stderr);
        assert!(refused.stderr.contains(expected), "{line}: {}", refused.stderr);
    }
    for (line, expected) in [
        ("serve --message-size=huge", "--message-size: expected a size such as 64KiB or 25MiB, found \"huge\""),
        ("serve --listen nowhere", "--listen: expected an address and a port"),
        ("user list --database-deadline 0s", "--database-deadline: expected a duration"),
        ("schema print --database mariadb://u:secret@h/d", "--database: a database address is sqlite:PATH or"),
        ("user list --database mysql://h/d", "--database: the database address names no user"),
    ] {
        place.is_misspelled(line, expected);
        assert!(!place.mailcell(line).stderr.contains("secret"));
    }
    // Files and the environment are no arguments, and nothing is wrong with the name of what is not there.
    place.file("bad.toml", "errors = 'many'\n");
    place.fails("serve --config bad.toml", "bad.toml:1: errors: expected a number from 1");
    place.fails("config check missing.toml", "cannot read missing.toml");
    place.fails("core status", "no server answers at mailcell.sock");
    place.fails("replay missing.txt", "cannot read missing.txt");
    place.fails("core check missing.wasm", "cannot read missing.wasm");
    assert_eq!(std::fs::read_dir(place.0.path()).unwrap().count(), 1);
    place.ok("tls self-signed --name *.mx.example --name 127.0.0.1 --name ::1");
}

#[test]
fn configuration() {
    let place = Place::new();
    place.file("default.toml", &place.ok("config show"));
    assert_eq!(place.ok("config check default.toml"), "default.toml: ok\n");
    place.file("bad.toml", "# first\nidle-timeout = \"soon\"\n");
    place.fails(
        "config check bad.toml",
        "bad.toml:2: idle-timeout: expected a duration such as 30s, 10m or 1h, found \"soon\"",
    );
    place.fails("serve --config bad.toml", "bad.toml:2: idle-timeout: expected");
    place.file("empty.toml", "listen = []\n");
    place.fails("config check empty.toml", "empty.toml:1: listen: expected at least one value");
    place.file("unknown.toml", "log = 'info'\n\nmessage-sise = 1\n");
    place.fails(
        "serve --config unknown.toml",
        "unknown.toml:3: there is no setting `message-sise`; is it `message-size`?",
    );
    place.file("broken.toml", "listen = [\n");
    place.fails("serve --config broken.toml", "broken.toml:");
    place.fails("serve --config missing.toml", "cannot read missing.toml");
    let mut serve = command(Path::new(PROGRAM), &["serve"]);
    serve.env("MAILCELL_ERRORS", "many").current_dir(place.0.path());
    let refused = run(serve, b"");
    assert!(refused.stderr.contains("MAILCELL_ERRORS: expected a number from 1, found \"many\""), "{}", refused.stderr);
    assert_eq!(refused.status.code(), Some(1));
}

#[test]
fn a_variable_that_is_no_setting_is_refused() {
    let place = Place::new();
    place.file("m.toml", "log = 'info'\n");
    let with = |line: &str, name: &str| {
        let mut command = command(Path::new(PROGRAM), &line.split(' ').collect::<Vec<_>>());
        command.env(name, "bob").current_dir(place.0.path());
        run(command, b"")
    };
    let error = "mailcell: MAILCELL_ERORS: there is no setting of that name; is it MAILCELL_ERRORS?\n";
    for line in ["serve", "config show", "config check m.toml", "schema print"] {
        let refused = with(line, "MAILCELL_ERORS");
        assert_eq!((refused.status.code(), refused.stderr.as_str()), (Some(1), error), "{line}");
        assert!(refused.stdout.is_empty(), "{line}");
    }
    for name in ["MAILCELL_DATABASE_PASSWORD", "MAILCELL_NAME", "MAILCELL_SERVICE_HOST"] {
        let shown = with("config check m.toml", name);
        assert!(shown.status.success(), "{name}: {}", shown.stderr);
    }
}

#[test]
fn a_configuration_that_cannot_be_served_is_found_beforehand() {
    let place = Place::new();
    place.ok("tls self-signed --name mx.test");
    place.file("text.pem", "no key");
    place.file("none.wasm", "no component");
    // A component, and nothing in it.
    place.file("empty.wasm", "\0asm\r\0\x01\0");
    let refused = [
        ("listen = '[::1]:25 slot=strict'", "slot=strict needs a core"),
        ("core = 'strict=none.wasm'", "none.wasm serves nobody"),
        ("listen = '[::1]:25 proxy=on'", "proxy=on needs proxy-from"),
        ("proxy-from = '10.0.0.0/8'", "proxy-from needs a listener with proxy=on"),
        ("record = 5", "record needs record-directory"),
        ("record-content = 'keep'", "record-content=keep needs record-directory"),
        ("core-reload = 'watch'", "core-reload=watch needs core"),
        ("listen = '[::1]:25 tls=implicit'", "TLS needs tls-certificate and tls-key"),
        ("accept = 'domains'", "accept=domains needs domains"),
        ("tls-certificate = 'mailcell.crt'", "TLS needs both tls-certificate and tls-key"),
        ("listen = '127.0.0.1:0'\ntls-certificate = 'mailcell.crt'\ntls-key = 'text.pem'", "text.pem"),
        ("core = 'none.wasm'", "none.wasm: not a WebAssembly component"),
        ("core = 'empty.wasm'", "empty.wasm: it does not export"),
        ("core = 'missing.wasm'", "missing.wasm"),
        ("database = 'postgres://u:secret@h/d'", "m.toml:1: database: a database address is sqlite:PATH or"),
        ("database = 'mysql://h/d'", "the database address names no user"),
        ("database = 'mysql:/u:secret@h/d'", "m.toml:1: database: a database address"),
        ("database-ca-file = 'ca.pem'", "database-ca-file needs database-tls=required"),
        ("database-password-file = 'missing'", "cannot read missing"),
    ];
    for (text, error) in refused {
        place.file("m.toml", text);
        place.fails("config check m.toml", error);
        place.fails("serve --config m.toml", error);
    }
    assert!(!place.mailcell("config check m.toml").stderr.contains("secret"));
    place
        .file("m.toml", "tls-certificate = 'mailcell.crt'\ntls-key = 'mailcell.key'\nlisten = '[::1]:25 tls=required'");
    place.ok("config check m.toml");
}

#[test]
fn who_stops_reading_ends_a_command_quietly() {
    let place = Place::new();
    place.ok("user add bob@mx.test");
    for line in ["user list", "tls self-signed", "core sign --make-key key.pem"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = command(Path::new(PROGRAM), &line.split(' ').collect::<Vec<_>>());
        command.current_dir(place.0.path()).stdout(writer).stderr(std::process::Stdio::piped());
        let finished = command.spawn().unwrap().wait_with_output().unwrap();
        assert!(finished.status.success() && finished.stderr.is_empty(), "{line}: {finished:?}");
    }
}

#[test]
fn what_cannot_be_served_is_said_in_one_line() {
    let place = Place::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    place.fails(&format!("serve --listen {address}"), &format!("cannot listen on {address}"));
    place.is_misspelled(
        "serve --proxy-from nowhere",
        "--proxy-from: expected an address or a network such as 10.0.0.0/8",
    );
    place.fails("serve --accept domains", "accept=domains needs domains");
    place.is_misspelled("serve --accept some", "--accept: expected any, domains or users, found \"some\"");
    place.is_misspelled("serve --domains a_b", "--domains: expected a domain such as mx.example.org, found \"a_b\"");
    place.fails("serve --core missing.wasm", "cannot read missing.wasm");
    place.file("text.wasm", "no component");
    place.fails("serve --core text.wasm", "text.wasm: not a WebAssembly component");
    place.fails("core check text.wasm", "text.wasm: not a WebAssembly component");
    place.fails("core check --default --accept greting", "there is no session `greting`");
    place.file("all.differences", "all of them");
    place.fails("core check --default --differences all.differences", "all.differences:1: expected differences");
    place.fails("core check all", "all.differences:1: expected differences");
    place.fails("core status", "no server answers at mailcell.sock");
    place.fails("replay text.wasm", "text.wasm:1: a line starts with its kind and a colon");
    place.fails("serve --database sqlite:no/such/place/mail.db", "no/such/place/mail.db");
    // Nobody listens on a port that has just been given back.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    place.fails(
        &format!("serve --database mysql://u:secret@127.0.0.1:{port}/mail"),
        &format!("mysql://u@127.0.0.1:{port}/mail"),
    );
    let shown = place.mailcell(&format!("user list --database mysql://u:secret@127.0.0.1:{port}/mail")).stderr;
    assert!(!shown.contains("secret"), "{shown}");
}

#[test]
fn the_schema_and_the_core_can_be_looked_at() {
    let place = Place::new();
    for database in ["sqlite:x.db", "mysql://u@h/d"] {
        let sql = place.ok(&format!("schema print --database {database}"));
        assert!(sql.contains("messages") && sql.contains("users"), "{sql}");
    }
    place.ok("schema apply");
    place.ok("schema apply");
    assert!(place.0.path().join("mailcell.db").exists());
    let core = place.ok("core check --default");
    assert!(core.contains("imports  mailcell:smtp/mail-store@0.3.0\n"), "{core}");
    assert!(core.contains("layouts  writes 3, reads 3\n"), "{core}");
    assert!(core.ends_with(" 0 not safe, 0 with other behaviour, 0 with other texts\n"), "{core}");
    let newer = rusqlite::Connection::open(place.0.path().join("mailcell.db")).unwrap();
    newer.execute_batch("PRAGMA user_version = 99").unwrap();
    place.fails("serve", "99");
}
