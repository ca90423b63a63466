//! Values as people write them.

use super::{HUGE_ALWAYS, HUGE_DENSE, HUGE_NEVER, NEVER};

/// A decimal number; `None` for anything else, or one that does not fit.
pub fn decimal(digits: &[u8]) -> Option<u64> {
    number(digits, 10)
}

fn number(digits: &[u8], base: u64) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |sum, &digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            b'A'..=b'F' => digit - b'A' + 10,
            _ => return None,
        };
        let digit = Some(u64::from(digit)).filter(|&digit| digit < base)?;
        sum.checked_mul(base)?.checked_add(digit)
    })
}

/// A number, decimal or with `0x` before it.
pub fn count(text: &[u8]) -> Option<usize> {
    let number = match text.strip_prefix(b"0x").or_else(|| text.strip_prefix(b"0X")) {
        Some(digits) => number(digits, 16),
        None => decimal(text),
    };
    usize::try_from(number?).ok()
}

/// A number, with k, m or g behind it for KiB, MiB or GiB.
pub fn bytes(text: &[u8]) -> Option<usize> {
    let (digits, unit) = match text.split_last()? {
        (b'k' | b'K', digits) => (digits, 1 << 10),
        (b'm' | b'M', digits) => (digits, 1 << 20),
        (b'g' | b'G', digits) => (digits, 1 << 30),
        _ => (text, 1),
    };
    count(digits)?.checked_mul(unit)
}

/// Whether the text means "never".
pub fn is_never(text: &[u8]) -> bool {
    text == b"-1" || text == b"never"
}

/// As `value`, or [`NEVER`].
pub fn or_never(text: &[u8], value: impl FnOnce(&[u8]) -> Option<usize>) -> Option<usize> {
    if is_never(text) { Some(NEVER) } else { value(text) }
}

/// 1 for what means yes, 0 for what means no.
pub fn switch(text: &[u8]) -> Option<usize> {
    match text {
        b"true" | b"1" | b"on" => Some(1),
        b"false" | b"0" | b"off" => Some(0),
        _ => None,
    }
}

/// One of the names of `huge_pages`.
pub fn huge_pages(text: &[u8]) -> Option<usize> {
    let value = match text {
        b"never" => HUGE_NEVER,
        b"dense" => HUGE_DENSE,
        b"always" => HUGE_ALWAYS,
        _ => return None,
    };
    Some(usize::from(value))
}

/// The name of a value of `huge_pages`.
pub fn huge_pages_name(value: u8) -> &'static str {
    match value {
        HUGE_NEVER => "never",
        HUGE_DENSE => "dense",
        _ => "always",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_decimal_or_hexadecimal() {
        assert_eq!(count(b"0"), Some(0));
        assert_eq!(count(b"4711"), Some(4711));
        assert_eq!(count(b"0x1F"), Some(31));
        assert_eq!(count(b"18446744073709551615"), Some(usize::MAX));
        for wrong in [&b""[..], b"-1", b"1 ", b"abc", b"0x", b"1k", b"18446744073709551616"] {
            assert_eq!(count(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn bytes_have_suffixes() {
        assert_eq!(bytes(b"100"), Some(100));
        assert_eq!(bytes(b"64k"), Some(64 << 10));
        assert_eq!(bytes(b"64K"), Some(64 << 10));
        assert_eq!(bytes(b"3m"), Some(3 << 20));
        assert_eq!(bytes(b"2g"), Some(2 << 30));
        assert_eq!(bytes(b"0x10k"), Some(16 << 10));
        for wrong in [&b""[..], b"k", b"1kb", b"1t", b"-1k", b"18446744073709551615k"] {
            assert_eq!(bytes(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn never_is_a_number_of_its_own() {
        assert_eq!(or_never(b"-1", count), Some(NEVER));
        assert_eq!(or_never(b"never", count), Some(NEVER));
        assert_eq!(or_never(b"5", count), Some(5));
        assert_eq!(or_never(b"-2", count), None);
    }

    #[test]
    fn switches_have_six_names() {
        assert_eq!([&b"true"[..], b"1", b"on"].map(switch), [Some(1); 3]);
        assert_eq!([&b"false"[..], b"0", b"off"].map(switch), [Some(0); 3]);
        assert_eq!([&b"yes"[..], b"", b"2"].map(switch), [None; 3]);
    }
}
