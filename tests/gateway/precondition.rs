//! What clients demand: tags strong and weak, lists, stars, and what can't be read.

use crate::support::{Gateway, Habits, Store, Tags};

async fn known(tags: Tags, guard: &str) -> (Store, Gateway, String) {
    let store = Store::with(Habits { tags, ..Habits::default() }).await;
    store.set("/note", "first");
    let gateway = Gateway::before(store.address).guard(guard).start();
    let tag = gateway.get("/note").expect(200).await.tag();
    (store, gateway, tag)
}

#[tokio::test]
async fn a_weak_tag_matches_nothing_strictly() {
    let (store, gateway, tag) = known(Tags::Weak, "").await;
    assert_eq!(tag, "W/\"v1\"");
    for demanded in ["W/\"v1\"", "\"v1\""] {
        gateway.put("/note", "x").if_match(demanded).expect(409).await;
    }
    assert_eq!(store.writes(), 0);
    gateway.put("/note", "x").if_match("*").expect(200).await;
}

#[tokio::test]
async fn a_strong_tag_does_not_match_a_weak_one() {
    let (store, gateway, tag) = known(Tags::Strong, "").await;
    gateway.put("/note", "x").if_match(&format!("W/{tag}")).expect(409).await;
    assert_eq!(store.writes(), 0);
    gateway.put("/note", "x").if_match(&tag).expect(200).await;
}

#[tokio::test]
async fn a_weak_tag_matches_where_the_route_compares_weakly() {
    for tags in [Tags::Weak, Tags::Strong] {
        let (store, gateway, mut tag) = known(tags, "comparison = \"weak\"").await;
        for weakly in [true, false, true] {
            let opaque = tag.trim_start_matches("W/");
            let demanded = if weakly { format!("W/{opaque}") } else { opaque.to_owned() };
            gateway.put("/note", "x").if_match("W/\"v\"").expect(409).await;
            tag = gateway.put("/note", "x").if_match(&demanded).expect(200).await.tag();
            // The one that was current until now, in both forms.
            gateway.put("/note", "x").if_match(&demanded).expect(409).await;
            gateway.put("/note", "x").if_match(demanded.trim_start_matches("W/")).expect(409).await;
        }
        assert_eq!((store.reads(), store.writes()), (1, 3));
    }
}

#[tokio::test]
async fn of_weak_writers_one_gets_through() {
    let (store, gateway, tag) = known(Tags::Weak, "comparison = \"weak\"").await;
    let opaque = tag.trim_start_matches("W/").to_owned();
    let calls: Vec<_> = (0..40)
        .map(|n| {
            let tag = if n % 2 == 0 { &tag } else { &opaque };
            crate::support::begin(gateway.put("/note", "x").if_match(tag))
        })
        .collect();
    let mut won = 0;
    for call in calls {
        won += usize::from(call.answer().await.status == 200);
    }
    assert_eq!((won, store.writes()), (1, 1));
}

#[tokio::test]
async fn a_tag_that_a_compressing_middlebox_rewrote_matches() {
    for suffix in ["-gzip", "-br", "-zstd", "-deflate", ";gzip", "--gzip"] {
        let (_store, gateway, _) = known(Tags::Strong, "").await;
        gateway.put("/note", "x").if_match(&format!("\"v1{suffix}\"")).expect(200).await;
        gateway.put("/note", "x").if_match(&format!("\"v1{suffix}\"")).expect(409).await;
        let (store, gateway, _) = known(Tags::Strong, "encoding_suffixes = false").await;
        gateway.put("/note", "x").if_match(&format!("\"v1{suffix}\"")).expect(409).await;
        assert_eq!(store.writes(), 0);
    }
    for other in ["\"v1-x\"", "\"v1gzip\"", "\"v1-gzip-\"", "\"V1\"", "\"v1 \"", "\"v\""] {
        let (_store, gateway, _) = known(Tags::Strong, "").await;
        let status = gateway.put("/note", "x").if_match(other).send().await.status;
        assert!([400, 409].contains(&status), "{other}: {status}");
    }
}

#[tokio::test]
async fn one_of_a_list_is_enough() {
    for demanded in ["\"x\", \"v1\"", "\"v1\",\"x\"", "W/\"v1\", \"v1\"", ", \"v1\" ,,", "\"a,b\", \"v1\"", "*"] {
        let (_store, gateway, _) = known(Tags::Strong, "").await;
        gateway.put("/note", "x").if_match(demanded).expect(200).await;
    }
    for demanded in ["\"x\", \"y\"", "W/\"v1\"", "\"v1,\"", "\"x, v1\"", "\"\""] {
        let (store, gateway, _) = known(Tags::Strong, "").await;
        let status = gateway.put("/note", "x").if_match(demanded).send().await.status;
        assert!([400, 409].contains(&status), "{demanded}: {status}");
        assert_eq!(store.writes(), 0);
    }
}

