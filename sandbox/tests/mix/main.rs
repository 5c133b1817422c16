//! Every kind of hostile candidate once, each followed by an honest one on the same executor. A binary of its own, so
//! that little else takes the machine's time: deadlines are checked. `troupe bench hostile` runs a thousand.
#![allow(clippy::unwrap_used)]

#[path = "../python/mod.rs"]
mod environment;

use std::path::PathBuf;

use sandbox::hostile::{GRACE_MS, KINDS, LIMITS, MixConfig, run};

#[tokio::test(flavor = "multi_thread")]
async fn hostile_candidates_end_in_time_and_harm_nobody() {
    let Some(python) = environment::python() else { return };
    let scratch = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("mix-{}", std::process::id()));
    let count = 2 * KINDS.len() as u64;
    // Ten times the bench's: how late a killed candidate is reaped is the machine's affair, too.
    let grace_ms = 10.0 * GRACE_MS;
    let config = MixConfig { python, scratch: scratch.clone(), count, executors: 2, limits: LIMITS, grace_ms };
    let mix = run(&config).await.unwrap();
    let table = mix.table();
    assert!(mix.problems.is_empty(), "{table}");
    assert_eq!((mix.honest, mix.honest_passed), (count / 2, count / 2), "{table}");
    assert!(mix.rows.iter().all(|r| r.count == 1 && r.outcomes.values().sum::<u64>() == 1), "{table}");
    std::fs::remove_dir(&scratch).expect("nothing is left in the scratch folder");
    println!("{table}");
}
