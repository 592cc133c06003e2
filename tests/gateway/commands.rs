//! The program as it is started: its commands, what they print, and how they end.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::{Child, ChildStdout, Command, Output, Stdio},
};

use crate::support::Call;

fn ifmatch(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ifmatch"));
    command.args(arguments).env_remove("IFMATCH_CONFIG");
    command
}

fn output(arguments: &[&str]) -> Output {
    ifmatch(arguments).output().expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// A file that is gone when the test is.
struct File(PathBuf);

impl File {
    fn with(name: &str, content: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ifmatch-{}-{name}.toml", std::process::id()));
        fs::write(&path, content).expect("a file");
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("UTF-8")
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn check_says_what_a_file_means() {
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/config/minimal.toml");
    let checked = output(&["check", "--config", sample]);
    assert!(checked.status.success());
    assert!(text(&checked.stdout).contains("Listens on 127.0.0.1:8080."), "{}", text(&checked.stdout));
    assert!(checked.stderr.is_empty(), "{}", text(&checked.stderr));
}

#[test]
fn check_reports_all_errors_with_line_and_key_and_ends_with_2() {
    let file = File::with(
        "wrong",
        "[[listeners]]\naddress = \"nowhere\"\n[upstreams.a]\nservers = [\"ftp://h\"]\n[guard]\nwait = 10\nwiat = \"1s\"\n",
    );
    for command in ["check", "run"] {
        let checked = output(&[command, "--config", file.path()]);
        assert_eq!(checked.status.code(), Some(2), "{command}");
        let errors = text(&checked.stderr);
        for place in [
            "line 2: listeners[0].address",
            "line 4: upstreams.a.servers[0]",
            "line 6: guard.wait",
            "line 7: guard.wiat",
        ] {
            assert!(errors.contains(place), "{place} is not in\n{errors}");
        }
        assert_eq!(errors.trim_end().lines().count(), 4, "{errors}");
    }
}

#[test]
fn the_file_is_found_by_its_variable_and_missed_by_its_name() {
    let file = File::with("named", include_str!("../../config/minimal.toml"));
    let found = ifmatch(&["check"]).env("IFMATCH_CONFIG", file.path()).output().expect("the program runs");
    assert!(found.status.success());
    let missed = output(&["check", "--config", "/nowhere/ifmatch.toml"]);
    assert_eq!(missed.status.code(), Some(2));
    assert!(text(&missed.stderr).contains("/nowhere/ifmatch.toml"), "{}", text(&missed.stderr));
}

#[test]
fn an_address_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let refused = output(&["run", "--listen", &address, "--upstream", "http://127.0.0.1:1"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains(&format!("{address} can't be listened on")), "{}", text(&refused.stderr));
}

/// The demo, ended with the test.
struct Demo {
    process: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Demo {
    fn start() -> Self {
        let mut demo = ifmatch(&["demo", "--listen", "127.0.0.1:0", "--store", "127.0.0.1:0"]);
        let mut process = demo.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the program runs");
        let lines = BufReader::new(process.stdout.take().expect("its output")).lines();
        Self { process, lines }
    }

    fn next_line_with(&mut self, part: &str) -> String {
        self.lines.by_ref().map_while(Result::ok).find(|line| line.contains(part)).expect(part)
    }

    fn next_address(&mut self) -> SocketAddr {
        let line = self.next_line_with("http://");
        line.split("http://").nth(1).expect("a URL").trim().parse().expect("an address")
    }

    fn signal(&self, signal: &str) {
        let killed = Command::new("kill").args([signal, &self.process.id().to_string()]).status().expect("kill runs");
        assert!(killed.success());
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // It has ended already where the test went well.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn the_demo_shows_a_lost_update_and_a_refused_one() {
    let mut demo = Demo::start();
    let (store, gateway) = (demo.next_address(), demo.next_address());
    let commands: Vec<String> = (0..4).map(|_| demo.next_line_with("curl")).collect();
    assert!(commands.iter().all(|command| command.contains("If-Match: \"1\"")), "{commands:?}");

    let put = |address, path| Call::new(address, "PUT", path).if_match("\"1\"");
    put(store, "/notes/1").body("{\"text\": \"Ann\"}").expect(200).await;
    put(store, "/notes/1").body("{\"text\": \"Ben\"}").expect(200).await;
    put(gateway, "/notes/2").body("{\"text\": \"Ann\"}").expect(200).await;
    put(gateway, "/notes/2").body("{\"text\": \"Ben\"}").expect(409).await.problem("stale");
    assert!(Call::new(store, "GET", "/notes/2").expect(200).await.text().contains("Ann"));

    demo.signal("-TERM");
    assert_eq!(demo.process.wait().expect("it ends").code(), Some(0));
}

#[test]
fn check_looks_at_certificates_and_finds_listeners_twice_and_loops() {
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = rcgen::CertificateParams::new(["h".to_owned()]).and_then(|p| p.self_signed(&key));
    let cert = File::with("cert", &certificate.expect("a certificate").pem());
    let (right, other) = (File::with("right", &key.serialize_pem()), rcgen::KeyPair::generate().expect("a key"));
    let other = File::with("other", &other.serialize_pem());
    let listener = |port: u16, tls: &str| format!("[[listeners]]\naddress = \"127.0.0.1:{port}\"\n{tls}\n");
    let tls = |cert: &str, key: &str| format!("tls = {{ cert = {cert:?}, key = {key:?} }}");
    let upstream = "[upstreams.a]\nservers = [\"http://localhost:1\"]\n";

    let good = File::with("good", &(listener(2, &tls(cert.path(), right.path())) + upstream));
    assert!(output(&["check", "--config", good.path()]).status.success());

    let wrong = [
        listener(1, &tls("/nowhere.pem", right.path())),
        listener(1, &tls(cert.path(), other.path())),
        listener(3, &tls(cert.path(), cert.path())),
    ]
    .concat();
    let wrong = File::with("bad", &(wrong + upstream + "tls = { ca = \"/nowhere.ca\" }\n"));
    for command in ["check", "run"] {
        let checked = output(&[command, "--config", wrong.path()]);
        assert_eq!(checked.status.code(), Some(2), "{command}");
        let errors = text(&checked.stderr);
        for error in [
            "listeners[0].tls.cert: /nowhere.pem can't be read",
            "listeners[1].address: is that of listeners[0]",
            "listeners[1].tls.key: ",
            "is not the key of the certificate in",
            "listeners[2].tls.key: ",
            "holds no private key",
            "upstreams.a.servers[0]: http://localhost:1 is this gateway's own listener",
            "upstreams.a.tls.ca: /nowhere.ca can't be read",
        ] {
            assert!(errors.contains(error), "{error} is not in\n{errors}");
        }
        assert_eq!(errors.lines().filter(|line| line.starts_with(wrong.path())).count(), 6, "{errors}");
    }
}

#[test]
fn a_file_that_is_not_there_is_named_once() {
    for command in ["check", "run", "health", "report"] {
        let failed = output(&[command, "--config", "/nowhere.toml"]);
        assert_eq!(failed.status.code(), Some(2), "{command}");
        let said = text(&failed.stderr);
        assert!(said.starts_with("/nowhere.toml: can't be read: ") && said.matches("nowhere").count() == 1, "{said}");
    }
}

#[test]
fn check_finds_listeners_that_meet_and_tls_that_nobody_speaks() {
    let wrong = "[[listeners]]\naddress = \"127.0.0.1:1\"\n[[listeners]]\naddress = \"0.0.0.0:1\"\n\
                 [upstreams.a]\nservers = [\"http://h\"]\ntls = { server_name = \"h\" }\n[admin]\naddress = \"127.0.0.1:1\"\n";
    let wrong = File::with("meet", wrong);
    let errors = text(&output(&["check", "--config", wrong.path()]).stderr);
    for error in [
        "listeners[1].address: 0.0.0.0:1 meets 127.0.0.1:1 of listeners[0]",
        "admin.address: is that of listeners[0]",
        "upstreams.a.tls: is of no use: none of the servers is written https://",
    ] {
        assert!(errors.contains(error), "{error} is not in\n{errors}");
    }
}
