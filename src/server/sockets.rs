//! The sockets that clients are listened for with: passed by systemd, or bound here.
//!
//! Every worker has a socket of its own on every address (`SO_REUSEPORT`), and the kernel spreads the connections. A
//! socket that was passed is one for all, and whoever is awake first accepts; it goes on when the process ends, and so
//! do the connections that wait in it.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use listenfd::ListenFd;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::config::Listener;

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 1024;

/// The sockets that the process was started with (`LISTEN_FDS`), as far as they are not taken.
#[derive(Debug, Default)]
pub struct Passed(Vec<TcpListener>);

/// One worker's socket on one address.
#[derive(Debug)]
pub(super) struct Listening {
    pub(super) socket: TcpListener,
    pub(super) origin: Origin,
}

/// Where a socket comes from, and so what becomes of those who wait in its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// It was bound here, and nobody else listens on the address.
    Own,
    /// It was bound here, and another process may listen on the address with sockets of its own.
    Beside,
    /// It was passed: whoever accepts from it next finds there what waits.
    Passed,
}

/// From here on nobody new is let into this socket's queue, while those come in whose handshake is under way. Who is
/// kept out tries again after a second, and finds another process's socket, once this one is closed. To close it at
/// once would break off the handshakes, unless the kernel hands them on (`net.ipv4.tcp_migrate_req`).
#[cfg(target_os = "linux")]
pub(super) fn let_nobody_in(socket: SockRef<'_>) -> io::Result<()> {
    use socket2::SockFilter;

    // The socket's packets, from the TCP header on: its flags are the byte at 13, SYN is 0x02 of it and ACK 0x10.
    const LOAD_BYTE: u16 = 0x30;
    const AND: u16 = 0x54;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    socket.attach_filter(&[
        SockFilter::new(LOAD_BYTE, 0, 0, 13),
        SockFilter::new(AND, 0, 0, 0x12),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, 0x02),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ])
}

#[cfg(not(target_os = "linux"))]
pub(super) fn let_nobody_in(_: SockRef<'_>) -> io::Result<()> {
    Ok(())
}

impl Passed {
    /// Takes them from the environment. To be called before there are threads.
    #[must_use]
    pub fn from_environment() -> Self {
        let mut passed = ListenFd::from_env();
        let sockets = (0..passed.len()).filter_map(|index| match passed.take_tcp_listener(index) {
            Ok(socket) => socket,
            Err(error) => {
                // The log has not begun yet.
                eprintln!("ifmatch: a passed descriptor can't be used: {error}");
                None
            }
        });
        Self(sockets.collect())
    }

    /// The one for this address, if there is one.
    fn take(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let serves = |socket: &TcpListener| socket.local_addr().is_ok_and(|local| is_for(local, address, socket));
        let exact = self.0.iter().position(|socket| socket.local_addr().is_ok_and(|local| local == address));
        let place = exact.or_else(|| self.0.iter().position(serves))?;
        Some(self.0.swap_remove(place))
    }
}

/// Whether a socket on `local` takes what comes to `address`: `ListenStream=8080` makes one for IPv6 and IPv4.
fn is_for(local: SocketAddr, address: SocketAddr, socket: &TcpListener) -> bool {
    let any = local.ip().is_unspecified() && address.ip().is_unspecified() && local.port() == address.port();
    any && local.is_ipv6() && !SockRef::from(socket).only_v6().unwrap_or(true)
}

/// For each worker its socket on each address, and the addresses.
pub(super) fn listen(
    listeners: &[Listener],
    workers: usize,
    mut passed: Passed,
    may_be_shared: bool,
) -> io::Result<(Vec<Vec<Listening>>, Vec<SocketAddr>)> {
    let mut sockets: Vec<Vec<_>> = (0..workers).map(|_| Vec::new()).collect();
    let mut addresses = Vec::new();
    for listener in listeners {
        let address = listener.address;
        let bound = match passed.take(address) {
            Some(socket) => share(&socket, &mut sockets),
            None => bind_all(address, &mut sockets, may_be_shared),
        };
        addresses.push(bound.map_err(|error| refused(address, &error))?);
    }
    for unused in passed.0 {
        let address = unused.local_addr().map_or_else(|_| "?".to_owned(), |address| address.to_string());
        tracing::warn!(%address, "a socket was passed that no listener is for; it is closed");
    }
    Ok((sockets, addresses))
}

fn refused(address: SocketAddr, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{address} can't be listened on: {error}"))
}

fn share(socket: &TcpListener, sockets: &mut [Vec<Listening>]) -> io::Result<SocketAddr> {
    socket.set_nonblocking(true)?;
    let address = socket.local_addr()?;
    for worker in sockets {
        worker.push(Listening { socket: socket.try_clone()?, origin: Origin::Passed });
    }
    tracing::info!(%address, "listening on a socket that was passed");
    Ok(address)
}

fn bind_all(mut address: SocketAddr, sockets: &mut [Vec<Listening>], may_be_shared: bool) -> io::Result<SocketAddr> {
    let origin = if may_be_shared { Origin::Beside } else { Origin::Own };
    if !may_be_shared {
        check_unused(address)?;
    }
    for worker in sockets {
        let socket = bind(address)?;
        // The first finds the port where the configuration leaves it open.
        address = socket.local_addr()?;
        worker.push(Listening { socket, origin });
    }
    Ok(address)
}

/// A socket on the operators' address.
pub(super) fn listen_alone(address: SocketAddr, may_be_shared: bool) -> io::Result<TcpListener> {
    let bound = if may_be_shared { bind(address) } else { check_unused(address).and_then(|()| bind(address)) };
    bound.map_err(|error| io::Error::new(error.kind(), format!("admin.address: {}", refused(address, &error))))
}

/// With `SO_REUSEPORT` a second gateway could listen on the same address unnoticed, and each would know only of the writes
/// that happen to reach it.
fn check_unused(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

/// A socket that listens on this address beside others of the same user.
pub(super) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(addresses: &[&str]) -> Passed {
        Passed(addresses.iter().map(|address| TcpListener::bind(address).expect("a port")).collect())
    }

    fn listener(address: SocketAddr) -> Listener {
        Listener { address, tls: None, proxy_protocol: false }
    }

    #[test]
    fn a_passed_socket_is_taken_by_the_listener_with_its_address_and_shared_by_all_workers() {
        let passed = passed(&["127.0.0.1:0", "127.0.0.1:0"]);
        let address = passed.0[1].local_addr().expect("an address");
        let listeners = [listener("127.0.0.1:0".parse().expect("an address")), listener(address)];
        let (sockets, addresses) = listen(&listeners, 3, passed, false).expect("sockets");
        assert_eq!(addresses[1], address);
        for worker in &sockets {
            assert_eq!(worker.iter().map(|l| l.origin).collect::<Vec<_>>(), [Origin::Own, Origin::Passed]);
            assert_eq!(worker[1].socket.local_addr().expect("an address"), address);
        }
    }

    #[test]
    fn a_passed_socket_for_both_families_is_taken_for_either() {
        let Ok(both) = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP)) else { return };
        both.set_only_v6(false).expect("an option");
        if both.bind(&SocketAddr::from(([0u16; 8], 0)).into()).is_err() {
            return;
        }
        both.listen(1).expect("a queue");
        let port = both.local_addr().ok().and_then(|a| a.as_socket()).expect("an address").port();
        let mut passed = Passed(vec![both.into()]);
        assert!(passed.take(SocketAddr::from(([127, 0, 0, 1], port))).is_none());
        assert!(passed.take(SocketAddr::from(([0, 0, 0, 0], port))).is_some());
    }
}
