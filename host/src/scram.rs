//! SCRAM-SHA-256 as its server: nonces and keys never leave the host. RFC 5802, RFC 7677.

use argon2::password_hash::phc::Salt;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

/// RFC 7677 4 asks for at least 4096; the stored keys are safe behind the same database as the argon2id hash. Whoever changes it
/// lets clients tell users whose passwords are from before from names that nobody has.
const ITERATIONS: u32 = 15_000;

/// A client's nonce, so that the server's first message has a bound. RFC 5802 has none; clients send 18 to 32 octets.
const NONCE_OCTETS_MAX: usize = 128;

/// A key or a secret.
pub type Key = [u8; 32];

/// What a user's password became: enough to check who knows it, and too little to say that one does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    iterations: u32,
    salt: Vec<u8>,
    stored_key: Key,
    server_key: Key,
}

impl Keys {
    /// Of a password that was normalized by SASLprep (RFC 5802 2.2), with a salt of its own.
    pub fn of_password(normalized: &str) -> Keys {
        Keys::with_salt(normalized, Salt::generate().to_vec(), ITERATIONS)
    }

    fn with_salt(password: &str, salt: Vec<u8>, iterations: u32) -> Keys {
        let salted = pbkdf2::pbkdf2_hmac_array::<Sha256, 32>(password.as_bytes(), &salt, iterations);
        let stored_key = Sha256::digest(hmac(&salted, b"Client Key")).into();
        Keys { iterations, salt, stored_key, server_key: hmac(&salted, b"Server Key") }
    }

    /// For a name that nobody has: the same ones each time for as long as `secret` is the same, so that it looks like a user's.
    pub fn of_nobody(name: &str, secret: &Key) -> Keys {
        let made = |what: &str| hmac(secret, format!("{what}{name}").as_bytes());
        Keys {
            iterations: ITERATIONS,
            salt: made("salt")[..Salt::RECOMMENDED_LENGTH].to_vec(),
            stored_key: made("stored key"),
            server_key: made("server key"),
        }
    }

    /// `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`, in the form that RFC 5803 gives it.
    pub fn to_text(&self) -> String {
        let [salt, stored_key, server_key] =
            [&self.salt[..], &self.stored_key, &self.server_key].map(|octets| STANDARD.encode(octets));
        format!("SCRAM-SHA-256${}:{salt}${stored_key}:{server_key}", self.iterations)
    }

    fn parse(text: &str) -> Option<Keys> {
        let (head, keys) = text.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
        let ((iterations, salt), (stored_key, server_key)) = (head.split_once(':')?, keys.split_once(':')?);
        let key = |text: &str| STANDARD.decode(text).ok()?.try_into().ok();
        Some(Keys {
            iterations: iterations.parse().ok()?,
            salt: STANDARD.decode(salt).ok()?,
            stored_key: key(stored_key)?,
            server_key: key(server_key)?,
        })
    }
}

/// A secret that makes keys for names that nobody has: of something else that is secret and lasts, if there is any.
pub fn secret(lasting: Option<&[u8]>) -> Key {
    let random = Salt::generate();
    hmac(lasting.unwrap_or(&random), b"keys of nobody")
}

/// The client's first message.
///
/// ```text
/// client-first-message      = gs2-header client-first-message-bare
/// gs2-header                = ( "n" / "y" ) "," [ "a=" saslname ] ","        ; "p=" is channel binding, which is not offered
/// client-first-message-bare = "n=" saslname "," "r=" c-nonce [ "," extensions ]
/// ```
pub struct ClientFirst<'a> {
    gs2_header: &'a str,
    bare: &'a str,
    nonce: &'a str,
    /// Who the client says that it is.
    pub user: String,
}

