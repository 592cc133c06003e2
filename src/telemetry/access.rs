//! The access log: a line for each request, on standard output.
//!
//! A client chooses much of what stands here, so whatever is not printable ASCII is escaped and whatever is long is cut:
//! a line is always one line, and nothing in it moves a terminal's cursor.

use std::{
    fmt::{self, Write as _},
    io,
    net::IpAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Serialize, Serializer};

use super::{
    metrics::Verdict,
    output::{Output, Writer},
};
use crate::config::LogFormat;

/// How many bytes of a target are told, and of any other text that comes from outside.
const LONGEST_TARGET: usize = 2048;
const LONGEST: usize = 256;

/// Where the lines of all requests go.
#[derive(Debug)]
pub struct AccessLog(Output);

/// Where lines of a format go.
#[derive(Debug, Clone)]
pub struct Lines {
    writer: Writer,
    format: LogFormat,
}

impl AccessLog {
    pub(super) fn to_stdout() -> Self {
        Self::to(io::stdout())
    }

    fn to(output: impl io::Write + Send + 'static) -> Self {
        Self(Output::to("access log", output))
    }

    pub(super) fn lines(&self, format: LogFormat) -> Lines {
        Lines { writer: self.0.writer(), format }
    }

    /// How many lines there was no room for.
    pub(super) fn dropped(&self) -> usize {
        self.0.dropped()
    }

    /// Has all written that is waiting, unless whoever reads it takes nothing. Blocks.
    pub(super) fn finish(&self) {
        self.0.finish();
    }
}

impl Lines {
    /// Writes a line, or drops it where too many wait already.
    pub fn write(&self, line: &Line<'_>) {
        let mut text = match self.format {
            LogFormat::Text => line.to_string(),
            LogFormat::Json => serde_json::to_string(line).expect("strings and numbers can be written as JSON"),
        };
        text.push('\n');
        self.writer.say(text);
    }
}

/// What there is to say of a request and its answer.
#[derive(Debug, Serialize)]
pub struct Line<'a> {
    /// When its head had come.
    pub time: Time,
    /// The client's address.
    pub client: IpAddr,
    /// The method.
    pub method: Outside<'a>,
    /// The host that was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<Outside<'a>>,
    /// Path and query.
    pub target: Target<'a>,
    /// Such as `HTTP/1.1`.
    pub protocol: &'static str,
    /// The answer's status; `None`: the client was gone before there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What was decided about it, if it is a write that was judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// Why the gateway answered itself: the last part of the answer's problem type; `None`: the backend's answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<&'static str>,
    /// The tags that it named, as it sent them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub if_match: Option<Outside<'a>>,
    /// What was known when it was judged last: tags, `unknown` or `absent`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub known: Option<Outside<'a>>,
    /// The name of the upstream that it was for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<&'a str>,
    /// The server that answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<&'a str>,
    /// From its head to the end of its answer.
    pub duration: Seconds,
    /// In line for its turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waited: Option<Seconds>,
    /// From when it was sent to the backend to the head of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_time: Option<Seconds>,
    /// Bytes of its body.
    pub received: u64,
    /// Bytes of its answer's body.
    pub sent: u64,
    /// Its trace.
    pub trace: &'a str,
    /// Who says that it asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<Outside<'a>>,
    /// Who broke it off before the end of the answer: `client` or `upstream`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aborted: Option<&'static str>,
}

/// The line for people: what most have first, the rest by name.
impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} \"", self.time, self.client)?;
        quoted(f, self.method.cut(LONGEST))?;
        f.write_char(' ')?;
        quoted(f, self.host.map_or(&[], |host| host.cut(LONGEST)))?;
        quoted(f, self.target.0.cut(LONGEST_TARGET))?;
        write!(f, " {}\" ", self.protocol)?;
        match self.status {
            Some(status) => write!(f, "{status}")?,
            None => f.write_char('-')?,
        }
        write!(f, " verdict={} problem={}", self.verdict.map_or("-", Verdict::as_str), self.problem.unwrap_or("-"))?;
        named(f, "if_match", self.if_match)?;
        named(f, "known", self.known)?;
        write!(f, " upstream={} server={}", self.upstream.unwrap_or("-"), self.server.unwrap_or("-"))?;
        write!(f, " duration={}", self.duration)?;
        for (name, time) in [("waited", self.waited), ("upstream_time", self.upstream_time)] {
            match time {
                Some(time) => write!(f, " {name}={time}")?,
                None => write!(f, " {name}=-")?,
            }
        }
        write!(f, " received={} sent={} trace={}", self.received, self.sent, self.trace)?;
        named(f, "agent", self.agent)?;
        match self.aborted {
            Some(who) => write!(f, " aborted={who}"),
            None => Ok(()),
        }
    }
}

fn named(f: &mut fmt::Formatter<'_>, name: &str, value: Option<Outside<'_>>) -> fmt::Result {
    let Some(value) = value else { return write!(f, " {name}=-") };
    write!(f, " {name}=\"")?;
    quoted(f, value.cut(LONGEST))?;
    f.write_char('"')
}

