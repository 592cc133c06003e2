//! What is read of a connection, held against hyper's client and against itself.

use http::Method;
use proptest::prelude::*;

use super::compare::{assert_alike, ours};

const CASES: u64 = 3000;

/// A source of choices that can be repeated.
struct Choices(u64);

impl Choices {
    fn number(&mut self, below: usize) -> usize {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % below as u64) as usize
    }

    fn of<'a>(&mut self, these: &[&'a str]) -> &'a str {
        these[self.number(these.len())]
    }

    /// Mostly the first.
    fn mostly<'a>(&mut self, these: &[&'a str]) -> &'a str {
        if self.number(8) > 0 { these[0] } else { self.of(these) }
    }
}

const FRAMINGS: &[&str] = &[
    "",
    "Content-Length: 5\r\n",
    "content-length:5\r\nContent-Length: 5\r\n",
    "Content-Length: 5, 5\r\n",
    "Content-Length: 5\r\nContent-Length: 6\r\n",
    "Content-Length: +5\r\n",
    "Content-Length: 5 5\r\n",
    "Content-Length:\r\n 5\r\n",
    "Content-Length: 0\r\n",
    "Content-Length: 18446744073709551615\r\n",
    "Content-Length: 99999999999999999999999\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: CHUNKED\r\n",
    "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
    "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    "Transfer-Encoding: gzip, chunked\r\n",
    "Transfer-Encoding: chunked, chunked\r\n",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    "Transfer-Encoding: identity\r\n",
    "Transfer-Encoding : chunked\r\n",
    "Transfer-Encoding:\r\n\tchunked\r\n",
    "Transfer-Encoding: \x0bchunked\r\n",
];

const FIELDS: &[&str] = &[
    "A: 1\r\n",
    "Connection: close\r\n",
    "Connection: keep-alive\r\n",
    "Connection: x, close\r\n",
    "B :2\r\n",
    "C: 1\r\n  2\r\n\t3\r\n",
    "D:\r\n",
    "E: \u{e9}\r\n",
    "F: a\rb\r\n",
    "G: a\0b\r\n",
    "H\r\n",
    ": i\r\n",
    " J: j\r\n",
    "K: k\n",
    "L\t: l \t\r\n",
];

const BODIES: &[&str] = &[
    "hello",
    "5\r\nhello\r\n0\r\n\r\n",
    "2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nX-Sum: 1\r\n\r\n",
    "05 \t;\r\nhello\r\n000\r\n\r\n",
    "5\r\nhello\r\n0\r\nA: 1\r\nB:2\r\n\r\n",
    "5\r\nhello\r\n0\r\nA: 1\n\r\n",
    "5\r\nhello\r\n0\r\n folded: 1\r\n\r\n",
    "5\r\nhello\n0\r\n\r\n",
    "5\nhello\r\n0\n\n",
    "+5\r\nhello\r\n0\r\n\r\n",
    "0x5\r\nhello\r\n0\r\n\r\n",
    "5;a\nb\r\nhello\r\n0\r\n\r\n",
    "FFFFFFFFFFFFFFFF\r\nhello",
    "10000000000000000\r\nhello",
    "00000000000000000005\r\nhello\r\n0\r\n\r\n",
    "5\r\nhello",
    "hello, and what nobody asked for",
    "",
];

const FITTING: &[(&str, &str)] = &[
    (FRAMINGS[0], BODIES[0]),
    (FRAMINGS[1], BODIES[0]),
    (FRAMINGS[3], BODIES[0]),
    (FRAMINGS[8], BODIES[17]),
    (FRAMINGS[11], BODIES[1]),
    (FRAMINGS[13], BODIES[2]),
    (FRAMINGS[20], BODIES[3]),
];

/// An answer, whole, malformed or broken off, with or without others before and behind it.
fn answer(choices: &mut Choices) -> Vec<u8> {
    let mut text = String::new();
    for _ in 0..choices.number(4).saturating_sub(1) {
        text.push_str(choices.of(&[
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 103 Early\r\nLink: </a>\r\n\r\n",
            "HTTP/1.0 102\n\n",
            "HTTP/1.1 199 X\r\nContent-Length: 5\r\n\r\n",
            "\r\n",
        ]));
    }
    text.push_str(choices.mostly(&[
        "HTTP/1.1 ",
        "HTTP/1.0 ",
        "HTTP/1.1  ",
        "HTTP/1.2 ",
        "HTTP/2.0 ",
        "http/1.1 ",
        "\n",
    ]));
    text.push_str(choices.mostly(&["200", "204", "304", "101", "404", "205", "099", "1000", "20", "999", "000"]));
    text.push_str(choices.mostly(&[
        " OK\r\n",
        "\r\n",
        " \r\n",
        "\n",
        " O\tK\r\n",
        " \u{e9}\r\n",
        "OK\r\n",
        " \x01\r\n",
    ]));
    for _ in 0..choices.number(3) {
        text.push_str(choices.mostly(FIELDS));
    }
    let (mut framing, mut body) = FITTING[choices.number(FITTING.len())];
    if choices.number(3) == 0 {
        (framing, body) = (choices.of(FRAMINGS), choices.of(BODIES));
    }
    text.push_str(framing);
    for _ in 0..choices.number(3) {
        text.push_str(choices.mostly(FIELDS));
    }
    text.push_str(choices.mostly(&["\r\n", "\n", "", "\r"]));
    text.push_str(body);
    let mut bytes = text.into_bytes();
    if choices.number(4) == 0 {
        bytes.truncate(choices.number(bytes.len() + 1));
    }
    if choices.number(4) == 0 && !bytes.is_empty() {
        let at = choices.number(bytes.len());
        match choices.number(3) {
            0 => bytes[at] = choices.of(&["\r", "\n", " ", ":", "\0", "0", ";", "a"]).as_bytes()[0],
            1 => drop(bytes.remove(at)),
            _ => bytes.insert(at, choices.of(&["\r", "\n", " ", ":", "\t", "9", ";", ","]).as_bytes()[0]),
        }
    }
    bytes
}

#[tokio::test]
async fn what_is_accepted_is_what_hyper_accepts_and_means_the_same() {
    let mut accepted = 0;
    for seed in 0..CASES {
        let mut choices = Choices(seed);
        let method = if choices.number(6) == 0 { Method::HEAD } else { Method::GET };
        let size = [1, 2, 3, 7, 1000][choices.number(5)];
        accepted += u64::from(assert_alike(&method, &answer(&mut choices), size).await);
    }
    assert!((CASES / 5..CASES / 2).contains(&accepted), "{accepted} of {CASES} are whole: too little is looked at");
}

proptest! {
    #[test]
    fn it_does_not_matter_how_the_bytes_are_cut(seed: u64, cuts in prop::collection::vec(0_usize..400, 0..6)) {
        let bytes = answer(&mut Choices(seed));
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let pieces: Vec<_> = cuts.windows(2).map(|ends| &bytes[ends[0]..ends[1]]).filter(|piece| !piece.is_empty()).collect();
        prop_assert_eq!(ours(&Method::GET, &pieces).settled(), ours(&Method::GET, &[&bytes]).settled());
    }
}
