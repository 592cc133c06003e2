//! What is refused, with its place, and what is told.

use std::time::Duration;

use super::{form::*, section::is_near};
use crate::config::ConfigError;

/// Four lines without an error.
const BASE: &str = "[[listeners]]\naddress = \"127.0.0.1:80\"\n[upstreams.a]\nservers = [\"http://h\"]\n";

fn read(text: &str) -> Result<crate::config::Config, crate::config::ConfigErrors> {
    super::read(text, std::path::Path::new(""))
}

fn errors(text: &str) -> Vec<ConfigError> {
    read(text).expect_err(text).errors
}

/// One error, at this line, for this key, with this in its message.
fn assert_error(text: &str, line: usize, key: &str, part: &str) {
    let errors = errors(text);
    assert_eq!(errors.len(), 1, "{text}\n{errors:?}");
    assert_eq!((errors[0].line, errors[0].key.as_str()), (Some(line), key), "{text}\n{errors:?}");
    assert!(errors[0].message.contains(part), "{text}\n{errors:?} lacks {part:?}");
}

/// Rows of one line in `[guard]`, its key there, and a part of the message.
fn assert_guard_errors(rows: &[(&str, &str, &str)]) {
    for (text, key, part) in rows {
        assert_error(&format!("{BASE}[guard]\n{text}\n"), 6, &format!("guard.{key}"), part);
    }
}

fn assert_errors_after_base(rows: &[(&str, usize, &str, &str)]) {
    for (text, line, key, part) in rows {
        assert_error(&format!("{BASE}{text}\n"), *line, key, part);
    }
}

#[test]
fn a_syntax_error_is_one_error_whatever_else_is_wrong() {
    assert_errors_after_base(&[
        ("[guard]\nwait = \nlien = 3", 6, "", "string"),
        ("[guard]\nwait = \"1s\"\nwait = \"2s\"", 7, "", "duplicate key"),
    ]);
}

#[test]
fn unknown_keys_in_each_kind_of_table() {
    assert_guard_errors(&[
        ("colour = 1", "colour", "the keys here are profile, mode, methods"),
        // Near to mode too.
        ("mine = 1", "mine", "did you mean line?"),
    ]);
    assert_errors_after_base(&[
        ("[gaurd]", 5, "gaurd", "did you mean guard?"),
        ("[guard]\n\nwiat = \"1s\"", 7, "guard.wiat", "did you mean wait?"),
        ("[guard]\n\"a b\" = 1", 6, "guard.\"a b\"", "is not a known key"),
        ("[log]\nlevle = \"info\"", 6, "log.levle", "did you mean level?"),
        ("[tracker]\nsize = 3", 6, "tracker.size", "the keys here are capacity, tag_bytes"),
        ("[[routes]]\nhots = \"h\"", 6, "routes[0].hots", "did you mean host?"),
        ("[[routes]]\nguard = { verfy = \"always\" }", 6, "routes[0].guard.verfy", "did you mean verify?"),
        ("[[listeners]]\naddress = \"[::1]:80\"\nport = 1", 7, "listeners[1].port", "the keys here are address"),
        (
            "[upstreams.b]\nservers = [\"http://h\"]\nserver = 1\n[[routes]]\nupstream = \"a\"",
            7,
            "upstreams.b.server",
            "did you mean servers?",
        ),
    ]);
}

#[test]
fn values_of_another_type() {
    assert_guard_errors(&[
        ("mode = 3", "mode", "must be a string; here it is of the type integer"),
        ("encoding_suffixes = \"yes\"", "encoding_suffixes", "must be true or false"),
        ("methods = \"PUT\"", "methods", "must be an array"),
        ("line = \"5\"", "line", "must be an integer"),
    ]);
    assert_errors_after_base(&[
        ("[[guard]]\nline = 5", 5, "guard", "must be a table; here it is of the type array"),
        ("[routes]\npath = \"/\"", 5, "routes", "must be an array of tables: [[routes]]"),
        ("[[routes]]\nguard = 1", 6, "routes[0].guard", "must be a table"),
    ]);
}

