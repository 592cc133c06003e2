//! What a file means, the samples, and the description.

use http::{HeaderName, Method, StatusCode};

use super::*;
use crate::core::{
    browsers::{Browsers, Cors},
    pointer::{Pointer, Template},
    policy::{Comparison, MethodOverride, Missing, Mode, QueryRule, Verify},
    profile::{ConflictBody, Profile, Service},
    repeats::{Found, Repeats},
    resource::lenient_segments,
    rollout::{Exempt, Network, Pattern, Rollout},
    version::{Source, Versions},
};

mod profiles;

const BASE: &str = "[[listeners]]\naddress = \"127.0.0.1:80\"\n[upstreams.a]\nservers = [\"http://h\"]\n";

fn parsed(text: &str) -> Config {
    Config::parse(text).unwrap_or_else(|errors| panic!("{text}\n{errors}"))
}

fn guard(keys: &str) -> Policy {
    parsed(&format!("{BASE}[guard]\n{keys}\n")).routes.remove(0).policy
}

fn servers(upstream: &Upstream) -> Vec<String> {
    upstream.servers.iter().map(ToString::to_string).collect()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_listener_and_an_upstream_are_enough() {
    let config = parsed(BASE);
    assert_eq!(config.listeners.len(), 1);
    assert_eq!(config.listeners[0].address, SocketAddr::from(([127, 0, 0, 1], 80)));
    let [upstream] = config.upstreams.as_slice() else { panic!("{config:?}") };
    assert_eq!((upstream.name.as_str(), upstream.host), ("a", HostRule::Preserve));
    assert_eq!(servers(upstream), ["http://h:80"]);
    assert_eq!(upstream.connect_timeout, seconds(2));
    assert_eq!(upstream.response_timeout, seconds(30));
    assert_eq!(upstream.idle_timeout, seconds(4));
    let [route] = config.routes.as_slice() else { panic!("{config:?}") };
    assert_eq!((&route.host, route.upstream), (&None, 0));
    assert!(route.path.matches("/any/path/") && route.path.matches("*"));
    assert_eq!(route.policy, Policy::default());
    assert_eq!((config.tracker.capacity, config.tracker.tag_bytes), (1_000_000, 1024));
    assert_eq!((config.log.format, config.log.level.as_str()), (LogFormat::Text, "info"));
    assert_eq!(config.workers, std::thread::available_parallelism().map_or(1, usize::from).min(1024));
    assert_eq!((config.drain_timeout, config.limits.header_read_timeout), (seconds(30), seconds(10)));
    assert_eq!((config.limits.half_close_timeout, config.limits.writes_per_connection), (seconds(60), 256));
}

#[test]
fn every_key_outside_the_guard_can_be_set() {
    let config = parsed(
        "workers = 3\ndrain_timeout = \"1m\"\n\
         [limits]\nheader_read_timeout = \"500ms\"\nhalf_close_timeout = \"2s\"\nwrites_per_connection = 9\n\
         [[listeners]]\naddress = \"[::1]:0\"\n[[listeners]]\naddress = \"0.0.0.0:8080\"\n\
         [upstreams.z]\nservers = [\"http://one\", \"https://two\"]\nhost = \"rewrite\"\n\
         connect_timeout = \"1s\"\nresponse_timeout = \"1d\"\nidle_timeout = \"1ms\"\n\
         [upstreams.a]\nservers = [\"http://three\"]\n\
         [[routes]]\nhost = \"API.example.com\"\npath = \"/a\"\nupstream = \"a\"\n[[routes]]\nupstream = \"z\"\n\
         [tracker]\ncapacity = 7\ntag_bytes = 64\n[log]\nformat = \"json\"\nlevel = \"info,ifmatch=debug\"\n",
    );
    assert_eq!((config.workers, config.drain_timeout), (3, seconds(60)));
    assert_eq!(config.limits.header_read_timeout, Duration::from_millis(500));
    assert_eq!((config.limits.half_close_timeout, config.limits.writes_per_connection), (seconds(2), 9));
    assert_eq!(config.listeners.iter().map(|l| l.address.port()).collect::<Vec<_>>(), [0, 8080]);
    // In the order of the file, not of the names.
    assert_eq!(config.upstreams.iter().map(|u| u.name.as_str()).collect::<Vec<_>>(), ["z", "a"]);
    let upstream = &config.upstreams[0];
    assert_eq!(servers(upstream), ["http://one:80", "https://two:443"]);
    assert_eq!(upstream.host, HostRule::Rewrite);
    assert_eq!((upstream.connect_timeout, upstream.response_timeout), (seconds(1), seconds(24 * 60 * 60)));
    assert_eq!(upstream.idle_timeout, Duration::from_millis(1));
    assert_eq!(config.routes.iter().map(|r| r.upstream).collect::<Vec<_>>(), [1, 0]);
    assert_eq!(config.routes[0].host.as_deref(), Some("api.example.com"));
    assert_eq!(config.routes[0].path.to_string(), "/a");
    assert_eq!((config.tracker.capacity, config.tracker.tag_bytes), (7, 64));
    assert_eq!((config.log.format, config.log.level.as_str()), (LogFormat::Json, "info,ifmatch=debug"));
}

#[test]
fn every_key_of_the_network_can_be_set() {
    let config = parsed(
        "forwarded = \"append\"\ntrusted_proxies = [\"10.0.0.0/8\", \"::1\"]\nreload_interval = \"0s\"\ntakeover = \"/run/lock\"\n\
         [limits]\nidle_timeout = \"1s\"\nsend_timeout = \"2s\"\nrequest_timeout = \"3s\"\nheader_bytes = \"9KiB\"\nheaders = 7\n\
         request_line = 100\nconnections = 5\nconnections_per_address = 4\nrequests_per_connection = 3\nstreams_per_connection = 2\n\
         [admin]\n[log]\naccess = true\n\
         [[listeners]]\naddress = \"[::]:1\"\nproxy_protocol = true\n\
         tls = { cert = \"a.pem\", key = \"a.key\", certificates = [{ cert = \"/b.pem\", key = \"b.key\" }], client_ca = \"ca.pem\" }\n\
         [upstreams.a]\nservers = [\"https://h\"]\nprotocol = \"h2\"\nbalance = \"least_connections\"\nmax_connections = 9\n\
         response_idle_timeout = \"1s\"\ntunnel_idle_timeout = \"2s\"\nresolve_interval = \"3s\"\n\
         tls = { ca = \"ca.pem\", cert = \"c.pem\", key = \"c.key\", server_name = \"Inside.example\" }\n\
         health = { path = \"/up?x=1\", interval = \"1s\", timeout = \"2s\", healthy = 3, unhealthy = 4 }\n\
         ejection = { failures = 0, time = \"1s\", max_time = \"2s\" }\n",
    );
    assert_eq!(config.forwarding.rule, ForwardedRule::Append);
    assert!(
        config.forwarding.trusts(IpAddr::from([10, 1, 2, 3])) && !config.forwarding.trusts(IpAddr::from([11, 0, 0, 1]))
    );
    assert_eq!((config.reload_interval, config.takeover.as_deref()), (Duration::ZERO, Some(Path::new("/run/lock"))));
    let expected = Limits {
        header_read_timeout: seconds(10),
        idle_timeout: seconds(1),
        send_timeout: seconds(2),
        half_close_timeout: seconds(60),
        request_timeout: Some(seconds(3)),
        header_bytes: 9 * 1024,
        headers: 7,
        request_line: 100,
        connections: 5,
        connections_per_address: 4,
        requests_per_connection: 3,
        streams_per_connection: 2,
        writes_per_connection: 256,
    };
    assert_eq!(config.limits, expected);
    assert_eq!(config.admin, Some(Admin { address: SocketAddr::from(([127, 0, 0, 1], 9901)) }));
    assert!(config.log.access && config.listeners[0].proxy_protocol);
    let files = |cert: &str, key: &str| CertificateFiles { cert: cert.into(), key: key.into() };
    let tls = ListenerTls {
        certificates: vec![files("a.pem", "a.key"), files("/b.pem", "b.key")],
        client_ca: Some("ca.pem".into()),
    };
    assert_eq!(config.listeners[0].tls, Some(tls));
    let upstream = &config.upstreams[0];
    assert_eq!((upstream.protocol, upstream.balance), (Protocol::Http2, Balance::LeastConnections));
    assert_eq!((upstream.max_connections, upstream.response_idle_timeout), (9, seconds(1)));
    assert_eq!((upstream.tunnel_idle_timeout, upstream.resolve_interval), (seconds(2), seconds(3)));
    let tls = UpstreamTls {
        ca: Some("ca.pem".into()),
        certificate: Some(files("c.pem", "c.key")),
        server_name: Some("inside.example".to_owned()),
    };
    assert_eq!(upstream.tls, tls);
    let health = Health {
        path: PathAndQuery::from_static("/up?x=1"),
        interval: seconds(1),
        timeout: seconds(2),
        healthy: 3,
        unhealthy: 4,
    };
    assert_eq!(upstream.health, Some(health));
    assert_eq!(upstream.ejection, Ejection { failures: 0, time: seconds(1), max_time: seconds(2) });
}

#[test]
fn every_key_of_the_guard_can_be_set() {
    let policy = guard(
        "mode = \"observe\"\nmethods = [\"POST\", \"MKCOL\"]\nmissing = \"require\"\nconflict_status = 412\n\
         comparison = \"weak\"\nencoding_suffixes = false\nverify = \"always\"\nmax_age = \"36h\"\n\
         version = \"body\"\nignore = [\"/at\"]\nversion_body_limit = \"2MiB\"\nafter_write = \"probe\"\nquery = [\"id\"]\npartition = [\"Authorization\"]\nmethod_override = \"refuse\"\n\
         forward_preconditions = false\nwait = \"0s\"\nline = 5\nsettle = \"0s\"\nbuffer = 0\n\
         body_idle_timeout = \"1ms\"\nmax_body = \"2GiB\"\nbody_rate = 0\ndrain_bytes = \"1GiB\"\ndrain_time = \"0s\"\nlinger_time = \"1h\"\n\
         replay = \"30s\"\nidempotency = \"7d\"\nanswer_bytes = 5\nunique = [\"/email\", \"/a~1b\"]\n\
         unique_lookup = \"/users?email={/email}\"\nunique_found = \"/items\"\nunique_memory = \"1m\"\nreport = false\n\
         exempt = [{ address = \"10.0.0.0/8\" }, { header = \"User-Agent\", value = \"job*\", address = \"::1\" }, { header = \"X-A\" }]\n\
         cors = \"follow\"\ntag_header = \"X-Resource-Version\"\n\
         profile = \"s3\"\nsafe_methods = [\"REPORT\"]\nif_header = true\ntrust_write_tags = false\nconflict_body = \"simple\"",
    );
    let expected = Policy {
        mode: Mode::Observe,
        methods: vec![Method::POST, Method::from_bytes(b"MKCOL").expect("a token")],
        missing: Missing::Require,
        conflict_status: StatusCode::PRECONDITION_FAILED,
        comparison: Comparison::Weak,
        encoding_suffixes: false,
        verify: Verify::Always,
        max_age: Some(seconds(36 * 60 * 60)),
        query: QueryRule::Only(vec!["id".to_owned()]),
        partition: vec![HeaderName::from_static("authorization")],
        method_override: MethodOverride::Refuse,
        forward_preconditions: false,
        wait: Duration::ZERO,
        line: 5,
        settle: Duration::ZERO,
        buffer: 0,
        max_body: Some(2 * 1024 * 1024 * 1024),
        body_idle_timeout: Duration::from_millis(1),
        body_rate: 0,
        drain_bytes: 1024 * 1024 * 1024,
        drain_time: Duration::ZERO,
        linger_time: Duration::from_secs(3600),
        repeats: Repeats {
            replay: Some(seconds(30)),
            idempotency: Some(seconds(7 * 86_400)),
            answer_bytes: 5,
            unique: vec![pointer("/email"), pointer("/a~1b")],
            unique_lookup: vec![template("/users?email={/email}")],
            unique_found: Found::At(pointer("/items")),
            unique_memory: Some(seconds(60)),
        },
        rollout: Rollout {
            exempt: vec![
                Exempt { network: Some(Network { first: 0xffff_0a00_0000, prefix: 104 }), header: None },
                Exempt {
                    network: Some(Network { first: 1, prefix: 128 }),
                    header: Some((http::header::USER_AGENT, Pattern("job*".to_owned()))),
                },
                Exempt { network: None, header: Some((HeaderName::from_static("x-a"), Pattern("*".to_owned()))) },
            ],
            report: Some(false),
        },
        browsers: Browsers { cors: Cors::Follow, tag_header: Some(HeaderName::from_static("x-resource-version")) },
        service: Service {
            profile: Some(Profile::S3),
            safe_methods: vec![Method::from_bytes(b"REPORT").expect("a token")],
            if_header: true,
            trust_write_tags: false,
            conflict_body: ConflictBody::Simple,
        },
        versions: Versions {
            source: Source::Body,
            ignore: vec![pointer("/at")],
            body_limit: 2 * 1024 * 1024,
            reads_after_write: true,
        },
    };
    assert_eq!(policy, expected);
}

fn pointer(text: &str) -> Pointer {
    Pointer::parse(text).expect("a pointer")
}

fn template(text: &str) -> Template {
    Template::parse(text).expect("a template")
}

#[test]
fn what_is_remembered_can_be_turned_off_by_a_route() {
    let routes = parsed(&format!(
        "{BASE}[guard]\nreplay = \"30s\"\nidempotency = \"1h\"\nunique = [\"/email\"]\nunique_lookup = [\"/u/{{/email}}\"]\n\
         [[routes]]\npath = \"/a\"\nguard = {{ replay = \"0s\", idempotency = \"0s\", unique = [], unique_lookup = [] }}\n\
         [[routes]]\nguard = {{ unique_found = \"status\" }}\n"
    ))
    .routes;
    assert!(routes[0].policy.repeats.are_off());
    let expected = Repeats {
        replay: Some(seconds(30)),
        idempotency: Some(seconds(3600)),
        unique: vec![pointer("/email")],
        unique_lookup: vec![template("/u/{/email}")],
        unique_found: Found::Status,
        ..Repeats::default()
    };
    assert_eq!(routes[1].policy.repeats, expected);
}

#[test]
fn where_a_version_comes_from() {
    for (keys, source) in [
        ("", Source::Etag),
        ("version = \"etag\"", Source::Etag),
        ("version = \"body\"", Source::Body),
        ("version = \"last-modified\"", Source::LastModified),
        ("version = { header = \"X-Version\" }", Source::Header(HeaderName::from_static("x-version"))),
        ("version = { json = \"/meta/version\" }", Source::Json(pointer("/meta/version"))),
    ] {
        assert_eq!(guard(keys).versions, Versions { source, ..Versions::default() }, "{keys}");
    }
}

#[test]
fn a_route_has_of_the_guard_what_goes_with_its_own_version() {
    let routes = parsed(&format!(
        "{BASE}[guard]\nversion = \"body\"\nignore = [\"/at\"]\nafter_write = \"probe\"\n\
         [[routes]]\npath = \"/a\"\nguard = {{ version = \"last-modified\" }}\n\
         [[routes]]\npath = \"/b\"\nguard = {{ version = \"etag\", after_write = \"off\" }}\n[[routes]]\n"
    ))
    .routes;
    let of = |route: usize| routes[route].policy.versions.clone();
    assert_eq!(of(0), Versions { source: Source::LastModified, ..Versions::default() });
    assert_eq!(of(1), Versions::default());
    let whole = Versions { source: Source::Body, ignore: vec![pointer("/at")], reads_after_write: true, ..of(1) };
    assert_eq!(of(2), whole);
}

#[test]
fn tags_that_are_made_must_fit() {
    let file = |version: &str| format!("{BASE}[guard]\nversion = {version}\n[tracker]\ntag_bytes = 63\n");
    let errors = Config::parse(&file("\"body\"")).expect_err("too short").to_string();
    assert!(errors.contains("tracker.tag_bytes: must be 64 at least"), "{errors}");
    parsed(&file("\"etag\""));
}

#[test]
fn each_word_of_a_choice_has_its_meaning() {
    let default = Policy::default;
    for (keys, expected) in [
        ("mode = \"enforce\"", default()),
        ("mode = \"off\"", Policy { mode: Mode::Off, ..default() }),
        ("mode = \"warn\"", Policy { mode: Mode::Warn, ..default() }),
        ("missing = \"warn\"", Policy { missing: Missing::Warn, ..default() }),
        ("verify = \"never\"", Policy { verify: Verify::Never, ..default() }),
        ("verify = \"unknown\"", default()),
        ("verify = \"mismatch\"", Policy { verify: Verify::Mismatch, ..default() }),
        ("query = \"include\"", default()),
        ("query = \"ignore\"", Policy { query: QueryRule::Ignore, ..default() }),
        ("methods = []", Policy { methods: vec![], ..default() }),
        ("buffer = \"16MiB\"", Policy { buffer: 16 * 1024 * 1024, ..default() }),
        ("buffer = \"512B\"", Policy { buffer: 512, ..default() }),
        ("buffer = 0x10", Policy { buffer: 16, ..default() }),
        ("wait = \"1d\"", Policy { wait: seconds(86_400), ..default() }),
        ("line = 100_000", Policy { line: 100_000, ..default() }),
    ] {
        assert_eq!(guard(keys), expected, "{keys}");
    }
}

#[test]
fn a_route_changes_single_keys_of_the_guard() {
    let routes = parsed(&format!(
        "{BASE}[guard]\nwait = \"1s\"\nmissing = \"require\"\nmax_age = \"1h\"\nmethods = [\"PUT\"]\n\
         [[routes]]\npath = \"/a\"\nguard = {{ wait = \"2s\", methods = [] }}\n\
         [[routes]]\npath = \"/b\"\n[routes.guard]\nmissing = \"allow\"\nmax_age = \"2h\"\n[[routes]]\n"
    ))
    .routes;
    let defaults = Policy {
        wait: seconds(1),
        missing: Missing::Require,
        max_age: Some(seconds(3600)),
        methods: vec![Method::PUT],
        ..Policy::default()
    };
    assert_eq!(routes[0].policy, Policy { wait: seconds(2), methods: vec![], ..defaults.clone() });
    let second = Policy { missing: Missing::Allow, max_age: Some(seconds(7200)), ..defaults.clone() };
    assert_eq!(routes[1].policy, second);
    assert_eq!(routes[2].policy, defaults);
}

#[test]
fn routes_that_leave_something_to_each_other_are_accepted() {
    for (first, second) in [
        ("path = \"/a/{id}\"", "path = \"/a/\""),
        ("path = \"/a/{id}\"", "path = \"/a/{*rest}\""),
        ("path = \"/a/{*rest}\"", "path = \"/a\""),
        ("path = \"/a\"", "path = \"/A\""),
        ("path = \"/a/b\"", "path = \"/a/{id}\""),
        ("path = \"/a\"", "path = \"/a/b\""),
        ("host = \"h\"", "path = \"/a\""),
        ("host = \"h\"", "host = \"i\""),
        ("path = \"/a\"", ""),
    ] {
        let routes = parsed(&format!("{BASE}[[routes]]\n{first}\n[[routes]]\n{second}\n")).routes;
        assert_eq!(routes.len(), 2);
    }
}

#[test]
fn what_a_pattern_matches() {
    for (pattern, path, expected) in [
        ("/", "/", true),
        ("/", "/a", false),
        ("/a", "/a", true),
        ("/a", "/a/", false),
        ("/a", "/A", false),
        ("/a", "a", false),
        ("/a/", "/a/", true),
        ("/a/", "/a", false),
        ("/a/", "/a//", false),
        ("/users/{id}", "/users/7", true),
        ("/users/{id}", "/users/", false),
        ("/users/{id}", "/users", false),
        ("/users/{id}", "/users/7/", false),
        ("/users/{id}", "/users/7/8", false),
        ("/users/{id}", "/users/a%2Fb", true),
        ("/users/{id}/notes", "/users/7/notes", true),
        ("/users/{id}/notes", "/users//notes", false),
        ("/users/{id}/notes", "/users/7", false),
        ("/a/{*rest}", "/a/", true),
        ("/a/{*rest}", "/a/b/c", true),
        ("/a/{*rest}", "/a", false),
        ("/a/{*rest}", "/ab", false),
        ("/{id}/{*rest}", "/a/b/c", true),
        ("/{id}/{*rest}", "//b", false),
        ("/{*rest}", "/", true),
        ("/{*rest}", "*", true),
        ("/{id}", "*", false),
        // A literal is brought into the form of request paths.
        ("/%7euser", "/~user", true),
        ("/a%2fb", "/a%2Fb", true),
        ("/a%2fb", "/a/b", false),
        ("/é", "/%C3%A9", true),
    ] {
        let parsed = PathPattern::parse(pattern).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(parsed.matches(path), expected, "{pattern} {path}");
    }
}

#[test]
fn what_a_lenient_backend_takes_a_path_for() {
    for (pattern, path, resembled) in [
        ("/orders/{id}", "/orders/7", Some("/orders/7")),
        ("/orders/{id}", "/Orders/7", Some("/orders/7")),
        ("/Orders/{id}", "//orders//A/", Some("/Orders/A")),
        ("/orders/{id}", "/orders;v=1/7;v=2", Some("/orders/7;v=2")),
        ("/orders/{id}", "/order%73./7", Some("/orders/7")),
        ("/orders/", "/orders", Some("/orders/")),
        ("/orders", "/orders/", Some("/orders")),
        ("/files/{*rest}", "/Files/a//b/", Some("/files/a/b")),
        ("/files/{*rest}", "/files", Some("/files/")),
        ("/{*rest}", "/", Some("/")),
        ("/orders/{id}/lines/{line}", "/orders/1%2Flines/3", Some("/orders/1/lines/3")),
        ("/orders/{id}/lines/{line}", "/orders%2F4/lines%252f3%5C", Some("/orders/4/lines/3")),
        ("/orders/{id}/lines/{line}", "/orders/a%20b%2Flines%2525%32fc%25", Some("/orders/a%20b/lines/c%25")),
        ("/files/{*rest}", "/files%2Fa%2Fb", Some("/files/a/b")),
        ("/orders/{id}", "/orders/7%2Flines", None),
        ("/orders/{id}", "/orders", None),
        ("/orders/{id}", "/orders/7/lines", None),
        ("/orders/{id}", "/notes/7", None),
        ("/orders", "/", None),
    ] {
        let read = PathPattern::parse(pattern).expect("a pattern");
        assert_eq!(read.resembled(&lenient_segments(path)).as_deref(), resembled, "{path} by {pattern}");
    }
}

#[test]
fn patterns_that_overlap() {
    for (one, other, expected) in [
        ("/a", "/a", true),
        ("/a", "/b", false),
        ("/a", "/a/", false),
        ("/a/{id}", "/a/b", true),
        ("/a/{id}", "/b/{id}", false),
        ("/a/{id}", "/{any}/b", true),
        ("/a/{id}/c", "/a/{id}", false),
        ("/a/{*rest}", "/a/b/c", true),
        ("/a/{*rest}", "/b/{*rest}", false),
        ("/{*all}", "/a", true),
    ] {
        let [one, other] = [one, other].map(|pattern| PathPattern::parse(pattern).expect(pattern));
        assert_eq!((one.overlaps(&other), other.overlaps(&one)), (expected, expected), "{one} {other}");
    }
}

#[test]
fn patterns_that_are_refused() {
    for (pattern, part) in [
        ("", "does not begin with /"),
        ("a/b", "does not begin with /"),
        ("/a?b=1", "has a query or a fragment"),
        ("/a#b", "has a query or a fragment"),
        ("/{}", "has no name"),
        ("/{*}", "has no name"),
        ("/{a b}", "has no name"),
        ("/{**a}", "has no name"),
        ("/a{id}", "is not a whole segment"),
        ("/{id}.json", "is not a whole segment"),
        ("/{*rest}/a", "goes on after"),
        ("/{*rest}/", "goes on after"),
        ("/{*rest}/{*more}", "goes on after"),
        ("/a/../b", "has dot segments"),
        ("/{id}/..", "has dot segments"),
        ("/a/./b", "has dot segments"),
        ("/a%", "a % in the path is not followed by two hexadecimal digits"),
        ("/a%00", "holds a NUL"),
    ] {
        let message = PathPattern::parse(pattern).expect_err(pattern);
        assert!(message.contains(part), "{pattern}: {message}");
    }
}

#[test]
fn a_pattern_is_shown_as_it_could_have_been_written() {
    for (written, shown) in
        [("/", "/"), ("/users/{id}/", "/users/{id}/"), ("/%7eme/{*rest}", "/~me/{*rest}"), ("/{*all}", "/{*all}")]
    {
        let pattern = PathPattern::parse(written).expect(written);
        assert_eq!(pattern.to_string(), shown);
        assert_eq!(PathPattern::parse(shown).as_ref(), Ok(&pattern));
    }
}

#[test]
fn a_single_upstream_without_a_file() {
    for listen in ["127.0.0.1:8080", "[::1]:0"] {
        let listen: SocketAddr = listen.parse().expect(listen);
        let config = Config::single(listen, "http://Localhost:3000/").expect("both are right");
        assert_eq!(config.listeners[0].address, listen);
        assert_eq!(servers(&config.upstreams[0]), ["http://localhost:3000"]);
        assert_eq!(config.routes[0].policy, Policy::default());
    }
    let errors = Config::single(SocketAddr::from(([127, 0, 0, 1], 0)), "localhost:3000").expect_err("no scheme");
    assert_eq!(
        errors.to_string(),
        "--upstream: \"localhost:3000\" does not begin with http:// or https://; write it like \"http://10.0.0.1:3000\""
    );
}

#[test]
fn each_error_is_a_line() {
    let text =
        format!("workers = \"two\"\n{BASE}[upstreams.b]\nservers = [\"http://h\"]\n[guard]\nwait = \"10 parsecs\"\n");
    assert_eq!(
        Config::parse(&text).expect_err("three errors").to_string(),
        "routes: routes are needed to choose between several upstreams\n\
         line 1: workers: must be an integer; here it is of the type string\n\
         line 9: guard.wait: \"10 parsecs\" is not a duration; write it like \"10s\""
    );
}

#[test]
fn a_file_that_cannot_be_read() {
    let folder = std::env::temp_dir().join(format!("ifmatch-config-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder for temporary files");
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, bytes).expect("a temporary file");
        path
    };
    let limit = "the file is too large: a configuration has at most 1MiB";
    let mut letters = "é".repeat(MAX_FILE_BYTES).into_bytes();
    letters.insert(0, b'#');
    for (path, line, message) in [
        (folder.join("absent.toml"), None, "can't be read: No such file"),
        (folder.clone(), None, "can't be read: Is a directory"),
        (file("binary.toml", b"# one\n# \xff\n"), Some(2), "the file is not UTF-8"),
        (file("large.toml", &letters), None, limit),
    ] {
        let errors = Config::load(&path).expect_err(message).errors;
        assert_eq!((errors.len(), errors[0].line, errors[0].key.as_str()), (1, line, ""));
        assert!(errors[0].message.contains(message), "{errors:?}");
    }
    let loaded = Config::load(&file("right.toml", BASE.as_bytes()));
    assert_eq!(loaded.expect("a right file").upstreams[0].name, "a");
    let secured = format!("takeover = \"lock\"\n{BASE}");
    let loaded = Config::load(&file("near.toml", secured.as_bytes())).expect("a right file");
    assert_eq!(loaded.takeover, Some(folder.join("lock")), "a file beside the configuration");
    std::fs::remove_dir_all(&folder).expect("the folder is there");
    let filled = |bytes: usize| Config::parse(&format!("{BASE}#{}", " ".repeat(bytes - BASE.len() - 1)));
    assert!(filled(MAX_FILE_BYTES).is_ok());
    assert_eq!(filled(MAX_FILE_BYTES + 1).expect_err("a byte too many").to_string(), limit);
}

