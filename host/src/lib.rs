//! The native shell of Mailcell: sockets, time and the database, around a protocol that is a WebAssembly component.
//!
//! The way of a message: [`server`] accepts, [`connection`] reads and writes, a [`cell`] decides, [`requests`] carries
//! out, a [`store`] keeps.

pub mod cell;
pub mod cli;
pub mod config;
pub mod connection;
pub mod credentials;
pub mod framing;
pub mod permits;
pub mod requests;
pub mod server;
pub mod shared;
pub mod spool;
pub mod store;
