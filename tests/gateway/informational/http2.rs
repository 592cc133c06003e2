//! The same towards clients that speak HTTP/2, where each stream has a place for it.

use bytes::Bytes;
use h2::Reason;
use http::{Request, Response};
use tokio::net::TcpStream;

use super::HINTS;
use crate::support::{Frames, Gateway, H2Script, Script, begin, frames::Stream, outside, within};

const LINK: &str = "</style.css>; rel=preload";

fn status(answer: &Response<()>) -> u16 {
    answer.status().as_u16()
}

async fn ask(h2: &Frames, method: &str) -> Stream {
    let mut stream = h2.begin(method, "/note", &[]).await;
    stream.data("", true);
    stream
}

/// The statuses of all that precedes the answer, and of that.
async fn statuses(stream: &mut Stream) -> Vec<u16> {
    let mut statuses = Vec::new();
    while let Some(early) = stream.early().await {
        statuses.push(status(&early));
    }
    statuses.push(status(&stream.head().await));
    statuses
}

#[tokio::test]
async fn early_hints_arrive_before_the_answer_is_there() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let h2 = Frames::connect(gateway.address).await;
    for method in ["GET", "PUT"] {
        let mut stream = ask(&h2, method).await;
        let mut arrival = backend.expect(method, "/note").await;
        arrival.send(HINTS).await;
        let hints = stream.early().await.expect("hints");
        assert_eq!((status(&hints), &hints.headers()["link"]), (103, &LINK.parse().expect("a value")));
        assert!(!hints.headers().contains_key("x-hop") && !hints.headers().contains_key("connection"));
        arrival.send("HTTP/1.1 102 Processing\r\nContent-Length: 7\r\n\r\n").await;
        let processing = stream.early().await.expect("word of it");
        assert_eq!((status(&processing), processing.headers().get("content-length")), (102, None));
        arrival.answer(200, &[], "done").await;
        assert_eq!(status(&stream.head().await), 200);
        assert_eq!(stream.bytes(4).await, b"done");
    }
}

#[tokio::test]
async fn early_hints_of_a_backend_that_speaks_http2_arrive() {
    let mut backend = H2Script::start().await;
    let gateway = Gateway::before(backend.address).upstream("protocol = \"h2\"").start();
    let h2 = Frames::connect(gateway.address).await;
    for method in ["GET", "PUT"] {
        let mut stream = ask(&h2, method).await;
        let mut arrival = backend.expect(method, "/note").await;
        for number in ["1", "2"] {
            arrival.inform(103, &[("Link", LINK), ("X-Number", number)]);
            let hints = stream.early().await.expect("hints");
            assert_eq!((status(&hints), &hints.headers()["link"]), (103, &LINK.parse().expect("a value")));
            assert_eq!(hints.headers()["x-number"], number);
        }
        arrival.answer(200, &[], "done").await;
        assert_eq!(status(&stream.head().await), 200);
    }
}

#[tokio::test]
async fn early_hints_that_come_with_the_answer_arrive_before_it() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let h2 = Frames::connect(gateway.address).await;
    for method in ["GET", "PUT"] {
        let mut stream = ask(&h2, method).await;
        let mut arrival = backend.expect(method, "/note").await;
        arrival.body().await.expect("none");
        arrival.send(&format!("{HINTS}{HINTS}HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone")).await;
        assert_eq!(statuses(&mut stream).await, [103, 103, 200], "{method}");
        arrival.go_on();
    }
}

#[tokio::test]
async fn early_hints_get_to_the_stream_that_they_are_meant_for() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).one_worker().start();
    let h2 = Frames::connect(gateway.address).await;
    let mut streams = Vec::new();
    for number in 0..5 {
        let stream = ask(&h2, "GET").await;
        let mut get = backend.expect("GET", "/note").await;
        get.send(&format!("HTTP/1.1 103 Early Hints\r\nX-Number: {number}\r\n\r\n")).await;
        streams.push((number, stream, get));
    }
    for (number, mut stream, get) in streams.into_iter().rev() {
        assert_eq!(stream.early().await.expect("hints").headers()["x-number"], number.to_string());
        get.answer(200, &[], "").await;
        assert_eq!(status(&stream.head().await), 200);
    }
}

#[tokio::test]
async fn a_client_gets_so_many_and_the_answer() {
    let long = format!("HTTP/1.1 103 Early Hints\r\nLink: {}\r\n\r\n", "x".repeat(3000));
    for (hints, count) in [(HINTS, 32), (&long, 5)] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).start();
        let h2 = Frames::connect(gateway.address).await;
        let mut stream = ask(&h2, "GET").await;
        let mut get = backend.expect("GET", "/note").await;
        get.send(&hints.repeat(90)).await;
        get.answer(200, &[], "done").await;
        let statuses = statuses(&mut stream).await;
        assert_eq!((statuses.len(), statuses.last()), (count + 1, Some(&200)));
        assert_eq!(stream.bytes(4).await, b"done");
    }
}

