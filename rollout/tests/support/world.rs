//! The world: generators, judges, executors, a learner, a journal and a network, all adversarial and all from one seed.
//! Results come late, twice, in any order or never; work fails; the learner is slow; the process dies and is resumed
//! from a serialised snapshot and the journal, sometimes without the journal's unflushed tail.

use std::collections::BTreeMap;

use rollout::event::{Command, Ending, Event, Judgement};
use rollout::id::{Attempt, Epoch, PolicyVersion, RolloutId, StepId};
use rollout::journal::{Record, Snapshot, replay};
use rollout::machine::MachineConfig;
use rollout::reward::Reward;

use super::Rng;
use super::oracle::{Oracle, Phase, Rule};
use super::profile::{Profile, random_config, random_profile, tasks};

#[derive(Clone, Debug)]
struct Job {
    command: Command,
    /// The policy its first token was sampled under, once a generator took it up.
    started: Option<u64>,
}

pub struct World {
    rng: Rng,
    profile: Profile,
    now: u64,
    snapshot: Snapshot,
    pub oracle: Oracle,
    jobs: Vec<Job>,
    inbox: Vec<Event>,
    /// Copies of delivered or lost events, delivered again at any time, also in later epochs.
    ghosts: Vec<Event>,
    /// A serialised snapshot, the records since, how many of them are flushed, and the oracle as of then.
    base: Vec<u8>,
    records: Vec<Record>,
    flushed: (usize, Oracle),
    epoch: u32,
    generators: u64,
    /// What the learner's newest checkpoint holds, and every step that ever became durable.
    durable: (u64, u64),
    pub trained: BTreeMap<u64, (u64, Vec<u64>)>,
    pub first: Vec<u8>,
    pub history: Vec<Record>,
    pub counts: Counts,
}

/// What happened, so that a test can insist that the histories exercise what they claim to.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    pub events: u64,
    pub crashes: u64,
    pub lost_tails: u64,
    pub duplicates: u64,
    pub ghosts: u64,
    pub finishes: u64,
    pub endings: BTreeMap<Ending, u64>,
    pub max_in_flight: u64,
    pub credits_filled: u64,
}

fn encode(snapshot: &Snapshot) -> Vec<u8> {
    bincode::serde::encode_to_vec(snapshot, bincode::config::standard()).expect("a snapshot serialises")
}

pub fn decode(bytes: &[u8]) -> Snapshot {
    bincode::serde::decode_from_slice(bytes, bincode::config::standard()).expect("a snapshot deserialises").0
}

impl World {
    pub fn new(seed: u64) -> World {
        let mut rng = Rng::new(seed);
        let config = random_config(&mut rng);
        let profile = random_profile(&mut rng);
        World::with(rng, config, profile)
    }

    pub fn with(mut rng: Rng, config: MachineConfig, profile: Profile) -> World {
        let count = rng.range(1, 6) as usize;
        let snapshot = Snapshot::start(config.clone(), tasks(count));
        let oracle = Oracle::new(config);
        let base = encode(&snapshot);
        World {
            rng,
            profile,
            now: 1_000,
            snapshot,
            flushed: (0, oracle.clone()),
            oracle,
            jobs: Vec::new(),
            inbox: Vec::new(),
            ghosts: Vec::new(),
            first: base.clone(),
            base,
            records: Vec::new(),
            history: Vec::new(),
            epoch: 0,
            generators: 0,
            durable: (0, 0),
            trained: BTreeMap::new(),
            counts: Counts::default(),
        }
    }

    /// One whole life: chaos, then calm until the run is over.
    pub fn live(&mut self) {
        if self.rng.chance(0.1) {
            self.garbage();
        }
        self.start();
        for _ in 0..self.profile.chaos_steps {
            self.chaos();
            if self.oracle.phase == Phase::Finished && self.rng.chance(0.2) {
                break;
            }
        }
        if self.oracle.phase == Phase::Finished {
            self.garbage();
            self.crash();
        }
        let mut steps = 0;
        while self.oracle.phase != Phase::Finished || self.oracle.train.is_some() {
            if self.oracle.phase == Phase::Finished {
                // Over with a silent learner's step in flight: a resume settles it.
                self.crash();
            }
            self.calm();
            steps += 1;
            if !self.oracle.violations.is_empty() {
                // The oracle and the machine do not agree any more; the rest tells nothing.
                break;
            }
            if steps > 20_000 {
                let view = self.snapshot.machine.view();
                self.oracle.blame(Rule::Liveness, format!("no end in sight: {view:?}"));
                break;
            }
        }
        self.at_the_end();
    }

