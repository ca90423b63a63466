//! Settings that a Rust program builds in or makes while it runs, and the table in README.md.

use arenite::config::{Setting, Source, Value, settings};
use arenite::{Arenite, HugePages};
use std::process::Command;

/// `perturb`, `page_size` and `cgroup` can not be built in.
#[global_allocator]
static GLOBAL: Arenite = Arenite::new()
    .arenas(3)
    .decay_ms(250)
    .purge_thread(false)
    .top_pad(64 << 10)
    .trim_threshold(2 << 20)
    .mmap_threshold(1 << 20)
    .mmap_max(100)
    .soft_limit(1 << 40)
    .hard_limit(usize::MAX)
    .huge_pages(HugePages::Never);

/// Another value, whose settings come too late.
static SECOND: Arenite = Arenite::new().arenas(1000);

fn setting(name: &str) -> Setting {
    settings().find(|setting| setting.name == name).expect("a setting")
}

/// The environment in which a test starts itself again.
fn again(test: &str, environment: &[(&str, &str)]) -> (bool, String) {
    let mut command = Command::new(std::env::current_exe().expect("the path of the test"));
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env("SETTINGS_CHILD", "1");
    for variable in ["GLIBC_TUNABLES", "ARENITE_CONF", "MALLOC_ARENA_MAX"] {
        command.env_remove(variable);
    }
    let output = command.envs(environment.iter().copied()).output().expect("start the test again");
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn is_child() -> bool {
    std::env::var_os("SETTINGS_CHILD").is_some()
}

#[test]
fn what_is_built_in_is_in_force() {
    if !is_child() {
        let (done, said) = again("what_is_built_in_is_in_force", &[]);
        assert!(done, "{said}");
        // It does not fit, and that is said.
        let most = isize::MAX;
        let line = format!(
            "arenite: the program: hard_limit: '{}' is more than {most}; ignored\n",
            usize::MAX
        );
        assert!(said.contains(&line), "{said}");
        return;
    }
    for (name, value) in [
        ("arenas", "3"),
        ("decay_ms", "250"),
        ("purge_thread", "false"),
        ("top_pad", "64k"),
        ("trim_threshold", "2m"),
        ("mmap_threshold", "1m"),
        ("mmap_max", "100"),
        ("soft_limit", "1024g"),
        ("huge_pages", "never"),
    ] {
        let setting = setting(name);
        assert_eq!((setting.value.to_string().as_str(), setting.source), (value, Source::Program));
    }
    assert_eq!(setting("hard_limit").source, Source::Default);
    assert_eq!(setting("perturb").source, Source::Default);
    // Another value's come too late.
    SECOND.set_decay_ms(125);
    assert_eq!(setting("arenas").value, Value::Count(3));
    assert_eq!(setting("decay_ms").value, Value::Milliseconds(125));
}

#[test]
fn the_environment_goes_before_what_is_built_in() {
    if !is_child() {
        let environment = [
            ("MALLOC_ARENA_MAX", "5"),
            ("ARENITE_CONF", "decay_ms:77,huge_pages:always"),
            ("GLIBC_TUNABLES", "glibc.malloc.top_pad=4096"),
        ];
        let (done, said) = again("the_environment_goes_before_what_is_built_in", &environment);
        assert!(done, "{said}");
        return;
    }
    let found = |name| (setting(name).value, setting(name).source);
    assert_eq!(found("arenas"), (Value::Count(5), Source::Variable("MALLOC_ARENA_MAX")));
    assert_eq!(found("decay_ms"), (Value::Milliseconds(77), Source::Conf));
    assert_eq!(found("huge_pages"), (Value::Word("always"), Source::Conf));
    assert_eq!(found("top_pad"), (Value::Bytes(4096), Source::Tunables));
    assert_eq!(found("purge_thread"), (Value::Switch(false), Source::Program));
    // What the program does while it runs goes before all.
    assert!(GLOBAL.set_limits(1 << 41, 1 << 42, None));
    GLOBAL.set_decay_ms(arenite::config::NEVER);
    assert_eq!(found("decay_ms"), (Value::Milliseconds(usize::MAX), Source::Program));
    assert_eq!(found("soft_limit"), (Value::Bytes(1 << 41), Source::Program));
    assert_eq!(found("hard_limit"), (Value::Bytes(1 << 42), Source::Program));
    // All or nothing.
    assert!(!GLOBAL.set_limits(5, usize::MAX, None));
    assert_eq!(found("soft_limit").0, Value::Bytes(1 << 41));
}

#[test]
fn the_readme_has_the_table() {
    let readme = include_str!("../README.md");
    let rows: Vec<_> = readme.lines().filter(|line| is_row(line)).collect();
    let wanted: Vec<_> = settings().map(|setting| row(&setting)).collect();
    assert_eq!(rows, wanted, "README.md, Settings, should have:\n{}", wanted.join("\n"));
}

/// Whether the line of README.md is about a setting.
fn is_row(line: &str) -> bool {
    let name = line.strip_prefix("| `").and_then(|rest| rest.split_once('`'));
    name.is_some_and(|(name, _)| settings().any(|setting| setting.name == name))
}

fn row(setting: &Setting) -> String {
    let Setting { name, meaning, default, .. } = setting;
    let default = default.to_string();
    let default = if default.is_empty() { default } else { format!("`{default}`") };
    let of_glibc = match (setting.variable, setting.tunable) {
        (Some(variable), Some(tunable)) => format!("`{variable}`, `{tunable}`"),
        _ => String::new(),
    };
    format!("| `{name}` | {meaning} | {default} | {of_glibc} |")
}
