//! Values as people write them.

/// A decimal number; `None` for anything else, or one that does not fit.
pub fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |sum, &digit| {
        let digit = digit.checked_sub(b'0').filter(|&d| d < 10)?;
        sum.checked_mul(10)?.checked_add(u64::from(digit))
    })
}
