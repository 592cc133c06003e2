//! A second process on the same addresses, which takes over from the first.

use socket2::{Domain, Socket, Type};
use tokio::sync::watch;

use crate::support::{
    Call, Gateway, Raw, Script, Store, begin,
    gateway::Settings,
    outside,
    process::{Folder, Process, ifmatch},
    within,
};

/// The file of both processes. The socket keeps the port for them, and is not listened on.
fn file(folder: &Folder, settings: Settings) -> (std::path::PathBuf, Socket) {
    let port = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    port.set_reuse_address(true).expect("an option");
    port.set_reuse_port(true).expect("an option");
    port.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port");
    let address = port.local_addr().ok().and_then(|address| address.as_socket()).expect("an address");
    let lock = folder.path("lock");
    let text = settings
        .drain_timeout("30s")
        .top(&format!("takeover = {:?}", lock.to_str().expect("UTF-8")))
        .text()
        .replace("127.0.0.1:0", &address.to_string());
    (folder.put("ifmatch.toml", &text), port)
}

#[tokio::test]
async fn of_two_writes_to_two_processes_one_gets_through() {
    let mut backend = Script::start().await;
    let folder = Folder::new();
    let (file, _port) = file(&folder, Gateway::before(backend.address).one_worker());
    let mut old = Process::start(&file).await;
    // Nothing is recorded before it has the lock, and no write goes through.
    let writer = begin(old.call("POST", "/other"));
    backend.expect("POST", "/other").await.answer(200, &[], "").await;
    writer.answer().await;
    let reader = begin(old.get("/note"));
    backend.expect("GET", "/note").await.answer(200, &[("ETag", "\"1\"")], "").await;
    reader.answer().await;
    let first = begin(old.put("/note", "first").if_match("\"1\""));
    let write = backend.expect("PUT", "/note").await;

    let mut new = Process::start(&file).await;
    new.logs("another process serves").await;
    old.signal("-TERM").await;
    old.tells("STOPPING=1").await;
    // The old one may still accept for a moment, and then says that it closes.
    loop {
        let reader = begin(new.get("/note"));
        backend.expect("GET", "/note").await.answer(200, &[("ETag", "\"1\"")], "").await;
        if reader.answer().await.field("connection").is_none() {
            break;
        }
    }
    let mut second = begin(new.put("/note", "second").if_match("\"1\""));
    // It waits, and nothing was learned of what was read meanwhile.
    for _ in 0..5 {
        new.get("/%zz").expect(400).await;
    }
    assert!(second.waits());
    backend.assert_quiet();

    write.answer(200, &[("ETag", "\"2\"")], "").await;
    assert_eq!(first.answer().await.status, 200);
    assert_eq!(old.ends().await.code(), Some(0));
    loop {
        tokio::select! {
            arrival = backend.next() => {
                assert_eq!(arrival.method, "HEAD", "a stale write reached the backend");
                arrival.answer(200, &[("ETag", "\"2\"")], "").await;
            }
            () = second.finished() => break,
        }
    }
    second.answer().await.problem("stale");
    new.logs("taken over").await;
}

#[tokio::test]
async fn a_write_that_waits_for_the_takeover_too_long_is_busy() {
    let mut backend = Script::start().await;
    let folder = Folder::new();
    let (file, _port) = file(&folder, Gateway::before(backend.address).guard("wait = \"50ms\""));
    let lock = std::fs::File::create(folder.path("lock")).expect("a file");
    lock.lock().expect("a lock");
    let new = Process::start(&file).await;
    let busy = new.put("/note", "x").expect(409).await;
    busy.problem("busy");
    assert!(busy.field("retry-after").is_some());
    backend.assert_quiet();
}

#[tokio::test]
async fn requests_go_on_through_a_takeover() {
    let store = Store::start().await;
    store.set("/note", "first");
    let folder = Folder::new();
    let (file, _port) = file(&folder, Gateway::before(store.address));
    let mut old = Process::start(&file).await;
    let (stop, stopped) = watch::channel(false);
    let clients: Vec<_> = (0..4)
        .map(|n| {
            let (get, put) = (old.get("/note"), old.put(&format!("/note/{n}"), "x"));
            let stopped = stopped.clone();
            outside().spawn(async move {
                let mut served = 0;
                while !*stopped.borrow() {
                    get.clone().expect(200).await;
                    let status = put.clone().send().await.status;
                    assert!((200..300).contains(&status), "{status}");
                    served += 1;
                }
                served
            })
        })
        .collect();

    let mut new = Process::start(&file).await;
    old.signal("-TERM").await;
    assert_eq!(old.ends().await.code(), Some(0));
    new.logs("taken over").await;
    new.put("/last", "x").expect(201).await;
    stop.send_replace(true);
    for client in clients {
        assert!(within("a client", client).await.expect("no request lost") > 0);
    }
    new.signal("-TERM").await;
    assert_eq!(new.ends().await.code(), Some(0));
}

#[tokio::test]
async fn what_a_process_sent_that_was_killed_is_waited_for() {
    let mut backend = Script::start().await;
    let folder = Folder::new();
    let (file, _port) = file(&folder, Gateway::before(backend.address).guard("settle = \"300ms\""));
    let mut old = Process::start(&file).await;
    let first = outside().spawn(old.put("/note", "first").send());
    let mut write = backend.expect("PUT", "/note").await;
    old.signal("-KILL").await;
    old.ends().await;
    first.await.expect_err("no answer");
    write.hung_up().await;

    let mut new = Process::start(&file).await;
    new.logs("did not end in good order").await;
    let second = begin(new.put("/note", "second"));
    backend.expect("PUT", "/note").await.answer(200, &[], "").await;
    assert_eq!(second.answer().await.status, 200);
}