/// The files in `config/` whose names end so, each with its text.
fn samples(ending: &str) -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let entries =
        std::fs::read_dir(folder).expect("the folder of samples").map(|entry| entry.expect("a sample").path());
    let sample = |path: PathBuf| {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        (name, std::fs::read_to_string(path).expect("a sample's text"))
    };
    let mut samples: Vec<_> = entries.map(sample).filter(|(name, _)| name.ends_with(ending)).collect();
    samples.sort();
    samples
}

#[test]
fn the_samples_are_right() {
    let samples = samples(".toml");
    let names: Vec<_> = samples.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["ifmatch.toml", "minimal.toml", "strict.toml"]);
    let policies = |text: &str| parsed(text).routes.into_iter().map(|route| route.policy).collect::<Vec<_>>();
    assert_eq!(policies(&samples[0].1), [Policy::default()]);
    assert_eq!(policies(&samples[1].1), [Policy::default()]);
    let strict = policies(&samples[2].1);
    assert_eq!(strict.len(), 5);
    assert!(strict.iter().all(|policy| policy.comparison == Comparison::Weak));
    assert_eq!(strict[4].missing, Missing::Require);
}

/// The lines of the block that follows this one in a YAML file.
fn block(text: &str, head: &str) -> String {
    let mut lines = text.lines().skip_while(|line| line.trim_start() != head);
    let head = lines.next().expect("the block's head");
    let depth = head.len() - head.trim_start().len();
    let inside = |line: &&str| line.is_empty() || line.len() - line.trim_start().len() > depth;
    lines.take_while(inside).map(|line| line.get(depth + 2..).unwrap_or_default().to_owned() + "\n").collect()
}