    /// Like `live`, with nothing going wrong and everything in order.
    pub fn live_calmly(&mut self) {
        self.start();
        let mut steps = 0;
        while self.oracle.phase != Phase::Finished && steps < 20_000 {
            self.calm();
            steps += 1;
        }
        self.at_the_end();
    }

    fn start(&mut self) {
        self.epoch += 1;
        self.generators = self.durable.1;
        let (policy, step) = (PolicyVersion(self.durable.1), StepId(self.durable.0));
        self.deliver(Event::Started { epoch: Epoch(self.epoch), policy, step });
    }

    fn chaos(&mut self) {
        self.now += self.rng.range(0, 5);
        if self.rng.chance(self.profile.crash) {
            return self.crash();
        }
        if self.rng.chance(self.profile.tick) {
            self.now += self.rng.range(0, 300);
            return self.deliver(Event::Tick);
        }
        if self.rng.chance(self.profile.stop) {
            return self.deliver(Event::StopRequested);
        }
        if self.rng.chance(self.profile.garbage) {
            return self.garbage();
        }
        if self.rng.chance(0.05) {
            self.flush();
        }
        if self.inbox.is_empty() || self.rng.chance(0.5) {
            return self.work(true);
        }
        let event = self.inbox.swap_remove(self.rng.below(self.inbox.len()));
        if self.rng.chance(self.profile.lose) {
            return self.ghost(event);
        }
        if self.rng.chance(self.profile.duplicate) {
            self.counts.duplicates += 1;
            self.deliver(event.clone());
            if self.rng.chance(0.5) {
                self.deliver(event.clone());
            }
            return self.ghost(event);
        }
        self.deliver(event);
    }

    fn calm(&mut self) {
        self.now += 1;
        if !self.inbox.is_empty() {
            let event = self.inbox.remove(0);
            return self.deliver(event);
        }
        if !self.jobs.is_empty() {
            return self.work(false);
        }
        self.now += 500;
        self.deliver(Event::Tick);
    }

    fn ghost(&mut self, event: Event) {
        if self.ghosts.len() < 200 {
            self.ghosts.push(event);
        }
    }

    /// Somebody works: takes up a sample, answers, fails, trains or adopts.
    fn work(&mut self, chaos: bool) {
        if self.jobs.is_empty() {
            return;
        }
        let index = match chaos {
            true if self.rng.chance(self.profile.newest_first) => self.jobs.len() - 1,
            true => self.rng.below(self.jobs.len()),
            false => 0,
        };
        if let Command::Sample { .. } = self.jobs[index].command
            && self.jobs[index].started.is_none()
        {
            self.jobs[index].started = Some(self.generators);
            if chaos {
                return;
            }
        }
        if let Command::Train { .. } = self.jobs[index].command
            && chaos
            && !self.rng.chance(self.profile.learner_speed)
        {
            return;
        }
        let Job { mut command, started } = self.jobs.remove(index);
        if let Command::Train { .. } = command {
            // The learner takes its orders in the order they were given; a later one replaces an earlier one.
            for job in std::mem::take(&mut self.jobs) {
                match job.command {
                    Command::Train { .. } => command = job.command,
                    _ => self.jobs.push(job),
                }
            }
        }
        let fault = chaos && self.rng.chance(self.profile.fault);
        let code = String::from("F001");
        let event = match command {
            Command::Sample { rollout, attempt, .. } | Command::Judge { rollout, attempt } if fault => {
                Event::Faulted { rollout, attempt, code }
            }
            Command::Execute { rollout, attempt } if fault => Event::Faulted { rollout, attempt, code },
            Command::Sample { rollout, attempt, .. } => {
                let oldest = PolicyVersion(started.unwrap_or(self.generators));
                Event::Sampled { rollout, attempt, oldest, tokens: 7 }
            }
            Command::Judge { rollout, attempt } => {
                let ruling = if self.rng.chance(self.profile.unscored) {
                    Judgement::Unscored
                } else if self.rng.chance(0.4) {
                    Judgement::Scored(self.reward(chaos))
                } else {
                    Judgement::Admitted
                };
                Event::Judged { rollout, attempt, ruling }
            }
            Command::Execute { rollout, attempt } => Event::Executed { rollout, attempt, reward: self.reward(chaos) },
            Command::Train { step, attempt, groups } => {
                let members = groups.iter().flat_map(|g| g.members.iter().map(|(id, _)| id.0)).collect();
                return self.learn(chaos, step, attempt, members);
            }
            Command::Adopt { policy } => {
                self.generators = self.generators.max(policy.0);
                Event::Adopted { policy }
            }
            Command::Cancel { .. } | Command::Overdue(_) | Command::End { .. } | Command::Finish => return,
        };
        self.inbox.push(event);
    }

