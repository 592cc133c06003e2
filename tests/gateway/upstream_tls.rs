//! TLS towards backends: whom the gateway believes, what it shows, which protocol is agreed on.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use ifmatch::{
    config::Config,
    upstream::{FailureKind, Fleet},
};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::support::{
    Gateway, H2Script, begin, outside, raw_put,
    tls::{Authority, Certificate, Folder},
};

/// What a backend shows, what it speaks, and whose client certificates it demands.
fn acceptor(own: &Certificate, alpn: &[&str], clients: Option<&Authority>) -> TlsAcceptor {
    let chain = vec![CertificateDer::from_pem_slice(own.chain.as_bytes()).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).expect("a key");
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().expect("versions");
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            let certificate = CertificateDer::from_pem_slice(authority.pem().as_bytes()).expect("a certificate");
            roots.add(certificate).expect("an authority");
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
        }
    };
    let mut config = builder.with_single_cert(chain, key).expect("a certificate");
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

/// A backend that answers every request with what was spoken, the name that was asked for, and how many certificates were
/// shown.
async fn telling(acceptor: TlsAcceptor) -> SocketAddr {
    let listener = outside().spawn(TcpListener::bind("127.0.0.1:0")).await.expect("a task").expect("a port");
    let address = listener.local_addr().expect("an address");
    outside().spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            // What goes wrong is the gateway's to report.
            tokio::spawn(async move { tell(acceptor, stream).await.ok() });
        }
    });
    address
}

async fn tell(acceptor: TlsAcceptor, stream: TcpStream) -> io::Result<()> {
    let stream = acceptor.accept(stream).await?;
    let session = stream.get_ref().1;
    let shown = session.peer_certificates().map_or(0, <[_]>::len);
    let known = format!("{} {shown}", session.server_name().unwrap_or("-"));
    let is_http2 = session.alpn_protocol() == Some(b"h2");
    let service = service_fn(|request: Request<Incoming>| {
        let text = format!("{:?} {known}", request.version());
        async move { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text)))) }
    });
    let io = TokioIo::new(stream);
    // Where the gateway is stopped its connections break.
    let _ = if is_http2 {
        conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await
    } else {
        conn::http1::Builder::new().serve_connection(io, service).await
    };
    Ok(())
}

/// A gateway before an https server at `localhost`, with these keys of the upstream.
fn before(backend: SocketAddr, upstream: &str) -> Gateway {
    Gateway::start(&file(&format!("https://localhost:{}", backend.port()), upstream))
}

fn file(server: &str, upstream: &str) -> String {
    format!(
        "workers = 1\ndrain_timeout = \"1s\"\n[[listeners]]\naddress = \"127.0.0.1:0\"\n\
         [upstreams.backend]\nservers = [\"{server}\"]\n{upstream}\n"
    )
}

/// A folder with the authority's certificate, and the table that names it.
fn believed(authority: &Authority) -> (Folder, String) {
    let folder = Folder::new();
    folder.write("ca.pem", &authority.pem());
    let keys = format!("ca = \"{}\"", folder.path("ca.pem").display());
    (folder, keys)
}

#[tokio::test]
async fn each_protocol_asks_for_what_it_should() {
    let authority = Authority::new();
    let own = authority.certify(&["localhost"]);
    let (_folder, ca) = believed(&authority);
    for (protocol, alpn, spoken) in [
        ("http1", &["h2", "http/1.1"][..], "HTTP/1.1"),
        ("h2", &["h2", "http/1.1"], "HTTP/2.0"),
        ("auto", &["h2", "http/1.1"], "HTTP/2.0"),
        ("auto", &["http/1.1"], "HTTP/1.1"),
        ("auto", &[], "HTTP/1.1"),
    ] {
        let backend = telling(acceptor(&own, alpn, None)).await;
        let gateway = before(backend, &format!("protocol = \"{protocol}\"\ntls = {{ {ca} }}"));
        for _ in 0..2 {
            let answer = gateway.get("/").expect(200).await;
            assert_eq!(answer.text(), format!("{spoken} localhost 0"), "{protocol} and {alpn:?}");
        }
    }
}

#[tokio::test]
async fn a_server_that_does_not_agree_to_http2_gets_no_request() {
    let authority = Authority::new();
    let own = authority.certify(&["localhost"]);
    let (_folder, ca) = believed(&authority);
    for alpn in [&["http/1.1"][..], &[]] {
        let backend = telling(acceptor(&own, alpn, None)).await;
        let gateway = before(backend, &format!("protocol = \"h2\"\ntls = {{ {ca} }}"));
        let answer = gateway.get("/").expect(502).await;
        answer.problem("upstream-refused");
        assert!(answer.field("proxy-status").is_some_and(|status| status.contains("error=tls_")), "{answer:?}");
    }
}

#[tokio::test]
async fn a_certificate_that_is_not_believed_is_told_apart() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (_folder, ca) = believed(&authority);
    for own in [other.certify(&["localhost"]), authority.certify(&["elsewhere.example"])] {
        let backend = telling(acceptor(&own, &["h2", "http/1.1"], None)).await;
        let gateway = before(backend, &format!("tls = {{ {ca} }}"));
        let answer = gateway.put("/note", "x").expect(502).await;
        answer.problem("upstream-refused");
        let status = answer.field("proxy-status").expect("a Proxy-Status");
        assert!(status.contains("error=tls_certificate_error"), "{status}");
        assert!(answer.text().contains("Nothing was changed"), "{answer:?}");
    }
}

