//! The order of a run: synchronous with `staleness_max = 0`, pipelined otherwise, and wasteful never.

mod support;

use std::collections::BTreeSet;

use rollout::curriculum::CurriculumKind;
use rollout::event::{Command, DropReason, Ending, Event};
use rollout::id::{Epoch, GroupId, PolicyVersion, RolloutId, StepId};
use rollout::machine::{MachineConfig, RunPhase, StopCause};
use support::Rng;
use support::shell::{Shell, few_kinds, small, subject};

fn is_train(command: &Command) -> bool {
    matches!(command, Command::Train { .. })
}

#[test]
fn with_staleness_zero_a_run_is_exactly_the_synchronous_loop() {
    let mut shell = Shell::start(small());
    shell.run(|_| true);
    let mut seen: Vec<String> = Vec::new();
    for command in shell.commands() {
        let line = match command {
            Command::Sample { group, .. } => format!("sample group {group}"),
            Command::Train { step, groups, .. } => {
                format!("train {step}: {:?}", groups.iter().map(|g| (g.group.0, g.members.len())).collect::<Vec<_>>())
            }
            Command::Adopt { policy } => format!("adopt {policy}"),
            Command::End { ending, .. } => format!("{ending:?}"),
            Command::Finish => String::from("finish"),
            Command::Judge { .. } | Command::Execute { .. } => continue,
            Command::Cancel { .. } | Command::Overdue(_) => panic!("nothing is cancelled or overdue"),
        };
        if seen.last() != Some(&line) {
            seen.push(line);
        }
    }
    let due = [
        "sample group 0",
        "sample group 1",
        "sample group 2",
        "train 1: [(0, 4), (1, 4), (2, 4)]",
        "Trained(StepId(1))",
        "adopt 1",
        "sample group 3",
        "sample group 4",
        "sample group 5",
        "train 2: [(3, 4), (4, 4), (5, 4)]",
        "Trained(StepId(2))",
        "adopt 2",
        "sample group 6",
        "sample group 7",
        "sample group 8",
        "train 3: [(6, 4), (7, 4), (8, 4)]",
        "Trained(StepId(3))",
        "adopt 3",
        "finish",
    ];
    assert_eq!(seen, due);
    for batch in shell.machine.view().batches {
        assert_eq!(batch.staleness.into_iter().collect::<Vec<_>>(), [(0, 12)], "every token is the newest policy's");
    }
    assert_eq!(shell.machine.phase(), RunPhase::Finished(StopCause::Completed));
}

#[test]
fn with_staleness_zero_nothing_is_sampled_between_training_and_adoption() {
    let mut shell = Shell::start(small());
    shell.run(|command| !is_train(command) && !matches!(command, Command::Adopt { .. }));
    let trained = shell.answer(0);
    assert!(!trained.iter().any(|c| matches!(c, Command::Sample { .. })), "the generators still hold version 0");
    assert!(matches!(shell.todo[..], [Command::Adopt { policy: PolicyVersion(1) }]));
    let adopted = shell.answer(0);
    assert_eq!(adopted.iter().filter(|c| matches!(c, Command::Sample { .. })).count(), 12);
}

/// Rewards depend on a rollout's seed only; so must batches, tasks and drops, however events interleave.
#[test]
fn with_staleness_zero_batches_do_not_depend_on_timing() {
    for zero_variance_limit in [0, 1, 2] {
        batches_do_not_depend_on_timing(zero_variance_limit);
    }
}

/// Planted: the limit counts dropped groups. Seen: order 1 trains other batches, with a limit of 1.
fn batches_do_not_depend_on_timing(zero_variance_limit: u32) {
    let config = MachineConfig {
        group_size: 3,
        steps: 6,
        drop_zero_variance: true,
        zero_variance_limit,
        curriculum: CurriculumKind::Frontier,
        ..small()
    };
    let mut expected = None;
    for seed in 0..200 {
        let mut rng = Rng::new(seed);
        let mut shell = Shell::start(config.clone());
        shell.reward = few_kinds;
        while !shell.todo.is_empty() {
            let index = if seed == 0 { 0 } else { rng.below(shell.todo.len()) };
            shell.answer(index);
        }
        let dropped: BTreeSet<RolloutId> = shell.dropped(DropReason::ZeroVariance).into_iter().collect();
        assert!(dropped.len() >= 3, "the histories do meet groups without variance: {dropped:?}");
        let result = (shell.batches(), dropped, shell.machine.curriculum().clone());
        assert_eq!(result.0.len(), 6);
        let expected = expected.get_or_insert_with(|| result.clone());
        assert!(*expected == result, "order {seed} trains other batches");
    }
}

