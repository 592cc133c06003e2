//! No duplicates: creators of one value, what existed before, and what can't be told.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::task::AbortHandle;

use crate::support::{Answer, Arrival, Call, Gateway, H2, Script, begin, outside};

const UNIQUE: &str = "unique = [\"/email\"]\nsettle = \"100ms\"";
const LOOKUP: &str = "unique_lookup = \"/users?email={/email}\"";

fn sign_up(gateway: &Gateway, email: &str) -> Call {
    let body = serde_json::json!({ "email": email, "name": "x" });
    gateway.call("POST", "/users").with("content-type", "application/json").body(body.to_string())
}

fn assert_duplicate(answer: &Answer, existing: Option<&str>) {
    assert_eq!(answer.status, 409, "{answer:?}");
    let problem = answer.problem("duplicate");
    assert_eq!(problem["field"], "/email");
    assert_eq!(problem.get("existing").and_then(|existing| existing.as_str()), existing, "{problem}");
    let link = existing.map(|existing| format!("<{existing}>; rel=\"item\"; anchor=\"/users\""));
    assert_eq!(answer.field("link"), link.as_deref());
}

/// What becomes of a creation at the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Slow,
    Refused(u16),
    Applied(u16),
    ResetBefore,
    ResetAfter,
    /// It is applied, and answered after the gateway has given up.
    Late,
}

/// A service with users, blind to duplicates.
struct Users {
    address: SocketAddr,
    inner: Arc<Mutex<Inner>>,
    serving: AbortHandle,
}

#[derive(Default)]
struct Inner {
    emails: Vec<String>,
    fates: VecDeque<Fate>,
    posts: usize,
    lookups: usize,
}

impl Users {
    async fn start(fates: &[Fate]) -> Self {
        let mut script = Script::start().await;
        let address = script.address;
        let fates = fates.iter().copied().collect();
        let inner = Arc::new(Mutex::new(Inner { fates, ..Inner::default() }));
        let shared = Arc::clone(&inner);
        let serving = outside().spawn(async move {
            while let Some(arrival) = script.next_or_end().await {
                tokio::spawn(serve(arrival, Arc::clone(&shared)));
            }
        });
        Self { address, inner, serving: serving.abort_handle() }
    }

    fn count(&self, email: &str) -> usize {
        self.inner.lock().expect("a lock").emails.iter().filter(|known| *known == email).count()
    }
}

impl Drop for Users {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(mut arrival: Arrival, inner: Arc<Mutex<Inner>>) {
    if arrival.method == "GET" {
        let email = arrival.target.split_once("email=").expect("a lookup").1.replace("%40", "@");
        let found = {
            let mut inner = inner.lock().expect("a lock");
            inner.lookups += 1;
            inner.emails.contains(&email)
        };
        return arrival.answer(200, &[], if found { "[{\"id\":1}]" } else { "[]" }).await;
    }
    let Ok(body) = arrival.read().await else { return arrival.reset() };
    let email = serde_json::from_slice::<serde_json::Value>(&body).expect("JSON")["email"].as_str().map(str::to_owned);
    let fate = {
        let mut inner = inner.lock().expect("a lock");
        inner.posts += 1;
        inner.fates.pop_front()
    };
    let apply = || {
        let mut inner = inner.lock().expect("a lock");
        inner.emails.push(email.clone().expect("an address"));
        format!("/users/{}", inner.emails.len())
    };
    match fate {
        None => {
            let location = apply();
            arrival.answer(201, &[("Location", &location)], "").await;
        }
        Some(Fate::Slow) => {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let location = apply();
            arrival.answer(201, &[("Location", &location)], "").await;
        }
        Some(Fate::Refused(status)) => arrival.answer(status, &[], "").await,
        Some(Fate::Applied(status)) => {
            apply();
            arrival.answer(status, &[], "").await;
        }
        Some(Fate::ResetBefore) => arrival.reset(),
        Some(Fate::ResetAfter) => {
            apply();
            arrival.reset();
        }
        Some(Fate::Late) => {
            tokio::time::sleep(Duration::from_millis(250)).await;
            let location = apply();
            // Nobody may be there any more.
            let _ = arrival.answer_now(201, &[("Location", &location)], "").await;
        }
    }
}

/// 50 creators of one address at once. Returns their answers.
async fn fifty(users: &Users, guard: &str) -> Vec<Answer> {
    let upstream = "response_timeout = \"200ms\"";
    let gateway = Gateway::before(users.address).guard(guard).upstream(upstream).start();
    let calls: Vec<_> = (0..50).map(|_| begin(sign_up(&gateway, "a@b"))).collect();
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.answer().await);
    }
    // And one who comes later.
    answers.push(sign_up(&gateway, "a@b").send().await);
    answers
}