impl ClientFirst<'_> {
    /// Reads it; `None` when it is none, or asks for what is not offered.
    pub fn parse(message: &str) -> Option<ClientFirst<'_>> {
        let (binding, rest) = message.split_once(',')?;
        let (other, bare) = rest.split_once(',')?;
        let mut attributes = bare.split(',');
        let user = undo_name(attributes.next()?.strip_prefix("n=")?)?;
        let nonce = attributes.next()?.strip_prefix("r=")?;
        let is_nonce = (1..=NONCE_OCTETS_MAX).contains(&nonce.len()) && nonce.bytes().all(|b| b.is_ascii_graphic());
        // Who speaks for somebody else is not let in as either.
        let is_oneself = other.is_empty() || other.strip_prefix("a=").and_then(undo_name).as_ref() == Some(&user);
        let gs2_header = &message[..message.len() - bare.len()];
        (matches!(binding, "n" | "y") && is_oneself && is_nonce).then_some(ClientFirst {
            gs2_header,
            bare,
            nonce,
            user,
        })
    }
}

/// ```text
/// saslname = 1*( value-safe-char / "=2C" / "=3D" )
/// ```
fn undo_name(text: &str) -> Option<String> {
    let plain = text.replace("=2C", ",").replace("=3D", "=");
    let escapes = text.matches("=2C").count() + text.matches("=3D").count();
    (!text.is_empty() && text.matches('=').count() == escapes).then_some(plain)
}

/// An exchange that waits for the client's last message.
pub struct Exchange {
    /// What the client's last message repeats in base64.
    gs2_header: String,
    /// Both sides' nonces.
    nonce: String,
    /// The messages so far, which the proofs are about.
    messages: String,
    keys: Keys,
    /// Whether these are a user's.
    is_known: bool,
}

impl Exchange {
    /// Begins with what is stored of a user, or else with keys of nobody; gives what the server says next.
    pub fn begin(first: &ClientFirst<'_>, stored: Option<&str>, nobody: impl FnOnce() -> Keys) -> (Exchange, String) {
        Exchange::with_nonce(first, stored, nobody, &STANDARD.encode(Salt::generate()))
    }

    fn with_nonce(
        first: &ClientFirst<'_>,
        stored: Option<&str>,
        nobody: impl FnOnce() -> Keys,
        nonce: &str,
    ) -> (Exchange, String) {
        let known = stored.and_then(Keys::parse);
        let is_known = known.is_some();
        let keys = known.unwrap_or_else(nobody);
        let nonce = format!("{}{nonce}", first.nonce);
        let challenge = format!("r={nonce},s={},i={}", STANDARD.encode(&keys.salt), keys.iterations);
        let messages = format!("{},{challenge}", first.bare);
        (Exchange { gs2_header: first.gs2_header.to_owned(), nonce, messages, keys, is_known }, challenge)
    }

    /// Checks the client's last message; gives the server's proof when it is right. An exchange ends by that, so that no message
    /// is good for a second one.
    ///
    /// ```text
    /// client-final-message = "c=" base64 "," "r=" nonce [ "," extensions ] "," "p=" base64
    /// ```
    pub fn end(self, message: &str) -> Option<String> {
        let (without_proof, proof) = message.rsplit_once(",p=")?;
        let mut attributes = without_proof.split(',');
        let is_about_this = attributes.next()? == format!("c={}", STANDARD.encode(&self.gs2_header))
            && attributes.next()? == format!("r={}", self.nonce);
        let proof: Key = STANDARD.decode(proof).ok()?.try_into().ok()?;
        let messages = format!("{},{without_proof}", self.messages);
        let signature = hmac(&self.keys.stored_key, messages.as_bytes());
        let client_key: Vec<u8> = proof.iter().zip(signature).map(|(proof, signed)| proof ^ signed).collect();
        let is_right = is_alike(&Sha256::digest(client_key).into(), &self.keys.stored_key);
        let server_signature = hmac(&self.keys.server_key, messages.as_bytes());
        (is_right && is_about_this && self.is_known).then(|| format!("v={}", STANDARD.encode(server_signature)))
    }
}

/// Takes the same time whatever the keys are.
fn is_alike(one: &Key, other: &Key) -> bool {
    one.iter().zip(other).fold(0, |found, (a, b)| found | (a ^ b)) == 0
}

