//! The C and C++ functions that the library offers, with their edge cases as in the manual pages
//! and as glibc has them.

mod common;

use common::{
    Outcome, build, compile, compile_with, finish, library, on_system, passes, run, run_in, scratch,
};
use std::collections::HashSet;
use std::path::Path;
use std::process::Command;

/// The C names.
const C_SYMBOLS: &[&str] = &[
    "malloc",
    "free",
    "calloc",
    "realloc",
    "reallocarray",
    "posix_memalign",
    "aligned_alloc",
    "memalign",
    "valloc",
    "pvalloc",
    "malloc_usable_size",
    "cfree",
    "free_sized",
    "free_aligned_sized",
    "mallinfo",
    "mallinfo2",
    "mallopt",
    "malloc_trim",
    "malloc_stats",
    "malloc_info",
    "__libc_malloc",
    "__libc_calloc",
    "__libc_realloc",
    "__libc_free",
    "__libc_memalign",
    "__libc_valloc",
    "__libc_pvalloc",
    "__posix_memalign",
];

/// The C++ operators, as the Itanium ABI spells them with a 64-bit `size_t`.
const CXX_SYMBOLS: &[&str] = &[
    "_Znwm",                               // new
    "_Znam",                               // new[]
    "_ZnwmSt11align_val_t",                // aligned
    "_ZnamSt11align_val_t",                // aligned
    "_ZdlPv",                              // delete
    "_ZdaPv",                              // delete[]
    "_ZdlPvRKSt9nothrow_t",                // nothrow
    "_ZdaPvRKSt9nothrow_t",                // nothrow
    "_ZdlPvm",                             // sized
    "_ZdaPvm",                             // sized
    "_ZdlPvSt11align_val_t",               // aligned
    "_ZdaPvSt11align_val_t",               // aligned
    "_ZdlPvSt11align_val_tRKSt9nothrow_t", // aligned, nothrow
    "_ZdaPvSt11align_val_tRKSt9nothrow_t", // aligned, nothrow
    "_ZdlPvmSt11align_val_t",              // sized, aligned
    "_ZdaPvmSt11align_val_t",              // sized, aligned
];

/// What would lead around these.
const LINKER_SYMBOLS: &[&str] = &["dlopen"];

fn every_symbol() -> impl Iterator<Item = &'static str> {
    C_SYMBOLS.iter().chain(CXX_SYMBOLS).chain(LINKER_SYMBOLS).copied()
}

fn exported(library: &Path) -> String {
    let output = Command::new("nm")
        .args(["-D", "--defined-only"])
        .arg(library)
        .output()
        .expect("nm, of binutils, must be there");
    assert!(output.status.success(), "nm failed: {output:?}");
    String::from_utf8(output.stdout).expect("symbol names are ASCII")
}

#[test]
fn every_symbol_is_exported() {
    let listing = exported(library());
    // `address type name`, the name perhaps with a version behind @.
    let defined: HashSet<_> = listing
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace().skip(1);
            let kind = words.next()?;
            let name = words.next()?.split('@').next()?;
            matches!(kind, "T" | "W" | "i").then_some(name)
        })
        .collect();
    let missing: Vec<_> = every_symbol().filter(|s| !defined.contains(s)).collect();
    assert!(missing.is_empty(), "not exported: {missing:?}");
}

#[test]
fn nothing_else_is_exported() {
    // A symbol more would shadow one of the program's own.
    let wanted: HashSet<_> = every_symbol().collect();
    let listing = exported(library());
    let more: Vec<_> = listing
        .lines()
        .filter_map(|line| line.split_whitespace().last()?.split('@').next())
        .filter(|name| !wanted.contains(name) && !name.contains("arenite"))
        .collect();
    assert!(more.is_empty(), "exported besides: {more:?}");
}

#[test]
fn the_library_links_nothing_but_libc() {
    let output = Command::new("objdump")
        .arg("-p")
        .arg(library())
        .output()
        .expect("objdump, of binutils, must be there");
    let text = String::from_utf8_lossy(&output.stdout);
    let needed: Vec<_> =
        text.lines().filter_map(|line| line.trim().strip_prefix("NEEDED")).map(str::trim).collect();
    assert!(!needed.is_empty(), "no libc in: {text}");
    assert!(
        needed.iter().all(|n| n.starts_with("libc.") || n.starts_with("ld-linux")),
        "links {needed:?}"
    );
}

#[test]
fn a_program_gets_the_librarys_functions() {
    if on_system() {
        return;
    }
    let mut args = vec!["origin", "libarenite"];
    args.extend(every_symbol());
    run(&compile("c_api.c"), &args).expect_success();
}

fn c_api(mode: &str) -> Outcome {
    passes("c_api.c", &[mode])
}

#[test]
fn blocks_are_aligned_to_16() {
    c_api("alignment");
}

