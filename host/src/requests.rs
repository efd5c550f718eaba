//! What a core asks of the database, carried out: look-ups in pages, and the message from its octets to its row.

use crate::authentication::Authentication;
use crate::cell::limits;
use crate::permits::MemoryPermit;
use crate::shared::{Entrance, Shared};
use crate::spool::Held;
use crate::store::{self, MessageDate, StoreError};
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use jiff::tz::TimeZone;
use mailcell_core::address;
use mailcell_core::{MailboxPage, Message, Order, Reply, Request};
use std::net::IpAddr;
use std::sync::Arc;
use tracing::{error, info, warn};
use uuid::Uuid;

/// The host's side of one session's `mail-store`.
pub struct Requests {
    shared: Arc<Shared>,
    entrance: Arc<Entrance>,
    client: IpAddr,
    held: Held,
    /// What is left of the list that a look-up gave.
    mailboxes: std::vec::IntoIter<String>,
    /// Whether all of it is ASCII.
    is_ascii: bool,
    authentication: Authentication,
}

impl Requests {
    /// Nothing asked, nothing held.
    pub fn new(shared: Arc<Shared>, entrance: Arc<Entrance>, client: IpAddr) -> Requests {
        let held = Held::new(shared.spool.clone());
        let (mailboxes, authentication) = (Vec::new().into_iter(), Authentication::default());
        Requests { shared, entrance, client, held, mailboxes, is_ascii: true, authentication }
    }

    /// The messages are another client's from here on, and so are mistakes about who it is.
    pub fn name_client(&mut self, client: IpAddr) {
        (self.client, self.authentication) = (client, Authentication::default());
    }

    /// Nobody asks for the rest of a list any more, which may be a long one.
    pub fn forget_list(&mut self) {
        self.mailboxes = Vec::new().into_iter();
    }

    /// Carries out an order.
    pub fn order(&mut self, order: &Order) {
        match order {
            Order::Append(octets) => self.held.append(octets),
            Order::Discard => self.held.clear(),
        }
    }

    /// Moves the message so far out of memory when there is too much of it.
    pub async fn settle(&mut self) {
        if self.held.is_over() {
            self.held.settle().await;
        }
    }

    /// Carries out a request. Every wait in it ends within the database's deadline.
    pub async fn perform(&mut self, request: Request) -> Reply {
        let found = match request {
            Request::StoreMessage(message) => return self.store(*message).await,
            Request::NextPage => return self.page(),
            Request::CheckPassword { user, password } => {
                return self.authentication.check_password(&self.shared, self.entrance.home(), &user, password).await;
            }
            Request::ScramFirst { message } => {
                return self.authentication.scram_first(&self.shared, self.entrance.home(), &message).await;
            }
            Request::ScramFinal { message } => return self.authentication.scram_final(&message),
            Request::AdmitClient { .. } => unreachable!("it is a request about the connection"),
            Request::FindUser { local_part, domain } => {
                self.shared.store.find_user(&local_part, domain.as_deref()).await
            }
            Request::ExpandGroup { name } => self.shared.store.expand_group(&name).await,
        };
        match found {
            Ok(mut mailboxes) => {
                mailboxes.retain(|mailbox| is_sendable(mailbox));
                self.is_ascii = mailboxes.iter().all(|mailbox| mailbox.is_ascii());
                self.mailboxes = mailboxes.into_iter();
                self.page()
            }
            Err(error) => {
                warn!(%error, "look-up failed");
                Reply::Unavailable
            }
        }
    }

    fn page(&mut self) -> Reply {
        let mailboxes = self.mailboxes.by_ref().take(limits::PAGE_MAILBOXES).collect();
        let more = self.mailboxes.len() > 0;
        Reply::Mailboxes(MailboxPage { mailboxes, more, is_ascii: self.is_ascii })
    }

    async fn store(&mut self, message: Message) -> Reply {
        let id = Uuid::now_v7();
        let octets = message.octets;
        let (from, to) = (message.mail_from.clone(), message.rcpt_to.join(","));
        let reply = match self.prepare(id, message).await {
            Ok((message, _memory)) => match self.shared.store.store_message(message).await {
                Ok(()) => Reply::Stored(id.to_string()),
                Err(StoreError::Refused(why)) => {
                    error!(%id, why, "the database does not take a message");
                    Reply::Refused
                }
                Err(error) => {
                    warn!(%id, %error, "a message was not stored");
                    if matches!(error, StoreError::Full(_)) { Reply::OutOfSpace } else { Reply::Unavailable }
                }
            },
            Err(reply) => reply,
        };
        // Whatever became of it, the next message starts with nothing held.
        self.held.clear();
        match &reply {
            Reply::Stored(_) => info!(%id, from, to, octets, "stored"),
            _ => info!(%id, from, to, octets, reply = ?reply, "not stored"),
        }
        reply
    }