fn hmac(key: &[u8], text: &[u8]) -> Key {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length will do");
    mac.update(text);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    // The exchange of RFC 7677 3.
    const FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                         p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";

    fn stored() -> String {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        Keys::with_salt("pencil", salt, 4096).to_text()
    }

    fn begin(stored: Option<&str>) -> (Exchange, String) {
        Exchange::with_nonce(&ClientFirst::parse(FIRST).unwrap(), stored, nobody("user"), SERVER_NONCE)
    }

    fn nobody(name: &str) -> impl FnOnce() -> Keys {
        move || Keys::of_nobody(name, &secret(Some(b"secret")))
    }

    #[test]
    fn the_exchange_of_the_rfc() {
        let (exchange, challenge) = begin(Some(&stored()));
        assert_eq!(challenge, "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096");
        assert_eq!(exchange.end(FINAL).as_deref(), Some("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
    }

    #[test]
    fn what_is_not_the_proof_of_this_exchange_proves_nothing() {
        let end = |message: &str| begin(Some(&stored())).0.end(message);
        assert!(end(FINAL).is_some());
        for bad in [
            "",
            "p=",
            &FINAL.replace("biws", "eSws"),
            &FINAL.replace("k0,", "k1,"),
            &FINAL.replace("dHzb", "dHzc"),
            &FINAL.replace("p=dHzb", "p=!"),
            &FINAL.replace(",p=", ",x=1,p="),
            FINAL.split_once(",p=").unwrap().0,
        ] {
            assert_eq!(end(bad), None, "{bad}");
        }
        // The same message replayed meets another nonce.
        let first = ClientFirst::parse(FIRST).unwrap();
        let (another, _) = Exchange::begin(&first, Some(&stored()), nobody("user"));
        assert_eq!(another.end(FINAL), None);
        assert_eq!(begin(None).0.end(FINAL), None);
        assert_eq!(begin(Some("no keys")).0.end(FINAL), None);
    }

    #[test]
    fn nobody_looks_like_somebody() {
        let [one, again] = [begin(None).1, begin(None).1];
        assert_eq!(one, again, "the salt is the same each time");
        let first = ClientFirst::parse(FIRST).unwrap();
        let (exchange, challenge) = Exchange::with_nonce(&first, None, nobody("other"), SERVER_NONCE);
        assert_ne!(one, challenge, "each has one of its own");
        assert!(!exchange.is_known);
        assert_ne!(secret(None), secret(None), "without anything that lasts it is another one each time");
        let made = Keys::of_password("pencil");
        assert_eq!((exchange.keys.salt.len(), exchange.keys.iterations), (made.salt.len(), made.iterations));
    }

    #[test]
    fn first_messages() {
        let user = |message| ClientFirst::parse(message).map(|first| first.user);
        assert_eq!(user("y,,n=a=2Cb=3Dc@mx.test,r=1,x=2").as_deref(), Some("a,b=c@mx.test"));
        assert_eq!(user("n,a=ann,n=ann,r=1").as_deref(), Some("ann"));
        for bad in [
            "",
            "n",
            "n,,",
            "n,,n=,r=1",
            "n,,n=ann",
            "n,,n=ann,r=",
            "n,,r=1,n=ann",
            "n,,m=x,n=ann,r=1",
            "n,a=bob,n=ann,r=1",
            "n,b=ann,n=ann,r=1",
            "p=tls-unique,,n=ann,r=1",
            "x,,n=ann,r=1",
            "n,,n=a=2cb,r=1",
            "n,,n=a=b,r=1",
            "n,,n=ann,r=a b",
            &format!("n,,n=ann,r={}", "1".repeat(129)),
        ] {
            assert_eq!(user(bad), None, "{bad}");
        }
    }

    #[test]
    fn keys_are_read_back() {
        let keys = Keys::of_password("pencil");
        assert_eq!(Keys::parse(&keys.to_text()), Some(keys));
        for bad in ["", "SCRAM-SHA-256$", "SCRAM-SHA-256$1:AA==$AA==:AA==", "SCRAM-SHA-1$1:AA==$AA==:AA=="] {
            assert_eq!(Keys::parse(bad), None, "{bad}");
        }
    }
}
