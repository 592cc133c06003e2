//! What a body says that must be unique: JSON in which every place has one value.
//!
//! A service and the gateway must not read one body in two ways. So two members of one name are refused, of which some
//! parsers take the first and some the last, a member whose name is right but for its case, which some parsers take for it,
//! numbers of which some parsers keep less than others, and so is everything on the way to a value that is not what the way says.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::super::answer::Unexaminable;
use crate::core::pointer::{Pointer, position};

/// What is said by the one who finds two members of one name. No other error of the parser has these words.
const TWICE: &str = "two members of one name";

/// A whole document.
pub(super) fn parse(bytes: &[u8]) -> Result<Value, Unexaminable> {
    serde_json::from_slice::<Strict>(bytes)
        .map(|strict| strict.0)
        .map_err(|error| if error.to_string().contains(TWICE) { Unexaminable::Ambiguous } else { Unexaminable::Json })
}

/// The value at a place, if there is one that is not `null`.
pub(super) fn find<'a>(document: &'a Value, place: &Pointer) -> Result<Option<&'a Value>, Unexaminable> {
    let mut found = document;
    for token in place.tokens() {
        let next = match found {
            Value::Object(members) if has_lookalike(members, token) => return Err(Unexaminable::Ambiguous),
            Value::Object(members) => members.get(token),
            Value::Array(elements) => elements.get(position(token).ok_or(Unexaminable::Form)?),
            Value::Null => None,
            Value::Bool(_) | Value::Number(_) | Value::String(_) => return Err(Unexaminable::Form),
        };
        match next {
            Some(next) => found = next,
            None => return Ok(None),
        }
    }
    Ok(Some(found).filter(|found| !found.is_null()))
}

/// Whether there is a member that somebody who ignores case takes for this one.
fn has_lookalike(members: &Map<String, Value>, token: &str) -> bool {
    // There and back: some letters are the same in one case only.
    let fold = |name: &str| name.to_uppercase().to_lowercase();
    let folded = fold(token);
    members.keys().any(|name| name != token && fold(name) == folded)
}

/// A value as text: a string as it is, all else as JSON, in which equal values are written alike. A number and the text of
/// it are alike, too, as they are to many databases: the conflict is the safe side.
pub(super) fn text(value: &Value) -> Result<String, Unexaminable> {
    if !is_exact(value) {
        return Err(Unexaminable::Number);
    }
    Ok(match value {
        Value::String(text) => text.clone(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    })
}

/// Whether all numbers in it are whole and so small that nobody rounds them.
fn is_exact(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(_) | Value::String(_) => true,
        Value::Number(number) => number.as_i64().is_some_and(|number| number.unsigned_abs() < 1 << 53),
        Value::Array(elements) => elements.iter().all(is_exact),
        Value::Object(members) => members.values().all(is_exact),
    }
}

/// Whether a value is more than nothing: not `null`, `false`, zero or empty.
pub(super) fn is_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(elements) => !elements.is_empty(),
        Value::Object(members) => !members.is_empty(),
    }
}

struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader).map(Self)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    /// A whole number is the same however it is written: `7.0` and `7e0` are 7.
    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        if value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0 {
            let whole: i64 = format!("{value:.0}").parse().map_err(E::custom)?;
            return Ok(whole.into());
        }
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("not a number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(Strict(element)) = elements.next_element()? {
            all.push(element);
        }
        Ok(Value::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut all = Map::new();
        while let Some((name, Strict(value))) = members.next_entry::<String, Strict>()? {
            if all.insert(name, value).is_some() {
                return Err(A::Error::custom(TWICE));
            }
        }
        Ok(Value::Object(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value_at(body: &str, place: &str) -> Result<Option<String>, Unexaminable> {
        let document = parse(body.as_bytes())?;
        find(&document, &Pointer::parse(place).expect("a pointer"))?.map(text).transpose()
    }

    #[test]
    fn values_are_found_and_written_alike() {
        for (body, place, value) in [
            (r#"{"email":"a@b"}"#, "/email", Some("a@b")),
            (r#" { "email" : "\u0061@b" } "#, "/email", Some("a@b")),
            (r#"{"e\u006dail":"a"}"#, "/email", Some("a")),
            (r#"{"a":{"b":["x","y"]}}"#, "/a/b/1", Some("y")),
            (r#"{"a/b":"x"}"#, "/a~1b", Some("x")),
            (r#"{"n":7}"#, "/n", Some("7")),
            (r#"{"n":7.0}"#, "/n", Some("7")),
            (r#"{"n":70e-1}"#, "/n", Some("7")),
            (r#"{"n":-0.0}"#, "/n", Some("0")),
            (r#"{"n":9007199254740991}"#, "/n", Some("9007199254740991")),
            (r#"{"n":-9.007199254740991e15}"#, "/n", Some("-9007199254740991")),
            (r#"{"n":7,"x":1.5}"#, "/n", Some("7")),
            (r#"{"email":"a","x":{"Email":"b"}}"#, "/email", Some("a")),
            (r#"{"b":true}"#, "/b", Some("true")),
            (r#"{"o":{"b":1,"a":[2.0]}}"#, "/o", Some(r#"{"a":[2],"b":1}"#)),
            (r#"{"email":null}"#, "/email", None),
            (r#"{"user":null}"#, "/user/email", None),
            (r#"{"name":"x"}"#, "/email", None),
            (r#"{"a":[]}"#, "/a/0", None),
            ("null", "/email", None),
        ] {
            assert_eq!(value_at(body, place), Ok(value.map(str::to_owned)), "{body} {place}");
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_not_read() {
        use Unexaminable::{Ambiguous, Form, Json, Number};
        let deep = "[".repeat(1000);
        for (body, why) in [
            (r#"{"email":"a","email":"b"}"#, Ambiguous),
            (r#"{"email":"a","e\u006dail":"b"}"#, Ambiguous),
            (r#"{"email":"a","x":[{"y":1,"y":1}]}"#, Ambiguous),
            (r#"{"Email":"a"}"#, Ambiguous),
            (r#"{"email":"a","EMAIL":"b"}"#, Ambiguous),
            (r#"{"email":1.5}"#, Number),
            (r#"{"email":9007199254740992}"#, Number),
            (r#"{"email":-9007199254740993}"#, Number),
            (r#"{"email":18446744073709551617}"#, Number),
            (r#"{"email":[{"x":1e300}]}"#, Number),
            (r#"[{"email":"a"}]"#, Form),
            (r#""email""#, Form),
            ("", Json),
            (r#"{"email":"a"} {"email":"b"}"#, Json),
            (r#"{"email":"a",}"#, Json),
            (r#"{"email":"\ud800"}"#, Json),
            (r#"{"n":1e999}"#, Json),
            ("\u{FEFF}{}", Json),
            (deep.as_str(), Json),
        ] {
            assert_eq!(value_at(body, "/email"), Err(why), "{body}");
        }
        assert_eq!(value_at(r#"{"email":"a"}"#, "/email/x"), Err(Form));
        assert_eq!(value_at(r#"{"User":{"desk":1}}"#, "/user/desk"), Err(Ambiguous));
        assert_eq!(value_at("{\"user\":{\"de\u{17F}\u{212A}\":1}}", "/user/desk"), Err(Ambiguous));
        assert_eq!(parse(b"{\"email\":\"\xFF\"}"), Err(Json));
    }

    #[test]
    fn what_is_something() {
        for (body, expected) in [
            ("null", false),
            ("false", false),
            ("0", false),
            ("0.0", false),
            ("\"\"", false),
            ("[]", false),
            ("{}", false),
            ("true", true),
            ("3", true),
            ("\"x\"", true),
            ("[null]", true),
            ("{\"a\":null}", true),
        ] {
            assert_eq!(parse(body.as_bytes()).map(|value| is_something(&value)), Ok(expected), "{body}");
        }
    }
}
