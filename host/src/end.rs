//! Why a connection ends, and what is said of it.

use crate::cell::Fault;
use crate::farewell::farewell;
use crate::shared::Shared;
use std::sync::atomic::Ordering;
use tracing::{debug, info, warn};

/// Why a connection ends other than by QUIT.
pub enum End {
    /// Its core ends it.
    Unasked,
    /// The client closed, or the connection broke.
    Gone,
    /// What is written is not read.
    Stuck,
    /// The client has sent more behind STARTTLS, which could be anybody's. RFC 3207 and CVE-2011-0411.
    Injected,
    /// The cell is lost.
    Fault(Fault),
}

impl From<Fault> for End {
    fn from(fault: Fault) -> End {
        End::Fault(fault)
    }
}

impl End {
    /// Logs and counts it, and gives what the host adds to what the core has said; nothing when there is nobody to hear it.
    pub fn last_words(&self, name: &str, shared: &Shared) -> Option<String> {
        match self {
            End::Unasked => debug!("closed"),
            End::Gone => debug!("the client is gone"),
            End::Stuck => info!("the client does not read what it is sent"),
            End::Injected => info!("the client has sent octets behind STARTTLS in the clear"),
            End::Fault(Fault::NoRoom) => info!("the session is refused, as there is no room for it"),
            // With a directory for recordings it is there.
            End::Fault(fault) if shared.recordings.is_some() => warn!(%fault, "the session is lost"),
            End::Fault(fault) => warn!(%fault, "the session is lost (with record-directory it would be kept)"),
        }
        match self {
            End::Gone | End::Stuck => None,
            End::Unasked => Some(String::new()),
            End::Injected => Some(farewell("4.7.0", name, "Octets behind STARTTLS")),
            End::Fault(fault) => {
                let (counter, status, why) = match fault {
                    Fault::Trap(_) => (&shared.counters.traps, "4.3.0", "Internal error"),
                    Fault::Refused(_) | Fault::Unread(_) => (&shared.counters.refusals, "4.3.0", "Internal error"),
                    Fault::NoRoom => (&shared.counters.refused, "4.3.2", "Too many sessions"),
                };
                counter.fetch_add(1, Ordering::Relaxed);
                Some(farewell(status, name, why))
            }
        }
    }
}
