//! A multi-threaded process forks at any moment: while other threads allocate, while they hold
//! stdio's locks and allocate, and from a signal handler that may have interrupted malloc.
//!
//! Children of the first two kinds go on allocating, free blocks of threads that do not exist in
//! them, start threads and fork again; children of the handler only exit or exec, as their
//! thread may be in the middle of malloc. A child that does not end in time, or a fork that
//! does not return, is a violation.

use arenite::Arenite;
use clap::Parser;
use libc::{SIG_BLOCK, SIG_UNBLOCK, SIGPROF, c_char, c_int};
use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;
use stress::run::{checked, every_so_often, stopped, target};
use stress::sizes::{any_magnitude, layout};
use stress::{Block, Common, Run, Worker, child, fail};

#[cfg_attr(not(feature = "system"), global_allocator)]
static GLOBAL: Arenite = Arenite::new();

#[derive(Parser)]
#[command(about = "fork at any moment; --threads is how many allocate meanwhile")]
struct Args {
    #[command(flatten)]
    common: Common,
    /// No forks from a signal handler: glibc's own malloc can not stand them
    #[arg(long)]
    no_signals: bool,
    /// CPU time between two forks from a signal handler
    #[arg(long, value_name = "MS", default_value_t = 4)]
    signal_every: u64,
    /// Also allocate in a fork handler that was there before the allocator's own
    #[arg(long)]
    early_handler: bool,
    /// Size of the largest block
    #[arg(long, default_value_t = 100_000)]
    max_size: usize,
}

/// How long a child may take.
static PATIENCE: OnceLock<Duration> = OnceLock::new();
/// The early fork handler shall allocate.
static EARLY: AtomicBool = AtomicBool::new(false);
/// Forks by threads, and forks by the signal handler.
static FORKS: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

thread_local! {
    /// The thread is in the signal handler.
    static IN_HANDLER: Cell<bool> = const { Cell::new(false) };
}

fn main() {
    let args = Args::parse();
    let run = Run::start("fork_storm", &args.common, &GLOBAL);
    PATIENCE.get_or_init(|| run.patience());
    EARLY.store(args.early_handler, Relaxed);
    // SAFETY: the handler lives as long as the program.
    unsafe { libc::pthread_atfork(None, None, Some(late_handler)) };
    // Threads inherit it: only those that say so take the signal.
    mask(SIG_BLOCK);
    if !args.no_signals {
        let interval = Duration::from_millis(args.signal_every);
        every_so_often(libc::ITIMER_PROF, SIGPROF, interval, fork_in_handler);
    }
    thread::scope(|scope| {
        // Two threads fork, so that the vanished ones include one that was forking itself.
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..2).map(|_| sync_channel(64)).unzip();
        let mut number = 0;
        for worker in run.workers() {
            let (sender, args) = (senders[number % 2].clone(), &args);
            let interrupted = number.is_multiple_of(2);
            scope.spawn(move || allocate(worker, args, sender, interrupted));
            number += 1;
        }
        drop(senders);
        for stdio in [hold_a_stream, flush_all_streams] {
            let worker = run.worker(number);
            scope.spawn(move || stdio(worker));
            number += 1;
        }
        for gifts in receivers {
            let (worker, args) = (run.worker(number), &args);
            scope.spawn(move || fork_again_and_again(worker, args, gifts));
            number += 1;
        }
    });
    let [threads, handler] = FORKS.each_ref().map(|forks| forks.load(Relaxed));
    println!("{threads} forks, {handler} more from a signal handler");
    run.finish();
}

/// Blocks or unblocks the signal whose handler forks, for the calling thread.
fn mask(how: c_int) {
    // SAFETY: the set is made before it is used.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, SIGPROF);
        libc::pthread_sigmask(how, &set, std::ptr::null_mut());
    }
}

