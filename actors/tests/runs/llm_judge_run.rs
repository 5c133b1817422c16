//! Runs with an LLM judge: one that is away masks, one that objects rejects, one without objections changes nothing, one
//! that dies is replaced; and `troupe verify --judge`.

use crate::cli_common;
use crate::endpoint;
use crate::rig;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actors::config::Judge;
use actors::llm_judge::{Counts, Setup, Tuning};
use actors::observe::Silent;
use actors::orchestrator::{OrchestratorMsg, RunEnd};
use actors::stop::StopToken;
use actors::store::reader::{RolloutDetail, RolloutSummary};
use actors::supervise::Role;
use cli_common::{GOOD, PARTS, Place, TASK};
use endpoint::{Endpoint, Play, no_objection, nobody, opinion};
use rig::Rig;
use rollout::outcome::Outcome;

struct Played {
    end: RunEnd,
    rollouts: Vec<RolloutDetail>,
    faults: Vec<String>,
    counts: Counts,
    weights: String,
}

impl Played {
    /// Rollouts whose answers the stand-in of the executor passes.
    fn passing(&self) -> impl Iterator<Item = &RolloutDetail> {
        self.rollouts.iter().filter(|r| r.completion.as_ref().is_some_and(|c| rig::passes(&c.tokens)))
    }

    fn endings(&self) -> BTreeMap<&str, usize> {
        let mut all = BTreeMap::new();
        for r in &self.rollouts {
            *all.entry(r.summary.ending.as_deref().unwrap_or("in flight")).or_default() += 1;
        }
        all
    }
}

fn ended<'a>(r: &'a RolloutDetail, ending: &str) -> Option<&'a RolloutSummary> {
    Some(&r.summary).filter(|s| s.ending.as_deref() == Some(ending))
}

/// Plays the tiny policy with this judge; the run's own retries are one.
fn play(judge: Option<&Judge>, prepare: impl FnOnce(&Rig)) -> Played {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::new(dir.path());
    rig.machine.retries = 1;
    prepare(&rig);
    let setup = judge.map(|section| Setup::with(section, None, Tuning { backoff: Duration::from_millis(1) }).unwrap());
    let mut crew = rig.crew();
    crew.llm_judge = setup.clone();
    let end = rig.play(crew, Arc::new(Silent), &StopToken::default(), |_| {});
    let reader = rig.reader();
    let mut ids = Vec::new();
    reader
        .each_summary(|s| {
            ids.push(s.id);
            true
        })
        .unwrap();
    Played {
        end,
        rollouts: ids.into_iter().map(|id| reader.rollout(id).unwrap().unwrap()).collect(),
        faults: reader.faults().unwrap().into_iter().map(|f| f.code).collect(),
        counts: setup.map(|s| s.counts()).unwrap_or_default(),
        weights: rig.checkpoints().newest().unwrap().map(|m| m.digest.0).unwrap_or_default(),
    }
}

/// Planted: a fault of the judge passes the candidate. Seen: rollout 1 is trained on with reward 1.
#[test]
fn a_judge_that_is_away_masks_and_nothing_that_passed_is_trained_on() {
    let section = Judge { retries: 0, ..endpoint::section(&nobody()) };
    let played = play(Some(&section), |_| {});
    assert_eq!(played.end, RunEnd::Completed, "{:?}", played.endings());
    let mut masked = 0;
    for r in played.passing() {
        assert_eq!(ended(r, "trained"), None, "{:?}", r.summary);
        assert_eq!((r.reward(), &r.report), (None, &None), "{:?}", r.summary);
        masked += usize::from(ended(r, "faulted").is_some());
    }
    let trained = played.rollouts.iter().filter_map(|r| ended(r, "trained").map(|s| (s, r.reward())));
    assert!(trained.clone().count() > 20, "{:?}", played.endings());
    for (summary, reward) in trained {
        assert_eq!(reward.unwrap().code, 0.0, "{summary:?}");
    }
    assert!(masked > 5 && played.faults.iter().all(|f| f == "F116"), "{masked} {:?}", played.faults);
    assert_eq!(played.counts.faults, played.counts.asked);
}

