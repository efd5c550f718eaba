//! Where mail is received, and how: an address, and behind it `KEY=VALUE` with spaces between.

use std::net::SocketAddr;
use std::str::FromStr;

/// A listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where.
    pub address: SocketAddr,
    /// What there is of TLS, if it is said.
    pub tls: Option<TlsUse>,
    /// What is spoken.
    pub protocol: Protocol,
    /// Whether a proxy says first where the client is.
    pub is_proxied: bool,
}

/// What is spoken on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// SMTP.
    Smtp,
    /// LMTP, by which another mail server hands mail over. RFC 2033.
    Lmtp,
}

/// What there is of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsUse {
    /// None.
    Off,
    /// STARTTLS is offered. RFC 3207.
    Offered,
    /// STARTTLS is offered, and mail is taken under TLS only.
    Required,
    /// Connections begin with TLS. RFC 8314 3.3.
    Implicit,
}

impl FromStr for Listener {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Listener, &'static str> {
        let mut parts = text.split(' ').filter(|part| !part.is_empty());
        let address = parts.next().and_then(|address| address.parse().ok());
        let address = address.ok_or("expected an address and a port such as 127.0.0.1:2525")?;
        let mut listener = Listener { address, tls: None, protocol: Protocol::Smtp, is_proxied: false };
        for part in parts {
            match part {
                "tls=off" => listener.tls = Some(TlsUse::Off),
                "tls=starttls" => listener.tls = Some(TlsUse::Offered),
                "tls=required" => listener.tls = Some(TlsUse::Required),
                "tls=implicit" => listener.tls = Some(TlsUse::Implicit),
                "protocol=smtp" => listener.protocol = Protocol::Smtp,
                "protocol=lmtp" => listener.protocol = Protocol::Lmtp,
                "proxy=off" => listener.is_proxied = false,
                "proxy=on" => listener.is_proxied = true,
                _ => {
                    return Err(
                        "expected tls=off, starttls, required or implicit, protocol=lmtp or proxy=on behind an address",
                    );
                }
            }
        }
        Ok(listener)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_and_what_is_behind_it() {
        let tls = |text: &str| text.parse().map(|listener: Listener| listener.tls);
        assert_eq!(tls("[::1]:25"), Ok(None));
        assert_eq!(tls("127.0.0.1:465  tls=implicit"), Ok(Some(TlsUse::Implicit)));
        let listener: Listener = "[::1]:24 protocol=lmtp tls=off".parse().unwrap();
        assert_eq!((listener.protocol, listener.tls), (Protocol::Lmtp, Some(TlsUse::Off)));
        assert!("[::1]:24 protocol=http".parse::<Listener>().is_err());
        assert!(tls("127.0.0.1:465 tls=on").is_err_and(|error| error.starts_with("expected tls=off")));
        assert!(tls("tls=implicit").is_err_and(|error| error.starts_with("expected an address")));
        assert!(tls("").is_err());
    }
}