/// Allocates and frees, and gives some blocks to a thread that forks.
fn allocate(mut worker: Worker, args: &Args, gifts: SyncSender<Block>, interrupted: bool) {
    // Such a thread calls nothing of libc that is not ready for a fork in the middle of it.
    if interrupted {
        mask(SIG_UNBLOCK);
    }
    let mut blocks = Vec::new();
    while worker.more() {
        mix(&mut worker, args, &mut blocks);
        if worker.rng.u8(..8) == 0
            && let Some(block) = blocks.pop()
            && let Err(back) = gifts.try_send(block)
        {
            use std::sync::mpsc::TrySendError::{Disconnected, Full};
            let (Full(block) | Disconnected(block)) = back;
            worker.free(block);
        }
    }
    mask(SIG_BLOCK);
    worker.free_all(blocks);
}

/// One step of random allocation.
fn mix(worker: &mut Worker, args: &Args, blocks: &mut Vec<Block>) {
    if blocks.len() < 200 {
        let max = match worker.rng.u8(..) {
            0 => 1 << 20,
            1..16 => args.max_size,
            _ => 1024,
        };
        let size = any_magnitude(&mut worker.rng, max);
        blocks.push(worker.allocate(layout(size)));
    } else {
        for _ in 0..worker.rng.usize(..200) {
            let i = worker.rng.usize(..blocks.len());
            let block = blocks.swap_remove(i);
            worker.free(block);
        }
    }
}

/// Forks until the run ends.
fn fork_again_and_again(mut worker: Worker, args: &Args, gifts: Receiver<Block>) {
    let mut held: Vec<Block> = Vec::new();
    while worker.more() {
        // The oldest go, so that there are always some whose thread still lives.
        worker.free_all(held.drain(..held.len().saturating_sub(100)));
        held.extend(gifts.try_iter().take(64));
        worker.rng.shuffle(&mut held);
        // The child gets other random numbers each time.
        let kind = worker.rng.u8(..8);
        // SAFETY: the child uses nothing that a thread which it lacks may have locked, except
        // the allocator, which is what is tested.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            child::forget_all();
            live(worker, args, held, kind, 1);
        }
        FORKS[0].fetch_add(1, Relaxed);
        wait(pid, 1);
    }
    worker.free_all(held);
    // Until the threads that allocate have ended.
    worker.free_all(gifts);
}

/// The life of a child.
fn live(mut worker: Worker, args: &Args, gifts: Vec<Block>, kind: u8, depth: u32) -> ! {
    match kind {
        0 => exit(),
        1 => exec(),
        _ => {}
    }
    let mut blocks = Vec::new();
    for _ in 0..worker.rng.usize(..500) {
        mix(&mut worker, args, &mut blocks);
    }
    if kind == 2 {
        // Its threads free what the vanished ones allocated.
        let mut shares: Vec<_> = [(); 3].map(|()| Vec::new()).into();
        for (i, block) in gifts.into_iter().enumerate() {
            shares[i % 3].push(block);
        }
        let free_and_allocate = |share: Vec<Block>| {
            for block in share {
                checked(block.free(target()));
                let block = Block::allocate(target(), layout(300), 0);
                checked(checked(block).map_or(Ok(()), |block| block.free(target())));
            }
        };
        let works = shares.into_iter().map(|share| move || free_and_allocate(share));
        child::run_in_threads(works.collect());
    } else {
        worker.free_all(gifts);
    }
    for _ in 0..worker.rng.usize(..500) {
        mix(&mut worker, args, &mut blocks);
    }
    if kind == 3 && depth == 1 {
        let kind = worker.rng.u8(..3);
        // SAFETY: this process has one thread.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            child::forget_all();
            live(worker, args, blocks, kind, 2);
        }
        wait(pid, 2);
    }
    worker.free_all(blocks);
    exit()
}

/// Waits for a child; the deeper, the shorter, so that a grandchild that hangs is killed by its
/// parent and not left behind.
fn wait(pid: libc::pid_t, depth: u32) {
    if pid < 0 {
        fail!("fork: {}", std::io::Error::last_os_error());
    }
    let patience = PATIENCE.get().copied().unwrap_or(Duration::from_secs(60));
    child::expect_success(pid, patience / depth);
}

fn exit() -> ! {
    // SAFETY: no precondition.
    unsafe { libc::_exit(0) }
}

