//! The curriculum: coverage, preference, and independence of the order of reports.

mod support;

use std::collections::BTreeMap;

use rollout::curriculum::{Curriculum, CurriculumKind, Part, TaskIndex};
use support::profile::tasks;

fn draws(curriculum: &mut Curriculum, count: usize) -> BTreeMap<String, u64> {
    let mut drawn = BTreeMap::new();
    for _ in 0..count {
        let (index, task) = curriculum.draw().expect("there are tasks");
        assert_eq!(curriculum.name(index), Some(&task));
        *drawn.entry(task.0).or_default() += 1;
    }
    drawn
}

#[test]
fn uniform_covers_all_tasks_evenly() {
    let mut curriculum = Curriculum::new(CurriculumKind::Uniform, 7, tasks(20));
    let drawn = draws(&mut curriculum, 20);
    assert!(drawn.len() >= 12, "most tasks come before the first comes again twice: {drawn:?}");
    let drawn = draws(&mut curriculum, 1_980);
    assert_eq!(drawn.len(), 20);
    assert!(drawn.values().all(|&count| (90..=110).contains(&count)), "{drawn:?}");
}

#[test]
fn the_first_pass_covers_every_task() {
    for seed in 0..50 {
        let mut curriculum = Curriculum::new(CurriculumKind::Frontier, seed, tasks(40));
        let drawn = draws(&mut curriculum, 80);
        assert_eq!(drawn.len(), 40, "seed {seed}: two passes leave no task out");
    }
}

#[test]
fn frontier_prefers_tasks_solved_sometimes() {
    let mut curriculum = Curriculum::new(CurriculumKind::Frontier, 7, tasks(3));
    for _ in 0..5 {
        curriculum.report(TaskIndex(0), 8, 0); // never
        curriculum.report(TaskIndex(1), 8, 4); // sometimes
        curriculum.report(TaskIndex(2), 8, 8); // always
        curriculum.close_step();
    }
    let weights: Vec<f64> = (0..3).filter_map(|n| curriculum.weight(TaskIndex(n))).collect();
    // p = 1/42, 21/42, 41/42 of 40 answers: 4 p (1 - p) = 0.09297 (floor 0.1), 1, 0.09297.
    assert_eq!(weights, [0.1, 1.0, 0.1]);
    let drawn = draws(&mut curriculum, 1_200);
    let share = |task: &str| drawn[task] as f64 / 1_200.0;
    assert!((share("task_1") - 10.0 / 12.0).abs() < 0.03, "{drawn:?}");
    assert!((share("task_0") - 1.0 / 12.0).abs() < 0.02, "{drawn:?}");
}

#[test]
fn old_results_fade() {
    let mut curriculum = Curriculum::new(CurriculumKind::Frontier, 7, tasks(1));
    for _ in 0..50 {
        curriculum.report(TaskIndex(0), 8, 0);
        curriculum.close_step();
    }
    assert_eq!(curriculum.weight(TaskIndex(0)), Some(0.1));
    for _ in 0..6 {
        curriculum.report(TaskIndex(0), 8, 4);
        curriculum.close_step();
    }
    let weight = curriculum.weight(TaskIndex(0)).expect("a task");
    assert!(weight > 0.5, "400 old failures weigh more than 24 new successes: {weight}");
    assert!(curriculum.tasks()[0].answers <= 64);
}

#[test]
fn counts_are_halved_together() {
    let mut curriculum = Curriculum::new(CurriculumKind::Frontier, 7, tasks(1));
    for _ in 0..9 {
        curriculum.report(TaskIndex(0), 8, 6);
        curriculum.close_step();
    }
    // 72 answers with 54 solved.
    let stats = &curriculum.tasks()[0];
    assert_eq!((stats.answers, stats.solved), (36, 27));
}

