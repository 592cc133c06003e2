//! The programs that take part: started, asked what they have used, and ended.

use std::{
    env, fs,
    io::{self, BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit},
    thread::{CpuSet, sched_setaffinity},
};

/// How long a program may take to listen or to end. Under valgrind both take long.
const PATIENCE: Duration = Duration::from_secs(60);

/// A program that runs. Dropped, it is ended.
#[derive(Debug)]
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn start(command: &mut Command) -> Result<Self, String> {
        let child = command.spawn().map_err(|error| format!("{}: {error}", command.get_program().display()))?;
        Ok(Self(child))
    }

    /// CPU time that it and its children have used so far.
    pub(crate) fn cpu(&self) -> io::Result<Duration> {
        self.cpu_of_tasks().map(|tasks| tasks.into_iter().sum())
    }

    /// The same of each task. As long as none begins or ends, they come in the same order.
    pub(crate) fn cpu_of_tasks(&self) -> io::Result<Vec<Duration>> {
        let mut tasks = Vec::new();
        for pid in family(self.0.id())? {
            for task in fs::read_dir(format!("/proc/{pid}/task"))? {
                let text = fs::read_to_string(task?.path().join("schedstat"))?;
                let used = text.split(' ').next().and_then(|word| word.parse::<u64>().ok());
                tasks.push(Duration::from_nanos(used.ok_or(io::ErrorKind::InvalidData)?));
            }
        }
        Ok(tasks)
    }

    /// Bytes of memory that it and its children hold.
    pub(crate) fn memory(&self) -> io::Result<u64> {
        let mut kibibytes = 0;
        for pid in family(self.0.id())? {
            let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
            let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            let held = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
            kibibytes += held.ok_or(io::ErrorKind::InvalidData)?;
        }
        Ok(kibibytes * 1024)
    }

    /// Asks it to stop, waits until it has, and says how it did.
    pub(crate) fn stop(&mut self) -> Option<ExitStatus> {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid
            && kill_process(pid, Signal::TERM).is_ok()
        {
            let begun = Instant::now();
            while begun.elapsed() < PATIENCE && matches!(self.0.try_wait(), Ok(None)) {
                thread::sleep(Duration::from_millis(10));
            }
        }
        self.0.try_wait().ok().flatten()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            self.stop();
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A process and all that it started, whether by a task of its own or of theirs.
fn family(pid: u32) -> io::Result<Vec<u32>> {
    let mut pids = vec![pid];
    let mut next = 0;
    while next < pids.len() {
        for task in fs::read_dir(format!("/proc/{}/task", pids[next]))? {
            let children = fs::read_to_string(task?.path().join("children"))?;
            pids.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
        next += 1;
    }
    Ok(pids)
}

/// Keeps this program on a core, or on two.
pub(crate) fn stay_on(cores: &[usize]) -> Result<(), String> {
    let mut set = CpuSet::new();
    cores.iter().for_each(|&core| set.set(core));
    sched_setaffinity(None, &set).map_err(|error| format!("cores {cores:?}: {error}"))
}

/// Lets this program and those that it starts have as many open files as the system grants.
pub(crate) fn allow_files() -> Result<(), String> {
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }).map_err(|error| format!("open files: {error}"))
}

/// A command, on these cores only, or on any.
pub(crate) fn pinned(cores: Option<&str>, program: &str) -> Command {
    let Some(cores) = cores else { return Command::new(program) };
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", cores, program]);
    command
}

/// The program that is measured.
pub(crate) fn ifmatch() -> String {
    env::var("IFMATCH_BIN").unwrap_or_else(|_| "target/release/ifmatch".to_owned())
}

/// Starts the backend, on these cores or on any, and says where it listens.
pub(crate) fn backend(cores: Option<&str>) -> Result<(Process, SocketAddr), String> {
    let this = env::current_exe().map_err(|error| error.to_string())?;
    let mut command = pinned(cores, &this.to_string_lossy());
    let mut process = Process::start(command.arg("backend").stdout(Stdio::piped()))?;
    let output = process.0.stdout.take().ok_or("the backend has no output")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line).map_err(|error| error.to_string())?;
    Ok((process, line.trim().parse().map_err(|_| "the backend says no address")?))
}

/// Writes a file for the time of this run.
pub(crate) fn file(name: &str, text: &str) -> Result<PathBuf, String> {
    let path = folder().join(name);
    let written = fs::create_dir_all(folder()).and_then(|()| fs::write(&path, text));
    written.map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(path)
}

/// Takes away all that was written by [`file`], and by the programs beside it.
pub(crate) fn tidy() {
    let _ = fs::remove_dir_all(folder());
}

fn folder() -> PathBuf {
    env::temp_dir().join(format!("ifmatch-compare-{}", std::process::id()))
}

/// Where nobody listens yet.
pub(crate) fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?.local_addr()
}

/// Returns once somebody listens there.
pub(crate) fn wait_for(address: SocketAddr) -> Result<(), String> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if TcpStream::connect(address).is_ok() {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Err(format!("nobody listens on {address}"))
}
