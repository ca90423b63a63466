//! Processes of their own, for tests that run without the harness and its threads.

/// Runs a test in a child, which it must end well.
pub fn in_a_process(what: &str, test: impl FnOnce()) {
    // SAFETY: the process has one thread.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // A test that never ends is to be seen, too.
        // SAFETY: no precondition.
        unsafe { libc::alarm(300) };
        test();
        std::process::exit(0);
    }
    let mut status = -1;
    // SAFETY: the place is writable.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0, "{what}");
    println!("{what}: ok");
}
