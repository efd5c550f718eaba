//! A message while it is received: its octets, what is known of its content, and what is wrong with it.

use crate::content::ContentReader;
use crate::data::{self, DataReader};
use crate::settings::Settings;
use crate::step::Order;
use serde::{Deserialize, Serialize};

/// Why a message is refused, the worst first: of several faults, that one is answered.
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
    /// Whether the high-order bit of every octet is cleared.
    seven_bit: bool,
    data: DataReader,
    content: ContentReader,
    fault: Option<Fault>,
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
    pub(crate) fn new(seven_bit: bool) -> Reading {
        Reading { seven_bit, data: DataReader::new(), content: ContentReader::new(), fault: None }
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
    pub(crate) fn read(&mut self, mut block: Vec<u8>, settings: &Settings) -> Read {
        let scan = self.data.read(&mut block);
        block.truncate(scan.kept);
        let clearing_makes_control = self.seven_bit && data::clear_high_bits(&mut block);
        if scan.carried_cr {
            self.content.read(b"\r");
        }
        self.content.read(&block);

        let was_good = self.fault.is_none();
        let faults = [
            (self.data.faults().long_line, Fault::LongLine),
            (self.content.octets() > settings.message_octets_max, Fault::MessageTooLarge),
            (self.content.header_octets() > settings.header_octets_max, Fault::HeadersTooLarge),
            (clearing_makes_control, Fault::Unclean),
            (self.data.faults().unclean && !settings.keep_bare_newlines, Fault::Unclean),
        ];
        let found = faults.into_iter().filter_map(|(found, fault)| found.then_some(fault));
        self.fault = found.chain(self.fault).min();

        let mut orders = Vec::new();
        match self.fault {
            Some(_) if was_good => orders.push(Order::Discard),
            Some(_) => {}
            None => {
                orders.extend(scan.carried_cr.then(|| Order::Append(vec![b'\r'])));
                orders.extend((!block.is_empty()).then_some(Order::Append(block)));
            }
        }
        Read { consumed: scan.consumed, orders, ended: scan.ended }
    }
}
