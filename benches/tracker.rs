//! What a record costs where there are many: time and memory from ten thousand records to ten million, with two threads.
//!
//! `cargo bench --bench tracker` prints a table; a number of records behind `--` is measured alone. Not by criterion: it can't
//! build ten million records for each sample, and here two threads are to meet. Keys are made before they are used, and
//! come by chance, so that what is counted is what a request pays: the cache misses of a record that was not used lately.

use std::{
    fs,
    hint::black_box,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    thread,
    time::Duration,
};

use ifmatch::{
    core::{
        etag::EntityTag,
        fields::Fields,
        policy::QueryRule,
        record::{Access, Outcome, Seen},
        resource::{Key, Namer, Target},
    },
    tracker::{Ask, Tracker},
};

/// The program's, since a size that it rounds up is paid ten million times.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const THREADS: usize = 2;
/// How many times each thread does each thing.
const TIMES: usize = 500_000;
const SIZES: [usize; 4] = [10_000, 100_000, 1_000_000, 10_000_000];

fn main() {
    let asked: Vec<usize> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    println!("{THREADS} threads, keys by chance; nanoseconds of CPU time an operation\n");
    println!(
        "| records | bytes a record | look up | 95 % look up, 5 % write | observe a read | take and settle a turn |"
    );
    println!("|---|---|---|---|---|---|");
    for size in if asked.is_empty() { SIZES.to_vec() } else { asked } {
        measure(size);
    }
}

fn measure(size: usize) {
    let before = held();
    let tracker = Arc::new(Tracker::new(2 * size, 1024));
    on_threads(|thread| {
        for number in (thread..size).step_by(THREADS) {
            observe(&tracker, key(number), number);
        }
    });
    assert_eq!(tracker.len(), size, "nothing was evicted");
    let bytes = (held() - before) / size;
    let keys: Vec<Vec<Key>> = (0..THREADS).map(|thread| by_chance(thread, size)).collect();
    let each = |act: &(dyn Fn(usize, Key) + Sync)| {
        let time = on_threads(|thread| keys[thread].iter().enumerate().for_each(|(number, &key)| act(number, key)));
        time.as_nanos() / TIMES as u128
    };
    let look = each(&|_, key| look_up(&tracker, key));
    let mixed =
        each(&|number, key| if number % 20 == 0 { write(&tracker, key, number) } else { look_up(&tracker, key) });
    let observed = each(&|number, key| observe(&tracker, key, number));
    let written = each(&|number, key| write(&tracker, key, number));
    println!("| {size} | {bytes} | {look} | {mixed} | {observed} | {written} |");
}

/// Runs it on each thread, and returns the CPU time of the one that used most: what others do on the machine is not in it.
fn on_threads(run: impl Fn(usize) + Sync) -> Duration {
    let timed = &|thread| {
        let before = used();
        run(thread);
        used() - before
    };
    thread::scope(|scope| {
        let running: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || timed(thread))).collect();
        running.into_iter().map(|one| one.join().expect("no panic")).max().unwrap_or_default()
    })
}

/// CPU time of this thread so far.
fn used() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let nanoseconds = text.split(' ').next().and_then(|word| word.parse().ok()).expect("a number");
    Duration::from_nanos(nanoseconds)
}

fn key(number: usize) -> Key {
    let target = Target::parse(&format!("/users/{number}"), None).expect("a path");
    Namer::new([1, 2]).key("service", "api.example.com", &target, &QueryRule::Include, &[], &Fields::new())
}

/// Keys of one thread's own: two writers of the same resource would wait for each other.
fn by_chance(thread: usize, size: usize) -> Vec<Key> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % (size / THREADS) as u64).expect("less than size")
    };
    (0..TIMES).map(|_| key(next() * THREADS + thread)).collect()
}

/// As long as most are, and made at little cost.
fn tag(number: usize) -> EntityTag {
    let mut bytes = *b"\"5d8c72a5eddaaaaa\"";
    bytes[9..17].iter_mut().zip(number.to_le_bytes()).for_each(|(digit, byte)| *digit += byte % 16);
    EntityTag::parse(&bytes).expect("a tag")
}

fn look_up(tracker: &Tracker, key: Key) {
    black_box(at_once(tracker.known(key, 0, None, |view| black_box(view.state) as *const _ as usize)));
}

fn observe(tracker: &Tracker, key: Key, number: usize) {
    let began = at_once(tracker.stamp());
    at_once(tracker.observe(key, began, Seen::Tag(tag(number), Some(1)), 0));
}

fn write(tracker: &Arc<Tracker>, key: Key, number: usize) {
    let (wait, hold) = (Duration::from_secs(1), Duration::ZERO);
    let ask = Ask { key, access: Access::Guarded, caller: 0, wait, line: 128, hold };
    let mut turn = at_once(tracker.begin_write(ask)).expect("nobody else writes here");
    at_once(turn.confirm()).expect("a turn in this process is not lost");
    at_once(turn.settle(Outcome::Committed(Some(tag(number)))));
}

/// The tracker's calls are ready at once as long as nobody waits.
fn at_once<T>(call: impl Future<Output = T>) -> T {
    match pin!(call).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("nobody waits"),
    }
}

/// Bytes of memory that this process holds.
fn held() -> usize {
    let text = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("what is held");
    1024 * line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number")
}
