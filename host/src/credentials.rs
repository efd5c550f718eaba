//! What a password becomes before it is stored: an argon2id hash, and SCRAM-SHA-256 material. The password itself is
//! kept nowhere.

use crate::store::Credentials;
use argon2::password_hash::phc::Salt;
use argon2::{Argon2, PasswordHasher};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

/// RFC 7677 4 asks for at least 4096; the stored keys are safe behind the same database as the argon2id hash.
const SCRAM_ITERATIONS: u32 = 15_000;

/// A longer one is refused: hashing it would be work without use.
pub const PASSWORD_OCTETS_MAX: usize = 1_024;

/// Makes both forms of a password, each with a salt of its own.
///
/// # Errors
/// When the password is empty or longer than [`PASSWORD_OCTETS_MAX`], or the system gives no random octets.
pub fn from_password(password: &str) -> anyhow::Result<Credentials> {
    anyhow::ensure!(!password.is_empty(), "the password is empty");
    anyhow::ensure!(password.len() <= PASSWORD_OCTETS_MAX, "the password is longer than {PASSWORD_OCTETS_MAX} octets");
    let hash = Argon2::default()
        .hash_password(password.as_bytes())
        .map_err(|error| anyhow::anyhow!("cannot hash the password: {error}"))?;
    // RFC 5802 2.2 on SCRAM: both sides normalize the password before they use it.
    let normalized = stringprep::saslprep(password).map_err(|error| anyhow::anyhow!("not a password: {error}"))?;
    Ok(Credentials { password: hash.to_string(), scram: scram(&normalized, &Salt::generate(), SCRAM_ITERATIONS) })
}

/// `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`, by RFC 5802 3, in the form that RFC 5803 gives it.
fn scram(password: &str, salt: &[u8], iterations: u32) -> String {
    let salted = pbkdf2::pbkdf2_hmac_array::<Sha256, 32>(password.as_bytes(), salt, iterations);
    let stored_key = Sha256::digest(hmac(&salted, b"Client Key"));
    let server_key = hmac(&salted, b"Server Key");
    let encode = |octets: &[u8]| STANDARD.encode(octets);
    format!("SCRAM-SHA-256${iterations}:{}${}:{}", encode(salt), encode(&stored_key), encode(&server_key))
}

fn hmac(key: &[u8], text: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length will do");
    mac.update(text);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use argon2::PasswordVerifier;
    use argon2::password_hash::phc::PasswordHash;

    #[test]
    fn a_password_verifies_against_its_hash_and_no_other_does() {
        let credentials = from_password("pencil").unwrap();
        let hash = PasswordHash::new(&credentials.password).unwrap();
        assert_eq!(hash.algorithm.as_str(), "argon2id");
        assert!(Argon2::default().verify_password(b"pencil", &hash).is_ok());
        assert!(Argon2::default().verify_password(b"Pencil", &hash).is_err());
        assert_ne!(from_password("pencil").unwrap().scram, credentials.scram);
        assert!(from_password("").is_err());
    }

    /// The exchange of RFC 7677 3: its ServerSignature follows from these keys.
    #[test]
    fn scram_material_is_that_of_the_rfc() {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let text = scram("pencil", &salt, 4096);
        let (_, keys) = text.rsplit_once('$').unwrap();
        let server_key = STANDARD.decode(keys.split_once(':').unwrap().1).unwrap();
        let auth_message = "n=user,r=rOprNGfwEbeRWgbNEkqO,\
            r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,\
            c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let signature = STANDARD.encode(hmac(&server_key, auth_message.as_bytes()));
        assert_eq!(signature, "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }
}