#[tokio::test]
async fn of_50_creators_one_creates_whatever_the_backend_does() {
    let asked = format!("{UNIQUE}\nsettle = \"400ms\"\n{LOOKUP}").replace("settle = \"100ms\"\n", "");
    let blind = asked.replace(LOOKUP, "");
    for (fates, blindly) in [
        (&[][..], 1),
        (&[Fate::Slow], 1),
        (&[Fate::Refused(400), Fate::Refused(409), Fate::Slow], 1),
        (&[Fate::Refused(500)], 0),
        (&[Fate::Applied(500)], 1),
        (&[Fate::Refused(503), Fate::Applied(500)], 0),
        (&[Fate::Applied(202)], 1),
        (&[Fate::ResetBefore], 0),
        (&[Fate::ResetAfter], 1),
        (&[Fate::ResetBefore, Fate::ResetBefore, Fate::ResetAfter], 0),
        (&[Fate::Late], 1),
    ] {
        let users = Users::start(fates).await;
        let answers = fifty(&users, &asked).await;
        assert_eq!(users.count("a@b"), 1, "{fates:?}");
        let created = answers.iter().filter(|answer| answer.status == 201).count();
        assert!(created <= 1, "{fates:?}");
        let told = |answer: &&Answer| answer.status == 409 && answer.text().contains("duplicate");
        let failed = fates.iter().filter(|fate| **fate != Fate::Slow).count();
        assert_eq!(answers.iter().filter(told).count(), 51 - created - failed, "{fates:?}");

        // Where the backend can't be asked, what may be there counts as if it were.
        let users = Users::start(fates).await;
        let answers = fifty(&users, &blind).await;
        assert_eq!(users.count("a@b"), blindly, "{fates:?}");
        assert!(answers.iter().filter(told).count() >= 47, "{fates:?}");
    }
}

#[tokio::test]
async fn one_creates_and_the_others_are_told_where_it_is() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).one_worker().guard(UNIQUE).admin().start();
    let first = begin(sign_up(&gateway, "a@b"));
    let arrival = backend.expect("POST", "/users").await;
    let second = begin(sign_up(&gateway, "a@b"));
    let other = begin(sign_up(&gateway, "c@d"));
    backend.expect("POST", "/users").await.answer(201, &[("Location", "/users/8")], "").await;
    assert_eq!(other.answer().await.status, 201);
    gateway.barrier().await;
    assert!(second.waits());
    backend.assert_quiet();
    arrival.answer(201, &[("Location", "http://notes.example/users/7")], "").await;
    assert_eq!(first.answer().await.status, 201);
    assert_duplicate(&second.answer().await, Some("/users/7"));
    let h2 = H2::connect(gateway.address).await;
    assert_duplicate(&h2.send(sign_up(&gateway, "a@b").with("host", "notes.example")).await, Some("/users/7"));
    // Who else has one is nobody's business (rule 9).
    assert_duplicate(&sign_up(&gateway, "a@b").with("authorization", "Bearer x").send().await, None);
    backend.assert_quiet();
    let scrape = gateway.scrape().await;
    assert_eq!(scrape.value("ifmatch_verdicts_total", &[("verdict", "duplicate")]), 3.0);
    assert_eq!(scrape.value("ifmatch_memory_entries", &[("kind", "value")]), 2.0);
    assert_eq!(scrape.value("ifmatch_memory_claims", &[]), 0.0);
}