/// It would keep a worker from all else, time limits included.
#[tokio::test]
async fn a_backend_that_announces_without_end_is_cut() {
    for method in ["GET", "PUT"] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).guard("settle = \"100ms\"").start();
        let h2 = Frames::connect(gateway.address).await;
        let mut stream = ask(&h2, method).await;
        let mut arrival = backend.expect(method, "/note").await;
        let announcing = async {
            while arrival.try_send("HTTP/1.1 102 Processing\r\n\r\n").await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        let (statuses, ()) = tokio::join!(statuses(&mut stream), announcing);
        assert_eq!((statuses.len(), statuses.last()), (33, Some(&502)), "{method}");
    }
}

/// It opens no window for what has a body; informational answers need none, and go before it all the same.
#[tokio::test]
async fn a_client_that_takes_nothing_of_an_answer_gets_its_hints() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let address = gateway.address;
    let handshake = outside().spawn(async move {
        let stream = TcpStream::connect(address).await.expect("a connection");
        let mut client = h2::client::Builder::new();
        let (sender, connection) = client.initial_window_size(0).handshake::<_, Bytes>(stream).await.expect("HTTP/2");
        (sender, tokio::spawn(connection))
    });
    let (mut sender, driver) = handshake.await.expect("a task");
    let request = Request::get("http://notes.example/note").body(()).expect("a request");
    let (mut answer, _) = sender.send_request(request, true).expect("an open connection");
    let mut get = backend.expect("GET", "/note").await;
    get.send(HINTS).await;
    let early = within("hints", std::future::poll_fn(|cx| answer.poll_informational(cx))).await;
    assert_eq!(status(&early.expect("hints").expect("an open stream")), 103);
    get.send(HINTS).await;
    get.answer(200, &[], "done").await;
    let next = within("more hints", std::future::poll_fn(|cx| answer.poll_informational(cx))).await;
    assert_eq!(status(&next.expect("hints").expect("an open stream")), 103);
    assert_eq!(within("an answer", answer).await.expect("an answer").status().as_u16(), 200);
    driver.abort();
}

/// What the backend goes on to say is nobody's then; a write goes on, and the connection too.
#[tokio::test]
async fn a_client_that_gives_up_in_between_gets_no_more_and_the_others_do() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).one_worker().start();
    let h2 = Frames::connect(gateway.address).await;
    let mut read = ask(&h2, "GET").await;
    let mut get = backend.expect("GET", "/note").await;
    get.send(HINTS).await;
    assert_eq!(status(&read.early().await.expect("hints")), 103);
    read.reset(Reason::CANCEL);
    get.hung_up().await;

    let mut write = ask(&h2, "PUT").await;
    let mut put = backend.expect("PUT", "/note").await;
    put.send(HINTS).await;
    assert_eq!(status(&write.early().await.expect("hints")), 103);
    write.reset(Reason::CANCEL);
    gateway.barrier().await;
    for _ in 0..5 {
        put.send(HINTS).await;
        gateway.barrier().await;
    }
    put.answer(200, &[("ETag", "\"1\"")], "").await;

    let mut other = ask(&h2, "GET").await;
    let mut get = backend.expect("GET", "/note").await;
    get.send(HINTS).await;
    get.answer(200, &[("ETag", "\"1\"")], "").await;
    assert_eq!(statuses(&mut other).await, [103, 200]);
    let writer = begin(gateway.put("/note", "next").if_match("\"1\""));
    backend.expect("PUT", "/note").await.answer(200, &[], "").await;
    assert_eq!(writer.answer().await.status, 200, "the write was settled");
}

const WAITS: [(&str, &str); 2] = [("expect", "100-continue"), ("content-length", "200000")];

#[tokio::test]
async fn a_large_body_waits_until_the_backend_asks_for_it() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).one_worker().start();
    let h2 = Frames::connect(gateway.address).await;
    let mut stream = h2.begin("PUT", "/note", &WAITS).await;
    let mut put = backend.expect("PUT", "/note").await;
    assert_eq!(put.field("expect"), Some("100-continue"));
    put.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    assert_eq!(status(&stream.early().await.expect("to be asked")), 100);
    stream.data(vec![b'x'; 200_000], true);
    assert_eq!(put.body().await.expect("a body").len(), 200_000);
    put.answer(200, &[], "done").await;
    assert_eq!(status(&stream.head().await), 200);
}

#[tokio::test]
async fn a_body_that_is_read_ahead_is_asked_for_by_the_gateway() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let h2 = Frames::connect(gateway.address).await;
    let mut stream = h2.begin("PUT", "/note", &[("expect", "100-continue"), ("content-length", "4")]).await;
    assert_eq!(status(&stream.early().await.expect("to be asked")), 100);
    stream.data("body", true);
    let put = backend.expect("PUT", "/note").await;
    assert_eq!(put.field("expect"), None);
    put.answer(200, &[], "").await;
    assert_eq!(status(&stream.head().await), 200);
}

#[tokio::test]
async fn a_body_that_is_not_wanted_is_not_asked_for() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let h2 = Frames::connect(gateway.address).await;
    let mut refused = h2.begin("PUT", "/%zz", &WAITS).await;
    assert_eq!(statuses(&mut refused).await, [400]);
    let mut declined = h2.begin("PUT", "/note", &WAITS).await;
    let mut put = backend.expect("PUT", "/note").await;
    put.answer_now(413, &[], "too large").await.expect("an open connection");
    assert_eq!(statuses(&mut declined).await, [413]);
    assert_eq!(declined.bytes(9).await, b"too large");
}
