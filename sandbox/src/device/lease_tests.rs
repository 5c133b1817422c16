//! `measure` against a scripted referee and a scripted candidate: what a real device would do too seldom to test.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rollout::id::TaskId;
use rollout::outcome::{Fault, Outcome};
use rollout::task::{Split, TaskSpec};
use rollout::timing::Timing;
use serde_json::{Value, json};

use super::lease::{Measured, Sides, Subject, measure};
use super::trial::Step;
use super::{Device, DeviceConfig, DeviceLimits, Kind, Places};
use crate::gpu::contamination::Limits;
use crate::gpu::fake::FakeInventory;
use crate::gpu::free::FreePolicy;
use crate::gpu::inventory::{Device as Gpu, Reading};
use crate::gpu::timing::SamplerConfig;
use crate::trial::Ending;

pub(super) const UUID: &str = "GPU-scripted";
/// One clearing of the cache, microseconds.
pub(super) const FLUSH: f64 = 62.0;

/// What one side's calls are like in a burst.
#[derive(Clone, Copy)]
pub(super) struct Calls {
    pub us: f64,
    /// The first one, where it is not like the others.
    pub first_us: Option<f64>,
    pub flushes: f64,
    /// By the host's clock, beyond the events, each.
    pub host_us: f64,
    /// What a call that is waited for takes, by what another takes.
    pub waited: f64,
}

pub(super) const fn calls(us: f64) -> Calls {
    Calls { us, first_us: None, flushes: 2.0, host_us: 100.0, waited: 1.0 }
}

/// Both sides; each burst takes the next entry, the last one stays.
pub(super) struct Script {
    reference: VecDeque<Calls>,
    candidate: VecDeque<Calls>,
    /// Answers to `baseline`.
    pub alone: VecDeque<f64>,
    call_ms: f64,
    /// Its calls take next to no time of the host's.
    instant: bool,
    frozen: bool,
    /// What was asked, in order.
    pub asked: Vec<String>,
    /// Calls of each burst.
    bursts: Vec<u64>,
}

fn next(queue: &mut VecDeque<Calls>) -> Calls {
    let first = queue[0];
    if queue.len() > 1 {
        queue.pop_front();
    }
    first
}

pub(super) fn times(of: Calls, count: u64) -> Value {
    let one = |n: u64| {
        let us = if n == 0 { of.first_us.unwrap_or(of.us) } else { of.us };
        // A little unrest, always the same.
        let us = us * (1.0 + 0.001 * (n % 5) as f64);
        let queued = n < 3 * count / 4;
        let us = if queued { us } else { us * of.waited };
        json!({"us": us, "rest_us": 1.0, "spacer_us": of.flushes * FLUSH, "late": false, "queued": queued})
    };
    json!((0..count).map(one).collect::<Vec<_>>())
}

fn wall(of: Calls, count: u64) -> f64 {
    count as f64 * (of.us + of.flushes * FLUSH + of.host_us)
}

impl Sides for Script {
    async fn referee(&mut self, question: Value) -> Result<Value, Fault> {
        let op = question["op"].as_str().unwrap().to_owned();
        self.asked.push(op.clone());
        let count = self.bursts.last().copied().unwrap_or(0);
        Ok(match &*op {
            "baseline" => {
                let us = self.alone.pop_front().expect("no more baselines");
                self.asked.push(format!("frozen: {}", self.frozen));
                json!({"times": times(calls(us), 30)})
            }
            "burst" => {
                let count = question["calls"].as_u64().unwrap();
                self.bursts.push(count);
                json!({"heat": {}, "calls": vec![json!({}); count as usize]})
            }
            "reference" => {
                let of = next(&mut self.reference);
                json!({"times": times(of, count), "wall_us": wall(of, count), "flushed_us": 2.0 * FLUSH})
            }
            "fill" => json!({}),
            "check" => json!({"wrong": null}),
            other => panic!("{other}"),
        })
    }

