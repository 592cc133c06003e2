//! TLS towards `https` servers: whom the gateway believes, what it shows, which protocol it asks for.
//!
//! What is read from files is read when this is made, so that a file that can't be used is found at the start. A server's
//! certificate is always checked; there is no switch for that.

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use http::uri::Authority;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{InvalidDnsNameError, ServerName},
};
use tokio_rustls::TlsConnector;

use super::{FileError, authorities, chain, private_key};
use crate::config::UpstreamTls;

const HTTP1: &[u8] = b"http/1.1";
const HTTP2: &[u8] = b"h2";

/// Why connections can't be secured.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A file can't be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The key does not go with the certificate, or can't be used.
    #[error("{0} and its key: {1}")]
    Certificate(PathBuf, #[source] rustls::Error),
    /// The system has no authorities.
    #[error("the system's certificates can't be read ({0}); name a file with tls.ca")]
    System(String),
    /// A certificate can't be for such a host.
    #[error("{0} is no name that a certificate could be for; set tls.server_name")]
    Name(String, #[source] InvalidDnsNameError),
}

/// Which protocol the server is asked for (ALPN, RFC 7301).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asks {
    /// HTTP/1.1 and nothing else.
    Http1,
    /// HTTP/2 and nothing else.
    Http2,
    /// HTTP/2 or HTTP/1.1, as the server prefers.
    Either,
}

/// What connections are secured with. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    http1: TlsConnector,
    http2: TlsConnector,
    either: TlsConnector,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    /// Reads what the configuration names.
    ///
    /// # Errors
    ///
    /// A file that can't be used, or a system without authorities.
    pub fn new(config: &UpstreamTls) -> Result<Self, ClientError> {
        let roots = match &config.ca {
            Some(file) => Arc::new(authorities(file)?),
            None => system()?,
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has the default versions")
            .with_root_certificates(roots);
        let mut client = match &config.certificate {
            None => builder.with_no_client_auth(),
            Some(files) => builder
                .with_client_auth_cert(chain(&files.cert)?, private_key(&files.key)?)
                .map_err(|error| ClientError::Certificate(files.cert.clone(), error))?,
        };
        let mut asking = |protocols: &[&[u8]]| {
            client.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            TlsConnector::from(Arc::new(client.clone()))
        };
        Ok(Self { http1: asking(&[HTTP1]), http2: asking(&[HTTP2]), either: asking(&[HTTP2, HTTP1]) })
    }

    /// What connections are made with.
    #[must_use]
    pub fn connector(&self, asks: Asks) -> &TlsConnector {
        match asks {
            Asks::Http1 => &self.http1,
            Asks::Http2 => &self.http2,
            Asks::Either => &self.either,
        }
    }
}

/// Whether HTTP/2 was agreed on.
#[must_use]
pub fn speaks_http2(connection: &rustls::ClientConnection) -> bool {
    connection.alpn_protocol() == Some(HTTP2)
}

/// The name that a server's certificate must be for.
///
/// # Errors
///
/// That no certificate can be for such a name.
pub fn server_name(config: &UpstreamTls, authority: &Authority) -> Result<ServerName<'static>, ClientError> {
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let name = config.server_name.as_deref().unwrap_or(host);
    ServerName::try_from(name.to_owned()).map_err(|error| ClientError::Name(name.to_owned(), error))
}

/// The system's authorities, which are read once. A certificate among them that can't be used is passed over, as every
/// client does.
fn system() -> Result<Arc<RootCertStore>, ClientError> {
    static SYSTEM: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    if let Some(roots) = SYSTEM.get() {
        return Ok(Arc::clone(roots));
    }
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map_or_else(|| "there are none".to_owned(), ToString::to_string);
        return Err(ClientError::System(why));
    }
    Ok(Arc::clone(SYSTEM.get_or_init(|| Arc::new(roots))))
}