#[test]
fn choices_that_are_not_there() {
    assert_guard_errors(&[
        ("mode = \"on\"", "mode", "\"on\" is not known; write \"enforce\" or \"warn\" or \"observe\" or \"off\""),
        ("missing = \"Allow\"", "missing", "\"allow\" or \"warn\" or \"require\""),
        ("comparison = \"\"", "comparison", "\"strong\" or \"weak\""),
        ("verify = \"no\"", "verify", "\"never\" or \"unknown\" or \"mismatch\" or \"always\""),
        ("profile = \"dav\"", "profile", "\"scim\" or \"webdav\" or \"s3\" or \"none\""),
        ("profile = true", "profile", "must be a string"),
        ("if_header = \"yes\"", "if_header", "must be true or false"),
        ("safe_methods = [\"REPORT\", \"POST\"]", "safe_methods[1]", "POST writes"),
        ("safe_methods = [\"Move\"]", "safe_methods[0]", "Move writes"),
        ("safe_methods = [\"GET\"]", "safe_methods[0]", "GET only reads on every route"),
        ("safe_methods = [\"QUERY\"]", "safe_methods[0]", "QUERY only reads on every route; it need not be named here"),
        ("trust_write_tags = 1", "trust_write_tags", "must be true or false"),
        ("conflict_body = \"json\"", "conflict_body", "\"problem\" or \"simple\""),
        ("method_override = \"honor\"", "method_override", "\"honour\" or \"refuse\""),
        ("conflict_status = 410", "conflict_status", "410 is not one of 409 and 412"),
        ("conflict_status = \"409\"", "conflict_status", "must be an integer"),
        ("query = \"some\"", "query", "write \"include\", \"ignore\" or an array of parameter names"),
        ("query = [\"a\", 1]", "query", "must be a string"),
        ("query = false", "query", "must be \"include\""),
        ("methods = [\"OPTIONS\"]", "methods[0]", "OPTIONS only reads"),
        ("methods = [\"CONNECT\"]", "methods[0]", "opens a tunnel"),
        ("methods = [\"PUT IT\"]", "methods[0]", "\"PUT IT\" is not a method"),
        ("methods = [\"put\"]", "methods[0]", "\"put\" is not PUT"),
        ("partition = [\"X-A\", \"a b\"]", "partition[1]", "\"a b\" is not the name of a header field"),
        ("partition = [\"TE\"]", "partition[0]", "te does not reach the backend as the client sends it"),
        ("partition = [\"If-Match\"]", "partition[0]", "if-match does not reach the backend"),
    ]);
    assert_errors_after_base(&[
        ("[guard]\nsafe_methods = [\"A\"]\nmethods = [\"A\"]", 5, "guard.safe_methods", "has A, and so has methods"),
        (
            "[guard]\nprofile = \"webdav\"\nmethods = [\"PUT\", \"SEARCH\"]",
            5,
            "guard.methods",
            "has SEARCH, which profile = \"webdav\" takes for a read: see safe_methods",
        ),
        (
            "[guard]\nprofile = \"webdav\"\nsafe_methods = [\"SEARCH\"]\nmethods = [\"SEARCH\"]",
            5,
            "guard.safe_methods",
            "has SEARCH, and so has methods",
        ),
    ]);
    assert_errors_after_base(&[("[guard]\nmethods = [\n\"PUT\",\n\"GET\"]", 8, "guard.methods[1]", "GET only reads")]);
}

