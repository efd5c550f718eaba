//! What a protocol core must do: transcripts as data, and a host without sockets, clock and database that runs them
//! against anything that speaks the core's events.
//!
//! | file | what it is |
//! |---|---|
//! | `transcript` | reads and writes the files of `tests/sessions` and recorded sessions |
//! | `escape` | how octets and repetition are written in them |
//! | `host` | the scripted host |
//! | `check` | runs a transcript in three cuts and shows the difference |

pub mod check;
pub mod escape;
pub mod host;
pub mod transcript;
