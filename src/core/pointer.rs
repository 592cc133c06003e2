//! JSON Pointers (RFC 6901), and targets that are made with the values at them.
//!
//! Deliberately absent: any JSON. Who has a document looks a pointer's [`tokens`](Pointer::tokens) up in it.

use std::fmt;

/// A place in a JSON document.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pointer {
    text: String,
    tokens: Vec<String>,
}

/// A pointer that can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PointerError {
    /// It does not begin with `/`.
    #[error("a JSON Pointer begins with /")]
    Start,
    /// A `~` is not followed by 0 or 1.
    #[error("a ~ in a JSON Pointer is written ~0, and a / in a name ~1")]
    Escape,
}

impl Pointer {
    /// Reads one. The empty pointer, which means the whole document, is not taken: nothing here is about all of it.
    ///
    /// # Errors
    ///
    /// What is no pointer.
    pub fn parse(text: &str) -> Result<Self, PointerError> {
        let tokens = text.strip_prefix('/').ok_or(PointerError::Start)?.split('/').map(unescaped);
        Ok(Self { text: text.to_owned(), tokens: tokens.collect::<Option<_>>().ok_or(PointerError::Escape)? })
    }

    /// The names and numbers on the way to the place, unescaped.
    #[must_use]
    pub fn tokens(&self) -> &[String] {
        &self.tokens
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// RFC 6901 §4: first `~1`, then `~0`.
fn unescaped(token: &str) -> Option<String> {
    let right = token.split('~').skip(1).all(|after| after.starts_with(['0', '1']));
    right.then(|| token.replace("~1", "/").replace("~0", "~"))
}

/// The position that a token means in an array (RFC 6901 §4): digits without a leading zero.
#[must_use]
pub fn position(token: &str) -> Option<usize> {
    let plain = token == "0" || !token.starts_with('0') && token.bytes().all(|byte| byte.is_ascii_digit());
    if plain { token.parse().ok() } else { None }
}

/// A target with places for values, such as `/users?email={/email}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// What stands before each place, and what belongs there.
    parts: Vec<(String, Pointer)>,
    end: String,
}

impl Template {
    /// Reads one.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let is_path = text.starts_with('/') && !text.contains('#');
        if !is_path || text.bytes().any(|byte| !byte.is_ascii_graphic()) {
            return Err(format!("{text:?} is not a path; write it like \"/users?email={{/email}}\""));
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (pointer, after) = after.split_once('}').ok_or_else(|| format!("{text:?} has a {{ without its }}"))?;
            let pointer = Pointer::parse(pointer).map_err(|error| format!("{{{pointer}}} in {text:?}: {error}"))?;
            parts.push((before.to_owned(), pointer));
            rest = after;
        }
        if parts.is_empty() {
            return Err(format!("{text:?} has no place for a value; write it like \"/users?email={{/email}}\""));
        }
        if rest.contains('}') || parts.iter().any(|(before, _)| before.contains('}')) {
            return Err(format!("{text:?} has a }} without its {{"));
        }
        Ok(Self { parts, end: rest.to_owned() })
    }

    /// The places, in order; at least one.
    pub fn pointers(&self) -> impl Iterator<Item = &Pointer> {
        self.parts.iter().map(|(_, pointer)| pointer)
    }

    /// With these values, in which everything but letters, digits and `-._~` is escaped, so that none means more than
    /// itself; `None`: one is missing.
    pub fn expand<'a>(&self, value: impl Fn(&Pointer) -> Option<&'a str>) -> Option<String> {
        let mut target = String::new();
        for (before, pointer) in &self.parts {
            target.push_str(before);
            for byte in value(pointer)?.bytes() {
                if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                    target.push(char::from(byte));
                } else {
                    target.push_str(&format!("%{byte:02X}"));
                }
            }
        }
        target.push_str(&self.end);
        Some(target)
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (before, pointer) in &self.parts {
            write!(f, "{before}{{{pointer}}}")?;
        }
        f.write_str(&self.end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pointers() {
        for (text, tokens) in [
            ("/email", &["email"][..]),
            ("/", &[""]),
            ("/a/0/b", &["a", "0", "b"]),
            ("/a~1b/m~0n", &["a/b", "m~n"]),
            ("/~01", &["~1"]),
            ("/a//b", &["a", "", "b"]),
            ("/ä b", &["ä b"]),
        ] {
            assert_eq!(
                Pointer::parse(text).map(|p| p.tokens().to_vec()),
                Ok(tokens.iter().map(|t| (*t).into()).collect())
            );
        }
        for (text, why) in [("", PointerError::Start), ("email", PointerError::Start), ("/a~", PointerError::Escape)] {
            assert_eq!(Pointer::parse(text), Err(why), "{text}");
        }
        assert_eq!(Pointer::parse("/a~2"), Err(PointerError::Escape));
    }

    #[test]
    fn positions() {
        assert_eq!(["0", "7", "10"].map(position), [Some(0), Some(7), Some(10)]);
        assert_eq!(["", "00", "01", "-", "-1", "+1", "x", "99999999999999999999999"].map(position), [None; 8]);
    }

    #[test]
    fn a_value_in_a_target_means_only_itself() {
        let template = Template::parse("/users?email={/email}&tenant={/tenant/id}&x=1").expect("a template");
        let of = |email: Option<&'static str>| {
            template.expand(|pointer| if pointer.as_str() == "/email" { email } else { Some("7") })
        };
        assert_eq!(of(Some("a@b.c")).as_deref(), Some("/users?email=a%40b.c&tenant=7&x=1"));
        let hostile = "/users?email=a%26x%3D2%23%2F..%2F%C3%A9%20%7B%2Fx%7D&tenant=7&x=1";
        assert_eq!(of(Some("a&x=2#/../é {/x}")).as_deref(), Some(hostile));
        assert_eq!(of(None), None);
        assert_eq!(template.to_string(), "/users?email={/email}&tenant={/tenant/id}&x=1");
    }

    #[test]
    fn what_is_no_template() {
        for text in [
            "",
            "users?e={/e}",
            "/users",
            "/users?e={/e",
            "/users?e=/e}",
            "/users?e={e}",
            "/u?{/e}#x",
            "/u {/e}",
            "/é?{/e}",
            "http://h/{/e}",
        ] {
            assert!(Template::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_value_leaves_its_place(value in any::<String>()) {
            let template = Template::parse("/a?b={/b}&c=1").expect("a template");
            let target = template.expand(|_| Some(&value)).expect("a value");
            let place = target.strip_prefix("/a?b=").and_then(|rest| rest.strip_suffix("&c=1")).expect("the rest as it was");
            prop_assert!(place.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%".contains(&byte)));
        }

        #[test]
        fn any_text_is_a_template_or_not(text in any::<String>()) {
            if let Ok(template) = Template::parse(&text) {
                prop_assert_eq!(template.to_string(), text);
            }
        }
    }
}
