//! Who may replace a core, and by which way.

use crate::{PROGRAM, Setup, VARIANT, default_core};
use mailcell::admin::client::Client;
use mailcell_tests::program::{PATIENCE, command, run};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::timeout;

#[test]
fn only_those_who_are_trusted_bring_a_core() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let make = |name: &str| run(command(Path::new(PROGRAM), &["core", "sign", "--make-key", &path(name)]), b"");
    let (ours, theirs) = (make("ours.pem"), make("theirs.pem"));
    assert!(ours.status.success() && theirs.status.success(), "{}", ours.stderr);
    let setup = Setup::start(&["--core-keys", ours.text().trim()]);
    let file = setup.file("variant.wasm", &VARIANT);
    assert!(setup.refusal(&file, &[]).contains("it is not signed"));
    let sign = |key: &str| {
        let done =
            run(command(Path::new(PROGRAM), &["core", "sign", "--key", &path(key), file.to_str().unwrap()]), b"");
        assert!(done.status.success(), "{}", done.stderr);
    };
    sign("theirs.pem");
    assert!(setup.refusal(&file, &[]).contains("none of the keys' in core-keys"));
    sign("ours.pem");
    setup.swap(&file, &[]);
    // A server that starts asks for the same.
    let unsigned = setup.file("unsigned.wasm", default_core());
    let start = run(
        command(
            Path::new(PROGRAM),
            &[
                "serve",
                "--core",
                unsigned.to_str().unwrap(),
                "--core-keys",
                ours.text().trim(),
                "--database",
                &format!("sqlite:{}", path("x.db")),
            ],
        ),
        b"",
    );
    assert!(start.stderr.contains("it is not signed"), "{}", start.stderr);
}

#[test]
fn the_control_socket_is_its_owners_and_speaks_http() {
    use std::os::unix::fs::PermissionsExt;
    let setup = Setup::start(&[]);
    let control = setup.server.control();
    assert_eq!(std::fs::metadata(&control).unwrap().permissions().mode() & 0o777, 0o600);
    let curl = |path: &str| {
        let mut curl = std::process::Command::new("curl");
        curl.args(["-sS", "--max-time", "30", "--unix-socket"]).arg(&control).arg(format!("http://localhost{path}"));
        run(curl, b"").text()
    };
    let status: serde_json::Value = serde_json::from_str(&curl("/v1/core")).unwrap();
    assert_eq!(status[0]["generations"][0]["digest"], mailcell::cell::digest(default_core()));
    assert!(curl("/v1/other").contains("there is no GET /v1/other"));
    assert!(curl("/v1/core?slot=lax").contains("there is no slot `lax`; there is default"));
    assert!(curl("/v1/core?slto=lax").contains("expected slot=NAME"));
    let post = |body: &str| {
        let mut curl = std::process::Command::new("curl");
        curl.args(["-sS", "--max-time", "30", "--data", body, "--unix-socket"]).arg(&control);
        curl.arg("http://localhost/v1/core/swap");
        run(curl, b"").text()
    };
    assert!(post("{").contains("cannot read the request"));
    assert!(post(r#"{"digest": "x", "options": {"canry": 5}}"#).contains("unknown field `canry`"));
    for seconds in [0, u64::MAX] {
        let refused = post(&format!(r#"{{"digest": "x", "options": {{"canary": 5, "seconds": {seconds}}}}}"#));
        assert!(refused.contains("a trial lasts from 1 second to 7 days"), "{refused}");
    }
    assert!(post(r#"{"digest": "x"}"#).contains("it was not checked"));
    // A second server does not take the socket of the first one.
    let database = format!("sqlite:{}", setup.directory.path().join("other.db").display());
    let mut second = command(Path::new(PROGRAM), &["serve", "--listen", "127.0.0.1:0", "--database", &database]);
    second.arg("--control").arg(&control);
    let second = run(second, b"");
    assert!(second.stderr.contains("another server uses it"), "{}", second.stderr);
    assert_eq!(setup.status()["busy"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_for_a_proof_keeps_no_command_out() {
    let setup = Setup::start(&[]);
    let client = Client::new(&setup.server.control());
    let mut checks = JoinSet::new();
    for number in 0..48 {
        // A section that says a version makes it another core.
        let core = [default_core(), format!("\0\x0b\x07version{number:03}").as_bytes()].concat();
        let client = client.clone();
        checks.spawn(async move { client.check(core, None).await });
    }
    let commands = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(client.rollback().await.unwrap_err().to_string().contains("no core has served before"));
        assert!(!client.status().await.unwrap().busy);
    };
    timeout(Duration::from_secs(20), commands).await.unwrap();
    let (mut proved, mut refused) = (0, 0);
    while let Some(checked) = timeout(PATIENCE, checks.join_next()).await.unwrap() {
        match checked.unwrap() {
            Ok(report) => proved += usize::from(report.violations.is_empty()),
            Err(error) if error.to_string().contains("are being proved or wait for it already") => refused += 1,
            Err(error) => panic!("{error:#}"),
        }
    }
    // A place that became free meanwhile may have been taken again.
    assert!(proved >= 4 && refused >= 24 && proved + refused == 48, "{proved} proved, {refused} refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_does_not_send_what_he_said_keeps_no_command_out() {
    let setup = Setup::start(&[]);
    let client = Client::new(&setup.server.control());
    let _stalled: Vec<_> = (0..16)
        .map(|_| {
            let mut stream = UnixStream::connect(setup.server.control()).unwrap();
            let begun = b"POST /v1/core/check HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nhalf";
            stream.write_all(begun).unwrap();
            stream
        })
        .collect();
    assert!(!timeout(Duration::from_secs(40), client.status()).await.unwrap().unwrap().busy);
}