#[test]
fn versions_that_are_not_there() {
    assert_guard_errors(&[
        (
            "version = \"json\"",
            "version",
            "\"json\" is not known; write \"etag\", \"body\", \"last-modified\", { header",
        ),
        ("version = 1", "version", "must be \"etag\", \"body\""),
        ("version = {}", "version", "a table here has one key, header or json"),
        ("version = { header = \"X-V\", json = \"/v\" }", "version", "a table here has one key, header or json"),
        ("version = { field = \"X-V\" }", "version", "a table here has one key, header or json"),
        ("version = { header = 1 }", "version", "must be a string"),
        ("version = { header = \"a b\" }", "version", "\"a b\" is no field name"),
        ("version = { header = \"ETag\" }", "version", "ETag is read by version = \"etag\""),
        ("version = { header = \"last-modified\" }", "version", "read by version = \"last-modified\""),
        ("version = { header = \"Date\" }", "version", "Date is another in every answer"),
        ("version = { header = \"Connection\" }", "version", "Connection is about the message"),
        ("version = { header = \"age\" }", "version", "age is about the message"),
        ("version = { header = \"Content-Length\" }", "version", "it is no version"),
        ("version = { header = \"Host\" }", "version", "it is no version"),
        ("version = { header = \"Via\" }", "version", "it is no version"),
        ("version = { header = \"Transfer-Encoding\" }", "version", "it is no version"),
        ("version = { header = \"Keep-Alive\" }", "version", "it is no version"),
        ("version = { json = \"v\" }", "version", "\"v\" is no place in a document"),
        ("version_body_limit = \"1GiB\"", "version_body_limit", "must be from 1B to 256MiB"),
        ("after_write = \"read\"", "after_write", "\"read\" is not known; write \"off\" or \"probe\""),
    ]);
    assert_guard_errors(&[(
        "ignore = [\"/a\", \"b\"]\nversion = \"body\"",
        "ignore[1]",
        "\"b\" is no place in a document",
    )]);
    let places = (0..65).map(|n| format!("\"/{n}\"")).collect::<Vec<_>>().join(",");
    assert_errors_after_base(&[
        (
            &format!("[guard]\nversion = \"body\"\nignore = [{places}]"),
            5,
            "guard.ignore",
            "can't have more than 64 places",
        ),
        ("[guard]\nignore = [\"/a\"]", 5, "guard.ignore", "it goes with version = \"body\""),
        ("[guard]\nversion = { json = \"/v\" }\nignore = [\"/a\"]", 5, "guard.ignore", "it goes with version"),
        ("[guard]\nversion = \"last-modified\"\nafter_write = \"probe\"", 5, "guard.after_write", "no version yet"),
        ("[guard]\nversion = \"last-modified\"\ncomparison = \"weak\"", 5, "guard.comparison", "within a second"),
    ]);
}

#[test]
fn clients_that_cannot_be_exempt() {
    assert_guard_errors(&[
        ("report = 1", "report", "must be true or false"),
        ("exempt = \"10.0.0.0/8\"", "exempt", "must be an array of tables"),
        ("exempt = [\"10.0.0.0/8\"]", "exempt[0]", "must be a table"),
        ("exempt = [{}]", "exempt[0]", "needs an address, or a header"),
        ("exempt = [{ address = \"10\" }]", "exempt[0].address", "neither an address nor a network"),
        ("exempt = [{ header = \"a b\" }]", "exempt[0].header", "not the name of a header field"),
        ("exempt = [{ value = \"x\" }]", "exempt[0].header", "is missing; it goes with value"),
        ("exempt = [{ header = \"A\", value = \"*x\" }]", "exempt[0].value", "has a * that is not its end"),
        ("exempt = [{ header = \"A\", value = \"\" }]", "exempt[0].value", "is empty"),
        ("exempt = [{ header = \"A\", vale = \"x\" }]", "exempt[0].vale", "did you mean value?"),
    ]);
    assert_errors_after_base(&[
        ("[report]\nclients = 0", 6, "report.clients", "must be from 1 to 1000"),
        ("[report]\nreads = 1", 6, "report.reads", "must be from 2"),
    ]);
}

