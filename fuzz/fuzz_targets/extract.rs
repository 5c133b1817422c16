//! Any answer: at most one candidate, and the same one whichever road it takes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use reward::extract::{extract, from_python};
use troupe_fuzz::bounded;

fuzz_target!(|data: &[u8]| {
    let answer = String::from_utf8_lossy(data);
    let Ok(candidate) = bounded(answer.len(), || extract(&answer)) else {
        return;
    };
    // Canonical text is a fixed point: the executor, the linter and the record see one program.
    let again = from_python(&candidate.source).expect("a candidate is a candidate");
    assert_eq!(candidate, again);
    assert!(candidate.source.ends_with('\n') && !candidate.source.contains('\r'));
    // What comes before the last delimiter is a plan, whatever is in it.
    let other = format!("```python\nclass ModelNew: pass\n```\n{answer}");
    assert_eq!(extract(&other).as_ref(), Ok(&candidate));
});