fn exec() -> ! {
    let argv = [c"/bin/true".as_ptr(), std::ptr::null()];
    // SAFETY: the arguments are strings, ended by null.
    unsafe { libc::execv(argv[0], argv.as_ptr()) };
    // No such program here.
    exit()
}

/// The signal handler.
extern "C" fn fork_in_handler(_: c_int) {
    // SAFETY: the thread's own errno.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { *errno };
    IN_HANDLER.set(true);
    let number = FORKS[1].fetch_add(1, Relaxed);
    // SAFETY: the child only exits or execs.
    let pid = unsafe { libc::fork() };
    match pid {
        0 if number.is_multiple_of(4) => exec(),
        0 => exit(),
        _ => wait(pid, 1),
    }
    IN_HANDLER.set(false);
    // SAFETY: as above.
    unsafe { *errno = before };
}

/// A fork handler of the program, called in every child.
unsafe extern "C" fn late_handler() {
    // The thread may be in the middle of malloc.
    if !IN_HANDLER.get() {
        for size in [24, 3000, 300_000] {
            let block = checked(Block::allocate(target(), layout(size), 0));
            let Some(mut block) = block else { continue };
            checked(block.resize(target(), size * 2));
            checked(block.free(target()));
        }
    }
}

unsafe extern "C" fn early_handler() {
    if EARLY.load(Relaxed) {
        // SAFETY: it has no precondition.
        unsafe { late_handler() };
    }
}

/// Constructors of the program run before anything in it allocates; a fork handler that is
/// registered so early is called before the allocator's in the child.
#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = {
    extern "C" fn constructor() {
        // SAFETY: the handler lives as long as the program.
        unsafe { libc::pthread_atfork(None, None, Some(early_handler)) };
    }
    constructor
};

unsafe extern "C" {
    /// Not in the `libc` crate for Linux.
    fn flockfile(stream: *mut libc::FILE);
    /// As above.
    fn funlockfile(stream: *mut libc::FILE);
}

fn open_null() -> *mut libc::FILE {
    // SAFETY: both are strings.
    let stream = unsafe { libc::fopen(c"/dev/null".as_ptr(), c"w".as_ptr()) };
    if stream.is_null() {
        fail!("/dev/null: {}", std::io::Error::last_os_error());
    }
    stream
}

/// Allocates while it holds a stream's lock, as stdio does when it makes a buffer.
fn hold_a_stream(mut worker: Worker) {
    let stream = open_null();
    let mut blocks = Vec::new();
    while worker.more() {
        let size = any_magnitude(&mut worker.rng, 50_000);
        // SAFETY: the stream is open; the arguments are what the format says.
        unsafe {
            flockfile(stream);
            blocks.push(worker.allocate(layout(size)));
            libc::fprintf(stream, c"%zu\n".as_ptr(), size);
            if blocks.len() == 50 {
                worker.free_all(blocks.drain(..));
                libc::fflush(stream);
            }
            funlockfile(stream);
        }
    }
    worker.free_all(blocks);
    // SAFETY: the stream is open and not used after this.
    unsafe { libc::fclose(stream) };
}

/// Holds the lock of the list of all streams and waits there for the lock of each; opens and
/// closes streams, and has one that grows in memory.
fn flush_all_streams(mut worker: Worker) {
    while worker.more() {
        let stream = open_null();
        let mut buffer: *mut c_char = std::ptr::null_mut();
        let mut size = 0;
        // SAFETY: the streams are open when they are used; `buffer` is free's after fclose.
        unsafe {
            libc::fprintf(stream, c"%d\n".as_ptr(), 1 as c_int);
            libc::fflush(std::ptr::null_mut());
            libc::fclose(stream);
            let memory = libc::open_memstream(&mut buffer, &mut size);
            if !memory.is_null() {
                for i in 0..worker.rng.i32(..500) {
                    libc::fprintf(memory, c"line %d\n".as_ptr(), i);
                }
                libc::fclose(memory);
                libc::free(buffer.cast());
            }
        }
        if stopped() {
            break;
        }
    }
}
