//! Keeps what one thread writes all the time off the cache lines that others read all the time.

use std::ops::Deref;

/// A value on cache lines of its own (two, because lines are fetched in pairs).
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Padded<T>(pub(crate) T);

impl<T> Deref for Padded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}