#[test]
fn durations_that_are_refused() {
    assert_guard_errors(&[
        ("wait = \"10 parsecs\"", "wait", "\"10 parsecs\" is not a duration; write it like \"10s\""),
        ("wait = 1_0s", "wait", "\"10s\" is not an integer"),
        ("wait = \"s\"", "wait", "is not a duration"),
        ("wait = \"1.5s\"", "wait", "is not a duration"),
        ("wait = \"-1s\"", "wait", "is not a duration"),
        ("wait = \"\"", "wait", "is not a duration"),
        ("wait = \"99999999999999999999s\"", "wait", "is not a duration"),
        ("wait = \"99999999999999999d\"", "wait", "is not a duration"),
        ("wait = 10", "wait", "10 has no unit; write it like \"10s\""),
        ("wait = 1.5", "wait", "must be a string; here it is of the type float"),
        ("wait = \"25h\"", "wait", "\"25h\" is out of range; at least 0 and at most 1d"),
        ("settle = \"2d\"", "settle", "at most 1d"),
        ("drain_time = \"2d\"", "drain_time", "at most 1d"),
        ("body_idle_timeout = \"0s\"", "body_idle_timeout", "at least 1ms and at most 1d"),
        ("max_age = \"0s\"", "max_age", "at least 1ms"),
        ("max_age = \"4000d\"", "max_age", "at most 3650d"),
    ]);
}

#[test]
fn sizes_and_counts_that_are_refused() {
    assert_guard_errors(&[
        ("buffer = \"64 KiB\"", "buffer", "\"64 KiB\" is not a size; write it like \"64KiB\""),
        ("buffer = \"64KB\"", "buffer", "is not a size"),
        ("buffer = true", "buffer", "must be a size such as"),
        ("buffer = \"17MiB\"", "buffer", "must be from 0 to 16MiB"),
        ("drain_bytes = \"2GiB\"", "drain_bytes", "must be from 0 to 1GiB"),
        ("line = 1_0s", "line", "\"10s\" is not an integer"),
        ("line = 1_0\u{1b}", "line", "\\u{1b}"),
        ("line = 0x", "line", "is not an integer"),
        ("line = 0", "line", "must be from 1 to 100000"),
        ("line = 100_001", "line", "must be from 1 to 100000"),
        ("line = -1", "line", "-1 is out of range"),
    ]);
    assert_errors_after_base(&[
        ("[tracker]\ncapacity = 0", 6, "tracker.capacity", "must be from 1 to 100000000"),
        ("[tracker]\ncapacity = 100_000_001", 6, "tracker.capacity", "must be from 1 to 100000000"),
        ("[tracker]\ntag_bytes = \"0B\"", 6, "tracker.tag_bytes", "must be from 1B to 64KiB"),
        ("[tracker]\ntag_bytes = \"65KiB\"", 6, "tracker.tag_bytes", "must be from 1B to 64KiB"),
    ]);
}

#[test]
fn what_is_wrong_with_the_log() {
    assert_errors_after_base(&[
        ("[log]\nformat = \"xml\"", 6, "log.format", "\"text\" or \"json\""),
        ("[log]\nlevel = \"warning\"", 6, "log.level", "\"warning\" is neither a level"),
        ("[log]\nlevel = \"ifmatch=loud\"", 6, "log.level", "nor a filter such as"),
    ]);
}

/// As one it would take gigabytes and a minute.
#[test]
fn a_filter_holds_no_regular_expression() {
    let filter = "[[listeners]]\naddress = \"127.0.0.1:80\"\n[upstreams.a]\nservers = [\"http://h\"]\n\
                  [log]\nlevel = \"x[a{b=w....................}]=info\"";
    assert!(read(filter).is_ok());
}

#[test]
fn a_final_dot_of_a_host_does_not_count() {
    let config = read(
        "[[listeners]]\naddress = \"127.0.0.1:80\"\n[upstreams.a]\nservers = [\"http://h\"]\n[[routes]]\nhost = \"H.\"",
    );
    assert_eq!(config.expect("a configuration").routes[0].host.as_deref(), Some("h"));
}

