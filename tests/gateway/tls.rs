//! TLS on the listener: versions, names, client certificates, certificates that change.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use ifmatch::{
    config::{CertificateFiles, Config, ListenerTls},
    server::Server,
    tls::Acceptor,
};
use rustls::{
    HandshakeKind,
    version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, client::TlsStream};

use crate::support::{
    Gateway, H2, Script, Store,
    client::HOST_NAME,
    outside,
    tls::{Authority, Certificate, Folder, Tls, over, was_shown},
    within,
};

/// A folder with a certificate for the host that tests ask, and the listener's keys for it.
fn secured() -> (Folder, String) {
    let folder = Folder::new();
    folder.keep("own", &Authority::new().certify(&[HOST_NAME]));
    let keys = format!("tls = {{ {} }}", folder.files("own"));
    (folder, keys)
}

#[tokio::test]
async fn tls_1_2_and_1_3_are_spoken() {
    let mut backend = Script::start().await;
    let (_folder, keys) = secured();
    let gateway = Gateway::before(backend.address).listener(&keys).start();
    for version in [&TLS12, &TLS13] {
        let stream = Tls::new().only(version).connect(gateway.address, HOST_NAME).await.expect("a handshake");
        assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
        let call = tokio::spawn(gateway.get("/note").send_over(stream));
        let arrival = backend.expect("GET", "/note").await;
        assert_eq!(arrival.field("x-forwarded-proto"), Some("https"));
        assert!(arrival.field("forwarded").is_some_and(|forwarded| forwarded.contains("proto=https")));
        arrival.answer(200, &[], "secured").await;
        assert_eq!(call.await.expect("an answer").text(), "secured");
    }
}

#[tokio::test]
async fn a_certificate_is_chosen_by_the_name_that_is_asked_for() {
    let backend = Script::start().await;
    let (folder, authority) = (Folder::new(), Authority::new());
    let first = authority.certify(&["a.example", "also-a.example"]);
    let second = authority.certify(&["*.b.example"]);
    folder.keep("first", &first);
    folder.keep("second", &second);
    let (one, other) = (folder.files("first"), folder.files("second"));
    let keys = format!("tls = {{ certificates = [{{ {one} }}, {{ {other} }}] }}");
    let gateway = Gateway::before(backend.address).listener(&keys).start();
    let rows = [
        ("a.example", &first),
        ("also-a.example", &first),
        ("x.b.example", &second),
        ("X.B.EXAMPLE", &second),
        ("x.y.b.example", &first),
        ("b.example", &first),
        ("other.example", &first),
        ("127.0.0.1", &first),
    ];
    for (name, shown) in rows {
        for version in [&TLS12, &TLS13] {
            let stream = Tls::new().only(version).connect(gateway.address, name).await.expect("a handshake");
            assert!(was_shown(&stream, shown), "{name}");
        }
    }
}

#[tokio::test]
async fn what_is_spoken_is_agreed_on() {
    let mut backend = Script::start().await;
    let (_folder, keys) = secured();
    let gateway = Gateway::before(backend.address).listener(&keys).start();
    let rows: [(&[&str], Option<&str>, bool); 5] = [
        (&["h2", "http/1.1"], Some("h2"), true),
        (&["http/1.1", "h2"], Some("h2"), true),
        (&["http/1.1"], Some("http/1.1"), false),
        (&[], None, false),
        // With prior knowledge, as without TLS.
        (&[], None, true),
    ];
    for (offered, agreed, is_http2) in rows {
        let stream = Tls::new().alpn(offered).connect(gateway.address, HOST_NAME).await.expect("a handshake");
        assert_eq!(stream.get_ref().1.alpn_protocol(), agreed.map(str::as_bytes), "{offered:?}");
        let call = gateway.get("/note");
        let call = tokio::spawn(async move {
            if is_http2 { H2::over(stream).await.send(call).await } else { call.send_over(stream).await }
        });
        backend.expect("GET", "/note").await.answer(200, &[], "agreed").await;
        assert_eq!(call.await.expect("an answer").text(), "agreed", "{offered:?}");
    }
    let strange = Tls::new().alpn(&["gopher"]).connect(gateway.address, HOST_NAME).await;
    assert!(strange.is_err(), "a client that speaks neither is refused");
}

