//! The lines `A:`: what the host answers.

use crate::escape;
use mailcell_core::{Identity, MailboxPage, Reply};

pub(super) fn parse_reply(word: (&str, &str)) -> Result<Reply, String> {
    Ok(match word {
        ("none", "") => Reply::Mailboxes(MailboxPage::new(Vec::new(), false)),
        ("stored", id) if !id.is_empty() => Reply::Stored(id.to_owned()),
        ("unavailable", "") => Reply::Unavailable,
        ("out-of-space", "") => Reply::OutOfSpace,
        ("refused", "") => Reply::Refused,
        ("authenticated", user) if !user.is_empty() => {
            Reply::Authenticated(Identity { user: user.to_owned(), server_final: String::new() })
        }
        ("not-authenticated", "") => Reply::NotAuthenticated,
        ("scram-challenge", text) if !text.is_empty() => Reply::ScramChallenge(text.to_owned()),
        ("scram-authenticated", rest) => {
            let (server_final, user) = rest.split_once(' ').ok_or("scram-authenticated TEXT USER")?;
            Reply::Authenticated(Identity { user: user.to_owned(), server_final: server_final.to_owned() })
        }
        ("admitted", "") => Reply::Admitted,
        ("not-admitted", "") => Reply::NotAdmitted,
        (word, _) => return Err(format!("no such reply: {word:?}")),
    })
}

pub(super) fn write_reply(reply: &Reply) -> Vec<String> {
    match reply {
        Reply::Mailboxes(page) if page.mailboxes.is_empty() => vec!["A: none".to_owned()],
        Reply::Mailboxes(page) => {
            let users = page.mailboxes.iter().map(|mailbox| format!("A: user {}", escape::encode(mailbox.as_bytes())));
            let is_ascii = page.is_ascii || page.mailboxes.iter().any(|mailbox| !mailbox.is_ascii());
            let more = if is_ascii { "A: more" } else { "A: more utf8" };
            users.chain(page.more.then(|| more.to_owned())).collect()
        }
        Reply::Stored(id) => vec![format!("A: stored {id}")],
        Reply::Unavailable => vec!["A: unavailable".to_owned()],
        Reply::OutOfSpace => vec!["A: out-of-space".to_owned()],
        Reply::Refused => vec!["A: refused".to_owned()],
        Reply::Authenticated(Identity { user, server_final }) if server_final.is_empty() => {
            vec![format!("A: authenticated {user}")]
        }
        Reply::Authenticated(Identity { user, server_final }) => {
            vec![format!("A: scram-authenticated {server_final} {user}")]
        }
        Reply::NotAuthenticated => vec!["A: not-authenticated".to_owned()],
        Reply::ScramChallenge(text) => vec![format!("A: scram-challenge {text}")],
        Reply::Admitted => vec!["A: admitted".to_owned()],
        Reply::NotAdmitted => vec!["A: not-admitted".to_owned()],
    }
}
