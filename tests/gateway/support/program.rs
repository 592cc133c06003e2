//! The program itself, run with a file, where a test needs what it prints.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, Receiver},
    },
    thread,
};

use super::PATIENCE;

/// A running `ifmatch run`. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) file: PathBuf,
    child: Child,
    output: Receiver<String>,
    log: Receiver<String>,
}

impl Program {
    /// With listeners on ports of their own before this backend; `log` are keys of `[log]`, `top` of the whole file.
    pub(crate) fn before(backend: SocketAddr, log: &str, top: &str) -> Self {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let name = format!("ifmatch-program-{}-{}.toml", std::process::id(), STARTED.fetch_add(1, Ordering::Relaxed));
        let file = std::env::temp_dir().join(name);
        let admin = "[admin]\naddress = \"127.0.0.1:0\"\n";
        let text = format!(
            "workers = 1\ndrain_timeout = \"2s\"\n{top}\n[[listeners]]\naddress = \"127.0.0.1:0\"\n\
             [upstreams.backend]\nservers = [\"http://{backend}\"]\n{admin}[log]\n{log}\n"
        );
        fs::write(&file, text).expect("a file");
        let mut child = Command::new(env!("CARGO_BIN_EXE_ifmatch"))
            .args(["run", "--config", file.to_str().expect("UTF-8")])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program runs");
        let output = lines(child.stdout.take().expect("its output"));
        let log = lines(child.stderr.take().expect("its log"));
        let address = |said: &str| {
            let is_it = |line: &String| line.contains(said) && line.contains("127.0.0.1:");
            let line = std::iter::from_fn(|| log.recv_timeout(PATIENCE).ok()).find(is_it).expect(said);
            let after = line.split("127.0.0.1:").nth(1).expect("a port");
            let port: String = after.chars().take_while(char::is_ascii_digit).collect();
            SocketAddr::from(([127, 0, 0, 1], port.parse().expect("a port")))
        };
        let (address, admin) = (address("listening"), address("listening for operators"));
        Self { address, admin, file, child, output, log }
    }

    /// Writes something else into its file, and returns once it serves under that.
    pub(crate) fn change(&mut self, from: &str, to: &str) {
        let text = fs::read_to_string(&self.file).expect("a file");
        fs::write(&self.file, text.replacen(from, to, 1)).expect("a file");
        let mut log = std::iter::from_fn(|| self.log.recv_timeout(PATIENCE).ok());
        log.find(|line| line.contains("serving under the file as it is now")).expect("a reload");
    }

    /// The next line on its standard output.
    pub(crate) fn line(&self) -> String {
        self.output.recv_timeout(PATIENCE).expect("a line on standard output")
    }

    /// Stops it, and returns the lines that are left of its log.
    pub(crate) fn stop_with_log(mut self) -> Vec<String> {
        self.terminate();
        self.log.iter().collect()
    }

    /// Stops it, and returns the lines that are left.
    pub(crate) fn stop(mut self) -> Vec<String> {
        self.terminate();
        self.output.iter().collect()
    }

    fn terminate(&mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs").success());
        assert_eq!(self.child.wait().expect("it ends").code(), Some(0));
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It has ended already where it was stopped.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.file);
    }
}

/// Lines as they come, read to the end so that nobody waits for a full pipe.
fn lines(output: impl Read + Send + 'static) -> Receiver<String> {
    let (told, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            // Nobody listens any more where the test is over.
            let _ = told.send(line);
        }
    });
    lines
}
