//! What the tests share: transcripts as data, a scripted host that runs them, and a private MariaDB.
//!
//! | file | what it is |
//! |---|---|
//! | `transcript` | reads and writes the files of `sessions/` |
//! | `escape` | how octets and repetition are written in them |
//! | `driver` | [`driver::Core`], and a host without sockets, clock and database around it |
//! | `check` | runs a transcript in three cuts and shows the difference |
//! | `component` | the core as the component that the server carries |
//! | `wire` | runs a transcript over TCP, against the whole server |
//! | `database` | the databases that the whole system is tested with |
//! | `program` | the program as a process, and a plain client |
//! | `cores` | cores that fit the contract and do nothing good |
//! | `mariadb` | a MariaDB server of one test's own |

pub mod check;
pub mod component;
pub mod cores;
pub mod database;
pub mod driver;
pub mod escape;
pub mod mariadb;
pub mod program;
pub mod transcript;
pub mod wire;
