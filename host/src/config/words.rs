//! Values that are one of some words, and how cores know them.

use std::str::FromStr;

/// A type for the words that a setting may have, from one row for each.
macro_rules! words {
    ($(#[$about:meta])* $name:ident $expected:literal { $($(#[$meaning:meta])* $variant:ident $word:literal,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$meaning])* $variant),* }

        impl $name {
            /// The word.
            pub fn word(self) -> &'static str {
                match self { $($name::$variant => $word),* }
            }
        }

        impl FromStr for $name {
            type Err = &'static str;

            fn from_str(text: &str) -> Result<$name, &'static str> {
                match text {
                    $($word => Ok($name::$variant),)*
                    _ => Err($expected),
                }
            }
        }
    };
}

words! {
    /// What is spoken on a listener.
    Protocol "expected smtp or lmtp" {
        /// SMTP.
        Smtp "smtp",
        /// LMTP, by which another mail server hands mail over. RFC 2033.
        Lmtp "lmtp",
    }
}

words! {
    /// What there is of TLS on a listener.
    TlsUse "expected off, starttls, required or implicit" {
        /// None.
        Off "off",
        /// STARTTLS is offered. RFC 3207.
        Offered "starttls",
        /// STARTTLS is offered, and mail is taken under TLS only.
        Required "required",
        /// Connections begin with TLS. RFC 8314 3.3.
        Implicit "implicit",
    }
}

words! {
    /// Whom mail is accepted for.
    Accept "expected any, domains or users" {
        /// Any recipient.
        Any "any",
        /// Those in the server's domains.
        Domains "domains",
        /// Those of them who are users; without domains, users of every domain.
        Users "users",
    }
}

words! {
    /// Whom VRFY and EXPN are answered to.
    Lookup "expected on, authenticated or off" {
        /// Everyone.
        On "on",
        /// Those who said who they are.
        Authenticated "authenticated",
        /// Nobody.
        Off "off",
    }
}

words! {
    /// Whether clients may say who they are by AUTH. RFC 4954.
    Auth "expected tls, on or off" {
        /// Under TLS.
        Tls "tls",
        /// In the clear, too.
        On "on",
        /// Never.
        Off "off",
    }
}
