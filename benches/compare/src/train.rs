//! What ifmatch is shown ahead of its release, so that the compiler learns what a gateway does all day: `build/optimized`.
//!
//! What a profile never saw is taken for rare, and built to be small instead of fast. So beside the requests that are
//! measured there is some of all that is usual. Nothing is measured here, no core is chosen and no peer needed; each answer's
//! status is checked, so that no error is taken for what is usual.

use std::{io, time::Duration};

use tokio::{task::JoinSet, time::timeout};

use crate::{
    connection::Connection,
    load::{all, drive},
    peers::{Certificate, Peer, Proxy, Setting},
    process,
    secure::{self, Stream},
    shape::{DIGITS, Shape},
    table::{runtime, text},
};

/// How many requests there are of each small shape.
const REQUESTS: usize = 4_000;
/// How many connections carry them; over HTTP/2 so many streams share [`SHARED`].
const CONNECTIONS: usize = 16;
const SHARED: usize = 2;
/// How long each of the two runs may take.
const LIMIT: Duration = Duration::from_secs(25);

/// A gateway's file beside listeners and backend: what services that are not like the default's set most.
const SETTINGS: &str = r#"
[log]
access = true
[[routes]]
path = "/required/{*path}"
guard = { missing = "require", conflict_status = 412 }
[[routes]]
path = "/made/{*path}"
guard = { version = "body", after_write = "probe", comparison = "weak" }
[[routes]]
path = "/asked/{*path}"
guard = { verify = "always", cors = "follow", conflict_body = "simple" }
[[routes]]
path = "/again/{*path}"
guard = { replay = "1m", idempotency = "1m" }
[[routes]]
path = "/watched/{*path}"
guard = { mode = "observe" }
[[routes]]
path = "/{*path}"
"#;

/// A request of a visit: its method and path, further fields, its body, and the status that it gets. `#` stands for the
/// visit's number, `@` for the last tag that was seen.
struct Step(&'static str, &'static str, Body, u16);

enum Body {
    None,
    Whole,
    Chunked,
}

/// Visits to a gateway with its defaults.
const PLAIN: &[Step] = &[
    Step("GET /visit/#", "", Body::None, 200),
    Step("GET /visit/#", "If-None-Match: @\r\n", Body::None, 304),
    Step("HEAD /visit/#", "", Body::None, 200),
    Step("GET /visit/?page=2&of=%C3%BCber%20all&size=10", "Accept-Encoding: gzip, br\r\n", Body::None, 200),
    Step("GET /chunked/#", "", Body::None, 200),
    Step("GET /missing/#", "", Body::None, 404),
    Step("GET /visit/#", "", Body::None, 200),
    Step("PUT /visit/#", "If-Match: @\r\n", Body::Whole, 204),
    Step("PUT /visit/#", "If-Match: \"other\", @\r\n", Body::Chunked, 204),
    Step("PATCH /visit/#", "If-Match: @\r\n", Body::Whole, 204),
    Step("PUT /visit/#", "If-Match: \"other\"\r\n", Body::Whole, 409),
    Step("PUT /visit/#", "If-None-Match: *\r\n", Body::Whole, 409),
    Step("PUT /visit/#", "", Body::Whole, 204),
    Step("PUT /visit/new/#", "If-Match: \"other\"\r\n", Body::Whole, 409),
    Step("POST /visit/", "", Body::Whole, 204),
    Step("DELETE /visit/#", "If-Match: *\r\n", Body::None, 204),
];

/// Visits to one with [`SETTINGS`].
const SET: &[Step] = &[
    Step("GET /required/#", "", Body::None, 200),
    Step("PUT /required/#", "", Body::Whole, 428),
    Step("PUT /required/#", "If-Match: @\r\n", Body::Whole, 204),
    Step("PUT /required/#", "If-Match: \"other\"\r\n", Body::Whole, 412),
    Step("GET /made/#", "", Body::None, 200),
    Step("PUT /made/#", "If-Match: @\r\n", Body::Whole, 204),
    Step("GET /asked/#", "Origin: https://app.example.com\r\n", Body::None, 200),
    Step("PUT /asked/#", "Origin: https://app.example.com\r\nIf-Match: @\r\n", Body::Whole, 204),
    Step("PUT /asked/#", "Origin: https://app.example.com\r\nIf-Match: \"other\"\r\n", Body::Whole, 409),
    Step("POST /again/", "Idempotency-Key: \"#\"\r\n", Body::Whole, 204),
    Step("POST /again/", "Idempotency-Key: \"#\"\r\n", Body::Whole, 204),
    Step("GET /watched/#", "", Body::None, 200),
    Step("PUT /watched/#", "If-Match: \"other\"\r\n", Body::Whole, 204),
];

