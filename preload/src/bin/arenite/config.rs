//! `arenite config`: the settings that a program would get that is started here.

use crate::library::{Library, preload};
use crate::supervise;
use anyhow::{Context, Result, ensure};
use comfy_table::{ContentArrangement, Table};
use serde_json::{Value, json};
use std::ffi::c_int;
use std::io::Write;
use std::process::{Command, Stdio};

/// Prints every setting: what it means, its default, its value, and where that comes from.
///
/// The values are those of a program that is started in this environment with the library: a small
/// process is, and tells them.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Settings come from, each overriding those before it: what a Rust program has built in; glibc's
variables, such as MALLOC_ARENA_MAX; GLIBC_TUNABLES=glibc.malloc.arena_max=4:...;
ARENITE_CONF=arenas:4,decay_ms:500; calls of mallopt(3). Bytes may end in k, m or g. What is wrong
in them is named on standard error, and ignored.

Examples:
  arenite config
  ARENITE_CONF=arenas:4,decay_ms:500 arenite config --json")]
pub struct Options {
    /// Print JSON: bytes and counts as numbers, without k, m or g
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    library: Library,
}

/// The subcommand of the process that tells the settings.
const PRELOADED_SETTINGS: &str = "preloaded-settings";

/// One line of what the library writes.
#[derive(Debug, PartialEq, Eq)]
struct Setting<'a> {
    name: &'a str,
    default: &'a str,
    value: &'a str,
    source: &'a str,
    meaning: &'a str,
}

/// Prints the settings.
pub fn run(options: &Options) -> Result<()> {
    supervise::keep_statuses().context("SIGCHLD")?;
    let lines = ask(&options.library)?;
    let settings: Vec<_> = lines.lines().map(parse).collect::<Result<_>>()?;
    ensure!(!settings.is_empty(), "the library named no setting");
    let mut out = std::io::stdout().lock();
    if options.json {
        let rows: Vec<_> = settings.iter().map(Setting::json).collect();
        serde_json::to_writer_pretty(&mut out, &json!({ "version": 1, "settings": rows }))?;
        writeln!(out)?;
    } else {
        writeln!(out, "{}", table(&settings))?;
    }
    Ok(())
}

/// What the library writes in a process of its own: this command, under the library.
fn ask(library: &Library) -> Result<String> {
    let library = library.path()?;
    let command = std::env::current_exe().context("the path of the command is unknown")?;
    let output = Command::new(command)
        .arg(PRELOADED_SETTINGS)
        .env("LD_PRELOAD", preload(library.clone()))
        .stdin(Stdio::null())
        // What is wrong in the environment this process said already, when it started.
        .stderr(Stdio::null())
        .output()
        .context("no process can be started to ask for the settings")?;
    ensure!(
        output.status.success(),
        "{}: tells no settings; it is not this version's, or was not loaded",
        library.display()
    );
    String::from_utf8(output.stdout).context("a setting is not UTF-8")
}

/// Lets the preloaded library write its settings to standard output.
pub fn write_preloaded() -> Result<()> {
    // SAFETY: the name is a C string.
    let symbol = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"arenite_write_settings".as_ptr()) };
    ensure!(!symbol.is_null(), "no library of Arenite is preloaded");
    // SAFETY: the library defines the function with this type.
    let write = unsafe { std::mem::transmute::<*mut libc::c_void, extern "C" fn(c_int)>(symbol) };
    write(libc::STDOUT_FILENO);
    Ok(())
}

fn parse(line: &str) -> Result<Setting<'_>> {
    let mut fields = line.split('\t');
    let mut next = || fields.next().with_context(|| format!("the library wrote: {line}"));
    let (name, default, value, source, meaning) = (next()?, next()?, next()?, next()?, next()?);
    Ok(Setting { name, default, value, source, meaning })
}

impl Setting<'_> {
    fn json(&self) -> Value {
        json!({
            "name": self.name,
            "meaning": self.meaning,
            "default": typed(self.default),
            "value": typed(self.value),
            "source": self.source,
        })
    }
}

/// A number or a truth value where the text is one, else the text.
fn typed(text: &str) -> Value {
    if let Ok(truth) = text.parse::<bool>() {
        return truth.into();
    }
    let digits = text.trim_end_matches(['k', 'm', 'g']);
    let unit = match &text[digits.len()..] {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        _ => return text.into(),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(unit))
        .map_or(text.into(), Value::from)
}

fn table(settings: &[Setting<'_>]) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::UTF8_FULL_CONDENSED);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["Setting", "Meaning", "Default", "Value", "From"]);
    for Setting { name, default, value, source, meaning } in settings {
        table.add_row([name, meaning, default, value, source]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_five_fields() {
        let setting = parse("arenas\t0\t4\tARENITE_CONF\tarenas at most").expect("a setting");
        assert_eq!(setting.value, "4");
        assert_eq!(setting.meaning, "arenas at most");
        assert!(parse("arenas\t0\t4").is_err());
    }

    #[test]
    fn json_has_numbers_where_the_text_has_suffixes() {
        assert_eq!(typed("128k"), json!(131_072));
        assert_eq!(typed("1000"), json!(1000));
        assert_eq!(typed("true"), json!(true));
        assert_eq!(typed("never"), json!("never"));
        assert_eq!(typed("k"), json!("k"));
        assert_eq!(typed("/sys/fs/cgroup"), json!("/sys/fs/cgroup"));
        assert_eq!(typed(""), json!(""));
    }
}