#[tokio::test]
async fn a_creator_that_hangs_up_creates_all_the_same() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).one_worker().guard(UNIQUE).start();
    let mut raw = gateway.raw().await;
    let head = "POST /users HTTP/1.1\r\nHost: notes.example\r\nContent-Type: application/json\r\nContent-Length: 15";
    raw.send(format!("{head}\r\n\r\n{{\"email\":\"a@b\"}}")).await;
    let arrival = backend.expect("POST", "/users").await;
    raw.reset();
    gateway.barrier().await;
    let second = begin(sign_up(&gateway, "a@b"));
    tokio::task::yield_now().await;
    gateway.barrier().await;
    assert!(second.waits());
    arrival.answer(201, &[("Location", "/users/7")], "").await;
    assert_duplicate(&second.answer().await, Some("/users/7"));
    backend.assert_quiet();
}

#[tokio::test]
async fn who_waits_for_too_long_is_told_to_come_again() {
    let mut backend = Script::start().await;
    let guard = format!("{UNIQUE}\nwait = \"50ms\"");
    let gateway = Gateway::before(backend.address).guard(&guard).start();
    let first = begin(sign_up(&gateway, "a@b"));
    let arrival = backend.expect("POST", "/users").await;
    let second = sign_up(&gateway, "a@b").expect(409).await;
    second.problem("busy");
    assert_eq!(second.field("retry-after"), Some("1"));
    arrival.answer(422, &[], "").await;
    assert_eq!(first.answer().await.status, 422);
    // It was not created, so the next one may.
    let third = begin(sign_up(&gateway, "a@b"));
    backend.expect("POST", "/users").await.answer(201, &[], "").await;
    assert_eq!(third.answer().await.status, 201);
}

#[tokio::test]
async fn what_existed_before_is_found_by_asking() {
    let mut backend = Script::start().await;
    let guard = format!("{UNIQUE}\n{LOOKUP}");
    let gateway = Gateway::before(backend.address).guard(&guard).start();
    let sign_up = || sign_up(&gateway, "é +&@b").with("authorization", "Bearer me").with("accept-encoding", "gzip");
    let lookup = "/users?email=%C3%A9%20%2B%26%40b";
    let first = begin(sign_up());
    let arrival = backend.expect("GET", lookup).await;
    assert_eq!(arrival.field("authorization"), Some("Bearer me"));
    assert_eq!(arrival.field("accept-encoding"), Some("identity"));
    assert_eq!(arrival.field("content-type"), None);
    arrival.answer(200, &[("Content-Type", "application/json")], "[{\"id\":1}]").await;
    assert_duplicate(&first.answer().await, Some(lookup));
    backend.assert_quiet();
    let second = begin(sign_up());
    backend.expect("GET", lookup).await.answer(200, &[], " [ ] ").await;
    backend.expect("POST", "/users").await.answer(201, &[("Location", "/users/7")], "").await;
    assert_eq!(second.answer().await.status, 201);
    // What was created is known without asking, also while the service's own index lags.
    assert_duplicate(&sign_up().send().await, Some("/users/7"));
    backend.assert_quiet();
}

#[tokio::test]
async fn which_answer_says_that_it_is_there() {
    #[derive(Debug, PartialEq)]
    enum Means {
        There,
        Free,
        Nothing,
    }
    use Means::{Free, Nothing, There};
    for (found, status, body, means) in [
        ("json", 200, "[1]", There),
        ("json", 200, "{\"id\":1}", There),
        ("json", 200, "[]", Free),
        ("json", 200, "{}", Free),
        ("json", 404, "", Free),
        ("json", 410, "", Free),
        ("json", 204, "", Nothing),
        ("json", 200, "", Nothing),
        ("json", 200, "null", Nothing),
        ("json", 200, "<html>", Nothing),
        ("json", 302, "", Nothing),
        ("json", 400, "[]", Nothing),
        ("json", 401, "[]", Nothing),
        ("json", 403, "[]", Nothing),
        ("json", 500, "[]", Nothing),
        ("status", 200, "", There),
        ("status", 204, "", There),
        ("status", 404, "", Free),
        ("status", 500, "", Nothing),
        ("status", 301, "", Nothing),
        ("/items", 200, "{\"items\":[1]}", There),
        ("/items", 200, "{\"items\":[]}", Free),
        ("/items", 200, "{\"total\":0}", Free),
        ("/total", 200, "{\"total\":0}", Free),
        ("/total", 200, "{\"total\":2}", There),
        ("/items", 200, "[1]", Nothing),
        ("/items", 204, "", Nothing),
        ("/items", 404, "", Free),
    ] {
        let mut backend = Script::start().await;
        let guard = format!("{UNIQUE}\n{LOOKUP}\nunique_found = \"{found}\"");
        let gateway = Gateway::before(backend.address).guard(&guard).start();
        let call = begin(sign_up(&gateway, "a@b"));
        backend.expect("GET", "/users?email=a%40b").await.answer(status, &[], body).await;
        if means == Free {
            backend.expect("POST", "/users").await.answer(201, &[], "").await;
        }
        let answer = call.answer().await;
        match means {
            There => assert_duplicate(&answer, Some("/users?email=a%40b")),
            Free => assert_eq!(answer.status, 201),
            Nothing => {
                assert_eq!(answer.status, 409, "{found} {status} {body}");
                answer.problem("unverifiable");
            }
        }
        backend.assert_quiet();
    }
}

