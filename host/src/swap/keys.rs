//! Signatures of cores: Ed25519 (RFC 8032) over the octets of the file, in base64, in a file beside it.

use anyhow::{Context, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

const PEM_START: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_END: &str = "-----END PRIVATE KEY-----";

/// Whom the server takes cores from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedKeys(Vec<PublicKey>);

/// 32 octets, written in base64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Reads a key.
    pub fn parse(text: &str) -> Option<PublicKey> {
        BASE64.decode(text.trim()).ok()?.try_into().ok().map(PublicKey)
    }
}

impl TrustedKeys {
    /// These and no others; no key at all trusts everyone who may use the control socket.
    pub fn new(keys: Vec<PublicKey>) -> TrustedKeys {
        TrustedKeys(keys)
    }

    /// Checks a component's signature.
    ///
    /// # Errors
    /// When there is none, or it is none of these keys'.
    pub fn check(&self, component: &[u8], signature: Option<&str>) -> anyhow::Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let Some(signature) = signature else { bail!("it is not signed, and core-keys asks for a signature") };
        let Ok(signature) = BASE64.decode(signature.trim()) else { bail!("its signature is no base64") };
        let is_of = |key: &PublicKey| UnparsedPublicKey::new(&ED25519, &key.0).verify(component, &signature).is_ok();
        if self.0.iter().any(is_of) { Ok(()) } else { bail!("its signature is none of the keys' in core-keys") }
    }
}

/// Makes a private key: PKCS #8 in PEM.
///
/// # Errors
/// When the system gives no random octets.
pub fn make_private_key() -> anyhow::Result<String> {
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).ok().context("the system has no randomness")?;
    let lines: Vec<_> = BASE64.encode(document.as_ref()).into_bytes().chunks(64).map(<[u8]>::to_vec).collect();
    let lines: Vec<_> = lines.iter().map(|line| String::from_utf8_lossy(line)).collect();
    Ok(format!("{PEM_START}\n{}\n{PEM_END}\n", lines.join("\n")))
}

fn key_pair(pem: &str) -> anyhow::Result<Ed25519KeyPair> {
    let inner = pem.split_once(PEM_START).and_then(|(_, rest)| rest.split_once(PEM_END)).map(|(inner, _)| inner);
    let inner = inner.context("no private key in PEM (PKCS #8)")?;
    let document = BASE64.decode(inner.split_whitespace().collect::<String>()).context("no base64")?;
    match Ed25519KeyPair::from_pkcs8_maybe_unchecked(&document) {
        Ok(pair) => Ok(pair),
        Err(error) => bail!("no Ed25519 key: {error}"),
    }
}

/// The public half of a private key, as the setting `core-keys` has it.
///
/// # Errors
/// When it is no Ed25519 key.
pub fn public_key(pem: &str) -> anyhow::Result<String> {
    Ok(BASE64.encode(key_pair(pem)?.public_key()))
}

/// Signs a component.
///
/// # Errors
/// When it is no Ed25519 key.
pub fn sign(pem: &str, component: &[u8]) -> anyhow::Result<String> {
    Ok(BASE64.encode(key_pair(pem)?.sign(component)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_is_taken_from_those_who_are_trusted() {
        let (ours, theirs) = (make_private_key().unwrap(), make_private_key().unwrap());
        let key = PublicKey::parse(&public_key(&ours).unwrap()).unwrap();
        let keys = TrustedKeys::new(vec![key]);
        let [good, bad] = [&ours, &theirs].map(|key| sign(key, b"core").unwrap());
        let check = |octets: &[u8], signature| keys.check(octets, signature).map_err(|error| error.to_string());
        assert_eq!(check(b"core", Some(&good)), Ok(()));
        assert!(check(b"core", None).unwrap_err().contains("not signed"));
        assert!(check(b"core", Some("?")).unwrap_err().contains("no base64"));
        assert!(check(b"core", Some(&bad)).unwrap_err().contains("none of the keys"));
        assert!(check(b"cord", Some(&good)).unwrap_err().contains("none of the keys"));
        assert!(TrustedKeys::default().check(b"core", None).is_ok());
    }

    /// RFC 8410 10.3: the private key of the example, and its public half.
    #[test]
    fn keys_of_other_tools_are_read() {
        let pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
        assert_eq!(public_key(pem).unwrap(), "Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=");
        assert!(public_key("x").is_err());
        assert_eq!(PublicKey::parse("AAAA"), None);
    }
}
