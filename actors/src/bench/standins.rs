//! A crew that costs nothing: sampling, execution and training answer at once, so that what is measured (or tested) is
//! everything else.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rollout::completion::{Completion, Finish, PolicySpan};
use rollout::id::{Digest, PolicyVersion, RolloutId, StepId, TaskId};
use rollout::outcome::{Candidate, ExecReport, Fault, Outcome};
use rollout::task::{Split, TaskSpec};

use crate::crew::{
    BoxFuture, Crew, Prompt, SampleJob, SampledItem, Sampler, Taken, TaskEntry, TrainError, TrainJob, TrainedItem,
    Trainer, Verifier, Weights,
};

/// A short valid answer: what the judge reads for every rollout.
pub const ANSWER: &str = "<think>one program</think>
```python
import torch, triton
import triton.language as tl
@triton.jit
def k(x, y, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(y + i, tl.load(x + i) + 1)
class ModelNew(torch.nn.Module):
    def forward(self, x):
        y = torch.empty_like(x)
        k[(1,)](x, y, 64)
        return y
```
";

const TOKENS: usize = 24;

/// A valid answer that names the digest of its tokens: no two different answers share a text.
pub fn text_of(tokens: &[u32]) -> String {
    ANSWER.replace("import torch, triton", &format!("import torch, triton\nTAG = {}", tag(tokens)))
}

/// The digest.
pub fn tag(tokens: &[u32]) -> u64 {
    tokens.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, t| (h ^ u64::from(*t)).wrapping_mul(0x0100_0000_01b3)) >> 16
}

/// The plan's share of such an answer.
pub fn plan_tokens(tokens: &[u32]) -> Option<u32> {
    Some((tokens.len() / 3) as u32)
}

/// Tasks that nobody computes.
pub fn tasks(count: usize, split: Split) -> Vec<Arc<TaskEntry>> {
    (0..count)
        .map(|n| {
            let id = TaskId(format!("standin_{n:03}"));
            let source = "import torch\nclass Model(torch.nn.Module):\n    def forward(self, x):\n        return x\n";
            let spec = TaskSpec { id: id.clone(), level: 1, split, tags: Vec::new(), source: source.into() };
            Arc::new(TaskEntry {
                spec: Arc::new(spec),
                id: Arc::new(id),
                prompt: Arc::new(Prompt { text: source.into(), tokens: vec![1; 16] }),
            })
        })
        .collect()
}

/// The stand-in crew. `solves` says whether the n-th execution passes.
pub fn crew(solves: fn(u64) -> bool) -> Crew {
    let executions = Arc::new(AtomicU64::new(0));
    let newest = Arc::new(Mutex::new(None));
    Crew {
        sampler: Arc::new(|_, policy| Ok(Box::new(Echo::new(policy)))),
        trainer: Arc::new(move || Ok(Box::new(Counter { newest: newest.clone() }))),
        verifier: Arc::new(move |_| {
            let executions = executions.clone();
            Box::pin(async move { Ok(Box::new(Coin { executions, solves }) as Box<dyn Verifier>) })
        }),
        saturated: None,
        llm_judge: None,
        cluster: None,
        pen: Default::default(),
    }
}

/// Weights of nothing.
pub fn weights() -> Weights {
    Arc::new(())
}

/// Answers every job with `ANSWER`.
struct Echo {
    policy: PolicyVersion,
    /// One answer, shared by all rollouts of one policy version.
    completion: Arc<Completion>,
    queue: Vec<SampleJob>,
}

impl Echo {
    fn new(policy: PolicyVersion) -> Echo {
        Echo { policy, completion: completion(policy), queue: Vec::new() }
    }
}

fn completion(policy: PolicyVersion) -> Arc<Completion> {
    Arc::new(Completion {
        prompt_tokens: vec![1; 16],
        tokens: vec![7; TOKENS],
        logprobs: (0..TOKENS).map(|n| -0.01 * n as f32).collect(),
        spans: vec![PolicySpan { start: 0, policy }],
        finish: Finish::Stop,
        text: ANSWER.to_string(),
        plan_tokens: Some(6),
    })
}

impl Sampler for Echo {
    fn admit(&mut self, job: SampleJob) -> Result<(), Fault> {
        self.queue.push(job);
        Ok(())
    }

    fn cancel(&mut self, rollout: RolloutId) {
        self.queue.retain(|job| job.rollout != rollout);
    }

    fn adopt(&mut self, _weights: Weights, policy: PolicyVersion) -> Result<Taken, Fault> {
        (self.policy, self.completion) = (policy, completion(policy));
        Ok(Taken::Now)
    }

    fn busy(&self) -> bool {
        !self.queue.is_empty()
    }

    fn step(&mut self) -> Result<Vec<SampledItem>, Fault> {
        let answer = |job: SampleJob| SampledItem {
            rollout: job.rollout,
            attempt: job.attempt,
            completion: self.completion.clone(),
        };
        Ok(self.queue.drain(..).map(answer).collect())
    }
}

/// Passes or fails without looking.
struct Coin {
    executions: Arc<AtomicU64>,
    solves: fn(u64) -> bool,
}

impl Verifier for Coin {
    fn verify<'a>(
        &'a mut self,
        _task: &'a TaskSpec,
        _candidate: &'a Candidate,
    ) -> BoxFuture<'a, Result<ExecReport, Fault>> {
        let n = self.executions.fetch_add(1, Ordering::Relaxed);
        let passed = (self.solves)(n);
        Box::pin(std::future::ready(Ok(report(passed))))
    }
}

/// A report without phases.
pub fn report(passed: bool) -> ExecReport {
    let outcome =
        if passed { Outcome::Passed { speedup: None } } else { Outcome::WrongAnswer { message: String::new() } };
    ExecReport {
        outcome,
        launches: Vec::new(),
        phase_ms: Default::default(),
        kernelbench_1e2: Some(passed),
        kernelbench_1e4: Some(passed),
        max_abs_error: None,
        evidence: Default::default(),
        timing: None,
        findings: Vec::new(),
        log_tail: String::new(),
        protocol: Digest(String::new()),
        reused: false,
    }
}

/// Counts versions up; what it knows outlives it, as a checkpoint would.
struct Counter {
    newest: Arc<Mutex<Option<TrainedItem>>>,
}

impl Trainer for Counter {
    fn newest(&self) -> Option<TrainedItem> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn train(&mut self, job: &TrainJob) -> Result<TrainedItem, TrainError> {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let policy = PolicyVersion(newest.as_ref().map_or(0, |n| n.policy.0) + 1);
        let done = trained(job.step, policy);
        *newest = Some(done.clone());
        Ok(done)
    }
}

/// A step taken at no cost.
pub fn trained(step: StepId, policy: PolicyVersion) -> TrainedItem {
    let report = serde_json::json!({ "loss": 0.0 });
    TrainedItem {
        step,
        policy,
        applied: true,
        report,
        digest: Digest(String::new()),
        weights: weights(),
        tokens: Vec::new(),
    }
}
