//! The commands: run, check, demo.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
};

use clap::{Args, Parser, Subcommand};
use tokio::{
    net::TcpListener,
    runtime,
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use crate::{
    config::{Config, ConfigErrors},
    demo,
    server::Server,
    telemetry,
};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Where the configuration is looked for.
const DEFAULT_FILE: &str = "/etc/ifmatch/ifmatch.toml";
/// Names another file than that.
const FILE_VARIABLE: &str = "IFMATCH_CONFIG";
/// The exit status for a configuration that can't be used.
const BAD_CONFIGURATION: u8 = 2;

/// A gateway that refuses a write whose If-Match is stale before the service behind it sees it.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway
    Run(Run),
    /// Check a configuration file, and say in words what it means
    Check(File),
    /// Run a small store that loses updates, and the gateway before it, with commands to try
    Demo(Demo),
}

#[derive(Debug, Args)]
struct File {
    /// The configuration file [default: $IFMATCH_CONFIG, else /etc/ifmatch/ifmatch.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Run {
    #[command(flatten)]
    file: File,
    /// Listen here, without a file
    #[arg(long, value_name = "ADDRESS:PORT", requires = "upstream", conflicts_with = "config")]
    listen: Option<SocketAddr>,
    /// Forward to this service, without a file
    #[arg(long, value_name = "URL", requires = "listen", conflicts_with = "config")]
    upstream: Option<String>,
}

#[derive(Debug, Args)]
struct Demo {
    /// Where the gateway listens
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Where the store listens
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8081")]
    store: SocketAddr,
}

impl Arguments {
    /// Carries the command out. What goes wrong is written to standard error.
    #[must_use]
    pub fn carry_out(self) -> ExitCode {
        let done = match self.command {
            Command::Run(run) => run.config().map(|config| start(config, |_| ())),
            Command::Check(file) => Config::load(&file.path()).map(|config| {
                print!("{}", config.describe());
                Ok(())
            }),
            Command::Demo(demo) => demo.config().map(|config| demo.start(config)),
        };
        match done {
            Ok(Ok(())) => ExitCode::SUCCESS,
            Ok(Err(error)) => {
                eprintln!("ifmatch: {error}");
                ExitCode::FAILURE
            }
            Err(errors) => {
                eprintln!("{errors}");
                ExitCode::from(BAD_CONFIGURATION)
            }
        }
    }
}

impl File {
    fn path(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(|| {
            std::env::var_os(FILE_VARIABLE).map_or_else(|| Path::new(DEFAULT_FILE).into(), PathBuf::from)
        })
    }
}

impl Run {
    fn config(&self) -> Result<Config, ConfigErrors> {
        match (self.listen, &self.upstream) {
            (Some(listen), Some(upstream)) => Config::single(listen, upstream),
            (None, _) | (_, None) => Config::load(&self.file.path()),
        }
    }
}

impl Demo {
    fn config(&self) -> Result<Config, ConfigErrors> {
        Config::single(self.listen, &format!("http://{}", self.store))
    }

    /// The store runs in a thread of its own, as if it were somebody else's, and ends with the process.
    fn start(&self, config: Config) -> Result<(), Error> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = runtime
            .block_on(TcpListener::bind(self.store))
            .map_err(|error| format!("{} can't be listened on: {error}; choose another with --store", self.store))?;
        let store = listener.local_addr()?;
        thread::Builder::new().name("store".into()).spawn(move || runtime.block_on(demo::serve(listener)))?;
        start(config, |server| print!("{}", demo::transcript(store, server.addresses()[0])))
    }
}

/// Runs the gateway until it is told to stop.
fn start(config: Config, announce: impl FnOnce(&Server)) -> Result<(), Error> {
    telemetry::init(&config.log)?;
    let server = Server::bind(config)?;
    announce(&server);
    let (stop, stopped) = watch::channel(false);
    let signals = runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut terminate, mut interrupt) = {
        let _entered = signals.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
    };
    thread::Builder::new().name("signals".into()).spawn(move || {
        signals.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("stopping");
            // No receiver is left where the server has stopped by itself.
            let _ = stop.send(true);
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::warn!("told to stop twice; what is under way is given up");
            std::process::exit(1);
        });
    })?;
    server.run(&stopped)?;
    Ok(())
}
