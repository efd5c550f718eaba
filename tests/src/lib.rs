//! What the tests share: transcripts as data, a scripted host that runs them, and a private MariaDB.
//!
//! | file | what it is |
//! |---|---|
//! | `transcript` | reads and writes the files of `sessions/` |
//! | `escape` | how octets and repetition are written in them |
//! | `driver` | [`driver::Core`], and a host without sockets, clock and database around it |
//! | `check` | runs a transcript in three cuts and shows the difference |
//! | `mariadb` | a MariaDB server of one test's own |

pub mod check;
pub mod driver;
pub mod escape;
pub mod mariadb;
pub mod transcript;