pub(crate) fn run(words: &[&str]) -> Result<(), String> {
    let requests = match words {
        [] => REQUESTS,
        ["--requests", number] => number.parse().map_err(|_| format!("{number}: how many requests?"))?,
        [unknown, ..] => return Err(format!("{unknown}: not known to `train`")),
    };
    let (_backend, backend) = process::backend(None)?;
    let certificate = Certificate::make()?;
    for (workers, settings, steps) in [(1, "", PLAIN), (2, SETTINGS, SET)] {
        let setting = Setting { backend, workers, cores: None, certificate: certificate.clone() };
        let mut proxy = Proxy::with(Peer::Ifmatch, &setting, settings)?;
        // One for each, since connections end with it, and the gateway waits for that.
        let runtime = runtime()?;
        let sent = runtime.block_on(async { timeout(LIMIT, send(&proxy, &certificate, steps, requests)).await });
        sent.map_err(|_| format!("the requests took more than {} s", LIMIT.as_secs()))?.map_err(text)?;
        drop(runtime);
        // Only a program that comes to its end writes down what it has counted.
        if !proxy.process.stop().is_some_and(|status| status.success()) {
            return Err("ifmatch did not stop in good order".to_owned());
        }
    }
    Ok(())
}

async fn send(proxy: &Proxy, certificate: &Certificate, steps: &'static [Step], requests: usize) -> io::Result<()> {
    let each = |shape: Shape| requests.div_ceil(if shape.is_large() { 20 } else { 1 }).div_ceil(CONNECTIONS);
    for shape in Shape::ALL {
        drive(proxy.plain, shape, CONNECTIONS, each(shape)).await?;
    }
    for shape in [Shape::Get, Shape::Put, Shape::GetLarge, Shape::PutLarge] {
        drive_secure(proxy, certificate, shape, each(shape)).await?;
    }
    let mut visitors = JoinSet::new();
    for visitor in 0..CONNECTIONS {
        let to = proxy.plain;
        let visits = requests.div_ceil(CONNECTIONS * steps.len());
        visitors.spawn(async move {
            for number in 0..visits {
                // On a connection of its own: those that are made and end are usual, too.
                visit(&mut Connection::new(to, visitor, 4 * 1024), steps, visitor * visits + number).await?;
            }
            Ok(())
        });
    }
    all(visitors).await
}

/// The same as [`drive`], over HTTP/2.
async fn drive_secure(proxy: &Proxy, certificate: &Certificate, shape: Shape, each: usize) -> io::Result<()> {
    let mut streams = JoinSet::new();
    for connection in 0..SHARED {
        let shared = secure::connect(proxy.secure, &certificate.certificate).await?;
        for number in 0..CONNECTIONS / SHARED {
            // Nobody has written to these.
            let resource = CONNECTIONS * (1 + connection) + number;
            let mut stream = Stream::new(shared.clone(), shape, resource);
            streams.spawn(async move {
                stream.prepare().await?;
                for _ in 0..each {
                    shape.check(stream.request().await?)?;
                }
                Ok(())
            });
        }
    }
    all(streams).await
}

async fn visit(connection: &mut Connection, steps: &[Step], number: usize) -> io::Result<()> {
    let number = format!("{number:0width$}", width = DIGITS);
    let mut tag = String::new();
    for Step(what, fields, body, right) in steps {
        let body = match body {
            Body::None => String::new(),
            Body::Whole => format!("Content-Length: 1024\r\n\r\n{:x<1024}", ""),
            Body::Chunked => format!("Transfer-Encoding: chunked\r\n\r\n400\r\n{:x<1024}\r\n0\r\n\r\n", ""),
        };
        let kind = if body.is_empty() { "\r\n" } else { "Content-Type: application/json\r\n" };
        let head = format!("{what} HTTP/1.1\r\nHost: api.example.com\r\nUser-Agent: compare/1\r\n{fields}{kind}");
        let request = head.replace('#', &number).replace('@', &tag) + &body;
        let status = connection.exchange(request.as_bytes()).await?;
        if status != *right {
            return Err(io::Error::other(format!("{status} to a {what} {fields:?}")));
        }
        if !connection.tag().is_empty() {
            tag = String::from_utf8_lossy(connection.tag()).into_owned();
        }
    }
    Ok(())
}
