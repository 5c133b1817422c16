//! Who holds what now: each executor's slot and the learner's, with the rollout it is held for, since when and until when; and of
//! GPUs, who is alone on one and who shares it. Read off the spans that go on: the run writes nothing more for it.

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::store::SpanRow;

/// A hold on a GPU, by the stage of the evaluation (`sandbox::device`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hold {
    /// Nobody else is on it: what is timed, until its context is gone.
    Alone,
    /// With others.
    Shared,
    /// It waits for its turn.
    Waits,
    /// None of it is a GPU's.
    None,
    /// The learner's place, which is nobody else's.
    Learner,
    /// Another machine's executor: its stages are not known here.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lease {
    /// Whose slot it is.
    pub lane: String,
    pub gpu: Option<String>,
    pub hold: Hold,
    pub rollout: Option<u64>,
    pub attempt: Option<u32>,
    /// Milliseconds since the Unix epoch.
    pub since_ms: u64,
    pub stage: Option<String>,
    pub stage_since_ms: u64,
    /// When it is taken away, whatever goes on; `None` where the run's configuration cannot be read.
    pub deadline_ms: Option<u64>,
}

impl Lease {
    /// Of work that goes on; `None` for work that has ended.
    pub fn of(span: &SpanRow, gpu: Option<String>, config: Option<&Config>) -> Option<Lease> {
        if span.ended_ms.is_some() {
            return None;
        }
        let stage = span.stages.last();
        let hold = match stage.map(|(name, _)| name.as_str()) {
            _ if span.lane == "learner" => Hold::Learner,
            None if span.lane.contains('/') => Hold::Unknown,
            Some("time" | "release" | "device reference, alone") => Hold::Alone,
            // "end": nothing was timed, and it leaves with what it was checked with.
            Some("device check" | "device reference" | "end") => Hold::Shared,
            Some("wait to check" | "wait to time" | "wait for the device") => Hold::Waits,
            _ => Hold::None,
        };
        let seconds = config.map(|config| {
            let r = &config.rollout;
            if span.lane == "learner" { r.train_deadline_s } else { r.execute_deadline_s }
        });
        Some(Lease {
            lane: span.lane.clone(),
            gpu,
            hold,
            rollout: span.rollout,
            attempt: span.attempt,
            since_ms: span.began_ms,
            stage: stage.map(|(name, _)| name.clone()),
            stage_since_ms: span.began_ms + stage.map_or(0, |(_, at)| *at),
            // An executor that starts has no rollout to lose.
            deadline_ms: seconds
                .filter(|_| span.rollout.is_some() || span.lane == "learner")
                .map(|s| span.began_ms + 1000 * s),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_says_who_holds_what_for_whom_and_until_when() {
        let stages = |all: &[(&str, u64)]| all.iter().map(|(name, at)| (name.to_string(), *at)).collect();
        let span = SpanRow {
            lane: "executor 3".into(),
            rollout: Some(7),
            attempt: Some(2),
            began_ms: 1_000,
            stages: stages(&[("device compile", 0), ("wait to time", 400), ("time", 900)]),
            ..SpanRow::default()
        };
        let config = crate::config::Settings::builtin().unwrap().resolve().unwrap();
        let lease = Lease::of(&span, Some("gpu 0".into()), Some(&config)).unwrap();
        assert_eq!((lease.hold, lease.rollout, lease.stage_since_ms), (Hold::Alone, Some(7), 1_900));
        assert_eq!(lease.deadline_ms, Some(1_000 + 1000 * config.rollout.execute_deadline_s));
        let hold = |name: &str| {
            let span = SpanRow { stages: stages(&[(name, 5)]), ..span.clone() };
            Lease::of(&span, None, None).map(|lease| (lease.hold, lease.deadline_ms))
        };
        assert_eq!(hold("wait to check"), Some((Hold::Waits, None)));
        assert_eq!(hold("device check"), Some((Hold::Shared, None)));
        assert_eq!(hold("device reference, alone"), Some((Hold::Alone, None)));
        assert_eq!(hold("device reference"), Some((Hold::Shared, None)));
        assert_eq!(hold("end"), Some((Hold::Shared, None)));
        assert_eq!(hold("compile"), Some((Hold::None, None)));
        let of = |lane: &str| {
            let span = SpanRow { lane: lane.into(), stages: Vec::new(), ..span.clone() };
            Lease::of(&span, None, None).map(|lease| lease.hold)
        };
        assert_eq!(of("learner"), Some(Hold::Learner));
        assert_eq!(of("box/executor 65536"), Some(Hold::Unknown));
        assert_eq!(Lease::of(&SpanRow { ended_ms: Some(2_000), ..span }, None, None), None);
    }
}
