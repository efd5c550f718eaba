//! The native shell of Mailcell: sockets, TLS, time, the database, and the cells that hold the protocol.

pub mod store;
