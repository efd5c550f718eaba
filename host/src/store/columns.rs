//! How values become columns, and columns values again; the same for both stores.

use super::{Message, MessageDate, Result, StoreError};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::fmt::temporal::DateTimePrinter;
use jiff::tz::Offset;
use uuid::Uuid;

const SECONDS: DateTimePrinter = DateTimePrinter::new().separator(b' ').precision(Some(0));
const MICROS: DateTimePrinter = SECONDS.precision(Some(6));

/// `YYYY-MM-DD HH:MM:SS.ffffff` in UTC: sorts as text as it does in time.
pub(super) fn micros(at: Timestamp) -> String {
    MICROS.datetime_to_string(&Offset::UTC.to_datetime(at))
}

/// `YYYY-MM-DD HH:MM:SS` in UTC.
fn seconds(at: Timestamp) -> String {
    SECONDS.datetime_to_string(&Offset::UTC.to_datetime(at))
}

/// The author's date as text in UTC. A year that MySQL's DATETIME does not know counts as a broken date, so the time of
/// arrival takes its place.
pub(super) fn date(message: &Message) -> String {
    let year = Offset::UTC.to_datetime(message.date.at).year();
    seconds(if (1000..=9999).contains(&year) { message.date.at } else { message.received_at })
}

/// A date and time in UTC, from either of the forms above.
pub(super) fn parse_time(text: &str) -> Result<Timestamp> {
    text.parse::<DateTime>().map_err(|_| damaged("time", text)).and_then(timestamp)
}

/// A civil date and time as one in UTC.
pub(super) fn timestamp(at: DateTime) -> Result<Timestamp> {
    Offset::UTC.to_timestamp(at).map_err(|_| damaged("time", &at.to_string()))
}

pub(super) fn message_date(at: Timestamp, zone_minutes: i64) -> Result<MessageDate> {
    let zone_minutes = i16::try_from(zone_minutes).map_err(|_| damaged("zone", &zone_minutes.to_string()))?;
    Ok(MessageDate { at, zone_minutes })
}

/// The recipients as a JSON array.
pub(super) fn recipients(mailboxes: &[String]) -> String {
    serde_json::to_string(mailboxes).expect("strings are JSON")
}

pub(super) fn parse_recipients(json: &str) -> Result<Vec<String>> {
    serde_json::from_str(json).map_err(|_| damaged("list of recipients", json))
}

/// What `recipients` holds, in lower case, exactly if the mailbox is one of them: at its start, and elsewhere. A quote
/// inside a JSON string is escaped, so a bracket or comma followed by a bare quote is always the start of an element.
pub(super) fn recipient_needles(mailbox: &str) -> [String; 2] {
    let element = serde_json::Value::from(mailbox.to_ascii_lowercase()).to_string();
    [format!("[{element}"), format!(",{element}")]
}

pub(super) fn id(octets: &[u8]) -> Result<Uuid> {
    Uuid::from_slice(octets).map_err(|_| damaged("id", &octets.len().to_string()))
}

pub(super) fn mailbox(username: &str, domain: &str) -> String {
    format!("{username}@{domain}")
}

/// A column that holds what Mailcell never writes.
pub(super) fn damaged(what: &str, found: &str) -> StoreError {
    StoreError::Unavailable(format!("a stored {what} cannot be read: {found:.60}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_keep_their_microseconds() {
        for text in ["2024-02-29T23:59:59.000001Z", "1999-12-31T00:00:00Z", "9999-12-30T22:00:00.999999Z"] {
            let at: Timestamp = text.parse().unwrap();
            assert_eq!(parse_time(&micros(at)).unwrap(), at);
        }
        assert_eq!(micros("2024-02-29T01:02:03.5Z".parse().unwrap()), "2024-02-29 01:02:03.500000");
        assert!(parse_time("yesterday").is_err());
    }

    #[test]
    fn a_year_out_of_range_becomes_the_time_of_arrival() {
        let mut message = crate::store::sample(b"");
        message.date.at = "0999-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(date(&message), seconds(message.received_at));
    }

    #[test]
    fn a_mailbox_is_found_whole_or_not_at_all() {
        let held = |list: &[&str], mailbox: &str| {
            let list: Vec<String> = list.iter().map(|mailbox| mailbox.to_ascii_lowercase()).collect();
            let json = recipients(&list);
            recipient_needles(mailbox).iter().any(|needle| json.contains(needle))
        };
        assert!(held(&["Bob@X.org"], "bob@x.ORG"));
        assert!(held(&["a@x.org", "bob@x.org"], "bob@x.org"));
        assert!(!held(&["jimbob@x.org", "bob@x.org.uk"], "bob@x.org"));
        assert!(held(&["\"a\\\"b\"@x.org"], "\"a\\\"b\"@x.org"));
        assert!(!held(&["\",\"@x.org"], "@x.org"));
        assert!(!held(&["\"[\"@x.org", "\"b,\"@x.org"], "@x.org"));
    }
}
