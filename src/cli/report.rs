//! `ifmatch report`: what the gateway has counted by client, and what enforcing would change, in words.
//!
//! The numbers come from the admin listener's `/report`; here they are only laid out.

use std::{fmt::Write as _, io::Write as _, net::SocketAddr};

use clap::Args;
use serde_json::Value;

use super::{
    Failed, File,
    admin::{self, printable},
};
use crate::telemetry::report::Count;

/// A longer answer is not read. A row takes some 200 bytes.
const LONGEST: u64 = 64 * 1024 * 1024;
/// What the row of all is called, which no client can be: neither bracket stands in a product's name.
const ALL: &str = "(all)";
/// So many clients are named in a sentence.
const NAMED: usize = 5;

/// The columns that a table may have. Those in which there is nothing are left out.
const COLUMNS: [(Count, &str); 13] = [
    (Count::Conditional, "with"),
    (Count::Unconditional, "without"),
    (Count::Exempt, "exempt"),
    (Count::Stale, "stale"),
    (Count::Exists, "exists"),
    (Count::Unverifiable, "unverifiable"),
    (Count::MissingPrecondition, "missing"),
    (Count::Malformed, "malformed"),
    (Count::MethodOverride, "override"),
    (Count::Unsure, "unsure"),
    (Count::Overlapping, "overlapping"),
    (Count::Blind, "blind"),
    (Count::Unread, "unread"),
];

#[derive(Debug, Args)]
pub(super) struct Report {
    #[command(flatten)]
    file: File,
    /// Ask here [default: the admin address in the file]
    #[arg(long, visible_alias = "address", value_name = "ADDRESS:PORT", conflicts_with = "config", value_parser = address)]
    admin: Option<SocketAddr>,
    /// Print what the gateway says as it is
    #[arg(long)]
    json: bool,
}

/// An address, perhaps written as a URL.
fn address(text: &str) -> Result<SocketAddr, String> {
    let address = text.strip_prefix("http://").unwrap_or(text);
    let address = address.strip_suffix('/').unwrap_or(address);
    address.parse().map_err(|_| "write it like 127.0.0.1:9901".to_owned())
}

impl Report {
    pub(super) fn print(&self) -> Result<(), Failed> {
        let address = admin::address(self.admin, &self.file, "--admin")?;
        let said = admin::ask(address, "/report", LONGEST)?;
        let not_one = || Failed::Start(format!("{address}/report: the answer is no report").into());
        // JSON has nothing in it that moves a cursor.
        let report = serde_json::from_str(&said).map_err(|_| not_one())?;
        let text = if self.json { said } else { in_words(&report).ok_or_else(not_one)? };
        // Whoever reads it may have seen enough.
        let _ = std::io::stdout().write_all(text.as_bytes());
        Ok(())
    }
}

/// `None`: it is no report.
fn in_words(report: &Value) -> Option<String> {
    let mut out = String::new();
    for route in report["routes"].as_array()? {
        let text = |key: &str| route[key].as_str().map(printable);
        let (name, mode, missing) = (text("route")?, text("mode")?, text("missing")?);
        let clients = route["clients"].as_array()?.iter();
        let clients =
            clients.map(|row| Row::of(printable(row["client"].as_str()?), row)).collect::<Option<Vec<_>>>()?;
        let told = Told {
            mode,
            missing,
            is_counted: route["counted"].as_bool()?,
            all: Row::of(ALL.to_owned(), &route["all"])?,
            clients,
        };
        told.write(&name, &mut out);
    }
    if report["clients_are_all_told_apart"] == false {
        out.push_str("There are more clients than [report] clients; those that came last are \"(other)\".\n");
    }
    Some(out)
}

/// What is counted of one client, or of all.
struct Row {
    client: String,
    counts: [u64; Count::ALL.len()],
}

impl Row {
    fn of(client: String, value: &Value) -> Option<Self> {
        let members = value.as_object()?;
        let mut counts = [0; Count::ALL.len()];
        for count in Count::ALL {
            // What is 0 may be left out.
            counts[count as usize] = members.get(count.as_str()).map_or(Some(0), Value::as_u64)?;
        }
        Some(Self { client, counts })
    }

    fn of_all(&self, counts: &[Count]) -> u64 {
        counts.iter().map(|count| self.counts[*count as usize]).sum()
    }

    fn get(&self, count: Count) -> u64 {
        self.counts[count as usize]
    }

