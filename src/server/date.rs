//! The time as answers say it (RFC 9110 §6.6.1), put into words once a second.

use std::{
    cell::RefCell,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::core::value::FieldValue;

thread_local! {
    /// The last second that was put into words.
    static LAST: RefCell<Option<(u64, FieldValue)>> = const { RefCell::new(None) };
}

/// The value of `Date`.
pub(super) fn now() -> FieldValue {
    let now = SystemTime::now();
    let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    LAST.with_borrow_mut(|last| match last {
        Some((of, date)) if *of == second => date.clone(),
        _ => {
            let date = FieldValue::try_from(httpdate::fmt_http_date(now)).expect("a date is plain ASCII");
            *last = Some((second, date.clone()));
            date
        }
    })
}