/// What an orchestrator asks of is there, and a stop has longer than the gateway takes for it.
#[test]
fn the_files_for_orchestrators_hold_right_configurations() {
    let samples = samples(".yaml");
    let heads = [("compose.yaml", "content: |"), ("kubernetes-gateway.yaml", "ifmatch.toml: |")];
    let heads = heads.into_iter().chain([("kubernetes-sidecar.yaml", "ifmatch.toml: |")]);
    assert_eq!(samples.len(), 3);
    for ((name, text), (expected, head)) in samples.iter().zip(heads) {
        assert_eq!(name, expected);
        let config = parsed(&block(text, head));
        assert_eq!(config.listeners[0].address.to_string(), "0.0.0.0:8080", "{name}");
        assert!(config.admin.is_some() && config.drain_timeout < seconds(40), "{name}");
        assert!(text.contains("40"), "{name}");
    }
    let units: Vec<_> = self::samples(".service").into_iter().chain(self::samples(".socket")).collect();
    assert_eq!(units.len(), 2);
    assert!(units[0].1.contains("TimeoutStopSec=40") && parsed(BASE).drain_timeout < seconds(40));
}

#[test]
fn the_full_sample_says_the_defaults() {
    let full = parsed(&samples(".toml")[0].1);
    let minimal = parsed(&samples(".toml")[1].1);
    assert_eq!(full.describe(), minimal.describe());
}