#[test]
fn a_slow_learner_lets_exactly_staleness_max_more_batches_start() {
    for staleness_max in 0..4 {
        for steps in 1..6 {
            let config = MachineConfig { staleness_max, steps, ..small() };
            let mut shell = Shell::start(config);
            shell.run(|command| !is_train(command));
            let due = 3 * steps.min(staleness_max + 1);
            assert_eq!(shell.started_groups().len() as u64, due, "staleness_max {staleness_max}, {steps} steps");
            assert_eq!(shell.batches().len(), 1);
        }
    }
}

#[test]
fn credits_hold_back_what_staleness_allows() {
    let config = MachineConfig { staleness_max: 3, steps: 9, credits: 12 + 4 + 3, ..small() };
    let mut shell = Shell::start(config);
    shell.run(|command| !is_train(command));
    assert_eq!(shell.started_groups().len(), 4, "4 groups of 4 fit into 19 credits, a fifth does not");
    assert_eq!(shell.machine.view().credits_in_use, 16);
}

/// "No wasted work": where results come in order, whatever the staleness and however slow the learner, every rollout
/// that is sampled is trained on, and none is left over at the end.
#[test]
fn in_order_every_sampled_rollout_is_trained() {
    for staleness_max in 0..4 {
        for credits in [12, 17, 30, 1000] {
            let config = MachineConfig { staleness_max, steps: 7, credits, ..small() };
            let mut shell = Shell::start(config);
            while !shell.todo.is_empty() {
                let index = shell.todo.iter().position(|command| !is_train(command)).unwrap_or(0);
                shell.answer(index);
            }
            let ledger = shell.machine.ledger();
            assert_eq!((ledger.sampled, ledger.trained), (7 * 12, 7 * 12), "{staleness_max} {credits} {ledger:?}");
            assert_eq!(shell.machine.phase(), RunPhase::Finished(StopCause::Completed));
        }
    }
}

#[test]
fn a_straggler_is_overtaken_then_dropped_whole_and_replaced() {
    let config = MachineConfig { groups_per_step: 1, staleness_max: 1, steps: 9, ..small() };
    let mut shell = Shell::start(config);
    assert_eq!(shell.started_groups(), [GroupId(0), GroupId(1)]);
    let last = RolloutId(3);
    let others = |command: &Command| subject(command) != Some(last);
    // Group 0 waits for its last member; 1, 2, 3 are trained past it.
    while shell.machine.policy() < PolicyVersion(1) {
        let index = shell.todo.iter().position(others).expect("there is other work");
        shell.answer(index);
    }
    assert_eq!(shell.dropped(DropReason::Stale), [], "one version behind is allowed");
    while shell.machine.policy() < PolicyVersion(2) {
        let index = shell.todo.iter().position(others).expect("there is other work");
        shell.answer(index);
    }
    let stale: Vec<RolloutId> = (0..4).map(RolloutId).collect();
    assert_eq!(shell.dropped(DropReason::Stale), stale);
    assert!(shell.commands().any(|c| matches!(c, Command::Cancel { rollout, .. } if *rollout == last)));
    let before = shell.started_groups().len();
    shell.run(|command| matches!(command, Command::Adopt { .. }));
    assert!(shell.started_groups().len() > before, "its place is given to a new group");
    let late = shell.send(Event::Sampled {
        rollout: last,
        attempt: rollout::id::Attempt(1),
        oldest: PolicyVersion(0),
        tokens: 1,
    });
    assert_eq!(late, []);
}

#[test]
fn the_view_tells_how_stale_a_batch_is() {
    let config = MachineConfig { groups_per_step: 1, staleness_max: 2, steps: 9, ..small() };
    let mut shell = Shell::start(config);
    // Groups 0, 1 and 2 are sampled with version 0 and trained at versions 0, 1 and 2.
    shell.run(|command| !is_train(command));
    for _ in 0..2 {
        shell.run(is_train);
    }
    let batches = shell.machine.view().batches;
    let staleness: Vec<(u64, u64)> = batches.iter().flat_map(|batch| batch.staleness.clone()).collect();
    assert_eq!(staleness, [(0, 4), (1, 4), (2, 4)]);
}

