//! A certificate of one test's own, and a client that trusts it alone.

use mailcell::tls::self_signed;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// The name that certificates are for.
pub const NAME: &str = "mx.test";

/// A certificate and its key, as files that are gone when it is dropped.
pub struct Certificate {
    _directory: TempDir,
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    pem: String,
}

impl Certificate {
    /// Makes one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn make() -> Result<Certificate, String> {
        let (pem, key_pem) = self_signed(vec![NAME.to_owned()]).map_err(|error| error.to_string())?;
        Certificate::write(pem, &key_pem)
    }

    /// Makes one that is valid from the beginning of one year to that of another.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn make_for_years(from: i32, to: i32) -> Result<Certificate, String> {
        let because = |error: rcgen::Error| error.to_string();
        let mut parameters = CertificateParams::new(vec![NAME.to_owned()]).map_err(because)?;
        (parameters.not_before, parameters.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
        let key = KeyPair::generate().map_err(because)?;
        Certificate::write(parameters.self_signed(&key).map_err(because)?.pem(), &key.serialize_pem())
    }

    fn write(pem: String, key_pem: &str) -> Result<Certificate, String> {
        let because = |error: std::io::Error| error.to_string();
        let directory = tempfile::tempdir().map_err(because)?;
        let [certificate, key] = ["mailcell.crt", "mailcell.key"].map(|name| directory.path().join(name));
        std::fs::write(&certificate, &pem).map_err(because)?;
        std::fs::write(&key, key_pem).map_err(because)?;
        Ok(Certificate { _directory: directory, certificate, key, pem })
    }

    /// Begins TLS as a client that trusts nothing else.
    ///
    /// # Errors
    /// When the server shows another certificate, or none.
    pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> Result<TlsStream<S>, String> {
        let mut roots = RootCertStore::empty();
        let certificate = CertificateDer::from_pem_slice(self.pem.as_bytes()).map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
        let config = ClientConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(NAME).map_err(|error| error.to_string())?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|error| error.to_string())
    }
}