/// An unknown key makes the reader list the keys that it knows: each must be in the full sample.
#[test]
fn the_full_sample_has_every_key() {
    let full = &samples(".toml")[0].1;
    let text = "zzzzzzzzzz = 1\nlimits.zzzzzzzzzz = 1\nadmin.zzzzzzzzzz = 1\nguard.zzzzzzzzzz = 1\ntracker.zzzzzzzzzz = 1\nmemory.zzzzzzzzzz = 1\nreport.zzzzzzzzzz = 1\nlog.zzzzzzzzzz = 1\n\
                upstreams.a.zzzzzzzzzz = 1\n[[listeners]]\nzzzzzzzzzz = 1\n[[routes]]\nzzzzzzzzzz = 1\n";
    let errors = Config::parse(text).expect_err("unknown keys").errors;
    let lists: Vec<_> = errors
        .iter()
        .filter_map(|error| error.message.split_once("the keys here are "))
        .map(|(_, keys)| keys)
        .collect();
    assert_eq!(lists.len(), 11, "{errors:?}");
    for key in lists.into_iter().flat_map(|keys| keys.split(", ")) {
        let forms =
            [format!("{key} = "), format!("# {key} = "), format!("[{key}"), format!("# [{key}]"), format!("[[{key}]]")];
        assert!(full.lines().any(|line| forms.iter().any(|form| line.starts_with(form))), "{key}");
    }
}

