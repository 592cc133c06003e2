//! The proxies that are compared: each as a careful operator would run it before this backend, with its access log off, as
//! ifmatch has it by default.
//!
//! nginx passes bodies under `/large` on as they come; all else is left as it is shipped. The check in Lua is what people
//! do today: it remembers what answers showed, and compares. It has no turns, so two writers can still pass it together.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::process::{Process, file, free_address, ifmatch, pinned, wait_for};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    Ifmatch,
    Nginx,
    Lua,
    Haproxy,
}

impl Peer {
    pub(crate) const ALL: [Self; 4] = [Self::Ifmatch, Self::Nginx, Self::Lua, Self::Haproxy];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ifmatch => "ifmatch",
            Self::Nginx => "nginx",
            Self::Lua => "nginx+Lua",
            Self::Haproxy => "HAProxy",
        }
    }

    /// Whether it refuses a stale write.
    pub(crate) fn checks(self) -> bool {
        match self {
            Self::Ifmatch | Self::Lua => true,
            Self::Nginx | Self::Haproxy => false,
        }
    }
}

/// What all of them are started with.
#[derive(Debug)]
pub(crate) struct Setting {
    pub(crate) backend: SocketAddr,
    pub(crate) workers: usize,
    /// The cores that they run on, as `taskset` takes them; any, if there are none.
    pub(crate) cores: Option<&'static str>,
    pub(crate) certificate: Certificate,
}

/// A certificate for `api.example.com`, its key, and both in one file.
#[derive(Debug, Clone)]
pub(crate) struct Certificate {
    pub(crate) certificate: PathBuf,
    key: PathBuf,
    both: PathBuf,
}

impl Certificate {
    pub(crate) fn make() -> Result<Self, String> {
        let both = file("both.pem", "")?;
        let (certificate, key) = (both.with_file_name("certificate.pem"), both.with_file_name("key.pem"));
        let made = Command::new("openssl")
            .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=api".split(' '))
            .args(["-addext", "basicConstraints=critical,CA:FALSE", "-addext", "subjectAltName=DNS:api.example.com"])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .stderr(Stdio::null())
            .status();
        if !made.is_ok_and(|status| status.success()) {
            return Err("openssl makes no certificate".to_owned());
        }
        let read = |path: &Path| fs::read_to_string(path).map_err(|error| error.to_string());
        fs::write(&both, read(&certificate)? + &read(&key)?).map_err(|error| error.to_string())?;
        Ok(Self { certificate, key, both })
    }
}

/// A proxy that runs.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) peer: Peer,
    pub(crate) process: Process,
    /// Where it speaks HTTP/1.1.
    pub(crate) plain: SocketAddr,
    /// Where it speaks HTTP/2 over TLS.
    pub(crate) secure: SocketAddr,
}

impl Proxy {
    pub(crate) fn start(peer: Peer, setting: &Setting) -> Result<Self, String> {
        Self::with(peer, setting, "")
    }

    /// `more` goes in front of the other keys of ifmatch's file.
    pub(crate) fn with(peer: Peer, setting: &Setting, more: &str) -> Result<Self, String> {
        let address = || free_address().map_err(|error| error.to_string());
        let (plain, secure) = (address()?, address()?);
        let text = match peer {
            Peer::Ifmatch => ifmatch_file(setting, plain, secure, address()?, more),
            Peer::Nginx => nginx_file(setting, plain, secure, ["", "", ""]),
            Peer::Lua => nginx_file(setting, plain, secure, [LUA_MODULES, "lua_shared_dict tags 64m;", LUA_CHECK]),
            Peer::Haproxy => haproxy_file(setting, plain, secure),
        };
        let config = file(&format!("{}-{}.conf", peer.name(), setting.workers), &text)?;
        let (program, words) = match peer {
            Peer::Ifmatch => (ifmatch(), ["run", "--config"].as_slice()),
            Peer::Nginx | Peer::Lua => ("nginx".to_owned(), ["-e", "/dev/null", "-c"].as_slice()),
            Peer::Haproxy => ("haproxy".to_owned(), ["-q", "-db", "-f"].as_slice()),
        };
        let mut command = pinned(setting.cores, &program);
        command.args(words).arg(config).stdout(Stdio::null()).stderr(Stdio::null());
        let process = Process::start(&mut command)?;
        wait_for(plain).and_then(|()| wait_for(secure)).map_err(|error| format!("{}: {error}", peer.name()))?;
        Ok(Self { peer, process, plain, secure })
    }
}

