//! The end of a process under load: nothing that it was asked is lost.

use crate::support::{
    Gateway, H2, Script, Store, begin, outside,
    process::{Folder, Process},
    within,
};

async fn start(settings: &crate::support::gateway::Settings) -> (Folder, Process) {
    let folder = Folder::new();
    let file = folder.put("ifmatch.toml", &settings.text());
    let process = Process::start(&file).await;
    (folder, process)
}

#[tokio::test]
async fn a_stop_during_50_slow_writes_lets_all_of_them_end() {
    let mut backend = Script::start().await;
    let (_folder, mut gateway) = start(&Gateway::before(backend.address).drain_timeout("30s")).await;
    let mut writers = Vec::new();
    let mut writes = Vec::new();
    for n in 0..50 {
        writers.push(begin(gateway.put(&format!("/note/{n}"), "slow")));
        writes.push(backend.next().await);
    }
    // And one that waits for its turn, which it still gets, however far it has come.
    let mut in_line = gateway.raw().await;
    in_line.send("PUT /note/0 HTTP/1.1\r\nHost: notes.example\r\nContent-Length: 1\r\n\r\nx").await;

    gateway.signal("-TERM").await;
    gateway.tells("STOPPING=1").await;
    for write in writes {
        let answer = format!("{} is done", write.target);
        write.answer(200, &[("ETag", "\"2\"")], &answer).await;
    }
    backend.expect("PUT", "/note/0").await.answer(200, &[], "").await;

    for (n, writer) in writers.into_iter().enumerate() {
        let answer = writer.answer().await;
        assert_eq!((answer.status, answer.text()), (200, format!("/note/{n} is done").as_str()));
        assert_eq!(answer.field("connection"), Some("close"));
    }
    assert_eq!(in_line.answer("PUT").await.status, 200);
    assert_eq!(gateway.ends().await.code(), Some(0));
}

#[tokio::test]
async fn a_download_is_finished() {
    let mut backend = Script::start().await;
    let (_folder, mut gateway) = start(&Gateway::before(backend.address).drain_timeout("30s")).await;
    let reader = begin(gateway.get("/file"));
    let mut read = backend.expect("GET", "/file").await;
    read.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf").await;
    gateway.signal("-INT").await;
    gateway.tells("STOPPING=1").await;
    read.send("half").await;
    assert_eq!(reader.answer().await.text(), "halfhalf");
    assert_eq!(gateway.ends().await.code(), Some(0));
}

#[tokio::test]
async fn no_request_on_a_connection_that_is_kept_alive_is_lost() {
    let store = Store::start().await;
    store.set("/note", "first");
    let (_folder, mut gateway) = start(&Gateway::before(store.address).drain_timeout("30s")).await;
    let mut clients = Vec::new();
    for n in 0..32 {
        let mut raw = gateway.raw().await;
        clients.push(outside().spawn(async move {
            let mut answered = 0;
            loop {
                let put = format!("PUT /note/{n} HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx");
                let (method, request) = match answered % 2 {
                    0 => ("GET", "GET /note HTTP/1.1\r\nHost: h\r\n\r\n".to_owned()),
                    _ => ("PUT", put),
                };
                raw.send(request).await;
                let answer = raw.answer(method).await;
                assert!((200..300).contains(&answer.status), "{answer:?}");
                answered += 1;
                if answer.field("connection") == Some("close") {
                    raw.closed().await;
                    return answered;
                }
            }
        }));
    }
    // Some have gone to and fro.
    gateway.get("/note").expect(200).await;
    gateway.signal("-TERM").await;

    for client in clients {
        assert!(within("a client to be told", client).await.expect("no request lost") > 0);
    }
    assert_eq!(gateway.ends().await.code(), Some(0));
}

#[tokio::test]
async fn requests_over_http2_that_have_come_are_answered() {
    let mut backend = Script::start().await;
    let (_folder, mut gateway) = start(&Gateway::before(backend.address).drain_timeout("30s")).await;
    let h2 = H2::connect(gateway.address).await;
    let (mut clients, mut reads) = (Vec::new(), Vec::new());
    for _ in 0..8 {
        let (h2, call) = (h2.clone(), gateway.get("/note"));
        clients.push(outside().spawn(async move { h2.send(call).await.status }));
        reads.push(backend.expect("GET", "/note").await);
    }
    gateway.signal("-TERM").await;
    gateway.tells("STOPPING=1").await;
    for (client, read) in clients.into_iter().zip(reads) {
        read.answer(200, &[], "").await;
        assert_eq!(within("an answer", client).await.expect("an answer"), 200);
    }
    assert_eq!(gateway.ends().await.code(), Some(0));
}

#[tokio::test]
async fn an_idle_connection_may_ask_once_more_and_one_that_says_nothing_is_closed() {
    let mut backend = Script::start().await;
    let (_folder, mut gateway) = start(&Gateway::before(backend.address).drain_timeout("30s")).await;
    let mut last = gateway.raw().await;
    let mut silent = gateway.raw().await;
    for raw in [&mut last, &mut silent] {
        raw.send("GET /note HTTP/1.1\r\nHost: h\r\n\r\n").await;
        backend.expect("GET", "/note").await.answer(200, &[], "").await;
        assert!(raw.answer("GET").await.field("connection").is_none());
    }
    gateway.signal("-TERM").await;
    gateway.tells("STOPPING=1").await;
    last.send("GET /last HTTP/1.1\r\nHost: h\r\n\r\n").await;
    backend.expect("GET", "/last").await.answer(200, &[], "").await;
    assert_eq!(last.answer("GET").await.field("connection"), Some("close"));
    last.closed().await;
    silent.closed().await;
    assert_eq!(gateway.ends().await.code(), Some(0));
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let mut backend = Script::start().await;
    let (_folder, mut gateway) = start(&Gateway::before(backend.address).drain_timeout("1h")).await;
    let writer = outside().spawn(gateway.put("/note", "slow").send());
    let _held = backend.expect("PUT", "/note").await;
    gateway.signal("-TERM").await;
    gateway.tells("STOPPING=1").await;
    gateway.signal("-INT").await;
    assert_eq!(gateway.ends().await.code(), Some(1));
    writer.await.expect_err("no answer");
}

#[tokio::test]
async fn what_takes_longer_than_drain_timeout_is_given_up_and_shows_in_the_exit_status() {
    let mut backend = Script::start().await;
    let (_folder, mut gateway) = start(&Gateway::before(backend.address).drain_timeout("50ms")).await;
    let writer = outside().spawn(gateway.put("/note", "slow").send());
    let _held = backend.expect("PUT", "/note").await;
    gateway.signal("-TERM").await;
    assert_eq!(gateway.ends().await.code(), Some(1));
    gateway.logs("stopped before everything had ended").await;
    writer.await.expect_err("no answer");
}
