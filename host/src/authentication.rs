//! Who a client is: its password, or its SCRAM exchange, against the users in the database.

use crate::scram::{ClientFirst, Exchange};
use crate::shared::Shared;
use crate::store::User;
use mailcell_core::address::{self, Mailbox};
use mailcell_core::{Identity, Reply};
use tracing::{info, warn};

/// What the host holds of an AUTH that is under way; it stays while the session moves from core to core.
#[derive(Default)]
pub struct Authentication {
    /// A SCRAM exchange, and whose it is.
    exchange: Option<Box<(Exchange, String)>>,
}

impl Authentication {
    /// Whether a user has this password.
    pub async fn check_password(&self, shared: &Shared, name: &str, password: String) -> Reply {
        let user = match find(shared, name).await {
            Ok(user) => user,
            Err(reply) => return reply,
        };
        let hash = user.as_ref().and_then(|user| user.credentials.as_ref()).map(|made| made.password.clone());
        match (shared.passwords.check(password, hash).await, user) {
            (Some(true), Some(user)) => authenticated(mailbox(&user), String::new()),
            (Some(_), _) => not_authenticated(name),
            (None, _) => {
                warn!("too many passwords to check");
                Reply::Unavailable
            }
        }
    }

    /// The client's first message of SCRAM-SHA-256. A user who is none is answered as one is.
    pub async fn scram_first(&mut self, shared: &Shared, message: &str) -> Reply {
        self.exchange = None;
        let Some(first) = ClientFirst::parse(message) else { return not_authenticated("") };
        let user = match find(shared, &first.user).await {
            Ok(user) => user,
            Err(reply) => return reply,
        };
        let keys = user.as_ref().and_then(|user| user.credentials.as_ref()).map(|made| made.scram.as_str());
        let (exchange, challenge) = shared.passwords.begin_scram(&first, keys);
        let name = user.as_ref().map_or_else(|| first.user.clone(), mailbox);
        self.exchange = Some(Box::new((exchange, name)));
        Reply::ScramChallenge(challenge)
    }

    /// The client's last message. Each exchange has one, so that none can be tried out or replayed.
    pub fn scram_final(&mut self, message: &str) -> Reply {
        let Some((exchange, user)) = self.exchange.take().map(|exchange| *exchange) else {
            return not_authenticated("");
        };
        match exchange.end(message) {
            Some(server_final) => authenticated(user, server_final),
            None => not_authenticated(&user),
        }
    }
}

/// The user of that name. Without a domain, a name says who someone is only where one alone has it.
async fn find(shared: &Shared, name: &str) -> Result<Option<User>, Reply> {
    let (local_part, domain) = match Mailbox::parse(name) {
        Some(mailbox) => (mailbox.local_part, Some(mailbox.domain)),
        None => (name, None),
    };
    match shared.store.users_named(&address::lookup_name(local_part), domain).await {
        Ok(mut users) => Ok(users.pop().filter(|_| users.is_empty())),
        Err(error) => {
            warn!(%error, "look-up failed");
            Err(Reply::Unavailable)
        }
    }
}

fn mailbox(user: &User) -> String {
    format!("{}@{}", user.username, user.domain)
}

fn authenticated(user: String, server_final: String) -> Reply {
    info!(user, "authenticated");
    Reply::Authenticated(Identity { user, server_final })
}

fn not_authenticated(name: &str) -> Reply {
    info!(user = %name.escape_debug(), "not authenticated");
    Reply::NotAuthenticated
}
