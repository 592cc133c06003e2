//! The same client over HTTP/2 and TLS: a stream of a connection that several share.

use std::{fs, io, net::SocketAddr, path::Path, sync::Arc};

use bytes::Bytes;
use h2::client::{self, SendRequest};
use http::{HeaderValue, Method, Request, header};
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

use crate::shape::Shape;

/// A stream at a time of a shared connection, for requests of one shape to one resource.
#[derive(Debug)]
pub(crate) struct Stream {
    connection: SendRequest<Bytes>,
    method: Method,
    path: String,
    tag: HeaderValue,
    body: Bytes,
}

impl Stream {
    pub(crate) fn new(connection: SendRequest<Bytes>, shape: Shape, resource: usize) -> Self {
        let method = if shape.is_read() { Method::GET } else { Method::PUT };
        let path = format!("https://api.example.com{}", shape.path(resource));
        let body = Bytes::from(vec![b'x'; shape.body()]);
        Self { connection, method, path, tag: HeaderValue::from_static("\"ffffffffffffffff\""), body }
    }

    pub(crate) async fn prepare(&mut self) -> io::Result<()> {
        self.exchange(Method::GET, Bytes::new()).await.map(drop)
    }

    pub(crate) async fn request(&mut self) -> io::Result<u16> {
        self.exchange(self.method.clone(), self.body.clone()).await
    }

    async fn exchange(&mut self, method: Method, body: Bytes) -> io::Result<u16> {
        let mut request = Request::builder().method(method).uri(&self.path).header(header::USER_AGENT, "compare/1");
        request = request.header(header::ACCEPT, "*/*");
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
            request = request.header(header::CONTENT_LENGTH, body.len()).header(header::IF_MATCH, &self.tag);
        }
        let request = request.body(()).map_err(io::Error::other)?;
        let mut connection = self.connection.clone().ready().await.map_err(io::Error::other)?;
        let (answer, mut sending) = connection.send_request(request, body.is_empty()).map_err(io::Error::other)?;
        if !body.is_empty() {
            sending.send_data(body, true).map_err(io::Error::other)?;
        }
        let (head, mut body) = answer.await.map_err(io::Error::other)?.into_parts();
        while let Some(data) = body.data().await {
            let length = data.map_err(io::Error::other)?.len();
            body.flow_control().release_capacity(length).map_err(io::Error::other)?;
        }
        if let Some(tag) = head.headers.get(header::ETAG) {
            self.tag = tag.clone();
        }
        Ok(head.status.as_u16())
    }
}

/// A connection, which is driven by a task of its own.
pub(crate) async fn connect(to: SocketAddr, certificate: &Path) -> io::Result<SendRequest<Bytes>> {
    let certificate = CertificateDer::from_pem_slice(&fs::read(certificate)?).map_err(io::Error::other)?;
    let mut roots = RootCertStore::empty();
    roots.add(certificate).map_err(io::Error::other)?;
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from("api.example.com").map_err(io::Error::other)?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let (connection, driver) = client::handshake(stream).await.map_err(io::Error::other)?;
    tokio::spawn(async move { drop(driver.await) });
    Ok(connection)
}
