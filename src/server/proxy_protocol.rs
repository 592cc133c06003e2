//! The PROXY protocol, versions 1 and 2: who the client is, as the proxy before the gateway says.
//!
//! Exactly the header is taken from the connection, and what comes behind it left where it is. What else a header of
//! version 2 carries (TLVs) is not looked at. Anyone who reaches the listener can say anything: let only the proxy reach it.

use std::{io, net::IpAddr};

use ppp::{HeaderResult, PartialResult, v1, v2};
use tokio::{io::AsyncReadExt, net::TcpStream};

/// The longest header. Of version 1 none has more than 107 bytes; version 2 allows 64 KiB, which nobody needs.
const LONGEST: usize = 4096;

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
    let mut bytes = vec![0; LONGEST];
    let mut taken = 0;
    while taken < LONGEST {
        let seen = taken + stream.peek(&mut bytes[taken..]).await?;
        if seen == taken {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let header = HeaderResult::parse(&bytes[..seen]);
        let found = if header.is_incomplete() { None } else { Some(source(header)?) };
        let (length, source) = found.unwrap_or((seen, None));
        // Of an incomplete header all that was seen is a part.
        stream.read_exact(&mut bytes[taken..length]).await?;
        if found.is_some() {
            return Ok(source);
        }
        taken = length;
    }
    Err(HeaderError::TooLong)
}

/// The header's length and the client that it names.
fn source(header: HeaderResult<'_>) -> Result<(usize, Option<IpAddr>), HeaderError> {
    Ok(match header {
        HeaderResult::V1(header) => {
            let header = header?;
            let source = match header.addresses {
                v1::Addresses::Tcp4(addresses) => Some(addresses.source_address.into()),
                v1::Addresses::Tcp6(addresses) => Some(addresses.source_address.into()),
                v1::Addresses::Unknown => None,
            };
            (header.header.len(), source)
        }
        HeaderResult::V2(header) => {
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
            (header.header.len(), source)
        }
    })
}