#[tokio::test]
async fn without_an_answer_nothing_is_created_and_the_next_may_try() {
    let mut backend = Script::start().await;
    let guard = format!("{UNIQUE}\n{LOOKUP}");
    let upstream = "response_timeout = \"100ms\"";
    let gateway = Gateway::before(backend.address).guard(&guard).upstream(upstream).start();
    let first = begin(sign_up(&gateway, "a@b"));
    let unanswered = backend.expect("GET", "/users?email=a%40b").await;
    let first = first.answer().await;
    assert_eq!(first.status, 504);
    assert!(first.text().contains("Nothing was changed"), "{}", first.text());
    drop(unanswered);
    let second = begin(sign_up(&gateway, "a@b"));
    backend.expect("GET", "/users?email=a%40b").await.answer(404, &[], "").await;
    backend.expect("POST", "/users").await.answer(201, &[], "").await;
    assert_eq!(second.answer().await.status, 201);
}

#[tokio::test]
async fn an_answer_to_a_lookup_that_has_no_end_says_nothing() {
    let mut backend = Script::start().await;
    let guard = format!("{UNIQUE}\n{LOOKUP}");
    let gateway = Gateway::before(backend.address).guard(&guard).start();
    let call = begin(sign_up(&gateway, "a@b"));
    let mut arrival = backend.expect("GET", "/users?email=a%40b").await;
    arrival.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x1_0000));
    while arrival.try_send(&chunk).await.is_ok() {}
    call.answer().await.problem("unverifiable");
    backend.assert_quiet();
}

#[tokio::test]
async fn a_body_that_cannot_be_examined_creates_nothing() {
    let mut backend = Script::start().await;
    let guard = format!("{UNIQUE}\nbuffer = \"1KiB\"");
    let gateway = Gateway::before(backend.address).guard(&guard).start();
    let json = "application/json";
    let large = format!("{{\"email\":\"a@b\",\"x\":\"{}\"}}", "x".repeat(2000));
    for (media_type, body, status) in [
        ("text/plain", "{\"email\":\"a@b\"}", 415),
        ("application/x-www-form-urlencoded", "email=a@b", 415),
        ("application/json; charset=utf-16", "{\"email\":\"a@b\"}", 415),
        ("application/json, text/plain", "{\"email\":\"a@b\"}", 415),
        (json, "", 400),
        (json, "{", 400),
        (json, "{\"email\":\"a@b\",\"email\":\"c@d\"}", 400),
        (json, "[{\"email\":\"a@b\"}]", 400),
        (json, "\"a@b\"", 400),
        (json, "{\"Email\":\"a@b\"}", 400),
        (json, "{\"email\":7.5}", 400),
        (json, large.as_str(), 413),
    ] {
        let call = gateway.call("POST", "/users").with("content-type", media_type).body(body);
        call.expect(status).await.problem("unexaminable");
    }
    gateway.call("POST", "/users").body("{}").expect(415).await.problem("unexaminable");
    sign_up(&gateway, "a@b").with("content-encoding", "gzip").expect(415).await.problem("unexaminable");
    let mut raw = gateway.raw().await;
    let head = "POST /users HTTP/1.1\r\nHost: notes.example\r\nContent-Type: application/json";
    raw.send(format!("{head}\r\nTransfer-Encoding: chunked\r\n\r\n5ff\r\n{}\r\n0\r\n\r\n", "x".repeat(0x5ff))).await;
    assert_eq!(raw.answer("POST").await.status, 413);
    backend.assert_quiet();
}

