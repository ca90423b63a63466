//! Settings that a Rust program has built in.

use super::environment::{self, complain};
use super::table::{Key, Origin, spec};
use crate::check::Text;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::Relaxed;

/// The values that a program chose, before they are in force.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// Whether there are any.
    pub any: bool,
    pub arenas: Option<usize>,
    pub decay_ms: Option<usize>,
    pub purge_thread: Option<bool>,
    pub top_pad: Option<usize>,
    pub trim_threshold: Option<usize>,
    pub mmap_threshold: Option<usize>,
    pub mmap_max: Option<usize>,
    pub soft_limit: Option<usize>,
    pub hard_limit: Option<usize>,
    pub huge_pages: Option<u8>,
}

/// Whether a program's values are in force.
static IN_FORCE: AtomicBool = AtomicBool::new(false);

impl Program {
    /// None chosen.
    pub const NONE: Self = Self {
        any: false,
        arenas: None,
        decay_ms: None,
        purge_thread: None,
        top_pad: None,
        trim_threshold: None,
        mmap_threshold: None,
        mmap_max: None,
        soft_limit: None,
        hard_limit: None,
        huge_pages: None,
    };

    /// Puts the values in force, once for the process: those of the first allocator value that
    /// has any. Called by slow paths only.
    #[inline]
    pub fn put_in_force(&self) {
        if self.any && !IN_FORCE.load(Relaxed) {
            self.put_in_force_now();
        }
    }

    #[cold]
    #[inline(never)]
    fn put_in_force_now(&self) {
        environment::read();
        if IN_FORCE.swap(true, Relaxed) {
            return;
        }
        let values = [
            (Key::Arenas, self.arenas),
            (Key::DecayMs, self.decay_ms),
            (Key::PurgeThread, self.purge_thread.map(usize::from)),
            (Key::TopPad, self.top_pad),
            (Key::TrimThreshold, self.trim_threshold),
            (Key::MmapThreshold, self.mmap_threshold),
            (Key::MmapMax, self.mmap_max),
            (Key::SoftLimit, self.soft_limit),
            (Key::HardLimit, self.hard_limit),
            (Key::HugePages, self.huge_pages.map(usize::from)),
        ];
        for (key, value) in values {
            let (Some(spec), Some(value)) = (spec(key), value) else { continue };
            // What the environment says stays: whoever runs the program knows the machine.
            if spec.origin() != Origin::Default {
                continue;
            }
            if let Err(problem) = spec.set(value, Origin::Program) {
                let mut number = Text::new();
                number.number(value as u64);
                complain("the program", spec.name.as_bytes(), number.as_bytes(), problem);
            }
        }
    }
}
