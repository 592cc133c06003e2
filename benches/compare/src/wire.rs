//! As much of HTTP/1.1 as a load generator and a backend need that know each other. Nothing is checked that is not used.

/// The length of a message's head, its empty line included, once it is all there.
pub(crate) fn head_length(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

/// The value of a field, by its name in lower case.
pub(crate) fn field<'a>(head: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    head.split(|&byte| byte == b'\n').find_map(|line| {
        let (start, rest) = line.split_at_checked(name.len())?;
        let value = rest.strip_prefix(b":")?;
        start.eq_ignore_ascii_case(name).then(|| value.trim_ascii())
    })
}

/// Whether the body comes in chunks.
pub(crate) fn is_chunked(head: &[u8]) -> bool {
    field(head, b"transfer-encoding").is_some()
}

/// How such a body ends. What is sent here has nothing like it within.
pub(crate) const LAST_CHUNK: &[u8] = b"\r\n0\r\n\r\n";

/// What `Content-Length` says.
pub(crate) fn content_length(head: &[u8]) -> Option<usize> {
    str::from_utf8(field(head, b"content-length")?).ok()?.parse().ok()
}
