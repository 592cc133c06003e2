//! What a request costs where there is more of something: connections, records, writers who wait.
//!
//! Only growth is asked for, so each figure is compared with that of the smallest case, in the same round.

use std::{io, time::Duration};

use tokio::task::JoinSet;

use crate::{
    load::Client,
    peers::{self, Certificate, Peer, Proxy, Setting},
    process,
    rounds::{CLIENTS, Load, Slice, median, quantile, rounds},
    shape::Shape,
    table::{runtime, text},
};

const SLICE: Duration = Duration::from_millis(50);
const ROUNDS: usize = 40;
const CONNECTIONS: [usize; 4] = [64, 1, 1_000, 10_000];
const TRIES: usize = 40;
const WAITERS: usize = 1_000;
/// How long the write takes that they wait for.
const WRITE: Duration = Duration::from_secs(20);

pub(crate) fn run(words: &[&str]) -> Result<(), String> {
    let mut most = 10_000_000;
    let mut parts = Vec::new();
    let mut words = words.iter();
    while let Some(&word) = words.next() {
        match word {
            "--records" => most = words.next().and_then(|word| word.parse().ok()).ok_or("--records: how many?")?,
            part => parts.push(part),
        }
    }
    if parts.is_empty() {
        parts = vec!["connections", "waiters", "balance", "records"];
    }
    peers::install()?;
    process::allow_files()?;
    process::stay_on(&[1])?;
    let (_backend, backend) = process::backend(Some("1"))?;
    let setting = Setting { backend, workers: 1, cores: Some("0"), certificate: Certificate::make()? };
    let runtime = runtime()?;
    for part in parts {
        let done = match part {
            "connections" => runtime.block_on(connections(&setting)),
            "records" => runtime.block_on(records(&setting, most)),
            "balance" => runtime.block_on(balance(&setting)),
            "waiters" => runtime.block_on(waiters(&setting)),
            unknown => return Err(format!("{unknown}: no such part of the growth")),
        };
        done.map_err(text)?;
    }
    Ok(())
}

async fn connections(setting: &Setting) -> io::Result<()> {
    println!("\nGET 1 KiB with more connections, {CLIENTS} of them in use at once: CPU a request\n");
    println!("| | connections | µs | of that with {} |\n|---|---|---|---|", CONNECTIONS[0]);
    for peer in [Peer::Ifmatch, Peer::Nginx] {
        let proxy = Proxy::start(peer, setting).map_err(io::Error::other)?;
        let mut loads = Vec::new();
        for connections in CONNECTIONS {
            loads.push(Load::plain(&proxy, Shape::Get, connections).await?);
        }
        let slices = rounds(&[&proxy; CONNECTIONS.len()], &mut loads, ROUNDS, SLICE).await?;
        for (at, connections) in CONNECTIONS.into_iter().enumerate() {
            row(&format!("{} | {connections}", peer.name()), &slices, at);
        }
    }
    Ok(())
}

