//! TLS on a listener: which certificate a client is shown, and whose it must show.
//!
//! Everything is made anew when a file has changed, tickets included: a session that began under an authority which is no
//! longer believed is not taken up again. Connections that are open keep what they began with.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{
    Error, InconsistentKeys, ServerConfig, SignatureScheme,
    client::verify_server_name,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, DnsName, PrivateKeyDer, ServerName},
    server::{ClientHello, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};

use super::{FileError, authorities, chain, private_key};
use crate::config::{CertificateFiles, ListenerTls};

/// What is spoken inside, the preferred first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// How a listener's new connections are secured. All workers share it, and it can be renewed while they use it.
#[derive(Debug)]
pub struct Acceptor(Mutex<Current>);

#[derive(Debug)]
struct Current {
    material: Material,
    config: Arc<ServerConfig>,
}

/// What the files hold.
#[derive(Debug, PartialEq)]
struct Material {
    certificates: Vec<Certificate>,
    client_ca: Option<Vec<CertificateDer<'static>>>,
}

#[derive(Debug, PartialEq)]
struct Certificate {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Acceptor {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// What is wrong with the first file that can't be used.
    pub fn new(files: &ListenerTls) -> Result<Self, FileError> {
        let material = Material::read(files)?;
        let config = material.config(files)?;
        Ok(Self(Mutex::new(Current { material, config })))
    }

    /// Reads the files again, for connections that begin from here on. Returns whether there is anything new in them.
    ///
    /// # Errors
    ///
    /// What is wrong with the first file that can't be used. Then everything stays as it was.
    pub fn reload(&self, files: &ListenerTls) -> Result<bool, FileError> {
        let material = Material::read(files)?;
        if material == self.0.lock().unwrap_or_else(PoisonError::into_inner).material {
            return Ok(false);
        }
        let config = material.config(files)?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Current { material, config };
        Ok(true)
    }

    /// What a connection that begins now is secured with.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner).config)
    }
}

impl Material {
    fn read(files: &ListenerTls) -> Result<Self, FileError> {
        let certificate =
            |files: &CertificateFiles| Ok(Certificate { chain: chain(&files.cert)?, key: private_key(&files.key)? });
        Ok(Self {
            certificates: files.certificates.iter().map(certificate).collect::<Result<_, _>>()?,
            client_ca: files.client_ca.as_deref().map(chain).transpose()?,
        })
    }

    fn config(&self, files: &ListenerTls) -> Result<Arc<ServerConfig>, FileError> {
        let provider = Arc::new(ring::default_provider());
        let resolver = self.resolver(files, &provider)?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .expect("ring has suites for both versions");
        let builder = match &files.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities(path)?), provider);
                let verifier = verifier.build().expect("there is an authority, and no list of revocations");
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = PROTOCOLS.iter().map(|name| name.to_vec()).collect();
        // Without randomness for its keys nobody gets a ticket, which costs a longer handshake.
        if let Ok(ticketer) = ring::Ticketer::new() {
            config.ticketer = ticketer;
        }
        Ok(Arc::new(config))
    }

    fn resolver(&self, files: &ListenerTls, provider: &CryptoProvider) -> Result<ByName, FileError> {
        let key = |(certificate, files): (&Certificate, &CertificateFiles)| certificate.certified(files, provider);
        let keys = self.certificates.iter().zip(&files.certificates).map(key);
        Ok(ByName(keys.collect::<Result<_, _>>()?))
    }
}

impl Certificate {
    fn certified(&self, files: &CertificateFiles, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, FileError> {
        let unusable = |path: &Path, error| FileError::Unusable(path.to_owned(), error);
        ParsedCertificate::try_from(&self.chain[0]).map_err(|error| unusable(&files.cert, error))?;
        let key = CertifiedKey::from_der(self.chain.clone(), self.key.clone_key(), provider);
        key.map(Arc::new).map_err(|error| {
            if error == Error::InconsistentKeys(InconsistentKeys::KeyMismatch) {
                FileError::Mismatch { key: files.key.clone(), cert: files.cert.clone() }
            } else {
                unusable(&files.key, error)
            }
        })
    }
}

/// The certificates of a listener; never empty.
#[derive(Debug)]
struct ByName(Vec<Arc<CertifiedKey>>);

impl ByName {
    /// The first that is for this name, as a client would check it (wildcards included), and that the client can verify.
    fn of(&self, name: &str, schemes: &[SignatureScheme]) -> Option<&Arc<CertifiedKey>> {
        let name = ServerName::DnsName(DnsName::try_from(name).ok()?);
        self.0.iter().find(|key| {
            let certificate = key.end_entity_cert().and_then(ParsedCertificate::try_from);
            certificate.is_ok_and(|certificate| verify_server_name(&certificate, &name).is_ok())
                && key.key.choose_scheme(schemes).is_some()
        })
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| self.of(name, hello.signature_schemes()));
        named.or_else(|| self.0.first()).map(Arc::clone)
    }
}
