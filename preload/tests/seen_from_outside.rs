//! How a preloaded program looks from outside: its calls into the kernel as `strace` shows them
//! and its memory map. The figures are those people know from glibc.

mod common;

use common::{Outcome, compile, finish, library, on_system, passes, scratch};
use std::path::Path;
use std::process::Command;

/// What the first small allocation moves the break by: 132 KiB as with glibc, or a little more.
const FIRST_GROWTH: std::ops::RangeInclusive<u64> = 0x21000..=0x25000;

/// One system call of a trace.
#[derive(Debug, Clone, PartialEq)]
struct Call {
    name: String,
    /// All between the parentheses.
    args: String,
    /// What the call returned; `None` if it failed or returned no number.
    result: Option<u64>,
}

impl Call {
    /// Parses a line `[pid] name(args) = result …`.
    fn parse(line: &str) -> Option<Call> {
        let line = line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
        let (name, rest) = line.split_once('(')?;
        let (args, result) = rest.rsplit_once(") = ").or_else(|| {
            // strace pads the parenthesis and the equals sign apart.
            let at = rest.rfind(" = ")?;
            Some((rest[..at].trim_end().strip_suffix(')')?, &rest[at + 3..]))
        })?;
        let number = result.split_whitespace().next()?;
        let result = match number.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok(),
            // A descriptor is printed as `3</its/path>`.
            None => number.split('<').next()?.parse().ok(),
        };
        Some(Call { name: name.to_owned(), args: args.to_owned(), result })
    }

    fn argument(&self, index: usize) -> &str {
        self.args.split(", ").nth(index).unwrap_or("")
    }

    fn number(&self, index: usize) -> Option<u64> {
        let text = self.argument(index);
        match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok(),
            None => text.parse().ok(),
        }
    }

    /// True if the call is one by which a process gets or returns memory.
    fn moves_memory(&self) -> bool {
        match self.name.as_str() {
            // `brk(NULL)` only asks.
            "brk" => self.argument(0) != "NULL" && self.argument(0) != "0",
            "mmap" | "munmap" | "mremap" => true,
            _ => false,
        }
    }

    /// The name in `write(1, "mark NAME\n", …)`.
    fn mark(&self) -> Option<&str> {
        let text = self.args.split_once("\"mark ")?.1;
        (self.name == "write").then_some(text.split("\\n").next()?)
    }
}

/// Runs a program under strace, with or without the library, and returns what was called.
///
/// The library is preloaded into the traced program alone, not into strace.
fn trace(name: &str, program: &Path, args: &[&str], preloaded: bool) -> (Vec<Call>, Outcome) {
    let file = scratch().join(format!("{name}.{preloaded}.trace"));
    let mut command = Command::new("strace");
    command.args(["-f", "-y", "-s", "200", "-o"]).arg(&file);
    command.args(["-e", "trace=brk,mmap,munmap,mremap,write"]);
    if preloaded {
        let setting = format!("LD_PRELOAD={}", library().display());
        command.args(["-E", &setting]);
    }
    command.arg(program).args(args);
    let outcome = finish(command);
    outcome.expect_success();
    let text = std::fs::read(&file).expect("read the trace");
    let text = String::from_utf8_lossy(&text);
    let calls: Vec<Call> = text.lines().filter_map(Call::parse).collect();
    assert!(calls.len() > 10, "no calls in the trace of {name}: {text}");
    (calls, outcome)
}

fn trace_mode(mode: &str) -> (Vec<Call>, Outcome) {
    trace(mode, &compile("outside.c"), &[mode], !on_system())
}

/// The calls between two marks.
#[track_caller]
fn between<'a>(calls: &'a [Call], from: &str, to: &str) -> &'a [Call] {
    let find = |name: &str| {
        calls
            .iter()
            .position(|call| call.mark() == Some(name))
            .unwrap_or_else(|| panic!("no mark {name} in {calls:#?}"))
    };
    &calls[find(from) + 1..find(to)]
}

/// The steps by which the calls moved the break, given where it was before.
fn break_steps(calls: &[Call], before: u64) -> Vec<i64> {
    let mut last = before;
    let mut steps = Vec::new();
    for call in calls.iter().filter(|call| call.name == "brk") {
        let now = call.result.expect("brk returns the break");
        if now != last {
            steps.push(now as i64 - last as i64);
        }
        last = now;
    }
    steps
}

/// Where the break was at first: the answer to the loader's `brk(NULL)`.
fn initial_break(calls: &[Call]) -> u64 {
    let first = calls.iter().find(|call| call.name == "brk");
    first.and_then(|call| call.result).expect("the first brk")
}

#[test]
fn three_small_blocks_move_the_break_once() {
    let (calls, _) = trace_mode("small");
    let start = initial_break(&calls);
    // In the whole life of the process, not just between the marks.
    let steps = break_steps(&calls, start);
    assert_eq!(steps.len(), 1, "the break moved by {steps:x?}: {calls:#?}");
    let step = steps[0] as u64;
    assert!(FIRST_GROWTH.contains(&step), "the break moved by {step:#x}");
    // The first of them does it, and the others need nothing from the kernel.
    let first = between(&calls, "begin", "first");
    assert_eq!(break_steps(first, start).len(), 1, "{calls:#?}");
    assert!(first.iter().all(|call| call.name == "brk"), "{first:#?}");
    assert_eq!(between(&calls, "first", "end"), []);
    assert_eq!(between(&calls, "end", "freed"), []);
}

#[test]
fn a_program_that_allocates_nothing_gets_no_memory() {
    let (calls, _) = trace_mode("nothing");
    assert!(break_steps(&calls, initial_break(&calls)).is_empty(), "{calls:#?}");
    assert_eq!(between(&calls, "begin", "end"), []);
}

