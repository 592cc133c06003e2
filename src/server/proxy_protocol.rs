//! The PROXY protocol, versions 1 and 2: who the client is, as the proxy before the gateway says.
//!
//! Exactly the header is taken from the connection, and what comes behind it left where it is. What else a header of
//! version 2 carries (TLVs) is not looked at. Anyone who reaches the listener can say anything: let only the proxy reach it.

use std::{io, net::IpAddr};

use ppp::{PartialResult, v1, v2};
use tokio::{io::AsyncReadExt, net::TcpStream};

/// The longest header of version 1, as its specification has it.
const LONGEST_1: usize = 107;
/// The longest header of version 2. It could have 64 KiB, which nobody needs.
const LONGEST_2: usize = 4096;

/// Why a connection has no header that can be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum HeaderError {
    /// The connection ended or broke before the header's end.
    #[error("the connection ended within its PROXY header: {0}")]
    Broken(#[from] io::Error),
    /// It is not of version 1.
    #[error("the connection does not begin with a PROXY header: {0}")]
    Version1(#[from] v1::BinaryParseError),
    /// It is of version 2, and wrong.
    #[error("the connection's PROXY header is wrong: {0}")]
    Version2(#[from] v2::ParseError),
    /// It has no end within its bounds.
    #[error("the connection's PROXY header is too long")]
    TooLong,
}

/// Takes the header. `None`: it names no client but its sender.
///
/// # Errors
///
/// There is no header, or none that can be used.
pub(super) async fn read(stream: &mut TcpStream) -> Result<Option<IpAddr>, HeaderError> {
    let mut bytes = vec![0; LONGEST_2];
    let mut taken = 0;
    loop {
        let seen = taken + stream.peek(&mut bytes[taken..]).await?;
        if seen == taken {
            return Err(if taken == LONGEST_2 { HeaderError::TooLong } else { unexpected_end() });
        }
        let header = if bytes[0] == b'P' { version_1(&bytes[..seen])? } else { version_2(&bytes[..seen])? };
        // Of an incomplete header all that was seen is a part.
        let length = header.as_ref().map_or(seen, |header| header.length);
        stream.read_exact(&mut bytes[taken..length]).await?;
        if let Some(header) = header {
            return Ok(header.source);
        }
        taken = length;
    }
}

fn unexpected_end() -> HeaderError {
    io::Error::from(io::ErrorKind::UnexpectedEof).into()
}

struct Header {
    length: usize,
    source: Option<IpAddr>,
}

/// `None`: it is incomplete.
fn version_1(bytes: &[u8]) -> Result<Option<Header>, HeaderError> {
    let Some(end) = bytes.iter().take(LONGEST_1).position(|&byte| byte == b'\n') else {
        return if bytes.len() < LONGEST_1 { Ok(None) } else { Err(HeaderError::TooLong) };
    };
    let line = &bytes[..=end];
    let header = v1::Header::try_from(line)?;
    let source = match header.addresses {
        v1::Addresses::Tcp4(addresses) => Some(addresses.source_address.into()),
        v1::Addresses::Tcp6(addresses) => Some(addresses.source_address.into()),
        v1::Addresses::Unknown => None,
    };
    Ok(Some(Header { length: line.len(), source }))
}

/// `None`: it is incomplete.
fn version_2(bytes: &[u8]) -> Result<Option<Header>, HeaderError> {
    let header = v2::Header::try_from(bytes);
    if header.is_incomplete() {
        return Ok(None);
    }
    let header = header?;
    let source = match (header.command, header.protocol, header.addresses) {
        (v2::Command::Proxy, v2::Protocol::Stream, v2::Addresses::IPv4(addresses)) => {
            Some(addresses.source_address.into())
        }
        (v2::Command::Proxy, v2::Protocol::Stream, v2::Addresses::IPv6(addresses)) => {
            Some(addresses.source_address.into())
        }
        (v2::Command::Local | v2::Command::Proxy, _, _) => None,
    };
    Ok(Some(Header { length: header.header.len(), source }))
}
