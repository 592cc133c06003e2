//! WebDAV's `If` (RFC 4918 §10.4), read a second time by a reference that knows nothing of lists: it cuts the value into
//! tokens first, and then checks their order.

#![no_main]

use ifmatch::core::{
    dav::{Alternative, If},
    etag::EntityTag,
    precondition::Tags,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    // Bytes that stand in no field value never come so far.
    if input.iter().any(|byte| matches!(byte, 0..=8 | 10..=31 | 127)) {
        return;
    }
    let expected = tokens(input).and_then(|tokens| lists(&tokens));
    let conditions = |lists: &Vec<List>| lists.iter().map(|list| list.conditions.len()).sum::<usize>();
    let expected = expected.filter(|lists| conditions(lists) <= 256);
    match (If::parse(input), expected) {
        (Ok(read), Some(lists)) => {
            let demand = read.clone().demand(|reference| reference == b"/it");
            assert_demand(&lists, demand.as_ref().map(|demand| demand.alternatives()));
            // What is another resource to everybody demands nothing.
            if lists.iter().any(|list| list.resource.is_some()) {
                assert_eq!(read.demand(|_| false), None);
            }
        }
        (Err(error), None) => assert!(!error.to_string().is_empty()),
        (read, expected) => panic!("{:?}: {read:?}, and the reference {expected:?}", String::from_utf8_lossy(input)),
    }
});

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Open,
    Close,
    Not,
    Angled(Vec<u8>),
    Tag(EntityTag),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct List {
    resource: Option<Vec<u8>>,
    conditions: Vec<(bool, Token)>,
}

fn tokens(value: &[u8]) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < value.len() {
        let rest = &value[at..];
        let (token, length) = match rest[0] {
            b' ' | b'\t' => {
                at += 1;
                continue;
            }
            b'(' => (Token::Open, 1),
            b')' => (Token::Close, 1),
            b'n' | b'N' => {
                let word = rest.get(..3)?.to_ascii_lowercase();
                (word == b"not").then_some((Token::Not, 3))?
            }
            b'<' => {
                let end = rest.iter().position(|byte| *byte == b'>')?;
                let inner = rest[1..end].to_vec();
                let plain = !inner.is_empty() && !inner.iter().any(|byte| matches!(byte, b' ' | b'\t' | b'<' | b'"'));
                (plain.then_some(Token::Angled(inner))?, end + 1)
            }
            b'[' => {
                let quote = rest.iter().position(|byte| *byte == b'"')?;
                let close = quote + 1 + rest[quote + 1..].iter().position(|byte| *byte == b'"')?;
                let end = close + rest[close..].iter().position(|byte| *byte == b']')?;
                rest[close + 1..end].iter().all(|byte| matches!(byte, b' ' | b'\t')).then_some(())?;
                (Token::Tag(EntityTag::parse(rest[1..=close].trim_ascii_start()).ok()?), end + 1)
            }
            _ => return None,
        };
        tokens.push(token);
        at += length;
    }
    Some(tokens)
}

fn lists(tokens: &[Token]) -> Option<Vec<List>> {
    let mut lists: Vec<List> = Vec::new();
    let mut resource = None;
    let mut rest = tokens;
    while let Some((first, after)) = rest.split_first() {
        if let Token::Angled(named) = first {
            if lists.iter().any(|list| list.resource.is_none()) || after.first() != Some(&Token::Open) {
                return None;
            }
            resource = Some(named.clone());
            rest = after;
            continue;
        }
        let end = rest.iter().position(|token| *token == Token::Close)?;
        let (list, after) = rest.split_at(end + 1);
        let inner = list.strip_prefix(&[Token::Open])?.strip_suffix(&[Token::Close])?;
        lists.push(List { resource: resource.clone(), conditions: conditions(inner)? });
        rest = after;
    }
    (!lists.is_empty()).then_some(lists)
}

fn conditions(tokens: &[Token]) -> Option<Vec<(bool, Token)>> {
    let mut conditions = Vec::new();
    let mut negated = false;
    for token in tokens {
        match token {
            Token::Not if !negated => negated = true,
            Token::Angled(inner) if !(inner[0].is_ascii_alphabetic() && inner.contains(&b':')) => return None,
            Token::Angled(_) | Token::Tag(_) => conditions.push((std::mem::take(&mut negated), token.clone())),
            Token::Open | Token::Close | Token::Not => return None,
        }
    }
    (!negated && !conditions.is_empty()).then_some(conditions)
}

/// A list demands nothing that may hold without a tag of the target; then all of them demand nothing.
fn assert_demand(lists: &[List], found: Option<&[Alternative]>) {
    let never = |(negated, token): &(bool, Token)| !negated && *token == Token::Angled(b"DAV:no-lock".to_vec());
    let is_tag = |(_, token): &(bool, Token)| matches!(token, Token::Tag(_));
    let demands = |list: &List| {
        list.resource.as_deref().is_none_or(|named| named == b"/it")
            && list.conditions.iter().any(|condition| never(condition) || is_tag(condition))
    };
    let names_a_tag = lists.iter().any(|list| list.conditions.iter().any(is_tag));
    if !lists.iter().all(demands) || !names_a_tag {
        assert_eq!(found, None);
        return;
    }
    let found = found.expect("every list demands something of a tag");
    assert_eq!(found.len(), lists.len());
    for (alternative, list) in found.iter().zip(lists) {
        let tags = |wanted: bool| -> Vec<Tags> {
            let of = |(negated, token): &(bool, Token)| match token {
                Token::Tag(tag) if *negated == wanted => Some(Tags::OneOf(vec![tag.clone()])),
                _ => None,
            };
            list.conditions.iter().filter_map(of).collect()
        };
        assert_eq!((&alternative.current, &alternative.not_current), (&tags(false), &tags(true)));
        assert_eq!(alternative.never, list.conditions.iter().any(never));
    }
}