/// Gets from Debian what is missing.
pub(crate) fn install() -> Result<(), String> {
    let lua = Path::new("/usr/lib/nginx/modules/ngx_http_lua_module.so");
    if Path::new("/usr/sbin/nginx").exists() && Path::new("/usr/sbin/haproxy").exists() && lua.exists() {
        return Ok(());
    }
    let script = "apt-get -qq update && DEBIAN_FRONTEND=noninteractive \
                  apt-get -qq install --no-install-recommends nginx-light libnginx-mod-http-lua haproxy openssl";
    let status = Command::new("sh").args(["-c", script]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if status.is_ok_and(|status| status.success()) {
        return Ok(());
    }
    Err("needed from Debian: nginx libnginx-mod-http-lua haproxy".to_owned())
}

fn ifmatch_file(setting: &Setting, plain: SocketAddr, secure: SocketAddr, admin: SocketAddr, more: &str) -> String {
    let Setting { backend, workers, certificate: Certificate { certificate, key, .. }, .. } = setting;
    let (certificate, key) = (certificate.display(), key.display());
    format!(
        "workers = {workers}\n{more}\n[[listeners]]\naddress = \"{plain}\"\n\
         [[listeners]]\naddress = \"{secure}\"\ntls = {{ cert = \"{certificate}\", key = \"{key}\" }}\n\
         [upstreams.backend]\nservers = [\"http://{backend}\"]\n[admin]\naddress = \"{admin}\"\n"
    )
}

const LUA_MODULES: &str = "load_module /usr/lib/nginx/modules/ndk_http_module.so;\n\
                           load_module /usr/lib/nginx/modules/ngx_http_lua_module.so;";

const LUA_CHECK: &str = r#"
    access_by_lua_block {
        local method = ngx.req.get_method()
        if method == "PUT" or method == "PATCH" or method == "DELETE" then
            local wanted = ngx.var.http_if_match
            if wanted and wanted ~= "*" then
                local known = ngx.shared.tags:get(ngx.var.host .. ngx.var.request_uri)
                if known and not string.find(wanted, known, 1, true) then
                    ngx.status = 409
                    ngx.header["Content-Type"] = "application/problem+json"
                    ngx.header["ETag"] = known
                    ngx.header["Cache-Control"] = "no-store"
                    local body = '{"title":"Conflict","status":409,"error":"Conflict: the version of the resource ' ..
                        'you are trying to update has been modified. Fetch the latest version and try again."}'
                    ngx.header["Content-Length"] = #body
                    ngx.print(body)
                    return ngx.exit(409)
                end
            end
        end
    }
    header_filter_by_lua_block {
        local tag, status = ngx.var.upstream_http_etag, ngx.status
        local method = ngx.req.get_method()
        if method == "DELETE" and status < 400 then
            ngx.shared.tags:delete(ngx.var.host .. ngx.var.request_uri)
        elseif status >= 200 and status < 300 and tag and method ~= "POST" then
            ngx.shared.tags:set(ngx.var.host .. ngx.var.request_uri, tag)
        end
    }
"#;

fn nginx_file(setting: &Setting, plain: SocketAddr, secure: SocketAddr, [modules, dict, check]: [&str; 3]) -> String {
    let Setting { backend, workers, certificate: Certificate { certificate, key, both }, .. } = setting;
    let (certificate, key) = (certificate.display(), key.display());
    let folder = both.parent().unwrap_or(Path::new("/tmp")).display();
    let pass = format!(
        "proxy_pass http://service; proxy_http_version 1.1; proxy_set_header Connection \"\"; \
         proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr; \
         proxy_set_header X-Forwarded-Proto $scheme; {check}"
    );
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("{what}_temp_path {folder}/{what};\n"))
        .concat();
    format!(
        "{modules}\ndaemon off;\nuser root;\nworker_processes {workers};\nworker_rlimit_nofile 65536;\n\
         pid {folder}/nginx-{}.pid;\nerror_log /dev/null;\nevents {{ worker_connections 32768; }}\n\
         http {{\naccess_log off;\n{temporary}{dict}\nclient_max_body_size 16m;\nkeepalive_requests 10000;\n\
         keepalive_timeout 60s;\nupstream service {{ server {backend}; keepalive 512; keepalive_requests 1000000; }}\n\
         server {{\nlisten {plain} reuseport;\nlisten {secure} ssl http2 reuseport;\n\
         ssl_certificate {certificate};\nssl_certificate_key {key};\nlocation / {{ {pass} }}\n\
         location /large {{ proxy_buffering off; proxy_request_buffering off; {pass} }}\n}}\n}}\n",
        plain.port()
    )
}

fn haproxy_file(setting: &Setting, plain: SocketAddr, secure: SocketAddr) -> String {
    let Setting { backend, workers, certificate: Certificate { both, .. }, .. } = setting;
    format!(
        "global\n nbthread {workers}\n no strict-limits\n maxconn 12000\ndefaults\n mode http\n timeout connect 2s\n timeout client 60s\n \
         timeout server 60s\n timeout http-request 10s\n timeout http-keep-alive 60s\n option forwardfor\n \
         http-reuse always\nfrontend clients\n bind {plain}\n bind {secure} ssl crt {} alpn h2,http/1.1\n \
         http-request set-header X-Forwarded-Proto https if {{ ssl_fc }}\n default_backend service\n\
         backend service\n server one {backend}\n",
        both.display()
    )
}
