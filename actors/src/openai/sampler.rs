//! `Sampler` on a generation server: many requests at once on a runtime of its own, results taken between short waits.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use model::Tokenizer;
use model::sampling::Sampling;
use rollout::completion::{Completion, Finish};
use rollout::id::{Attempt, PolicyVersion, RolloutId};
use rollout::outcome::Fault;
use tokio::runtime::Runtime;
use tokio::task::AbortHandle;

use super::answer::{Answer, Bounds};
use super::line::Line;
use super::reload::{Publish, release, take_over};
use super::request::answer;
use super::setup::Setup;
use crate::crew::{News, SampleJob, SampledItem, Sampler, SamplerFactory, Taken, Weights};
use crate::supervise::{GENERATOR_LOST, GENERATOR_REFUSED, SERVER_RELOAD, SERVER_UNUSABLE, fault};

/// Longest wait of one `step`: orders are looked at between two.
const STEP: Duration = Duration::from_millis(20);
/// Threads that read streams; parsing is most of the work.
const READERS: usize = 2;

/// How answers are drawn and read.
#[derive(Clone)]
pub struct ServerSettings {
    pub sampling: Sampling,
    pub max_new_tokens: usize,
    pub tokenizer: Arc<Tokenizer>,
    /// Rows of the model's embedding; a token id beyond them is none of its.
    pub vocab: usize,
}

/// Each sampler first makes the server load the weights it is given, whatever the server had.
pub fn sampler_factory(setup: Arc<Setup>, settings: ServerSettings, publish: Publish) -> SamplerFactory {
    Arc::new(move |weights, policy| {
        let lost = |e: std::io::Error| fault(GENERATOR_LOST, e);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(READERS)
            .thread_name("generation-server")
            .enable_all()
            .build()
            .map_err(lost)?;
        let bounds = Bounds {
            vocab: settings.vocab,
            eos: settings.tokenizer.eos_token_ids().to_vec(),
            max_new_tokens: settings.max_new_tokens,
        };
        let line = Arc::new(Line::new(setup.clone(), bounds, settings.sampling, policy));
        if setup.reload.is_some() {
            runtime.block_on(take_over(&line, &publish, weights.clone(), policy))?;
        } else if policy != PolicyVersion(0) {
            let why = format!("version {policy} cannot reach the server: generator.reload = \"none\"");
            return Err(fault(SERVER_RELOAD, why));
        }
        let (out, events) = channel();
        Ok(Box::new(ServerSampler {
            runtime: Some(runtime),
            line,
            publish: publish.clone(),
            tokenizer: settings.tokenizer.clone(),
            jobs: HashMap::new(),
            current: (weights, policy),
            loading: None,
            next: None,
            news: Vec::new(),
            out,
            events,
        }))
    })
}

enum Event {
    Ended { rollout: RolloutId, attempt: Attempt, result: Result<(Answer, Finish), Fault> },
    Loaded { policy: PolicyVersion, result: Result<(), Fault> },
}

struct Flight {
    job: SampleJob,
    /// Aborting drops the request, which closes its connection.
    task: AbortHandle,
}

struct ServerSampler {
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
    line: Arc<Line>,
    publish: Publish,
    tokenizer: Arc<Tokenizer>,
    jobs: HashMap<RolloutId, Flight>,
    /// What the server was given last: one that starts anew has to get it again.
    current: (Weights, PolicyVersion),
    /// The version that the server is being given.
    loading: Option<PolicyVersion>,
    /// The newest one after it.
    next: Option<(Weights, PolicyVersion)>,
    news: Vec<News>,
    out: Sender<Event>,
    /// One for each request and each reload: bounded by the run's credits.
    events: Receiver<Event>,
}

impl Sampler for ServerSampler {
    fn admit(&mut self, job: SampleJob) -> Result<(), Fault> {
        // An older attempt at the same rollout gives way.
        self.cancel(job.rollout);
        let prompt = job.task.prompt.tokens.clone();
        if prompt.is_empty() {
            return Err(fault(GENERATOR_REFUSED, format!("rollout {}: the prompt is empty", job.rollout)));
        }
        let (rollout, attempt, out) = (job.rollout, job.attempt, self.out.clone());
        let asked = answer(self.line.clone(), prompt, job.seed, job.least);
        let Some(runtime) = &self.runtime else { return Ok(()) };
        let task = runtime.spawn(async move {
            let result = asked.await;
            let _ = out.send(Event::Ended { rollout, attempt, result });
        });
        self.jobs.insert(rollout, Flight { task: task.abort_handle(), job });
        Ok(())
    }

