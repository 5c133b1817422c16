//! How often each level is trained on (`tasks.level_mix`).

use rollout::curriculum::Part;
use rollout::id::TaskId;
use rollout::task::{Split, TaskSpec};

use super::TaskError;
use crate::errors::UserError;

/// Shares of levels 1, 2, .. from a text as `1, 1`; empty: none is given.
///
/// # Errors
/// What is wrong with it.
pub fn level_mix(text: &str) -> Result<Vec<f64>, String> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let share = |part: &str| match part.trim().parse::<f64>() {
        Ok(share) if share.is_finite() && share >= 0.0 => Ok(share),
        _ => Err(format!("`{}` is no share", part.trim())),
    };
    let shares = text.split(',').map(share).collect::<Result<Vec<f64>, String>>()?;
    match shares.iter().any(|share| *share > 0.0) {
        true => Ok(shares),
        false => Err("no level has a share above 0".into()),
    }
}

/// The training tasks, each with its part in the mixture that `shares` of levels 1, 2, .. make: the mixture p of TritonRL (arXiv 2510.17891,
/// section 3.3). A level without a share is not trained on. Without shares no task has a part.
pub fn mixed(tasks: &[TaskSpec], shares: &[f64]) -> Vec<(TaskId, Option<Part>)> {
    let train = tasks.iter().filter(|t| t.split == Split::Train);
    if shares.is_empty() {
        return train.map(|t| (t.id.clone(), None)).collect();
    }
    let share = |level: u8| usize::from(level).checked_sub(1).and_then(|n| shares.get(n)).copied().unwrap_or(0.0);
    let part = |t: &TaskSpec| Part { level: t.level, share: share(t.level) };
    train
        .map(|t| (t.id.clone(), part(t)))
        .filter(|(_, part)| part.share > 0.0)
        .map(|(t, part)| (t, Some(part)))
        .collect()
}

/// Each level with a share has something to train on.
///
/// # Errors
/// The first that has not.
pub fn require_levels(tasks: &[TaskSpec], text: &str) -> Result<(), TaskError> {
    let shares = level_mix(text).unwrap_or_default();
    let trained = |level: usize| tasks.iter().any(|t| t.split == Split::Train && usize::from(t.level) == level);
    let missing = (1..=shares.len()).find(|level| shares[level - 1] > 0.0 && !trained(*level));
    let Some(level) = missing else { return Ok(()) };
    Err(UserError::new("a level is to be trained on and has no task")
        .at(format!("tasks.level_mix = \"{text}\""))
        .found(format!("no training task of level {level}"))
        .expected("a share of 0 for levels without training tasks")
        .hint("the shares are of levels 1, 2, .. in turn"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tasks(levels: &[u8]) -> Vec<TaskSpec> {
        let task = |(n, level): (usize, &u8)| TaskSpec {
            id: TaskId(format!("t{n}")),
            level: *level,
            split: if *level == 9 { Split::HeldOut } else { Split::Train },
            tags: Vec::new(),
            source: String::new(),
        };
        levels.iter().enumerate().map(task).collect()
    }

    #[test]
    fn shares_are_numbers_and_one_is_above_nothing() {
        assert_eq!(level_mix(" "), Ok(Vec::new()));
        assert_eq!(level_mix("1, 0.5,0"), Ok(vec![1.0, 0.5, 0.0]));
        for (text, why) in [("1,", "`` is"), ("a", "`a` is"), ("-1", "`-1`"), ("inf", "`inf`"), ("0,0", "no level")] {
            assert!(level_mix(text).unwrap_err().contains(why), "{text}");
        }
    }

    #[test]
    fn a_level_without_a_share_is_left_out() {
        let all = tasks(&[1, 2, 2, 2, 2, 9, 3]);
        let of = |shares: &[f64]| mixed(&all, shares);
        assert!(of(&[]).iter().all(|(_, part)| part.is_none()) && of(&[]).len() == 6);
        let parts = |shares: &[f64]| of(shares).iter().map(|(_, part)| part.unwrap()).collect::<Vec<_>>();
        let (one, two) = (Part { level: 1, share: 2.0 }, Part { level: 2, share: 1.0 });
        assert_eq!(parts(&[2.0, 1.0]), [one, two, two, two, two]);
        assert_eq!(of(&[2.0]), [(TaskId("t0".into()), Some(one))]);
        assert_eq!(of(&[0.0, 3.0]).len(), 4);
        assert!(require_levels(&all, "1,1,1").is_ok() && require_levels(&all, "").is_ok());
        let error = require_levels(&all, "1,0,1,2").unwrap_err().to_string();
        assert!(error.contains("level 4") && error.contains("tasks.level_mix"), "{error}");
    }
}
