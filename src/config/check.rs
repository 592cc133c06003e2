//! What can be said of a configuration only by a look around: the files that it names, and whether its parts get along.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
};

use rustls::{InconsistentKeys, crypto::ring::sign::any_supported_type, sign::CertifiedKey};

use super::{CertificateFiles, Config, ConfigError, ConfigErrors, Listener, Origin, Upstream, UpstreamTls};
use crate::tls::{
    self,
    upstream::{Client, ClientError, server_name},
};

impl Config {
    /// Looks at the certificates and keys that the file names, for an address that is listened on twice, and for an
    /// upstream that is the gateway itself.
    ///
    /// # Errors
    ///
    /// All that is wrong, each with its key.
    pub fn check(&self) -> Result<(), ConfigErrors> {
        let mut errors = Vec::new();
        for (index, listener) in self.listeners.iter().enumerate() {
            let key = format!("listeners[{index}]");
            if let Some((first, other)) =
                self.listeners[..index].iter().enumerate().find(|(_, o)| meets(o.address, listener.address))
            {
                add(&mut errors, &key, "address", met(listener.address, first, other.address));
            }
            if let Some(tls) = &listener.tls {
                for (place, files) in tls.certificates.iter().enumerate() {
                    let key = match tls.certificates.len() {
                        1 => format!("{key}.tls"),
                        _ => format!("{key}.tls.certificates[{place}]"),
                    };
                    certificate(&mut errors, &key, files);
                }
                authorities(&mut errors, &format!("{key}.tls"), "client_ca", tls.client_ca.as_deref());
            }
        }
        if let Some(admin) = self.admin.map(|admin| admin.address)
            && let Some((first, other)) = self.listeners.iter().enumerate().find(|(_, o)| meets(o.address, admin))
        {
            add(&mut errors, "admin", "address", met(admin, first, other.address));
        }
        for upstream in &self.upstreams {
            let key = format!("upstreams.{}", upstream.name);
            let found = errors.len();
            for (index, server) in upstream.servers.iter().enumerate() {
                if let Some(listener) = self.listeners.iter().find(|listener| leads_to(server, listener)) {
                    let message = format!("{server} is this gateway's own listener {}: a loop", listener.address);
                    add(&mut errors, &key, &format!("servers[{index}]"), message);
                }
            }
            authorities(&mut errors, &format!("{key}.tls"), "ca", upstream.tls.ca.as_deref());
            if let Some(files) = &upstream.tls.certificate {
                certificate(&mut errors, &format!("{key}.tls"), files);
            }
            // What is wrong with a file has been said.
            if errors.len() == found
                && let Err(error) = secured(upstream)
            {
                add(&mut errors, &key, "tls", error.to_string());
            }
            if errors.len() == found
                && upstream.tls != UpstreamTls::default()
                && !upstream.servers.iter().any(|s| s.https)
            {
                add(&mut errors, &key, "tls", "is of no use: none of the servers is written https://".to_owned());
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(ConfigErrors { errors }) }
    }

    /// The files with certificates and keys that the configuration names.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let of_listeners = self.listeners.iter().filter_map(|listener| listener.tls.as_ref()).flat_map(|tls| {
            let certificates = tls.certificates.iter().flat_map(|files| [&files.cert, &files.key]);
            certificates.chain(&tls.client_ca)
        });
        let of_upstreams = self.upstreams.iter().flat_map(Upstream::files);
        of_listeners.map(AsRef::as_ref).chain(of_upstreams)
    }
}

impl Upstream {
    /// The files with certificates and keys for this upstream.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let certificate = self.tls.certificate.iter().flat_map(|files| [&files.cert, &files.key]);
        self.tls.ca.iter().chain(certificate).map(AsRef::as_ref)
    }
}

/// Whether one of two listening addresses would take what comes to the other. Port 0 is another one each time.
fn meets(one: SocketAddr, other: SocketAddr) -> bool {
    let (one_ip, other_ip) = (one.ip().to_canonical(), other.ip().to_canonical());
    let is_all = |ip: IpAddr, of: IpAddr| ip.is_unspecified() && ip.is_ipv4() == of.is_ipv4();
    one.port() != 0
        && one.port() == other.port()
        && (one_ip == other_ip || is_all(one_ip, other_ip) || is_all(other_ip, one_ip))
}

fn met(address: SocketAddr, first: usize, other: SocketAddr) -> String {
    if address == other {
        format!("is that of listeners[{first}]: {address}")
    } else {
        format!("{address} meets {other} of listeners[{first}]: one of them takes what comes to the other")
    }
}

fn add(errors: &mut Vec<ConfigError>, table: &str, key: &str, message: String) {
    errors.push(ConfigError { line: None, key: format!("{table}.{key}"), message });
}

fn certificate(errors: &mut Vec<ConfigError>, table: &str, files: &CertificateFiles) {
    let chain = tls::chain(&files.cert).map_err(|error| add(errors, table, "cert", error.to_string()));
    let key = tls::private_key(&files.key).map_err(|error| add(errors, table, "key", error.to_string()));
    let (Ok(chain), Ok(key)) = (chain, key) else { return };
    match any_supported_type(&key) {
        Err(error) => add(errors, table, "key", format!("{}: {error}", files.key.display())),
        Ok(key) => match CertifiedKey::new(chain, key).keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                let message =
                    format!("{} is not the key of the certificate in {}", files.key.display(), files.cert.display());
                add(errors, table, "key", message);
            }
            Err(error) => {
                let message = format!("{} does not fit {}: {error}", files.key.display(), files.cert.display());
                add(errors, table, "key", message);
            }
        },
    }
}

fn authorities(errors: &mut Vec<ConfigError>, table: &str, key: &str, path: Option<&Path>) {
    if let Some(Err(error)) = path.map(tls::authorities) {
        add(errors, table, key, error.to_string());
    }
}

/// Whether connections to the upstream's `https` servers could be secured.
fn secured(upstream: &Upstream) -> Result<(), ClientError> {
    let mut secured = upstream.servers.iter().filter(|server| server.https).peekable();
    if secured.peek().is_some() {
        Client::new(&upstream.tls)?;
    }
    secured.try_for_each(|server| server_name(&upstream.tls, &server.authority).map(drop))
}

/// Whether a server is one of the gateway's own listeners, as far as an address on this machine shows it.
fn leads_to(server: &Origin, listener: &Listener) -> bool {
    let host = server.authority.host().trim_start_matches('[').trim_end_matches(']');
    let port = server.authority.port_u16().unwrap_or(if server.https { 443 } else { 80 });
    let own = listener.address.ip().to_canonical();
    let is_same = match host.parse::<std::net::IpAddr>() {
        Ok(ip) => {
            let ip = ip.to_canonical();
            ip == own || own.is_unspecified() && (ip.is_loopback() || ip.is_unspecified())
        }
        Err(_) => host.eq_ignore_ascii_case("localhost") && (own.is_loopback() || own.is_unspecified()),
    };
    is_same && port == listener.address.port()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_that_take_each_others_connections() {
        for (one, other, meet) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("127.0.0.1:80", "0.0.0.0:80", true),
            ("127.0.0.1:80", "[::ffff:127.0.0.1]:80", true),
            ("[::1]:80", "[::]:80", true),
            ("[::1]:80", "0.0.0.0:80", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
        ] {
            let address = |text: &str| text.parse().expect("an address");
            assert_eq!(meets(address(one), address(other)), meet, "{one} {other}");
            assert_eq!(meets(address(other), address(one)), meet, "{other} {one}");
        }
    }
}