    fn cancel(&mut self, rollout: RolloutId) {
        if let Some(flight) = self.jobs.remove(&rollout) {
            flight.task.abort();
        }
    }

    fn adopt(&mut self, weights: Weights, policy: PolicyVersion) -> Result<Taken, Fault> {
        match self.loading {
            // Announced again.
            Some(loading) if loading == policy => {}
            Some(_) => self.next = Some((weights, policy)),
            None if self.line.counting() == policy => return Ok(Taken::Now),
            None => self.load(weights, policy),
        }
        Ok(Taken::Later)
    }

    fn busy(&self) -> bool {
        !self.jobs.is_empty() || self.loading.is_some()
    }

    fn step(&mut self) -> Result<Vec<SampledItem>, Fault> {
        if self.loading.is_none() && self.line.take_lost() {
            tracing::warn!(policy = %self.current.1, "the generation server was away: it gets its weights again");
            let (weights, policy) = self.current.clone();
            self.load(weights, policy);
        }
        let mut items = Vec::new();
        let mut wait = STEP;
        loop {
            match self.events.recv_timeout(wait) {
                Ok(Event::Ended { rollout, attempt, result }) => items.extend(self.ended(rollout, attempt, result)),
                Ok(Event::Loaded { policy, result }) => self.loaded(policy, result)?,
                Err(RecvTimeoutError::Timeout) => return Ok(items),
                // Not while `out` is here.
                Err(RecvTimeoutError::Disconnected) => return Err(fault(GENERATOR_LOST, "no results any more")),
            }
            // Whatever else is there, without a further wait.
            wait = Duration::ZERO;
        }
    }

    fn news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }
}

impl ServerSampler {
    fn load(&mut self, weights: Weights, policy: PolicyVersion) {
        let (line, publish, out) = (self.line.clone(), self.publish.clone(), self.out.clone());
        let Some(runtime) = &self.runtime else { return };
        self.loading = Some(policy);
        self.current = (weights.clone(), policy);
        runtime.spawn(async move {
            let result = take_over(&line, &publish, weights, policy).await;
            let _ = out.send(Event::Loaded { policy, result });
        });
    }

    fn loaded(&mut self, policy: PolicyVersion, result: Result<(), Fault>) -> Result<(), Fault> {
        self.loading = None;
        if let Err(failed) = result {
            // Nobody knows what the rest of these answers would be sampled from.
            self.jobs.drain().for_each(|(_, flight)| flight.task.abort());
            if let Some(runtime) = &self.runtime {
                runtime.block_on(release(&self.line));
            }
            return Err(failed);
        }
        self.news.push(News::Adopted(policy));
        if let Some((weights, policy)) = self.next.take() {
            self.load(weights, policy);
        }
        Ok(())
    }

    fn ended(
        &mut self,
        rollout: RolloutId,
        attempt: Attempt,
        result: Result<(Answer, Finish), Fault>,
    ) -> Option<SampledItem> {
        // One that was cancelled, or gave way to a newer attempt, is of no interest.
        if self.jobs.get(&rollout).is_none_or(|flight| flight.job.attempt != attempt) {
            return None;
        }
        let job = self.jobs.remove(&rollout)?.job;
        match result.and_then(|(answer, finish)| self.item(&job, answer, finish)) {
            Ok(item) => Some(item),
            Err(fault) => {
                self.news.push(News::Refused { rollout, attempt, fault });
                None
            }
        }
    }

    fn item(&self, job: &SampleJob, answer: Answer, finish: Finish) -> Result<SampledItem, Fault> {
        let tokenizer = &self.tokenizer;
        let completion = Completion {
            prompt_tokens: job.task.prompt.tokens.clone(),
            text: tokenizer.decode_answer(&answer.tokens).map_err(|e| fault(SERVER_UNUSABLE, e))?,
            plan_tokens: tokenizer.plan_tokens(&answer.tokens),
            tokens: answer.tokens,
            logprobs: answer.logprobs,
            spans: answer.spans,
            finish,
        };
        Ok(SampledItem { rollout: job.rollout, attempt: job.attempt, completion: Arc::new(completion) })
    }
}

impl Drop for ServerSampler {
    fn drop(&mut self) {
        // Requests end with their tasks; a folder that is being written is not waited for.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
