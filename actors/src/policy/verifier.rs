//! `Verifier` on the sandbox: one executor with its own warm Python processes.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rollout::outcome::{Candidate, ExecReport, Fault};
use rollout::task::TaskSpec;
use sandbox::Suspects;
use sandbox::executor::{Executor, ExecutorConfig, Isolation, Limits};

use crate::crew::{BoxFuture, Verifier, VerifierFactory};
use crate::observe::{Observer, Progress};

/// Executors with these limits; each gets its own folder below `scratch`. The observer gets one note, however many
/// executors there are, when candidates are not isolated as they should be.
pub fn verifier_factory(
    python: PathBuf,
    scratch: PathBuf,
    limits: Limits,
    secret: [u8; 32],
    observer: Arc<dyn Observer>,
) -> VerifierFactory {
    let suspects = Suspects::default();
    let told = Arc::new(AtomicBool::new(false));
    Arc::new(move |number| {
        let config = ExecutorConfig {
            python: python.clone(),
            scratch: scratch.join(format!("executor-{number}")),
            limits,
            secret,
            suspects: suspects.clone(),
        };
        let (observer, told) = (observer.clone(), told.clone());
        Box::pin(async move {
            let executor = Executor::start(config).await?;
            let note = executor.isolation().await.as_ref().and_then(isolation_note);
            if let Some(note) = note.filter(|_| !told.swap(true, Ordering::Relaxed)) {
                observer.on(Progress::Note(note));
            }
            Ok(Box::new(SandboxVerifier(executor)) as Box<dyn Verifier>)
        })
    })
}

/// One line for the user where a part of the isolation is not in force.
pub fn isolation_note(isolation: &Isolation) -> Option<String> {
    let missing = isolation.missing();
    let note = format!("candidates are not fully isolated here, missing: {missing} (`troupe doctor` says what to do)");
    (!missing.is_empty()).then_some(note)
}

struct SandboxVerifier(Executor);

impl Verifier for SandboxVerifier {
    fn verify<'a>(
        &'a mut self,
        task: &'a TaskSpec,
        candidate: &'a Candidate,
    ) -> BoxFuture<'a, Result<ExecReport, Fault>> {
        Box::pin(async { Ok(reward::evidence::weigh(self.0.evaluate(task, candidate).await?)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_note_names_what_is_missing_and_is_absent_when_nothing_is() {
        let namespaces = ["pid", "net", "mount", "proc"].map(str::to_owned).to_vec();
        let all = Isolation { namespaces, landlock: 6, seccomp: true, spare_user: true };
        assert_eq!(isolation_note(&all), None);
        let note = isolation_note(&Isolation { landlock: 0, seccomp: false, ..all }).unwrap();
        assert!(note.contains("missing: Landlock, system call filter (") && note.contains("troupe doctor"), "{note}");
    }
}