#[test]
fn zero_bytes_get_unique_pointers() {
    c_api("zero_size");
}

#[test]
fn requests_over_ptrdiff_max_are_refused() {
    c_api("too_large");
}

#[test]
fn products_that_overflow_are_refused() {
    c_api("overflow");
}

#[test]
fn calloc_is_zero_after_dirty_reuse() {
    c_api("calloc_zero");
}

#[test]
fn free_keeps_errno() {
    c_api("free_keeps_errno");
}

#[test]
fn realloc_to_zero_frees_and_in_place_keeps_the_address() {
    c_api("realloc_edges");
}

#[test]
fn realloc_keeps_contents_between_all_sizes() {
    c_api("realloc_content");
}

#[test]
fn realloc_keeps_contents_on_a_random_walk() {
    c_api("realloc_walk");
}

#[test]
fn all_of_the_usable_size_is_usable() {
    c_api("usable_size");
}

#[test]
fn all_forms_of_free_free() {
    c_api("free_forms");
}

#[test]
fn libc_aliases_are_the_same_functions() {
    c_api("aliases");
}

#[test]
fn posix_memalign_in_all_alignments_and_errors() {
    passes("aligned.c", &["posix_memalign"]);
}

#[test]
fn aligned_alloc_in_all_alignments_and_errors() {
    passes("aligned.c", &["aligned_alloc"]);
}

#[test]
fn memalign_rounds_the_alignment_up() {
    passes("aligned.c", &["memalign"]);
}

#[test]
fn valloc_and_pvalloc_give_pages() {
    passes("aligned.c", &["pages"]);
}

#[test]
fn aligned_blocks_do_not_overlap() {
    passes("aligned.c", &["crowd"]);
}

#[test]
fn aligned_mappings_leave_no_holes() {
    passes("aligned.c", &["side_by_side"]);
}

#[test]
fn mallinfo_counts_what_is_allocated() {
    passes("statistics.c", &["info_grows"]);
}

#[test]
fn mallinfo_does_not_count_cached_blocks_as_used() {
    passes("statistics.c", &["info_cached"]);
}

#[test]
fn mallinfo_counts_blocks_of_ended_threads() {
    passes("statistics.c", &["info_threads"]);
}

#[test]
fn mallopt_sets_thresholds_and_perturb() {
    passes("statistics.c", &["options"]);
}

#[test]
fn malloc_trim_says_whether_memory_went_back() {
    passes("statistics.c", &["trim"]);
}

#[test]
fn malloc_stats_writes_to_stderr() {
    let outcome = passes("statistics.c", &["stats"]);
    assert!(outcome.stdout.is_empty(), "{outcome}");
    assert!(outcome.stderr.lines().count() >= 2, "{outcome}");
}

#[test]
fn malloc_info_writes_well_formed_xml() {
    let outcome = passes("statistics.c", &["info_xml"]);
    let elements = parse_xml(&outcome.stdout).unwrap_or_else(|e| panic!("{e} in: {outcome}"));
    assert_eq!(elements[0], (0, "malloc".into(), vec![("version".into(), "1".into())]));
    let heaps: Vec<_> = elements
        .iter()
        .filter(|(depth, name, _)| *depth == 1 && name == "heap")
        .map(|(_, _, attributes)| attributes[0].clone())
        .collect();
    assert!(!heaps.is_empty(), "{outcome}");
    for (number, heap) in heaps.iter().enumerate() {
        assert_eq!(*heap, ("nr".to_owned(), number.to_string()));
    }
    // Inside each heap, and once more for all of them.
    for depth in [1, 2] {
        for name in ["total", "system", "aspace"] {
            let mut found = elements.iter().filter(|(d, n, _)| *d == depth && n == name);
            let (_, _, attributes) = found.next().unwrap_or_else(|| {
                panic!("no element {name} at depth {depth} in: {outcome}");
            });
            assert_eq!(attributes[0].0, "type");
            let size = attributes.iter().find(|(key, _)| key == "size");
            let (_, size) = size.unwrap_or_else(|| panic!("no size in {name}: {outcome}"));
            assert!(size.parse::<u64>().is_ok(), "size {size}: {outcome}");
        }
    }
    // What is not free in all heaps is in use.
    let size = |name: &str, of: &str| {
        let mut found = elements.iter().filter(|(depth, n, _)| *depth == 1 && n == name);
        let attributes = found.find_map(|(_, _, list)| (list[0].1 == of).then_some(list));
        let size = attributes.and_then(|list| list.iter().find(|(key, _)| key == "size"));
        size.and_then(|(_, size)| size.parse::<u64>().ok()).expect("a size")
    };
    let in_use = size("system", "current") - size("total", "fast") - size("total", "rest");
    let said = outcome.stderr.trim().strip_prefix("in_use ").expect("what is in use");
    assert!(on_system() || said == in_use.to_string(), "{in_use}: {outcome}");
}

