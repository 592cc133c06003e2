//! The program in a process of its own, as systemd would run it: told by signals, heard by its notifications and its
//! log.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::UnixDatagram,
    process::{Child, Command},
    sync::mpsc::{self, UnboundedReceiver},
};

use super::{Call, Raw, outside, within};

/// A folder that is gone when the test is.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("ifmatch-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Puts a file there, whole, in the place of another.
    pub(crate) fn put(&self, name: &str, content: &str) -> PathBuf {
        fs::write(self.path("new"), content).expect("a file");
        fs::rename(self.path("new"), self.path(name)).expect("a file");
        self.path(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running `ifmatch run`. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Process {
    /// Of its first listener.
    pub(crate) address: SocketAddr,
    child: Child,
    told: UnixDatagram,
    lines: UnboundedReceiver<String>,
    _folder: Folder,
}

/// The program with these arguments.
pub(crate) fn ifmatch(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ifmatch"));
    command.args(arguments).env_remove("IFMATCH_CONFIG");
    command
}

impl Process {
    /// With this configuration file.
    pub(crate) async fn start(file: &Path) -> Self {
        Self::spawn(ifmatch(&["run", "--config", file.to_str().expect("UTF-8")])).await
    }

    /// Returns once it is ready.
    pub(crate) async fn spawn(mut command: Command) -> Self {
        let folder = Folder::new();
        let socket = folder.path("notify");
        let _entered = outside().enter();
        let told = UnixDatagram::bind(&socket).expect("a socket");
        command.env("NOTIFY_SOCKET", &socket).stderr(Stdio::piped()).stdout(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn().expect("the program runs");
        let mut stderr = BufReader::new(child.stderr.take().expect("its log")).lines();
        let (line, mut lines) = mpsc::unbounded_channel();
        outside().spawn(async move {
            while let Ok(Some(next)) = stderr.next_line().await {
                // Nobody reads any more where the test is over.
                let _ = line.send(next);
            }
        });
        let listening = next_with(&mut lines, "listening").await;
        let address = listening.split("address=").nth(1).and_then(|rest| rest.split_whitespace().next());
        let address = address.and_then(|address| address.parse().ok()).expect("an address");
        let mut process = Self { address, child, told, lines, _folder: folder };
        process.tells("READY=1").await;
        process
    }

    /// Waits until it tells systemd this, and returns all that it tells with it.
    pub(crate) async fn tells(&mut self, state: &str) -> String {
        let told = async {
            let mut buffer = [0; 1024];
            loop {
                let length = self.told.recv(&mut buffer).await.expect("a socket");
                let told = String::from_utf8_lossy(&buffer[..length]).into_owned();
                if told.lines().any(|line| line.starts_with(state)) {
                    return told;
                }
            }
        };
        within(&format!("{state} to be told"), told).await
    }

    /// Waits for a line of its log with this in it.
    pub(crate) async fn logs(&mut self, part: &str) -> String {
        next_with(&mut self.lines, part).await
    }

    /// The lines of its log that nobody has looked at.
    pub(crate) fn logged(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.lines.try_recv().ok()).collect()
    }

    pub(crate) async fn signal(&self, signal: &str) {
        let id = self.child.id().expect("it runs").to_string();
        let killed = Command::new("kill").args([signal, &id]).status().await.expect("kill runs");
        assert!(killed.success());
    }

    /// Waits for its end.
    pub(crate) async fn ends(&mut self) -> ExitStatus {
        within("the program to end", self.child.wait()).await.expect("a status")
    }

    pub(crate) fn call(&self, method: &str, path: &str) -> Call {
        Call::new(self.address, method, path)
    }

    pub(crate) fn get(&self, path: &str) -> Call {
        self.call("GET", path)
    }

    pub(crate) fn put(&self, path: &str, body: &str) -> Call {
        self.call("PUT", path).body(body)
    }

    pub(crate) async fn raw(&self) -> Raw {
        Raw::connect(self.address).await
    }
}

async fn next_with(lines: &mut UnboundedReceiver<String>, part: &str) -> String {
    let mut before = Vec::new();
    let found = async {
        loop {
            match lines.recv().await {
                Some(line) if line.contains(part) => return line,
                Some(line) => before.push(line),
                None => panic!("the log ended without {part:?}: {before:#?}"),
            }
        }
    };
    within(&format!("{part:?} in the log"), found).await
}