    fn reward(&mut self, chaos: bool) -> Reward {
        if chaos && self.rng.chance(0.01) {
            return Reward { plan: f64::NAN, code: 1.0 };
        }
        let kind = self.rng.next() % self.profile.rewards;
        Reward { plan: kind as f64 / 2.0, code: (kind % 2) as f64 }
    }

    /// The learner: idempotent by step, as the contract of `Command::Train` asks.
    fn learn(&mut self, chaos: bool, step: StepId, attempt: Attempt, members: Vec<u64>) {
        let wanted = self.oracle.train.as_ref().is_some_and(|train| train.step == step.0);
        if let Some(&(policy, _)) = self.trained.get(&step.0) {
            self.inbox.push(Event::Trained { step, policy: PolicyVersion(policy), applied: true });
        } else if !wanted {
            // Given up meanwhile: a learner that hears of a newer step abandons the older one.
        } else if chaos && self.rng.chance(self.profile.train_fault) {
            self.inbox.push(Event::TrainFaulted { step, attempt, code: String::from("F002") });
        } else {
            let policy = self.durable.1 + 1;
            self.durable = (step.0, policy);
            self.trained.insert(step.0, (policy, members));
            let applied = self.rng.chance(0.9);
            self.inbox.push(Event::Trained { step, policy: PolicyVersion(policy), applied });
        }
    }

    /// An event nobody sent, or one sent before.
    fn garbage(&mut self) {
        let ghost = if self.ghosts.is_empty() { None } else { Some(self.rng.below(self.ghosts.len())) };
        if let Some(index) = ghost
            && self.rng.chance(0.6)
        {
            self.counts.ghosts += 1;
            let event = self.ghosts[index].clone();
            return self.deliver(event);
        }
        let newest = self.oracle.rolls.keys().next_back().copied().unwrap_or(0);
        let id = self.rng.range(0, newest + 2);
        let latest = self.oracle.rolls.get(&id).map_or(0, |roll| roll.attempt);
        let attempt = Attempt(latest.saturating_sub(self.rng.range(0, 2) as u32) + self.rng.range(0, 1) as u32);
        let rollout = RolloutId(id);
        let step = StepId(self.rng.range(0, self.oracle.step + 2));
        let policy = PolicyVersion(self.rng.range(0, self.oracle.policy + 2));
        let reward = Reward { plan: 0.5, code: 1.0 };
        let event = match self.rng.below(9) {
            0 => Event::Sampled { rollout, attempt, oldest: PolicyVersion(self.oracle.policy), tokens: 1 },
            1 => Event::Judged { rollout, attempt, ruling: Judgement::Admitted },
            2 => Event::Judged { rollout, attempt, ruling: Judgement::Scored(reward) },
            3 => Event::Executed { rollout, attempt, reward },
            4 => Event::Faulted { rollout, attempt, code: String::from("F003") },
            5 => Event::Trained { step, policy, applied: true },
            6 => Event::TrainFaulted { step, attempt: Attempt(self.rng.range(0, 2) as u32), code: String::new() },
            7 => Event::Adopted { policy },
            _ => Event::Started { epoch: Epoch(self.rng.range(0, u64::from(self.epoch)) as u32), policy, step },
        };
        // Only what does not fit: a forged event that fits is a lie no machine can see through.
        if !self.oracle.fits(&event) {
            self.deliver(event);
        }
    }

