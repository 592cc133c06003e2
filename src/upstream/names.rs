//! The addresses of a server's name: found once, trusted for a while, and then looked up again beside the requests.
//!
//! A resolver that fails leaves the old addresses in place: what a name meant a minute ago is a better guess than nothing.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::uri::Authority;
use tokio::{sync::watch, time::Instant};

type Found = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;
/// Who is asked for the addresses of a host and a port.
pub(super) type Resolver = Arc<dyn Fn(String, u16) -> Found + Send + Sync>;

/// The addresses of one server.
pub(super) struct Names {
    host: String,
    port: u16,
    resolver: Resolver,
    known: RwLock<Known>,
    /// Counts up whenever the addresses change.
    generation: AtomicU64,
    /// Who has asked and waits for the answer. Everybody else waits for the same one.
    asked: Mutex<Weak<watch::Sender<Option<Answer>>>>,
}

type Addresses = (Arc<[SocketAddr]>, u64);
type Answer = Result<Addresses, Arc<io::Error>>;

#[derive(Debug, Default)]
struct Known {
    addresses: Arc<[SocketAddr]>,
    /// `None`: nobody has asked yet, or there is nothing to ask.
    since: Option<Instant>,
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Names").field("host", &self.host).field("known", &self.known).finish_non_exhaustive()
    }
}

/// Asks the system.
pub(super) fn system() -> Resolver {
    Arc::new(|host, port| Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) }))
}

impl Names {
    pub(super) fn new(authority: &Authority, default_port: u16, resolver: Resolver) -> Self {
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(default_port);
        let known = match host.parse::<IpAddr>() {
            Ok(address) => Known { addresses: Arc::new([(address, port).into()]), since: None },
            Err(_) => Known::default(),
        };
        Self { host, port, resolver, known: RwLock::new(known), generation: AtomicU64::new(0), asked: Mutex::default() }
    }

    /// The addresses, and the generation they are of. Asks only where nothing is known.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it waits no more; what was asked goes on, and the next who wants to know waits for that.
    pub(super) async fn addresses(self: &Arc<Self>) -> io::Result<Addresses> {
        if let Some(known) = self.if_known() {
            return Ok(known);
        }
        let mut answer = self.ask();
        let answer = answer.wait_for(Option::is_some).await.map(|answer| answer.clone());
        match answer {
            Ok(Some(Ok(found))) => Ok(found),
            Ok(Some(Err(error))) => Err(io::Error::new(error.kind(), error)),
            // The worker that had asked has ended.
            Ok(None) | Err(_) => Err(io::ErrorKind::Interrupted.into()),
        }
    }

    fn if_known(&self) -> Option<Addresses> {
        let generation = self.generation();
        let known = Arc::clone(&self.known().addresses);
        (!known.is_empty()).then_some((known, generation))
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether this is one of the addresses.
    pub(super) fn has(&self, address: SocketAddr) -> bool {
        self.known().addresses.contains(&address)
    }

    /// Looks the name up again, beside the requests, if what is known of it is so old.
    pub(super) fn renew(self: &Arc<Self>, age: Duration) {
        if self.known().since.is_some_and(|since| since.elapsed() >= age) {
            // Nobody waits for this one.
            drop(self.ask());
        }
    }

    /// Has the name looked up, unless it is being looked up already: a resolver can't be interrupted, so where it does not
    /// answer those who have given up would leave a thread behind each.
    fn ask(self: &Arc<Self>) -> watch::Receiver<Option<Answer>> {
        let mut asked = self.asked();
        if let Some(asked) = asked.upgrade() {
            return asked.subscribe();
        }
        let (told, answer) = watch::channel(None);
        let told = Arc::new(told);
        *asked = Arc::downgrade(&told);
        let names = Arc::clone(self);
        tokio::spawn(async move {
            let found = names.look_up().await.inspect_err(|error| names.keep_old(error));
            told.send_replace(Some(found.map_err(Arc::new)));
        });
        answer
    }

    fn asked(&self) -> MutexGuard<'_, Weak<watch::Sender<Option<Answer>>>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep_old(&self, error: &io::Error) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(since) = &mut known.since {
            tracing::warn!(host = self.host, %error, "a name can't be resolved; its old addresses are kept");
            // The next try is due after the same time.
            *since = Instant::now();
        }
    }

    async fn look_up(&self) -> io::Result<Addresses> {
        let found = (self.resolver)(self.host.clone(), self.port).await?;
        if found.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if !same(&known.addresses, &found) {
            known.addresses = found.into();
            self.generation.fetch_add(1, Ordering::AcqRel);
        }
        known.since = Some(Instant::now());
        Ok((Arc::clone(&known.addresses), self.generation()))
    }

    fn known(&self) -> std::sync::RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Many resolvers give the same addresses in another order each time.
