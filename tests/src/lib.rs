//! What the tests of the whole system share. Transcripts and the host that runs them are in `mailcell-conformance`.
//!
//! | file | what it is |
//! |---|---|
//! | `component` | the core as the component that the server carries |
//! | `wire` | runs a transcript over TCP, against the whole server |
//! | `database` | the databases that the whole system is tested with |
//! | `program` | the program as a process, and a plain client |
//! | `load` | many sessions at once, which check every response |
//! | `cores` | cores for tests, good ones and others |
//! | `tls` | a certificate, and a client that trusts it |
//! | `mariadb` | a MariaDB server of one test's own |
//! | `postfix` | a Postfix of one test's own |
//! | `process` | programs that end with what started them |

pub mod component;
pub mod cores;
pub mod database;
pub mod load;
pub mod mariadb;
pub mod postfix;
pub mod process;
pub mod program;
pub mod tls;
pub mod wire;
