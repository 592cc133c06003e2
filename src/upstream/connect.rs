//! Making a connection: name, address, TLS, and which HTTP is spoken over it.
//!
//! Whoever calls sees to the time that all of it may take.

use std::{io, net::SocketAddr};

use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};

use super::{Fault, fleet::Server, wire::Stream};
use crate::{
    config::Protocol,
    tls::upstream::{Asks, speaks_http2},
};

/// How much may wait in the kernel without being sent. With more it would not show for a long time whether a slow peer takes
/// something.
#[cfg(target_os = "linux")]
const UNSENT: u32 = 128 * 1024;

/// A connection over which nothing has been said yet.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) stream: Stream,
    pub(super) is_http2: bool,
    pub(super) peer: Peer,
}

/// Whom a connection leads to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    address: SocketAddr,
    /// The generation of the server's addresses in which it was last found among them.
    generation: u64,
}

impl Peer {
    /// Whether the server's name still means this address.
    pub(super) fn is_current(&mut self, server: &Server) -> bool {
        let generation = server.names.generation();
        if self.generation != generation {
            if !server.names.has(self.address) {
                return false;
            }
            self.generation = generation;
        }
        true
    }
}

/// What is asked of a server over TLS, by what is configured.
pub(super) fn asks(protocol: Protocol) -> Asks {
    match protocol {
        Protocol::Http1 => Asks::Http1,
        Protocol::Http2 => Asks::Http2,
        Protocol::Auto => Asks::Either,
    }
}

/// Connects to a server, until the deadline at the latest.
pub(super) async fn connect(server: &Server, asks: Asks, deadline: Instant) -> Result<Connected, Fault> {
    let authority = || server.origin.authority.clone();
    let (addresses, generation) = server.names.addresses().await.map_err(|error| Fault::Resolve(authority(), error))?;
    let (stream, address) = first_of(&addresses, deadline).await.map_err(|error| {
        let is_late = error.kind() == io::ErrorKind::TimedOut;
        if is_late { Fault::ConnectTimeout(authority()) } else { Fault::Connect(authority(), error) }
    })?;
    // Without the one a small body that follows its head waits for the head's acknowledgement.
    if let Err(error) = stream.set_nodelay(true).and_then(|()| limit_unsent(&stream)) {
        tracing::debug!(%error, "an option of a connection could not be set");
    }
    let peer = Peer { address, generation };
    let Some(tls) = &server.tls else {
        return Ok(Connected { stream: Stream::Plain(stream), is_http2: asks == Asks::Http2, peer });
    };
    let client = tls.client();
    let stream = client
        .connector(asks)
        .connect(tls.name.clone(), stream)
        .await
        .map_err(|error| Fault::Tls(authority(), error))?;
    let is_http2 = speaks_http2(stream.get_ref().1);
    if asks == Asks::Http2 && !is_http2 {
        let error = io::Error::new(io::ErrorKind::Unsupported, "the server did not agree to HTTP/2 (ALPN h2)");
        return Err(Fault::Tls(authority(), error));
    }
    if asks == Asks::Either {
        server.agreed.store(is_http2);
    }
    Ok(Connected { stream: Stream::Tls(Box::new(stream)), is_http2, peer })
}

/// Has it seen before long whether the other end takes something.
#[cfg(target_os = "linux")]
pub(crate) fn limit_unsent(stream: &TcpStream) -> io::Result<()> {
    socket2::SockRef::from(stream).set_tcp_notsent_lowat(UNSENT)
}

/// Nothing can be done about it here.
#[cfg(not(target_os = "linux"))]
pub(crate) fn limit_unsent(_: &TcpStream) -> io::Result<()> {
    Ok(())
}

/// Tries one address after the other. None takes the others' time: each gets its part of what is left.
async fn first_of(addresses: &[SocketAddr], deadline: Instant) -> io::Result<(TcpStream, SocketAddr)> {
    let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "the name has no address");
    for (tried, &address) in addresses.iter().enumerate() {
        let left = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        let share = deadline.saturating_duration_since(Instant::now()) / left;
        last = match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok((stream, address)),
            Ok(Err(error)) => error,
            Err(_) => io::Error::new(io::ErrorKind::TimedOut, format!("{address} does not answer")),
        };
    }
    Err(last)
}
