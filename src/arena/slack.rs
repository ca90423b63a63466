//! What a top keeps beyond the trim threshold: as much as the program needed again soon after it was trimmed.
//!
//! A program that allocates and frees the same megabytes by turns, at the end of the heap, would get new pages for
//! them each time: a trim is done at once, for the sake of a process that does nothing afterwards. So what was touched
//! anew within the decay time after a trim stays the next time. Then the low-water marks (`decay.rs`) tell how long.

/// Decay times for which it holds what a program needed.
const LASTING: u64 = 16;

/// The slack of an arena's top. Bytes, and milliseconds of one clock.
#[derive(Debug)]
pub struct Slack {
    /// What was needed again soon.
    bytes: usize,
    /// When some of it was last.
    needed: u64,
    /// What the last trims gave back, and was not needed again yet.
    trimmed: usize,
    /// When the last trim was.
    since: u64,
}

impl Slack {
    /// Nothing was trimmed.
    pub const NONE: Self = Self { bytes: 0, needed: 0, trimmed: 0, since: 0 };

    /// Takes note of a trim.
    pub fn note_trimmed(&mut self, bytes: usize, now: u64, decay: u64) {
        self.forget_late(now, decay);
        self.trimmed += bytes;
        self.since = now;
    }

    fn forget_late(&mut self, now: u64, decay: u64) {
        if now.saturating_sub(self.since) > decay {
            self.trimmed = 0;
        }
    }

    /// Whether what is touched next is of interest.
    pub fn is_open(&self) -> bool {
        self.trimmed > 0
    }

    /// How many of `bytes` that the top touches anew were trimmed within the decay time. They are counted once.
    pub fn claim(&mut self, bytes: usize, now: u64, decay: u64) -> usize {
        self.forget_late(now, decay);
        let again = bytes.min(self.trimmed);
        self.trimmed -= again;
        again
    }

    /// Takes note that so much was needed again. No more than `most` stays.
    pub fn note_needed(&mut self, again: usize, most: usize, now: u64) {
        if again > 0 {
            self.bytes = (self.bytes + again).min(most.max(self.bytes));
            self.needed = now;
        }
    }

    /// What stays now.
    pub fn bytes(&mut self, now: u64, decay: u64) -> usize {
        if now.saturating_sub(self.needed) > decay.saturating_mul(LASTING) {
            self.bytes = 0;
        }
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DECAY: u64 = 1000;
    const MOST: usize = 1 << 30;

    /// The top touches so much anew.
    fn touch(slack: &mut Slack, bytes: usize, most: usize, now: u64, decay: u64) {
        let again = slack.claim(bytes, now, decay);
        slack.note_needed(again, most, now);
    }

    #[test]
    fn what_is_needed_again_soon_stays() {
        let mut slack = Slack::NONE;
        slack.note_trimmed(300, 5, DECAY);
        slack.note_trimmed(100, 10, DECAY);
        assert_eq!(slack.bytes(10, DECAY), 0);
        touch(&mut slack, 150, MOST, 500, DECAY);
        touch(&mut slack, 50, MOST, 1010, DECAY);
        assert_eq!(slack.bytes(1010, DECAY), 200);
        // The rest comes too late.
        touch(&mut slack, 150, MOST, 1011, DECAY);
        assert!(!slack.is_open());
        assert_eq!(slack.bytes(1011, DECAY), 200);
        // What a trim left above that counts once more, and no more than was trimmed.
        slack.note_trimmed(40, 1100, DECAY);
        touch(&mut slack, 1000, MOST, 1101, DECAY);
        assert_eq!(slack.bytes(1101, DECAY), 240);
        assert!(!slack.is_open());
        slack.note_trimmed(40, 1102, DECAY);
        touch(&mut slack, 40, 250, 1103, DECAY);
        assert_eq!(slack.bytes(1103, DECAY), 250);
    }

    #[test]
    fn it_does_not_last_for_ever() {
        let mut slack = Slack::NONE;
        slack.note_trimmed(100, 0, DECAY);
        touch(&mut slack, 100, MOST, 1, DECAY);
        assert_eq!(slack.bytes(1 + LASTING * DECAY, DECAY), 100);
        assert_eq!(slack.bytes(2 + LASTING * DECAY, DECAY), 0);
        slack.note_trimmed(100, 0, DECAY);
        touch(&mut slack, 100, MOST, 1, u64::MAX);
        assert_eq!(slack.bytes(u64::MAX, u64::MAX), 100);
    }
}