#[test]
fn the_same_seed_is_sampled_whatever_happens() {
    let seeds = |retries: u32| {
        let mut shell = Shell::start(MachineConfig { retries, ..small() });
        let mut seeds = std::collections::BTreeMap::new();
        for id in 0..12 {
            if retries > 0 {
                shell.fault(RolloutId(id));
            }
        }
        shell.run(|_| true);
        for command in shell.commands() {
            if let Command::Sample { rollout, seed, .. } = command {
                let first = *seeds.entry(*rollout).or_insert(*seed);
                assert_eq!(first, *seed, "a retry samples the same answer");
            }
        }
        seeds
    };
    let (quiet, faulty) = (seeds(0), seeds(2));
    assert_eq!(quiet, faulty);
    assert_eq!(quiet.values().collect::<BTreeSet<_>>().len(), quiet.len(), "all seeds differ");
}

#[test]
fn training_and_ending_are_one_event() {
    let mut shell = Shell::start(small());
    shell.run(|command| !is_train(command));
    assert_eq!(shell.ended(Ending::Trained(StepId(1))), [], "issued is not trained");
    shell.answer(0);
    assert_eq!(shell.ended(Ending::Trained(StepId(1))).len(), 12);
    let again = shell.send(Event::Trained { step: StepId(1), policy: PolicyVersion(1), applied: true });
    assert_eq!(again, [], "a duplicate trains nothing twice");
}

#[test]
fn a_resume_settles_the_outstanding_step_by_the_checkpoint() {
    for (durable, retrained) in [(0, true), (1, false)] {
        let mut shell = Shell::start(small());
        shell.run(|command| !is_train(command));
        let first = shell.batches();
        shell.todo.clear();
        let epoch = Epoch(2);
        let commands = shell.send(Event::Started { epoch, policy: PolicyVersion(durable), step: StepId(durable) });
        shell.generators = durable;
        let again = shell.batches();
        if retrained {
            assert_eq!(again.len(), 2);
            assert_eq!(first[0], again[1], "the same step with the same members");
            assert_eq!(shell.ended(Ending::Trained(StepId(1))), []);
        } else {
            assert_eq!(again.len(), 1, "what the checkpoint holds is not trained again");
            assert_eq!(shell.ended(Ending::Trained(StepId(1))).len(), 12);
            assert_eq!(commands.iter().filter(|c| matches!(c, Command::Sample { .. })).count(), 12);
        }
        shell.run(|_| true);
        assert_eq!(shell.machine.ledger().trained, 36);
        assert_eq!(shell.machine.phase(), RunPhase::Finished(StopCause::Completed));
    }
}

#[test]
fn a_resume_issues_each_rollout_at_its_stage() {
    let mut shell = Shell::start(small());
    shell.answer(0); // rollout 0 sampled
    shell.answer(0); // rollout 1 sampled
    let judge = shell.todo.iter().position(|c| matches!(c, Command::Judge { rollout: RolloutId(0), .. }));
    shell.answer(judge.expect("rollout 0 is judged"));
    let before = shell.machine.view();
    assert_eq!((before.sampling, before.judging, before.executing), (10, 1, 1));
    let commands = shell.send(Event::Started { epoch: Epoch(2), policy: PolicyVersion(0), step: StepId(0) });
    let mut kinds = [0; 3];
    for command in &commands {
        let attempt = support::shell::attempt(command).expect("all are work").0;
        match command {
            Command::Execute { rollout: RolloutId(0), .. } if attempt == 4 => kinds[0] += 1,
            Command::Judge { rollout: RolloutId(1), .. } if attempt == 3 => kinds[1] += 1,
            Command::Sample { rollout, .. } if rollout.0 > 1 && attempt == 2 => kinds[2] += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(kinds, [1, 1, 10]);
}

#[test]
fn the_curriculum_learns_from_complete_groups_when_the_step_closes() {
    let mut shell = Shell::start(MachineConfig { curriculum: CurriculumKind::Frontier, ..small() });
    // Codes 0, 1, 0, 1: two of four solved; plans all differ. One member of the first group is masked.
    for _ in 0..3 {
        shell.fault(RolloutId(1));
    }
    shell.run(|command| !is_train(command));
    let known = |shell: &Shell| {
        let tasks = shell.machine.curriculum().tasks();
        tasks.iter().map(|task| (task.answers, task.solved)).filter(|known| known.0 > 0).collect::<Vec<_>>()
    };
    assert_eq!(known(&shell), [], "nothing takes effect before the step closes");
    shell.answer(0);
    let mut known = known(&shell);
    known.sort_unstable();
    assert_eq!(known, [(3, 1), (4, 2), (4, 2)], "three tasks were tried, the masked answer is not counted");
}