/// Planted: RL goes on without what passes. Seen: as many steps as without a judge, with every later passing answer masked.
#[test]
fn a_budget_that_is_used_up_ends_rl_and_what_was_trained_is_kept() {
    let endpoint = Endpoint::start(|_, _| no_objection());
    // One question at a time: what was paid for is answered before the next is refused.
    let section = Judge { max_requests: 3, concurrency: 1, ..endpoint.section() };
    let played = play(Some(&section), |_| {});
    assert_eq!(played.end, RunEnd::Completed, "{:?}", played.endings());
    assert!(played.faults.contains(&"F117".to_string()), "{:?}", played.faults);
    assert_eq!(played.counts.requests, 3);
    assert_eq!(played.passing().filter(|r| r.reward().is_some_and(|r| r.code == 1.0)).count(), 3);
    let trained = |played: &Played| played.rollouts.iter().filter(|r| ended(r, "trained").is_some()).count();
    assert!(2 * trained(&played) < trained(&play(None, |_| {})), "{:?}", played.endings());
}

/// Planted: the opinion is not applied. Seen: a passing answer with reward 1.
#[test]
fn an_objection_rejects_and_no_objection_changes_nothing() {
    let endpoint = Endpoint::start(|_, r| {
        let tag = r.part("program").lines().find(|l| l.starts_with("TAG")).unwrap().to_string();
        Play::Says(opinion("hard_coded", &tag, "says so itself"))
    });
    let objects = play(Some(&endpoint.section()), |_| {});
    assert_eq!(objects.end, RunEnd::Completed);
    assert!(objects.passing().count() > 5 && objects.faults.is_empty());
    for r in objects.passing() {
        let Some(Outcome::Rejected { reason }) = r.report.as_ref().map(|r| &r.outcome) else { panic!("{r:?}") };
        assert!(reason.starts_with("J003 (line 2): says so itself (`TAG = "), "{reason}");
        assert_eq!(r.reward().unwrap().code, 0.0);
    }
    assert_eq!(objects.counts.rejected, objects.counts.asked);
    assert!(objects.counts.asked > 0);

    let endpoint = Endpoint::start(|_, _| no_objection());
    let judged = play(Some(&endpoint.section()), |_| {});
    let without = play(None, |_| {});
    assert!(judged.counts.asked > 5 && judged.weights.len() == 64);
    assert_eq!(judged.weights, without.weights, "the same run, to the last bit");
    assert_ne!(judged.weights, objects.weights);
    // Only what passed is asked about.
    assert!(endpoint.received().iter().all(|r| {
        let program = r.part("program");
        let tag = program.lines().find_map(|l| l.strip_prefix("TAG = ")).unwrap();
        tag.parse::<u64>().unwrap().is_multiple_of(3)
    }));
}

/// Planted: what the judge was asked is not faulted. Seen: the run hangs until the stage's own deadline.
#[test]
fn a_killed_llm_judge_is_replaced_and_only_its_questions_are_lost() {
    let (killed, asked) = (Arc::new(AtomicU64::new(0)), Arc::new(std::sync::OnceLock::new()));
    let (kills, address) = (killed.clone(), asked.clone());
    let endpoint = Endpoint::start(move |n, _| {
        if n == 3 {
            let rig: &Arc<std::sync::OnceLock<ractor::ActorRef<OrchestratorMsg>>> = address.get().unwrap();
            rig.get().unwrap().cast(OrchestratorMsg::Kill(Role::LlmJudge)).unwrap();
            kills.fetch_add(1, Ordering::Relaxed);
            return Play::Stalls(Duration::from_secs(60));
        }
        no_objection()
    });
    let played = play(Some(&endpoint.section()), |rig| drop(asked.set(rig.address.clone())));
    assert_eq!((&played.end, killed.load(Ordering::Relaxed)), (&RunEnd::Completed, 1));
    assert!(!played.faults.is_empty() && played.faults.iter().all(|f| f == "F118"), "{:?}", played.faults);
    assert!(played.passing().any(|r| r.reward().is_some_and(|r| r.code == 1.0)));
    assert_eq!(played.endings().keys().find(|e| **e == "in flight"), None, "{:?}", played.endings());
}

