//! A server: each thread keeps a set of blocks and replaces random ones; after a while it ends,
//! and the set goes on to another, new thread, which frees what its predecessors allocated.

use arenite::Arenite;
use clap::Parser;
use std::sync::Mutex;
use std::thread::{self, Scope};
use stress::sizes::{any_magnitude, layout};
use stress::{Block, Common, Run, Worker};

#[cfg_attr(not(feature = "system"), global_allocator)]
static GLOBAL: Arenite = Arenite::new();

#[derive(Parser)]
#[command(about = "Random replacement by threads that hand over to new ones")]
struct Args {
    #[command(flatten)]
    common: Common,
    /// Blocks in a thread's set
    #[arg(long, default_value_t = 1000)]
    blocks: usize,
    /// Size of the largest block
    #[arg(long, default_value_t = 1024)]
    max_size: usize,
    /// Replacements by one thread before it hands over
    #[arg(long, default_value_t = 20_000)]
    turn: u32,
}

/// What the threads share.
struct Server {
    args: Args,
    /// Sets that no thread has at the moment.
    idle: Mutex<Vec<Vec<Block>>>,
}

fn main() {
    let args = Args::parse();
    let run = Run::start("larson", &args.common, &GLOBAL);
    let server = Server {
        args,
        // One set more than threads, so that a successor seldom gets its predecessor's.
        idle: Mutex::new(vec![Vec::new()]),
    };
    thread::scope(|scope| {
        for worker in run.workers() {
            let server = &server;
            scope.spawn(move || serve(scope, server, worker, Vec::new()));
        }
    });
    let idle = server.idle.into_inner().expect("no thread panicked");
    run.worker(run.threads()).free_all(idle.into_iter().flatten());
    run.finish();
}

/// One thread's turn.
fn serve<'scope>(
    scope: &'scope Scope<'scope, '_>,
    server: &'scope Server,
    mut worker: Worker,
    mut set: Vec<Block>,
) {
    for _ in 0..server.args.turn {
        if !worker.more() {
            worker.free_all(set);
            return;
        }
        let size = any_magnitude(&mut worker.rng, server.args.max_size);
        if set.len() < server.args.blocks {
            set.push(worker.allocate(layout(size)));
        } else {
            let old = worker.rng.usize(..set.len());
            let new = worker.allocate(layout(size));
            worker.free(std::mem::replace(&mut set[old], new));
        }
    }
    let mut idle = server.idle.lock().expect("no thread panicked");
    let other = worker.rng.usize(..idle.len());
    std::mem::swap(&mut set, &mut idle[other]);
    drop(idle);
    scope.spawn(move || serve(scope, server, worker, set));
}
