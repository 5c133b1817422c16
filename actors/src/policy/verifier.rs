//! `Verifier` on the sandbox: one executor with its own warm Python processes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rollout::outcome::{Candidate, ExecReport, Fault};
use rollout::task::TaskSpec;
use sandbox::Suspects;
use sandbox::executor::{Executor, ExecutorConfig, Isolation, Limits};
use sandbox::isolation::{PARTS, probe};

use crate::crew::{BoxFuture, Verifier, VerifierFactory};
use crate::errors::UserError;
use crate::observe::{Observer, Progress};
use crate::policy::Gpus;
use crate::run::RunError;

/// Refuses to go on where a part of the isolation that `executor.require_isolation` names does not hold. Starts no
/// candidate, and nothing at all where nothing is required.
pub fn require_isolation(python: &Path, require: &[String]) -> Result<(), RunError> {
    if require.is_empty() {
        return Ok(());
    }
    let temp = std::env::temp_dir();
    let scratch = tempfile::Builder::new().prefix("troupe-isolation-").tempdir();
    let scratch = scratch.map_err(|e| UserError::io("make a temporary folder", &temp, &e))?;
    let hint = "`troupe doctor` looks at the same things".to_string();
    let isolation = probe(python, scratch.path()).map_err(|fault| RunError::Fault { fault, hint })?;
    refusal(&isolation, require).map_or(Ok(()), |e| Err(e.into()))
}

fn refusal(isolation: &Isolation, require: &[String]) -> Option<UserError> {
    let lacking = isolation.lacking(require);
    let first = PARTS.iter().find(|p| lacking.contains(&p.name))?;
    Some(
        UserError::new("candidates cannot be isolated here as the configuration requires")
            .at(format!("executor.require_isolation = {require:?}"))
            .found(format!("not in force on this machine: {}", lacking.join(", ")))
            .expected("every part that is required to hold")
            .hint(format!(
                "for {}: {}; or require less, if you accept what a candidate could do then (`troupe doctor` lists \
                 all parts)",
                first.name, first.hint
            )),
    )
}

/// Executors with these limits; each gets its own folder below `scratch`. The observer gets one note, however many
/// executors there are, when candidates are not isolated as they should be.
pub fn verifier_factory(
    python: PathBuf,
    scratch: PathBuf,
    limits: Limits,
    secret: [u8; 32],
    require: Vec<String>,
    gpus: Option<Arc<Gpus>>,
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
            require: require.clone(),
            device: None,
        };
        let (observer, told, gpus) = (observer.clone(), told.clone(), gpus.clone());
        Box::pin(async move {
            let device = match gpus {
                None => None,
                Some(gpus) => Some(gpus.of_executor(number as usize).await?),
            };
            let config = ExecutorConfig { device, ..config };
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
        let namespaces = ["user", "pid", "net", "ipc", "mount", "root", "proc"].map(str::to_owned).to_vec();
        let all = Isolation { namespaces, landlock: 6, seccomp: true, spare_user: true };
        assert_eq!(isolation_note(&all), None);
        let note = isolation_note(&Isolation { landlock: 0, seccomp: false, ..all }).unwrap();
        assert!(note.contains("missing: Landlock, system call filter (") && note.contains("troupe doctor"), "{note}");
    }

    #[test]
    fn a_refusal_names_what_is_required_and_missing_and_what_to_do() {
        let is = Isolation { landlock: 7, ..Isolation::default() };
        let require = ["landlock", "seccomp", "pid"].map(str::to_owned);
        assert_eq!(refusal(&is, &require[..1]), None);
        let e = refusal(&is, &require).unwrap();
        assert!(e.found.as_deref().unwrap().ends_with(": seccomp, pid"), "{e}");
        assert!(e.hint.as_deref().unwrap().contains("for seccomp: a kernel"), "{e}");
    }
}
