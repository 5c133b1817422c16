//! Any text as a candidate.
#![no_main]

use libfuzzer_sys::fuzz_target;
use troupe_fuzz::checked;

fuzz_target!(|data: &[u8]| {
    let source = String::from_utf8_lossy(data);
    let report = checked(&source, None);
    // The same text, the same report.
    assert_eq!(report, checked(&source, None));
});
