//! The access log, as it stands on standard output; traces; and `ifmatch health`.

use std::process::{Command, Output};

use serde_json::Value;

use crate::support::{Call, Frames, Gateway, H2, Program, Raw, Script, Store, begin};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn call(program: &Program, method: &str, path: &str) -> Call {
    Call::new(program.address, method, path)
}

fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

#[tokio::test]
async fn a_line_tells_of_a_write_what_was_sent_and_what_was_known() {
    let mut backend = Script::start().await;
    let program = Program::before(backend.address, "access = true\nformat = \"json\"", "");
    let put = call(&program, "PUT", "/note?a=1").if_match("\"1\"").with("traceparent", PARENT).body("mine");
    let put = begin(put.with("user-agent", "test/1"));
    backend.expect("HEAD", "/note?a=1").await.answer(200, &[("ETag", "\"1\"")], "").await;
    backend.expect("PUT", "/note?a=1").await.answer(200, &[("ETag", "\"2\"")], "done!").await;
    assert_eq!(put.answer().await.status, 200);
    let line = json(&program.line());
    for (key, value) in [
        ("client", "127.0.0.1"),
        ("method", "PUT"),
        ("host", "notes.example"),
        ("target", "/note?a=1"),
        ("protocol", "HTTP/1.1"),
        ("verdict", "forward"),
        ("if_match", "\"1\""),
        ("known", "\"1\""),
        ("upstream", "backend"),
        ("trace", "4bf92f3577b34da6a3ce929d0e0e4736"),
        ("agent", "test/1"),
    ] {
        assert_eq!(line[key], value, "{key}: {line}");
    }
    assert_eq!((&line["status"], &line["received"], &line["sent"]), (&200.into(), &4.into(), &5.into()));
    assert!(line["aborted"].is_null() && line["problem"].is_null(), "{line}");
    assert_eq!(line["server"], backend.address.to_string());
    let seconds = |key: &str| line[key].as_f64().unwrap_or_else(|| panic!("{key}: {line}"));
    assert!(seconds("duration") >= seconds("upstream_time") && seconds("waited") >= 0.0, "{line}");
    let time = line["time"].as_str().expect("a time");
    assert!(time.len() == 24 && time.starts_with("20") && time.ends_with('Z'), "{time}");

    call(&program, "PUT", "/note?a=1").if_match("\"1\"").expect(409).await;
    let line = json(&program.line());
    assert_eq!((&line["verdict"], &line["known"], &line["status"]), (&"stale".into(), &"\"2\"".into(), &409.into()));
    assert_eq!(line["problem"], "stale");
    assert!(line["upstream_time"].is_null() && line["waited"].is_null(), "{line}");

    call(&program, "GET", "/%zz").expect(400).await;
    let line = json(&program.line());
    assert_eq!((&line["target"], &line["upstream"], &line["verdict"]), (&"/%zz".into(), &Value::Null, &Value::Null));
    assert_eq!(line["problem"], "bad-target");
    assert!(program.stop().is_empty());
}

#[tokio::test]
async fn what_can_not_be_read_as_a_request_has_a_line_and_counts() {
    let backend = Script::start().await;
    let rest = "[limits]\nheader_read_timeout = \"500ms\"";
    let program = Program::before(backend.address, "access = true\nformat = \"json\"", rest);
    for (sent, status) in [("GET /no te HTTP/1.1\r\n\r\n", 400), ("GET /slow", 408)] {
        let mut raw = Raw::connect(program.address).await;
        raw.send(sent).await;
        assert_eq!(raw.answer("GET").await.status, status);
        let line = json(&program.line());
        assert_eq!((&line["status"], &line["client"]), (&status.into(), &"127.0.0.1".into()), "{line}");
        assert_eq!((&line["method"], &line["target"]), (&"-".into(), &"*".into()), "{line}");
        assert!(line["aborted"].is_null() && line["upstream"].is_null(), "{line}");
    }
}