#[test]
fn a_large_block_is_a_mapping() {
    let (calls, outcome) = trace_mode("large");
    let at = outcome.number("at");
    let mapping = between(&calls, "begin", "mapped");
    let covers = |call: &Call| {
        let start = call.result.unwrap_or(0);
        let length = call.number(1).unwrap_or(0);
        call.name == "mmap" && start <= at && at + (1 << 20) <= start + length
    };
    assert!(mapping.iter().any(covers), "no mapping holds {at:#x}: {mapping:#?}");
    assert!(mapping.iter().all(|call| call.name != "brk"), "{mapping:#?}");
    // The rule: what is freed goes back at once, or the next request of the size gets it without
    // a call. To keep it and map anew would be a leak.
    let freeing = between(&calls, "before_free", "after_free");
    let again = between(&calls, "after_free", "again");
    let unmapped = freeing.iter().any(|call| {
        let start = call.number(0).unwrap_or(0);
        let length = call.number(1).unwrap_or(0);
        call.name == "munmap" && start <= at && at + (1 << 20) <= start + length
    });
    assert!(
        unmapped || !again.iter().any(Call::moves_memory),
        "neither given back nor used again: {freeing:#?} {again:#?}"
    );
}

#[test]
fn a_top_that_a_program_needs_again_and_again_stays() {
    for mode in ["breathing", "breathing_alone", "breathing_mapped"] {
        let (calls, _) = trace_mode(mode);
        let settled = between(&calls, "settled", "end");
        assert!(!settled.iter().any(Call::moves_memory), "{settled:#?}");
    }
}

#[test]
fn a_foreign_sbrk_between_two_mallocs() {
    let (calls, _) = trace_mode("break_between");
    let start = initial_break(&calls);
    let first = break_steps(between(&calls, "begin", "first"), start);
    let [growth] = first[..] else {
        panic!("the break moved by {first:x?}: {calls:#?}");
    };
    // Then the program's own two steps, and none of the allocator's.
    let later = between(&calls, "first", "end");
    let steps = break_steps(later, start + growth as u64);
    assert_eq!(steps, [1000, 1000], "{calls:#?}");
}

#[test]
fn blocks_never_overlap_a_foreign_break() {
    passes("outside.c", &["foreign_break"]);
}

#[test]
fn memory_below_a_foreign_break_goes_back() {
    passes("outside.c", &["break_below_others"]);
}

#[test]
fn a_buffer_that_grows_by_copies_has_nothing_kept() {
    passes("outside.c", &["grows_by_copies"]);
}

#[test]
fn little_is_left_of_many_mappings() {
    passes("outside.c", &["many_mappings"]);
}

#[test]
fn a_lowered_break_is_noticed() {
    passes("outside.c", &["lowered_break"]);
}

/// The calls of a run of `ls` that move memory, without those that map the library itself.
///
/// The loader maps the whole length of the library in one `mmap` of its file and then puts the
/// segments over it with `MAP_FIXED`; each of those calls, and an `munmap` of a piece that was
/// only needed for alignment, lies in the range of the first one. All other calls count.
fn memory_calls(calls: &[Call]) -> Vec<&Call> {
    let name = library().file_name().expect("a file").to_string_lossy();
    let maps_library = |call: &&Call| call.name == "mmap" && call.argument(4).contains(&*name);
    let own = calls.iter().find(maps_library).map(|call| {
        let start = call.result.expect("the loader's mapping");
        start..start + call.number(1).expect("its length")
    });
    let of_library = |call: &Call| {
        let at = match call.name.as_str() {
            "mmap" => call.result,
            "munmap" => call.number(0),
            _ => None,
        };
        own.as_ref().zip(at).is_some_and(|(own, at)| own.contains(&at))
    };
    calls.iter().filter(|call| call.moves_memory() && !of_library(call)).collect()
}

fn compare_ls(args: &[&str]) {
    let ls = Path::new("/bin/ls");
    let name = format!("ls{}", args.len());
    let (system, plain) = trace(&name, ls, args, false);
    let (ours, preloaded) = trace(&name, ls, args, true);
    assert_eq!(plain.stdout, preloaded.stdout, "ls prints something else");
    assert!(!plain.stdout.is_empty(), "ls prints nothing");
    let (system, ours) = (memory_calls(&system), memory_calls(&ours));
    let by_name = |calls: &[&Call]| {
        ["brk", "mmap", "munmap", "mremap"]
            .map(|name| (name, calls.iter().filter(|call| call.name == name).count()))
    };
    assert!(
        ours.len() <= system.len(),
        "{} calls, {:?}, where glibc makes {}, {:?}\nours: {ours:#?}\nglibc's: {system:#?}",
        ours.len(),
        by_name(&ours),
        system.len(),
        by_name(&system),
    );
}

#[test]
fn ls_makes_no_more_memory_calls_than_on_glibc() {
    compare_ls(&["/usr/bin"]);
}

#[test]
fn ls_with_details_makes_no_more_memory_calls_than_on_glibc() {
    compare_ls(&["-l", "--sort=size", "/usr/bin"]);
}

#[test]
fn mapping_the_library_takes_few_calls() {
    if on_system() {
        return;
    }
    let (calls, _) = trace("few", Path::new("/bin/ls"), &["/"], true);
    let all = calls.iter().filter(|call| call.moves_memory()).count();
    let mapping = all - memory_calls(&calls).len();
    // One for the whole, one for each further segment, one for .bss.
    assert!((1..=7).contains(&mapping), "{mapping} calls: {calls:#?}");
}
