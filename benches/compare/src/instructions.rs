//! User instructions a request: the figure that repeats, whatever else the machine is doing.
//!
//! `ifmatch` runs with one worker and its defaults under callgrind, twice: the difference between many requests and few is
//! free of what it costs to start, to connect and to stop. What the kernel does is not in it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    load,
    process::{self, Process},
    shape::Shape,
};

/// What is asked for.
#[derive(Debug)]
struct Asked {
    shapes: Vec<Shape>,
    requests: usize,
    connections: usize,
    profile: bool,
}

pub(crate) fn run(words: &[&str]) -> Result<(), String> {
    let asked = parse(words)?;
    let program = process::ifmatch();
    println!("{program}: {} requests by {} connections, one worker", asked.requests, asked.connections);
    println!("{:<26}{:>14}", "", "instructions");
    for shape in &asked.shapes {
        let few = count(*shape, asked.requests / 5, &asked)?;
        let many = count(*shape, asked.requests, &asked)?;
        let each = (many.instructions - few.instructions) / (many.requests - few.requests);
        println!("{:<26}{each:>14}", shape.title());
        if asked.profile {
            println!("{}\nWho calls whom: callgrind_annotate --tree=caller {}\n", top(&many)?, many.file.display());
        }
    }
    Ok(())
}

fn parse(words: &[&str]) -> Result<Asked, String> {
    let mut asked = Asked { shapes: Vec::new(), requests: 5_000, connections: 16, profile: false };
    let mut words = words.iter();
    while let Some(&word) = words.next() {
        let mut number = || words.next().and_then(|word| word.parse().ok()).ok_or(format!("{word}: which number?"));
        match word {
            "--requests" => asked.requests = number()?,
            "--connections" => asked.connections = number()?,
            "--profile" => asked.profile = true,
            shape => asked.shapes.push(Shape::parse(shape)?),
        }
    }
    if asked.shapes.is_empty() {
        asked.shapes = Shape::SMALL.to_vec();
    }
    Ok(asked)
}

/// A run that is over.
struct Count {
    requests: u64,
    instructions: u64,
    file: PathBuf,
}

fn count(shape: Shape, requests: usize, asked: &Asked) -> Result<Count, String> {
    let (_backend, backend) = process::backend(None)?;
    let address = process::free_address().map_err(|error| error.to_string())?;
    let admin = process::free_address().map_err(|error| error.to_string())?;
    let config = format!(
        "workers = 1\n[[listeners]]\naddress = \"{address}\"\n[upstreams.backend]\nservers = [\"http://{backend}\"]\n\
         [admin]\naddress = \"{admin}\"\n"
    );
    let config = process::file("instructions.toml", &config)?;
    let file = PathBuf::from(format!("callgrind.out.{}", shape.name()));
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", &format!("--callgrind-out-file={}", file.display())]);
    valgrind.arg(process::ifmatch()).args(["run", "--config"]).arg(config).stdout(Stdio::null()).stderr(Stdio::null());
    let mut gateway = Process::start(&mut valgrind).map_err(|error| format!("{error}: apt install valgrind"))?;
    process::wait_for(address)?;
    let each = requests / asked.connections;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(load::drive(address, shape, asked.connections, each)).map_err(|error| error.to_string())?;
    drop(runtime);
    gateway.stop();
    let instructions = total(&file)?;
    if !asked.profile {
        let _ = fs::remove_file(&file);
    }
    Ok(Count { requests: (each * asked.connections) as u64, instructions, file })
}

/// What callgrind counted in all.
fn total(file: &Path) -> Result<u64, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let line = text.lines().rev().find_map(|line| line.strip_prefix("totals: "));
    line.and_then(|line| line.trim().parse().ok()).ok_or(format!("{}: no total", file.display()))
}

/// Whose functions they are: the first that a function's name or place contains.
const PARTS: [(&str, &[&str]); 9] = [
    ("allocator", &["malloc", "free", "realloc", "unlink_chunk", "__rdl_", "__rust_"]),
    ("copies and comparisons of memory", &["memcpy", "memset", "memmove", "memcmp", "bcmp"]),
    ("ifmatch", &[":ifmatch::", ":<ifmatch::"]),
    ("hyper, h2", &["hyper::", "hyper_util::", ":h2::", "<h2::"]),
    ("httparse", &["httparse::"]),
    ("http, mostly HeaderMap", &["http::"]),
    ("tokio, mio", &["tokio::", "mio::"]),
    ("TLS", &["rustls::", "ring_core"]),
    ("the rest", &[""]),
];

/// Where the instructions of a request go: in whose code, in which functions themselves, and with what they call.
fn top(run: &Count) -> Result<String, String> {
    let (own, all) = (functions(run, "--inclusive=no")?, functions(run, "--inclusive=yes")?);
    let mut parts = [0; PARTS.len()];
    for (instructions, name) in &own {
        let part = PARTS.iter().position(|(_, words)| words.iter().any(|word| name.contains(word)));
        parts[part.unwrap_or(PARTS.len() - 1)] += instructions;
    }
    let each = |instructions: u64, name: &str| format!("{:>8}  {name}\n", instructions / run.requests);
    let parts: String =
        parts.into_iter().zip(PARTS).map(|(instructions, (part, _))| each(instructions, part)).collect();
    let list = |functions: &[(u64, String)]| {
        let lines = functions.iter().take(50).map(|(instructions, name)| {
            let name = name.split_once(':').filter(|(file, _)| !file.contains(' ')).map_or(&**name, |(_, name)| name);
            each(*instructions, &name.chars().take(150).collect::<String>())
        });
        lines.collect::<String>()
    };
    Ok(format!("\nIn whose code:\n{parts}\nIn themselves:\n{}\nWith what they call:\n{}", list(&own), list(&all)))
}

/// Callgrind's functions, those with the most instructions first: `1,000,000 (10.00%)  malloc.c:free [/lib/libc.so.6]`.
fn functions(run: &Count, inclusive: &str) -> Result<Vec<(u64, String)>, String> {
    let output = Command::new("callgrind_annotate")
        .args([inclusive, "--auto=no", "--threshold=100"])
        .arg(&run.file)
        .output()
        .map_err(|error| format!("callgrind_annotate: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().skip_while(|line| !line.contains("file:function")).skip(2);
    let functions = lines.filter_map(|line| {
        let (number, rest) = line.trim_start().split_once(' ')?;
        let name = rest.split_once(')')?.1.trim_start();
        let name = name.rsplit_once(" [").map_or(name, |(name, _)| name);
        Some((number.replace(',', "").parse().ok()?, name.to_owned()))
    });
    Ok(functions.collect())
}