#[test]
fn what_is_wrong_with_a_route() {
    assert_errors_after_base(&[
        ("[[routes]]\nhost = \"h:80\"", 6, "routes[0].host", "without a port"),
        ("[[routes]]\nhost = \"*.h\"", 6, "routes[0].host", "or a wildcard"),
        ("[[routes]]\nhost = \"\"", 6, "routes[0].host", "is not a host"),
        ("[[routes]]\nhost = \".\"", 6, "routes[0].host", "is not a host"),
        ("[[routes]]\npath = \"users\"", 6, "routes[0].path", "does not begin with /"),
        ("[[routes]]\nupstream = \"b\"", 6, "routes[0].upstream", "there is no upstream \"b\"; known: \"a\""),
        (
            "[upstreams.b]\nservers = [\"http://h\"]\n[[routes]]",
            7,
            "routes[0].upstream",
            "there is a choice of \"a\", \"b\"",
        ),
        ("[[routes]]\n[[routes]]\nhost = \"h\"", 6, "routes[1]", "is never reached: routes[0]"),
        ("[[routes]]\n[[routes]]\npath = \"/a\"", 6, "routes[1]", "is never reached: routes[0] takes everything"),
        ("[[routes]]\npath = \"/{*all}\"\n[[routes]]", 7, "routes[1]", "is never reached"),
        ("[[routes]]\npath = \"/a/{id}\"\n[[routes]]\npath = \"/a/b\"", 7, "routes[1]", "is never reached"),
        ("[[routes]]\nhost = \"h\"\n[[routes]]\nhost = \"H\"", 7, "routes[1]", "is never reached"),
        (
            "[upstreams.\"\"]\nservers = [\"http://h\"]\n[[routes]]\nupstream = \"a\"",
            5,
            "upstreams.\"\"",
            "can't be empty",
        ),
    ]);
}

#[test]
fn every_kind_of_error_at_the_top() {
    for (text, key, part) in [
        ("workers = 0", "workers", "must be from 1 to 1024"),
        ("workers = 1025", "workers", "must be from 1 to 1024"),
        ("drain_timeout = \"0s\"", "drain_timeout", "at least 1ms"),
        ("drain_timeout = \"2d\"", "drain_timeout", "at most 1d"),
        ("limits.header_read_timeout = 10", "limits.header_read_timeout", "10 has no unit"),
        ("limits.header_read_timeout = \"0ms\"", "limits.header_read_timeout", "at least 1ms"),
        ("limits.header_bytes = \"1KiB\"", "limits.header_bytes", "from 8KiB to 16MiB"),
        ("limits.connections = 0", "limits.connections", "must be from 1"),
        ("limits.idle = \"1s\"", "limits.idle", "is not a known key"),
        ("forwarded = \"trust\"", "forwarded", "\"replace\" or \"append\" or \"off\""),
        ("trusted_proxies = [\"10.0.0.0/33\"]", "trusted_proxies[0]", "neither an address nor a network"),
        ("trusted_proxies = \"10.0.0.0/8\"", "trusted_proxies", "must be an array"),
        ("reload_interval = 2", "reload_interval", "2 has no unit"),
        ("takeover = \"\"", "takeover", "is empty"),
        ("admin.address = \"localhost\"", "admin.address", "is not an address and port"),
        ("admin = true", "admin", "must be a table"),
        ("log.access = \"on\"", "log.access", "must be true or false"),
        ("worker = 3", "worker", "did you mean workers?"),
        ("guard.wait = \"1\"", "guard.wait", "is not a duration"),
    ] {
        assert_error(&format!("{text}\n{BASE}"), 1, key, part);
    }
}

#[test]
fn what_is_wrong_with_a_listener() {
    for (listener, line, key, part) in [
        ("[[listeners]]", 1, "listeners[0].address", "is missing"),
        ("[[listeners]]\naddress = 80", 2, "listeners[0].address", "must be a string"),
        ("[[listeners]]\naddress = \"localhost:80\"", 2, "listeners[0].address", "write it like \"0.0.0.0:8080\""),
        ("[[listeners]]\naddress = \":80\"", 2, "listeners[0].address", "is not an address and port"),
        (
            "[[listeners]]\naddress = \"[::]:80\"\ntls = {}",
            3,
            "listeners[0].tls",
            "needs a cert and its key, or certificates with several",
        ),
        ("[[listeners]]\naddress = \"[::]:80\"\ntls = true", 3, "listeners[0].tls", "must be a table"),
        ("[[listeners]]\naddress = \"[::]:80\"\nproxy_protocol = 1", 3, "listeners[0].proxy_protocol", "true or false"),
        ("[listeners]\naddress = \"[::]:80\"", 1, "listeners", "must be an array of tables: [[listeners]]"),
        ("listeners = [\n3]", 2, "listeners[0]", "must be a table"),
    ] {
        assert_error(&format!("{listener}\n[upstreams.a]\nservers = [\"http://h\"]"), line, key, part);
    }
}

