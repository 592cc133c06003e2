//! The `ifmatch` program.

use std::process::ExitCode;

use clap::Parser;
use ifmatch::cli::Arguments;

/// A request allocates several boxes of some KiB. The system's allocator has no quick way for these.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    Arguments::parse().carry_out()
}