#[tokio::test]
async fn the_name_that_a_certificate_must_be_for_can_be_set() {
    let authority = Authority::new();
    let (_folder, ca) = believed(&authority);
    let backend = telling(acceptor(&authority.certify(&["backend.internal"]), &[], None)).await;
    let gateway = before(backend, &format!("tls = {{ {ca}, server_name = \"backend.internal\" }}"));
    assert_eq!(gateway.get("/").expect(200).await.text(), "HTTP/1.1 backend.internal 0");
}

#[tokio::test]
async fn the_gateway_shows_its_certificate_where_it_has_one() {
    let authority = Authority::new();
    let own = authority.certify(&["localhost"]);
    let (folder, ca) = believed(&authority);
    folder.keep("client", &authority.certify(&["gateway.example"]));
    let backend = telling(acceptor(&own, &["h2"], Some(&authority))).await;
    let gateway = before(backend, &format!("tls = {{ {ca}, {} }}", folder.files("client")));
    assert_eq!(gateway.get("/").expect(200).await.text(), "HTTP/2.0 localhost 1");

    let gateway = before(backend, &format!("tls = {{ {ca} }}"));
    assert_eq!(gateway.get("/").send().await.status, 502);
}

#[tokio::test]
async fn a_handshake_that_does_not_come_to_an_end_is_a_timeout() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = silent.local_addr().expect("an address");
    let (_folder, ca) = believed(&Authority::new());
    let gateway = before(address, &format!("connect_timeout = \"200ms\"\ntls = {{ {ca} }}"));
    gateway.put("/note", "x").expect(504).await.problem("upstream-timeout");
}

#[tokio::test]
async fn the_systems_authorities_do_not_know_a_test() {
    let backend = telling(acceptor(&Authority::new().certify(&["localhost"]), &[], None)).await;
    let config = Config::parse(&file(&format!("https://localhost:{}", backend.port()), "")).expect("a configuration");
    // Where the system has none, the start fails with a word of what to do.
    match Fleet::new(config.upstreams[0].clone()) {
        Ok(fleet) => {
            assert_eq!(fleet.servers()[0].failures(FailureKind::Tls), 0);
            let gateway = before(backend, "");
            gateway.get("/").expect(502).await.problem("upstream-refused");
        }
        Err(error) => assert!(error.to_string().contains("tls.ca"), "{error}"),
    }
}

#[test]
fn a_file_that_cannot_be_used_is_named_at_the_start() {
    let (folder, ca) = believed(&Authority::new());
    folder.write("none.pem", "");
    folder.keep("one", &Authority::new().certify(&["one.example"]));
    folder.keep("other", &Authority::new().certify(&["other.example"]));
    let path = |name: &str| folder.path(name).display().to_string();
    let mixed = format!("{ca}, cert = \"{}\", key = \"{}\"", path("one.pem"), path("other.key"));
    for (keys, named) in [
        (format!("ca = \"{}\"", path("missing.pem")), "missing.pem"),
        (format!("ca = \"{}\"", path("none.pem")), "none.pem"),
        (format!("{ca}, cert = \"{}\", key = \"{}\"", path("one.pem"), path("none.pem")), "none.pem"),
        (mixed, "one.pem"),
    ] {
        let config =
            Config::parse(&file("https://localhost", &format!("tls = {{ {keys} }}"))).expect("a configuration");
        let error = Fleet::check(&config.upstreams[0]).expect_err("a file that can't be used").to_string();
        assert!(error.contains(named), "{error}");
        let error = Fleet::all(&config.upstreams).expect_err("a file that can't be used").to_string();
        assert!(error.contains(named) && error.contains("upstreams.backend"), "{error}");
    }
}

#[tokio::test]
async fn a_turn_lasts_until_the_body_is_through_over_tls_too() {
    let authority = Authority::new();
    let (_folder, ca) = believed(&authority);
    let tls = acceptor(&authority.certify(&["localhost"]), &["h2"], None);
    let mut backend = H2Script::with(100, Some(tls)).await;
    let gateway = before(backend.address, &format!("protocol = \"h2\"\ntls = {{ {ca} }}"));
    let mut raw = raw_put(&gateway, "Content-Length: 200000\r\n", vec![b'x'; 100_000]).await;
    let mut arrival = backend.expect("PUT", "/note").await;
    assert_eq!(arrival.uri.scheme_str(), Some("https"));
    arrival.answer_now(200, &[("ETag", "\"early\"")], "");
    assert_eq!(raw.answer("PUT").await.status, 200);
    let next = begin(gateway.put("/note", "next").if_match("\"early\""));
    tokio::task::yield_now().await;
    gateway.barrier().await;
    backend.assert_quiet();
    raw.send(vec![b'x'; 100_000]).await;
    assert_eq!(arrival.body().await.expect("a body").len(), 200_000);
    backend.expect("PUT", "/note").await.answer(200, &[], "").await;
    assert_eq!(next.answer().await.status, 200);
}