#[test]
fn what_is_wrong_with_an_upstream() {
    const LISTENER: &str = "[[listeners]]\naddress = \"127.0.0.1:80\"\n";
    for (upstream, line, key, part) in [
        ("[upstreams.a]", 3, "upstreams.a.servers", "at least one is needed"),
        ("[upstreams.a]\nservers = []", 3, "upstreams.a.servers", "at least one is needed"),
        ("[upstreams.a]\nservers = \"http://h\"", 4, "upstreams.a.servers", "must be an array"),
        ("[upstreams.a]\nservers = [\n\"http://h\",\n3]", 6, "upstreams.a.servers[1]", "must be a string"),
        ("[upstreams.\"a.b\"]\nservers = [3]", 4, "upstreams.\"a.b\".servers[0]", "must be a string"),
        (
            "[upstreams.a]\nservers = [\"http://h\"]\nconnect_timeout = \"0s\"",
            5,
            "upstreams.a.connect_timeout",
            "at least 1ms",
        ),
        (
            "[upstreams.a]\nservers = [\"http://h\"]\nresponse_timeout = \"0s\"",
            5,
            "upstreams.a.response_timeout",
            "at least 1ms",
        ),
        (
            "[upstreams.a]\nservers = [\"http://h\"]\nidle_timeout = \"0s\"",
            5,
            "upstreams.a.idle_timeout",
            "at least 1ms",
        ),
        ("[upstreams.a]\nservers = [\"http://h\"]\nhost = \"h\"", 5, "upstreams.a.host", "\"preserve\" or \"rewrite\""),
        ("[[upstreams]]\nservers = [\"http://h\"]", 3, "upstreams", "must be a table"),
        ("[upstreams.a]\nservers = [\"http://h\"]\nprotocol = \"h3\"", 5, "upstreams.a.protocol", "\"h2\" or \"auto\""),
        ("[upstreams.a]\nservers = [\"http://h\"]\nbalance = \"random\"", 5, "upstreams.a.balance", "is not known"),
        ("[upstreams.a]\nservers = [\"http://h\"]\nmax_connections = 0", 5, "upstreams.a.max_connections", "from 1"),
        (
            "[upstreams.a]\nservers = [\"http://h\"]\nhealth = {path = \"x\"}",
            5,
            "upstreams.a.health.path",
            "\"x\" is not a path",
        ),
        (
            "[upstreams.a]\nservers = [\"http://h\"]\nejection = {failure = 1}",
            5,
            "upstreams.a.ejection.failure",
            "failures?",
        ),
        (
            "[upstreams.a]\nservers = [\"http://h\"]\ntls = {cert = \"c.pem\"}",
            5,
            "upstreams.a.tls.key",
            "goes with cert",
        ),
        (
            "[upstreams.a]\nservers = [\"http://h\"]\ntls = {key = \"c.pem\"}",
            5,
            "upstreams.a.tls.cert",
            "goes with key",
        ),
        ("[upstreams]\na = 3", 4, "upstreams.a", "must be a table"),
    ] {
        assert_error(&format!("{LISTENER}{upstream}"), line, key, part);
    }
}

