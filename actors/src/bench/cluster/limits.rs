//! What a hit may take: the limits that a drill is held to, on a machine that does nothing else.

use super::drill::{Drill, Hit};

/// Until a peer that is dead, frozen or cut off is noticed.
pub const NOTICED_MS: u64 = 5000;
/// From its return until the run's rate is back.
pub const BACK_MS: u64 = 10_000;
/// Over a bad network chance may keep a node silent until it is lost: once in so many hits (of 20 s, with three nodes beyond the line).
/// Expected is once in twenty or less.
pub const HITS_A_LOSS: u64 = 5;

/// Whether the drill has somebody to notice: the others are of peers that live.
fn notices(drill: Drill) -> bool {
    match drill {
        Drill::KillNode | Drill::KillGenerator | Drill::KillHead => true,
        Drill::FreezeNode | Drill::FreezeGenerator | Drill::FreezeHead | Drill::Partition => true,
        Drill::Slow | Drill::Lossy | Drill::DiskFull | Drill::Clock | Drill::Attack => false,
    }
}

/// The limits of a drill, in words.
pub fn told(drill: Drill) -> String {
    let noticed = if notices(drill) { format!("noticed within {NOTICED_MS} ms, ") } else { String::new() };
    let alarms = match drill {
        Drill::Lossy => format!(", a node falsely lost once in {HITS_A_LOSS} hits or less"),
        _ => String::new(),
    };
    format!("{noticed}rate back within {BACK_MS} ms{alarms}")
}

/// How often a node may be lost in so many hits though it is there: at least once.
fn losses(hits: &[Hit]) -> u64 {
    (hits.len() as u64 / HITS_A_LOSS).max(1)
}

/// Each figure that is over its limit, in words.
pub fn late(drill: Drill, hits: &[Hit]) -> Vec<String> {
    let mut late = Vec::new();
    for (n, hit) in hits.iter().enumerate() {
        if notices(drill) {
            match hit.noticed_ms {
                Some(ms) if ms <= NOTICED_MS => {}
                Some(ms) => late.push(format!("hit {n} was noticed after {ms} ms, the limit is {NOTICED_MS} ms")),
                None => late.push(format!("hit {n} was not noticed")),
            }
        }
        if hit.rate_back_ms > BACK_MS {
            late.push(format!("hit {n}: the rate was back after {} ms, the limit is {BACK_MS} ms", hit.rate_back_ms));
        }
    }
    let lost: u64 = hits.iter().filter_map(|hit| hit.false_alarms).map(|(_, lost)| lost).sum();
    if lost > losses(hits) {
        late.push(format!(
            "nodes were falsely lost {lost} times in {} hits, the limit is {}",
            hits.len(),
            losses(hits)
        ));
    }
    late
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_figure_fails_and_says_which() {
        let good = Hit { noticed_ms: Some(NOTICED_MS), rate_back_ms: BACK_MS, ..Hit::default() };
        assert_eq!(late(Drill::FreezeNode, &[good.clone(), good.clone()]), Vec::<String>::new());
        let slow = Hit { noticed_ms: Some(NOTICED_MS + 1), ..good.clone() };
        assert_eq!(
            late(Drill::FreezeNode, &[good.clone(), slow.clone()]),
            ["hit 1 was noticed after 5001 ms, the limit is 5000 ms"]
        );
        assert!(late(Drill::Clock, &[slow]).is_empty(), "nobody is gone there");
        let down = Hit { rate_back_ms: BACK_MS + 1, ..good.clone() };
        assert_eq!(late(Drill::Lossy, &[down]), ["hit 0: the rate was back after 10001 ms, the limit is 10000 ms"]);
        let alarm = |lost| Hit { false_alarms: Some((3, lost)), ..good.clone() };
        assert!(late(Drill::Lossy, &[alarm(1), alarm(0)]).is_empty());
        let found = late(Drill::Lossy, &[alarm(1), alarm(1)]);
        assert_eq!(found, ["nodes were falsely lost 2 times in 2 hits, the limit is 1"]);
        assert_eq!(late(Drill::KillHead, &[Hit { noticed_ms: None, ..good }]), ["hit 0 was not noticed"]);
    }
}
