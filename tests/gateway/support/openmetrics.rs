//! OpenMetrics text 1.0, read as strictly as its grammar has it: what a lenient scraper would overlook is an error here.

use std::collections::{BTreeMap, BTreeSet};

/// All samples of a scrape.
#[derive(Debug)]
pub(crate) struct Scrape(BTreeMap<(String, Labels), f64>);

type Labels = BTreeMap<String, String>;

#[derive(Debug, Default)]
struct Family {
    name: String,
    kind: Option<String>,
    help: bool,
    unit: Option<String>,
    samples: bool,
}

impl Scrape {
    /// The sum of the samples with this name that have these labels, among others perhaps. Zero if there are none.
    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |own: &Labels| labels.iter().all(|(name, value)| own.get(*name).is_some_and(|own| own == value));
        self.0.iter().filter(|((own, labels), _)| own == name && has(labels)).map(|(_, value)| value).sum()
    }

    /// All values of a label.
    pub(crate) fn label(&self, name: &str, label: &str) -> BTreeSet<&str> {
        let own = self.0.keys().filter(|(own, _)| own == name);
        own.filter_map(|(_, labels)| labels.get(label)).map(String::as_str).collect()
    }

    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let lines = text.strip_suffix("# EOF\n").ok_or("the end is not \"# EOF\"")?;
        if !lines.is_empty() && !lines.ends_with('\n') {
            return Err("the last line does not end".to_owned());
        }
        let mut scrape = Self(BTreeMap::new());
        let mut families = BTreeSet::new();
        let mut family = Family::default();
        for line in lines.lines() {
            scrape.line(line, &mut family, &mut families).map_err(|error| format!("{error}: {line}"))?;
        }
        scrape.check_histograms()?;
        Ok(scrape)
    }

    fn line(&mut self, line: &str, family: &mut Family, families: &mut BTreeSet<String>) -> Result<(), String> {
        let Some(described) = line.strip_prefix("# ") else { return self.sample(line, family) };
        let mut words = described.splitn(3, ' ');
        let (Some(what), Some(name), Some(value)) = (words.next(), words.next(), words.next()) else {
            return Err("neither TYPE, HELP nor UNIT".to_owned());
        };
        if name != family.name {
            check_name(name)?;
            if !families.insert(name.to_owned()) {
                return Err("a family that comes twice, or in pieces".to_owned());
            }
            *family = Family { name: name.to_owned(), ..Family::default() };
        }
        let first = match what {
            "TYPE" => family.kind.replace(value.to_owned()).is_none(),
            "HELP" => !std::mem::replace(&mut family.help, true) && !value.contains(['"', '\\']),
            "UNIT" => family.unit.replace(value.to_owned()).is_none() && name.ends_with(&format!("_{value}")),
            _ => false,
        };
        if first && !family.samples { Ok(()) } else { Err("a description that is odd here".to_owned()) }
    }

    fn sample(&mut self, line: &str, family: &mut Family) -> Result<(), String> {
        family.samples = true;
        let end = line.find(['{', ' ']).ok_or("a sample without a value")?;
        let (name, rest) = line.split_at(end);
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(rest) => read_labels(rest)?,
            None => (Labels::new(), rest),
        };
        let value = rest.strip_prefix(' ').ok_or("no space before the value")?;
        let value = if value == "+Inf" { f64::INFINITY } else { value.parse().map_err(|_| "a value that is none")? };
        let suffix = name.strip_prefix(family.name.as_str()).ok_or("a sample of no family")?;
        let fits = match (family.kind.as_deref(), suffix) {
            (Some("counter"), "_total") => value >= 0.0,
            (Some("gauge"), "") => true,
            (Some("info"), "_info") => value == 1.0 && !labels.is_empty(),
            (Some("histogram"), "_bucket") => labels.contains_key("le") && value >= 0.0,
            (Some("histogram"), "_sum" | "_count") => !labels.contains_key("le") && value >= 0.0,
            _ => false,
        };
        if !fits {
            return Err("a sample that does not fit its type".to_owned());
        }
        match self.0.insert((name.to_owned(), labels), value) {
            None => Ok(()),
            Some(_) => Err("a sample that comes twice".to_owned()),
        }
    }

    fn check_histograms(&self) -> Result<(), String> {
        for ((name, labels), count) in &self.0 {
            let Some(name) = name.strip_suffix("_count") else { continue };
            let mut buckets: Vec<(f64, f64)> = Vec::new();
            for ((bucket, own), value) in &self.0 {
                let mut own = own.clone();
                let le = own.remove("le");
                if *bucket == format!("{name}_bucket") && own == *labels {
                    let le = le.ok_or("a bucket without le")?;
                    let bound = if le == "+Inf" { f64::INFINITY } else { le.parse().map_err(|_| "an odd le")? };
                    buckets.push((bound, *value));
                }
            }
            buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
            let grows = buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
            if !grows || buckets.last() != Some(&(f64::INFINITY, *count)) {
                return Err(format!("the buckets of {name} {labels:?} are not those of a histogram: {buckets:?}"));
            }
        }
        Ok(())
    }
}

