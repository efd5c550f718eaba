//! `mailcell message`

use super::args::DatabaseArgs;
use super::output;
use crate::store::{MailStore, Message, MessageDate, MessageFilter, MessageSummary};
use anyhow::Context;
use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp, civil};
use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use uuid::Uuid;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List messages, the latest first.
    #[command(after_help = "\
Examples:
  mailcell message list --to bob@example.org --since 2h
  mailcell message list --since 2026-01-31 --json")]
    List {
        #[command(flatten)]
        filter: FilterArgs,
        /// Print an array of objects
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Show a message: its envelope, and what was received.
    Show {
        /// As `message list` and the server's 250 name it
        id: Uuid,
        /// Print the message octet for octet as it was received
        #[arg(long)]
        raw: bool,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Write messages to files that their owner alone can read, the earliest first, each with its trace lines.
    #[command(after_help = "\
Examples:
  mailcell message export --mbox mail.mbox
  mailcell message export --to bob@example.org --eml mail/")]
    Export {
        #[command(flatten)]
        target: ExportTarget,
        #[command(flatten)]
        filter: FilterArgs,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Remove messages.
    Remove {
        /// One or more messages
        #[arg(required = true)]
        id: Vec<Uuid>,
        #[command(flatten)]
        database: DatabaseArgs,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct FilterArgs {
    /// Only messages to this recipient
    #[arg(long, value_name = "ADDRESS")]
    to: Option<String>,
    /// Only messages from this sender; "" for bounces
    #[arg(long, value_name = "ADDRESS")]
    from: Option<String>,
    /// Only messages received since then: a date, a time by RFC 3339, or how long ago, such as 2h
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    since: Option<Timestamp>,
    /// At most so many, the latest
    #[arg(long, value_name = "COUNT")]
    limit: Option<u64>,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(super) struct ExportTarget {
    /// One file in the mboxrd format, with line ends of one octet; it must not exist
    #[arg(long, value_name = "FILE")]
    mbox: Option<PathBuf>,
    /// A directory, for a file ID.eml each, octet for octet
    #[arg(long, value_name = "DIR")]
    eml: Option<PathBuf>,
}

impl From<FilterArgs> for MessageFilter {
    fn from(args: FilterArgs) -> MessageFilter {
        MessageFilter { to: args.to, from: args.from, since: args.since, limit: args.limit }
    }
}

pub(super) async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::List { filter, json, database } => {
            list(database.open_existing_store().await?.as_ref(), filter.into(), json).await
        }
        Command::Show { id, raw, database } => {
            let message = fetch(database.open_existing_store().await?.as_ref(), id).await?;
            if raw { print_raw(&message) } else { print(&message) }
        }
        Command::Export { target, filter, database } => {
            let store = database.open_existing_store().await?;
            let mut messages = store.list_messages(&filter.into()).await?;
            messages.reverse();
            match (target.mbox, target.eml) {
                (Some(file), _) => export_mbox(store.as_ref(), &messages, &file).await,
                (_, Some(directory)) => export_eml(store.as_ref(), &messages, &directory).await,
                (None, None) => unreachable!("clap asks for one of both"),
            }
        }
        Command::Remove { id, database } => {
            let store = database.open_existing_store().await?;
            for id in id {
                anyhow::ensure!(store.remove_message(id).await?, "there is no message {id}");
            }
            Ok(())
        }
    }
}

async fn fetch(store: &dyn MailStore, id: Uuid) -> anyhow::Result<Message> {
    store.message(id).await?.with_context(|| format!("there is no message {id}"))
}

async fn list(store: &dyn MailStore, filter: MessageFilter, json: bool) -> anyhow::Result<()> {
    let messages = store.list_messages(&filter).await?;
    if json {
        let row = |message: MessageSummary| {
            json!({
                "id": message.id.to_string(),
                "mail_from": message.mail_from,
                "rcpt_to": message.rcpt_to,
                "subject": message.subject,
                "date": show_date(message.date),
                "size": message.size,
                "received_at": message.received_at.to_string(),
                "parameters": message.parameters.and_then(|text| serde_json::from_str::<Value>(&text).ok()),
            })
        };
        return output::print_json(&messages.into_iter().map(row).collect::<Vec<_>>());
    }
    let rows: Vec<_> = messages
        .into_iter()
        .map(|message| {
            let received_at = message.received_at.strftime("%Y-%m-%d %H:%M:%S").to_string();
            let to = match &message.rcpt_to[..] {
                [first, rest @ ..] if !rest.is_empty() => format!("{first} +{}", rest.len()),
                recipients => recipients.concat(),
            };
            let from = format!("<{}>", message.mail_from);
            [
                message.id.to_string(),
                received_at,
                from,
                to,
                message.size.to_string(),
                message.subject.unwrap_or_default(),
            ]
        })
        .collect();
    output::print_table(["ID", "RECEIVED (UTC)", "FROM", "TO", "SIZE", "SUBJECT"], &rows)
}

fn print(message: &Message) -> anyhow::Result<()> {
    let mut out = output::stdout();
    let mut field = |name: &str, value: &str| writeln!(out, "{name:9} {}", output::printable(value));
    field("id", &message.id.to_string())?;
    field("from", &format!("<{}>", message.mail_from))?;
    for recipient in &message.rcpt_to {
        field("to", &format!("<{recipient}>"))?;
    }
    field("subject", message.subject.as_deref().unwrap_or("-"))?;
    field("date", &show_date(message.date))?;
    field("received", &message.received_at.to_string())?;
    if let Some(parameters) = &message.parameters {
        field("asked", parameters)?;
    }
    field("size", &format!("{} octets", message.headers.len() + message.body.len()))?;
    writeln!(out)?;
    let octets = [&message.trace, &message.headers, &message.body].map(|part| String::from_utf8_lossy(part));
    for line in octets.concat().split_terminator('\n') {
        let line = line.strip_suffix('\r').unwrap_or(line);
        writeln!(out, "{}", line.split('\t').map(output::printable).collect::<Vec<_>>().join("\t"))?;
    }
    Ok(out.flush()?)
}

fn print_raw(message: &Message) -> anyhow::Result<()> {
    let mut out = output::stdout();
    out.write_all(&message.headers)?;
    out.write_all(&message.body)?;
    Ok(out.flush()?)
}

async fn export_mbox(store: &dyn MailStore, messages: &[MessageSummary], path: &Path) -> anyhow::Result<()> {
    let cannot = || format!("cannot write {}", path.display());
    let mut file = BufWriter::new(private().create_new(true).open(path).with_context(cannot)?);
    for summary in messages {
        let Some(message) = store.message(summary.id).await? else { continue };
        write_mboxrd(&message, &mut file).with_context(cannot)?;
    }
    file.flush().and_then(|()| file.get_ref().sync_all()).with_context(cannot)
}

/// The mboxrd format: a `From ` line, the message with one-octet line ends, one more `>` in front of every line that
/// starts with any number of them and `From `, and an empty line.
fn write_mboxrd(message: &Message, out: &mut impl Write) -> std::io::Result<()> {
    let sender = if message.mail_from.is_empty() { "MAILER-DAEMON" } else { &message.mail_from };
    writeln!(out, "From {} {}", sender.replace(' ', "_"), message.received_at.strftime("%a %b %e %H:%M:%S %Y"))?;
    let octets = [&message.trace[..], &message.headers, &message.body].concat();
    for line in octets.split_inclusive(|octet| *octet == b'\n') {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let quotes = line.iter().take_while(|octet| **octet == b'>').count();
        if line[quotes..].starts_with(b"From ") {
            out.write_all(b">")?;
        }
        out.write_all(line)?;
        out.write_all(b"\n")?;
    }
    out.write_all(b"\n")
}

async fn export_eml(store: &dyn MailStore, messages: &[MessageSummary], directory: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    for summary in messages {
        let Some(message) = store.message(summary.id).await? else { continue };
        let path = directory.join(format!("{}.eml", message.id));
        let octets = [&message.trace[..], &message.headers, &message.body].concat();
        let file = private().create(true).truncate(true).open(&path);
        let written = file.and_then(|mut file| file.write_all(&octets));
        written.with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// How a file is made that its owner alone can read, as it is with the database.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    options
}

/// By RFC 3339, in the zone that the author wrote it in.
fn show_date(date: MessageDate) -> String {
    let offset = Offset::from_seconds(i32::from(date.zone_minutes) * 60).unwrap_or(Offset::UTC);
    date.at.to_zoned_datetime(TimeZone::fixed(offset)).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
}

fn parse_since(text: &str) -> Result<Timestamp, String> {
    let day = || text.parse::<civil::Date>().ok()?.to_zoned_datetime(TimeZone::UTC).ok().map(|day| day.timestamp());
    let ago = || Timestamp::now().checked_sub(text.parse::<SignedDuration>().ok()?).ok();
    let time = text.parse::<Timestamp>().ok().or_else(day).or_else(ago);
    time.ok_or_else(|| "expected a date such as 2026-01-31, a time such as 2026-01-31T12:00:00Z, or 2h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mboxrd_quotes_from_lines() {
        let message = Message {
            id: Uuid::nil(),
            mail_from: String::new(),
            rcpt_to: Vec::new(),
            subject: None,
            date: MessageDate { at: Timestamp::UNIX_EPOCH, zone_minutes: 0 },
            headers: b"A: 1\r\n\r\n".to_vec(),
            body: b"From x\r\n>From y\r\nFromage\r\nno end".to_vec(),
            trace: b"T: 1\r\n".to_vec(),
            received_at: Timestamp::UNIX_EPOCH,
            parameters: None,
        };
        let mut out = Vec::new();
        write_mboxrd(&message, &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "From MAILER-DAEMON Thu Jan  1 00:00:00 1970\nT: 1\nA: 1\n\n>From x\n>>From y\nFromage\nno end\n\n"
        );
    }

    #[test]
    fn times() {
        assert_eq!(parse_since("1970-01-02").unwrap().as_second(), 86_400);
        assert_eq!(parse_since("1970-01-01T00:01:00Z").unwrap().as_second(), 60);
        assert!(parse_since("2h").is_ok() && parse_since("yesterday").is_err());
        let date = MessageDate { at: Timestamp::UNIX_EPOCH, zone_minutes: -330 };
        assert_eq!(show_date(date), "1969-12-31T18:30:00-05:30");
    }
}
