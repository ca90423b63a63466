//! The service: values under keys, over HTTP, until they expire.

use crate::allocator;
use anyhow::{Context, Result};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use axum::serve::ListenerExt;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io::{Read, Write};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

/// The request header with a value's time to live in milliseconds.
pub const TTL: &str = "x-ttl-ms";

/// Time to live of a value that came without one.
const DEFAULT_TTL: Duration = Duration::from_secs(1);

/// How often the sweeper looks for values that have expired.
const SWEEP: Duration = Duration::from_millis(100);

/// Parts of the map, each under its own lock.
const SHARDS: usize = 64;

/// Threads of the service, and of the clients.
pub fn threads() -> usize {
    // On one CPU, too, blocks are to be freed by other threads than allocated them.
    std::thread::available_parallelism().map_or(2, usize::from).max(2)
}

struct Entry {
    value: Bytes,
    expires: Instant,
}

type Shard = RwLock<HashMap<String, Entry>>;

struct Store {
    shards: Vec<Shard>,
    hasher: RandomState,
}

impl Store {
    fn new() -> Self {
        Self {
            shards: std::iter::repeat_with(Shard::default).take(SHARDS).collect(),
            hasher: RandomState::new(),
        }
    }

    fn shard(&self, key: &str) -> &Shard {
        let hash = self.hasher.hash_one(key);
        &self.shards[hash as usize % self.shards.len()]
    }

    fn get(&self, key: &str) -> Option<Bytes> {
        let shard = self.shard(key).read().unwrap_or_else(PoisonError::into_inner);
        let entry = shard.get(key).filter(|entry| entry.expires > Instant::now())?;
        Some(entry.value.clone())
    }

    fn put(&self, key: String, entry: Entry) {
        let mut shard = self.shard(&key).write().unwrap_or_else(PoisonError::into_inner);
        let old = shard.insert(key, entry);
        drop(shard);
        drop(old);
    }

    fn delete(&self, key: &str) -> bool {
        let mut shard = self.shard(key).write().unwrap_or_else(PoisonError::into_inner);
        let old = shard.remove(key);
        drop(shard);
        old.is_some()
    }

    fn sweep(&self) {
        for shard in &self.shards {
            let now = Instant::now();
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            shard.retain(|_, entry| entry.expires > now);
        }
    }
}

async fn get_value(
    State(store): State<Arc<Store>>,
    Path(key): Path<String>,
) -> Result<Bytes, StatusCode> {
    store.get(&key).ok_or(StatusCode::NOT_FOUND)
}

async fn put_value(
    State(store): State<Arc<Store>>,
    Path(key): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    let ttl = headers.get(TTL).and_then(|ttl| ttl.to_str().ok()?.parse().ok());
    let expires = Instant::now() + ttl.map_or(DEFAULT_TTL, Duration::from_millis);
    // A copy of its own: the body may be a small part of the connection's buffer.
    store.put(key, Entry { value: Bytes::copy_from_slice(&body), expires });
    StatusCode::NO_CONTENT
}

async fn delete_value(State(store): State<Arc<Store>>, Path(key): Path<String>) -> StatusCode {
    if store.delete(&key) { StatusCode::NO_CONTENT } else { StatusCode::NOT_FOUND }
}

/// Serves until standard input ends. Says on standard output which allocator it runs on and
/// where it listens.
pub fn run() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads())
        .enable_all()
        .build()?;
    runtime.spawn(async {
        if let Err(error) = serve().await {
            eprintln!("arenite: the service ends: {error:#}");
            std::process::exit(1);
        }
    });
    // However the parent ends, the pipe then ends, too.
    std::io::stdin().read_to_end(&mut Vec::new())?;
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(())
}

async fn serve() -> Result<()> {
    let store = Arc::new(Store::new());
    tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            loop {
                tokio::time::sleep(SWEEP).await;
                store.sweep();
            }
        }
    });
    let router = Router::new()
        .route("/kv/{key}", get(get_value).put(put_value).delete(delete_value))
        .with_state(store);
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("no port on loopback")?;
    let address = listener.local_addr()?;
    let mut output = std::io::stdout();
    writeln!(output, "{} {address}", allocator::choice().name())?;
    output.flush()?;
    // Small answers must not wait for the acknowledgement of the one before.
    let listener = listener.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, router).await?;
    Ok(())
}
