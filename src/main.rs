//! The `ifmatch` program.

use std::process::ExitCode;

use clap::Parser;
use ifmatch::cli::Arguments;

fn main() -> ExitCode {
    Arguments::parse().carry_out()
}
