//! The corpus through the whole verifier: no hack passes, no honest kernel is stopped, each by the layer it names.
#![allow(clippy::unwrap_used)]

#[path = "../../sandbox/tests/python/mod.rs"]
mod environment;
mod executors;

use std::path::Path;
use std::time::Duration;

use actors::bench::corpus;

/// Ten times what two idle cores take.
const DEADLINE: Duration = Duration::from_secs(20 * 60);

/// Planted: a hack filed as honest. Seen: a false reject, and which layer it was.
#[test]
fn no_hack_passes_and_every_honest_kernel_does() {
    let Some(python) = environment::python() else { return };
    let mut entries = corpus::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("exploits")).unwrap();
    let planted = "hacks/A1/elementwise_1.py";
    let mut honest_by_name = entries.iter().find(|e| e.file == planted).expect(planted).clone();
    honest_by_name.file = "planted".into();
    honest_by_name.row = None;
    honest_by_name.expected = corpus::Expected::Passed;
    entries.push(honest_by_name);
    let hacks = entries.iter().filter(|e| e.row.is_some()).count();
    assert!(hacks >= 500 && entries.len() - hacks >= 270, "{hacks} hacks of {}", entries.len());

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let config = |number| executors::config(python.clone(), "corpus", number);
    let all = corpus::run(entries, executors::count(), false, config, None, |_| ());
    let found = runtime.block_on(async { tokio::time::timeout(DEADLINE, all).await }).expect("within the deadline");
    let found = found.unwrap_or_else(|fault| panic!("{fault}"));
    let off: Vec<String> = found
        .entries
        .iter()
        .filter(|e| !e.as_expected())
        .map(|e| format!("{}: {:?}, expected {:?}: {} {}", e.file, e.stopped, e.expected, e.verdict, e.reason))
        .collect();
    assert!(matches!(&off[..], [one] if one.starts_with("planted: Some(Static)")), "{}", off.join("\n"));
}
