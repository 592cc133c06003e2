//! A backend that costs next to nothing: raw bytes, one thread, a new tag for each write and no memory of it.
//!
//! `GET` shows one tag for ever, so whoever writes reads once, and then goes by what its writes were answered. Paths under
//! `/large` are 1 MiB, those under `/missing` are not there, all others 1 KiB; those under `/chunked` come in chunks. A write
//! under `/slow/N/` takes N milliseconds.

use std::{
    cell::Cell,
    io::{self, Write},
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{LocalSet, spawn_local},
};

use crate::wire::{LAST_CHUNK, content_length, field, head_length, is_chunked};

const LARGE: usize = 1024 * 1024;
/// What reads show.
const TAG: &[u8] = b"\"0000000000000000\"";
const TAG_FIELD: &str = "ETag: \"0000000000000000\"\r\n";

/// Serves for ever, and tells its address on standard output.
pub(crate) fn serve() -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    LocalSet::new().block_on(&runtime, accept()).map_err(|error| error.to_string())
}

async fn accept() -> io::Result<()> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
    println!("{}", listener.local_addr()?);
    io::stdout().flush()?;
    let written = Rc::new(Cell::new(0));
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let written = Rc::clone(&written);
        // A proxy may close what it does not need.
        spawn_local(async move { drop(answer_all(stream, &written).await) });
    }
}

async fn answer_all(mut stream: TcpStream, written: &Cell<u64>) -> io::Result<()> {
    let mut input = Vec::with_capacity(64 * 1024);
    let mut output = Vec::with_capacity(2 * 1024);
    loop {
        let length = loop {
            if let Some(length) = head_length(&input) {
                break length;
            }
            if stream.read_buf(&mut input).await? == 0 {
                return Ok(());
            }
        };
        let pause = answer_to(&input[..length], &mut output, written);
        if is_chunked(&input[..length]) {
            while !input.ends_with(LAST_CHUNK) {
                if stream.read_buf(&mut input).await? == 0 {
                    return Ok(());
                }
            }
            input.clear();
        } else {
            let mut rest = length + content_length(&input[..length]).unwrap_or(0);
            while rest > input.len() {
                rest -= input.len();
                input.clear();
                if stream.read_buf(&mut input).await? == 0 {
                    return Ok(());
                }
            }
            input.drain(..rest);
        }
        if let Some(pause) = pause {
            tokio::time::sleep(pause).await;
        }
        stream.write_all(&output).await?;
    }
}

/// Writes down the answer to a request, and returns how long it is to be held back.
fn answer_to(head: &[u8], output: &mut Vec<u8>, written: &Cell<u64>) -> Option<Duration> {
    output.clear();
    let mut words = head.split(|&byte| byte == b' ');
    let method = words.next().unwrap_or_default();
    let path = words.next().unwrap_or_default();
    if method == b"GET" || method == b"HEAD" {
        answer_to_read(method, path, field(head, b"if-none-match"), output);
        return None;
    }
    written.set(written.get() + 1);
    let _ = write!(
        output,
        "HTTP/1.1 204 No Content\r\nServer: backend\r\nDate: Sun, 22 Nov 2026 12:00:00 GMT\r\nETag: \"{:016x}\"\r\n\r\n",
        written.get()
    );
    let pause = path.strip_prefix(b"/slow/")?.split(|&byte| byte == b'/').next()?;
    str::from_utf8(pause).ok()?.parse().ok().map(Duration::from_millis)
}

fn answer_to_read(method: &[u8], path: &[u8], known: Option<&[u8]>, output: &mut Vec<u8>) {
    let length = if path.starts_with(b"/large") { LARGE } else { 1024 };
    let (status, tag) = match known {
        _ if path.starts_with(b"/missing") => ("404 Not Found", ""),
        Some(TAG) => ("304 Not Modified", TAG_FIELD),
        Some(_) | None => ("200 OK", TAG_FIELD),
    };
    let _ = write!(
        output,
        "HTTP/1.1 {status}\r\nServer: backend\r\nDate: Sun, 22 Nov 2026 12:00:00 GMT\r\n\
         Content-Type: application/json\r\n{tag}"
    );
    if status.starts_with("304") {
        output.extend_from_slice(b"\r\n");
    } else if path.starts_with(b"/chunked") {
        let _ = write!(output, "Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n");
        output.resize(output.len() + length, b'x');
        output.extend_from_slice(LAST_CHUNK);
    } else {
        let _ = write!(output, "Content-Length: {length}\r\n\r\n");
        if method == b"GET" {
            output.resize(output.len() + length, b'x');
        }
    }
}