#[tokio::test]
async fn nothing_that_a_client_sends_ends_a_line_or_a_value() {
    let store = Store::start().await;
    store.set("/note", "x");
    for format in ["text", "json"] {
        let log = format!("access = true\nformat = \"{format}\"");
        let program = Program::before(store.address, &log, "");
        let mut raw = Raw::connect(program.address).await;
        let head = b"PUT /note?%0a{verdict=forward HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\
              If-Match: \"a\\\" , \"b\"\r\nUser-Agent: evil\" 200\t\\verdict=forward \x80\xff\xc2\x9b2J\r\n\r\n";
        raw.send(head).await;
        let answer = raw.answer("PUT").await;
        assert_eq!(answer.status, 409, "{answer:?}");
        let line = program.line();
        assert!(line.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{line}");
        if format == "text" {
            assert!(line.contains("\"PUT h/note?%0a{verdict=forward HTTP/1.1\" 409 verdict=stale"), "{line}");
            assert!(line.contains(r#"agent="evil\" 200\x09\\verdict=forward \x80\xff\xc2\x9b2J""#), "{line}");
            assert!(line.contains(r#"if_match="\"a\\\" , \"b\"""#), "{line}");
        } else {
            let line = json(&line);
            assert_eq!(line["agent"], r#"evil" 200\x09\verdict=forward \x80\xff\xc2\x9b2J"#);
            assert_eq!((&line["verdict"], &line["target"]), (&"stale".into(), &"/note?%0a{verdict=forward".into()));
        }
        let long = "x".repeat(7000);
        call(&program, "GET", &format!("/note?{long}")).with("user-agent", &long).send().await;
        assert!(program.line().len() < 4000);
        assert!(program.stop().is_empty(), "one line a request");
    }
}

#[tokio::test]
async fn who_broke_an_answer_off_is_told() {
    let mut backend = Script::start().await;
    let program = Program::before(backend.address, "access = true\nformat = \"json\"", "");
    let get = "GET /note HTTP/1.1\r\nHost: h\r\n\r\n";

    // The client, before there is an answer.
    let mut raw = Raw::connect(program.address).await;
    raw.send(get).await;
    let _unanswered = backend.expect("GET", "/note").await;
    raw.reset();
    let line = json(&program.line());
    assert_eq!((&line["status"], &line["aborted"]), (&Value::Null, &"client".into()), "{line}");

    // The client, in the midst of a body over HTTP/2, of which some has been forwarded.
    let frames = Frames::connect(program.address).await;
    let mut put = frames.begin("PUT", "/note", &[("content-length", "100000")]).await;
    put.data(vec![b'x'; 40_000], false);
    let mut arrival = backend.expect("PUT", "/note").await;
    arrival.bytes(40_000).await;
    put.reset(h2::Reason::CANCEL);
    let line = json(&program.line());
    assert_eq!((&line["status"], &line["aborted"]), (&Value::Null, &"client".into()), "{line}");

    // The client, in the midst of it.
    let mut raw = Raw::connect(program.address).await;
    raw.send(get).await;
    let mut arrival = backend.expect("GET", "/note").await;
    arrival.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegun").await;
    raw.head().await;
    raw.reset();
    let line = json(&program.line());
    assert_eq!((&line["status"], &line["aborted"]), (&200.into(), &"client".into()), "{line}");

    // The backend, in the midst of it.
    let mut raw = Raw::connect(program.address).await;
    raw.send(get).await;
    let mut arrival = backend.expect("GET", "/note").await;
    arrival.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegun").await;
    raw.head().await;
    arrival.reset();
    let line = json(&program.line());
    assert_eq!((&line["status"], &line["aborted"]), (&200.into(), &"upstream".into()), "{line}");

    // Nobody, where there is nothing to break off.
    for (method, status) in [("HEAD", 200), ("GET", 204), ("GET", 304), ("GET", 200)] {
        let answer = begin(call(&program, method, "/note"));
        backend.expect(method, "/note").await.answer(status, &[("ETag", "\"1\"")], "").await;
        assert_eq!(answer.answer().await.status, status);
        let line = json(&program.line());
        assert_eq!((&line["status"], &line["aborted"]), (&status.into(), &Value::Null), "{line}");
    }
    // A refusal of a HEAD has a body that is not sent.
    call(&program, "HEAD", "/%zz").expect(400).await;
    assert!(json(&program.line())["aborted"].is_null());
}

#[tokio::test]
async fn a_line_tells_who_asked_by_which_protocol() {
    let store = Store::start().await;
    let top = "forwarded = \"append\"\ntrusted_proxies = [\"127.0.0.0/8\"]\nreload_interval = \"50ms\"";
    let program = Program::before(store.address, "access = true\nformat = \"json\"", top);
    call(&program, "GET", "/note").with("x-forwarded-for", "192.0.2.7, 127.0.0.9").send().await;
    assert_eq!(json(&program.line())["client"], "192.0.2.7");

    let h2 = H2::connect(program.address).await;
    h2.send(call(&program, "PUT", "/note").body("four")).await;
    let line = json(&program.line());
    assert_eq!((&line["protocol"], &line["host"]), (&"HTTP/2".into(), &"notes.example".into()), "{line}");
    assert_eq!((&line["received"], &line["aborted"]), (&4.into(), &Value::Null), "{line}");
}

#[tokio::test]
async fn lines_can_be_asked_for_while_the_gateway_runs() {
    let store = Store::start().await;
    let mut program = Program::before(store.address, "", "reload_interval = \"50ms\"");
    call(&program, "GET", "/before").send().await;
    program.change("[log]", "[log]\naccess = true");
    call(&program, "GET", "/after").send().await;
    assert!(program.line().contains("/after"));
}

#[tokio::test]
async fn there_are_no_lines_unless_they_are_asked_for() {
    let store = Store::start().await;
    let program = Program::before(store.address, "", "");
    call(&program, "GET", "/note").send().await;
    assert!(program.stop().is_empty());
}

#[tokio::test]
async fn a_trace_is_passed_on_or_begun_also_by_probes() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let rows: [(&[&str], bool); 5] =
        [(&[PARENT], true), (&[], false), (&[PARENT, PARENT], false), (&["00-short"], false), (&[""], false)];
    for (parents, passes) in rows {
        let mut put = gateway.put("/note", "x").if_match("\"1\"").with("tracestate", "a=1").with("tracestate", "b=2");
        for parent in parents {
            put = put.with("traceparent", parent);
        }
        let put = begin(put);
        let probe = backend.expect("HEAD", "/note").await;
        let asked = probe.field("traceparent").expect("a trace").to_owned();
        probe.answer(200, &[("ETag", "\"1\"")], "").await;
        let write = backend.expect("PUT", "/note").await;
        assert_eq!(write.field("traceparent"), Some(asked.as_str()), "{parents:?}");
        let states: Vec<_> = write.fields.get_all("tracestate").iter().map(|s| s.to_str().expect("ASCII")).collect();
        if passes {
            assert_eq!((asked.as_str(), states.as_slice()), (PARENT, ["a=1", "b=2"].as_slice()));
        } else {
            let parts: Vec<_> = asked.split('-').map(str::len).collect();
            assert_eq!((parts.as_slice(), states.len()), ([2, 32, 16, 2].as_slice(), 0), "{parents:?}: {asked}");
            assert!(asked.starts_with("00-") && asked != PARENT, "{parents:?}: {asked}");
        }
        write.answer(400, &[], "").await;
        put.answer().await;
        // So that the next one probes, too.
        let delete = begin(gateway.call("POST", "/note"));
        backend.expect("POST", "/note").await.answer(200, &[], "").await;
        delete.answer().await;
    }
}

fn health(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ifmatch"));
    command.arg("health").args(arguments).env_remove("IFMATCH_CONFIG").output().expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

#[tokio::test]
async fn health_asks_a_running_gateway() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).admin().drain_timeout("30s").start();
    let address = gateway.admin.expect("an address").to_string();
    let ready = health(&["--address", &address]);
    assert_eq!((ready.status.code(), text(&ready.stdout).as_str()), (Some(0), "ready\n"), "{}", text(&ready.stderr));

    let writer = begin(gateway.put("/note", "slow"));
    let put = backend.expect("PUT", "/note").await;
    gateway.stop();
    let draining = health(&["--address", &address]);
    assert_eq!(draining.status.code(), Some(1));
    assert!(text(&draining.stderr).contains("/readyz: 503 draining"), "{}", text(&draining.stderr));
    let live = health(&["--live", "--address", &address]);
    assert_eq!((live.status.code(), text(&live.stdout).as_str()), (Some(0), "live\n"));
    put.answer(200, &[], "").await;
    writer.answer().await;
    gateway.stopped().await;

    let gone = health(&["--address", &address]);
    assert_eq!(gone.status.code(), Some(1));
    assert!(text(&gone.stderr).contains(&address), "{}", text(&gone.stderr));
}

#[tokio::test]
async fn health_finds_the_address_in_the_file() {
    let store = Store::start().await;
    let program = Program::before(store.address, "", "");
    let file = std::fs::read_to_string(&program.file).expect("a file");
    let path = program.file.with_extension("asked.toml");
    let with_address = |address: &str| {
        std::fs::write(&path, file.replace("[admin]\naddress = \"127.0.0.1:0\"\n", address)).expect("a file");
        health(&["--config", path.to_str().expect("UTF-8")])
    };
    // A listener on all addresses is asked by the loopback one.
    let asked = with_address(&format!("[admin]\naddress = \"0.0.0.0:{}\"\n", program.admin.port()));
    assert_eq!((asked.status.code(), text(&asked.stdout).as_str()), (Some(0), "ready\n"), "{}", text(&asked.stderr));
    let none = with_address("");
    assert_eq!(none.status.code(), Some(1));
    assert!(text(&none.stderr).contains("has no [admin]"), "{}", text(&none.stderr));
    let _ = std::fs::remove_file(&path);
    let missing = health(&["--config", "/nowhere/ifmatch.toml"]);
    assert_eq!(missing.status.code(), Some(2));
}

#[tokio::test]
async fn health_does_not_take_just_anything_for_an_answer() {
    let mut backend = Script::start().await;
    for said in ["", "nonsense\r\n\r\n", "HTTP/1.1 \r\n\r\nready"] {
        let address = backend.address.to_string();
        let asked = tokio::task::spawn_blocking(move || health(&["--address", &address]));
        let mut arrival = backend.expect("GET", "/readyz").await;
        arrival.send(said).await;
        drop(arrival);
        let asked = asked.await.expect("a task");
        assert_eq!(asked.status.code(), Some(1), "{said:?}");
        assert!(text(&asked.stderr).contains("not one of HTTP"), "{said:?}: {}", text(&asked.stderr));
    }
}
