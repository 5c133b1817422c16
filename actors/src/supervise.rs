//! What happens when an actor dies: the table of `docs/supervision.md`, as code, and the runtime's fault codes.

use std::time::{Duration, Instant};

use rollout::machine::{ConfigError, StopCause};
use rollout::outcome::Fault;

/// The kinds of actors below the orchestrator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    Generator,
    Judge,
    /// The executors' pool; it supervises the executors itself, by the same table.
    Pool,
    Executor,
    /// Asked by the pool, which supervises it by the same table.
    LlmJudge,
    Learner,
}

impl Role {
    /// As the supervision tree is shown.
    pub fn name(self) -> &'static str {
        match self {
            Role::Generator => "generators",
            Role::Judge => "judge",
            Role::Pool => "pool",
            Role::Executor => "executor",
            Role::LlmJudge => "LLM judge",
            Role::Learner => "learner",
        }
    }
}

/// What the supervisor does about a death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Start a new one; what it held is reported as faulted with this code.
    Restart { code: &'static str },
    /// It keeps dying: end the run, resumable, with this code.
    EndRun { code: &'static str },
}

/// A generator died.
pub const GENERATOR_LOST: &str = "F101";
/// The judge died.
pub const JUDGE_LOST: &str = "F102";
/// An executor died, was killed, or its worker could not be started.
pub const EXECUTOR_LOST: &str = "F103";
/// The learner died.
pub const LEARNER_LOST: &str = "F104";
/// The store cannot be written.
pub const STORE_FAILED: &str = "F105";
/// A checkpoint cannot be written or read.
pub const CHECKPOINT: &str = "F106";
/// An evaluation passed its deadline.
pub const EXECUTOR_DEADLINE: &str = "F107";
/// The generator cannot sample this rollout.
pub const GENERATOR_REFUSED: &str = "F108";
/// The orchestrator died.
pub const ORCHESTRATOR_LOST: &str = "F109";
/// A stage, a step or an adoption passed its deadline.
pub const STAGE_DEADLINE: &str = "F110";
/// The learner could not take a step.
pub const LEARNER_FAILED: &str = "F111";
/// Too many groups in a row were lost to faults.
pub const GROUPS_LOST: &str = "F112";
/// The machine cannot proceed with its settings.
pub const CANNOT_PROCEED: &str = "F113";
/// The generators do not take a new version over.
pub const GENERATORS_SILENT: &str = "F114";
/// A step's loss or gradient was not finite: skipped.
pub const STEP_SKIPPED: &str = "F115";
/// The LLM judge's endpoint gave no opinion that could be read.
pub const LLM_JUDGE_UNAVAILABLE: &str = "F116";
/// The LLM judge's budget is used up.
pub const LLM_JUDGE_BUDGET: &str = "F117";
/// The LLM judge died.
pub const LLM_JUDGE_LOST: &str = "F118";

/// A step's numbers are beyond a limit of `[guard]`.
pub const NUMERICAL_ALARM: &str = "F119";
/// The generation server gave no answer.
pub const SERVER_UNAVAILABLE: &str = "F120";
/// The generation server's answer cannot be used.
pub const SERVER_UNUSABLE: &str = "F121";
/// The generation server did not take new weights over.
pub const SERVER_RELOAD: &str = "F122";
/// A node of the cluster was lost with what it evaluated.
pub const NODE_LOST: &str = "F123";
/// A living node does not know of a candidate it was given.
pub const LEASE_LOST: &str = "F124";

macro_rules! pages {
    ($($code:literal),*) => {
        &[$(($code, include_str!(concat!("../../docs/faults/", $code, ".md")))),*]
    };
}

/// The runtime's fault codes with their pages; `sandbox::faults` has the executor's.
pub fn faults() -> &'static [(&'static str, &'static str)] {
    pages!(
        "F101", "F102", "F103", "F104", "F105", "F106", "F107", "F108", "F109", "F110", "F111", "F112", "F113", "F114",
        "F115", "F116", "F117", "F118", "F119", "F120", "F121", "F122", "F123", "F124"
    )
}

pub fn fault(code: &str, message: impl std::fmt::Display) -> Fault {
    Fault { code: code.to_string(), message: message.to_string() }
}