#[test]
fn a_description_in_words() {
    let config = parsed(
        "workers = 2\n[[listeners]]\naddress = \"127.0.0.1:80\"\n\
         [upstreams.a]\nservers = [\"http://one\", \"http://two\", \"http://three\"]\n\
         [upstreams.b]\nservers = [\"http://h\"]\nhost = \"rewrite\"\n\
         [[routes]]\nhost = \"h\"\npath = \"/users/{id}\"\nupstream = \"a\"\n\
         guard = { missing = \"require\", comparison = \"weak\", wait = \"1m\", line = 5, buffer = 0, \
         methods = [\"PUT\"] }\n\
         [[routes]]\npath = \"/off/{*all}\"\nupstream = \"b\"\nguard = { mode = \"off\" }\n\
         [[routes]]\nupstream = \"b\"\n\
         guard = { mode = \"observe\", methods = [], verify = \"always\", query = [\"id\"] }\n",
    );
    let expected = "\
Listens on 127.0.0.1:80.
Forwarded and X-Forwarded-*: what a client says itself is replaced. Trusts no proxy.
Upstream \"a\" is http://one:80, http://two:80 or http://three:80, each in its turn, and sees the client's Host. \
It has 2s to connect, 30s to answer, 5m between parts of an answer; at most 1024 connections a server, kept 4s when idle. \
After 5 failures in a row a server is left out for 5s, at most 5m.
Upstream \"b\" is http://h:80, and sees its own Host. \
It has 2s to connect, 30s to answer, 5m between parts of an answer; at most 1024 connections a server, kept 4s when idle. \
After 5 failures in a row a server is left out for 5s, at most 5m.
Route 1: host h, path /users/{id}, to \"a\".
    Guards PUT, and every write that has a precondition.
    A conflict is answered 409.
    A guarded write without a precondition is answered 428.
    The backend is asked for a tag that is not known.
    If-Match is compared weakly: W/\"x\" matches \"x\".
    Also set: wait 1m, buffer 0, line 5.
Route 2: host any, path /off/{*all}, to \"b\".
    Not guarded: everything is forwarded, nothing is learned.
Route 3: host any, path /{*path}, to \"b\".
    Guards every write that has a precondition, and no other.
    Only observes: every write is forwarded at once; what would be refused is counted.
    A guarded write without a precondition is none that would be refused.
    The backend is asked before every conditional write.
    Of the query, only [\"id\"] tells resources apart.
    Writes are counted by client, for ifmatch report.
A client has 10s for a request's head, 1m to take what it is sent, 1m between requests.
A head has at most 100 fields, 64KiB in all and 8KiB for the target. There are at most 16384 connections, 1024 of one \
address, with 10000 requests each; over HTTP/2 256 at once, 256 of them writes.
Remembers 1000000 resources at most, with tags of up to 1KiB; and 1000000 requests and values, in 256MiB at most; 100000 origins of pages; for a report 256 clients and 100000 reads. Logs text at \"info\", without an access log. \
There is no admin listener.
Runs 2 workers; the file is read again on SIGHUP, and looked at every 2s; a stop waits 30s for what is under way.
";
    assert_eq!(config.describe(), expected);
}

#[test]
fn every_departure_is_told() {
    for (keys, told) in [
        ("conflict_status = 412", "A conflict is answered 412."),
        ("verify = \"never\"", "what is not known is a conflict"),
        ("verify = \"mismatch\"", "and before a conflict is answered"),
        ("encoding_suffixes = false", "A tag such as \"x-gzip\" is not taken for \"x\"."),
        ("max_age = \"90m\"", "longer than 90m ago"),
        ("query = \"ignore\"", "The query does not tell resources apart."),
        ("partition = [\"Cookie\", \"X-A\"]", "Resources are kept apart by cookie and x-a."),
        ("method_override = \"refuse\"", "A POST that overrides its method is answered 400."),
        ("forward_preconditions = false", "The backend does not see the preconditions."),
        ("settle = \"1s\"", "Also set: settle 1s."),
        (
            "mode = \"warn\"",
            "Only warns: every write is forwarded at once; what would be refused is counted, and its client told.",
        ),
        ("missing = \"warn\"", "is forwarded, in turn, and its client told."),
        ("mode = \"observe\"\nmissing = \"require\"", "without a precondition is one that would be refused."),
        ("report = true", "Writes are counted by client, for ifmatch report."),
        ("exempt = [{ address = \"10.0.0.0/8\" }]", "A client at 10.0.0.0/8 is not asked for a precondition."),
        ("exempt = [{ address = \"10.0.0.1\" }]", "A client at 10.0.0.1 is"),
        ("exempt = [{ address = \"2001:db8::/32\" }]", "A client at 2001:db8::/32 is"),
        (
            "exempt = [{ address = \"::1\", header = \"User-Agent\", value = \"job*\" }]",
            "A client at ::1 and with user-agent: job* is not",
        ),
        ("exempt = [{ header = \"X-Job\" }]", "A client that sends x-job is not"),
        (
            "exempt = [{ header = \"Authorization\", value = \"Bearer s3\" }]",
            "A client with a certain authorization is",
        ),
        ("body_idle_timeout = \"1s\"", "Also set: body_idle_timeout 1s."),
        ("drain_time = \"1s\"", "Also set: drain_time 1s."),
        ("linger_time = \"1s\"", "Also set: linger_time 1s."),
        ("drain_bytes = 1", "Also set: drain_bytes 1B."),
        ("max_body = 1", "Also set: max_body 1B."),
        ("body_rate = 0", "Also set: body_rate 0."),
        ("answer_bytes = 0", "Also set: answer_bytes 0."),
        ("version = \"body\"", "A version is a hash of the body."),
        ("version = \"body\"\nignore = [\"/a\"]", "A version is a hash of the body without /a."),
        ("version = \"body\"\nversion_body_limit = \"2MiB\"", "one of more than 2MiB has no version."),
        (
            "version = \"body\"\nverify = \"never\"",
            "after a write somebody has to read before the next conditional one.",
        ),
        ("version = { header = \"X-V\" }", "A version is what the field x-v says."),
        ("version = { json = \"/v\" }", "A version is what stands at /v in the JSON body."),
        ("version = \"last-modified\"", "A version is the date in Last-Modified"),
        ("version = \"last-modified\"", "The ETag is made here"),
        ("after_write = \"probe\"", "whose answer has no tag the resource is read for it"),
        ("replay = \"30s\"", "is answered again within 30s"),
        ("idempotency = \"1d\"", "runs once; its answer is kept for 1d."),
        ("unique = [\"/email\"]", "whose /email is there already; what was created is known as long as there is room."),
        ("unique = [\"/a\", \"/b\"]\nunique_memory = \"1h\"", "whose /a and /b is there already"),
        (
            "unique = [\"/email\"]\nunique_lookup = \"/u?e={/email}\"\nunique_found = \"/items\"",
            "asked for /u?e={/email}; JSON with something at /items means that it is there.",
        ),
        ("cors = \"follow\"", "it can read and send tags, and read refusals"),
        ("tag_header = \"X-A\"", "x-a carries a copy of each ETag"),
    ] {
        let plain = parsed(BASE).describe();
        let described = parsed(&format!("{BASE}[guard]\n{keys}\n")).describe();
        assert!(described.contains(told) && !plain.contains(told), "{keys}\n{described}");
    }
}

#[test]
fn what_a_write_also_changes_is_told() {
    let lines = |also: &str| {
        let route =
            format!("[[routes]]\npath = \"/orders/{{id}}/lines/{{line}}\"\nalso_changes = [{also}]\n[[routes]]\n");
        parsed(&(BASE.to_owned() + &route))
    };
    assert_eq!(lines("").describe(), lines("").describe().replace("A write also changes", ""));
    for (also, told) in [
        (
            "\"/orders/{id}\"",
            "A write also changes /orders/{id}: its held tags are stale after it, and guarded writes there wait.",
        ),
        ("\"/orders/{id}\", \"/orders\"", "A write also changes /orders/{id} and /orders: their held tags"),
    ] {
        let config = lines(also);
        assert!(config.describe().contains(told), "{}", config.describe());
    }
    let route = &lines("\"/orders/{id}\"").routes[0];
    assert_eq!(route.also_changes[0].beside("/orders/7/lines/3"), "/orders/7");
}

#[test]
fn who_is_exempt_by_the_address_of_a_proxy_is_warned_of() {
    for (top, exempt, is_warned_of) in [
        ("trusted_proxies = [\"::1\"]", "{ address = \"10.0.0.1\" }", true),
        ("trusted_proxies = [\"::1\"]\nforwarded = \"replace\"", "{ address = \"10.0.0.1\", header = \"A\" }", true),
        ("trusted_proxies = [\"::1\"]\nforwarded = \"off\"", "{ header = \"A\" }, { address = \"10.0.0.1\" }", true),
        ("trusted_proxies = [\"::1\"]\nforwarded = \"append\"", "{ address = \"10.0.0.1\" }", false),
        ("trusted_proxies = [\"::1\"]", "{ header = \"A\" }", false),
        ("trusted_proxies = [\"::1\"]", "", false),
        ("forwarded = \"replace\"", "{ address = \"10.0.0.1\" }", false),
    ] {
        let told = parsed(&format!("{top}\n{BASE}[guard]\nexempt = [{exempt}]\n")).describe();
        assert_eq!(told.contains("Warning: behind a trusted proxy"), is_warned_of, "{top} {exempt}: {told}");
    }
}

#[test]
fn a_field_that_means_something_else_carries_no_tag() {
    let guard = |keys: &str| Config::parse(&format!("{BASE}[guard]\n{keys}\n"));
    for name in [
        "ETag",
        "If-Match",
        "If-Range",
        "Last-Modified",
        "Connection",
        "TE",
        "Upgrade",
        "Transfer-Encoding",
        "Content-Type",
        "Forwarded",
        "X-Forwarded-Version",
        "X-HTTP-Method-Override",
        "Authorization",
        "X-Api-Key",
        "Set-Cookie",
        "Vary",
        "Access-Control-Allow-Origin",
        "Idempotency-Key",
        "Sec-Version",
        "If",
        "DAV",
        "Depth",
        "Destination",
        "Overwrite",
        "Lock-Token",
        "Timeout",
        "Prefer",
        "Schedule-Tag",
        "Slug",
        "Translate",
        "Early-Data",
        "X-Original-URL",
        "X-Rewrite-URL",
        "X-Real-IP",
        "X-Accel-Redirect",
        "grpc-timeout",
        "OData-Version",
        "Digest",
        "Signature",
        "X-Request-Id",
        "Status",
        "traceparent",
    ] {
        let error = guard(&format!("tag_header = \"{name}\"")).expect_err(name).to_string();
        assert!(error.contains("means something else"), "{error}");
    }
    for (keys, message) in [
        ("tag_header = \"X_A\"", "many servers drop"),
        ("tag_header = \"a b\"", "is not the name of a header field"),
        ("tag_header = \"X-A\"\npartition = [\"x-a\"]", "is in partition, too"),
        ("tag_header = \"X-A\"\nversion = { header = \"x-a\" }", "is x-a, which version reads"),
        ("cors = \"on\"", "write \"off\" or \"follow\""),
    ] {
        let error = guard(keys).expect_err(keys).to_string();
        assert!(error.contains(message), "{error}");
    }
    let routes = parsed(&format!(
        "{BASE}[guard]\ncors = \"follow\"\ntag_header = \"X-Resource-Version\"\n\
         [[routes]]\npath = \"/a\"\nguard = {{ cors = \"off\", tag_header = \"\" }}\n[[routes]]\n"
    ))
    .routes;
    assert!(routes[0].policy.browsers.are_off());
    let rest = Browsers { cors: Cors::Follow, tag_header: Some(HeaderName::from_static("x-resource-version")) };
    assert_eq!(routes[1].policy.browsers, rest);
}
