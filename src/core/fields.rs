//! Looking fields up: most of those that are asked for are not there, and most messages have few.

use http::{HeaderMap, HeaderName, HeaderValue, header::ValueIter};

/// From more fields on a hash is computed sooner than they are looked through.
const FEW: usize = 12;

/// Whether there is a field of this name.
#[must_use]
pub fn has(fields: &HeaderMap, name: &HeaderName) -> bool {
    if fields.keys_len() <= FEW { fields.keys().any(|other| other == name) } else { fields.contains_key(name) }
}

/// The lines of the fields of this name, in their order.
#[must_use]
pub fn lines(fields: &HeaderMap, name: HeaderName) -> Lines<'_> {
    Lines(has(fields, &name).then(|| fields.get_all(name).iter()))
}

/// The lines of the fields of one name.
#[derive(Debug)]
pub struct Lines<'a>(Option<ValueIter<'a, HeaderValue>>);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a HeaderValue;

    fn next(&mut self) -> Option<&'a HeaderValue> {
        self.0.as_mut()?.next()
    }
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