async fn records(setting: &Setting, most: usize) -> io::Result<()> {
    println!("\nPUT 1 KiB, tag current, to one of so many resources: CPU a request\n");
    println!("| records | bytes each | µs | of that with the most |\n|---|---|---|---|");
    let counts = [most, most / 100, most / 10_000].map(|count| count.max(CLIENTS));
    let (mut proxies, mut loads, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
    // The largest first: it takes minutes to fill, and nothing lies idle for so long.
    for count in counts {
        let capacity = format!("[tracker]\ncapacity = {}", 2 * count);
        let proxy = Proxy::with(Peer::Ifmatch, setting, &capacity).map_err(io::Error::other)?;
        // Its connections' memory is used again by those that follow.
        Load::plain(&proxy, Shape::Get, CLIENTS).await?.slice(&proxy, SLICE).await?;
        let before = proxy.process.memory()?;
        loads.push(Load::roaming(&proxy, Shape::Put, count).await?);
        bytes.push(proxy.process.memory()?.saturating_sub(before) / count as u64);
        proxies.push(proxy);
    }
    let each: Vec<&Proxy> = proxies.iter().collect();
    let slices = rounds(&each, &mut loads, ROUNDS, SLICE).await?;
    for (at, count) in counts.into_iter().enumerate() {
        row(&format!("{count} | {}", bytes[at]), &slices, at);
    }
    Ok(())
}

async fn waiters(setting: &Setting) -> io::Result<()> {
    println!("\nPUT 1 KiB, tag stale, refused, while so many writers wait for their turn: CPU a request\n");
    println!("| waiting | µs | of that with none |\n|---|---|---|");
    let guard = format!("[guard]\nline = {WAITERS}\nwait = \"60s\"");
    let proxy = Proxy::with(Peer::Ifmatch, setting, &guard).map_err(io::Error::other)?;
    let (busy, idle) = (format!("/slow/{}/one", WRITE.as_millis()), "/small/another".to_owned());
    for path in [&busy, &idle] {
        Client::on(proxy.plain, Shape::Get, path, 0).prepare().await?;
    }
    let mut waiting = JoinSet::new();
    let before = proxy.process.cpu()?;
    for number in 0..=WAITERS {
        let mut client = Client::on(proxy.plain, Shape::Put, &busy, number);
        client.prepare().await?;
        waiting.spawn(async move { client.request().await });
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let joining = proxy.process.cpu()? - before;
    let mut loads = vec![Load::on(&proxy, Shape::Stale, &idle), Load::on(&proxy, Shape::Stale, &busy)];
    let slices = rounds(&[&proxy, &proxy], &mut loads, ROUNDS, SLICE).await?;
    row("0", &slices, 0);
    row(&WAITERS.to_string(), &slices, 1);
    if waiting.try_join_next().is_some() {
        return Err(io::Error::other("they did not wait as long as it was measured"));
    }
    let before = proxy.process.cpu()?;
    let mut answers = [0, 0];
    while let Some(status) = waiting.join_next().await {
        match status.map_err(io::Error::other)?? {
            204 => answers[0] += 1,
            409 => answers[1] += 1,
            other => return Err(io::Error::other(format!("{other} to a waiter"))),
        }
    }
    let leaving = proxy.process.cpu()? - before;
    let each = |all: Duration| all.as_secs_f64() * 1e6 / WAITERS as f64;
    println!(
        "\nA connection, a GET and getting in line cost {:.1} µs each, getting the turn and its refusal {:.1} µs \
         ({} written, {} refused).",
        each(joining),
        each(leaving),
        answers[0],
        answers[1]
    );
    Ok(())
}

/// Few connections that each carry much: does one worker get more of them than the other?
async fn balance(setting: &Setting) -> io::Result<()> {
    println!("\nGET 1 KiB over few HTTP/2 connections to two workers: the busier worker's part of the CPU time\n");
    println!("| connections | on average | worst of {TRIES} |\n|---|---|---|");
    let setting = Setting { workers: 2, cores: Some("0-1"), certificate: setting.certificate.clone(), ..*setting };
    let proxy = Proxy::start(Peer::Ifmatch, &setting).map_err(io::Error::other)?;
    for connections in [2, 4, 8, 16] {
        let mut parts = Vec::new();
        for _ in 0..TRIES {
            let mut load = Load::secure(&proxy, Shape::Get, &setting.certificate, connections).await?;
            let before = proxy.process.cpu_of_tasks()?;
            load.slice(&proxy, 2 * SLICE).await?;
            let after = proxy.process.cpu_of_tasks()?;
            let used = || after.iter().zip(&before).map(|(after, before)| (*after - *before).as_secs_f64());
            parts.push(used().fold(0.0, f64::max) / used().sum::<f64>());
        }
        let average = parts.iter().sum::<f64>() / TRIES as f64;
        let worst = parts.iter().copied().fold(0.0, f64::max);
        println!("| {connections} | {:.0} % | {:.0} % |", 100.0 * average, 100.0 * worst);
    }
    Ok(())
}

fn row(title: &str, slices: &[Vec<Slice>], at: usize) {
    let ratio = || slices.iter().map(|round| round[at].cost() / round[0].cost());
    let spread = (quantile(ratio(), 0.75) - quantile(ratio(), 0.25)) / 2.0;
    let cost = median(slices.iter().map(|round| round[at].cost()));
    println!("| {title} | {cost:.1} | {:.2} ±{spread:.2} |", median(ratio()));
}
