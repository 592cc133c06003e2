//! Whether what a reference names as its authority (RFC 3986 §3.2) is the host that a client asked, to the most lenient
//! backend. Apache carries out a MOVE whose `Destination` has a user before its host: to take that for another origin's
//! would be to know nothing of what it overwrote.
//!
//! The host of a request is read more strictly, before this ([`same_host`](super::same_host)).

use super::percent_decoded;

/// Whether an authority, with whatever user and spelling, is that of `host`. One without a host names no other.
#[must_use]
pub fn names_host(authority: &str, host: &str) -> bool {
    let named = Place::of(authority);
    named.name.is_empty() || named == Place::of(host)
}

/// A host and its port, as far as they make a difference.
#[derive(PartialEq, Eq)]
struct Place {
    name: Vec<u8>,
    port: Option<u16>,
}

impl Place {
    fn of(authority: &str) -> Self {
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let digits = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
        let (name, port) = digits.map_or((host, None), |(name, digits)| (name, port(digits)));
        let mut name = percent_decoded(name.as_bytes()).to_ascii_lowercase();
        name.pop_if(|last| *last == b'.');
        Self { name, port }
    }
}

/// `None`: a default one, since whoever ends TLS before the gateway makes the scheme another. Some cut off what has no room
/// in 16 bits.
fn port(digits: &str) -> Option<u16> {
    let number =
        digits.bytes().fold(0u16, |number, digit| number.wrapping_mul(10).wrapping_add(u16::from(digit - b'0')));
    (!digits.is_empty() && !matches!(number, 80 | 443)).then_some(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_authority_in_another_spelling_is_the_same() {
        for (authority, host, same) in [
            ("h", "h", true),
            ("H.", "h", true),
            ("ann@h", "h", true),
            ("ann:secret@h", "h", true),
            ("a@b@h", "h", true),
            ("ann@", "h", true),
            ("", "h", true),
            (":80", "h", true),
            ("h:", "h", true),
            ("h:80", "h", true),
            ("h:080", "h", true),
            ("h", "h:00443", true),
            ("h:08080", "h:8080", true),
            ("h:73616", "h:8080", true),
            ("%68", "h", true),
            ("ann@%68:0080", "H.", true),
            ("[::1]:080", "[::1]", true),
            ("ann@[::1]", "[::1]", true),
            ("i", "h", false),
            ("h@i", "h", false),
            ("h%40i", "h", false),
            ("h:81", "h", false),
            ("h", "h:8080", false),
            ("h:8a", "h", false),
            ("[::2]", "[::1]", false),
        ] {
            assert_eq!(names_host(authority, host), same, "{authority} {host}");
        }
    }

    proptest! {
        #[test]
        fn neither_user_nor_zeros_nor_escapes_make_it_another(
            user in "([a-z%:@]{0,4}@)?",
            name in "[a-z.-]{1,6}[a-z]",
            port in 1u16..,
            zeros in 0usize..4,
            escaped in any::<u8>(),
        ) {
            let zeros = "0".repeat(zeros);
            let spelled: String = name.bytes().enumerate().map(|(at, byte)| match escaped >> (at % 8) & 1 {
                1 => format!("%{byte:02x}"),
                _ => char::from(byte.to_ascii_uppercase()).to_string(),
            }).collect();
            let authority = format!("{user}{spelled}.:{zeros}{port}");
            let asked = format!("{name}:{port}");
            let (other_name, other_port) = (format!("{name}x:{port}"), format!("{name}:{}", port ^ 1024));
            prop_assert!(names_host(&authority, &asked), "{} {}", authority, asked);
            prop_assert!(!names_host(&authority, &other_name), "{} {}", authority, other_name);
            prop_assert!(!names_host(&authority, &other_port), "{} {}", authority, other_port);
        }
    }
}
