//! A question to the admin listener, as `health` and `report` ask it: one connection, one answer, within bounds.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

use super::{Failed, File};
use crate::config::Config;

/// How long to wait for a connection, and then for each part of the answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Where to ask: at the address that was given, or else at the one in the file. `option` is what gives it.
pub(super) fn address(given: Option<SocketAddr>, file: &File, option: &str) -> Result<SocketAddr, Failed> {
    Ok(reachable(match given {
        Some(address) => address,
        None => of_file(file, option)?,
    }))
}

fn of_file(file: &File, option: &str) -> Result<SocketAddr, Failed> {
    let path = file.path();
    let config = Config::load(&path).map_err(|errors| Failed::Configuration(Some(path.clone()), errors))?;
    config.admin.map(|admin| admin.address).ok_or_else(|| {
        let hint = format!("{} has no [admin], so there is nobody to ask; or give {option}", path.display());
        Failed::Start(hint.into())
    })
}

/// Who listens on all addresses is asked by the loopback one.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// The body of a 200. Of a longer answer than `longest` only the beginning is read.
pub(super) fn ask(address: SocketAddr, path: &str, longest: u64) -> Result<String, Failed> {
    let refused = |why: &str| Failed::Start(format!("{address}{path}: {why}").into());
    match get(address, path, longest) {
        Ok((200, body)) => Ok(body),
        Ok((status, body)) => Err(refused(&format!("{status} {}", body.lines().next().unwrap_or_default()))),
        Err(error) => Err(refused(&error.to_string())),
    }
}

fn get(address: SocketAddr, path: &str, longest: u64) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(longest).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let no_answer = || io::Error::new(io::ErrorKind::InvalidData, "the answer is not one of HTTP");
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(no_answer)?;
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok()).ok_or_else(no_answer)?;
    Ok((status, body.to_owned()))
}