    async fn order(&mut self, order: &Value, event: &str, _limit_ms: u64) -> Result<Step, Fault> {
        assert!(!self.frozen, "it is stopped");
        self.asked.push(event.to_owned());
        if order["op"] != "go" {
            return Ok(Ok(json!({"event": event})));
        }
        let (of, count) = (next(&mut self.candidate), *self.bursts.last().unwrap());
        let us = if self.instant { 1_000.0 } else { wall(of, count) };
        tokio::time::sleep(Duration::from_secs_f64(us / 1e6)).await;
        Ok(Ok(json!({"event": event, "times": times(of, count)})))
    }

    async fn wait(&mut self, event: &str, _limit_ms: u64) -> Result<Step, Fault> {
        Ok(Ok(json!({"event": event, "outputs": []})))
    }

    async fn freeze(&mut self, frozen: bool) -> Result<(), Fault> {
        self.frozen = frozen;
        Ok(())
    }

    fn spent(&mut self, _step: &str, _since: Instant) {}

    fn waited_ms(&self) -> f64 {
        0.0
    }

    fn call_ms(&self) -> f64 {
        self.call_ms
    }
}

pub(super) fn script(reference: &[Calls], candidate: &[Calls]) -> Script {
    Script {
        reference: reference.iter().copied().collect(),
        candidate: candidate.iter().copied().collect(),
        alone: [reference[0].us].into(),
        call_ms: 1.0,
        instant: false,
        frozen: true,
        asked: Vec::new(),
        bursts: Vec::new(),
    }
}

pub(super) fn quiet() -> Reading {
    Reading { sm_mhz: 1980, memory_mhz: 2619, processes: Some(Vec::new()), ..Reading::default() }
}

pub(super) struct Lab {
    pub device: Arc<Device>,
    pub inventory: Arc<FakeInventory>,
    pub task: TaskSpec,
    pub job: Value,
    _scratch: tempfile::TempDir,
}

pub(super) fn lab() -> Lab {
    let scratch = tempfile::tempdir().unwrap();
    // 3.35 TB/s and 989 TFLOP/s.
    let gpu = Gpu {
        uuid: UUID.into(),
        capability: Some((9, 0)),
        memory_mhz_max: 2619,
        bus_bits: Some(5120),
        memory_bytes: 80 << 30,
        ..Gpu::default()
    };
    let inventory = Arc::new(FakeInventory::with([gpu.clone()]));
    inventory.script(UUID, [Ok(quiet())]);
    let config = DeviceConfig {
        kind: Kind::Processor(Some(UUID.into())),
        python: "/nowhere".into(),
        scratch: scratch.path().to_owned(),
        secret: [1; 32],
        checks: 1,
        box_bytes: 1 << 30,
        limits: DeviceLimits::default(),
        sampler: SamplerConfig { min_samples: 55, max_samples: 60, ..SamplerConfig::default() },
        timed: true,
        tries: 3,
        // The clock of a busy machine is not what is tested here.
        disturbed: Limits { host_longer: (2.0, 2_000.0), ..Limits::default() },
        free: FreePolicy::default(),
        lock_sm_mhz: 0,
        tenant: None,
        places: Places::Fresh,
    };
    let device = Arc::new(Device::of(config, inventory.clone(), Some(gpu)).unwrap());
    let task =
        TaskSpec { id: TaskId("t".into()), level: 1, split: Split::Train, tags: vec![], source: "reference".into() };
    let job = json!({"sets": 16, "box": {"size": 1 << 20}, "floor": {}});
    Lab { device, inventory, task, job, _scratch: scratch }
}

impl Lab {
    pub async fn measure(&self, script: &mut Script) -> Result<Measured, Fault> {
        script.frozen = true;
        measure(&Subject { device: &self.device, task: &self.task, job: &self.job }, script).await
    }

    pub async fn accepted(&self, script: &mut Script) -> Timing {
        match self.measure(script).await {
            Ok(Measured::Accepted(timing)) => timing,
            other => panic!("{other:?}"),
        }
    }

    pub async fn implausible(&self, script: &mut Script) -> String {
        match self.measure(script).await {
            Ok(Measured::Ended(Ending::Outcome(Outcome::Implausible { message }))) => message,
            other => panic!("{other:?}"),
        }
    }
}

