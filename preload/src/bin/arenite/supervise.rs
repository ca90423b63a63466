//! A child that runs as if it were the command itself: signals are passed on, and the command
//! ends as the child did.

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// The signals that are not passed on: those that a process's own instructions raise, those that stop it, which the
/// terminal sends to the child as well, and what can not be caught.
const OWN: [Signal; 14] = [
    Signal::SIGABRT,
    Signal::SIGBUS,
    Signal::SIGFPE,
    Signal::SIGILL,
    Signal::SIGKILL,
    Signal::SIGPIPE,
    Signal::SIGSEGV,
    Signal::SIGSTOP,
    Signal::SIGSYS,
    Signal::SIGTRAP,
    Signal::SIGTSTP,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
    Signal::SIGXFSZ,
];

/// Signals that this process does not leave as they were: Rust's runtime ignores the one, and has it by default again for its
/// children; [`keep_statuses`] changes the other.
const CHANGED: [libc::c_int; 2] = [libc::SIGPIPE, libc::SIGCHLD];

/// Whether whoever started the command had set them to be ignored.
static WERE_IGNORED: [AtomicBool; CHANGED.len()] = [const { AtomicBool::new(false) }; _];

#[used]
#[unsafe(link_section = ".init_array")]
static AT_START: extern "C" fn() = {
    extern "C" fn at_start() {
        for (signal, was_ignored) in CHANGED.into_iter().zip(&WERE_IGNORED) {
            // SAFETY: all zeros is a valid action, which the call fills.
            let ignored = unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0
                    && action.sa_sigaction == libc::SIG_IGN
            };
            was_ignored.store(ignored, Relaxed);
        }
    }
    at_start
};

/// Has the program begin with what the command ignored when it began.
pub fn inherit_ignored(command: &mut Command) {
    let signals = CHANGED.into_iter().zip(&WERE_IGNORED);
    for (signal, _) in signals.filter(|(_, was_ignored)| was_ignored.load(Relaxed)) {
        // SAFETY: between fork and exec the closure makes one system call.
        unsafe {
            command.pre_exec(move || {
                libc::signal(signal, libc::SIG_IGN);
                Ok(())
            });
        }
    }
}

/// Has the kernel keep the status of children, which it does not where whoever started the command set SIGCHLD to be ignored.
pub fn keep_statuses() -> io::Result<()> {
    Ok(set_default(Signal::SIGCHLD)?)
}

/// How a child ended, and what it took.
#[derive(Debug)]
pub struct Ended {
    pub pid: libc::pid_t,
    pub status: ExitStatus,
    pub wall: Duration,
    /// CPU time of the child and of the descendants it waited for.
    pub user: Duration,
    pub system: Duration,
    /// The largest of their peak resident sets. The kernel counts the command's own as well,
    /// from which the child was made (getrusage(2)).
    pub max_rss_bytes: u64,
}

/// Runs the child to its end. The error is that of its start.
pub fn run(command: &mut Command) -> io::Result<Ended> {
    keep_statuses()?;
    // Blocked and read one by one, so that none is lost between the start of the child and its
    // end, and none is sent to a process id that is another's already.
    let mut signals = SigSet::all();
    OWN.iter().for_each(|&signal| signals.remove(signal));
    let inherited = signals.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK)?;
    // SAFETY: between fork and exec the closure makes one system call and builds an error from
    // errno; it neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(move || Ok(inherited.thread_set_mask()?));
    }
    let queue = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)?;
    let start = Instant::now();
    let pid = command.spawn()?.id().cast_signed();
    loop {
        let signal = match queue.read_signal() {
            Ok(Some(signal)) => signal,
            Ok(None) | Err(Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        };
        let number = signal.ssi_signo.cast_signed();
        if number == libc::SIGCHLD {
            if let Some(ended) = try_wait(pid, start)? {
                return Ok(ended);
            }
        } else if signal.ssi_code != libc::SI_KERNEL || is_for_the_command_alone(number) {
            // SAFETY: the child is not waited for yet, so the number is its own.
            unsafe { libc::kill(pid, number) };
        }
    }
}

/// Whether a signal that the kernel sent does not go to the child, too. What the terminal sends does, which is in the
/// same group; but a session's leader alone hears that it is gone, and an alarm is that of one process.
fn is_for_the_command_alone(number: i32) -> bool {
    // SAFETY: no precondition.
    let leads_session = || unsafe { libc::getsid(0) == libc::getpid() };
    match number {
        libc::SIGALRM | libc::SIGVTALRM | libc::SIGPROF => true,
        libc::SIGHUP => leads_session(),
        _ => false,
    }
}

/// How the child ended, if it did.
fn try_wait(pid: libc::pid_t, start: Instant) -> io::Result<Option<Ended>> {
    let mut status = 0;
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // std waits without the resources that the child used.
    // SAFETY: both places are valid.
    let done = unsafe { libc::wait4(pid, &mut status, libc::WNOHANG, usage.as_mut_ptr()) };
    if done == 0 {
        return Ok(None);
    }
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all zero is a valid value, and wait4 filled it.
    let usage = unsafe { usage.assume_init() };
    Ok(Some(Ended {
        pid,
        status: ExitStatus::from_raw(status),
        wall: start.elapsed(),
        user: duration(usage.ru_utime),
        system: duration(usage.ru_stime),
        max_rss_bytes: 1024 * u64::try_from(usage.ru_maxrss).unwrap_or(0),
    }))
}

fn duration(time: libc::timeval) -> Duration {
    let part = |value: i64| u64::try_from(value).unwrap_or(0);
    Duration::from_secs(part(time.tv_sec)) + Duration::from_micros(part(time.tv_usec))
}

fn set_default(signal: Signal) -> nix::Result<()> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: no handler is installed.
    unsafe { sigaction(signal, &default) }.map(drop)
}

/// Ends the command as the child ended, by the same signal if one killed it.
pub fn end_like(status: ExitStatus) -> ! {
    let Some(number) = status.signal() else {
        std::process::exit(status.code().unwrap_or(1));
    };
    // The child has left its core file already, if one was wanted.
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_CORE) {
        let _ = setrlimit(Resource::RLIMIT_CORE, 0, hard);
    }
    // SAFETY: no handler is installed; the set is initialized before it is used, and unblocks
    // one signal of this thread. By number, since nix has no real-time signals.
    unsafe {
        libc::signal(number, libc::SIG_DFL);
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, number);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut());
        libc::raise(number);
    }
    // As the init process of a container, which no signal kills.
    std::process::exit(128 + number);
}
