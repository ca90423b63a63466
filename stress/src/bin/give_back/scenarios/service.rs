//! A service on an asynchronous runtime: tasks allocate on one worker thread, and others free
//! that on another.

use crate::books::Books;
use crate::report::{Figure, Measured};
use crate::rss::{self, Series};
use crate::scenario::{Scenario, Setup, WHOLE};
use crate::source::Source;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;
use stress::{Block, fail};
use tokio::sync::{mpsc, oneshot};

pub const SCENARIO: Scenario = Scenario {
    name: "async",
    about: "a tokio service whose tasks free what other workers allocated; constant live set",
    parts: WHOLE,
    address_space: None,
    run,
    judge: |parts| {
        vec![
            Figure::new("live", parts[0].mib("live_bytes"), "MiB"),
            Figure::new("freed elsewhere", 100.0 * parts[0].get("elsewhere_ratio"), "%"),
            Figure::new("RSS at the end", parts[0].mib("end_bytes"), "MiB"),
            Figure::new("RSS, swing", 100.0 * parts[0].get("swing_ratio"), "%").at_most(5.0),
        ]
    },
};

/// Sizes of the blocks, in bytes.
const SIZES: RangeInclusive<usize> = 16..=4096;
const WORKERS: usize = 4;
/// Tasks that keep blocks.
const SHARDS: usize = 4;
/// Tasks that send blocks and free what they get for them.
const CLIENTS: usize = 32;

/// A block, and which thread allocated it.
struct Item {
    block: Block,
    worker: u32,
}

/// A block to keep, and where an older one shall go.
struct Request {
    item: Item,
    reply: oneshot::Sender<Item>,
}

/// What the tasks share.
#[derive(Default)]
struct Service {
    full_shards: AtomicUsize,
    stop: AtomicBool,
    freed: AtomicU64,
    freed_elsewhere: AtomicU64,
}

fn run(setup: &Setup) -> Measured {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).build();
    let runtime = runtime.unwrap_or_else(|error| fail!("no runtime: {error}"));
    let time = setup.scale.duration(300.0, 10.0);
    let mut series = Series::new(time);
    let service = Arc::new(Service::default());
    let each = setup.scale.live() / SHARDS;
    let books: Vec<_> = (0..SHARDS).map(|_| Books::for_blocks(each, &SIZES)).collect();
    let before = rss::now();

    let (mut senders, mut shards, mut clients) = (Vec::new(), Vec::new(), Vec::new());
    for (number, books) in books.into_iter().enumerate() {
        let (sender, receiver) = mpsc::channel(CLIENTS);
        senders.push(sender);
        let shard = keep(setup.source(number), books, each, receiver, Arc::clone(&service));
        shards.push(runtime.spawn(shard));
    }
    for number in 0..CLIENTS {
        let source = setup.source(SHARDS + number);
        clients.push(runtime.spawn(ask(source, senders.clone(), Arc::clone(&service))));
    }
    drop(senders);
    while service.full_shards.load(Relaxed) < SHARDS {
        thread::sleep(Duration::from_millis(1));
    }
    series.record(time);
    service.stop.store(true, Relaxed);
    let end = rss::now().saturating_sub(before);
    let live = runtime.block_on(async {
        for client in clients {
            client.await.unwrap_or_else(|error| fail!("a client ended: {error}"));
        }
        let mut live = 0;
        for shard in shards {
            live += shard.await.unwrap_or_else(|error| fail!("a shard ended: {error}"));
        }
        live
    });
    let elsewhere = service.freed_elsewhere.load(Relaxed) as f64;
    Measured::default()
        .with("live_bytes", live)
        .with("elsewhere_ratio", elsewhere / service.freed.load(Relaxed) as f64)
        .with("end_bytes", end)
        .with("swing_ratio", series.later_half().relative(before))
}

/// A shard: keeps what comes and gives an older block for it. Returns the bytes that it had.
async fn keep(
    mut source: Source,
    mut items: Books<Item>,
    bytes: usize,
    mut requests: mpsc::Receiver<Request>,
    service: Arc<Service>,
) -> usize {
    let mut sum = 0;
    while sum < bytes {
        let item = Item { block: source.allocate_any(&SIZES), worker: this_worker() };
        sum += item.block.size();
        items.push(item);
    }
    service.full_shards.fetch_add(1, Relaxed);
    while let Some(Request { item, reply }) = requests.recv().await {
        let place = source.rng.usize(..items.len());
        let older = std::mem::replace(&mut items[place], item);
        if reply.send(older).is_err() {
            fail!("a client left before its reply");
        }
    }
    let live = items.iter().map(|item| item.block.size()).sum();
    while let Some(item) = items.pop() {
        source.free(item.block);
    }
    live
}

/// A client: sends a block to one shard after the other, and frees what it gets.
async fn ask(mut source: Source, shards: Vec<mpsc::Sender<Request>>, service: Arc<Service>) {
    for shard in shards.iter().cycle() {
        if service.stop.load(Relaxed) {
            return;
        }
        let item = Item { block: source.allocate_any(&SIZES), worker: this_worker() };
        let (reply, answer) = oneshot::channel();
        if shard.send(Request { item, reply }).await.is_err() {
            fail!("a shard ended before its clients");
        }
        let Ok(older) = answer.await else { fail!("a shard gave no answer") };
        let elsewhere = older.worker != this_worker();
        service.freed.fetch_add(1, Relaxed);
        service.freed_elsewhere.fetch_add(elsewhere.into(), Relaxed);
        source.free(older.block);
    }
}

/// A number of the thread that runs the task at this moment.
fn this_worker() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    thread_local! {
        static NUMBER: u32 = NEXT.fetch_add(1, Relaxed);
    }
    NUMBER.with(|number| *number)
}