/// A reference of many operations is launched slowly and clears the cache three times before a call; a fused kernel need not.
#[tokio::test]
async fn a_candidate_that_launches_fast_need_not_clear_the_cache_as_often() {
    let lab = lab();
    let reference = Calls { flushes: 3.0, ..calls(300.0) };
    let timing = lab.accepted(&mut script(&[reference], &[calls(100.0)])).await;
    assert!((timing.speedup - 3.0).abs() < 0.1, "{timing:?}");
    let lazy = Calls { flushes: 1.0, ..calls(100.0) };
    let message = lab.implausible(&mut script(&[reference], &[lazy])).await;
    assert!(message.contains("cleared for 62 us"), "{message}");
}

/// What the candidate has left running slows the reference down from the first try to the last.
#[tokio::test]
async fn a_reference_that_stays_slow_is_a_fault_and_never_a_number() {
    let lab = lab();
    let mut slow = script(&[calls(200.0)], &[calls(100.0)]);
    slow.alone = [100.0].into();
    let fault = lab.measure(&mut slow).await.expect_err("it is slower than it is alone");
    assert_eq!(fault.code, "F014");
    assert_eq!(fault.message.matches("alone it takes 100").count(), 3, "{fault}");
    assert_eq!(slow.asked.iter().filter(|op| *op == "baseline").count(), 1, "it is not measured beside what slows it");
    let kept = lab.device.baseline(&lab.task).unwrap();
    assert!((kept - 100.0).abs() < 1.0 && lab.device.baseline_wanted(&lab.task), "{kept}: it is taken once more");
}

/// Both sides of the tolerance, of short calls and of long ones; and what is let pass beyond 3 % is not paid for. Planted bug: an honest
/// speed-up is lowered where the time alone happened to be taken a percent low.
#[tokio::test]
async fn a_reference_of_microseconds_may_be_half_a_one_off_and_nobody_is_paid_for_it() {
    for (alone, now, candidate, accepted) in [
        (6.0, 6.4, 3.0, Some(1.03 * 6.0 / 3.0)),
        (6.0, 6.15, 3.0, Some(6.15 / 3.0)),
        (6.0, 6.7, 3.0, None),
        (6.0, 5.6, 3.0, Some(5.6 / 3.0)),
        (100.0, 102.5, 50.0, Some(102.5 / 50.0)),
        (100.0, 103.5, 50.0, None),
        // Slowed down to look worse than an equal; and an equal that was slowed down with it.
        (6.0, 6.45, 6.0, Some(1.03)),
        (6.0, 6.45, 6.45, Some(1.0)),
    ] {
        let lab = lab();
        let mut script = script(&[calls(now)], &[calls(candidate)]);
        script.alone = [alone].into();
        let result = lab.measure(&mut script).await;
        match (accepted, result) {
            (Some(speedup), Ok(Measured::Accepted(timing))) => {
                assert!((timing.rewarded() - speedup).abs() < 0.005 * speedup, "{alone} {now}: {timing:?}");
                assert!((timing.reference_us - now).abs() < 0.005 * now && timing.refused.is_empty(), "{timing:?}");
                let kept = lab.device.baseline(&lab.task).unwrap();
                assert!((kept - alone).abs() < 0.005 * alone, "{kept}: what is let pass changes nothing for the next");
            }
            (None, Err(fault)) => assert_eq!(fault.code, "F014", "{alone} {now}"),
            (_, other) => panic!("{alone} {now}: {other:?}"),
        }
    }
}

