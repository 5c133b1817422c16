//! A sampler on a generation server and the generator's part towards it: asks, steps, and collects what comes.
#![allow(dead_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use actors::config::Generator;
use actors::crew::{News, SampleJob, SampledItem, Sampler, Taken, TaskEntry, Weights};
use actors::openai::{Publish, ServerSettings, Setup, Tuning, sampler_factory};
use model::Tokenizer;
use model::sampling::Sampling;
use rollout::id::{Attempt, PolicyVersion, RolloutId};
use rollout::outcome::Fault;
use rollout::task::Split;

use crate::rig;

/// The tiny tokenizer's end of a sequence.
pub const EOS: u32 = 1;
/// Longest time that anything here may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// What came of the asking.
#[derive(Default)]
pub struct Done {
    pub items: Vec<SampledItem>,
    pub faults: Vec<Fault>,
    pub adopted: Vec<u64>,
}

pub struct Desk {
    pub sampler: Box<dyn Sampler>,
    pub tokenizer: Arc<Tokenizer>,
    pub done: Done,
    task: Arc<TaskEntry>,
    attempts: u32,
    /// While set, weights are being written and do not come to an end.
    pub writing: Arc<AtomicBool>,
    pub dir: tempfile::TempDir,
}

impl Desk {
    pub fn open(section: &Generator) -> Desk {
        Desk::with(section, |_| {})
    }

    pub fn with(section: &Generator, tune: impl FnOnce(&mut Tuning)) -> Desk {
        Desk::try_with(section, tune).unwrap()
    }

    /// The sampler of version 0; weights are folders with nothing in them.
    pub fn try_with(section: &Generator, tune: impl FnOnce(&mut Tuning)) -> Result<Desk, Fault> {
        let dir = tempfile::tempdir().unwrap();
        let tokenizer = rig::tokenizer(&rig::tiny_policy(dir.path()));
        assert_eq!(tokenizer.eos_token_ids(), [EOS]);
        let mut tuning = Tuning { backoff: Duration::from_millis(5), ..Tuning::default() };
        tune(&mut tuning);
        let secret = Some("sesame-open".to_string());
        let setup = Setup::with(section, secret, DEADLINE, dir.path(), tuning).unwrap();
        let settings = ServerSettings {
            sampling: Sampling::default(),
            max_new_tokens: rig::MAX_NEW_TOKENS,
            tokenizer: tokenizer.clone(),
            vocab: tokenizer.vocab_size(),
        };
        let writing = Arc::new(AtomicBool::new(false));
        let held = writing.clone();
        let publish: Publish = Arc::new(move |_, path| {
            let until = Instant::now() + DEADLINE;
            while held.load(Ordering::SeqCst) && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(1));
            }
            std::fs::create_dir_all(path).unwrap();
            Ok(())
        });
        let sampler = sampler_factory(setup, settings, publish)(weights(), PolicyVersion(0))?;
        let task = rig::tasks(&tokenizer, 1, Split::Train).remove(0);
        Ok(Desk { sampler, tokenizer, done: Done::default(), task, attempts: 0, writing, dir })
    }

    pub fn prompt(&self) -> Vec<u32> {
        self.task.prompt.tokens.clone()
    }

    /// Asks for an answer; the number is the rollout's and the seed.
    pub fn ask(&mut self, number: u64) {
        self.ask_from(number, 0);
    }

    /// As [`Desk::ask`], for one of this version or a newer one.
    pub fn ask_from(&mut self, number: u64, least: u64) {
        self.attempts += 1;
        let job = SampleJob {
            rollout: RolloutId(number),
            attempt: Attempt(self.attempts),
            task: self.task.clone(),
            seed: number,
            least: PolicyVersion(least),
        };
        self.sampler.admit(job).unwrap();
    }

    pub fn adopt(&mut self, policy: u64) -> Taken {
        self.sampler.adopt(weights(), PolicyVersion(policy)).unwrap()
    }

    pub fn step(&mut self) -> Result<(), Fault> {
        self.done.items.extend(self.sampler.step()?);
        for news in self.sampler.news() {
            match news {
                News::Adopted(policy) => self.done.adopted.push(policy.0),
                News::Refused { fault, .. } => self.done.faults.push(fault),
            }
        }
        Ok(())
    }

    /// Steps until `holds`.
    pub fn step_until(&mut self, what: &str, mut holds: impl FnMut(&Done) -> bool) {
        let until = Instant::now() + DEADLINE;
        while !holds(&self.done) {
            assert!(Instant::now() < until, "waited for: {what}");
            self.step().unwrap();
        }
    }

    /// Steps until nothing is left to do.
    pub fn finish(&mut self) -> Done {
        let until = Instant::now() + DEADLINE;
        while self.sampler.busy() {
            assert!(Instant::now() < until, "the sampler is still busy");
            self.step().unwrap();
        }
        std::mem::take(&mut self.done)
    }

    /// Steps until the sampler gives up.
    pub fn failure(&mut self) -> Fault {
        let until = Instant::now() + DEADLINE;
        loop {
            assert!(Instant::now() < until, "the sampler does not give up");
            if let Err(fault) = self.step() {
                return fault;
            }
        }
    }

    /// Folders of versions, sorted.
    pub fn folders(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path().join("served")).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|n| n != "lock");
        names.sort();
        names
    }
}

pub fn weights() -> Weights {
    Arc::new(())
}
