//! Who a client is, said under TLS by clients that nobody here wrote.

use crate::{PROGRAM, Setup, setup};
use mailcell_tests::cores;
use std::process::Command;

#[test]
fn clients_say_who_they_are() {
    let setup = setup(&["--lookup", "authenticated"]);
    setup.add_user("ann@mx.test", "secret");
    let port = setup.server.address.port().to_string();
    for mechanism in ["PLAIN", "LOGIN"] {
        let arguments = ["--server", "127.0.0.1", "--port", &port, "--helo", "client.test", "--tls"];
        let auth = ["--auth", mechanism, "--auth-user", "ann@mx.test", "--auth-password", "secret"];
        let envelope = ["--from", "ann@mx.test", "--to", "bob@mx.test", "--body", "Hello"];
        let log = setup.send("swaks", &[&arguments[..], &auth, &envelope].concat(), b"");
        assert!(log.contains("235 2.7.0 Authentication successful"), "{log}");
    }
    let script = "import smtplib, ssl, sys\n\
        context = ssl.create_default_context(cafile=sys.argv[2])\n\
        context.check_hostname = False\n\
        with smtplib.SMTP('127.0.0.1', int(sys.argv[1]), 'client.test', timeout=30) as smtp:\n\
        \x20   smtp.ehlo()\n\
        \x20   assert not smtp.has_extn('auth')\n\
        \x20   smtp.starttls(context=context)\n\
        \x20   smtp.ehlo()\n\
        \x20   assert smtp.verify('ann')[0] == 252\n\
        \x20   for user, password in (('ann@mx.test', 'wrong'), ('eve@mx.test', 'secret')):\n\
        \x20       try:\n\
        \x20           smtp.login(user, password)\n\
        \x20           assert False, user\n\
        \x20       except (smtplib.SMTPAuthenticationError, smtplib.SMTPServerDisconnected):\n\
        \x20           pass # It tries each mechanism, and the third mistake ends the session.\n\
        with smtplib.SMTP('127.0.0.1', int(sys.argv[1]), 'client.test', timeout=30) as smtp:\n\
        \x20   smtp.starttls(context=context)\n\
        \x20   smtp.login('ann', 'secret')\n\
        \x20   assert smtp.verify('ann')[0] == 250\n\
        \x20   smtp.sendmail('ann@mx.test', ['bob@mx.test'], 'Subject: three\\r\\n\\r\\nHello\\r\\n')\n";
    setup.send("python3", &["-c", script, &port, setup.certificate.certificate.to_str().unwrap()], b"");
    let messages = setup.messages();
    assert_eq!(messages.len(), 3);
    assert!(messages.iter().all(|message| message.contains("with ESMTPSA id")), "{messages:?}");
}

#[test]
fn msmtp_by_scram() {
    let setup = setup(&[]);
    setup.add_user("ann@mx.test", "secret");
    let [port, file] = [format!("--port={}", setup.server.address.port()), trust(&setup)];
    let all = ["--file=/dev/null", "--host=127.0.0.1", &port, "--domain=client.test", "--from=ann@mx.test", "--tls=on"];
    let auth = ["--auth=scram-sha-256", "--user=ann@mx.test", "--tls-host-override=mx.test", &file];
    for (password, is_right) in [("secret", true), ("Secret", false)] {
        let mut client = Command::new("msmtp");
        client.args(all).args(auth).arg(format!("--passwordeval=echo {password}")).arg("bob@mx.test");
        let sent = mailcell_tests::program::run(client, b"Subject: by SCRAM\n\nHello\n");
        assert_eq!(sent.status.success(), is_right, "{}", sent.stderr);
        assert!(is_right || sent.stderr.contains("535 5.7.8 Authentication failed"), "{}", sent.stderr);
    }
    let messages = setup.messages();
    assert_eq!(messages.len(), 1);
    assert!(messages[0].contains("with ESMTPSA id"), "{messages:?}");
}

fn trust(setup: &Setup) -> String {
    format!("--tls-trust-file={}", setup.certificate.certificate.display())
}

/// The client of RFC 5802 in a few lines, so that it can say what a good one never does.
const SCRAM: &str = r#"
import hashlib, hmac, os, smtplib, ssl, subprocess, sys
from base64 import b64decode, b64encode

def mac(key, text):
    return hmac.new(key, text.encode(), 'sha256').digest()

