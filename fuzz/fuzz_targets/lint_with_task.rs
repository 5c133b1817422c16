//! Any candidate against any task: the two texts stand on both sides of a line that begins with `####`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use troupe_fuzz::{checked, task};

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let (candidate, reference) = text.split_once("\n####").unwrap_or((&text, ""));
    checked(candidate, Some(&task(reference)));
});
