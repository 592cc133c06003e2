//! The table: what a request costs here and there, by ratios within a round.

use std::{
    io,
    time::{Duration, Instant},
};

use tokio::runtime::Runtime;

use crate::{
    load::Client,
    peers::{self, Certificate, Peer, Proxy, Setting},
    process,
    rounds::{CLIENTS, CONNECTIONS, Chance, Load, Slice, median, quantile, rounds},
    shape::Shape,
};

const SLICE: Duration = Duration::from_millis(50);
const ROUNDS: usize = 40;
/// Idle connections whose memory is counted.
const IDLE: usize = 10_000;
/// Requests a second at which the delay is measured.
const RATE: u32 = 2_000;

pub(crate) fn run(words: &[&str]) -> Result<(), String> {
    let parts: &[&str] = if words.is_empty() { &["cpu", "cores", "memory", "delay"] } else { words };
    peers::install()?;
    process::allow_files()?;
    let certificate = Certificate::make()?;
    let runtime = runtime()?;
    for part in parts {
        let done = match *part {
            "cpu" => runtime.block_on(cpu(&certificate)),
            "cores" => runtime.block_on(cores(&certificate)),
            "memory" => runtime.block_on(memory(&certificate)),
            "delay" => runtime.block_on(delay(&certificate)),
            unknown => Err(format!("{unknown}: no such part of the table")),
        };
        done?;
    }
    Ok(())
}

pub(crate) fn runtime() -> Result<Runtime, String> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())
}

pub(crate) fn text(error: io::Error) -> String {
    error.to_string()
}

/// All of them.
fn proxies(setting: &Setting) -> Result<Vec<Proxy>, String> {
    Peer::ALL.into_iter().map(|peer| Proxy::start(peer, setting)).collect()
}

async fn cpu(certificate: &Certificate) -> Result<(), String> {
    process::stay_on(&[1])?;
    let (_backend, backend) = process::backend(Some("1"))?;
    let setting = Setting { backend, workers: 1, cores: Some("0"), certificate: certificate.clone() };
    let proxies = proxies(&setting)?;
    let each: Vec<&Proxy> = proxies.iter().collect();
    println!("\nCPU a request: microseconds, and ifmatch's part of each peer's (± half the quartiles' distance)\n");
    heading("µs");
    for shape in Shape::ALL {
        let mut loads = Vec::new();
        for proxy in &proxies {
            // As many bytes as that are under way as the sockets hold; more connections only wait.
            let connections = if shape.is_large() { CLIENTS / 4 } else { CLIENTS };
            loads.push(Load::plain(proxy, shape, connections).await.map_err(text)?);
        }
        let slices = rounds(&each, &mut loads, ROUNDS, SLICE).await.map_err(text)?;
        row(shape.title(), &slices, Slice::cost, 1);
    }
    for (shape, title) in [(Shape::Get, "GET 1 KiB, h2 with TLS"), (Shape::Put, "PUT 1 KiB, h2 with TLS")] {
        let mut slices = Vec::new();
        // A connection carries no more than so many requests by default, wherever it leads.
        for _ in 0..4 {
            let mut loads = Vec::new();
            for proxy in &proxies {
                loads.push(Load::secure(proxy, shape, certificate, CONNECTIONS).await.map_err(text)?);
            }
            slices.extend(rounds(&each, &mut loads, ROUNDS / 4, SLICE).await.map_err(text)?);
        }
        row(title, &slices, Slice::cost, 1);
    }
    Ok(())
}

async fn cores(certificate: &Certificate) -> Result<(), String> {
    process::stay_on(&[0, 1])?;
    let (_backend, backend) = process::backend(Some("0-1"))?;
    let setting = Setting { backend, workers: 2, cores: Some("0-1"), certificate: certificate.clone() };
    let proxies = proxies(&setting)?;
    let each: Vec<&Proxy> = proxies.iter().collect();
    println!("\nTwo workers on two cores, which backend and load share: requests a second\n");
    heading("requests/s");
    for shape in [Shape::Get, Shape::Put] {
        let mut loads = Vec::new();
        for proxy in &proxies {
            loads.push(Load::plain(proxy, shape, CLIENTS).await.map_err(text)?);
        }
        let slices = rounds(&each, &mut loads, ROUNDS, 2 * SLICE).await.map_err(text)?;
        row(shape.title(), &slices, Slice::rate, 0);
    }
    Ok(())
}

