//! Looking fields up: most of those that are asked for are not there, and most messages have few.

use http::{HeaderMap, HeaderName, HeaderValue};

/// From more fields on a hash is computed sooner than they are looked through.
const FEW: usize = 12;

/// Whether there is a field of this name.
#[must_use]
pub fn has(fields: &HeaderMap, name: &HeaderName) -> bool {
    if fields.keys_len() <= FEW { fields.keys().any(|other| other == name) } else { fields.contains_key(name) }
}

/// The lines of the fields of this name, in their order.
pub fn lines(fields: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &HeaderValue> {
    let has_few = fields.keys_len() <= FEW;
    let many = (!has_few).then(|| fields.get_all(&name).iter());
    let few = has_few.then(|| fields.iter().filter(move |(other, _)| **other == name).map(|(_, value)| value));
    few.into_iter().flatten().chain(many.into_iter().flatten())
}

#[cfg(test)]
mod tests {
    use http::header::{ACCEPT, AGE, HOST};

    use super::*;

    #[test]
    fn few_fields_are_found_as_many_are() {
        let mut fields = HeaderMap::new();
        for n in 0..2 * FEW {
            fields.append(HeaderName::try_from(format!("x-{n}")).expect("a name"), HeaderValue::from_static("x"));
            fields.insert(HOST, HeaderValue::from_static("a"));
            fields.append(ACCEPT, HeaderValue::from(n));
            let accepted: Vec<_> = (0..=n).map(HeaderValue::from).collect();
            assert_eq!(lines(&fields, ACCEPT).collect::<Vec<_>>(), accepted.iter().collect::<Vec<_>>());
            assert_eq!(lines(&fields, HOST).count(), 1);
            assert_eq!(lines(&fields, AGE).count(), 0);
            assert!(has(&fields, &HOST) && has(&fields, &ACCEPT) && !has(&fields, &AGE));
        }
    }
}
