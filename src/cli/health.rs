//! `ifmatch health`: asks the admin listener, and ends with 0 or 1. A container's health check, without a shell or curl.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

use clap::Args;

use super::{Failed, File};
use crate::config::Config;

/// How long to wait for a connection, and then for each part of the answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// More of an answer is not read.
const LONGEST: u64 = 4096;

#[derive(Debug, Args)]
pub(super) struct Health {
    #[command(flatten)]
    file: File,
    /// Ask here [default: the admin address in the file]
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with = "config")]
    address: Option<SocketAddr>,
    /// Ask only whether the process serves (/livez), not whether it is ready to (/readyz)
    #[arg(long)]
    live: bool,
}

impl Health {
    pub(super) fn ask(&self) -> Result<(), Failed> {
        let address = reachable(match self.address {
            Some(address) => address,
            None => self.address_of_file()?,
        });
        let path = if self.live { "/livez" } else { "/readyz" };
        let refused = |why: &str| Failed::Start(format!("{address}{path}: {why}").into());
        let (status, said) = get(address, path).map_err(|error| refused(&error.to_string()))?;
        match status {
            200 => {
                println!("{said}");
                Ok(())
            }
            _ => Err(refused(&format!("{status} {said}"))),
        }
    }

    fn address_of_file(&self) -> Result<SocketAddr, Failed> {
        let path = self.file.path();
        let config = Config::load(&path).map_err(|errors| Failed::Configuration(Some(path.clone()), errors))?;
        config.admin.map(|admin| admin.address).ok_or_else(|| {
            let hint = format!("{} has no [admin], so there is nobody to ask; or give --address", path.display());
            Failed::Start(hint.into())
        })
    }
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

/// The status and the first line of what is said.
fn get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let no_answer = || io::Error::new(io::ErrorKind::InvalidData, "the answer is not one of HTTP");
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(no_answer)?;
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok()).ok_or_else(no_answer)?;
    Ok((status, body.lines().next().unwrap_or_default().to_owned()))
}
