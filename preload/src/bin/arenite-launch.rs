//! Internal to `arenite compare`: runs one program and reports what the kernel counted for it.
//!
//! The kernel keeps a process's peak RSS over exec (`setmax_mm_hiwater_rss` in fs/exec.c), so a
//! program that a large process starts by vfork seems as large as that process. This one is
//! small: it forks, and what is copied of it is smaller still. So it uses libc only, and none of
//! std, not even std's start of a process.
//!
//! ```text
//! arenite-launch LIBRARY thp|no-thp PROGRAM ARGUMENTS...
//! arenite-launch --whose-malloc
//! ```
//!
//! The first writes ten native 64-bit numbers to the pipe that is its standard input: the errno of
//! what kept the program from running, or 0; its wait status; wall time in ns; user and system time
//! in µs; peak RSS in KiB; minor and major faults; voluntary and involuntary context switches. The
//! program's standard input is /dev/null; LD_PRELOAD is the library, or not set if that is empty.
//! With `no-thp` the program gets no transparent huge pages (PR_SET_THP_DISABLE of prctl(2)).
//!
//! The second prints the path of the object that `malloc` comes from.
#![no_main]

use libc::{c_char, c_int};
use std::ffi::CStr;

#[unsafe(no_mangle)]
extern "C" fn main(count: c_int, arguments: *const *const c_char) -> c_int {
    // SAFETY: C's main gets `count` strings and a NULL behind them.
    let arguments = unsafe { std::slice::from_raw_parts(arguments, count as usize + 1) };
    // SAFETY: all but the last are strings that live as long as the process.
    let is = |word: *const c_char, text: &CStr| unsafe { CStr::from_ptr(word) } == text;
    let done = match arguments {
        [_, question, _] if is(*question, c"--whose-malloc") => whose_malloc(),
        [_, library, pages, program @ ..] if program.len() > 1 => {
            launch(*library, is(*pages, c"no-thp"), program)
        }
        _ => false,
    };
    if done { 0 } else { 125 }
}

/// Prints the path of the object that the process's `malloc` is in.
fn whose_malloc() -> bool {
    let mut found = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: the name is a string and `found` a valid place; on success dladdr filled it, and
    // the name in it is that of an object that stays loaded.
    unsafe {
        let malloc = libc::dlsym(libc::RTLD_DEFAULT, c"malloc".as_ptr());
        libc::dladdr(malloc, found.as_mut_ptr()) != 0
            && libc::puts(found.assume_init().dli_fname) >= 0
    }
}

/// Runs the program, a NULL-terminated list of strings, and reports. False if it can not report.
fn launch(library: *const c_char, no_huge_pages: bool, program: &[*const c_char]) -> bool {
    // SAFETY: the call has no precondition.
    let report = unsafe { libc::fcntl(0, libc::F_DUPFD_CLOEXEC, 3) };
    if report < 0 {
        return false;
    }
    let numbers = match prepare(library, no_huge_pages).and_then(|()| measure(program)) {
        Ok(Run { status, nanoseconds, usage }) => {
            let micro = |time: libc::timeval| time.tv_sec * 1_000_000 + time.tv_usec;
            [
                0,
                status.into(),
                nanoseconds,
                micro(usage.ru_utime),
                micro(usage.ru_stime),
                usage.ru_maxrss,
                usage.ru_minflt,
                usage.ru_majflt,
                usage.ru_nvcsw,
                usage.ru_nivcsw,
            ]
        }
        Err(errno) => [errno.into(), 0, 0, 0, 0, 0, 0, 0, 0, 0],
    };
    let size = size_of_val(&numbers);
    // SAFETY: the array has that many bytes. A pipe takes so few at once.
    unsafe { libc::write(report, (&raw const numbers).cast(), size) == size as isize }
}

/// The errno of a call, if it failed.
fn check(result: c_int) -> Result<c_int, c_int> {
    // SAFETY: the address is the thread's own errno.
    if result < 0 { Err(unsafe { *libc::__errno_location() }) } else { Ok(result) }
}

/// What the program inherits.
fn prepare(library: *const c_char, no_huge_pages: bool) -> Result<(), c_int> {
    // SAFETY: the names are strings, `library` is one of main's; the process has one thread, so
    // nobody else reads the environment; no handler is installed.
    unsafe {
        let null = check(libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC))?;
        check(libc::dup2(null, 0))?;
        let preload = c"LD_PRELOAD".as_ptr();
        check(match *library {
            0 => libc::unsetenv(preload),
            _ => libc::setenv(preload, library, 1),
        })?;
        if no_huge_pages {
            check(libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0))?;
        }
        // If the caller had it ignored, the kernel would keep no status.
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
    }
    Ok(())
}

/// A program that has ended.
struct Run {
    /// As wait(2) has it.
    status: c_int,
    /// Wall time from before the fork to after the wait.
    nanoseconds: i64,
    usage: libc::rusage,
}

/// Runs the program to its end. The error is the errno of what kept it from running.
fn measure(program: &[*const c_char]) -> Result<Run, c_int> {
    // Tells why the program does not run; closed by the exec if it does.
    let mut pipe = [0; 2];
    // SAFETY: `pipe` has place for two.
    check(unsafe { libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC) })?;
    let [reader, writer] = pipe;
    let mut errno: c_int = 0;
    let size = size_of::<c_int>();
    let mut status = 0;
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    let start = now();
    // Not vfork, nor posix_spawn, which is one: the child shares the memory then, and its size.
    // SAFETY: the process has one thread. The child only calls exec, write and _exit, on strings
    // of main's and a valid place; the places for the wait are valid, and zero is a valid rusage.
    unsafe {
        let child = check(libc::fork())?;
        if child == 0 {
            libc::execvp(program[0], program.as_ptr());
            libc::write(writer, libc::__errno_location().cast(), size);
            libc::_exit(127);
        }
        loop {
            match check(libc::wait4(child, &mut status, 0, usage.as_mut_ptr())) {
                Err(libc::EINTR) => {}
                Err(errno) => return Err(errno),
                Ok(_) => break,
            }
        }
        let nanoseconds = now() - start;
        libc::close(writer);
        if libc::read(reader, (&raw mut errno).cast(), size) > 0 {
            return Err(errno);
        }
        Ok(Run { status, nanoseconds, usage: usage.assume_init() })
    }
}

/// CLOCK_MONOTONIC in nanoseconds.
fn now() -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the place is valid; the clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}
