//! Random configurations and how nasty a history is.

use rollout::curriculum::CurriculumKind;
use rollout::id::TaskId;
use rollout::machine::MachineConfig;

use super::Rng;

/// How nasty one history is.
#[derive(Clone, Debug)]
pub struct Profile {
    pub chaos_steps: usize,
    pub duplicate: f64,
    pub lose: f64,
    pub fault: f64,
    pub train_fault: f64,
    pub crash: f64,
    pub tick: f64,
    pub stop: f64,
    pub garbage: f64,
    /// Chance that the learner moves when it could.
    pub learner_speed: f64,
    /// Number of different rewards: 1 makes every group one without variance.
    pub rewards: u64,
    pub unscored: f64,
    /// Chance that the newest work goes first: old work straggles and grows stale.
    pub newest_first: f64,
}

/// A random configuration, small enough that every limit is met.
pub fn random_config(rng: &mut Rng) -> MachineConfig {
    let group_size = rng.range(2, 5) as u32;
    let groups_per_step = rng.range(1, 4) as u32;
    MachineConfig {
        seed: rng.next(),
        group_size,
        groups_per_step,
        staleness_max: rng.range(0, 3),
        credits: group_size * groups_per_step + rng.range(0, 30) as u32,
        retries: rng.range(0, 3) as u32,
        curriculum: rng.pick(&[CurriculumKind::Uniform, CurriculumKind::Frontier]),
        drop_zero_variance: rng.chance(0.7),
        steps: rng.range(1, 8),
        sample_deadline_ms: rng.range(50, 400),
        judge_deadline_ms: rng.range(50, 400),
        execute_deadline_ms: rng.range(50, 400),
        train_deadline_ms: rng.range(100, 900),
        adopt_deadline_ms: rng.range(50, 400),
        zero_variance_limit: rng.pick(&[3, 20, 60]),
        lost_groups_limit: rng.pick(&[0, 0, 1, 4]),
    }
}

pub fn random_profile(rng: &mut Rng) -> Profile {
    let mut some = |most: f64, p: f64| if rng.chance(p) { most * (rng.below(100) as f64 / 100.0) } else { 0.0 };
    let (duplicate, lose, fault, train_fault) = (some(0.5, 0.7), some(0.2, 0.5), some(0.5, 0.6), some(0.7, 0.5));
    let (crash, tick, stop, garbage) = (some(0.03, 0.6), some(0.1, 0.7), some(0.01, 0.2), some(0.2, 0.7));
    let (unscored, newest_first) = (some(0.3, 0.3), some(1.0, 0.4));
    Profile {
        chaos_steps: rng.range(50, 700) as usize,
        duplicate,
        lose,
        fault,
        train_fault,
        crash,
        tick,
        stop,
        garbage,
        learner_speed: rng.pick(&[0.02, 0.2, 1.0]),
        rewards: rng.pick(&[1, 2, 2, 3, 100]),
        unscored,
        newest_first,
    }
}

pub fn tasks(count: usize) -> Vec<TaskId> {
    (0..count).map(|n| TaskId(format!("task_{n}"))).collect()
}