/// Needs no Python: nothing is executed.
#[test]
fn a_judge_that_cannot_be_asked_is_an_error_of_usage() {
    let place = Place::new();
    place.put("task.py", TASK);
    place.put("good.py", GOOD);
    let verify = |more: &[&str]| place.troupe(&[&["verify", "task.py", "good.py"], more].concat());
    verify(&["--judge"]).fails(2, PARTS).fails(2, &["has no model", "judge.model"]);
    let set = ["--judge", "--set", "judge.model=m", "--set", "judge.api_key_env=TROUPE_TEST_NO_KEY"];
    verify(&set).fails(2, PARTS).fails(2, &["key is not there", "TROUPE_TEST_NO_KEY"]);
    let set = ["--set", "judge.model=m"];
    verify(&set).fails(2, PARTS).fails(2, &["`judge.model` has no effect", "judge.enabled = true"]);
    let run = ["run", "--dry-run", "--set", "judge.enabled=true", "--set", "judge.model=m"];
    let got = place.troupe(&run);
    assert!(got.succeeds().out.contains("LLM judge      m at http://127.0.0.1:8000/v1, 8 requests"), "{}", got.out);
    let got = place.troupe(&[&run[..], &["--set", "judge.api_key_env=TROUPE_TEST_NO_KEY"]].concat());
    got.fails(2, PARTS);
    place.troupe(&["explain", "J004"]).succeeds();
}

/// Planted: the finding is not added to the document. Seen: no J001 in it.
#[test]
fn verify_asks_about_what_passed() {
    let Some(python) = cli_common::python() else { return };
    let place = Place::new();
    place.put("task.py", TASK);
    place.put("good.py", GOOD);
    let python = format!("python.interpreter={}", python.display());
    let verify = |url: &str, file: &str| {
        let url = format!("judge.base_url={url}");
        let sets = ["--set", &python, "--set", &url, "--set", "judge.model=m", "--set", "judge.retries=0"];
        place.troupe(&[&["verify", "task.py", file, "--judge", "--json"], &sets[..]].concat())
    };
    let document = |got: &cli_common::Got| serde_json::from_str::<serde_json::Value>(&got.out).unwrap();
    let line = "value = tl.load(x + at, mask=mask)";
    let endpoint = Endpoint::start(move |n, _| match n {
        0 => Play::Says(opinion("delegation", line, "reads")),
        _ => no_objection(),
    });
    let got = verify(&endpoint.base_url(), "good.py");
    let told = document(&got);
    assert_eq!((got.code, &told["verdict"]), (Some(1), &"rejected".into()), "{told} {}", got.err);
    let found = told["findings"].as_array().unwrap().iter().find(|f| f["code"] == "J001").unwrap();
    assert_eq!((&found["severity"], &found["line"]), (&"reject".into(), &10.into()), "{told}");
    assert_eq!((&told["layers"]["functional"], &told["layers"]["correct"]), (&false.into(), &serde_json::Value::Null));
    let got = verify(&endpoint.base_url(), "good.py");
    assert_eq!((got.code, &document(&got)["verdict"]), (Some(0), &"passed".into()), "{}", got.err);
    place.put("wrong.py", GOOD.replace("value, 0.0", "value, 0.5"));
    assert_eq!(verify(&endpoint.base_url(), "wrong.py").code, Some(1));
    assert_eq!(endpoint.received().len(), 2, "what failed is not asked about");
    let got = verify(&nobody(), "good.py");
    got.fails(3, &["fault F116", "refused", "troupe explain F116"]);
    assert_eq!(document(&got)["verdict"], "fault");
}
