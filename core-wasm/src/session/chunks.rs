//! BDAT: a message in chunks of a given size, without dots and without an end of its own. RFC 3030.

use super::{Outcome, Session};
use crate::command::{self, Verb};
use crate::limits;
use crate::reading::{Form, Reading};
use crate::responses::{self, Template};
use crate::step::{Answer, Next, Order, Step};
use serde::{Deserialize, Serialize};

/// A chunk whose octets are being read.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Chunk {
    octets: u64,
    left: u64,
    is_last: bool,
    /// Why nothing comes of it. Its octets are read all the same: they would be taken for commands otherwise.
    refusal: Option<Refusal>,
}

/// Why a chunk is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Refusal {
    Hello,
    Extended,
    Mail,
    Rcpt,
    Tls,
    Many,
}

impl Refusal {
    const ALL: [Refusal; 6] =
        [Refusal::Hello, Refusal::Extended, Refusal::Mail, Refusal::Rcpt, Refusal::Tls, Refusal::Many];

    fn template(self) -> Template {
        match self {
            Refusal::Hello => responses::SEND_HELO_FIRST,
            Refusal::Extended => responses::SEND_EHLO_FIRST,
            Refusal::Mail => responses::SEND_MAIL_FIRST,
            Refusal::Rcpt => responses::SEND_RCPT_FIRST,
            Refusal::Tls => responses::TLS_REQUIRED,
            Refusal::Many => responses::TOO_MANY_CHUNKS,
        }
    }
}

impl Chunk {
    /// Whether it is one that could be under way: no command is read within DATA, and so no chunk begins there.
    pub(super) fn is_sound(&self, reading: Option<&Reading>) -> bool {
        let is_in_place = reading.map_or(self.refusal.is_some(), |reading| !reading.has_an_end());
        self.left > 0 && self.left <= self.octets && is_in_place
    }
}

impl Session {
    /// The command. Where a chunk of unknown size ends, nobody can tell, so that ends the session.
    pub(super) fn begin_chunk(&mut self, argument: &str) -> Step {
        let Some((octets, is_last)) = parse(argument) else { return self.fail(responses::BAD_CHUNK_SIZE) };
        let refusal = self.admit_chunk().err().map(|template| {
            Refusal::ALL.into_iter().find(|refusal| refusal.template() == template).unwrap_or(Refusal::Mail)
        });
        self.chunk = Some(Chunk { octets, left: octets, is_last, refusal });
        if octets == 0 { self.end_chunk() } else { Step::nothing(Next::ReadData) }
    }

    /// A line that is refused before its command is read. Behind one of BDAT is a chunk all the same, and no commands.
    pub(super) fn refuse_line(&mut self, line: &[u8], verb: Option<Verb>, template: Template) -> Step {
        match command::begins_with(line, Verb::Bdat) {
            true => self.fail(responses::BAD_CHUNK_SIZE),
            false => self.finish_error(verb, template),
        }
    }

    fn admit_chunk(&mut self) -> Result<(), Template> {
        self.check(Verb::Bdat)?;
        if !self.is_extended() {
            return Err(responses::SEND_EHLO_FIRST);
        }
        let form = if self.is_binary() { Form::Binary } else { Form::chunks() };
        let reading = self.reading.get_or_insert_with(|| Reading::new(form));
        if reading.count_chunk() > limits::CHUNKS_MAX { Err(responses::TOO_MANY_CHUNKS) } else { Ok(()) }
    }

    /// Octets of the chunk, and what is behind it stays with the host.
    pub(super) fn on_chunk(&mut self, mut chunk: Chunk, mut block: Vec<u8>) -> Answer {
        let consumed = usize::try_from(chunk.left).map_or(block.len(), |left| left.min(block.len()));
        block.truncate(consumed);
        chunk.left -= consumed as u64;
        let mut orders = match (&mut self.reading, chunk.refusal) {
            (Some(reading), None) => reading.read_chunk(block, &self.settings),
            _ => Vec::new(),
        };
        self.chunk = Some(chunk);
        let mut step = if chunk.left == 0 { self.end_chunk() } else { Step::nothing(Next::ReadData) };
        orders.append(&mut step.orders);
        step.orders = orders;
        Answer { consumed, step }
    }

    fn end_chunk(&mut self) -> Step {
        let chunk = self.chunk.take().expect("a chunk is being read");
        if let Some(refusal) = chunk.refusal {
            let answers = if chunk.is_last { self.recipients() } else { 0 };
            let discard = if refusal == Refusal::Many { self.forget_message() } else { Vec::new() };
            let step = Step { orders: discard, ..self.finish_error(Some(Verb::Bdat), refusal.template()) };
            return self.for_each_recipient(step, answers);
        }
        let reading = self.reading.as_mut().expect("an accepted chunk belongs to a message");
        let held = reading.appended_octets() > 0;
        if chunk.is_last {
            reading.end_chunks(&self.settings);
        }
        let fails_at_its_end = held && reading.fault().is_some();
        // After a fault nothing comes of further chunks, so it is answered at once.
        let mut step = match chunk.is_last || reading.fault().is_some() {
            true => self.end_data(),
            false => self.finish(Outcome::Respond(responses::CHUNK_OK.with(&chunk.octets.to_string()))),
        };
        if !chunk.is_last {
            // Of these each has one answer, whatever the protocol.
            step.responses.truncate(1);
        }
        step.orders.extend(fails_at_its_end.then_some(Order::Discard));
        step
    }

    /// Forgets a transaction, and has the host forget what it holds of the message.
    pub(super) fn forget_message(&mut self) -> Vec<Order> {
        self.transaction = None;
        let held = self.reading.take().is_some_and(|reading| reading.appended_octets() > 0);
        if held { vec![Order::Discard] } else { Vec::new() }
    }
}

/// ```text
/// bdat-cmd   = "BDAT" SP chunk-size [ SP end-marker ] CR LF
/// chunk-size = 1*DIGIT
/// end-marker = "LAST"
/// ```
fn parse(argument: &str) -> Option<(u64, bool)> {
    let (size, marker) = argument.split_once(' ').map_or((argument, None), |(size, marker)| (size, Some(marker)));
    let is_last = match marker {
        None => false,
        Some(marker) if marker.eq_ignore_ascii_case("LAST") => true,
        Some(_) => return None,
    };
    let is_number = !size.is_empty() && size.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| size.parse().ok())?.map(|octets| (octets, is_last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse("0"), Some((0, false)));
        assert_eq!(parse("86 last"), Some((86, true)));
        assert_eq!(parse("18446744073709551615"), Some((u64::MAX, false)));
        for bad in ["", " ", "-1", "+1", "1x", "18446744073709551616", "1 LAS", "1 LAST LAST", "1  LAST", "1 "] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
