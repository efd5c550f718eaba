//! Who a client is: its password, or its SCRAM exchange, against the users in the database.

use crate::scram::{ClientFirst, Exchange};
use crate::shared::Shared;
use crate::store::User;
use mailcell_core::address::{self, Mailbox};
use mailcell_core::limits::AUTH_FAILURES_MAX;
use mailcell_core::{Identity, Reply};
use tracing::{info, warn};

/// What the host holds of an AUTH that is under way; it stays while the session moves from core to core.
#[derive(Default)]
pub struct Authentication {
    /// How often the client was somebody else. A core that asks on without end learns nothing more.
    failures: u32,
    /// A SCRAM exchange, and whose it is.
    exchange: Option<Box<(Exchange, String)>>,
}

impl Authentication {
    /// Whether a user has this password.
    pub async fn check_password(&mut self, shared: &Shared, home: &str, name: &str, password: String) -> Reply {
        if self.failures >= AUTH_FAILURES_MAX {
            return self.not_authenticated(name);
        }
        let (_, user) = match find(shared, home, name, Unnamed::Any).await {
            Ok(found) => found,
            Err(reply) => return reply,
        };
        let hash = user.as_ref().and_then(|user| user.credentials.as_ref()).map(|made| made.password.clone());
        match (shared.passwords.check(password, hash).await, user) {
            (Some(true), Some(user)) => authenticated(mailbox(&user), String::new()),
            (Some(_), _) => self.not_authenticated(name),
            (None, _) => {
                warn!("too many passwords to check");
                Reply::Unavailable
            }
        }
    }

    /// The client's first message of SCRAM-SHA-256. A user who is none is answered as one is. A name without a domain is one of
    /// `home`: were it a user's of another domain, his salt would tell that there is one, as it is not that of the name at `home`.
    pub async fn scram_first(&mut self, shared: &Shared, home: &str, message: &str) -> Reply {
        self.exchange = None;
        let parsed = ClientFirst::parse(message).filter(|_| self.failures < AUTH_FAILURES_MAX);
        let Some(first) = parsed else { return self.not_authenticated("") };
        let (name, user) = match find(shared, home, &first.user, Unnamed::Home).await {
            Ok(found) => found,
            Err(reply) => return reply,
        };
        let keys = user.as_ref().and_then(|user| user.credentials.as_ref()).map(|made| made.scram.as_str());
        let (exchange, challenge) = shared.passwords.begin_scram(&first, &name, keys);
        self.exchange = Some(Box::new((exchange, user.as_ref().map_or(name, mailbox))));
        Reply::ScramChallenge(challenge)
    }

    /// The client's last message. Each exchange has one, so that none can be tried out or replayed.
    pub fn scram_final(&mut self, message: &str) -> Reply {
        let begun = self.exchange.take().map(|exchange| *exchange);
        let Some((exchange, user)) = begun else { return self.not_authenticated("") };
        match exchange.end(message) {
            Some(server_final) => authenticated(user, server_final),
            None => self.not_authenticated(&user),
        }
    }

    fn not_authenticated(&mut self, name: &str) -> Reply {
        self.failures += 1;
        info!(user = %name.escape_debug(), "not authenticated");
        Reply::NotAuthenticated
    }
}

/// Where a user is looked for who names no domain.
enum Unnamed {
    /// In every domain; the name says who someone is only where one alone has it.
    Any,
    /// In the domain of the server.
    Home,
}

/// What a name is looked up as, which is a name at `home` without a domain, and the user who has it.
async fn find(shared: &Shared, home: &str, name: &str, unnamed: Unnamed) -> Result<(String, Option<User>), Reply> {
    let (local_part, domain) = match Mailbox::parse(name) {
        Some(mailbox) => (mailbox.local_part, Some(mailbox.domain)),
        None => (name, None),
    };
    let local_part = address::lookup_name(local_part);
    let at_home = domain.unwrap_or(home).to_ascii_lowercase();
    let looked_up = format!("{local_part}@{at_home}");
    let domain = domain.or(matches!(unnamed, Unnamed::Home).then_some(at_home.as_str()));
    match shared.store.users_named(&local_part, domain).await {
        Ok(mut users) => Ok((looked_up, users.pop().filter(|_| users.is_empty()))),
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