    fn deliver(&mut self, event: Event) {
        self.counts.events += 1;
        let before = self.snapshot.machine.clone();
        let (record, commands) = self.snapshot.on(self.now, event.clone());
        self.records.push(record.clone());
        self.history.push(record);
        self.oracle.judge(self.now, &event, &commands, &before, &self.snapshot.machine);
        let in_flight = self.oracle.live().len() as u64;
        self.counts.max_in_flight = self.counts.max_in_flight.max(in_flight);
        let full = in_flight + u64::from(self.oracle.config.group_size) > u64::from(self.oracle.config.credits);
        self.counts.credits_filled += u64::from(full);
        for command in commands {
            match &command {
                Command::Train { .. } => self.flush(),
                Command::End { ending, .. } => *self.counts.endings.entry(*ending).or_default() += 1,
                Command::Finish => self.counts.finishes += 1,
                Command::Cancel { rollout, .. } if self.rng.chance(0.5) => {
                    self.jobs.retain(|job| !is_for(&job.command, *rollout));
                }
                _ => {}
            }
            self.jobs.push(Job { command, started: None });
        }
        self.jobs.retain(|job| !matches!(job.command, Command::Cancel { .. } | Command::End { .. } | Command::Finish));
    }

    fn flush(&mut self) {
        self.flushed = (self.records.len(), self.oracle.clone());
        if self.rng.chance(0.1) {
            self.base = encode(&self.snapshot);
            self.records.clear();
            self.flushed.0 = 0;
        }
    }

    /// The process dies; its workers die with it. Then it is resumed.
    fn crash(&mut self) {
        self.counts.crashes += 1;
        let keep_tail = self.rng.chance(0.5);
        if keep_tail {
            self.flushed = (self.records.len(), self.oracle.clone());
        } else {
            // Work of a lost past may bear the numbers of other work now; the shell's epoch keeps it out.
            self.counts.lost_tails += 1;
            self.ghosts.clear();
        }
        let (flushed, oracle) = self.flushed.clone();
        let lost = self.records.len() - flushed;
        self.records.truncate(flushed);
        self.history.truncate(self.history.len() - lost);
        let restored = replay(decode(&self.base), self.records.iter().cloned());
        let violations = std::mem::take(&mut self.oracle.violations);
        let same = restored.as_ref().is_ok_and(|restored| !keep_tail || *restored == self.snapshot);
        self.oracle = oracle;
        self.oracle.violations = violations;
        if !same {
            self.oracle.blame(Rule::Replay, String::from("snapshot and journal give another machine or digest"));
        }
        let Ok(restored) = restored else { return };
        self.snapshot = restored;
        for event in std::mem::take(&mut self.inbox) {
            if keep_tail && self.rng.chance(0.3) {
                self.ghost(event);
            }
        }
        self.jobs.clear();
        self.now = if self.rng.chance(0.3) { self.rng.range(0, 100) } else { self.now + 1_000 };
        self.start();
    }

    fn at_the_end(&mut self) {
        if !self.oracle.violations.is_empty() {
            return;
        }
        let mut ended: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for (&id, roll) in &self.oracle.rolls {
            match roll.ending {
                None => return self.oracle.blame(Rule::R1, format!("rollout {id} never ended")),
                Some(Ending::Trained(step)) => ended.entry(step.0).or_default().push(id),
                Some(Ending::Dropped(_)) => {}
            }
        }
        let log: BTreeMap<u64, Vec<u64>> = self
            .trained
            .iter()
            .map(|(&step, (_, members))| {
                let mut members = members.clone();
                members.sort_unstable();
                (step, members)
            })
            .collect();
        if ended != log {
            self.oracle
                .blame(Rule::R1, String::from("the ledger's trained rollouts are not those the learner trained"));
        }
        match replay(decode(&self.first), self.history.iter().cloned()) {
            Ok(again) if again == self.snapshot => {}
            _ => self.oracle.blame(Rule::Replay, String::from("the whole journal gives another machine or digest")),
        }
    }

    pub fn machine(&self) -> &rollout::machine::Machine {
        &self.snapshot.machine
    }
}

fn is_for(command: &Command, id: RolloutId) -> bool {
    match command {
        Command::Sample { rollout, .. } | Command::Judge { rollout, .. } | Command::Execute { rollout, .. } => {
            *rollout == id
        }
        _ => false,
    }
}