fn check_name(name: &str) -> Result<(), String> {
    let begins = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_' || first == ':');
    let goes_on = name.chars().all(|other| other.is_ascii_alphanumeric() || other == '_' || other == ':');
    if begins && goes_on { Ok(()) } else { Err(format!("{name:?} is no name")) }
}

/// The labels up to the closing brace, and what follows it.
fn read_labels(mut rest: &str) -> Result<(Labels, &str), String> {
    let mut labels = Labels::new();
    loop {
        let (name, value) = rest.split_once("=\"").ok_or("a label without a value")?;
        check_name(name)?;
        let mut text = String::new();
        let mut bytes = value.char_indices();
        let end = loop {
            match bytes.next().ok_or("a label's value does not end")? {
                (end, '"') => break end,
                (_, '\\') => text.push(match bytes.next() {
                    Some((_, 'n')) => '\n',
                    Some((_, escaped @ ('"' | '\\'))) => escaped,
                    other => return Err(format!("an escape that is none: {other:?}")),
                }),
                (_, other) => text.push(other),
            }
        };
        if labels.insert(name.to_owned(), text).is_some() {
            return Err("a label that comes twice".to_owned());
        }
        rest = &value[end + 1..];
        if let Some(after) = rest.strip_prefix('}') {
            return Ok((labels, after));
        }
        rest = rest.strip_prefix(',').ok_or("no comma between labels")?;
    }
}

#[test]
fn what_is_not_openmetrics_is_refused() {
    let good = "# HELP a_b_seconds Help.\n# TYPE a_b_seconds histogram\n# UNIT a_b_seconds seconds\n\
                a_b_seconds_sum{x=\"\\\"y\"} 1.5\na_b_seconds_count{x=\"\\\"y\"} 2\n\
                a_b_seconds_bucket{le=\"1.0\",x=\"\\\"y\"} 1\na_b_seconds_bucket{le=\"+Inf\",x=\"\\\"y\"} 2\n\
                # TYPE c counter\nc_total 7\n# EOF\n";
    let scrape = Scrape::parse(good).expect("this is it");
    assert_eq!((scrape.value("a_b_seconds_count", &[("x", "\"y")]), scrape.value("c_total", &[])), (2.0, 7.0));
    for (from, to) in [
        ("# EOF\n", ""),
        ("# EOF\n", "# EOF"),
        ("# EOF\n", "# EOF\n\n"),
        ("c_total 7", "c 7"),
        ("c_total 7", "c_total -7"),
        ("c_total 7", "c_total seven"),
        ("c_total 7", "c_total 7\nc_total 7"),
        ("c_total 7", "c_total{} 7"),
        ("c_total 7", "c_total{a=\"b} 7"),
        ("c_total 7", "c_total{a=\"\\x\"} 7"),
        ("c_total 7", "c_total{a=\"b\",a=\"b\"} 7"),
        ("c_total 7", "c_total 7\n# TYPE a_b_seconds histogram"),
        ("c_total 7", "c_total 7\n# HELP c Late."),
        ("UNIT a_b_seconds seconds", "UNIT a_b_seconds bytes"),
        ("le=\"+Inf\"", "le=\"2.0\""),
        ("x=\"\\\"y\"} 1\n", "x=\"\\\"y\"} 3\n"),
        ("TYPE c ", "TYPE 1c "),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good, "{from}");
        assert!(Scrape::parse(&bad).is_err(), "{bad}");
    }
}