#[tokio::test]
async fn what_needs_no_examination_passes() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard(UNIQUE).start();
    let post = |body: &str| gateway.call("POST", "/users").with("content-type", "application/vnd.x+json").body(body);
    for call in [
        post("{}"),
        post("{\"email\":null}"),
        post("{}"),
        gateway.put("/users", "x"),
        gateway.call("PATCH", "/users").body("x"),
        gateway.call("DELETE", "/users"),
    ] {
        let call = begin(call);
        backend.next().await.answer(200, &[], "").await;
        assert_eq!(call.answer().await.status, 200);
    }
    // Without a length, too.
    let mut raw = gateway.raw().await;
    let head = "POST /users HTTP/1.1\r\nHost: notes.example\r\nContent-Type: application/json; charset=UTF-8";
    raw.send(format!("{head}\r\nTransfer-Encoding: chunked\r\n\r\nf\r\n{{\"email\":\"a@b\"}}\r\n0\r\n\r\n")).await;
    let mut arrival = backend.expect("POST", "/users").await;
    assert_eq!(arrival.body().await.expect("a body"), b"{\"email\":\"a@b\"}");
    arrival.answer(201, &[], "").await;
    assert_eq!(raw.answer("POST").await.status, 201);
    assert_duplicate(&sign_up(&gateway, "a@b").send().await, None);
}

#[tokio::test]
async fn there_is_no_way_around() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).guard(UNIQUE).start();
    let first = begin(sign_up(&gateway, "a@b"));
    backend.expect("POST", "/users").await.answer(201, &[("Location", "/users/7")], "").await;
    assert_eq!(first.answer().await.status, 201);
    let post = |target: &str, body: &str| {
        gateway.call("POST", target).with("content-type", "application/json").body(body.to_owned())
    };
    let body = "{\"email\":\"a@b\"}";
    for call in [
        post("/users", "{\"\\u0065mail\":\"\\u0061@b\"}"),
        post("/users", "{\"x\":{\"email\":\"c@d\"},\"email\":\"a@b\"}"),
        post("/users/", body),
        post("/Users", body),
        post("/%75sers", body),
        post("/users?x=1", body),
        post("/x/../users", body),
        post("/users", body).with("x-http-method-override", "PUT"),
        gateway.call("post", "/users").with("content-type", "application/json").body(body),
        gateway.call("Post", "/users").with("content-type", "application/json").body(body),
        post("/users", body).with("if-none-match", "*"),
        post("/users", body).with("if-match", "*"),
    ] {
        assert_eq!(call.expect(409).await.problem("duplicate")["field"], "/email");
    }
    backend.assert_quiet();
    let elsewhere = begin(post("/teams/1/users", body));
    backend.expect("POST", "/teams/1/users").await.answer(201, &[], "").await;
    assert_eq!(elsewhere.answer().await.status, 201);
}

#[tokio::test]
async fn a_value_ends_with_its_resource() {
    for (asks, method, status, is_free) in [
        (false, "DELETE", 204, true),
        (false, "DELETE", 403, false),
        (false, "DELETE", 404, false),
        (false, "PUT", 200, false),
        (false, "PATCH", 200, false),
        (true, "DELETE", 204, true),
        (true, "PUT", 200, true),
        (true, "PATCH", 204, true),
        (true, "PATCH", 400, false),
        (true, "PATCH", 500, true),
    ] {
        let mut backend = Script::start().await;
        let guard = if asks { format!("{UNIQUE}\n{LOOKUP}") } else { UNIQUE.to_owned() };
        let gateway = Gateway::before(backend.address).guard(&guard).start();
        let create = async |backend: &mut Script| {
            let call = begin(sign_up(&gateway, "a@b"));
            if asks {
                backend.expect("GET", "/users?email=a%40b").await.answer(404, &[], "").await;
            }
            backend.expect("POST", "/users").await.answer(201, &[("Location", "users/7")], "").await;
            assert_eq!(call.answer().await.status, 201);
        };
        create(&mut backend).await;
        let change = begin(gateway.call(method, "/users/7"));
        backend.expect(method, "/users/7").await.answer(status, &[], "").await;
        assert_eq!(change.answer().await.status, status);
        if is_free {
            create(&mut backend).await;
        } else {
            assert_eq!(sign_up(&gateway, "a@b").send().await.status, 409, "{asks} {method} {status}");
        }
        backend.assert_quiet();
    }
}