#[tokio::test]
async fn several_lines_are_one_list() {
    let (_store, gateway, tag) = known(Tags::Strong, "").await;
    gateway.put("/note", "x").if_match("\"x\"").if_match(&tag).expect(200).await;
    gateway.put("/note", "x").if_match("\"x\"").if_match(&tag).expect(409).await;
}

#[tokio::test]
async fn a_list_of_ten_thousand_tags_is_judged() {
    let (store, gateway, _) = known(Tags::Strong, "").await;
    let list: Vec<_> = (0..10_000).map(|n| format!("\"{n}\"")).collect();
    let status = gateway.put("/note", "x").if_match(&list.join(",")).send().await.status;
    assert!([409, 431].contains(&status), "{status}");
    assert_eq!(store.writes(), 0);
}

#[tokio::test]
async fn a_star_demands_that_there_is_something() {
    let (store, gateway, _) = known(Tags::Strong, "").await;
    gateway.put("/nothing", "x").if_match("*").expect(409).await.problem("stale");
    assert_eq!(store.writes(), 0);
    gateway.put("/note", "x").if_match("*").expect(200).await;
}

#[tokio::test]
async fn a_precondition_that_cannot_be_read_is_not_an_absent_one() {
    let (store, gateway, _) = known(Tags::Strong, "").await;
    for method in ["PUT", "PATCH", "DELETE", "POST", "FROBNICATE"] {
        for field in ["if-match", "if-none-match"] {
            for value in [
                "v1",
                "\"v1",
                "v1\"",
                "\"a\" \"v1\"",
                "*, \"v1\"",
                "\"v1\", *",
                "",
                ",",
                " , ",
                "W/v1",
                "w/\"v1\"",
                "W/ \"v1\"",
                "'v1'",
                "**",
                "\"v1\";q=1",
                "\"v1\"x",
            ] {
                let answer = gateway.call(method, "/note").body("x").with(field, value).expect(400).await;
                answer.problem("malformed-precondition");
            }
        }
    }
    assert_eq!(store.writes(), 0);
    // A good line does not make up for a bad one.
    gateway.put("/note", "x").if_match("\"v1\"").if_match("v1").expect(400).await;
    gateway.put("/note", "x").if_match("\"v1\"").with("if-none-match", "v1").expect(400).await;
    assert_eq!(store.writes(), 0);
}

#[tokio::test]
async fn if_none_match_refuses_what_it_names() {
    let (store, gateway, tag) = known(Tags::Strong, "").await;
    for demanded in [tag.clone(), format!("W/{tag}"), format!("\"x\", {tag}"), "*".to_owned()] {
        gateway.put("/note", "x").with("if-none-match", &demanded).expect(409).await.problem("exists");
    }
    assert_eq!(store.writes(), 0);
    gateway.put("/note", "x").with("if-none-match", "\"other\"").expect(200).await;
}

#[tokio::test]
async fn both_conditions_must_hold() {
    let (store, gateway, tag) = known(Tags::Strong, "").await;
    let put = || gateway.put("/note", "x");
    put().if_match("\"old\"").with("if-none-match", "\"other\"").expect(409).await.problem("stale");
    put().if_match(&tag).with("if-none-match", &tag).expect(409).await.problem("exists");
    assert_eq!(store.writes(), 0);
    put().if_match(&tag).with("if-none-match", "\"other\"").expect(200).await;
}

#[tokio::test]
async fn a_condition_on_an_unguarded_method_counts_too() {
    let (store, gateway, tag) = known(Tags::Strong, "").await;
    gateway.call("POST", "/note").if_match("\"old\"").expect(409).await;
    gateway.call("PROPPATCH", "/note").if_match("\"old\"").expect(409).await;
    assert_eq!(store.writes(), 0);
    gateway.call("POST", "/note").if_match(&tag).expect(200).await;
    gateway.put("/note", "x").if_match(&tag).expect(409).await;
}

#[tokio::test]
async fn connection_takes_no_condition_away() {
    let (store, gateway, tag) = known(Tags::Strong, "").await;
    gateway.put("/note", "x").if_match("\"old\"").with("connection", "If-Match").expect(409).await;
    gateway.put("/note", "x").if_match("\"old\"").with("connection", "close, if-match, etag").expect(409).await;
    gateway.put("/note", "x").with("if-none-match", "*").with("connection", "If-None-Match").expect(409).await;
    assert_eq!(store.writes(), 0);
    gateway.put("/note", "x").if_match(&tag).with("connection", "If-Match").expect(200).await;
    let put = store.reached().pop().expect("a request");
    assert_eq!(put.fields.get("if-match").map(|value| value.as_bytes()), Some(tag.as_bytes()));
}
