//! The PROXY protocol: who the client is, and connections that do not begin with it.

use ppp::v2::{Builder, Command, Protocol, Type, Version};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    Gateway, Script,
    client::HOST_NAME,
    tls::{Authority, Folder, Tls, over},
    within,
};

const REQUEST: &[u8] = b"PUT /note HTTP/1.1\r\nHost: notes.example\r\nContent-Length: 4\r\n\r\nbody";

fn version_2(command: Command, addresses: &str) -> Vec<u8> {
    let version_command = Version::Two | command;
    let [from, to] = ["[2001:db8::1]:1", "[2001:db8::2]:2"].map(|a| a.parse().expect("an address"));
    let [from_v4, to_v4] = ["192.0.2.1:1", "192.0.2.2:2"].map(|a| a.parse().expect("an address"));
    let addresses: (std::net::SocketAddr, std::net::SocketAddr) =
        if addresses == "v6" { (from, to) } else { (from_v4, to_v4) };
    let builder = Builder::with_addresses(version_command, Protocol::Stream, addresses);
    let builder = builder.write_tlv(Type::Authority, b"notes.example").expect("room");
    builder.build().expect("a header")
}

#[tokio::test]
async fn the_client_is_who_the_header_names() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).listener("proxy_protocol = true").start();
    let rows: [(Vec<u8>, &str); 8] = [
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n".to_vec(), "192.0.2.1"),
        (b"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n".to_vec(), "2001:db8::1"),
        (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 65535 65535\r\n".to_vec(), "192.0.2.1"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (b"PROXY UNKNOWN 192.0.2.1 whatever comes here\r\n".to_vec(), "127.0.0.1"),
        (version_2(Command::Proxy, "v4"), "192.0.2.1"),
        (version_2(Command::Proxy, "v6"), "2001:db8::1"),
        (version_2(Command::Local, "v4"), "127.0.0.1"),
    ];
    for (header, client) in rows {
        for in_pieces in [false, true] {
            let mut raw = gateway.raw().await;
            let mut bytes = header.clone();
            bytes.extend_from_slice(REQUEST);
            if in_pieces {
                for byte in bytes {
                    raw.send([byte]).await;
                }
            } else {
                raw.send(&bytes).await;
            }
            let mut arrival = backend.expect("PUT", "/note").await;
            assert_eq!(arrival.field("x-forwarded-for"), Some(client));
            assert_eq!(arrival.body().await.expect("a body"), b"body");
            arrival.answer(200, &[], "").await;
            assert_eq!(raw.answer("PUT").await.status, 200);
        }
    }
}

#[tokio::test]
async fn a_connection_that_does_not_begin_with_a_header_is_closed() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).listener("proxy_protocol = true").start();
    let mut too_long = version_2(Command::Proxy, "v4");
    too_long[14..16].copy_from_slice(&5000_u16.to_be_bytes());
    too_long.resize(6000, 0);
    let mut version_3 = version_2(Command::Proxy, "v4");
    version_3[12] = 0x31;
    let mut short_addresses = version_2(Command::Proxy, "v6");
    short_addresses[14..16].copy_from_slice(&12_u16.to_be_bytes());
    let rows = [
        REQUEST.to_vec(),
        b"\x16\x03\x01\x02\x00".to_vec(),
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n".to_vec(),
        b"PROXY TCP4 2001:db8::1 192.0.2.2 1 2\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n".to_vec(),
        b"proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n".to_vec(),
        format!("PROXY UNKNOWN {}\r\n", "x".repeat(100)).into_bytes(),
        b"PROXY \xff\xfe\r\n".to_vec(),
        too_long,
        version_3,
        short_addresses,
    ];
    for mut bytes in rows {
        let what = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
        let mut raw = gateway.raw().await;
        if bytes != REQUEST {
            bytes.extend_from_slice(REQUEST);
        }
        raw.send(&bytes).await;
        println!("{what:?}");
        raw.closed().await;
    }
    backend.assert_quiet();
}

#[tokio::test]
async fn a_header_that_takes_too_long_is_given_up() {
    let backend = Script::start().await;
    let limits = "[limits]\nheader_read_timeout = \"200ms\"";
    let gateway = Gateway::before(backend.address).listener("proxy_protocol = true").rest(limits).start();
    for beginning in [&b""[..], b"P", b"PROXY TCP4 192.0.2.1", b"\r\n\r\n\0\r\nQUIT\n\x21"] {
        let mut raw = gateway.raw().await;
        raw.send(beginning).await;
        raw.closed().await;
    }
}

#[tokio::test]
async fn the_header_comes_before_tls() {
    let mut backend = Script::start().await;
    let folder = Folder::new();
    folder.keep("own", &Authority::new().certify(&[HOST_NAME]));
    let keys = format!("proxy_protocol = true\ntls = {{ {} }}", folder.files("own"));
    let gateway = Gateway::before(backend.address).listener(&keys).start();
    let mut stream = TcpStream::connect(gateway.address).await.expect("a connection");
    stream.write_all(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n").await.expect("an open connection");
    let mut stream = over(stream, Tls::new().config(), HOST_NAME).await.expect("a handshake");
    stream.write_all(REQUEST).await.expect("an open connection");
    let arrival = backend.expect("PUT", "/note").await;
    assert_eq!(arrival.field("x-forwarded-for"), Some("192.0.2.1"));
    assert_eq!(arrival.field("x-forwarded-proto"), Some("https"));
    arrival.answer(200, &[], "").await;
    within("an answer", stream.read_u8()).await.expect("an answer");
}
