//! The native shell of Mailcell: sockets, time and the database, around a protocol that is a WebAssembly component.
//!
//! The way of a message: [`server`] accepts, [`connection`] reads and writes, a [`session`] has its [`cell`] decide,
//! [`requests`] carries out, a [`store`] keeps. The way of a core: [`admin`] takes it, [`swap`] brings it into service, and
//! sessions move to it.

pub mod admin;
pub mod authentication;
pub mod buffers;
pub mod busy_poll;
pub mod cell;
pub mod cli;
pub mod clock;
pub mod config;
pub mod connection;
pub mod credentials;
pub mod end;
pub mod farewell;
pub mod framing;
pub mod log;
pub mod permits;
pub mod proxy;
pub mod reception;
pub mod record;
pub mod refusals;
pub mod requests;
pub mod scram;
pub mod server;
pub mod session;
pub mod shared;
pub mod spool;
pub mod store;
pub mod stream;
pub mod swap;
pub mod threads;
pub mod tls;

/// Sessions, cells and messages come and go by thousands on a few threads, which it is made for.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
