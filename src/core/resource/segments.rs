//! Where the most lenient backend divides a path: at `/`, `\\`, and whatever escapes spell them.
//!
//! What a segment means to such a backend is not said here: the segments keep the spelling that they have.

use super::{escape, same_path};

/// The segments that the most lenient backend sees in a path, each as it is written there. Empty ones are left out.
#[must_use]
pub fn lenient_segments(path: &str) -> Vec<&str> {
    let (mut segments, mut begins) = (Vec::new(), 0);
    for (byte, from, to) in spelled_bytes(path.as_bytes()) {
        if matches!(byte, b'/' | b'\\') {
            segments.push(&path[begins..from]);
            begins = to;
        }
    }
    segments.push(&path[begins..]);
    segments.retain(|segment| !same_path(segment, ""));
    segments
}

/// What is left of a path once escapes are decoded as often as there are any: each byte, and from where to where it is
/// spelled.
fn spelled_bytes(path: &[u8]) -> Vec<(u8, usize, usize)> {
    let mut spelled: Vec<(u8, usize, usize)> = Vec::with_capacity(path.len());
    for (place, &byte) in path.iter().enumerate() {
        spelled.push((byte, place, place + 1));
        // What an escape spells may be the end of another.
        while let [.., (b'%', from, _), (high, _, _), (low, _, to)] = spelled[..]
            && let Some((value, _)) = escape(&[high, low])
        {
            spelled.truncate(spelled.len() - 3);
            spelled.push((value, from, to));
        }
    }
    spelled
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::resource::{fold, percent_decoded};

    #[test]
    fn segments_end_where_a_path_is_folded() {
        for (path, segments) in [
            ("/a/b", &["a", "b"][..]),
            ("//a;v=1/./%2E/b/", &["a;v=1", "b"]),
            ("/a%2Fb%5cc\\d", &["a", "b", "c", "d"]),
            ("/a%252Fb%25252525%32%46c", &["a", "b", "c"]),
            ("/a%25%2532Fb", &["a", "b"]),
            ("/a%2%35%32F%C3%A9%25", &["a", "%C3%A9%25"]),
            ("/%2", &["%2"]),
            ("/", &[]),
        ] {
            assert_eq!(lenient_segments(path), segments, "{path}");
        }
    }

    proptest! {
        #[test]
        fn segments_are_those_that_folding_leaves(path in "/([a-c/;.+é%]|%25|%2[fF]|2[fF]|%5C|25){0,20}") {
            let segments = lenient_segments(&path);
            let folded: Vec<u8> = segments.iter().flat_map(|segment| fold(segment)).collect();
            prop_assert_eq!(folded, fold(&path));
        }

        #[test]
        fn escapes_are_decoded_at_once_as_by_and_by(path in "(%|%2|%25|[0-9a-f%]){0,24}") {
            let mut decoded = path.clone().into_bytes();
            while percent_decoded(&decoded) != decoded {
                decoded = percent_decoded(&decoded);
            }
            let spelled: Vec<u8> = spelled_bytes(path.as_bytes()).into_iter().map(|(byte, ..)| byte).collect();
            prop_assert_eq!(spelled, decoded);
        }
    }
}