#[tokio::test]
async fn what_an_answer_says_of_a_creation() {
    for (status, location, is_there) in [
        (200, None, true),
        (201, Some("/users/7"), true),
        (202, None, true),
        (204, None, true),
        (303, Some("/users/7"), true),
        (302, Some("/users/7"), true),
        (302, Some("https://login.example/"), false),
        (303, None, false),
        (307, Some("/other"), false),
        (308, Some("/other"), false),
        (304, None, false),
        (400, None, false),
        (404, None, false),
        (409, None, false),
        (500, None, true),
        (502, None, true),
    ] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).guard(UNIQUE).start();
        for n in 0..2 {
            let call = begin(sign_up(&gateway, "a@b"));
            if n == 0 || !is_there {
                let location = location.map(|location| ("Location", location));
                let fields: Vec<_> = location.into_iter().collect();
                backend.expect("POST", "/users").await.answer(status, &fields, "").await;
                assert_eq!(call.answer().await.status, status);
            } else {
                assert_eq!(call.answer().await.problem("duplicate")["field"], "/email", "{status}");
            }
        }
        backend.assert_quiet();
    }
}

#[tokio::test]
async fn two_with_two_values_in_common_do_not_wait_for_each_other_for_ever() {
    let users = Users::start(&[]).await;
    let gateway = Gateway::before(users.address).guard("unique = [\"/email\", \"/name\"]").start();
    for round in 0..20 {
        let calls = (0..6).map(|n| {
            let body = format!("{{\"email\":\"{round}-{}\",\"name\":\"{round}-{}\"}}", n % 2, n % 3);
            begin(gateway.call("POST", "/users").with("content-type", "application/json").body(body))
        });
        let mut created = 0;
        for call in calls.collect::<Vec<_>>() {
            created += usize::from(call.answer().await.status == 201);
        }
        assert!((1..=2).contains(&created), "of two values no more than two can be new: {created}");
    }
}

#[tokio::test]
async fn several_places_are_asked_for_one_by_one() {
    let mut backend = Script::start().await;
    let guard = "unique = [\"/email\", \"/name\"]\nunique_lookup = [\"/u?e={/email}\", \"/u?n={/name}\"]";
    let gateway = Gateway::before(backend.address).guard(guard).start();
    let call = begin(sign_up(&gateway, "a@b"));
    backend.expect("GET", "/u?e=a%40b").await.answer(200, &[], "[]").await;
    backend.expect("GET", "/u?n=x").await.answer(200, &[], "[1]").await;
    let answer = call.answer().await;
    let problem = answer.problem("duplicate");
    assert_eq!((&problem["field"], &problem["existing"]), (&"/name".into(), &"/u?n=x".into()));
    // What is not there is not asked for.
    let post = gateway.call("POST", "/users").with("content-type", "application/json").body("{\"name\":7}");
    let call = begin(post);
    backend.expect("GET", "/u?n=7").await.answer(200, &[], "[]").await;
    backend.expect("POST", "/users").await.answer(201, &[], "").await;
    assert_eq!(call.answer().await.status, 201);
}

#[tokio::test]
async fn a_lost_sign_up_with_a_key_gets_its_answer_and_not_that_it_exists() {
    let mut backend = Script::start().await;
    let guard = format!("{UNIQUE}\nidempotency = \"1h\"");
    let gateway = Gateway::before(backend.address).guard(&guard).start();
    let first = begin(sign_up(&gateway, "a@b").with("idempotency-key", "one"));
    backend.expect("POST", "/users").await.answer(201, &[("Location", "/users/7")], "made").await;
    assert_eq!(first.answer().await.status, 201);
    let again = sign_up(&gateway, "a@b").with("idempotency-key", "one").expect(201).await;
    assert_eq!((again.text(), again.field("location")), ("made", Some("/users/7")));
    for _ in 0..2 {
        // A refusal uses up no key.
        let other = sign_up(&gateway, "a@b").with("idempotency-key", "two").send().await;
        assert_duplicate(&other, Some("/users/7"));
    }
    backend.assert_quiet();
}