/// Bytes as they stand between quotes.
fn quoted(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    for byte in bytes {
        match byte {
            b'"' | b'\\' => write!(f, "\\{}", char::from(*byte))?,
            _ => printable(f, *byte)?,
        }
    }
    Ok(())
}

fn printable(out: &mut impl fmt::Write, byte: u8) -> fmt::Result {
    match byte {
        b' '..=b'~' => out.write_char(char::from(byte)),
        _ => write!(out, "\\x{byte:02x}"),
    }
}

/// Text that somebody outside wrote.
#[derive(Debug, Clone, Copy)]
pub struct Outside<'a>(pub &'a [u8]);

/// A path and query.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a>(pub Outside<'a>);

impl<'a> Outside<'a> {
    fn cut(self, longest: usize) -> &'a [u8] {
        &self.0[..self.0.len().min(longest)]
    }

    fn serialize<S: Serializer>(self, longest: usize, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(self.0.len().min(longest));
        for byte in self.cut(longest) {
            printable(&mut text, *byte).expect("a string takes everything");
        }
        serializer.serialize_str(&text)
    }
}

impl Serialize for Outside<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(*self, LONGEST, serializer)
    }
}

impl Serialize for Target<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Outside::serialize(self.0, LONGEST_TARGET, serializer)
    }
}

impl Serialize for Verdict {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A duration, in seconds.
#[derive(Debug, Clone, Copy)]
pub struct Seconds(pub Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6}", self.0.as_secs_f64())
    }
}

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.0.as_secs_f64())
    }
}

/// A moment, as RFC 3339 has it, with milliseconds, in UTC.
#[derive(Debug, Clone, Copy)]
pub struct Time(pub SystemTime);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        let (year, month, day) = date(days);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let millis = since.subsec_millis();
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The date so many days after the first of January 1970. Years are counted from March here, so that a leap day is a
/// year's last; 400 of them have 146,097 days.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line<'a>(target: &'a [u8], agent: &'a [u8]) -> Line<'a> {
        Line {
            time: Time(UNIX_EPOCH + Duration::from_millis(1_000_000_000_123)),
            client: IpAddr::from([127, 0, 0, 1]),
            method: Outside(b"PUT"),
            host: Some(Outside(b"notes.example")),
            target: Target(Outside(target)),
            protocol: "HTTP/1.1",
            status: Some(409),
            verdict: Some(Verdict::Stale),
            problem: Some("stale"),
            if_match: Some(Outside(b"\"1\"")),
            known: None,
            upstream: Some("backend"),
            server: None,
            duration: Seconds(Duration::from_micros(1500)),
            waited: Some(Seconds(Duration::ZERO)),
            upstream_time: None,
            received: 4,
            sent: 200,
            trace: "4bf92f3577b34da6a3ce929d0e0e4736",
            agent: Some(Outside(agent)),
            aborted: Some("client"),
        }
    }

    #[test]
    fn a_line_of_text() {
        assert_eq!(
            line(b"/note?x=1", b"curl/8").to_string(),
            "2001-09-09T01:46:40.123Z 127.0.0.1 \"PUT notes.example/note?x=1 HTTP/1.1\" 409 verdict=stale \
             problem=stale if_match=\"\\\"1\\\"\" known=- upstream=backend server=- duration=0.001500 waited=0.000000 upstream_time=- \
             received=4 sent=200 trace=4bf92f3577b34da6a3ce929d0e0e4736 agent=\"curl/8\" aborted=client"
        );
    }

    #[test]
    fn nothing_from_outside_ends_a_line_or_a_value() {
        let evil = b"a\"\n2026 \\\r\t\x1b[2J\x7f\x9b\xff";
        let text = line(evil, evil).to_string();
        assert!(text.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{text}");
        assert!(text.contains("agent=\"a\\\"\\x0a2026 \\\\\\x0d\\x09\\x1b[2J\\x7f\\x9b\\xff\" aborted"), "{text}");
        let json = serde_json::to_string(&line(evil, evil)).expect("JSON");
        assert!(json.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{json}");
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(json["agent"], "a\"\\x0a2026 \\\\x0d\\x09\\x1b[2J\\x7f\\x9b\\xff");
        assert_eq!((&json["status"], &json["verdict"]), (&409.into(), &"stale".into()));
    }

    #[test]
    fn a_line_is_never_long() {
        let long = vec![0; 1 << 20];
        let line = line(&long, &long);
        assert!(line.to_string().len() < 16 * 1024);
        assert!(serde_json::to_string(&line).expect("JSON").len() < 16 * 1024);
    }

    #[test]
    fn dates() {
        for (days, date_then) in [
            (0, (1970, 1, 1)),
            (59, (1970, 3, 1)),
            (11_016, (2000, 2, 29)),
            (11_017, (2000, 3, 1)),
            (20_454, (2026, 1, 1)),
            (47_540, (2100, 2, 28)),
            (47_541, (2100, 3, 1)),
        ] {
            assert_eq!(date(days), date_then, "{days}");
        }
    }
}