    fn writes(&self) -> u64 {
        self.of_all(&[Count::Conditional, Count::Unconditional, Count::Exempt])
    }
}

/// A route's part of the report.
struct Told {
    mode: String,
    missing: String,
    is_counted: bool,
    all: Row,
    clients: Vec<Row>,
}

impl Told {
    fn write(mut self, name: &str, out: &mut String) {
        let Self { mode, missing, .. } = &self;
        let _ = writeln!(out, "Route {name}: mode = \"{mode}\", missing = \"{missing}\"");
        self.clients.sort_by(|one, other| (other.writes(), &one.client).cmp(&(one.writes(), &other.client)));
        let has_any = self.all.counts.iter().any(|count| *count > 0);
        if has_any {
            self.write_table(out);
        }
        let mut sentences = Vec::new();
        if !self.is_counted {
            sentences.push("Nothing is counted here now; report = true in its guard would have it counted.".to_owned());
        } else if !has_any {
            sentences.push("There was no guarded write yet.".to_owned());
        }
        if has_any {
            sentences.extend([self.refusals(), self.requiring(), self.overwrites()].into_iter().flatten());
        }
        for sentence in sentences {
            let _ = writeln!(out, "  {sentence}");
        }
        out.push('\n');
    }

    fn write_table(&self, out: &mut String) {
        let columns: Vec<_> = COLUMNS.iter().filter(|(count, _)| self.all.get(*count) > 0).collect();
        let rows = || self.clients.iter().chain([&self.all]);
        let widest = rows().map(|row| row.client.len()).max().unwrap_or_default().max("client".len());
        let _ = write!(out, "  {:widest$}  {:>8}", "client", "writes");
        for (_, head) in &columns {
            let _ = write!(out, "  {head:>8}");
        }
        out.push('\n');
        for row in rows() {
            let _ = write!(out, "  {:widest$}  {:>8}", row.client, row.writes());
            for (count, head) in &columns {
                let _ = write!(out, "  {:>width$}", row.get(*count), width = head.len().max(8));
            }
            out.push('\n');
        }
    }

    fn refusals(&self) -> Option<String> {
        let (refused, writes) = (self.all.of_all(&Count::REFUSALS), self.all.writes());
        let kinds = Count::REFUSALS.iter().filter(|kind| self.all.get(**kind) > 0);
        let kinds: Vec<_> =
            kinds.map(|kind| format!("{} {}", self.all.get(*kind), kind.as_str().replace('_', " "))).collect();
        let kinds = if kinds.is_empty() { String::new() } else { format!(" ({})", kinds.join(", ")) };
        match self.mode.as_str() {
            "enforce" => Some(format!("{refused} of {writes} writes were refused{kinds}.")),
            "observe" | "warn" => {
                let mut sentence = format!("mode = \"enforce\" would have refused {refused} of {writes} writes{kinds}");
                let (unsure, overlapping) = (self.all.get(Count::Unsure), self.all.get(Count::Overlapping));
                if unsure > 0 {
                    let _ = write!(sentence, "; {unsure} more it would have decided by asking the service");
                }
                if overlapping > 0 {
                    let _ = write!(sentence, "; {overlapping} more after waiting for another write");
                }
                Some(sentence + ".")
            }
            _ => None,
        }
    }

    fn requiring(&self) -> Option<String> {
        if self.missing == "require" || self.mode == "off" {
            return None;
        }
        let without = self.all.get(Count::Unconditional);
        Some(match without {
            0 => "missing = \"require\" would have refused nothing more.".to_owned(),
            _ => {
                let by = self.by(Count::Unconditional);
                format!("missing = \"require\" would have refused {without} more, which had no precondition: {by}.")
            }
        })
    }

    fn overwrites(&self) -> Option<String> {
        let (blind, unread) = (self.all.get(Count::Blind), self.all.get(Count::Unread));
        let told = match blind {
            0 => "No write is known to have overwritten a state that its client had not seen".to_owned(),
            1 => format!("1 write overwrote a state that its client had not seen: {}", self.by(Count::Blind)),
            _ => format!("{blind} writes overwrote a state that their client had not seen: {}", self.by(Count::Blind)),
        };
        Some(match unread {
            0 => told + ".",
            _ => format!("{told}; before {unread} without a precondition no read by the client is known."),
        })
    }

