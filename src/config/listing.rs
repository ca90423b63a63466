//! The settings as a program sees them.

use super::NEVER;
use super::parse;
use super::table::{Kind, Origin, Spec, TABLE};
use crate::check::Text;
use crate::os;
use core::ffi::{CStr, c_int};
use core::fmt;

/// A value, as `ARENITE_CONF` takes it when displayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Value {
    /// A number of things.
    Count(usize),
    /// A number of bytes; [`NEVER`]: so many that nothing happens.
    Bytes(usize),
    /// A number of milliseconds, or [`NEVER`].
    Milliseconds(usize),
    /// On or off.
    Switch(bool),
    /// One of some words.
    Word(&'static str),
    /// A directory; empty: none was set.
    Directory(&'static CStr),
}

/// Where a value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// Nobody set it. Thresholds may have moved with what the program does.
    Default,
    /// The program's own, built in or set by [`Arenite`](crate::Arenite)'s functions.
    Program,
    /// The environment variable of glibc with this name.
    Variable(&'static str),
    /// The environment variable `GLIBC_TUNABLES`.
    Tunables,
    /// The environment variable `ARENITE_CONF`.
    Conf,
    /// A call of mallopt(3).
    Mallopt,
}

/// One setting.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Setting {
    /// Its name in `ARENITE_CONF`.
    pub name: &'static str,
    /// What it means, and its unit.
    pub meaning: &'static str,
    /// What it is if nobody sets it.
    pub default: Value,
    /// What it is now.
    pub value: Value,
    /// Who set it last.
    pub source: Source,
    /// The environment variable of glibc that sets it as well.
    pub variable: Option<&'static str>,
    /// The tunable of glibc that does, behind `glibc.malloc.`.
    pub tunable: Option<&'static str>,
}

/// All settings, with the values in force.
///
/// ```
/// for setting in arenite::config::settings() {
///     println!("{}: {} (from {})", setting.name, setting.value, setting.source);
/// }
/// ```
pub fn settings() -> impl ExactSizeIterator<Item = Setting> {
    TABLE.iter().map(|spec| Setting {
        name: spec.name,
        meaning: spec.meaning,
        default: spec.typed(spec.default, || c""),
        value: spec.typed(spec.value(), || spec.directory()),
        source: spec.source(),
        variable: Some(spec.variable).filter(|name| !name.is_empty()),
        tunable: Some(spec.tunable).filter(|name| !name.is_empty()),
    })
}

impl Spec {
    fn typed(&self, value: usize, directory: impl FnOnce() -> &'static CStr) -> Value {
        match self.kind {
            Kind::Count => Value::Count(value),
            Kind::Bytes => Value::Bytes(value),
            Kind::Milliseconds => Value::Milliseconds(value),
            Kind::Switch => Value::Switch(value != 0),
            Kind::HugePages => Value::Word(parse::huge_pages_name(value as u8)),
            Kind::Directory => Value::Directory(directory()),
        }
    }

    fn source(&self) -> Source {
        match self.origin() {
            Origin::Default => Source::Default,
            Origin::Program => Source::Program,
            Origin::Variable => Source::Variable(self.variable),
            Origin::Tunables => Source::Tunables,
            Origin::Conf => Source::Conf,
            Origin::Mallopt => Source::Mallopt,
        }
    }
}

impl Source {
    /// The source in a word: that of the variable, or `default`, `program`, `mallopt`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Program => "program",
            Self::Variable(name) => name,
            Self::Tunables => "GLIBC_TUNABLES",
            Self::Conf => "ARENITE_CONF",
            Self::Mallopt => "mallopt",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Value {
    fn text(self) -> Text {
        let mut text = Text::new();
        match self {
            Self::Bytes(NEVER) | Self::Milliseconds(NEVER) => text.str("never"),
            Self::Count(number) | Self::Milliseconds(number) => text.number(number as u64),
            Self::Bytes(bytes) => {
                const UNITS: [(usize, &str); 3] = [(30, "g"), (20, "m"), (10, "k")];
                let whole = |shift: usize| bytes != 0 && bytes.trailing_zeros() as usize >= shift;
                let unit = UNITS.iter().find(|(shift, _)| whole(*shift));
                let (shift, name) = unit.copied().unwrap_or((0, ""));
                text.number((bytes >> shift) as u64).str(name)
            }
            Self::Switch(on) => text.str(if on { "true" } else { "false" }),
            Self::Word(word) => text.str(word),
            Self::Directory(path) => text.bytes(path.to_bytes()),
        };
        text
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(core::str::from_utf8(self.text().as_bytes()).unwrap_or_default())
    }
}

/// Writes the settings to a file descriptor, one a line: name, default, value, source and
/// meaning, with tabs between. For the command, which asks the library of a program so.
pub fn write_lines(fd: c_int) {
    for setting in settings() {
        let mut line = Text::new();
        line.str(setting.name).byte(b'\t');
        line.bytes(setting.default.text().as_bytes()).byte(b'\t');
        line.bytes(setting.value.text().as_bytes()).byte(b'\t');
        line.str(setting.source.name()).byte(b'\t').str(setting.meaning).byte(b'\n');
        os::write_all(fd, line.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_displayed_as_they_are_written() {
        let shown = |value: Value, text: &str| assert_eq!(value.text().as_bytes(), text.as_bytes());
        shown(Value::Bytes(0), "0");
        shown(Value::Bytes(1000), "1000");
        shown(Value::Bytes(128 << 10), "128k");
        shown(Value::Bytes(1025 << 20), "1025m");
        shown(Value::Bytes(3 << 30), "3g");
        shown(Value::Bytes(NEVER), "never");
        shown(Value::Milliseconds(1000), "1000");
        shown(Value::Milliseconds(NEVER), "never");
        shown(Value::Switch(true), "true");
        shown(Value::Directory(c"/a"), "/a");
    }

    #[test]
    fn every_value_displayed_can_be_set() {
        for (spec, setting) in
            TABLE.iter().zip(settings()).filter(|(s, _)| s.kind != Kind::Directory)
        {
            let problem = spec.set_text(setting.value.text().as_bytes(), Origin::Default).err();
            assert_eq!((problem, setting.value), (None, setting.default), "{}", setting.name);
        }
    }
}
