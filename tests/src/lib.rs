//! What the tests share: transcripts as data, a scripted host that runs them.
//!
//! | file | what it is |
//! |---|---|
//! | `transcript` | reads and writes the files of `sessions/` |
//! | `escape` | how octets and repetition are written in them |
//! | `driver` | [`driver::Core`], and a host without sockets, clock and database around it |
//! | `check` | runs a transcript in three cuts and shows the difference |

pub mod check;
pub mod driver;
pub mod escape;
pub mod transcript;
