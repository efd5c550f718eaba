//! TLS of listeners, by rustls: 1.2 and 1.3, with a certificate from files that are read again when they change.

use crate::config::Settings;
use anyhow::{Context, bail, ensure};
use jiff::Timestamp;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, version};
use tracing::{error, info, warn};

/// How often the files are looked at.
const LOOK_UP: Duration = Duration::from_secs(5);

/// How long a client may take until TLS has begun.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// The certificate that the server shows.
pub struct Certificates {
    certificate: PathBuf,
    key: PathBuf,
    current: RwLock<Arc<ServerConfig>>,
    /// How old the files were that were read first.
    first: [Option<SystemTime>; 2],
}

impl Certificates {
    /// Those of a configuration, if it has any.
    ///
    /// # Errors
    /// As [`Certificates::load`].
    pub fn of(settings: &Settings) -> anyhow::Result<Option<Certificates>> {
        match (&settings.tls_certificate, &settings.tls_key) {
            (Some(certificate), Some(key)) => Certificates::load(certificate, key).map(Some),
            (None, None) => Ok(None),
            _ => bail!("TLS needs both tls-certificate and tls-key"),
        }
    }

    /// Reads a certificate with its chain, and its key, both as PEM.
    ///
    /// # Errors
    /// One line that names the file and what is wrong with it.
    pub fn load(certificate: &Path, key: &Path) -> anyhow::Result<Certificates> {
        let first = stamps([certificate, key]);
        let current = RwLock::new(read(certificate, key)?);
        Ok(Certificates { certificate: certificate.to_owned(), key: key.to_owned(), current, first })
    }

    /// What begins TLS on a connection.
    pub fn acceptor(&self) -> TlsAcceptor {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone().into()
    }

    /// Reads the files again whenever they have changed. What cannot be used changes nothing, and is logged.
    pub async fn watch(self: Arc<Self>) {
        let mut seen = self.first;
        loop {
            sleep(LOOK_UP).await;
            let stamp = stamps([&self.certificate, &self.key]);
            if stamp == seen {
                continue;
            }
            // A certificate is often replaced before its key: what does not fit now is read again with the next change.
            seen = stamp;
            match read(&self.certificate, &self.key) {
                Ok(config) => {
                    *self.current.write().unwrap_or_else(PoisonError::into_inner) = config;
                    info!(certificate = %self.certificate.display(), "read the certificate again");
                }
                Err(error) => error!("the certificate stays the one that it was: {error:#}"),
            }
        }
    }
}

fn stamps(files: [&Path; 2]) -> [Option<SystemTime>; 2] {
    files.map(|path| std::fs::metadata(path).and_then(|data| data.modified()).ok())
}

fn read(certificate: &Path, key: &Path) -> anyhow::Result<Arc<ServerConfig>> {
    let (chain_path, key_path) = (certificate.display().to_string(), key.display().to_string());
    let pem = |path: &Path| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let chain = CertificateDer::pem_slice_iter(&pem(certificate)?).collect::<Result<Vec<_>, _>>();
    let chain = chain.with_context(|| format!("{chain_path}: not a certificate in PEM form"))?;
    let Some(first) = chain.first() else { bail!("{chain_path}: it holds no certificate in PEM form") };
    check_dates(first, &chain_path)?;
    let key = PrivateKeyDer::from_pem_slice(&pem(key)?);
    let key = key.with_context(|| format!("{key_path}: not a private key in PEM form"))?;
    let config = ServerConfig::builder_with_provider(ring::default_provider().into())
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .with_context(|| format!("{key_path} is not the key of {chain_path}"))?;
    Ok(config.into())
}

/// A certificate that is out of date is shown all the same: who does not look at it is served, and who does, says so.
fn check_dates(certificate: &CertificateDer<'_>, path: &str) -> anyhow::Result<()> {
    let (rest, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|error| anyhow::anyhow!("{path}: not a certificate: {error}"))?;
    ensure!(rest.is_empty(), "{path}: octets behind the certificate");
    let (from, to) = (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
    let now = Timestamp::now().as_second();
    let date = |seconds| Timestamp::from_second(seconds).map_or("no date".to_owned(), |at| at.to_string());
    if now > to {
        warn!(certificate = path, "the certificate has expired, on {}", date(to));
    } else if now < from {
        warn!(certificate = path, "the certificate is not valid before {}", date(from));
    }
    Ok(())
}

/// A certificate for these names that nobody but itself vouches for, and its key, as PEM.
///
/// # Errors
/// When a name is none.
pub fn self_signed(names: Vec<String>) -> anyhow::Result<(String, String)> {
    let signed = rcgen::generate_simple_self_signed(names).context("cannot make a certificate")?;
    Ok((signed.cert.pem(), signed.signing_key.serialize_pem()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(certificate: &str, key: &str) -> String {
        let place = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = place.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let (certificate, key) = (write("c.pem", certificate), write("k.pem", key));
        let error = Certificates::load(&certificate, &key).err().map(|error| format!("{error:#}")).unwrap_or_default();
        error.replace(&format!("{}/", place.path().display()), "")
    }

    #[test]
    fn what_is_wrong_with_a_certificate_is_said() {
        let [one, other] = [(); 2].map(|()| self_signed(vec!["mx.test".to_owned()]).unwrap());
        assert_eq!(error(&one.0, &one.1), "");
        assert!(error(&one.0, &other.1).starts_with("k.pem is not the key of c.pem"), "{}", error(&one.0, &other.1));
        assert_eq!(error("", &one.1), "c.pem: it holds no certificate in PEM form");
        assert!(error(&one.0, "").starts_with("k.pem: not a private key in PEM form"));
        assert!(error(&one.0, &one.0).starts_with("k.pem: not a private key in PEM form"));
        let cut = one.0[..one.0.len() / 2].to_owned();
        assert!(error(&cut, &one.1).starts_with("c.pem: "), "{}", error(&cut, &one.1));
        let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(error(garbage, &one.1).starts_with("c.pem: not a certificate"), "{}", error(garbage, &one.1));
        let nowhere = Certificates::load(Path::new("/nowhere/c.pem"), Path::new("/nowhere/k.pem")).err().unwrap();
        assert!(format!("{nowhere:#}").starts_with("cannot read /nowhere/c.pem: "));
    }

    #[tokio::test]
    async fn files_that_changed_while_the_server_started_are_read_again() {
        let place = tempfile::tempdir().unwrap();
        let files = ["c.pem", "k.pem"].map(|name| place.path().join(name));
        let put = |age: Duration| {
            let pems: [String; 2] = self_signed(vec!["mx.test".to_owned()]).unwrap().into();
            for (path, pem) in files.iter().zip(pems) {
                std::fs::write(path, pem).unwrap();
                std::fs::File::options().write(true).open(path).unwrap().set_modified(SystemTime::now() - age).unwrap();
            }
        };
        put(Duration::from_secs(60));
        let certificates = Arc::new(Certificates::load(&files[0], &files[1]).unwrap());
        let first = certificates.acceptor();
        put(Duration::ZERO);
        let watch = tokio::spawn(certificates.clone().watch());
        let is_read = async {
            while Arc::ptr_eq(certificates.acceptor().config(), first.config()) {
                sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(4 * LOOK_UP, is_read).await.unwrap();
        watch.abort();
    }
}
