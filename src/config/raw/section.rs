//! Walking through a table of the file: keys are taken out, what is left is unknown, and every error is kept with its place.

use std::{
    cell::RefCell,
    path::{Path, PathBuf},
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::form::{expected, text};
use crate::config::ConfigError;

/// The errors found so far. Shared by all sections, since an error in one does not keep the others from being read.
pub(super) struct Findings<'t> {
    pub(super) text: &'t str,
    /// The folder that the files which it names are taken from.
    pub(super) folder: &'t Path,
    pub(super) errors: RefCell<Vec<ConfigError>>,
}

impl Findings<'_> {
    pub(super) fn add(&self, place: &Place, message: String) {
        let Place { key, line } = place.clone();
        self.errors.borrow_mut().push(ConfigError { line, key, message });
    }

    pub(super) fn line(&self, offset: usize) -> usize {
        1 + self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
    }

    pub(super) fn place<T>(&self, key: String, value: &Spanned<T>) -> Place {
        Place { key, line: Some(self.line(value.span().start)) }
    }
}

/// Where a value stands: its full key and its line.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) key: String,
    pub(super) line: Option<usize>,
}

impl Place {
    /// A key is quoted where TOML would want it quoted.
    pub(super) fn child(&self, key: &str) -> String {
        let bare = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        let key = if bare { key.to_owned() } else { format!("{key:?}") };
        if self.key.is_empty() { key } else { format!("{}.{key}", self.key) }
    }
}

/// Says that a value is wrong and that the error is already among the findings.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Recorded;

/// A table of the file, less the keys that were taken from it. End with [`Section::finish`], or [`Section::named`].
#[must_use]
pub(super) struct Section<'t> {
    pub(super) findings: &'t Findings<'t>,
    pub(super) place: Place,
    rest: DeTable<'t>,
    known: Vec<&'static str>,
}

impl<'t> Section<'t> {
    pub(super) fn new(findings: &'t Findings<'t>, place: Place, table: DeTable<'t>) -> Self {
        Self { findings, place, rest: table, known: Vec::new() }
    }

    /// A key's value, or the default where it is absent or wrong.
    pub(super) fn value<T>(
        &mut self,
        key: &'static str,
        default: T,
        form: impl Fn(&DeValue) -> Result<T, String>,
    ) -> T {
        self.given(key, form).unwrap_or(default)
    }

    /// A key's value, if it is there and right.
    pub(super) fn given<T>(&mut self, key: &'static str, form: impl Fn(&DeValue) -> Result<T, String>) -> Option<T> {
        self.optional(key, form).ok().flatten()
    }

    /// A key's value, if it is right. It must be there.
    pub(super) fn required<T>(&mut self, key: &'static str, form: impl Fn(&DeValue) -> Result<T, String>) -> Option<T> {
        let value = self.optional(key, form);
        if let Ok(None) = value {
            self.error_at(key, "is missing");
        }
        value.ok().flatten()
    }

