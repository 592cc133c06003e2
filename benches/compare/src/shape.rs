//! The requests that are measured.

use std::io;

/// A kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// 1 KiB is read.
    Get,
    /// 1 KiB is written over a version that is current.
    Put,
    /// The same, with 17 fields, as a browser sends them.
    Fields,
    /// 1 KiB is to be written over a version that is not: a refusal by whoever checks.
    Stale,
    /// 1 MiB is read.
    GetLarge,
    /// 1 MiB is written over a version that is current.
    PutLarge,
}

/// The digits of a tag: always as many, so that one can be put in another's place.
pub(crate) type Tag = [u8; 16];

/// The tag that the backend shows before the first write.
pub(crate) const FIRST: Tag = *b"0000000000000000";
/// How many digits a resource's number has.
pub(crate) const DIGITS: usize = 8;

const FIELDS: &str = "\
User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
Accept: application/json, text/plain, */*\r\n\
Accept-Language: en-GB,en;q=0.7,de;q=0.3\r\n\
Accept-Encoding: gzip, deflate, br, zstd\r\n\
Authorization: Bearer eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N\r\n\
Origin: https://app.example.com\r\n\
Referer: https://app.example.com/users/4711/edit\r\n\
Cookie: session=8c6d1f6b2a9e4c0fb7d35a1e; theme=dark; consent=1\r\n\
Sec-Fetch-Dest: empty\r\n\
Sec-Fetch-Mode: cors\r\n\
Sec-Fetch-Site: same-origin\r\n\
X-Requested-With: XMLHttpRequest\r\n\
X-Request-Id: 0f8fad5b-d9cb-469f-a165-70867728950e\r\n";

impl Shape {
    pub(crate) const ALL: [Self; 6] = [Self::Get, Self::Put, Self::Fields, Self::Stale, Self::GetLarge, Self::PutLarge];
    /// Those that are counted by instructions.
    pub(crate) const SMALL: [Self; 4] = [Self::Get, Self::Put, Self::Fields, Self::Stale];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Put => "put",
            Self::Fields => "fields",
            Self::Stale => "stale",
            Self::GetLarge => "get-large",
            Self::PutLarge => "put-large",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Get => "GET 1 KiB",
            Self::Put => "PUT 1 KiB, tag current",
            Self::Fields => "PUT 1 KiB, 17 fields",
            Self::Stale => "PUT 1 KiB, tag stale",
            Self::GetLarge => "GET 1 MiB",
            Self::PutLarge => "PUT 1 MiB, tag current",
        }
    }

    pub(crate) fn parse(word: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|shape| shape.name() == word).ok_or(format!("{word}: no such shape"))
    }

    pub(crate) fn is_read(self) -> bool {
        matches!(self, Self::Get | Self::GetLarge)
    }

    pub(crate) fn is_large(self) -> bool {
        matches!(self, Self::GetLarge | Self::PutLarge)
    }

    pub(crate) fn body(self) -> usize {
        match self {
            Self::Get | Self::GetLarge => 0,
            Self::Put | Self::Fields | Self::Stale => 1024,
            Self::PutLarge => 1024 * 1024,
        }
    }

    /// Whether that is not the answer that it must get from a proxy that checks, or from one that forwards all.
    pub(crate) fn is_wrong(self, status: u16, checks: bool) -> bool {
        let right = match self {
            Self::Get | Self::GetLarge => 200,
            Self::Stale if checks => 409,
            Self::Put | Self::Fields | Self::Stale | Self::PutLarge => 204,
        };
        status != right
    }

    /// Fails on an answer that ifmatch must not give.
    pub(crate) fn check(self, status: u16) -> io::Result<()> {
        if self.is_wrong(status, true) {
            return Err(io::Error::other(format!("{status} to a {}", self.title())));
        }
        Ok(())
    }

    /// The path of one of the resources that requests of this shape are for; no two shapes share one.
    pub(crate) fn path(self, resource: usize) -> String {
        let size = if self.is_large() { "large" } else { "small" };
        format!("/{size}/{}/{resource:0width$}", self.name(), width = DIGITS)
    }

    /// The request's bytes, and where the tag stands in them, if it names one that must be current.
    pub(crate) fn request(self, path: &str) -> (Vec<u8>, Option<usize>) {
        let method = if self.is_read() { "GET" } else { "PUT" };
        let mut text = format!("{method} {path} HTTP/1.1\r\nHost: api.example.com\r\n");
        if self == Self::Fields {
            text.push_str(FIELDS);
        } else {
            text.push_str("User-Agent: compare/1\r\nAccept: */*\r\n");
        }
        let mut tag_at = None;
        if !self.is_read() {
            let length = self.body();
            text.push_str(&format!("Content-Type: application/json\r\nContent-Length: {length}\r\nIf-Match: \""));
            tag_at = (self != Self::Stale).then_some(text.len());
            text.push_str("ffffffffffffffff\"\r\n");
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        bytes.resize(bytes.len() + self.body(), b'x');
        (bytes, tag_at)
    }
}
