//! Whether the load generator is to be believed: another one, wrk, must find the same ratio.

use std::{
    io,
    process::{Command, Stdio},
    time::Duration,
};

use crate::{
    peers::{self, Certificate, Peer, Proxy, Setting},
    process,
    rounds::{CLIENTS, Load, median, rounds},
    shape::Shape,
    table::{runtime, text},
};

const ROUNDS: usize = 10;

pub(crate) fn run() -> Result<(), String> {
    peers::install()?;
    process::stay_on(&[1])?;
    let (_backend, backend) = process::backend(Some("1"))?;
    let setting = Setting { backend, workers: 1, cores: Some("0"), certificate: Certificate::make()? };
    let proxies = [Proxy::start(Peer::Ifmatch, &setting)?, Proxy::start(Peer::Nginx, &setting)?];
    let by_wrk = median((0..ROUNDS).map_while(|_| ratio_by_wrk(&proxies).ok()));
    let ours = runtime()?.block_on(ratio_by_us(&proxies)).map_err(text)?;
    println!(
        "GET 1 KiB, CPU a request, ifmatch / nginx: {by_wrk:.2} by wrk (1 s each, {ROUNDS} times), {ours:.2} by us"
    );
    if by_wrk.is_nan() { Err("wrk: apt install wrk".to_owned()) } else { Ok(()) }
}

fn ratio_by_wrk(proxies: &[Proxy; 2]) -> io::Result<f64> {
    let mut costs = [0.0; 2];
    for (proxy, cost) in proxies.iter().zip(&mut costs) {
        let before = proxy.process.cpu()?;
        let url = format!("http://{}{}", proxy.plain, Shape::Get.path(0));
        let output = Command::new("wrk")
            .args(["-t1", &format!("-c{CLIENTS}"), "-d1s", "-H", "Host: api.example.com", &url])
            .stderr(Stdio::inherit())
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let requests = text.lines().find_map(|line| line.trim().split_once(" requests in")?.0.parse::<f64>().ok());
        let cpu = proxy.process.cpu()? - before;
        *cost = cpu.as_secs_f64() / requests.ok_or(io::ErrorKind::InvalidData)?;
    }
    Ok(costs[0] / costs[1])
}

async fn ratio_by_us(proxies: &[Proxy; 2]) -> io::Result<f64> {
    let mut loads = Vec::new();
    for proxy in proxies {
        loads.push(Load::plain(proxy, Shape::Get, CLIENTS).await?);
    }
    let each: Vec<&Proxy> = proxies.iter().collect();
    let slices = rounds(&each, &mut loads, 4 * ROUNDS, Duration::from_millis(50)).await?;
    Ok(median(slices.iter().map(|round| round[0].cost() / round[1].cost())))
}
