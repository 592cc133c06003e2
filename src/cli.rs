//! The commands: run, check, health, report, demo.

use std::{
    io,
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
    server::{Control, Passed, Server},
    telemetry,
};

mod admin;
mod health;
mod report;

/// Where the configuration is looked for.
const DEFAULT_FILE: &str = "/etc/ifmatch/ifmatch.toml";
/// Names another file than that.
const FILE_VARIABLE: &str = "IFMATCH_CONFIG";
/// What `--help` says in the end.
const EXIT_STATUS: &str = "Exit status: 0 if all went well; 1 if it did not, or a stop cut a write short; 2 for a file or \
                           an argument that can't be used.";
/// The exit status for a configuration that can't be used.
const BAD_CONFIGURATION: u8 = 2;

/// A gateway that refuses a write whose If-Match is stale before the service behind it sees it.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true, after_help = EXIT_STATUS)]
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
    /// Ask a running gateway whether it is ready; for a container that has no shell to ask with
    Health(health::Health),
    /// Print what a running gateway has counted by client, and what enforcing would change
    Report(report::Report),
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
            Command::Run(run) => run.start(),
            Command::Check(file) => file.check(),
            Command::Health(health) => health.ask(),
            Command::Report(report) => report.print(),
            Command::Demo(demo) => demo.start(),
        };
        telemetry::finish();
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(Failed::Configuration(path, errors)) => {
                let is_missing = path.as_deref().is_some_and(|path| path == Path::new(DEFAULT_FILE) && !path.exists());
                for error in &errors.errors {
                    match &path {
                        Some(path) => eprintln!("{}: {error}", path.display()),
                        None => eprintln!("{error}"),
                    }
                }
                if is_missing {
                    eprintln!("{NO_FILE}");
                }
                ExitCode::from(BAD_CONFIGURATION)
            }
            // The log has said so.
            Err(Failed::CutShort) => ExitCode::FAILURE,
            Err(Failed::Start(error)) => {
                eprintln!("ifmatch: {error}");
                ExitCode::FAILURE
            }
        }
    }
}

/// Where the file is named by nobody and is not there, what else there is to say.
const NO_FILE: &str = "name another with --config, or give run --listen and --upstream";

/// Why a command could not be carried out.
enum Failed {
    /// With the file, where it is one.
    Configuration(Option<PathBuf>, ConfigErrors),
    Start(Box<dyn std::error::Error + Send + Sync>),
    /// The stop came before everything had ended.
    CutShort,
}

impl From<ConfigErrors> for Failed {
    fn from(errors: ConfigErrors) -> Self {
        Self::Configuration(None, errors)
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Start(error.into())
    }
}

impl File {
    fn path(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(|| {
            std::env::var_os(FILE_VARIABLE).map_or_else(|| Path::new(DEFAULT_FILE).into(), PathBuf::from)
        })
    }

    fn check(&self) -> Result<(), Failed> {
        print!("{}", self.read()?.describe());
        Ok(())
    }

    /// The configuration, and the files that it names looked at.
    fn read(&self) -> Result<Config, Failed> {
        let path = self.path();
        let checked = Config::load(&path).and_then(|config| config.check().map(|()| config));
        checked.map_err(|errors| Failed::Configuration(Some(path), errors))
    }
}

impl Run {
    fn start(&self) -> Result<(), Failed> {
        // Before there are threads: it changes the environment.
        let passed = Passed::from_environment();
        match (self.listen, &self.upstream) {
            (Some(listen), Some(upstream)) => start(Config::single(listen, upstream)?, None, passed, |_| ()),
            (None, _) | (_, None) => start(self.file.read()?, Some(self.file.path()), passed, |_| ()),
        }
    }
}

impl Demo {
    /// The store runs in a thread of its own, as if it were somebody else's, and ends with the process.
    fn start(&self) -> Result<(), Failed> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind(self.store)).map_err(|error| {
            let hint = format!("{} can't be listened on: {error}; choose another with --store", self.store);
            io::Error::new(error.kind(), hint)
        })?;
        let store = listener.local_addr()?;
        let config = Config::single(self.listen, &format!("http://{store}"))?;
        thread::Builder::new().name("store".into()).spawn(move || runtime.block_on(demo::serve(listener)))?;
        let announce = |server: &Server| print!("{}", demo::transcript(store, server.addresses()[0]));
        start(config, None, Passed::default(), announce).map_err(|failed| match failed {
            Failed::Start(error) => Failed::Start(format!("{error}; choose another with --listen").into()),
            failed @ (Failed::Configuration(..) | Failed::CutShort) => failed,
        })
    }
}

/// Runs the gateway until it is told to stop.
fn start(config: Config, file: Option<PathBuf>, passed: Passed, announce: impl FnOnce(&Server)) -> Result<(), Failed> {
    telemetry::init(&config.log).map_err(Failed::Start)?;
    let server = Server::bind_with(config, passed)?;
    let server = match file {
        Some(file) => server.from_file(file),
        None => server,
    };
    announce(&server);
    let control = server.control();
    let (stop, stopped) = watch::channel(false);
    listen_to_signals(control.clone(), stop)?;
    server.run(&stopped)?;
    if control.was_cut_short() { Err(Failed::CutShort) } else { Ok(()) }
}

/// SIGHUP has the file read again, SIGTERM and SIGINT stop the gateway, and the second of these ends it at once.
fn listen_to_signals(control: Control, stop: watch::Sender<bool>) -> io::Result<()> {
    let signals = runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut terminate, mut interrupt, mut hang_up) = {
        let _entered = signals.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?, signal(SignalKind::hangup())?)
    };
    thread::Builder::new().name("signals".into()).spawn(move || {
        signals.block_on(async {
            let mut stops = 0;
            while stops < 2 {
                tokio::select! {
                    _ = terminate.recv() => stops += 1,
                    _ = interrupt.recv() => stops += 1,
                    _ = hang_up.recv() => {
                        control.reread();
                        continue;
                    }
                }
                if stops == 1 {
                    tracing::info!("stopping");
                    // No receiver is left where the server has stopped by itself.
                    let _ = stop.send(true);
                }
            }
            tracing::warn!("told to stop twice; what is under way is given up");
            telemetry::finish();
            std::process::exit(1);
        });
    })?;
    Ok(())
}