#[test]
fn servers_that_are_refused() {
    for (text, part) in [
        ("", "is not a server's address"),
        ("10.0.0.1:3000", "does not begin with http://"),
        ("h", "does not begin with http://"),
        ("/a", "does not begin with http://"),
        ("ftp://h", "does not begin with http://"),
        ("ftp://h", "does not begin with http:// or https://"),
        ("http://", "is not a server's address"),
        ("http://h#part", "is not a server's address"),
        ("http://h h", "is not a server's address"),
        ("http://h/api", "has a path or a query"),
        ("http://h?a", "has a path or a query"),
        ("http://user@h", "can't have user information"),
        ("https://user:secret@h", "can't have user information"),
        ("http://h:", "has a host or a port that can't be"),
        ("http://h:0", "has a host or a port that can't be"),
        ("http://h:65536", "has a host or a port that can't be"),
        ("http://h:http", "has a host or a port that can't be"),
        ("http://:80", "has a host or a port that can't be"),
        ("http://h*", "has a host or a port that can't be"),
        ("http://[::1", "is not a server's address"),
        ("http://[::z]:1", "has a host or a port that can't be"),
    ] {
        let message = server(text).expect_err(text);
        assert!(message.contains(part) && !message.contains("secret"), "{text}: {message}");
    }
}

#[test]
fn servers_that_are_accepted() {
    for (text, meant) in [
        ("http://h", "h:80"),
        ("http://h/", "h:80"),
        ("https://h", "h:443"),
        ("https://h:8443/", "h:8443"),
        ("http://h:3000", "h:3000"),
        ("HTTP://Api.Example.COM:3000/", "api.example.com:3000"),
        ("http://10.0.0.1:1", "10.0.0.1:1"),
        ("http://[::1]", "[::1]:80"),
        ("http://[::1]:3000", "[::1]:3000"),
        ("http://a_b-c.d", "a_b-c.d:80"),
    ] {
        let scheme = if text.starts_with("https") { "https" } else { "http" };
        let meant = format!("{scheme}://{meant}");
        assert_eq!(server(text).map(|origin| origin.to_string()), Ok(meant), "{text}");
    }
}

#[test]
fn all_errors_at_once_in_the_order_of_lines() {
    let text = "workers = 0\n[guard]\nwait = 1\nlien = 3\n\
                [[routes]]\nupstream = \"x\"\nguard = { missing = 1, wait = \"1\" }\n\
                [upstreams.a]\nservers = [\"ftp://h\", \"h\"]\n";
    let places: Vec<_> = errors(text).into_iter().map(|error| (error.line, error.key)).collect();
    let expected = [
        (None, "listeners"),
        (Some(1), "workers"),
        (Some(3), "guard.wait"),
        (Some(4), "guard.lien"),
        (Some(6), "routes[0].upstream"),
        (Some(7), "routes[0].guard.missing"),
        (Some(7), "routes[0].guard.wait"),
        (Some(9), "upstreams.a.servers[0]"),
        (Some(9), "upstreams.a.servers[1]"),
    ];
    let expected = expected.map(|(line, key)| (line, key.to_owned()));
    assert_eq!(places, expected);
}

#[test]
fn what_is_missing_has_no_line() {
    for (text, key, part) in [
        ("[upstreams.a]\nservers = [\"http://h\"]", "listeners", "at least one is needed"),
        ("listeners = []\n[upstreams.a]\nservers = [\"http://h\"]", "listeners", "at least one is needed"),
        ("[[listeners]]\naddress = \"[::]:80\"", "upstreams", "at least one is needed"),
        ("[[listeners]]\naddress = \"[::]:80\"\n[upstreams]", "upstreams", "at least one is needed"),
        (&format!("{BASE}[upstreams.b]\nservers = [\"http://h\"]"), "routes", "routes are needed"),
    ] {
        let errors = errors(text);
        assert_eq!((errors.len(), errors[0].line, errors[0].key.as_str()), (1, None, key), "{errors:?}");
        assert!(errors[0].message.contains(part), "{errors:?}");
    }
}

#[test]
fn a_number_and_a_unit_are_written_as_they_were_read() {
    for text in ["1ms", "1500ms", "10s", "90s", "5m", "36h", "1d", "3650d"] {
        assert_eq!(quantity(text, &DURATION_UNITS).map(|ms| in_units(ms, &DURATION_UNITS)), Some(text.to_owned()));
    }
    for text in ["1B", "1000B", "64KiB", "1025KiB", "16MiB", "1GiB"] {
        assert_eq!(quantity(text, &SIZE_UNITS).map(|bytes| in_units(bytes, &SIZE_UNITS)), Some(text.to_owned()));
    }
    assert_eq!(duration_text(Duration::from_secs(3600)), "1h");
    assert_eq!(size_text(0), "0");
}

