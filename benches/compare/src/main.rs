//! What a request costs, beside nginx, nginx with a check in Lua, and HAProxy: `benches/compare/run COMMAND`.
//!
//! The load, the backend and the commands are one program, so that nothing needs to be installed but the peers. It knows
//! `ifmatch` only from outside, as the program that `IFMATCH_BIN` names. How it is measured, and what came out, is in
//! docs/performance.md.

mod backend;
mod check;
mod connection;
mod growth;
mod instructions;
mod load;
mod peers;
mod process;
mod rounds;
mod secure;
mod shape;
mod table;
mod train;
mod wire;

use std::{env, process::ExitCode};

const USAGE: &str = "\
Usage: benches/compare/run COMMAND

  table [cpu] [cores] [memory] [delay]
             ifmatch beside its peers, which root gets from Debian where they are missing
  growth [connections] [waiters] [balance] [records] [--records N]
             what a request costs as they grow; with N records at most, by default 10,000,000, which takes
             as long as so many GETs
  train [--requests N]
             shows ifmatch what is usual, so many requests of each kind, and stops it: for build/optimized
  wrk        whether wrk finds the same ratio to nginx (apt install wrk)
  instructions [SHAPE..] [--requests N] [--connections N] [--profile]
             user instructions a request, counted by callgrind (apt install valgrind); --profile also
             names the functions that they are spent in, and leaves callgrind's files

Shapes: get, put, fields, stale, get-large, put-large.
IFMATCH_BIN names the program that is measured; by default it is built first.";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let mut words = arguments.iter().map(String::as_str);
    let command = words.next().unwrap_or_default();
    let words: Vec<&str> = words.collect();
    let done = match command {
        "backend" => backend::serve(),
        "table" => table::run(&words),
        "growth" => growth::run(&words),
        "train" => train::run(&words),
        "wrk" => check::run(),
        "instructions" => instructions::run(&words),
        "" => Err(USAGE.to_owned()),
        unknown => Err(format!("{unknown}: no such command\n\n{USAGE}")),
    };
    process::tidy();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::from(2)
        }
    }
}