#[test]
fn malloc_info_writes_to_a_stream_in_memory() {
    passes("statistics.c", &["info_memstream"]);
}

#[test]
fn the_smallest_stack_is_enough_for_all_figures() {
    let report = scratch().join("small_stack.json");
    let variables = [("ARENITE_REPORT", report.to_str().expect("a path of text"))];
    run_in(&compile("statistics.c"), &["small_stack"], &variables).expect_done();
    assert!(
        on_system() || std::fs::read_to_string(&report).is_ok_and(|text| text.ends_with("]}\n"))
    );
}

type Element = (usize, String, Vec<(String, String)>);

/// The elements in order with their depth and attributes. Just enough of XML for what
/// `malloc_info` may write: elements, attributes, white space.
fn parse_xml(text: &str) -> Result<Vec<Element>, String> {
    let mut elements: Vec<Element> = Vec::new();
    let mut open: Vec<String> = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let tag = rest.strip_prefix('<').ok_or_else(|| format!("text: {rest:.40}"))?;
        let (inside, behind) = tag.split_once('>').ok_or("a tag that does not end")?;
        rest = behind.trim_start();
        if inside.contains('<') {
            return Err(format!("< in a tag: {inside}"));
        }
        if let Some(name) = inside.strip_prefix('/') {
            if open.pop().as_deref() != Some(name) {
                return Err(format!("</{name}> closes another element"));
            }
            if open.is_empty() && !rest.is_empty() {
                return Err("more than one root".into());
            }
            continue;
        }
        let (inside, empty) = match inside.strip_suffix('/') {
            Some(inside) => (inside, true),
            None => (inside, false),
        };
        let (name, mut list) = inside.split_once(' ').unwrap_or((inside, ""));
        let mut attributes = Vec::new();
        list = list.trim();
        while !list.is_empty() {
            let (key, value) = list.split_once("=\"").ok_or(format!("attribute: {list}"))?;
            let (value, behind) = value.split_once('"').ok_or("a value that does not end")?;
            attributes.push((key.to_owned(), value.to_owned()));
            list = behind.trim_start();
        }
        elements.push((open.len(), name.to_owned(), attributes));
        if !empty {
            open.push(name.to_owned());
        }
    }
    if open.is_empty() && !elements.is_empty() {
        Ok(elements)
    } else {
        Err(format!("left open: {open:?}"))
    }
}

fn cxx(mode: &str) {
    let flags = ["-std=c++17", "-fsized-deallocation", "-Wno-mismatched-new-delete"];
    run(&compile_with("new_delete.cpp", &flags), &[mode]).expect_success();
}

#[test]
fn cxx_operators_that_a_program_replaces_serve_the_others() {
    let flags = ["-std=c++17", "-fsized-deallocation"];
    run(&compile_with("replaced.cpp", &flags), &[""; 0]).expect_done();
}

#[test]
fn cxx_in_a_plug_in_of_a_c_program() {
    let plugin = compile_with("plugin.cpp", &["-std=c++17", "-shared", "-fPIC"]);
    run(&compile("host.c"), &[plugin]).expect_done();
}

#[test]
fn a_plug_in_that_looks_for_names_in_libc_first() {
    let plugin = compile_with("deep.c", &["-shared", "-fPIC"]);
    run(&compile("host.c"), &[plugin, "deep".into()]).expect_done();
}

/// Its own Arenite beside whatever malloc the process has.
#[test]
fn rust_in_a_plug_in_with_much_that_is_thread_local() {
    let target = build(&["-p", "arenite", "--example", "plugin", "--features", "dynamic_tls"]);
    let plugin = target.join("release/examples/libplugin.so");
    run(&compile("host.c"), &[&plugin]).expect_done();
    let mut alone = Command::new(compile("host.c"));
    alone.arg(plugin);
    finish(alone).expect_done();
}

#[test]
fn cxx_every_new_and_every_delete() {
    cxx("forms");
}

#[test]
fn cxx_delete_of_null() {
    cxx("null_is_nothing");
}

#[test]
fn cxx_new_of_zero_bytes_is_unique() {
    cxx("zero_is_unique");
}

#[test]
fn cxx_throwing_forms_call_the_handler_and_throw() {
    cxx("throwing");
}

#[test]
fn cxx_nothrow_forms_call_the_handler_and_return_null() {
    cxx("not_throwing");
}

#[test]
fn cxx_nothrow_forms_survive_a_handler_that_throws() {
    cxx("not_throwing_handler_throws");
}

#[test]
fn cxx_a_handler_that_frees_memory_is_enough() {
    cxx("handler_frees");
}

#[test]
fn cxx_ordinary_code() {
    cxx("everyday");
}