/// A client of TLS 1.3 takes the handshake for done before its certificate was looked at, so only what follows tells.
async fn is_let_in(gateway: &Gateway, backend: &mut Script, tls: &Tls) -> bool {
    let Ok(mut stream) = tls.connect(gateway.address, HOST_NAME).await else { return false };
    if stream.write_all(b"GET /note HTTP/1.1\r\nHost: notes.example\r\n\r\n").await.is_err() {
        return false;
    }
    tokio::select! {
        arrival = backend.next() => arrival.answer(200, &[], "").await,
        read = stream.read_u8() => {
            read.expect_err("nobody has answered");
            return false;
        }
    }
    within("the first byte of an answer", stream.read_u8()).await.expect("an answer");
    true
}

#[tokio::test]
async fn client_certificates_are_asked_for_where_there_is_an_authority_for_them() {
    let mut backend = Script::start().await;
    let (folder, authority, stranger) = (Folder::new(), Authority::new(), Authority::new());
    folder.keep("own", &authority.certify(&[HOST_NAME]));
    folder.write("ca.pem", &authority.pem());
    let keys = format!("tls = {{ {}, client_ca = \"{}\" }}", folder.files("own"), folder.path("ca.pem").display());
    let gateway = Gateway::before(backend.address).listener(&keys).start();
    let (known, unknown) = (authority.certify(&["client"]), stranger.certify(&["client"]));
    for version in [&TLS12, &TLS13] {
        let tls = Tls::new().only(version);
        assert!(is_let_in(&gateway, &mut backend, &tls.clone().shows(&known)).await);
        assert!(!is_let_in(&gateway, &mut backend, &tls.clone().shows(&unknown)).await);
        assert!(!is_let_in(&gateway, &mut backend, &tls).await);
    }
    backend.assert_quiet();
}

#[tokio::test]
async fn verdicts_are_the_same_whatever_is_spoken() {
    let (_folder, keys) = secured();
    let store = Store::start().await;
    let settings = Gateway::before(store.address).guard("missing = \"require\"");
    let plain = settings.start();
    let secured = Gateway::before(store.address).guard("missing = \"require\"").listener(&keys).start();
    for way in ["h1", "h2", "h1 over TLS", "h2 over TLS"] {
        let path = format!("/{}", way.replace(' ', "-"));
        let connect = async || {
            let alpn = if way.starts_with("h2") { "h2" } else { "http/1.1" };
            Tls::new().alpn(&[alpn]).connect(secured.address, HOST_NAME).await.expect("a handshake")
        };
        let send = async |call: crate::support::Call| match way {
            "h1" => call.send().await,
            "h2" => H2::connect(plain.address).await.send(call).await,
            "h1 over TLS" => call.send_over(connect().await).await,
            _ => H2::over(connect().await).await.send(call).await,
        };
        let gateway = if way.ends_with("TLS") { &secured } else { &plain };
        assert_eq!(send(gateway.put(&path, "new").with("if-none-match", "*")).await.status, 201, "{way}");
        let tag = send(gateway.get(&path)).await.tag();
        send(gateway.put(&path, "no tag")).await.problem("precondition-required");
        assert_eq!(send(gateway.put(&path, "current").if_match(&tag)).await.status, 200, "{way}");
        let stale = send(gateway.put(&path, "stale").if_match(&tag)).await;
        assert_eq!(stale.status, 409, "{way}");
        stale.problem("stale");
        assert_eq!(send(gateway.put(&path, "bad").if_match("bad")).await.status, 400, "{way}");
        assert_eq!(store.body(&path).as_deref(), Some("current"), "{way}");
    }
}

#[tokio::test]
async fn who_closes_its_side_of_a_secured_connection_gets_the_answer() {
    let mut backend = Script::start().await;
    let (_folder, keys) = secured();
    let gateway = Gateway::before(backend.address).listener(&keys).start();
    let mut stream = Tls::new().connect(gateway.address, HOST_NAME).await.expect("a handshake");
    stream.write_all(b"GET /note HTTP/1.1\r\nHost: notes.example\r\n\r\n").await.expect("an open connection");
    stream.shutdown().await.expect("an open connection");
    backend.expect("GET", "/note").await.answer(200, &[], "answered").await;
    let mut answer = String::new();
    within("an answer", stream.read_to_string(&mut answer)).await.expect("an answer that ends as it should");
    assert!(answer.ends_with("answered"), "{answer}");
}

