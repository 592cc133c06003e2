//! TLS: what is read from certificate files, and what a listener makes of it.
//!
//! rustls does the rest, with ring's cryptography: TLS 1.2 and 1.3 and no older one. Early data is never accepted, since it
//! can be replayed, and a write must not be.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
};

use rustls::{
    RootCertStore,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
};

use crate::config::open_file;

mod listener;
pub mod upstream;

pub use listener::Acceptor;

/// The largest file that is read; what systems have for authorities is a quarter of it.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Why a file with certificates or a key can't be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It can't be read.
    #[error("{0} can't be read: {1}")]
    Unreadable(PathBuf, #[source] io::Error),
    /// It is not PEM, or what it holds is not what it should.
    #[error("{0}: {1}")]
    Pem(PathBuf, #[source] pem::Error),
    /// It holds no certificate.
    #[error("{0} holds no certificate")]
    Empty(PathBuf),
    /// It holds no private key.
    #[error("{0} holds no private key")]
    NoKey(PathBuf),
    /// A certificate in it can't be used.
    #[error("{0}: {1}")]
    Unusable(PathBuf, #[source] rustls::Error),
    /// The key is another certificate's.
    #[error("{key} is not the key of the certificate in {cert}")]
    Mismatch {
        /// The file with the key.
        key: PathBuf,
        /// The file with the certificate.
        cert: PathBuf,
    },
}

/// A chain of certificates, from a PEM file.
///
/// # Errors
///
/// What is wrong with the file.
pub fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let pem = read(path)?;
    let chain = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| FileError::Pem(path.to_owned(), error))?;
    if chain.is_empty() { Err(FileError::Empty(path.to_owned())) } else { Ok(chain) }
}

/// A private key, from a PEM file.
///
/// # Errors
///
/// What is wrong with the file.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, FileError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|error| {
        if matches!(error, pem::Error::NoItemsFound) {
            FileError::NoKey(path.to_owned())
        } else {
            FileError::Pem(path.to_owned(), error)
        }
    })
}

/// The authorities whose certificates are believed, from a PEM file.
///
/// # Errors
///
/// What is wrong with the file.
pub fn authorities(path: &Path) -> Result<RootCertStore, FileError> {
    let mut store = RootCertStore::empty();
    for certificate in chain(path)? {
        store.add(certificate).map_err(|error| FileError::Unusable(path.to_owned(), error))?;
    }
    Ok(store)
}

fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    let mut bytes = Vec::new();
    let read = open_file(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes));
    let read = read.and_then(|_| if bytes.len() as u64 > MAX_FILE_BYTES { Err(too_large()) } else { Ok(()) });
    read.map(|()| bytes).map_err(|error| FileError::Unreadable(path.to_owned(), error))
}

fn too_large() -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, "it is too large")
}
