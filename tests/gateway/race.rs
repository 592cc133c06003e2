//! Many writers, one version: exactly one gets through. And reads that bring old news.

use crate::support::{Answer, Gateway, H2, Habits, Script, Store, Tags, begin};

const WRITERS: usize = 100;

fn assert_one_won(answers: &[Answer], won: u16) {
    let winners = answers.iter().filter(|answer| answer.status == won).count();
    let losers = answers.iter().filter(|answer| answer.status == 409).count();
    assert_eq!((winners, losers), (1, answers.len() - 1), "{:?}", answers.iter().map(|a| a.status).collect::<Vec<_>>());
}

#[tokio::test]
async fn of_100_writers_with_one_tag_one_gets_through() {
    let store = Store::start().await;
    store.set("/note", "first");
    let gateway = Gateway::before(store.address).start();
    let tag = gateway.get("/note").expect(200).await.tag();

    let calls: Vec<_> =
        (0..WRITERS).map(|n| begin(gateway.put("/note", &format!("writer {n}")).if_match(&tag))).collect();
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.answer().await);
    }

    assert_one_won(&answers, 200);
    assert_eq!(store.count("PUT"), 1);
    let winner = answers.iter().position(|answer| answer.status == 200).expect("a winner");
    assert_eq!(store.body("/note"), Some(format!("writer {winner}")));
    for loser in answers.iter().filter(|answer| answer.status == 409) {
        loser.problem("stale");
    }
}

#[tokio::test]
async fn of_100_writers_nobody_gets_through_with_a_tag_that_is_gone_and_unknown_here() {
    let store = Store::start().await;
    let old = store.set("/note", "first");
    store.set("/note", "second");
    let gateway = Gateway::before(store.address).start();

    let calls: Vec<_> = (0..WRITERS).map(|_| begin(gateway.put("/note", "third").if_match(&old))).collect();
    for call in calls {
        assert_eq!(call.answer().await.status, 409);
    }

    assert_eq!(store.writes(), 0);
}

#[tokio::test]
async fn of_100_writers_over_one_http2_connection_one_gets_through() {
    let store = Store::start().await;
    store.set("/note", "first");
    let gateway = Gateway::before(store.address).start();
    let h2 = H2::connect(gateway.address).await;
    let tag = h2.send(gateway.get("/note")).await.tag();

    let calls: Vec<_> = (0..WRITERS)
        .map(|n| {
            let (h2, call) = (h2.clone(), gateway.put("/note", &format!("writer {n}")).if_match(&tag));
            tokio::spawn(async move { h2.send(call).await })
        })
        .collect();
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.await.expect("an answer"));
    }

    assert_one_won(&answers, 200);
    assert_eq!(store.count("PUT"), 1);
}

#[tokio::test]
async fn of_writers_over_both_protocols_with_every_guarded_method_one_gets_through() {
    let store = Store::start().await;
    store.set("/note", "first");
    let gateway = Gateway::before(store.address).start();
    let tag = gateway.get("/note").expect(200).await.tag();
    let h2 = H2::connect(gateway.address).await;

    let mut calls = Vec::new();
    for n in 0..60 {
        let method = ["PUT", "PATCH", "DELETE"][n % 3];
        let call = gateway.call(method, "/note").body("mine").if_match(&tag);
        let h2 = (n % 2 == 0).then(|| h2.clone());
        calls.push(tokio::spawn(async move {
            match h2 {
                Some(h2) => h2.send(call).await,
                None => call.send().await,
            }
        }));
    }
    let mut refused = 0;
    for call in calls {
        refused += usize::from(call.await.expect("an answer").status == 409);
    }

    assert_eq!((refused, store.writes()), (59, 1));
}

#[tokio::test]
async fn of_50_creators_one_creates() {
    let store = Store::start().await;
    let gateway = Gateway::before(store.address).start();

    let calls: Vec<_> =
        (0..50).map(|n| begin(gateway.put("/new", &format!("by {n}")).with("if-none-match", "*"))).collect();
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.answer().await);
    }

    assert_one_won(&answers, 201);
    assert_eq!(store.count("PUT"), 1);
    let creator = answers.iter().position(|answer| answer.status == 201).expect("a creator");
    assert_eq!(store.body("/new"), Some(format!("by {creator}")));
    for loser in answers.iter().filter(|answer| answer.status == 409) {
        loser.problem("exists");
    }
}

#[tokio::test]
async fn of_50_creators_one_creates_where_the_backend_has_no_tags() {
    let store = Store::with(Habits { tags: Tags::None, ..Habits::default() }).await;
    let gateway = Gateway::before(store.address).start();

    let calls: Vec<_> = (0..50).map(|_| begin(gateway.put("/new", "mine").with("if-none-match", "*"))).collect();
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.answer().await);
    }

    assert_one_won(&answers, 201);
    assert_eq!(store.count("PUT"), 1);
}

