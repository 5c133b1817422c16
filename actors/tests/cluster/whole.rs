//! A whole run in processes, hit a few times by `troupe bench cluster --drills`: nothing lost, nothing trained twice, no hang.

use actors::bench::cluster::drill::{self, Drill, Verdict};
use actors::stop::StopToken;

use crate::lab;

/// Enough of the rate before: any step at all. What comes back how fast is the bench's affair; here other tests take the processors.
const BACK: f64 = 0.1;

fn stands(drill: Drill, repeats: u32) {
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_troupe"));
    let ended = drill::run(drill, program, repeats, lab::ports(), &StopToken::default(), BACK, |n, hit| {
        println!("{drill:?} {n}: {hit:?}");
    });
    match ended {
        Ok(books) => assert!(books.wrong.is_empty() && books.trained > 0, "{books:?}"),
        Err(Verdict::Skipped(why)) => crate::skip::skipped(crate::skip::Need::Mount, why),
        Err(Verdict::Failed(why)) => panic!("{why}"),
    }
}

#[test]
fn a_killed_node_is_replaced() {
    stands(Drill::KillNode, 2);
}

#[test]
fn a_killed_generator_is_replaced() {
    stands(Drill::KillGenerator, 2);
}

#[test]
fn a_frozen_generator_costs_what_it_sampled() {
    stands(Drill::FreezeGenerator, 1);
}

#[test]
fn a_killed_head_goes_on_in_its_folder_and_the_nodes_find_it() {
    stands(Drill::KillHead, 2);
}

/// Needs the superuser: a small file system is mounted.
#[test]
fn a_full_disk_ends_the_head_and_nothing_else() {
    stands(Drill::DiskFull, 2);
}
