//! `Verifier` on the sandbox: one executor with its own warm Python processes.

use std::path::PathBuf;
use std::sync::Arc;

use rollout::outcome::{Candidate, ExecReport, Fault};
use rollout::task::TaskSpec;
use sandbox::executor::{Executor, ExecutorConfig, Limits};

use crate::crew::{BoxFuture, Verifier, VerifierFactory};

/// Executors with these limits; each gets its own folder below `scratch`.
pub fn verifier_factory(python: PathBuf, scratch: PathBuf, limits: Limits, secret: [u8; 32]) -> VerifierFactory {
    Arc::new(move |number| {
        let config = ExecutorConfig {
            python: python.clone(),
            scratch: scratch.join(format!("executor-{number}")),
            limits,
            secret,
        };
        Box::pin(async move {
            let executor = Executor::start(config).await?;
            Ok(Box::new(SandboxVerifier(executor)) as Box<dyn Verifier>)
        })
    })
}

struct SandboxVerifier(Executor);

impl Verifier for SandboxVerifier {
    fn verify<'a>(
        &'a mut self,
        task: &'a TaskSpec,
        candidate: &'a Candidate,
    ) -> BoxFuture<'a, Result<ExecReport, Fault>> {
        Box::pin(self.0.evaluate(task, candidate))
    }
}