    /// A key's value, if it is there.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        form: impl Fn(&DeValue) -> Result<T, String>,
    ) -> Result<Option<T>, Recorded> {
        let Some((place, value)) = self.take(key) else {
            return Ok(None);
        };
        form(&value).map(Some).map_err(|message| self.record(&place, message))
    }

    /// An array's elements, if it is there.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        form: impl Fn(&DeValue) -> Result<T, String>,
    ) -> Result<Option<Vec<T>>, Recorded> {
        let Some((place, value)) = self.take(key) else {
            return Ok(None);
        };
        let DeValue::Array(elements) = value else {
            return Err(self.record(&place, expected("an array", &value)));
        };
        // Every element is read before the first wrong one makes the list wrong: all errors are to be found.
        let list: Vec<Result<T, Recorded>> = elements
            .iter()
            .enumerate()
            .map(|(index, element)| {
                let place = self.findings.place(format!("{}[{index}]", place.key), element);
                form(element.get_ref()).map_err(|message| self.record(&place, message))
            })
            .collect();
        list.into_iter().collect::<Result<_, _>>().map(Some)
    }

    /// A table below this one; an empty one where it is absent or wrong.
    pub(super) fn section(&mut self, key: &'static str) -> Section<'t> {
        let absent = Place { key: self.place.child(key), line: self.place.line };
        let section = self.optional_section(key).ok().flatten();
        section.unwrap_or_else(|| Section::new(self.findings, absent, DeTable::new()))
    }

    pub(super) fn optional_section(&mut self, key: &'static str) -> Result<Option<Section<'t>>, Recorded> {
        self.take(key).map(|(place, value)| self.table(place, value)).transpose()
    }

    /// An array of tables; empty where it is absent; `None` for what is no table.
    pub(super) fn sections(&mut self, key: &'static str) -> Result<Vec<Option<Section<'t>>>, Recorded> {
        let Some((place, value)) = self.take(key) else {
            return Ok(Vec::new());
        };
        let DeValue::Array(elements) = value else {
            return Err(self.record(&place, expected(&format!("an array of tables: [[{key}]]"), &value)));
        };
        let sections = elements.into_iter().enumerate().map(|(index, element)| {
            let place = self.findings.place(format!("{}[{index}]", place.key), &element);
            self.table(place, element.into_inner()).ok()
        });
        Ok(sections.collect())
    }

    /// The tables in this one, which has no keys but their names, in the file's order; `None` for what is no table.
    pub(super) fn named(mut self) -> Vec<(String, Option<Section<'t>>)> {
        let mut entries: Vec<_> = std::mem::take(&mut self.rest).into_iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        let sections = entries.into_iter().map(|(name, value)| {
            let place = self.findings.place(self.place.child(name.get_ref()), &name);
            (name.into_inner().into_owned(), self.table(place, value.into_inner()).ok())
        });
        sections.collect()
    }

    pub(super) fn table(&self, place: Place, value: DeValue<'t>) -> Result<Section<'t>, Recorded> {
        let DeValue::Table(table) = value else {
            return Err(self.record(&place, expected("a table", &value)));
        };
        Ok(Section::new(self.findings, place, table))
    }

    pub(super) fn take(&mut self, key: &'static str) -> Option<(Place, DeValue<'t>)> {
        self.known.push(key);
        let value = self.rest.remove(key)?;
        Some((self.findings.place(self.place.child(key), &value), value.into_inner()))
    }

    /// The path of a file, if it is given.
    pub(super) fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        let path = self.given(key, |value| match text(value)? {
            "" => Err("is empty; write the path of a file".to_owned()),
            path => Ok(PathBuf::from(path)),
        });
        path.map(|path| self.findings.folder.join(path))
    }

    pub(super) fn error(&self, message: &str) {
        self.findings.add(&self.place, message.to_owned());
    }

    /// An error about a key that has no line of its own.
    pub(super) fn error_at(&self, key: &str, message: &str) {
        let place = Place { key: self.place.child(key), line: self.place.line };
        self.findings.add(&place, message.to_owned());
    }

    pub(super) fn record(&self, place: &Place, message: String) -> Recorded {
        self.findings.add(place, message);
        Recorded
    }

    /// Every key that was not taken is an error.
    pub(super) fn finish(self) {
        for name in self.rest.keys() {
            let key = name.get_ref();
            let near = self.known.iter().filter(|known| is_near(known, key));
            let advice = match near.min_by_key(|known| edit_distance(known, key)) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("the keys here are {}", self.known.join(", ")),
            };
            self.findings
                .add(&self.findings.place(self.place.child(key), name), format!("is not a known key; {advice}"));
        }
    }
}

/// Whether one may have been meant by the other: a third of it may differ, two letters at least.
pub(super) fn is_near(known: &str, written: &str) -> bool {
    written.len() <= 2 * known.len() && edit_distance(known, written) <= (known.len() / 3).max(2)
}

/// How many letters must be added, dropped or changed to come from one to the other (Levenshtein).
pub(super) fn edit_distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (dropped, letter) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = dropped + 1;
        for (column, other) in to.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}