fn heading(unit: &str) {
    let names = Peer::ALL.map(|peer| format!("{} {unit}", peer.name())).join(" | ");
    println!("| | {names} | /nginx | /nginx+Lua | /HAProxy |\n|---|---|---|---|---|---|---|---|");
}

/// Ifmatch stands first.
fn row(title: &str, slices: &[Vec<Slice>], figure: fn(Slice) -> f64, digits: usize) {
    let figures = (0..Peer::ALL.len()).map(|at| median(slices.iter().map(|round| figure(round[at]))));
    let figures: Vec<String> = figures.map(|value| format!("{value:.digits$}")).collect();
    let ratios = (1..Peer::ALL.len()).map(|at| {
        let within = || slices.iter().map(|round| figure(round[0]) / figure(round[at]));
        let spread = (quantile(within(), 0.75) - quantile(within(), 0.25)) / 2.0;
        format!("{:.2} ±{spread:.2}", median(within()))
    });
    println!("| {title} | {} | {} |", figures.join(" | "), ratios.collect::<Vec<_>>().join(" | "));
}

async fn memory(certificate: &Certificate) -> Result<(), String> {
    process::stay_on(&[1])?;
    let (_backend, backend) = process::backend(Some("1"))?;
    let setting = Setting { backend, workers: 1, cores: Some("0"), certificate: certificate.clone() };
    println!("\nMemory of an idle connection, of {IDLE} that have carried one request each: bytes\n");
    println!("| | bytes |\n|---|---|");
    for peer in Peer::ALL {
        let proxy = Proxy::start(peer, &setting)?;
        let mut few = Load::plain(&proxy, Shape::Get, CLIENTS).await.map_err(text)?;
        few.slice(&proxy, SLICE).await.map_err(text)?;
        let before = proxy.process.memory().map_err(text)?;
        let _many = Load::plain(&proxy, Shape::Put, IDLE).await.map_err(text)?;
        let each = proxy.process.memory().map_err(text)?.saturating_sub(before) / IDLE as u64;
        println!("| {} | {each} |", peer.name());
    }
    Ok(())
}

async fn delay(certificate: &Certificate) -> Result<(), String> {
    process::stay_on(&[1])?;
    let (_backend, backend) = process::backend(Some("1"))?;
    let setting = Setting { backend, workers: 1, cores: Some("0"), certificate: certificate.clone() };
    let proxies = proxies(&setting)?;
    println!("\nWhat a proxy adds to the median delay at {RATE} requests a second: microseconds\n");
    let mut chance = Chance::new();
    println!("| | none: the delay itself | {} |\n|---|---|---|---|---|---|", Peer::ALL.map(Peer::name).join(" | "));
    for shape in [Shape::Get, Shape::Put] {
        let mut ways = Vec::new();
        for to in [backend].into_iter().chain(proxies.iter().map(|proxy| proxy.plain)) {
            let mut clients = Vec::new();
            for number in 0..CLIENTS {
                let mut client = Client::new(to, shape, number);
                client.prepare().await.map_err(text)?;
                clients.push(client);
            }
            ways.push(clients);
        }
        let mut rounds = Vec::new();
        let mut order: Vec<usize> = (0..ways.len()).collect();
        for _ in 0..ROUNDS {
            chance.shuffle(&mut order);
            let mut delays = vec![0.0; ways.len()];
            for &at in &order {
                delays[at] = typical_delay(&mut ways[at]).await.map_err(text)?;
            }
            rounds.push(delays);
        }
        let cells = (1..ways.len()).map(|at| median(rounds.iter().map(|delays| delays[at] - delays[0])));
        let cells: Vec<String> = cells.map(|added| format!("{added:.0}")).collect();
        let direct = median(rounds.iter().map(|delays| delays[0]));
        println!("| {} | {direct:.0} | {} |", shape.title(), cells.join(" | "));
    }
    Ok(())
}

/// The median of some requests at the rate, in microseconds.
async fn typical_delay(clients: &mut [Client]) -> io::Result<f64> {
    let mut delays = Vec::new();
    let begun = Instant::now();
    for turn in 0..CLIENTS as u32 {
        let due = Duration::from_secs(turn.into()) / RATE;
        // Nothing else runs on this runtime, and its own clock is too coarse.
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
        let sent = Instant::now();
        clients[turn as usize % CLIENTS].request().await?;
        delays.push(sent.elapsed().as_secs_f64() * 1e6);
    }
    Ok(median(delays.into_iter()))
}
