//! Every kind of hostile candidate once, each followed by an honest one on the same executor. A binary of its own, so
//! that nothing else takes the machine's time: deadlines are checked. `troupe bench hostile` runs a thousand.
#![allow(clippy::unwrap_used)]

#[path = "../python/mod.rs"]
mod environment;

use std::path::PathBuf;

use sandbox::hostile::{KINDS, LIMITS, MixConfig, run};

#[tokio::test(flavor = "multi_thread")]
async fn hostile_candidates_end_in_time_and_harm_nobody() {
    let Some(python) = environment::python() else { return };
    let scratch = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("mix-{}", std::process::id()));
    let count = 2 * KINDS.len() as u64;
    let mix = run(&MixConfig { python, scratch: scratch.clone(), count, executors: 2, limits: LIMITS }).await.unwrap();
    let table = mix.table();
    assert!(mix.problems.is_empty(), "{table}");
    assert_eq!((mix.honest, mix.honest_passed), (count / 2, count / 2), "{table}");
    assert!(mix.rows.iter().all(|r| r.count == 1 && r.outcomes.values().sum::<u64>() == 1), "{table}");
    std::fs::remove_dir(&scratch).expect("nothing is left in the scratch folder");
    println!("{table}");
}