#[tokio::test]
async fn values_outlive_a_reload_and_an_operator_can_have_them_forgotten() {
    let mut backend = Script::start().await;
    let settings = || Gateway::before(backend.address).guard(UNIQUE).admin();
    let gateway = settings().start();
    let renamed = settings().guard("query = \"ignore\"");
    let create = async |backend: &mut Script, email: &str, location: &str| {
        let call = begin(sign_up(&gateway, email));
        backend.expect("POST", "/users").await.answer(201, &[("Location", location)], "").await;
        assert_eq!(call.answer().await.status, 201);
    };
    create(&mut backend, "a@b", "/users/7").await;
    gateway.reload(&renamed);
    assert_duplicate(&sign_up(&gateway, "a@b").send().await, Some("/users/7"));
    create(&mut backend, "c@d", "/users/8").await;
    gateway.ask("DELETE", "/records?target=http://notes.example/users/8").expect(200).await;
    create(&mut backend, "c@d", "/users/9").await;
    // Those of which nobody knows whether they were created end with the collection.
    let call = begin(sign_up(&gateway, "e@f"));
    backend.expect("POST", "/users").await.answer(500, &[], "").await;
    assert_eq!(call.answer().await.status, 500);
    assert_duplicate(&sign_up(&gateway, "e@f").send().await, None);
    gateway.ask("DELETE", "/records?target=http://notes.example/users").expect(200).await;
    create(&mut backend, "e@f", "/users/10").await;
    // And so do those of which nobody says where they are.
    create(&mut backend, "g@h", "http://elsewhere.example/users/11").await;
    assert_duplicate(&sign_up(&gateway, "g@h").send().await, Some("http://elsewhere.example/users/11"));
    gateway.ask("DELETE", "/records?target=http://notes.example/users").expect(200).await;
    create(&mut backend, "g@h", "/users/12").await;
    backend.assert_quiet();
}

#[tokio::test]
async fn where_nothing_is_enforced_nothing_is_refused() {
    for mode in ["observe", "off"] {
        let mut backend = Script::start().await;
        let guard = format!("{UNIQUE}\n{LOOKUP}\nmode = \"{mode}\"");
        let gateway = Gateway::before(backend.address).guard(&guard).start();
        for _ in 0..2 {
            let call = begin(sign_up(&gateway, "a@b"));
            backend.expect("POST", "/users").await.answer(201, &[], "").await;
            assert_eq!(call.answer().await.status, 201);
        }
    }
}

#[tokio::test]
async fn a_place_that_is_named_twice_is_claimed_once_and_a_number_is_its_text() {
    let mut backend = Script::start().await;
    let guard = "unique = [\"/n\", \"/n\"]\nwait = \"1s\"";
    let gateway = Gateway::before(backend.address).guard(guard).start();
    let post = |body: &str| {
        gateway.call("POST", "/users").with("content-type", "application/json").body(format!("{{\"n\":{body}}}"))
    };
    let first = begin(post("7"));
    backend.expect("POST", "/users").await.answer(201, &[], "").await;
    assert_eq!(first.answer().await.status, 201);
    for body in ["7", "7.0", "\"7\"", "7e0"] {
        assert_eq!(post(body).expect(409).await.problem("duplicate")["field"], "/n");
    }
    backend.assert_quiet();
}

/// A lookup may lag behind what was accepted, and behind what was created before an error.
#[tokio::test]
async fn what_was_accepted_is_remembered_and_what_failed_is_held() {
    for (status, settle) in [(202, "50ms"), (500, "1h"), (503, "1h")] {
        let mut backend = Script::start().await;
        let guard =
            format!("unique = [\"/email\"]\n{LOOKUP}\nunique_memory = \"1h\"\nwait = \"200ms\"\nsettle = \"{settle}\"");
        let gateway = Gateway::before(backend.address).guard(&guard).start();
        let first = begin(sign_up(&gateway, "a@b"));
        backend.expect("GET", "/users?email=a%40b").await.answer(404, &[], "").await;
        backend.expect("POST", "/users").await.answer(status, &[], "").await;
        assert_eq!(first.answer().await.status, status);
        let kind = if status == 202 { "duplicate" } else { "busy" };
        if status == 202 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        sign_up(&gateway, "a@b").expect(409).await.problem(kind);
        backend.assert_quiet();
    }
}
