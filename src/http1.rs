//! HTTP/1 towards clients (RFC 9112), over whatever carries bytes.
//!
//! [`request`] reads heads and [`chunked`] bodies in chunks; [`answer`] writes heads. These three have no I/O and no clock:
//! bytes come in, and out come a message, the wish for more bytes, or an error. [`Connection`] drives them: it reads a
//! head, has it handled, and writes the answer, one request after the other. What a request is about and who the client
//! is it does not know; it asks its [`Handler`].
//!
//! Nothing is read that hyper's server would not read (a fuzz target compares them), and nothing is guessed: what can't be
//! understood ends the connection.

pub mod answer;
pub mod chunked;
pub mod request;

mod body;
mod connection;
mod outbox;
mod wire;

#[cfg(test)]
mod tests;

pub use body::Body;
pub use connection::{Connection, End, Handler, Times};
