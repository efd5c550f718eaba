//! A message while it is received: its octets, what is known of its content, and what is wrong with it.

use crate::content::ContentReader;
use crate::data::{ChunkReader, DataReader, Faults};
use crate::octets;
use crate::settings::Settings;
use crate::step::Order;
use serde::{Deserialize, Serialize};

/// Why a message is refused, the worst first: of several faults, that one is answered. In chunks a line that is too long is no
/// error of syntax, and the least of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Fault {
    LongLine,
    MessageTooLarge,
    HeadersTooLarge,
    Unclean,
}

/// A message being received. Once it has a fault, its octets are read and dropped up to the real end of data:
/// answering earlier would turn the rest of it into commands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Reading {
    form: Form,
    /// Of BDAT.
    chunks: u32,
    content: ContentReader,
    fault: Option<Fault>,
}

/// How a message comes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Form {
    /// By DATA.
    Lines {
        data: DataReader,
        /// Whether the high-order bit of every octet is cleared.
        seven_bit: bool,
    },
    /// By BDAT, as text.
    Chunks(ChunkReader),
    /// By BDAT, with BODY=BINARYMIME: nothing is looked at. RFC 3030 3.
    Binary,
}

impl Form {
    pub(crate) fn lines(seven_bit: bool) -> Form {
        Form::Lines { data: DataReader::new(), seven_bit }
    }

    pub(crate) fn chunks() -> Form {
        Form::Chunks(ChunkReader::default())
    }

    fn faults(&self) -> Faults {
        match self {
            Form::Lines { data, .. } => data.faults(),
            Form::Chunks(chunks) => chunks.faults(),
            Form::Binary => Faults::default(),
        }
    }
}

/// What became of a block.
pub(crate) struct Read {
    /// Octets of the block that were read.
    pub(crate) consumed: usize,
    /// Message octets, or that there are none.
    pub(crate) orders: Vec<Order>,
    /// Whether this was the end of data.
    pub(crate) ended: bool,
}

impl Reading {
    pub(crate) fn new(form: Form) -> Reading {
        Reading { form, chunks: 0, content: ContentReader::new(), fault: None }
    }

    /// Whether its end is among its octets, as DATA's is.
    pub(crate) fn has_an_end(&self) -> bool {
        matches!(self.form, Form::Lines { .. })
    }

    /// Counts a chunk; gives how many there are with it.
    pub(crate) fn count_chunk(&mut self) -> u32 {
        self.chunks += 1;
        self.chunks
    }

    pub(crate) fn content(&self) -> &ContentReader {
        &self.content
    }

    pub(crate) fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Octets that the host holds of the message: none once it has a fault.
    pub(crate) fn appended_octets(&self) -> u64 {
        if self.fault.is_some() { 0 } else { self.content.octets() }
    }

    /// Reads a block; what is kept of it stays in its memory.
    ///
    /// # Panics
    /// When the message comes in chunks.
    pub(crate) fn read(&mut self, mut block: Vec<u8>, settings: &Settings) -> Read {
        let Form::Lines { data, seven_bit } = &mut self.form else { panic!("the message comes in chunks") };
        let scan = data.read(&mut block);
        block.truncate(scan.kept);
        let clearing_makes_control = *seven_bit && octets::clear_high_bits(&mut block);
        if scan.carried_cr {
            self.content.read(b"\r");
        }
        self.content.read(&block);
        let was_good = self.fault.is_none();
        self.find_faults(clearing_makes_control, settings);
        let mut orders = Vec::new();
        if self.fault.is_none() {
            orders.extend(scan.carried_cr.then(|| Order::Append(vec![b'\r'])));
        }
        orders.extend(self.append(block, was_good));
        Read { consumed: scan.consumed, orders, ended: scan.ended }
    }

    /// Reads octets of a chunk, all of which belong to the message.
    pub(crate) fn read_chunk(&mut self, octets: Vec<u8>, settings: &Settings) -> Vec<Order> {
        if let Form::Chunks(chunks) = &mut self.form {
            chunks.read(&octets);
        }
        self.content.read(&octets);
        let was_good = self.fault.is_none();
        self.find_faults(false, settings);
        self.append(octets, was_good).into_iter().collect()
    }

    /// The last chunk has been read.
    pub(crate) fn end_chunks(&mut self, settings: &Settings) {
        if let Form::Chunks(chunks) = &self.form
            && chunks.ends_in_cr()
            && !settings.keep_bare_newlines
        {
            self.fault = self.worst_with([Fault::Unclean]);
        }
    }

    fn find_faults(&mut self, clearing_makes_control: bool, settings: &Settings) {
        let of_form = self.form.faults();
        let faults = [
            (of_form.long_line, Fault::LongLine),
            (self.content.octets() > settings.message_octets_max, Fault::MessageTooLarge),
            (self.content.header_octets() > settings.header_octets_max, Fault::HeadersTooLarge),
            (clearing_makes_control, Fault::Unclean),
            (of_form.unclean && !settings.keep_bare_newlines, Fault::Unclean),
        ];
        let found = faults.into_iter().filter_map(|(found, fault)| found.then_some(fault));
        self.fault = self.worst_with(found);
    }

    fn worst_with(&self, found: impl IntoIterator<Item = Fault>) -> Option<Fault> {
        let is_least = |fault: Fault| fault == Fault::LongLine && !self.has_an_end();
        found.into_iter().chain(self.fault).min_by_key(|fault| (is_least(*fault), *fault))
    }

    /// The order that the octets lead to: with the first fault, what the host holds is let go.
    fn append(&self, octets: Vec<u8>, was_good: bool) -> Option<Order> {
        match self.fault {
            Some(_) => was_good.then_some(Order::Discard),
            None => (!octets.is_empty()).then_some(Order::Append(octets)),
        }
    }
}
