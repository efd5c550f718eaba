//! Whether settings fit together.

use super::{Accept, Listener, Settings, TlsUse};
use crate::store::TlsMode;
use anyhow::ensure;

impl Settings {
    /// Sees that all of them fit together; touches no file.
    ///
    /// # Errors
    /// What is missing, or too much.
    pub fn check(&self) -> anyhow::Result<()> {
        self.check_slots()?;
        for listener in &self.listen {
            let own = self.of(listener);
            own.check_on(listener)?;
            own.tls_of(listener)?;
        }
        let has_whole_certificate = self.tls_certificate.is_some() == self.tls_key.is_some();
        ensure!(has_whole_certificate, "TLS needs both tls-certificate and tls-key");
        self.check_uses()?;
        self.check_database()
    }

    /// Sees that nothing is asked for which something else would have to be there for.
    fn check_uses(&self) -> anyhow::Result<()> {
        let is_recording = self.record_directory.is_some();
        ensure!(is_recording || self.record == 0, "record needs record-directory: nothing is recorded otherwise");
        ensure!(is_recording || !self.record_content, "record-content=keep needs record-directory");
        let has_file = !self.core_watch_file || !self.core.is_empty();
        ensure!(has_file, "core-reload=watch needs core: there is no file to watch otherwise");
        let has_proxied = self.proxy_from.is_empty() || self.listen.iter().any(|listener| listener.is_proxied);
        ensure!(has_proxied, "proxy-from needs a listener with proxy=on: no proxy is believed otherwise");
        Ok(())
    }

    /// Sees that what is said of the database fits together.
    ///
    /// # Errors
    /// What is missing.
    pub fn check_database(&self) -> anyhow::Result<()> {
        let is_used = self.database_ca_file.is_none() || self.database_tls == TlsMode::Required;
        ensure!(is_used, "database-ca-file needs database-tls=required: nothing is verified otherwise");
        Ok(())
    }

    /// Sees that the settings of a listener fit together.
    ///
    /// # Errors
    /// What is missing.
    pub fn check_on(&self, listener: &Listener) -> anyhow::Result<()> {
        let address = listener.address;
        let has_recipients = self.accept != Accept::Domains || !self.domains.is_empty();
        ensure!(has_recipients, "{address}: accept=domains needs domains");
        let has_proxies = !listener.is_proxied || !self.proxy_from.is_empty();
        ensure!(has_proxies, "{address}: proxy=on needs proxy-from, the proxies that are believed");
        Ok(())
    }

    /// What there is of TLS on a listener: STARTTLS, unless it says otherwise, when there is a certificate.
    ///
    /// # Errors
    /// When it wants TLS and there is no certificate.
    pub fn tls_of(&self, listener: &Listener) -> anyhow::Result<TlsUse> {
        let has_certificate = self.tls_certificate.is_some() && self.tls_key.is_some();
        let tls = listener.tls.unwrap_or(if has_certificate { TlsUse::Offered } else { TlsUse::Off });
        ensure!(
            tls == TlsUse::Off || has_certificate,
            "{}: TLS needs tls-certificate and tls-key (to try things out, `mailcell tls self-signed` makes both)",
            listener.address
        );
        Ok(tls)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_together_is_said() {
        let check = |settings: Settings| settings.check().map_err(|error| error.to_string());
        let error = |settings| check(settings).unwrap_err();
        let on = |listener: &str| Settings { listen: vec![listener.parse().unwrap()], ..Settings::default() };
        assert_eq!(check(Settings::default()), Ok(()));
        assert!(error(on("[::1]:25 slot=strict")).contains("slot=strict needs a core"));
        assert!(error(on("[::1]:25 proxy=on")).contains("proxy=on needs proxy-from"));
        assert!(error(on("[::1]:25 accept=domains")).contains("accept=domains needs domains"));
        assert!(error(on("[::1]:25 tls=required")).contains("TLS needs tls-certificate and tls-key"));
        let half = Settings { tls_key: Some("key".into()), ..Settings::default() };
        assert_eq!(error(half), "TLS needs both tls-certificate and tls-key");
    }

    #[test]
    fn what_would_be_of_no_use_is_refused() {
        let check = |settings: Settings| settings.check().map_err(|error| error.to_string());
        let error = |settings| check(settings).unwrap_err();
        assert!(error(Settings { record: 5, ..Settings::default() }).starts_with("record needs record-directory"));
        let kept = Settings { record_content: true, ..Settings::default() };
        assert_eq!(error(kept.clone()), "record-content=keep needs record-directory");
        let directory = Some("recordings".into());
        assert_eq!(check(Settings { record: 5, record_directory: directory, ..kept }), Ok(()));
        let watched = Settings { core_watch_file: true, ..Settings::default() };
        assert!(error(watched).starts_with("core-reload=watch needs core"));
        let believed = Settings { proxy_from: vec!["10.0.0.0/8".parse().unwrap()], ..Settings::default() };
        assert!(error(believed.clone()).starts_with("proxy-from needs a listener with proxy=on"));
        let listen = ["[::1]:25", "[::1]:26 proxy=on"].map(|listener| listener.parse().unwrap()).into();
        assert_eq!(check(Settings { listen, ..believed }), Ok(()));
    }

    #[test]
    fn a_ca_file_that_nothing_is_verified_by_is_refused() {
        let check = |tls| {
            let ca_file = Some("ca.pem".into());
            Settings { database_ca_file: ca_file, database_tls: tls, ..Settings::default() }.check()
        };
        assert!(check(TlsMode::Required).is_ok());
        for tls in [TlsMode::Disabled, TlsMode::Insecure] {
            assert!(check(tls).unwrap_err().to_string().contains("database-ca-file needs database-tls=required"));
        }
    }
}