/// Planted bug: a time of one version of PyTorch holds for the next.
#[tokio::test]
async fn what_a_reference_takes_alone_holds_for_the_versions_that_it_was_taken_with() {
    let lab = lab();
    let with = |torch: &str| *lab.device.facts.lock().unwrap() = json!({"torch": torch, "name": "H200"});
    with("2.11.0");
    lab.accepted(&mut script(&[calls(100.0)], &[calls(50.0)])).await;
    assert!(lab.device.baseline(&lab.task).is_some());
    with("2.12.0");
    assert_eq!(lab.device.baseline(&lab.task), None);
    let mut newer = script(&[calls(80.0)], &[calls(50.0)]);
    let timing = lab.accepted(&mut newer).await;
    assert!((timing.baseline_us - 80.0).abs() < 1.0 && newer.asked[0] == "baseline", "{timing:?}");
    with("2.11.0");
    assert!(lab.device.baseline(&lab.task).is_some_and(|us| us > 99.0));
    let other = TaskSpec { source: "another shape".into(), ..lab.task.clone() };
    assert_eq!(lab.device.baseline(&other), None);
}

/// Planted bug: what it was slowed down to becomes what it takes alone, a little more with every candidate.
#[tokio::test]
async fn what_the_reference_takes_alone_does_not_creep_up() {
    let lab = lab();
    for n in 0..6 {
        let mut script = script(&[calls(6.0 + 0.4 * f64::from(n))], &[calls(3.0)]);
        // Taken on an empty device, after a refusal too.
        script.alone = [6.0].into();
        match lab.measure(&mut script).await {
            Ok(Measured::Accepted(timing)) => assert!(n < 2 && timing.speedup < 2.07, "{n}: {timing:?}"),
            Err(fault) => assert!(n >= 2 && fault.code == "F014", "{n}: {fault}"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_baseline_is_taken_while_nothing_of_the_candidate_runs_and_gives_way_to_a_lower_one_only() {
    let lab = lab();
    let mut first = script(&[calls(100.0)], &[calls(50.0)]);
    first.alone = [150.0].into();
    let timing = lab.accepted(&mut first).await;
    assert_eq!(first.asked[..2], ["baseline", "frozen: true"]);
    assert!(timing.refused.len() == 1 && timing.refused[0].contains("alone it takes 150"), "{timing:?}");
    let known = lab.device.baseline(&lab.task).unwrap();
    assert!((known - 100.0).abs() < 1.0, "{known}");
    // Slow for one try.
    let slow = [vec![calls(120.0); 6], vec![calls(100.0)]].concat();
    let timing = lab.accepted(&mut script(&slow, &[calls(50.0)])).await;
    assert!(timing.refused.len() == 1 && (timing.baseline_us - known).abs() < 1e-9, "{timing:?}");
}

/// Work that goes on elsewhere in four bursts of five.
#[tokio::test]
async fn one_honest_burst_of_five_makes_no_honest_candidate() {
    let lab = lab();
    let hidden = Calls { host_us: 9_000.0, ..calls(20.0) };
    let bursts: Vec<Calls> = (0..100).map(|n| if n % 5 == 4 { calls(20.0) } else { hidden }).collect();
    let message = lab.implausible(&mut script(&[calls(100.0)], &bursts)).await;
    assert!(message.contains("goes on elsewhere"), "{message}");
}

/// Planted bug: a short burst weighs as much as a long one, of which most samples are. Honest in the short ones, of which there are more,
/// it hides its work, or does all of a burst's in one call, in the long ones.
#[tokio::test]
async fn who_is_honest_in_short_bursts_has_nothing_of_it_in_long_ones() {
    let honest = calls(95.0);
    let hidden = Calls { host_us: 9_000.0, ..calls(20.0) };
    let first = Calls { first_us: Some(6_000.0), ..calls(3.0) };
    for (lie, found) in [(hidden, "goes on elsewhere"), (first, "the work of others")] {
        let mut lab = lab();
        lab.job["sets"] = json!(64);
        let sampler = SamplerConfig { relative_width: -1.0, resolution_us: -1.0, ..SamplerConfig::default() };
        let config = &mut Arc::get_mut(&mut lab.device).unwrap().config;
        (config.sampler, config.tries) = (sampler, 1);
        let mut liar = script(&[calls(100.0)], &[[honest; 6].as_slice(), &[lie; 5], &[honest]].concat());
        let message = lab.implausible(&mut liar).await;
        assert_eq!(liar.bursts, [vec![3], vec![16; 5], vec![64; 5], vec![16]].concat());
        assert!(message.contains(found), "{message}");
    }
}

/// Planted bugs: what waited calls take is not looked at, or is not told with the result.
#[tokio::test]
async fn work_that_only_waited_calls_show_is_the_candidates() {
    let lab = lab();
    let hidden = Calls { waited: 1.06, ..calls(50.0) };
    let timing = lab.accepted(&mut script(&[calls(100.0)], &[hidden])).await;
    assert!((52.9..53.3).contains(&timing.candidate_us), "{timing:?}");
    assert!((timing.speedup / (timing.reference_us / timing.candidate_us) - 1.0).abs() < 1e-9, "{timing:?}");
    assert!(timing.refused.iter().any(|why| why.starts_with("accepted, 50.")), "{:?}", timing.refused);
    let noise = lab.accepted(&mut script(&[calls(100.0)], &[Calls { waited: 1.008, ..calls(50.0) }])).await;
    assert!(noise.candidate_us < 50.3 && noise.refused.is_empty(), "{noise:?}");
    for waited in [f64::INFINITY, -1.0] {
        let liar = Calls { waited, ..calls(50.0) };
        let ended = lab.measure(&mut script(&[calls(100.0)], &[liar])).await;
        assert!(matches!(&ended, Ok(Measured::Ended(Ending::Outcome(Outcome::Crashed { .. })))), "{ended:?}");
    }
}

/// The first call of a burst does not count: it does the work of all of them.
#[tokio::test]
async fn a_call_that_does_the_others_work_is_not_left_out() {
    let lab = lab();
    let first = Calls { first_us: Some(1_600.0), ..calls(3.0) };
    let message = lab.implausible(&mut script(&[calls(100.0)], &[first])).await;
    assert!(message.contains("the work of others"), "{message}");
    let rough = Calls { first_us: Some(60.0), ..calls(10.0) };
    lab.accepted(&mut script(&[calls(100.0)], &[rough])).await;
}

/// Planted bug: every burst is as short as it is where a few calls are enough, or as long as it is where they are not.
#[tokio::test]
async fn what_a_few_calls_do_not_tell_is_measured_in_long_bursts() {
    let mut lab = lab();
    let sampler = SamplerConfig { relative_width: -1.0, resolution_us: -1.0, ..SamplerConfig::default() };
    Arc::get_mut(&mut lab.device).unwrap().config.sampler = sampler;
    lab.job["sets"] = json!(64);
    let mut undecided = script(&[calls(100.0)], &[calls(50.0)]);
    let timing = lab.accepted(&mut undecided).await;
    assert_eq!(undecided.bursts, [vec![3], vec![16; 5], vec![64; 5], vec![16]].concat());
    assert!((300..310).contains(&timing.samples) && !timing.converged, "{timing:?}");
    // As many as there is room for, and as fit into a burst's time.
    lab.job["sets"] = json!(20);
    let mut few = script(&[calls(100.0)], &[calls(50.0)]);
    lab.accepted(&mut few).await;
    assert!(few.bursts[1..6] == [16; 5] && few.bursts[6..].iter().all(|&n| n <= 20), "{:?}", few.bursts);
    lab.job["sets"] = json!(64);
    let mut slow = Script { call_ms: 100.0, ..script(&[calls(100.0)], &[calls(50.0)]) };
    lab.accepted(&mut slow).await;
    assert_eq!(slow.bursts.iter().max(), Some(&33));
    // What a few calls tell is told by a few calls.
    let mut lab = super::lease_tests::lab();
    lab.job["sets"] = json!(64);
    let mut decided = script(&[calls(100.0)], &[calls(50.0)]);
    assert!(lab.accepted(&mut decided).await.converged);
    assert_eq!(decided.bursts, [vec![3], vec![16; 5]].concat());
}

/// Calls of seconds: as many as the limits allow, and an end.
#[tokio::test]
async fn slow_calls_come_in_short_bursts_and_the_measurement_ends() {
    let mut lab = lab();
    Arc::get_mut(&mut lab.device).unwrap().config.disturbed.host_shorter = (0.0, 1e12);
    let of = |call_ms: f64| {
        let script = script(&[calls(9e5)], &[calls(call_ms * 1e3)]);
        Script { call_ms, instant: true, ..script }
    };
    let mut slow = of(700.0);
    lab.accepted(&mut slow).await;
    assert!(slow.bursts.iter().all(|&n| n <= 3), "{:?}", slow.bursts);
    let mut slower = of(5_000.0);
    lab.accepted(&mut slower).await;
    assert!(slower.bursts.iter().all(|&n| n == 1), "{:?}", slower.bursts);
}

#[tokio::test]
async fn when_there_is_no_time_for_more_the_figures_that_there_are_have_to_do() {
    let mut lab = lab();
    let config = &mut Arc::get_mut(&mut lab.device).unwrap().config;
    config.limits.time_ms = 0;
    // Two bursts have no middle: a stall in one would count.
    config.disturbed.host_longer.1 = 1e9;
    let mut slow = script(&[calls(100.0)], &[calls(50.0)]);
    let timing = lab.accepted(&mut slow).await;
    assert!(!timing.converged && timing.samples < 55 && slow.bursts.len() == 2, "{timing:?} {:?}", slow.bursts);
}

/// Memory of ours alone, and nobody is listed.
#[tokio::test]
async fn where_processes_are_hidden_our_own_memory_is_not_foreign() {
    let lab = lab();
    let hidden = |mb: u64| Reading { processes: None, memory_used_bytes: mb << 20, ..quiet() };
    lab.inventory.script(UUID, [Ok(hidden(5000))]);
    let timing = lab.accepted(&mut script(&[calls(100.0)], &[calls(50.0)])).await;
    assert!(timing.conditions.processes_hidden, "{timing:?}");
    // Somebody comes.
    lab.inventory.script(UUID, [Ok(hidden(5000)), Ok(hidden(5000)), Ok(hidden(7000))]);
    let fault = lab.measure(&mut script(&[calls(100.0)], &[calls(50.0)])).await.expect_err("somebody else's memory");
    assert!(fault.code == "F014" && fault.message.contains("somebody else's"), "{fault}");
    // Somebody is at work while nothing of ours runs.
    let busy = Reading { utilisation_percent: 90, ..hidden(5000) };
    lab.inventory.script(UUID, [Ok(busy)]);
    let fault = lab.measure(&mut script(&[calls(100.0)], &[calls(50.0)])).await.expect_err("somebody is at work");
    assert!(fault.code == "F014" && fault.message.contains("90 %"), "{fault}");
}

#[tokio::test]
async fn a_look_that_fails_in_the_middle_is_noticed() {
    let lab = lab();
    lab.accepted(&mut script(&[calls(100.0)], &[calls(50.0)])).await;
    let looks = [Ok(quiet()), Ok(quiet()), Ok(quiet()), Err("gone".to_owned()), Ok(quiet())];
    lab.inventory.script(UUID, looks);
    let slow = Calls { host_us: 1_500.0, ..calls(100.0) };
    let timing = lab.accepted(&mut script(&[slow], &[slow])).await;
    assert!(timing.refused.len() == 1 && timing.refused[0].contains("could not be read"), "{timing:?}");
}

/// Fewer operations than the reference's are possible, and not paid for.
#[tokio::test]
async fn a_better_algorithm_is_counted_as_fast_as_the_references_own_could_be() {
    let mut lab = lab();
    // 138.9 us of operations; 20 us to write the result.
    lab.job["floor"] = json!({"bytes_in": 0, "bytes_out": 67_000_000, "flops": 137_438_953_472u64, "dtype": "float16"});
    let timing = lab.accepted(&mut script(&[calls(500.0)], &[calls(50.0)])).await;
    assert!((timing.candidate_us - 0.9 * 138.9).abs() < 0.5 && (timing.speedup - 4.0).abs() < 0.05, "{timing:?}");
    assert!(timing.refused[0].contains("counted as"), "{timing:?}");
    let message = lab.implausible(&mut script(&[calls(500.0)], &[calls(15.0)])).await;
    assert!(message.contains("to write"), "{message}");
}