/// Starts a read, has the write done behind its back, and only then lets the backend answer the read with the old tag.
async fn overtake(gateway: &Gateway, backend: &mut Script, new_tag: Option<&str>) {
    let reader = begin(gateway.get("/note"));
    let read = backend.expect("GET", "/note").await;

    let writer = begin(gateway.put("/note", "new"));
    let fields: Vec<_> = new_tag.map(|tag| ("ETag", tag)).into_iter().collect();
    backend.expect("PUT", "/note").await.answer(200, &fields, "").await;
    assert_eq!(writer.answer().await.status, 200);

    read.answer(200, &[("ETag", "\"old\"")], "old").await;
    let answer = reader.answer().await;
    // The reader gets what the backend said; it only does not count.
    assert_eq!((answer.status, answer.text()), (200, "old"));
}

/// The old tag is not forwarded, and neither is it believed to be current.
async fn assert_not_revived(gateway: &Gateway, backend: &mut Script) {
    let mut stale = begin(gateway.put("/note", "stale").if_match("\"old\""));
    loop {
        tokio::select! {
            arrival = backend.next() => {
                assert_ne!(arrival.method, "PUT", "a stale write reached the backend");
                arrival.answer(200, &[("ETag", "\"new\"")], "new").await;
            }
            () = stale.finished() => break,
        }
    }
    assert_eq!(stale.answer().await.status, 409);
    backend.assert_quiet();
}

#[tokio::test]
async fn a_read_that_a_write_overtook_does_not_revive_the_old_tag() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();
    let known = begin(gateway.get("/note"));
    backend.expect("GET", "/note").await.answer(200, &[("ETag", "\"old\"")], "old").await;
    known.answer().await;

    overtake(&gateway, &mut backend, Some("\"new\"")).await;

    assert_not_revived(&gateway, &mut backend).await;
}

#[tokio::test]
async fn a_read_of_an_untracked_resource_that_a_write_overtook_does_not_revive_the_old_tag() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();

    overtake(&gateway, &mut backend, Some("\"new\"")).await;

    assert_not_revived(&gateway, &mut backend).await;
}

#[tokio::test]
async fn a_read_that_a_write_without_a_tag_overtook_does_not_revive_the_old_tag() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();

    overtake(&gateway, &mut backend, None).await;

    assert_not_revived(&gateway, &mut backend).await;
}

#[tokio::test]
async fn a_read_that_a_write_overtook_does_not_revive_the_old_tag_of_an_evicted_resource() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).rest("[tracker]\ncapacity = 1").start();

    let reader = begin(gateway.get("/note"));
    let read = backend.expect("GET", "/note").await;
    let writer = begin(gateway.put("/note", "new"));
    backend.expect("PUT", "/note").await.answer(200, &[("ETag", "\"new\"")], "").await;
    assert_eq!(writer.answer().await.status, 200);
    // Other resources take the only place, again and again.
    for n in 0..20 {
        let path = format!("/other/{n}");
        let other = begin(gateway.get(&path));
        backend.expect("GET", &path).await.answer(200, &[("ETag", "\"o\"")], "other").await;
        other.answer().await;
    }
    read.answer(200, &[("ETag", "\"old\"")], "old").await;
    reader.answer().await;

    assert_not_revived(&gateway, &mut backend).await;
}

#[tokio::test]
async fn a_read_that_began_and_ended_while_a_write_was_under_way_is_not_recorded() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();

    let writer = begin(gateway.put("/note", "new"));
    let write = backend.expect("PUT", "/note").await;
    let reader = begin(gateway.get("/note"));
    backend.expect("GET", "/note").await.answer(200, &[("ETag", "\"old\"")], "old").await;
    assert_eq!(reader.answer().await.text(), "old");
    write.answer(200, &[], "").await;
    assert_eq!(writer.answer().await.status, 200);

    assert_not_revived(&gateway, &mut backend).await;
}

#[tokio::test]
async fn a_read_that_began_during_a_write_and_ended_after_it_is_not_recorded() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();

    let writer = begin(gateway.put("/note", "new"));
    let write = backend.expect("PUT", "/note").await;
    let reader = begin(gateway.get("/note"));
    let read = backend.expect("GET", "/note").await;
    write.answer(200, &[("ETag", "\"new\"")], "").await;
    assert_eq!(writer.answer().await.status, 200);
    read.answer(200, &[("ETag", "\"old\"")], "old").await;
    reader.answer().await;

    assert_not_revived(&gateway, &mut backend).await;
}

#[tokio::test]
async fn a_read_overtaken_by_an_unguarded_post_does_not_revive_the_old_tag() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();

    let reader = begin(gateway.get("/note"));
    let read = backend.expect("GET", "/note").await;
    let writer = begin(gateway.call("POST", "/note").body("do something"));
    backend.expect("POST", "/note").await.answer(200, &[], "").await;
    assert_eq!(writer.answer().await.status, 200);
    read.answer(200, &[("ETag", "\"old\"")], "old").await;
    reader.answer().await;

    assert_not_revived(&gateway, &mut backend).await;
}

#[tokio::test]
async fn a_slow_answer_to_an_older_read_does_not_replace_what_a_later_one_showed() {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).start();

    let first = begin(gateway.get("/note"));
    let slow = backend.expect("GET", "/note").await;
    let second = begin(gateway.get("/note"));
    backend.expect("GET", "/note").await.answer(200, &[("ETag", "\"new\"")], "new").await;
    second.answer().await;
    slow.answer(200, &[("ETag", "\"old\"")], "old").await;
    first.answer().await;

    assert_not_revived(&gateway, &mut backend).await;
}