#[tokio::test]
async fn plain_http_on_a_port_with_tls_is_told_so() {
    let backend = Script::start().await;
    let (_folder, keys) = secured();
    let gateway = Gateway::before(backend.address).listener(&keys).start();
    let mut raw = gateway.raw().await;
    raw.send("GET /note HTTP/1.1\r\nHost: notes.example\r\n\r\n").await;
    let answer = raw.answer("GET").await;
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("HTTPS"), "{}", answer.text());
    raw.closed().await;
}

#[tokio::test]
async fn a_handshake_that_does_not_get_on_is_given_up() {
    let backend = Script::start().await;
    let (_folder, keys) = secured();
    let limits = "[limits]\nheader_read_timeout = \"200ms\"";
    let gateway = Gateway::before(backend.address).listener(&keys).rest(limits).start();
    for beginning in [&b""[..], b"\x16", b"\x16\x03\x01\x01\x00\x01\x00\x00\xfc\x03\x03"] {
        let mut raw = gateway.raw().await;
        raw.send(beginning).await;
        raw.closed().await;
    }
    // Nor is one that says nothing once it is secured.
    let mut silent = Tls::new().connect(gateway.address, HOST_NAME).await.expect("a handshake");
    let read = within("the gateway to close", silent.read_u8()).await;
    assert!(read.is_err());
}

/// A listener with an [`Acceptor`] that answers each connection with a byte for each byte.
struct Echo {
    address: SocketAddr,
    acceptor: Arc<Acceptor>,
}

impl Echo {
    async fn start(files: &ListenerTls) -> Self {
        let acceptor = Arc::new(Acceptor::new(files).expect("files that can be used"));
        let listener = outside().spawn(TcpListener::bind("127.0.0.1:0")).await.expect("a task").expect("a port");
        let address = listener.local_addr().expect("an address");
        let current = Arc::clone(&acceptor);
        outside().spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let accepting = TlsAcceptor::from(current.config()).accept(stream);
                tokio::spawn(async move {
                    let mut stream = accepting.await?;
                    while let Ok(byte) = stream.read_u8().await {
                        stream.write_u8(byte).await?;
                        stream.flush().await?;
                    }
                    Ok::<_, std::io::Error>(())
                });
            }
        });
        Self { address, acceptor }
    }
}

async fn echoes(stream: &mut TlsStream<TcpStream>) -> bool {
    let exchange = async {
        stream.write_u8(7).await?;
        stream.flush().await?;
        stream.read_u8().await
    };
    within("an echo", exchange).await.is_ok_and(|byte| byte == 7)
}

fn files(folder: &Folder, client_ca: Option<PathBuf>) -> ListenerTls {
    let own = CertificateFiles { cert: folder.path("own.pem"), key: folder.path("own.key") };
    ListenerTls { certificates: vec![own], client_ca }
}

#[tokio::test]
async fn a_new_certificate_is_shown_to_new_connections_and_breaks_no_old_one() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let (old, new) = (authority.certify(&[HOST_NAME]), authority.certify(&[HOST_NAME]));
    folder.keep("own", &old);
    let files = files(&folder, None);
    let echo = Echo::start(&files).await;
    let tls = Tls::new();
    let mut before = tls.connect(echo.address, HOST_NAME).await.expect("a handshake");
    assert!(was_shown(&before, &old) && echoes(&mut before).await);
    assert!(!echo.acceptor.reload(&files).expect("files that can be used"), "nothing is new");

    folder.keep("own", &new);
    assert!(echo.acceptor.reload(&files).expect("files that can be used"));
    let mut after = tls.connect(echo.address, HOST_NAME).await.expect("a handshake");
    assert!(was_shown(&after, &new) && echoes(&mut after).await);
    assert!(echoes(&mut before).await, "a connection that was there before");
}

