//! The certificate and its key: what is wrong with them, what is only a warning, and that they are read again.

use crate::{Client, PROGRAM, Setup, setup, setup_with};
use mailcell_tests::program::{command, run};
use mailcell_tests::tls::Certificate;
use std::path::Path;
use std::process::Command;
use tokio::io::BufReader;
use tokio::net::TcpStream;

/// Puts another certificate and its key in the place of those that the server shows.
fn replace(setup: &Setup, other: &Certificate) {
    std::fs::copy(&other.key, &setup.certificate.key).unwrap();
    std::fs::copy(&other.certificate, &setup.certificate.certificate).unwrap();
}

/// A client that looks at nothing leaves a message.
fn leave_a_message(setup: &Setup) {
    let port = setup.server.address.port().to_string();
    let arguments = ["--server", "127.0.0.1", "--port", &port, "--helo", "client.test", "--tls"];
    setup.send("swaks", &[&arguments[..], &["--from", "ann@client.test", "--to", "bob@mx.test"]].concat(), b"");
}

/// Why a client that looks at the certificate does not talk to the server.
async fn refusal(setup: &Setup, certificate: &Certificate) -> String {
    let stream = TcpStream::connect(setup.implicit).await.unwrap();
    certificate.connect(stream).await.expect_err("the client refuses")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_changes_is_read_again() {
    let setup = setup(&[]);
    let open = setup.secure().await;
    // A key that does not fit changes nothing.
    let other = Certificate::make().unwrap();
    std::fs::copy(&other.key, &setup.certificate.key).unwrap();
    let line = setup.server.wait_for_log("the certificate stays the one that it was");
    assert!(line.contains("is not the key of"), "{line}");
    setup.secure().await.say("NOOP", "250").await;
    // With its certificate it does.
    std::fs::copy(&other.certificate, &setup.certificate.certificate).unwrap();
    setup.server.wait_for_log("read the certificate again");
    let stream = TcpStream::connect(setup.implicit).await.unwrap();
    let mut client = Client(BufReader::new(other.connect(stream).await.unwrap()));
    client.expect("220").await;
    // Whoever is under TLS stays there.
    let mut open = open;
    open.say("NOOP", "250").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_is_a_warning() {
    let setup = setup_with(Certificate::make_for_years(2000, 2001).unwrap(), &[]);
    let file = setup.certificate.certificate.to_str().unwrap();
    let starts = &setup.server.log_of_start;
    let warning = |line: &&str| line.contains("WARN") && line.contains(file);
    let line = starts.lines().find(warning).unwrap_or_else(|| panic!("{starts}"));
    assert!(line.contains("the certificate has expired, on 2001-01-01T00:00:00Z"), "{line}");
    leave_a_message(&setup);
    assert_eq!(setup.messages().len(), 1);
    let error = refusal(&setup, &setup.certificate).await;
    assert!(error.contains("certificate expired"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warning_is_given_when_a_certificate_out_of_date_takes_the_place_of_a_good_one() {
    let setup = setup(&[]);
    let file = setup.certificate.certificate.to_str().unwrap();
    assert!(!setup.server.log_of_start.contains("WARN"), "{}", setup.server.log_of_start);
    for (from, to, expected, why) in [
        (2000, 2001, "the certificate has expired, on 2001-01-01T00:00:00Z", "certificate expired"),
        (2200, 2201, "the certificate is not valid before 2200-01-01T00:00:00Z", "certificate not valid yet"),
    ] {
        let other = Certificate::make_for_years(from, to).unwrap();
        replace(&setup, &other);
        let line = setup.server.wait_for_log(expected);
        assert!(line.contains("WARN") && line.contains(file), "{line}");
        setup.server.wait_for_log("read the certificate again");
        let error = refusal(&setup, &other).await;
        assert!(error.contains(why), "{error}");
        leave_a_message(&setup);
    }
    assert_eq!(setup.messages().len(), 2);
}

#[test]
fn what_is_wrong_with_tls_is_said_at_the_start() {
    let (certificate, other) = (Certificate::make().unwrap(), Certificate::make().unwrap());
    let [file, key, others_key] =
        [&certificate.certificate, &certificate.key, &other.key].map(|path| path.to_str().unwrap());
    let directory = certificate.key.parent().unwrap().to_str().unwrap();
    let does_not_fit = format!("{others_key} is not the key of {file}");
    for (arguments, expected) in [
        (&["--listen", "127.0.0.1:0 tls=implicit"][..], "127.0.0.1:0: TLS needs tls-certificate and tls-key"),
        (
            &["--listen", "127.0.0.1:0 tls=on"],
            "--listen: 127.0.0.1:0: tls: expected off, starttls, required or implicit, found \"on\"",
        ),
        (&["--listen", "127.0.0.1:0 proxy=on"], "127.0.0.1:0: proxy=on needs proxy-from"),
        (&["--tls-certificate", file], "TLS needs both tls-certificate and tls-key"),
        (&["--tls-certificate", file, "--tls-key", "/nowhere"], "cannot read /nowhere"),
        (&["--tls-certificate", "/nowhere", "--tls-key", key], "cannot read /nowhere: No such file"),
        (&["--tls-certificate", directory, "--tls-key", key], &format!("cannot read {directory}: Is a directory")),
        (&["--tls-certificate", key, "--tls-key", key], "it holds no certificate in PEM form"),
        (&["--tls-certificate", file, "--tls-key", others_key], &does_not_fit),
        (&["--tls-certificate", file, "--tls-key", file], "not a private key in PEM form"),
    ] {
        let all = [&["serve", "--database", "discard:", "--control", ""], arguments].concat();
        let finished = run(command(Path::new(PROGRAM), &all), b"");
        let code = if expected.starts_with("--") { 2 } else { 1 };
        assert_eq!(finished.status.code(), Some(code), "{arguments:?}");
        let last = finished.stderr.lines().last().unwrap_or_default();
        assert!(last.starts_with("mailcell: ") && last.contains(expected), "{arguments:?}: {}", finished.stderr);
    }
}

#[test]
fn a_self_signed_certificate_on_request() {
    let place = tempfile::tempdir().unwrap();
    let make = || {
        let mut command = command(Path::new(PROGRAM), &["tls", "self-signed", "--name", "mx.test"]);
        command.current_dir(place.path());
        run(command, b"")
    };
    let made = make();
    assert!(made.status.success(), "{}", made.stderr);
    assert_eq!(made.text(), "mailcell.crt and mailcell.key, for mx.test\n");
    let again = make();
    assert_eq!(again.status.code(), Some(1));
    assert!(again.stderr.contains("cannot make mailcell.key"), "{}", again.stderr);
    let shown = Command::new("openssl")
        .args(["x509", "-noout", "-ext", "subjectAltName", "-in"])
        .arg(place.path().join("mailcell.crt"))
        .output();
    assert!(String::from_utf8_lossy(&shown.unwrap().stdout).contains("DNS:mx.test"));
    // What fails leaves nothing that would be in the way.
    let key = place.path().join("mailcell.key");
    std::fs::remove_file(&key).unwrap();
    assert!(make().stderr.contains("cannot make mailcell.crt"));
    assert!(!key.exists());
}
