//! A mutex for short critical sections that hold no `.await` and cannot be left half-done by a panic.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// [`Mutex`] without poisoning: what it guards is changed in single steps, so a panic elsewhere leaves it whole.
#[derive(Debug, Default)]
pub(crate) struct Lock<T>(Mutex<T>);

impl<T> Lock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