#[test]
fn reports_take_effect_when_the_step_closes_and_in_no_order() {
    let reports = [(0, 8, 1), (1, 8, 7), (0, 6, 6), (2, 8, 4), (1, 3, 0)];
    let play = |order: &[usize]| {
        let mut curriculum = Curriculum::new(CurriculumKind::Frontier, 3, tasks(3));
        let before = curriculum.weight(TaskIndex(0));
        for &index in order {
            let (task, answers, solved) = reports[index];
            curriculum.report(TaskIndex(task), answers, solved);
        }
        assert_eq!(curriculum.weight(TaskIndex(0)), before, "nothing changes before the step closes");
        curriculum.close_step();
        assert_ne!(curriculum.weight(TaskIndex(1)), before);
        curriculum
    };
    assert_eq!(play(&[0, 1, 2, 3, 4]), play(&[4, 2, 0, 3, 1]));
}

#[test]
fn seeds_and_nothing_else_decide() {
    let play = |seed: u64| {
        let mut curriculum = Curriculum::new(CurriculumKind::Uniform, seed, tasks(12));
        (0..36).filter_map(|_| curriculum.draw()).map(|(index, _)| index.0).collect::<Vec<_>>()
    };
    assert_eq!(play(1), play(1));
    assert_ne!(play(1), play(2));
    assert_ne!(play(1)[..12], play(1)[12..24], "passes differ");
    assert_eq!(Curriculum::new(CurriculumKind::Uniform, 1, Vec::new()).draw(), None);
}

/// Two tasks of level 1 and thirty of level 2, each level with the same share.
fn mixture() -> Vec<Part> {
    (0..32).map(|n| Part { level: if n < 2 { 1 } else { 2 }, share: 1.0 }).collect()
}

fn of_two(drawn: &BTreeMap<String, u64>) -> u64 {
    drawn.iter().filter(|(t, _)| ["task_0", "task_1"].contains(&t.as_str())).map(|(_, n)| n).sum()
}

/// Planted bug: a share counts from the second draw of a task on. Seen: the first draws are of every task alike.
#[test]
fn a_mixture_counts_from_the_first_draw_on_and_after_a_restart() {
    let mut curriculum = Curriculum::new(CurriculumKind::Uniform, 7, tasks(32)).with_mixture(&mixture());
    let first = of_two(&draws(&mut curriculum, 20));
    assert!((7..=13).contains(&first), "{first} of the first 20");
    let more = of_two(&draws(&mut curriculum, 2_000));
    assert!((950..=1_050).contains(&more), "{more} of 2,000");
    // What is written down is without it; whoever reads it back sets it again.
    let standard = bincode::config::standard();
    let bytes = bincode::serde::encode_to_vec(&curriculum, standard).expect("a curriculum is written");
    let (mut back, _): (Curriculum, _) = bincode::serde::decode_from_slice(&bytes, standard).expect("and read");
    assert_eq!(back.weight(TaskIndex(5)), Some(1.0));
    back.set_mixture(&mixture());
    assert_eq!(back, curriculum);
    assert_eq!(draws(&mut back, 100), draws(&mut curriculum, 100));
}

/// Planted bug: a task's share is multiplied by its own weight. Seen: of 2,000 draws all but some two hundred are of the level whose result
/// is uncertain, nine of ten.
#[test]
fn a_level_keeps_its_share_whatever_its_tasks_results_are() {
    let mut curriculum = Curriculum::new(CurriculumKind::Frontier, 7, tasks(32)).with_mixture(&mixture());
    for index in 0..32 {
        // Of level 2 half the tasks are never solved and half always.
        curriculum.report(TaskIndex(index), 62, if index < 2 { 31 } else { 62 * u64::from(index % 2) });
    }
    curriculum.report(TaskIndex(31), 62, 0);
    curriculum.close_step();
    draws(&mut curriculum, 200);
    let drawn = draws(&mut curriculum, 2_000);
    assert!((900..=1_100).contains(&of_two(&drawn)), "{drawn:?}");
    // Within a level it is the weights that decide: task 31 is solved half the time.
    assert!(drawn["task_31"] > 5 * drawn["task_30"], "{drawn:?}");
}
