//! `ifmatch health`: asks the admin listener, and ends with 0 or 1. A container's health check, without a shell or curl.

use std::net::SocketAddr;

use clap::Args;

use super::{Failed, File, admin};

/// A longer answer is not read.
const LONGEST: u64 = 4096;

#[derive(Debug, Args)]
pub(super) struct Health {
    #[command(flatten)]
    file: File,
    /// Ask here [default: the admin address in the file]
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with = "config")]
    address: Option<SocketAddr>,
    /// Ask only whether the process serves (/livez), not whether it is ready to (/readyz)
    #[arg(long)]
    live: bool,
}

impl Health {
    pub(super) fn ask(&self) -> Result<(), Failed> {
        let address = admin::address(self.address, &self.file, "--address")?;
        let path = if self.live { "/livez" } else { "/readyz" };
        let said = admin::ask(address, path, LONGEST)?;
        println!("{}", admin::printable(said.lines().next().unwrap_or_default()));
        Ok(())
    }
}