/// A process that takes over may be stopped, too, while it waits for what one that was killed had sent.
#[tokio::test]
async fn what_a_process_sent_that_was_killed_is_waited_for_by_whoever_serves_in_the_end() {
    let mut backend = Script::start().await;
    let folder = Folder::new();
    let settings = Gateway::before(backend.address).guard("settle = \"1h\"\nwait = \"50ms\"");
    let (file, _port) = file(&folder, settings);
    let mut killed = Process::start(&file).await;
    let first = outside().spawn(killed.put("/note", "first").send());
    let mut write = backend.expect("PUT", "/note").await;
    killed.signal("-KILL").await;
    killed.ends().await;
    first.await.expect_err("no answer");
    write.hung_up().await;

    for _ in 0..2 {
        let mut next = Process::start(&file).await;
        next.logs("did not end in good order").await;
        next.put("/note", "second").expect(409).await.problem("busy");
        next.signal("-TERM").await;
        assert_eq!(next.ends().await.code(), Some(0));
    }
    backend.assert_quiet();
}

/// Whoever takes over from a process that was killed must wait as long as that would have.
#[tokio::test]
async fn a_longer_hold_that_came_with_a_reload_is_waited_for_after_a_kill() {
    let mut backend = Script::start().await;
    let folder = Folder::new();
    let settings = |settle: &str| {
        Gateway::before(backend.address)
            .top("reload_interval = \"0s\"")
            .guard(&format!("settle = {settle:?}\nwait = \"50ms\""))
    };
    let (path, port) = file(&folder, settings("1ms"));
    let mut old = Process::start(&path).await;
    let short = std::fs::read_to_string(&path).expect("the file");
    folder.put("ifmatch.toml", &short.replace("\"1ms\"", "\"1h\""));
    old.signal("-HUP").await;
    old.logs("serving under the file as it is now").await;
    let first = outside().spawn(old.put("/note", "first").send());
    let mut write = backend.expect("PUT", "/note").await;
    old.signal("-KILL").await;
    old.ends().await;
    first.await.expect_err("no answer");
    write.hung_up().await;

    folder.put("ifmatch.toml", &short);
    let mut new = Process::start(&path).await;
    new.logs("did not end in good order").await;
    new.put("/note", "second").expect(409).await.problem("busy");
    backend.assert_quiet();
    drop(port);
}

/// A stop waits for tunnels, also where another process is to take over.
#[tokio::test]
async fn a_takeover_breaks_no_tunnel() {
    let mut backend = Script::start().await;
    let folder = Folder::new();
    let (file, _port) = file(&folder, Gateway::before(backend.address));
    let mut old = Process::start(&file).await;
    let mut raw = Raw::connect(old.address).await;
    raw.send("GET /chat HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: foo\r\n\r\n").await;
    let mut chat = backend.expect("GET", "/chat").await;
    chat.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: foo\r\n\r\n").await;
    assert_eq!(raw.answer("GET").await.status, 101);
    old.signal("-TERM").await;
    old.tells("STOPPING=1").await;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    raw.send("still").await;
    assert_eq!(chat.bytes(5).await, b"still");
    drop((raw, chat));
    assert_eq!(old.ends().await.code(), Some(0));
}

/// Whoever collects the log may be stuck. It has taken a pipe full, and takes no more.
#[tokio::test]
async fn a_log_that_nobody_reads_keeps_neither_clients_nor_the_stop_waiting() {
    let mut backend = Script::start().await;
    let folder = Folder::new();
    let (file, port) = file(&folder, Gateway::before(backend.address).one_worker());
    let address = port.local_addr().ok().and_then(|address| address.as_socket()).expect("an address");
    let (_unread, mut log) = std::io::pipe().expect("a pipe");
    std::io::Write::write_all(&mut log, &[b'.'; 64 * 1024]).expect("as much as a pipe takes");
    let _entered = outside().enter();
    let told = tokio::net::UnixDatagram::bind(folder.path("notify")).expect("a socket");
    let mut command = ifmatch(&["run", "--config", file.to_str().expect("UTF-8")]);
    command.env("NOTIFY_SOCKET", folder.path("notify")).stderr(log).kill_on_drop(true);
    let mut program = command.spawn().expect("the program runs");
    within("it to begin", told.recv(&mut [0; 1024])).await.expect("a message");

    let reader = begin(Call::new(address, "GET", "/note"));
    backend.expect("GET", "/note").await.answer(200, &[], "read").await;
    assert_eq!(reader.answer().await.text(), "read");
    let id = program.id().expect("it runs").to_string();
    assert!(tokio::process::Command::new("kill").args(["-TERM", &id]).status().await.expect("kill runs").success());
    assert!(within("its end", program.wait()).await.expect("a status").success());
}

/// A pipe would have the reader wait for its writer, and the stop for the reader.
#[tokio::test]
async fn a_pipe_in_the_place_of_the_file_keeps_neither_the_operator_nor_the_stop_waiting() {
    let mut backend = Script::start().await;
    let folder = Folder::new();
    let path = folder.put("ifmatch.toml", &Gateway::before(backend.address).top("reload_interval = \"100ms\"").text());
    let mut process = Process::start(&path).await;
    std::fs::remove_file(&path).expect("a file");
    let made = tokio::process::Command::new("mkfifo").arg(&path).status().await.expect("mkfifo runs");
    assert!(made.success());
    process.logs("it is not a file").await;
    let reader = begin(process.get("/note"));
    backend.expect("GET", "/note").await.answer(200, &[], "").await;
    reader.answer().await;
    process.signal("-TERM").await;
    assert!(process.ends().await.success());
}