#[test]
fn a_distant_key_is_not_suggested() {
    for (known, written, near) in [
        ("wait", "wiat", true),
        ("wait", "wait_time", false),
        ("line", "lines", true),
        ("body_idle_timeout", "body_timeout", true),
        ("mode", "model_of_everything", false),
        ("max_age", "maxage", true),
    ] {
        assert_eq!(is_near(known, written), near, "{known} {written}");
    }
}

/// What the gateway writes itself keeps nothing apart at the backend: each client could choose a turn of its own.
#[test]
fn forwarding_fields_tell_resources_apart_only_where_they_pass() {
    let file = |rule: &str, name: &str| format!("{rule}\n{BASE}[[routes]]\nguard = {{ partition = [{name:?}] }}\n");
    for name in ["X-Forwarded-Host", "Forwarded", "X-Forwarded-For"] {
        for rule in ["", "forwarded = \"replace\"", "forwarded = \"append\""] {
            let errors = errors(&file(rule, name));
            assert_eq!((errors.len(), errors[0].key.as_str()), (1, "forwarded"), "{errors:?}");
            assert!(errors[0].message.contains("must be \"off\""), "{errors:?}");
        }
        assert!(read(&file("forwarded = \"off\"", name)).is_ok());
    }
    assert!(read(&file("", "X-Tenant")).is_ok());
}

#[test]
fn what_is_wrong_with_what_a_route_also_changes() {
    let of_lines = |also: &str| {
        format!("[[routes]]\npath = \"/orders/{{id}}/lines/{{line}}\"\nalso_changes = {also}\n[[routes]]\n")
    };
    let many: Vec<String> = (0..17).map(|n| format!("/a/{n}")).collect();
    let many = format!("{many:?}");
    let line = BASE.lines().count() + 3;
    for (also, key, part) in [
        ("\"/orders\"", "routes[0].also_changes", "must be an array"),
        ("[7]", "routes[0].also_changes[0]", "must be a string"),
        (
            "[\"/orders\", \"/orders/{order}\"]",
            "routes[0].also_changes[1]",
            "{order}, which the route's path /orders/{id}/lines/{line} has not",
        ),
        ("[\"orders\"]", "routes[0].also_changes[0]", "does not begin with /"),
        ("[\"/orders?page=1\"]", "routes[0].also_changes[0]", "has a query"),
    ] {
        assert_error(&format!("{BASE}{}", of_lines(also)), line, key, part);
    }
    assert_error(
        &format!("{BASE}{}", of_lines(&many)),
        line - 2,
        "routes[0].also_changes",
        "has 17 paths; 16 are the most",
    );
    let twice = of_lines("[\"/orders\", \"/orders/{id}\", \"/orders\"]");
    assert_error(&format!("{BASE}{twice}"), line - 2, "routes[0].also_changes", "names a path more than once");
    let to_orders = "path = \"/orders/{order}\"\n";
    for (others, leads) in [
        ("path = \"/notes\"\n".to_owned(), false),
        (to_orders.to_owned(), true),
        ("path = \"/{any}/7\"\n".to_owned(), true),
        (format!("host = \"other.example\"\n{to_orders}"), false),
        (format!("host = \"notes.example\"\n{to_orders}"), true),
    ] {
        let lines = of_lines("[\"/orders/{id}\"]").replacen("path", "host = \"notes.example\"\npath", 1);
        let file = format!("{BASE}{lines}{others}");
        if leads {
            read(&file).expect(&others);
        } else {
            assert_error(&file, line - 2, "routes[0].also_changes", "no route leads to /orders/{id}");
        }
    }
    // One error, and not one for each name.
    let errors = errors(&format!("{BASE}[[routes]]\npath = \"orders\"\nalso_changes = [\"/orders/{{id}}\"]"));
    assert_eq!(errors.len(), 1, "{errors:?}");
}