fn same(known: &[SocketAddr], found: &[SocketAddr]) -> bool {
    known.len() == found.len() && found.iter().all(|address| known.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Answers = Arc<std::sync::Mutex<Vec<Result<Vec<SocketAddr>, io::ErrorKind>>>>;

    /// Names whose resolver gives these answers, the last one first.
    fn names(host: &str, answers: Vec<Result<Vec<SocketAddr>, io::ErrorKind>>) -> (Arc<Names>, Answers) {
        let answers: Answers = Arc::new(std::sync::Mutex::new(answers));
        let left = Arc::clone(&answers);
        let resolver: Resolver = Arc::new(move |_, _| {
            let answer = left.lock().unwrap().pop().expect("nobody should ask so often");
            Box::pin(async move { answer.map_err(io::Error::from) })
        });
        (Arc::new(Names::new(&host.parse().unwrap(), 80, resolver)), answers)
    }

    fn address(last: u8) -> SocketAddr {
        ([127, 0, 0, last], 80).into()
    }

    async fn renewed(names: &Arc<Names>) {
        names.renew(Duration::from_secs(30));
        while names.asked().strong_count() > 0 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_is_looked_up_again_when_its_addresses_are_old() {
        let answers = vec![Ok(vec![address(3)]), Ok(vec![address(2), address(1)]), Ok(vec![address(1), address(2)])];
        let (names, left) = names("backend", answers);
        assert_eq!(&*names.addresses().await.unwrap().0, [address(1), address(2)]);
        let generation = names.generation();
        tokio::time::advance(Duration::from_secs(29)).await;
        renewed(&names).await;
        assert_eq!(left.lock().unwrap().len(), 2, "not so soon");
        tokio::time::advance(Duration::from_secs(1)).await;
        renewed(&names).await;
        assert_eq!((left.lock().unwrap().len(), names.generation()), (1, generation), "another order is no change");
        tokio::time::advance(Duration::from_secs(30)).await;
        renewed(&names).await;
        assert_eq!(&*names.addresses().await.unwrap().0, [address(3)]);
        assert!(names.generation() > generation && names.has(address(3)) && !names.has(address(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_resolver_that_fails_leaves_the_old_addresses() {
        let failures = [Err(io::ErrorKind::TimedOut), Ok(vec![]), Err(io::ErrorKind::TimedOut)];
        let (names, left) = names("backend", failures.into_iter().chain([Ok(vec![address(1)])]).collect());
        names.addresses().await.unwrap();
        for _ in 0..3 {
            tokio::time::advance(Duration::from_secs(30)).await;
            renewed(&names).await;
            renewed(&names).await;
            assert_eq!(&*names.addresses().await.unwrap().0, [address(1)]);
        }
        assert!(left.lock().unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_who_need_a_name_one_asks() {
        let (names, left) = names("backend", vec![Ok(vec![address(1)]), Err(io::ErrorKind::TimedOut)]);
        let (a, b) = tokio::join!(names.addresses(), names.addresses());
        assert!(a.is_err() && b.is_err() && left.lock().unwrap().len() == 1);
        let (a, b) = tokio::join!(names.addresses(), names.addresses());
        assert!(a.is_ok() && b.is_ok() && left.lock().unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_a_slow_resolver_up_does_not_have_the_next_ask_it_too() {
        let asked = Arc::new(AtomicU64::new(0));
        let (counted, (go, told)) = (Arc::clone(&asked), watch::channel(false));
        let resolver: Resolver = Arc::new(move |_, _| {
            counted.fetch_add(1, Ordering::Relaxed);
            let mut told = told.clone();
            Box::pin(async move {
                told.wait_for(|go| *go).await.map_err(io::Error::other)?;
                Ok(vec![address(1)])
            })
        });
        let names = Arc::new(Names::new(&"backend".parse().unwrap(), 80, resolver));
        for _ in 0..100 {
            tokio::time::timeout(Duration::from_secs(1), names.addresses()).await.unwrap_err();
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        go.send(true).unwrap();
        assert_eq!(&*names.addresses().await.unwrap().0, [address(1)], "what it said at last is not lost");
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_is_not_looked_up() {
        for (authority, expected) in [("127.0.0.1:81", "127.0.0.1:81"), ("[::1]", "[::1]:80")] {
            let (names, _) = names(authority, Vec::new());
            assert_eq!(&*names.addresses().await.unwrap().0, [expected.parse().unwrap()]);
            tokio::time::advance(Duration::from_secs(60)).await;
            renewed(&names).await;
        }
    }
}