/// Why a run that the machine ended by itself failed; `None` for a cause that is no failure. `last` is the last fault
/// before it, which is most likely the root.
pub fn stop_fault(cause: StopCause, settings: &Result<(), ConfigError>, last: Option<&Fault>) -> Option<Fault> {
    let (code, why) = match cause {
        StopCause::Completed | StopCause::Requested => return None,
        StopCause::LearnerFailed => (LEARNER_FAILED, "the learner gave up too many steps in a row".to_string()),
        StopCause::LearnerOverdue => {
            (LEARNER_FAILED, "the learner was silent past rollout.train_deadline_s too often".to_string())
        }
        StopCause::GroupsLost => (GROUPS_LOST, "too many groups in a row were lost to faults".to_string()),
        StopCause::GeneratorsSilent => {
            (GENERATORS_SILENT, "the generators did not take over a new version, asked again and again".to_string())
        }
        StopCause::CannotProceed => {
            let reason = settings.as_ref().err().map_or_else(String::new, |e| format!(": {e}"));
            (CANNOT_PROCEED, format!("no run can proceed with these settings{reason}"))
        }
    };
    let root = last.map_or_else(String::new, |last| format!("; the last fault was {last}"));
    Some(fault(code, format!("{why}{root}")))
}

/// Deaths of one role within `WINDOW` that are answered with a restart.
pub const RESTARTS: usize = 5;
pub const WINDOW: Duration = Duration::from_secs(600);

/// Counts deaths of one actor and looks its fate up.
#[derive(Debug)]
pub struct Deaths {
    role: Role,
    recent: Vec<Instant>,
}

impl Deaths {
    pub fn new(role: Role) -> Deaths {
        Deaths { role, recent: Vec::new() }
    }

    pub fn on_death(&mut self, now: Instant) -> Verdict {
        self.recent.retain(|at| now.duration_since(*at) < WINDOW);
        self.recent.push(now);
        let code = code(self.role);
        if self.recent.len() > RESTARTS { Verdict::EndRun { code } } else { Verdict::Restart { code } }
    }
}

/// The fault code of what a dead actor held.
pub fn code(role: Role) -> &'static str {
    match role {
        Role::Generator => GENERATOR_LOST,
        Role::Judge => JUDGE_LOST,
        Role::Pool | Role::Executor => EXECUTOR_LOST,
        Role::LlmJudge => LLM_JUDGE_LOST,
        Role::Learner => LEARNER_LOST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sixth_death_in_ten_minutes_ends_the_run_and_old_deaths_are_forgotten() {
        let mut deaths = Deaths::new(Role::Generator);
        let start = Instant::now();
        for n in 0..RESTARTS {
            let at = start + Duration::from_secs(n as u64);
            assert_eq!(deaths.on_death(at), Verdict::Restart { code: GENERATOR_LOST });
        }
        assert_eq!(deaths.on_death(start + Duration::from_secs(9)), Verdict::EndRun { code: GENERATOR_LOST });
        let later = start + WINDOW + Duration::from_secs(10);
        assert_eq!(deaths.on_death(later), Verdict::Restart { code: GENERATOR_LOST });
    }

    /// Planted: every cause gets `LEARNER_FAILED` and no last fault (as it was). Seen: the first message lacks it.
    #[test]
    fn each_abnormal_stop_has_its_code_and_names_the_last_fault() {
        let last = fault(EXECUTOR_LOST, "executor 1 died: no torch");
        let told = |cause| stop_fault(cause, &Err(ConfigError::NoTasks), Some(&last));
        let cases = [
            (StopCause::LearnerFailed, LEARNER_FAILED),
            (StopCause::LearnerOverdue, LEARNER_FAILED),
            (StopCause::GroupsLost, GROUPS_LOST),
            (StopCause::CannotProceed, CANNOT_PROCEED),
            (StopCause::GeneratorsSilent, GENERATORS_SILENT),
        ];
        for (cause, code) in cases {
            let fault = told(cause).unwrap();
            assert_eq!(fault.code, code);
            assert!(fault.message.ends_with("the last fault was F103: executor 1 died: no torch"), "{fault}");
        }
        assert!(told(StopCause::CannotProceed).unwrap().message.contains("no tasks to train on"));
        assert_eq!((told(StopCause::Completed), told(StopCause::Requested)), (None, None));
        assert!(!stop_fault(StopCause::GroupsLost, &Ok(()), None).unwrap().message.contains("last fault"));
    }

    #[test]
    fn every_page_starts_with_its_code_and_says_what_to_do() {
        for (code, page) in faults() {
            assert!(page.starts_with(&format!("# {code}: ")), "{code}");
            assert!(page.contains("## What to do"), "{code}");
        }
    }
}
