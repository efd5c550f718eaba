//! Every bound that a core lives in. Units come last in a name.

use std::time::Duration;

/// A component file.
pub const COMPONENT_OCTETS_MAX: u64 = 8 << 20;

/// The linear memory of one cell: stack, static data (decoding tables for the most part) and heap.
pub const MEMORY_OCTETS_MAX: usize = 1 << 20;

/// Address space kept for one linear memory, so that it never moves.
pub const MEMORY_RESERVATION_OCTETS: u64 = 2 << 20;

/// Unmapped address space behind one linear memory.
pub const MEMORY_GUARD_OCTETS: u64 = 64 << 10;

/// Places for cells whose pages stay in memory when the cell is gone, so that opening the next one there faults nothing.
pub const WARM_CELLS_MAX: u32 = 1_024;

/// How much stays there.
pub const KEPT_OCTETS_MAX: usize = 64 << 10;

/// The stack of a call. It lies on the thread's own, so it must stay well below a thread's 2 MiB.
pub const STACK_OCTETS_MAX: usize = 256 << 10;

/// Entries of one table.
pub const TABLE_ELEMENTS_MAX: usize = 2_000;

/// Core instances that one component may consist of: `wit-component` makes three (main, shim, fix-up).
pub const CORE_INSTANCES_MAX: u32 = 4;

/// Tables and memories of one component.
pub const TABLES_MAX: u32 = 4;
/// Memories of one component.
pub const MEMORIES_MAX: u32 = 1;

/// Octets of lists and texts that a core may hand over in one call.
pub const HOSTCALL_FUEL: usize = 1 << 20;

/// CPU time of one call.
pub const CALL_CPU_MAX: Duration = Duration::from_millis(100);

/// How often a call's CPU time is looked at.
pub const EPOCH_TICK: Duration = Duration::from_millis(10);

/// Lines in one step.
pub const RESPONSES_MAX: usize = 256;

/// A line for the client, CRLF counted. RFC 5321 4.5.3.1.5.
pub const RESPONSE_OCTETS_MAX: usize = 512;

/// Requests in one step.
pub const REQUESTS_MAX: usize = 1;

/// Orders in one step.
pub const ORDERS_MAX: usize = 16;

/// The longest command line that a core may ask for.
pub const LINE_OCTETS_MAX: u32 = 16 << 10;

/// Octets that a core may hold back from one block and append with a later one.
pub const CARRIED_OCTETS_MAX: u64 = 64;

/// A block of message data.
pub const BLOCK_OCTETS_MAX: usize = 64 << 10;

/// Recipients of a message.
pub const RECIPIENTS_MAX: usize = 1_000;

/// A mailbox, a client's name, a protocol's name.
pub const NAME_OCTETS_MAX: usize = 320;

/// What MAIL or RCPT asks of whoever hands the message on.
pub const PARAMETERS_OCTETS_MAX: usize = 1_024;

/// A subject.
pub const SUBJECT_OCTETS_MAX: usize = 64 << 10;

/// Mailboxes in one page.
pub const PAGE_MAILBOXES: usize = 64;

/// A saved session: a header field or two, and a hundred paths.
pub const STATE_OCTETS_MAX: usize = 128 << 10;

/// How much is shown of each end of an error.
pub const ERROR_END_CHARACTERS: usize = 1_000;

/// Layouts of saved sessions that a core may name.
pub const SCHEMAS_MAX: usize = 16;

/// Compiled code of a component.
pub const ARTIFACT_OCTETS_MAX: u64 = 64 << 20;

/// CPU time of a compilation.
pub const COMPILE_CPU_MAX: Duration = Duration::from_secs(30);

/// How long a compilation may take.
pub const COMPILE_TIME_MAX: Duration = Duration::from_secs(120);

/// Address space of the process that compiles.
pub const COMPILE_MEMORY_OCTETS_MAX: u64 = 4 << 30;
