//! What a password becomes before it is stored: an argon2id hash, and SCRAM-SHA-256 material. The password itself is
//! kept nowhere.

use crate::scram;
use crate::store::Credentials;
use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, PasswordHasher, PasswordVerifier};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// A longer one is refused: hashing it would be work without use.
pub const PASSWORD_OCTETS_MAX: usize = 1_024;

/// Makes both forms of a password, each with a salt of its own.
///
/// # Errors
/// When the password is empty or longer than [`PASSWORD_OCTETS_MAX`], or the system gives no random octets.
pub fn from_password(password: &str) -> anyhow::Result<Credentials> {
    anyhow::ensure!(!password.is_empty(), "the password is empty");
    anyhow::ensure!(password.len() <= PASSWORD_OCTETS_MAX, "the password is longer than {PASSWORD_OCTETS_MAX} octets");
    // RFC 4616 2 on PLAIN and RFC 5802 2.2 on SCRAM: both sides normalize the password before they use it.
    let normalized = stringprep::saslprep(password).map_err(|error| anyhow::anyhow!("not a password: {error}"))?;
    anyhow::ensure!(!normalized.is_empty(), "nothing of the password counts");
    let hash = Argon2::default()
        .hash_password(normalized.as_bytes())
        .map_err(|error| anyhow::anyhow!("cannot hash the password: {error}"))?;
    Ok(Credentials { password: hash.to_string(), scram: scram::Keys::of_password(&normalized).to_text() })
}

/// Checks passwords. Hashing one takes as long as it is meant to, so it is done off the threads that serve, and not by more
/// than half of the processors at a time.
pub struct Passwords {
    at_once: Arc<Semaphore>,
    deadline: Duration,
    /// For names that nobody has.
    secret: scram::Key,
    /// What the password of a user is compared with who is none, so that it takes as long.
    nobody: Arc<str>,
}

impl Passwords {
    /// For checks within that time. What `lasting` holds is secret, and stays the same from start to start and from host to host
    /// if it can: what names that nobody has are answered by SCRAM is made of it.
    ///
    /// # Errors
    /// When the system gives no random octets.
    pub fn new(deadline: Duration, lasting: Option<&[u8]>) -> anyhow::Result<Passwords> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let nobody = from_password("nobody has this one")?.password.into();
        let secret = scram::secret(lasting);
        Ok(Passwords { at_once: Arc::new(Semaphore::new(processors.div_ceil(2))), deadline, secret, nobody })
    }

    /// Begins SCRAM, which costs the server next to nothing, with what is stored of the user of that name, if there is
    /// one.
    pub fn begin_scram(
        &self,
        first: &scram::ClientFirst<'_>,
        name: &str,
        stored: Option<&str>,
    ) -> (scram::Exchange, String) {
        scram::Exchange::begin(first, stored, || scram::Keys::of_nobody(name, &self.secret))
    }

    /// Whether it is the password behind that hash; nothing when there was no time to find out.
    pub async fn check(&self, password: String, hash: Option<String>) -> Option<bool> {
        let permit = timeout(self.deadline, self.at_once.clone().acquire_owned()).await.ok()?.ok()?;
        let nobody = self.nobody.clone();
        let check = move || {
            let _permit = permit;
            let is_known = hash.is_some();
            let hash = hash.as_deref().unwrap_or(&nobody);
            let password = stringprep::saslprep(&password).unwrap_or(Cow::Borrowed(&password));
            let is_right = PasswordHash::new(hash)
                .is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok());
            is_known && is_right
        };
        tokio::task::spawn_blocking(check).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_verifies_against_its_hash_and_no_other_does() {
        let credentials = from_password("pencil").unwrap();
        let hash = PasswordHash::new(&credentials.password).unwrap();
        assert_eq!(hash.algorithm.as_str(), "argon2id");
        assert!(Argon2::default().verify_password(b"pencil", &hash).is_ok());
        assert!(Argon2::default().verify_password(b"Pencil", &hash).is_err());
        assert_ne!(from_password("pencil").unwrap().scram, credentials.scram);
        assert!(from_password("").is_err());
        assert!(from_password("\u{ad}").is_err(), "a soft hyphen is nothing");
    }

    #[tokio::test]
    async fn nobody_is_checked_like_somebody() {
        let passwords = Passwords::new(Duration::from_secs(60), None).unwrap();
        let hash = from_password("pencil").unwrap().password;
        let check = |password: &str, hash: Option<&String>| passwords.check(password.to_owned(), hash.cloned());
        assert_eq!(check("pencil", Some(&hash)).await, Some(true));
        assert_eq!(check("Pencil", Some(&hash)).await, Some(false));
        assert_eq!(check("pencil", None).await, Some(false));
        assert_eq!(check("nobody has this one", None).await, Some(false));
        assert_eq!(check("", Some(&String::new())).await, Some(false));
        // However a letter is composed, it is the same password.
        let hash = from_password("pa\u{308}ss").unwrap().password;
        assert_eq!(check("p\u{e4}ss", Some(&hash)).await, Some(true));
    }
}