    /// The clients with most of them.
    fn by(&self, count: Count) -> String {
        let mut clients: Vec<_> = self.clients.iter().filter(|row| row.get(count) > 0).collect();
        clients.sort_by_key(|row| std::cmp::Reverse(row.get(count)));
        let named = clients.iter().take(NAMED).map(|row| format!("{} {}", row.client, row.get(count)));
        let mut named = named.collect::<Vec<_>>().join(", ");
        if clients.len() > NAMED {
            let _ = write!(named, " and {} others", clients.len() - NAMED);
        }
        named
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(client: &str, counts: &[(Count, u64)]) -> Value {
        let mut row = json!({ "client": client });
        for count in Count::ALL {
            row[count.as_str()] = 0.into();
        }
        for (count, number) in counts {
            row[count.as_str()] = (*number).into();
        }
        row
    }

    fn report(mode: &str, missing: &str, is_counted: bool, rows: &[Value], all: &[(Count, u64)]) -> Value {
        let all = row("all", all);
        let route = json!({ "route": "/a", "mode": mode, "missing": missing, "counted": is_counted, "all": all, "clients": rows });
        json!({ "routes": [route], "clients_are_all_told_apart": true })
    }

    #[test]
    fn a_report_in_words() {
        let all = [
            (Count::Conditional, 7),
            (Count::Unconditional, 12),
            (Count::Stale, 2),
            (Count::Malformed, 1),
            (Count::Unsure, 3),
            (Count::Overlapping, 1),
            (Count::Blind, 1),
            (Count::Unread, 4),
        ];
        let rows = [
            row("curl", &[(Count::Conditional, 7), (Count::Stale, 2), (Count::Malformed, 1)]),
            row("nightly-job", &[(Count::Unconditional, 12), (Count::Blind, 1)]),
        ];
        let expected = "\
Route /a: mode = \"observe\", missing = \"allow\"
  client         writes      with   without     stale  malformed    unsure  overlapping     blind    unread
  nightly-job        12         0        12         0          0         0            0         1         0
  curl                7         7         0         2          1         0            0         0         0
  (all)              19         7        12         2          1         3            1         1         4
  mode = \"enforce\" would have refused 3 of 19 writes (2 stale, 1 malformed); 3 more it would have decided by asking \
the service; 1 more after waiting for another write.
  missing = \"require\" would have refused 12 more, which had no precondition: nightly-job 12.
  1 write overwrote a state that its client had not seen: nightly-job 1; before 4 without a precondition no read by the \
client is known.

";
        assert_eq!(in_words(&report("observe", "allow", true, &rows, &all)).as_deref(), Some(expected));
    }

    #[test]
    fn each_rung_has_its_words() {
        let some = [(Count::Conditional, 2), (Count::Stale, 1)];
        for (mode, missing, is_counted, all, part, absent) in [
            ("enforce", "allow", false, &[][..], "report = true", "would have refused"),
            ("enforce", "warn", true, &[], "There was no guarded write yet.", "would have refused"),
            ("off", "allow", false, &[], "Nothing is counted here now", "would have refused"),
            ("enforce", "require", true, &some, "1 of 2 writes were refused (1 stale).", "would have refused"),
            ("enforce", "warn", true, &some, "\"require\" would have refused nothing more.", "enforce\" would"),
            ("warn", "allow", true, &some, "mode = \"enforce\" would have refused 1 of 2 writes (1 stale).", "unsure"),
            ("warn", "require", true, &some, "No write is known to have overwritten", "\"require\" would"),
        ] {
            let told = in_words(&report(mode, missing, is_counted, &[], all)).expect("a report");
            assert!(told.contains(part) && !told.contains(absent), "{mode} {missing}: {told}");
        }
    }

    #[test]
    fn what_is_no_report_is_not_told() {
        let mut odd = report("warn", "allow", true, &[row("curl", &[])], &[]);
        odd["routes"][0]["clients"][0]["stale"] = "1".into();
        for value in [json!({}), json!({ "routes": [{}] }), json!([]), json!({ "routes": [{ "route": "/a" }] }), odd] {
            assert_eq!(in_words(&value), None, "{value}");
        }
        assert_eq!(in_words(&json!({ "routes": [] })).as_deref(), Some(""));
    }

    #[test]
    fn an_address_may_be_written_as_a_url() {
        for text in ["127.0.0.1:9901", "http://127.0.0.1:9901", "http://127.0.0.1:9901/"] {
            assert_eq!(address(text), Ok(SocketAddr::from(([127, 0, 0, 1], 9901))), "{text}");
        }
        assert!(address("https://127.0.0.1:9901").is_err() && address("localhost").is_err());
    }
}