    /// Makes the row. Its octets are in memory whole from here on, so a permit for them comes first.
    async fn prepare(&mut self, id: Uuid, message: Message) -> Result<(store::Message, MemoryPermit), Reply> {
        let takes_octets = self.shared.store.takes_octets();
        let octets = if takes_octets { self.held.octets() } else { 0 };
        let memory = self.shared.store_memory.reserve(octets).await.ok_or(Reply::Unavailable)?;
        let taken = match takes_octets {
            true => self.held.take(message.header_octets as usize).await,
            false => self.held.finish().map(|()| Default::default()),
        };
        let (headers, body) = taken.map_err(|error| {
            warn!(%error, "a message could not be held");
            Reply::OutOfSpace
        })?;
        let received_at = Timestamp::now();
        let date = message.date.as_ref().and_then(|date| {
            let at = Timestamp::from_second(date.seconds).ok()?;
            Some(MessageDate { at, zone_minutes: date.zone_minutes })
        });
        let parameters = parameters(&message);
        let trace = trace(&message, &self.entrance.settings.name, self.client, id, received_at);
        let message = store::Message {
            id,
            mail_from: message.mail_from,
            rcpt_to: message.rcpt_to,
            subject: message.subject,
            date: date.unwrap_or(MessageDate { at: received_at, zone_minutes: 0 }),
            headers,
            body,
            trace,
            received_at,
            parameters,
        };
        Ok((message, memory))
    }
}

/// What MAIL and RCPT asked, as the database keeps it.
fn parameters(message: &Message) -> Option<String> {
    let is_asked = !message.mail_parameters.is_empty() || !message.rcpt_parameters.is_empty();
    let json = || serde_json::json!({ "mail": message.mail_parameters, "rcpt": message.rcpt_parameters });
    is_asked.then(|| json().to_string())
}

/// What the database holds is not trusted to fit into a response line.
fn is_sendable(mailbox: &str) -> bool {
    let fits = mailbox.len() <= limits::NAME_OCTETS_MAX && address::is_printable(mailbox);
    if !fits {
        warn!(mailbox = %mailbox.escape_debug(), "a mailbox in the database is none, and is left out");
    }
    fits
}

/// The lines that a receiving server puts in front of a message. RFC 5321 4.4: `Return-Path` by the final system, and
/// `Received` with client, protocol, id and time; `for` only where it tells no recipient of another one.
fn trace(message: &Message, server: &str, client: IpAddr, id: Uuid, at: Timestamp) -> Vec<u8> {
    let address = match client {
        IpAddr::V4(address) => format!("[{address}]"),
        IpAddr::V6(address) => format!("[IPv6:{address}]"),
    };
    let recipient = match &message.rcpt_to[..] {
        [only] => format!("\r\n\tfor <{only}>"),
        _ => String::new(),
    };
    let date = rfc2822::to_string(&at.to_zoned_datetime(TimeZone::UTC)).unwrap_or_else(|_| at.to_string());
    format!(
        "Return-Path: <{from}>\r\nReceived: from {name} ({address})\r\n\tby {server} with {protocol} id {id}{recipient};\r\n\t{date}\r\n",
        from = message.mail_from,
        name = message.client_name,
        protocol = message.protocol,
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_lines() {
        let message = Message {
            mail_from: "ann@client.test".to_owned(),
            rcpt_to: vec!["bob@mx.test".to_owned()],
            mail_parameters: "RET=HDRS".to_owned(),
            rcpt_parameters: vec!["NOTIFY=NEVER".to_owned()],
            client_name: "client.test".to_owned(),
            protocol: "ESMTP".into(),
            subject: None,
            date: None,
            header_octets: 0,
            octets: 0,
        };
        let lines = trace(&message, "mx.test", "::1".parse().unwrap(), Uuid::nil(), Timestamp::UNIX_EPOCH);
        assert_eq!(
            String::from_utf8(lines).unwrap(),
            "Return-Path: <ann@client.test>\r\n\
             Received: from client.test ([IPv6:::1])\r\n\
             \tby mx.test with ESMTP id 00000000-0000-0000-0000-000000000000\r\n\
             \tfor <bob@mx.test>;\r\n\
             \tThu, 1 Jan 1970 00:00:00 +0000\r\n"
        );
        assert_eq!(parameters(&message).as_deref(), Some(r#"{"mail":"RET=HDRS","rcpt":["NOTIFY=NEVER"]}"#));
        let unasked = Message { mail_parameters: String::new(), rcpt_parameters: Vec::new(), ..message };
        assert_eq!(parameters(&unasked), None);
    }
}
