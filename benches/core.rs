//! What the rules cost: one operation each, on one thread.
//!
//! `cargo bench` prints the time of each. The machine's noise counts here; compare runs side by side, and only those.

use std::{hint::black_box, sync::Arc, time::Duration};

use criterion::{Criterion, criterion_group, criterion_main};
use http::header::IF_MATCH;
use ifmatch::{
    core::{
        etag::EntityTag,
        fields::Fields,
        policy::{Policy, QueryRule},
        precondition::Demands,
        record::{Access, Outcome, Record, Seen, Source, Stamp},
        resource::{Key, Namer, Target},
        value::FieldValue,
        verdict,
    },
    tracker::{Ask, Tracker},
};

fn tag() -> EntityTag {
    EntityTag::parse(b"\"5d8c72a5edda8\"").expect("a tag")
}

fn preconditions() -> Fields {
    let mut headers = Fields::new();
    headers.insert(IF_MATCH, FieldValue::from_static("\"5d8c72a5edda8\""));
    headers
}

fn key(path: &str) -> Key {
    let target = Target::parse(path, None).expect("a path");
    Namer::new([1, 2]).key("service", "api.example.com", &target, &QueryRule::Include, &[], &Fields::new())
}

fn rules(c: &mut Criterion) {
    let headers = preconditions();
    c.bench_function("parse a precondition", |b| b.iter(|| Demands::parse(black_box(&headers))));
    c.bench_function("canonicalise a plain target", |b| {
        b.iter(|| Target::parse(black_box("/users/4711/addresses/home"), None));
    });
    c.bench_function("canonicalise an escaped target", |b| {
        b.iter(|| Target::parse(black_box("/users/%34711/../4711/addresses/hom%65"), None));
    });
    let namer = Namer::new([1, 2]);
    let target = Target::parse("/users/4711/addresses/home", None).expect("a path");
    let none = Fields::new();
    c.bench_function("name a resource", |b| {
        b.iter(|| namer.key("service", "api.example.com", black_box(&target), &QueryRule::Include, &[], &none));
    });
}

/// The rules themselves: no map, no lock.
fn record(c: &mut Criterion) {
    let policy = Policy::default();
    let demands = Demands::parse(&preconditions()).expect("well-formed");
    let source = Source { spelling: 1, caller: 2, now: 3 };
    let mut record = Record::new(Stamp(0));
    let mut clock = 0;
    let mut next = move || {
        clock += 1;
        Stamp(clock)
    };
    c.bench_function("record: observe", |b| {
        b.iter(|| record.observe(Seen::Tag(tag(), Some(1)), next(), next(), source));
    });
    c.bench_function("record: judge", |b| {
        b.iter(|| verdict::judge(&policy, black_box(&demands), true, record.view(source, None), None));
    });
    c.bench_function("record: begin and settle", |b| {
        b.iter(|| {
            record.begin(Access::Guarded);
            record.settle(Outcome::Committed(Some(tag())), next(), source);
            record.end();
        });
    });
}

fn tracker(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let tracker = Arc::new(Tracker::new(100_000, 1024));
    let policy = Policy::default();
    let demands = Demands::parse(&preconditions()).expect("well-formed");
    let ask = Ask {
        key: key("/users/4711"),
        access: Access::Guarded,
        caller: 0,
        wait: Duration::from_secs(1),
        line: 128,
        hold: Duration::ZERO,
    };
    let observe = async || {
        let began = tracker.stamp().await;
        tracker.observe(ask.key, began, Seen::Tag(tag(), Some(1)), 0).await;
    };
    runtime.block_on(observe());
    c.bench_function("observe a read", |b| b.iter(|| runtime.block_on(observe())));
    c.bench_function("judge on arrival", |b| {
        b.iter(|| {
            runtime.block_on(
                tracker.known(ask.key, ask.caller, None, |view| verdict::judge(&policy, &demands, true, view, None)),
            )
        });
    });
    c.bench_function("take a turn, judge, settle", |b| {
        b.iter(|| {
            runtime.block_on(async {
                let mut turn = tracker.begin_write(ask).await.expect("nobody else writes");
                let verdict = turn.known(None, |view| verdict::judge(&policy, &demands, true, view, None)).await;
                turn.confirm().await.expect("a turn in this process is not lost");
                turn.settle(Outcome::Committed(Some(tag()))).await;
                verdict
            })
        });
    });
}

criterion_group!(benches, rules, record, tracker);
criterion_main!(benches);