#[tokio::test]
async fn a_broken_file_is_named_and_leaves_everything_as_it_was() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let (own, other) = (authority.certify(&[HOST_NAME]), authority.certify(&[HOST_NAME]));
    let text = |text: &str| text.to_owned();
    folder.keep("own", &own);
    let files = files(&folder, Some(folder.path("ca.pem")));
    let no_certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let rows: [(&str, Option<String>, &str); 9] = [
        ("own.pem", None, "can't be read"),
        ("own.pem", Some(text("")), "holds no certificate"),
        ("own.pem", Some(text("-----BEGIN CERTIFICATE-----\n!\n")), "own.pem"),
        ("own.pem", Some(text(no_certificate)), "own.pem"),
        ("own.pem", Some(other.chain), "own.key is not the key of the certificate in"),
        ("own.key", None, "can't be read"),
        ("own.key", Some(own.chain.clone()), "own.key"),
        ("ca.pem", None, "can't be read"),
        ("ca.pem", Some(text(no_certificate)), "ca.pem"),
    ];
    folder.write("ca.pem", &authority.pem());
    let echo = Echo::start(&files).await;
    let tls = Tls::new().shows(&authority.certify(&["client"]));
    for (name, content, complaint) in rows {
        match content {
            Some(content) => folder.write(name, &content),
            None => std::fs::remove_file(folder.path(name)).expect("a file"),
        }
        let error = echo.acceptor.reload(&files).expect_err(complaint).to_string();
        assert!(error.contains(name) && error.contains(complaint), "{error}");
        let mut stream = tls.connect(echo.address, HOST_NAME).await.expect("a handshake");
        assert!(was_shown(&stream, &own) && echoes(&mut stream).await, "{complaint}");

        let (certificate, ca) = (folder.files("own"), folder.path("ca.pem"));
        let tls = format!("tls = {{ {certificate}, client_ca = \"{}\" }}", ca.display());
        let file = format!("[[listeners]]\naddress = \"127.0.0.1:0\"\n{tls}\n[upstreams.b]\nservers = [\"http://b\"]");
        let refused = Server::bind(Config::parse(&file).expect("a file")).expect_err(complaint).to_string();
        assert!(refused.contains(complaint), "{refused}");

        folder.keep("own", &own);
        folder.write("ca.pem", &authority.pem());
        assert!(!echo.acceptor.reload(&files).expect("files that can be used"), "nothing is new");
    }
}

async fn handshake(address: SocketAddr, config: &Arc<rustls::ClientConfig>) -> Option<HandshakeKind> {
    let stream = within("a connection", TcpStream::connect(address)).await.expect("a connection");
    let mut stream = over(stream, Arc::clone(config), HOST_NAME).await.ok()?;
    // Only with what follows the handshake come tickets, and the word that a certificate was not believed.
    echoes(&mut stream).await.then(|| stream.get_ref().1.handshake_kind()).flatten()
}

/// What a session was begun under must still hold where it is taken up again.
#[tokio::test]
async fn sessions_are_taken_up_again_but_not_under_another_authority() {
    for version in [&TLS12, &TLS13] {
        let (folder, authority) = (Folder::new(), Authority::new());
        folder.keep("own", &authority.certify(&[HOST_NAME]));
        folder.write("ca.pem", &authority.pem());
        let files = files(&folder, Some(folder.path("ca.pem")));
        let echo = Echo::start(&files).await;
        let client: Certificate = authority.certify(&["client"]);
        let config = Tls::new().only(version).shows(&client).config();
        assert_eq!(handshake(echo.address, &config).await, Some(HandshakeKind::Full));
        assert_eq!(handshake(echo.address, &config).await, Some(HandshakeKind::Resumed));
        folder.write("ca.pem", &Authority::new().pem());
        assert!(echo.acceptor.reload(&files).expect("files that can be used"));
        assert_eq!(handshake(echo.address, &config).await, None, "nobody believes this client any more");
    }
}

#[tokio::test]
async fn a_stop_lets_what_is_under_way_on_secured_connections_end() {
    let mut backend = Script::start().await;
    let (_folder, keys) = secured();
    let gateway = Gateway::before(backend.address).drain_timeout("30s").listener(&keys).start();
    let tls = Tls::new();
    let (first, second) = (tls.clone().alpn(&["http/1.1"]), tls.alpn(&["h2"]));
    let first = first.connect(gateway.address, HOST_NAME).await.expect("a handshake");
    let second = H2::over(second.connect(gateway.address, HOST_NAME).await.expect("a handshake")).await;
    let first = tokio::spawn(gateway.put("/first", "1").send_over(first));
    let first_arrival = backend.expect("PUT", "/first").await;
    let call = gateway.put("/second", "2");
    let second = tokio::spawn(async move { second.send(call).await });
    let second_arrival = backend.expect("PUT", "/second").await;

    gateway.stop();
    let stopped = tokio::spawn(gateway.stopped());
    first_arrival.answer(200, &[], "").await;
    second_arrival.answer(200, &[], "").await;
    assert_eq!(first.await.expect("an answer").status, 200);
    assert_eq!(second.await.expect("an answer").status, 200);
    within("the stop", stopped).await.expect("a stop");
}
