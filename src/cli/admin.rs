//! A question to the admin listener, as `health` and `report` ask it: one connection, one answer, within bounds.
//!
//! Somebody else may listen there, so nothing of an answer goes to a terminal as it is.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use thiserror::Error;

use super::{Failed, File};
use crate::config::Config;

/// How long to wait for the whole answer. The listener takes no longer.
const PATIENCE: Duration = Duration::from_secs(5);
/// So much of what is no answer is shown.
const SHOWN: usize = 200;

/// Why there is no answer.
#[derive(Debug, Error)]
enum NoAnswer {
    #[error("{0}")]
    Connection(#[from] io::Error),
    #[error("there was no whole answer within {} s", .0.as_secs_f64())]
    Late(Duration),
    #[error("the answer is too long: more than {0} bytes")]
    TooLong(u64),
    #[error("the answer broke off")]
    BrokeOff,
    #[error("the answer is not one of HTTP")]
    Foreign,
    #[error("{0} {1}")]
    Status(u16, String),
}

/// Where to ask: at the address that was given, or else at the one in the file. `option` is what gives it.
pub(super) fn address(given: Option<SocketAddr>, file: &File, option: &str) -> Result<SocketAddr, Failed> {
    Ok(reachable(match given {
        Some(address) => address,
        None => of_file(file, option)?,
    }))
}

fn of_file(file: &File, option: &str) -> Result<SocketAddr, Failed> {
    let path = file.path();
    let config = Config::load(&path).map_err(|errors| Failed::Configuration(Some(path.clone()), errors))?;
    config.admin.map(|admin| admin.address).ok_or_else(|| {
        let hint = format!("{} has no [admin], so there is nobody to ask; or give {option}", path.display());
        Failed::Start(hint.into())
    })
}

/// Who listens on all addresses is asked by the loopback one.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// The body of a 200. A longer answer than `longest` bytes is none.
pub(super) fn ask(address: SocketAddr, path: &str, longest: u64) -> Result<String, Failed> {
    get(address, path, longest, PATIENCE).map_err(|error| Failed::Start(format!("{address}{path}: {error}").into()))
}

/// What can be shown in a terminal: nothing that would move the cursor, or have a line read otherwise than it is.
pub(super) fn printable(text: &str) -> String {
    // The standard library knows what has no shape of its own; these it escapes for Rust's sake.
    let is_plain = |letter: &char| matches!(letter, '"' | '\'' | '\\') || letter.escape_debug().len() == 1;
    text.chars().filter(is_plain).collect()
}

fn get(address: SocketAddr, path: &str, longest: u64, patience: Duration) -> Result<String, NoAnswer> {
    let end = Instant::now() + patience;
    let late = || NoAnswer::Late(patience);
    // A socket does not take it that it should wait for no time at all.
    let left = || Some(end.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero()).ok_or_else(late);
    let in_time = |error: io::Error| {
        let is_late = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
        if is_late { late() } else { error.into() }
    };
    let mut stream = TcpStream::connect_timeout(&address, left()?).map_err(in_time)?;
    stream.set_write_timeout(Some(left()?))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(in_time)?;
    let mut answer = Vec::new();
    let mut part = [0; 16 * 1024];
    loop {
        stream.set_read_timeout(Some(left()?))?;
        match stream.read(&mut part) {
            Ok(0) => return body(&answer),
            Ok(read) => answer.extend_from_slice(&part[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(in_time(error)),
        }
        if answer.len() as u64 > longest {
            return Err(NoAnswer::TooLong(longest));
        }
    }
}

/// The body of a whole answer that is a 200.
fn body(answer: &[u8]) -> Result<String, NoAnswer> {
    let answer = String::from_utf8_lossy(answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(NoAnswer::Foreign)?;
    let (first, fields) = head.split_once("\r\n").unwrap_or((head, ""));
    let status = first.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    let status: u16 = status.ok_or(NoAnswer::Foreign)?;
    let fields = fields.lines().filter_map(|line| line.split_once(':'));
    let mut lengths = fields.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let is_whole = lengths.all(|(_, length)| length.trim().parse() == Ok(body.len()));
    if status != 200 {
        let said: String = printable(body.lines().next().unwrap_or_default()).chars().take(SHOWN).collect();
        return Err(NoAnswer::Status(status, said));
    }
    if is_whole { Ok(body.to_owned()) } else { Err(NoAnswer::BrokeOff) }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    const PATIENT: Duration = Duration::from_secs(30);

    /// Asks somebody who says this, a part at a time, and then waits for the end if there is one to come.
    fn told(parts: Vec<String>, hangs_up: bool, longest: u64, patience: Duration) -> Result<String, String> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let speaker = thread::spawn(move || {
            let mut stream = listener.accept().expect("a client").0;
            let mut asked = [0; 512];
            let _ = stream.read(&mut asked);
            for part in parts {
                if stream.write_all(part.as_bytes()).is_err() {
                    return;
                }
                if !hangs_up {
                    thread::sleep(Duration::from_millis(20));
                }
            }
            while !hangs_up && stream.read(&mut asked).is_ok_and(|read| read > 0) {}
        });
        let said = get(address, "/report", longest, patience).map_err(|error| error.to_string());
        speaker.join().expect("a speaker");
        said
    }

    fn answer(status: u16, length: usize, body: &str) -> Vec<String> {
        vec![format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n{body}")]
    }

    #[test]
    fn what_is_no_whole_answer_is_none() {
        let letters = "x".repeat(100);
        for (parts, expected) in [
            (answer(200, 2, "{}"), Ok("{}")),
            (vec!["HTTP/1.1 200 OK\r\n\r\n{}".to_owned()], Ok("{}")),
            (answer(200, 3, "{}"), Err("the answer broke off")),
            (answer(200, 1, "{}"), Err("the answer broke off")),
            (vec!["HTTP/1.1 200 OK\r\n".to_owned()], Err("the answer is not one of HTTP")),
            (Vec::new(), Err("the answer is not one of HTTP")),
            (answer(500, 9, "no\nwhy"), Err("500 no")),
            (answer(500, 9, "\u{1b}[31mred\u{202e}"), Err("500 [31mred")),
            (answer(200, 100, &letters), Err("the answer is too long: more than 99 bytes")),
        ] {
            assert_eq!(told(parts, true, 99, PATIENT), expected.map(str::to_owned).map_err(str::to_owned));
        }
    }

    #[test]
    fn who_says_nothing_or_too_slowly_is_not_waited_for() {
        let patience = Duration::from_millis(500);
        for parts in [Vec::new(), vec!["x".to_owned(); 3000]] {
            let late = "there was no whole answer within 0.5 s".to_owned();
            assert_eq!(told(parts, false, 1 << 20, patience), Err(late));
        }
    }

    #[test]
    fn what_is_shown_has_a_shape_of_its_own() {
        for (text, expected) in [
            ("a\u{1b}[2J\nb", "a[2Jb"),
            ("\u{202e}a\u{2066}b\u{200f}c\u{200b}\u{feff}\u{85}\u{2028}", "abc"),
            ("/a b/\"{c}'\\é", "/a b/\"{c}'\\é"),
        ] {
            assert_eq!(printable(text), expected);
        }
    }
}
