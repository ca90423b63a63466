//! Settings from the environment: glibc's names, its tunables, and `ARENITE_CONF`; each after
//! the one before it, which it overrides.

use super::machine;
use super::table::{Origin, Problem, Spec, TABLE};
use crate::check::Text;
use crate::os;
use core::ffi::{CStr, c_char};
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::Relaxed;

/// Whether the environment was read.
static READ: AtomicBool = AtomicBool::new(false);

/// At the program's start. (An allocation in another library's constructor may read the environment earlier.)
#[used]
#[unsafe(link_section = ".init_array")]
static AT_START: extern "C" fn() = {
    extern "C" fn at_start() {
        machine::count_cpus_at_start();
        read();
    }
    at_start
};

/// Reads the environment, once. Before libc is there to tell it, nothing happens.
#[inline]
pub fn read() {
    if !READ.load(Relaxed) {
        read_now();
    }
}

#[cold]
#[inline(never)]
fn read_now() {
    unsafe extern "C" {
        static mut environ: *const *const c_char;
    }
    // SAFETY: libc sets it before it runs constructors; null until then. This is one of them, or
    // an allocation before it, when nobody changes the environment yet.
    let mut entry = unsafe { (&raw const environ).read() };
    if entry.is_null() || READ.swap(true, Relaxed) {
        return;
    }
    if os::has_more_rights_than_its_user() {
        return;
    }
    let (mut tunables, mut conf): (&[u8], &[u8]) = (b"", b"");
    // SAFETY: the list ends in a null pointer; its entries are C strings.
    unsafe {
        while !(*entry).is_null() {
            let text = CStr::from_ptr(*entry).to_bytes();
            if text.starts_with(b"MALLOC_") {
                set_variable(text);
            } else if let Some(value) = text.strip_prefix(b"GLIBC_TUNABLES=") {
                tunables = value;
            } else if let Some(value) = text.strip_prefix(b"ARENITE_CONF=") {
                conf = value;
            }
            entry = entry.add(1);
        }
    }
    set_tunables(tunables);
    set_conf(conf);
}

/// One of glibc's variables, `NAME=VALUE`. Names that are none of them may be anybody's.
fn set_variable(text: &[u8]) {
    let (name, Some(value)) = split(text, b'=') else { return };
    if let Some(spec) = TABLE.iter().find(|spec| spec.variable.as_bytes() == name)
        && !value.is_empty()
        && let Err(problem) = spec.set_text(value, Origin::Variable)
    {
        complain(spec.variable, b"", value, problem);
    }
}

const TUNABLES: &str = "GLIBC_TUNABLES";

/// glibc's tunables of malloc that have no meaning here.
const FOREIGN: [&str; 7] = [
    "tcache_max",
    "tcache_count",
    "tcache_unsorted_limit",
    "mxfast",
    "hugetlb",
    "check",
    "arena_test",
];

/// `glibc.malloc.NAME=VALUE`, separated by colons. Those of other parts of glibc are not ours.
fn set_tunables(text: &[u8]) {
    for item in text.split(|&byte| byte == b':') {
        let (name, value) = split(item, b'=');
        let Some(tunable) = name.strip_prefix(b"glibc.malloc.") else { continue };
        set(TUNABLES, Origin::Tunables, find(tunable, |spec| spec.tunable), name, value);
    }
}

const CONF: &str = "ARENITE_CONF";

/// `KEY:VALUE`, separated by commas.
fn set_conf(text: &[u8]) {
    for item in text.split(|&byte| byte == b',') {
        let item = item.trim_ascii();
        if !item.is_empty() {
            let (name, value) = split(item, b':');
            set(CONF, Origin::Conf, find(name, |spec| spec.name), name, value);
        }
    }
}

/// What stands before and behind the first separator, without spaces around.
fn split(item: &[u8], separator: u8) -> (&[u8], Option<&[u8]>) {
    let mut parts = item.splitn(2, |&byte| byte == separator);
    let name = parts.next().unwrap_or_default().trim_ascii();
    (name, parts.next().map(<[u8]>::trim_ascii))
}

fn find(name: &[u8], of: impl Fn(&Spec) -> &'static str) -> Option<&'static Spec> {
    TABLE.iter().find(|spec| !name.is_empty() && of(spec).as_bytes() == name)
}

fn set(source: &str, origin: Origin, spec: Option<&Spec>, name: &[u8], value: Option<&[u8]>) {
    let is_foreign = || {
        let tunable = name.strip_prefix(b"glibc.malloc.");
        FOREIGN.iter().any(|foreign| tunable == Some(foreign.as_bytes()))
    };
    match (spec, value) {
        (Some(spec), Some(value)) => {
            if let Err(problem) = spec.set_text(value, origin) {
                complain(source, name, value, problem);
            }
        }
        (Some(_), None) => complain(source, b"", name, Problem::Is(" has no value")),
        (None, _) if is_foreign() => {}
        (None, _) => complain(source, b"", name, Problem::Is(" is no setting")),
    }
}

/// Bytes of a foreign text that a message repeats.
const MOST_QUOTED: usize = 80;

/// Names what is ignored in one line: `arenite: SOURCE: NAME: 'VALUE' PROBLEM; ignored`.
#[cold]
pub fn complain(source: &str, name: &[u8], value: &[u8], problem: Problem) {
    let mut line = Text::new();
    line.str("arenite: ").str(source).str(": ");
    if !name.is_empty() {
        quote(&mut line, name).str(": ");
    }
    line.str("'");
    quote(&mut line, value).str("'");
    match problem {
        Problem::Is(what) => line.str(what),
        Problem::MoreThan(most) => line.str(" is more than ").number(most as u64),
    };
    line.str("; ignored\n");
    os::write_all(2, line.as_bytes());
}

/// Repeats a text, cut and without what a terminal would obey.
fn quote<'a>(line: &'a mut Text, text: &[u8]) -> &'a mut Text {
    for &byte in text.iter().take(MOST_QUOTED) {
        line.byte(if byte.is_ascii_control() { b'?' } else { byte });
    }
    line.str(if text.len() > MOST_QUOTED { "…" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_split_at_the_first_separator() {
        assert_eq!(split(b"cgroup:/a:b", b':'), (&b"cgroup"[..], Some(&b"/a:b"[..])));
        assert_eq!(split(b" arenas : 4 ", b':'), (&b"arenas"[..], Some(&b"4"[..])));
        assert_eq!(split(b"arenas", b':'), (&b"arenas"[..], None));
        assert_eq!(split(b"", b':'), (&b""[..], None));
    }

    #[test]
    fn names_are_found_whole() {
        assert!(find(b"arenas", |spec| spec.name).is_some_and(|spec| spec.name == "arenas"));
        assert!(find(b"arena_max", |spec| spec.tunable).is_some_and(|spec| spec.name == "arenas"));
        assert!(find(b"arena", |spec| spec.name).is_none());
        assert!(find(b"", |spec| spec.tunable).is_none());
    }
}