def exchange(smtp, user, password, replayed=None, meanwhile=lambda: None):
    first = f'n={user},r={b64encode(os.urandom(18)).decode()}'
    code, text = smtp.docmd('AUTH', 'SCRAM-SHA-256 ' + b64encode(b'n,,' + first.encode()).decode())
    assert code == 334, (code, text)
    meanwhile()
    challenge = b64decode(text).decode()
    fields = dict(field.split('=', 1) for field in challenge.split(','))
    salted = hashlib.pbkdf2_hmac('sha256', password.encode(), b64decode(fields['s']), int(fields['i']))
    client_key = mac(salted, 'Client Key')
    without_proof = 'c=biws,r=' + fields['r']
    said = ','.join([first, challenge, without_proof])
    signature = mac(hashlib.sha256(client_key).digest(), said)
    proof = bytes(a ^ b for a, b in zip(client_key, signature))
    final = replayed or without_proof + ',p=' + b64encode(proof).decode()
    code, text = smtp.docmd(b64encode(final.encode()).decode())
    if code == 334:
        assert b64decode(text).decode() == 'v=' + b64encode(mac(mac(salted, 'Server Key'), said)).decode()
        code, text = smtp.docmd('')
    return code, fields, final

def session():
    context = ssl.create_default_context(cafile=sys.argv[2])
    context.check_hostname = False
    smtp = smtplib.SMTP('127.0.0.1', int(sys.argv[1]), 'client.test', timeout=30)
    smtp.starttls(context=context)
    smtp.ehlo()
    assert 'SCRAM-SHA-256' in smtp.esmtp_features['auth']
    return smtp

smtp = session()
# In its middle the session moves to another core.
swap = lambda: subprocess.run(sys.argv[3:], check=True, stdout=subprocess.DEVNULL)
code, known, final = exchange(smtp, 'ann@mx.test', 'secret', meanwhile=swap)
assert code == 235, code
assert b'variant' in smtp.docmd('HELP')[1]
assert smtp.docmd('AUTH', 'PLAIN')[0] == 503
smtp = session()
assert exchange(smtp, 'ann@mx.test', 'secret', replayed=final)[0] == 535, 'replayed in another session'
assert exchange(smtp, 'ann@mx.test', 'wrong')[0] == 535
assert exchange(smtp, 'ann@mx.test', 'secret')[0] == 235
# Whoever asks for a user who is none is told as much as of one, and the same each time.
smtp = session()
code, nobody, _ = exchange(smtp, 'eve@mx.test', 'secret')
again_code, again, _ = exchange(smtp, 'eve@mx.test', 'secret')
assert (code, again_code) == (535, 535)
assert nobody['s'] == again['s'] != known['s'] and len(nobody['s']) == len(known['s'])
assert nobody['i'] == known['i'] and len(nobody['r']) == len(known['r'])
# However the name is written.
def salt(user):
    code, text = smtp.docmd('AUTH', 'SCRAM-SHA-256 ' + b64encode(f'n,,n={user},r=1'.encode()).decode())
    assert (code, smtp.docmd('*')[0]) == (334, 501)
    return dict(field.split('=', 1) for field in b64decode(text).decode().split(','))['s']
assert {salt(user) for user in ('EVE@MX.test', '"eve"@mx.test', 'eve')} == {nobody['s']}
# A name without a domain is one of the server's, and tells nothing of users elsewhere.
assert salt('zoe') == salt('zoe@mx.test') != salt('zoe@elsewhere.test')
assert salt('ann') == salt('ann@mx.test') == known['s']
# The third mistake ends the session.
assert exchange(smtp, 'ann@mx.test', 'wrong')[0] == 421
"#;

#[test]
fn a_scram_exchange_is_good_for_once_and_moves_to_another_core() {
    let setup = setup(&[]);
    setup.add_user("ann@mx.test", "secret");
    setup.add_user("zoe@elsewhere.test", "secret");
    let (port, control) = (setup.server.address.port().to_string(), setup.server.control());
    let core = setup.directory.path().join("variant.wasm");
    std::fs::write(&core, cores::variant()).unwrap();
    let swap = [PROGRAM, "core", "swap", core.to_str().unwrap(), "--control", control.to_str().unwrap()];
    let script = ["-c", SCRAM, &port, setup.certificate.certificate.to_str().unwrap()];
    setup.send("python3", &[&script[..], &swap].concat(), b"");
}
