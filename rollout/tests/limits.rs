//! Faults, masks, variance, the learner's failures, stopping: every loop has a limit and every end a reason.

mod support;

use rollout::event::{Command, DropReason, Ending, Event, Judgement, Overdue};
use rollout::id::{Attempt, Epoch, GroupId, PolicyVersion, RolloutId, StepId};
use rollout::machine::{ConfigError, Machine, MachineConfig, RunPhase, StopCause};
use rollout::reward::Reward;
use support::profile::tasks;
use support::shell::{Shell, attempt, few_kinds, small, subject};

fn is_train(command: &Command) -> bool {
    matches!(command, Command::Train { .. })
}

fn same(_rollout: u64, _seed: u64) -> Reward {
    Reward { plan: 1.0, code: 1.0 }
}

#[test]
fn a_rollout_is_masked_after_its_retries_and_its_group_goes_on_without_it() {
    let mut shell = Shell::start(small());
    let masked = RolloutId(1);
    for fault in 1..=3 {
        let commands = shell.fault(masked);
        if fault <= 2 {
            assert!(matches!(commands[..], [Command::Sample { rollout, .. }] if rollout == masked));
            assert_eq!(attempt(&commands[0]).map(|attempt| attempt.0), Some(fault + 1));
        } else {
            let due = Ending::Dropped(DropReason::Faulted);
            assert_eq!(commands, [Command::End { rollout: masked, ending: due }]);
        }
    }
    shell.run(|command| !is_train(command));
    let (_, groups) = shell.batches().remove(0);
    let members: Vec<u64> = groups[0].members.iter().map(|(id, _)| id.0).collect();
    assert_eq!(members, [0, 2, 3], "the masked one is in neither numerator nor baseline");
}

#[test]
fn faults_are_counted_over_all_stages() {
    let mut shell = Shell::start(small());
    let id = RolloutId(0);
    let next = |shell: &mut Shell| {
        let index = shell.todo.iter().position(|c| subject(c) == Some(id)).expect("work");
        shell.answer(index)
    };
    shell.fault(id);
    next(&mut shell);
    shell.fault(id);
    next(&mut shell);
    let commands = shell.fault(id);
    assert_eq!(commands, [Command::End { rollout: id, ending: Ending::Dropped(DropReason::Faulted) }]);
}

#[test]
fn a_group_needs_two_survivors() {
    let config = MachineConfig { retries: 0, ..small() };
    let mut shell = Shell::start(config);
    shell.fault(RolloutId(0));
    shell.fault(RolloutId(1));
    let commands = shell.fault(RolloutId(2));
    let end = |id: u64, reason| Command::End { rollout: RolloutId(id), ending: Ending::Dropped(reason) };
    assert_eq!(commands[0], end(2, DropReason::Faulted));
    assert!(matches!(commands[1], Command::Cancel { rollout: RolloutId(3), .. }));
    assert_eq!(commands[2], end(3, DropReason::GroupTooSmall));
    let fresh: Vec<GroupId> = commands[3..]
        .iter()
        .map(|command| match command {
            Command::Sample { group, .. } => *group,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(fresh, [GroupId(3); 4], "a new group takes the place");
}

#[test]
fn an_overdue_lease_is_a_fault_and_only_then() {
    let config = MachineConfig { sample_deadline_ms: 100, judge_deadline_ms: 10, ..small() };
    let mut shell = Shell::start(config);
    shell.now_ms = 50;
    shell.answer(0); // rollout 0: judged until 60
    shell.now_ms = 59;
    assert_eq!(shell.send(Event::Tick), []);
    shell.now_ms = 60;
    let commands = shell.send(Event::Tick);
    let (rollout, attempt) = (RolloutId(0), Attempt(2));
    let late = Command::Overdue(Overdue::Rollout { rollout, attempt });
    let again = Command::Judge { rollout, attempt: Attempt(3) };
    assert_eq!(commands, [late, Command::Cancel { rollout, attempt }, again], "told, cancelled, issued again");
    shell.now_ms = 100;
    let commands = shell.send(Event::Tick);
    assert_eq!(commands.iter().filter(|c| matches!(c, Command::Sample { .. })).count(), 11);
    assert_eq!(commands.iter().filter(|c| matches!(c, Command::Judge { .. })).count(), 1);
}

#[test]
fn a_reward_that_is_no_number_is_our_fault() {
    let mut shell = Shell::start(small());
    shell.answer(0);
    let judge = shell.todo.pop().expect("judging");
    let event = |command: &Command| Event::Judged {
        rollout: subject(command).expect("work"),
        attempt: attempt(command).expect("work"),
        ruling: Judgement::Scored(Reward { plan: f64::INFINITY, code: 0.0 }),
    };
    let commands = shell.send(event(&judge));
    assert!(matches!(commands[..], [Command::Judge { rollout: RolloutId(0), .. }]), "{commands:?}");
}

#[test]
fn an_unscored_answer_leaves_its_group() {
    let mut shell = Shell::start(small());
    shell.answer(0);
    let judge = shell.todo.pop().expect("judging");
    let commands = shell.send(Event::Judged {
        rollout: RolloutId(0),
        attempt: attempt(&judge).expect("work"),
        ruling: Judgement::Unscored,
    });
    let ending = Ending::Dropped(DropReason::Unscored);
    assert_eq!(commands, [Command::End { rollout: RolloutId(0), ending }]);
    shell.run(|command| !is_train(command));
    assert_eq!(shell.batches()[0].1[0].members.len(), 3);
}

#[test]
fn groups_without_variance_are_dropped_and_replaced() {
    let config = MachineConfig { group_size: 3, drop_zero_variance: true, ..small() };
    let mut shell = Shell::start(config);
    shell.reward = few_kinds;
    shell.run(|_| true);
    let ledger = shell.machine.ledger();
    assert_eq!(ledger.trained, 27);
    let dropped = ledger.dropped[&DropReason::ZeroVariance];
    assert!(dropped > 0 && ledger.sampled == 27 + dropped, "{ledger:?}");
    for (_, groups) in shell.batches() {
        for group in groups {
            assert!(group.members.windows(2).any(|pair| pair[0].1 != pair[1].1), "{group:?}");
        }
    }
    let groups = shell.machine.view().groups;
    assert_eq!((groups.completed, groups.zero_variance), (9 + dropped / 3, dropped / 3));
    assert_eq!(groups.zero_variance_rate, groups.zero_variance as f64 / groups.completed as f64);
}

/// A difference in one class is variance enough.
#[test]
fn variance_in_one_class_keeps_a_group() {
    for reward in [
        (|id, _| Reward { plan: id as f64, code: 1.0 }) as fn(u64, u64) -> Reward,
        (|id, _| Reward { plan: 1.0, code: (id % 2) as f64 }) as fn(u64, u64) -> Reward,
    ] {
        let mut shell = Shell::start(MachineConfig { drop_zero_variance: true, ..small() });
        shell.reward = reward;
        shell.run(|_| true);
        assert_eq!(shell.machine.ledger().trained, 36);
        assert_eq!(shell.machine.ledger().dropped_total(), 0);
    }
}

#[test]
fn a_policy_that_always_does_the_same_still_comes_to_the_end() {
    let config = MachineConfig { drop_zero_variance: true, zero_variance_limit: 5, ..small() };
    let mut shell = Shell::start(config);
    shell.reward = same;
    shell.run(|_| true);
    let ledger = shell.machine.ledger();
    assert_eq!(ledger.dropped[&DropReason::ZeroVariance], 3 * 5 * 4, "five groups a step, then they are kept");
    assert_eq!(ledger.trained, 36);
    assert_eq!(shell.machine.phase(), RunPhase::Finished(StopCause::Completed));
}

#[test]
fn broken_infrastructure_stops_the_run() {
    let config = MachineConfig { retries: 1, lost_groups_limit: 6, ..small() };
    let mut shell = Shell::start(config);
    let mut faults = 0;
    while let Some(id) = shell.todo.first().and_then(subject) {
        shell.fault(id);
        faults += 1;
        assert!(faults < 1000, "the run never stops");
    }
    assert_eq!(shell.machine.phase(), RunPhase::Finished(StopCause::GroupsLost));
    assert_eq!(shell.commands().filter(|c| **c == Command::Finish).count(), 1);
    assert!(shell.machine.ledger().closes() && shell.machine.ledger().in_flight == 0);
}

fn fail_training(shell: &mut Shell) -> Vec<Command> {
    let index = shell.todo.iter().position(is_train).expect("a step is outstanding");
    let Command::Train { step, attempt, .. } = shell.todo.remove(index) else { unreachable!() };
    let event = Event::TrainFaulted { step, attempt, code: String::from("F050") };
    let commands = shell.send(event.clone());
    assert_eq!(shell.send(event), [], "a duplicate counts once");
    commands
}

#[test]
fn a_step_that_fails_is_issued_again_then_given_up_and_the_next_has_a_new_number() {
    let mut shell = Shell::start(MachineConfig { steps: 2, ..small() });
    shell.run(|command| !is_train(command));
    for _ in 0..2 {
        let commands = fail_training(&mut shell);
        assert!(matches!(commands[..], [Command::Train { step: StepId(1), .. }]));
    }
    let (first, rest) = (shell.batches()[0].clone(), shell.batches()[1..].to_vec());
    assert!(rest.iter().all(|batch| *batch == first), "always the same members");
    let commands = fail_training(&mut shell);
    assert_eq!(shell.dropped(DropReason::LearnerFailed).len(), 12);
    assert!(commands.iter().any(|c| matches!(c, Command::Sample { .. })), "the run goes on");
    let late = shell.send(Event::Trained { step: StepId(1), policy: PolicyVersion(1), applied: true });
    assert_eq!(late, []);
    shell.run(|_| true);
    assert_eq!(shell.batches().last().map(|batch| batch.0), Some(StepId(2)));
    assert_eq!(shell.machine.view().steps_given_up, 1);
    assert_eq!(shell.machine.phase(), RunPhase::Finished(StopCause::Completed));
}

#[test]
fn a_learner_that_always_fails_stops_the_run() {
    let mut shell = Shell::start(MachineConfig { steps: 100, retries: 1, ..small() });
    for _ in 0..4 {
        shell.run(|command| !is_train(command));
        fail_training(&mut shell);
    }
    assert_eq!(shell.machine.phase(), RunPhase::Finished(StopCause::LearnerFailed));
    assert_eq!(shell.dropped(DropReason::LearnerFailed).len(), 24);
}

#[test]
fn only_failures_in_a_row_stop_the_run() {
    let mut shell = Shell::start(MachineConfig { steps: 12, retries: 1, ..small() });
    for _ in 0..6 {
        for _ in 0..2 {
            shell.run(|command| !is_train(command));
            fail_training(&mut shell);
        }
        shell.run(|command| !is_train(command));
        shell.run(is_train);
    }
    let view = shell.machine.view();
    assert_eq!((view.steps_given_up, view.steps_applied), (6, 6));
    assert_eq!(shell.machine.phase(), RunPhase::Finished(StopCause::Completed));
}

#[test]
fn a_group_that_completes_between_lost_ones_keeps_the_run_alive() {
    let config = MachineConfig { retries: 0, lost_groups_limit: 1, ..small() };
    let mut shell = Shell::start(config);
    let lose = |shell: &mut Shell, group: u64| (0..3).for_each(|n| drop(shell.fault(RolloutId(4 * group + n))));
    lose(&mut shell, 0);
    shell.finish_group(GroupId(1));
    lose(&mut shell, 2);
    assert_eq!(shell.machine.phase(), RunPhase::Running, "not two in a row");
    lose(&mut shell, 3);
    assert_eq!(shell.machine.phase(), RunPhase::Finished(StopCause::GroupsLost));
}

#[test]
fn the_first_cause_of_a_stop_stays() {
    let config = MachineConfig { retries: 0, lost_groups_limit: 1, staleness_max: 1, ..small() };
    let mut shell = Shell::start(config);
    (0..3).for_each(|group| shell.finish_group(GroupId(group)));
    assert_eq!(shell.batches().len(), 1);
    for rollout in [12, 13, 14, 16, 17, 18] {
        shell.fault(RolloutId(rollout));
    }
    assert_eq!(shell.machine.phase(), RunPhase::Stopping(StopCause::GroupsLost));
    assert_eq!(shell.send(Event::StopRequested), []);
    assert_eq!(shell.machine.phase(), RunPhase::Stopping(StopCause::GroupsLost));
}

#[test]
fn steps_that_were_skipped_are_told_apart() {
    let mut shell = Shell::start(small());
    shell.run(|command| !is_train(command));
    shell.send(Event::Trained { step: StepId(1), policy: PolicyVersion(1), applied: false });
    let view = shell.machine.view();
    assert_eq!((view.steps_applied, view.steps_skipped, view.steps_given_up), (0, 1, 0));
    assert_eq!(shell.ended(Ending::Trained(StepId(1))).len(), 12);
}

#[test]
fn a_silent_learner_stops_the_run_and_a_resume_settles_its_step() {
    for durable in [0, 1] {
        let mut shell = Shell::start(MachineConfig { retries: 1, train_deadline_ms: 1_000, ..small() });
        shell.run(|command| !is_train(command));
        shell.now_ms = 1_000;
        let late = |attempt| Command::Overdue(Overdue::Step { step: StepId(1), attempt: Attempt(attempt) });
        let commands = shell.send(Event::Tick);
        assert_eq!(commands[0], late(1));
        assert!(matches!(commands[1..], [Command::Train { step: StepId(1), .. }]));
        shell.now_ms = 2_000;
        assert_eq!(shell.send(Event::Tick), [late(2), Command::Finish]);
        assert_eq!(shell.machine.phase(), RunPhase::Finished(StopCause::LearnerOverdue));
        assert_eq!(shell.machine.ledger().in_flight, 12, "trained or not, nobody knows yet");
        shell.todo.clear();
        shell.send(Event::Started { epoch: Epoch(2), policy: PolicyVersion(durable), step: StepId(durable) });
        assert_eq!(shell.ended(Ending::Trained(StepId(1))).len() as u64, durable * 12);
        shell.generators = durable;
        shell.run(|_| true);
        assert_eq!(shell.machine.ledger().trained, 36);
    }
}

#[test]
fn adoption_is_asked_for_again() {
    let mut shell = Shell::start(MachineConfig { adopt_deadline_ms: 100, ..small() });
    shell.run(|command| !matches!(command, Command::Adopt { .. }));
    shell.now_ms = 99;
    assert_eq!(shell.send(Event::Tick), []);
    shell.now_ms = 100;
    let policy = PolicyVersion(1);
    let late = Command::Overdue(Overdue::Adoption { policy });
    assert_eq!(shell.send(Event::Tick), [late, Command::Adopt { policy }]);
    shell.answer(0);
    shell.now_ms = 1_000;
    assert_eq!(shell.send(Event::Tick), []);
}

/// Planted: `adopt_missed` is never counted up. Seen: an `Adopt` in place of `Finish` after the third miss.
#[test]
fn generators_that_never_adopt_stop_the_run_but_only_misses_in_a_row_count() {
    let config = MachineConfig { adopt_deadline_ms: 100, retries: 2, steps: 4, ..small() };
    let miss = |shell: &mut Shell| {
        shell.todo.retain(|command| !matches!(command, Command::Adopt { .. }));
        shell.now_ms += 100;
        shell.send(Event::Tick)
    };
    let mut shell = Shell::start(config);
    for _ in 0..2 {
        shell.run(|command| !matches!(command, Command::Adopt { .. }));
        miss(&mut shell);
        miss(&mut shell);
        assert_eq!(shell.machine.phase(), RunPhase::Running);
        shell.run(|command| matches!(command, Command::Adopt { .. }));
    }
    shell.run(|command| !matches!(command, Command::Adopt { .. }));
    (0..2).for_each(|_| drop(miss(&mut shell)));
    let policy = PolicyVersion(3);
    assert_eq!(miss(&mut shell), [Command::Overdue(Overdue::Adoption { policy }), Command::Finish]);
    assert_eq!(shell.machine.phase(), RunPhase::Finished(StopCause::GeneratorsSilent));
    assert!(shell.machine.ledger().closes() && shell.machine.ledger().in_flight == 0);
}

#[test]
fn a_stop_drops_what_is_in_flight_and_awaits_the_step() {
    let mut shell = Shell::start(MachineConfig { staleness_max: 1, ..small() });
    while shell.batches().is_empty() {
        shell.answer(0);
    }
    let commands = shell.send(Event::StopRequested);
    assert!(!commands.contains(&Command::Finish));
    assert_eq!(shell.dropped(DropReason::Stopped).len(), 12, "the second batch's rollouts");
    assert!(shell.commands().any(|c| matches!(c, Command::Cancel { .. })));
    assert_eq!(shell.send(Event::StopRequested), []);
    let train = shell.todo.iter().position(is_train).expect("the step is outstanding");
    let commands = shell.answer(train);
    assert_eq!(commands.len(), 12 + 2, "members end, the version is announced, the run is over: {commands:?}");
    assert_eq!(commands.last(), Some(&Command::Finish));
    assert_eq!(shell.machine.phase(), RunPhase::Finished(StopCause::Requested));
    let ledger = shell.machine.ledger();
    assert_eq!((ledger.sampled, ledger.trained, ledger.in_flight), (24, 12, 0));

    // A resume of a stopped run takes the remaining steps.
    shell.todo.clear();
    shell.send(Event::Started { epoch: Epoch(2), policy: PolicyVersion(1), step: StepId(1) });
    shell.generators = 1;
    shell.run(|_| true);
    assert_eq!(shell.machine.ledger().trained, 36);
    assert_eq!(shell.machine.phase(), RunPhase::Finished(StopCause::Completed));
    // And a resume of a complete one finishes at once.
    let commands = shell.send(Event::Started { epoch: Epoch(3), policy: PolicyVersion(3), step: StepId(3) });
    assert_eq!(commands, [Command::Finish]);
}

#[test]
fn a_run_that_cannot_proceed_says_so_and_finishes() {
    let bad = |change: fn(&mut MachineConfig)| {
        let mut config = small();
        change(&mut config);
        let error = config.check(3).expect_err("the check fails");
        let mut machine = Machine::new(config, tasks(3));
        let started = Event::Started { epoch: Epoch(1), policy: PolicyVersion(0), step: StepId(0) };
        assert_eq!(machine.on(0, started), [Command::Finish]);
        assert_eq!(machine.phase(), RunPhase::Finished(StopCause::CannotProceed));
        error
    };
    assert_eq!(bad(|c| c.group_size = 1), ConfigError::GroupSize { found: 1 });
    assert_eq!(bad(|c| c.groups_per_step = 0), ConfigError::GroupsPerStep);
    assert_eq!(bad(|c| c.credits = 11), ConfigError::Credits { found: 11, needed: 12 });
    assert_eq!(bad(|c| c.judge_deadline_ms = 0), ConfigError::Deadline { key: "judge_deadline_ms" });
    assert_eq!(small().check(0), Err(ConfigError::NoTasks));
    assert_eq!(small().check(1), Ok(()));
    assert_eq!(MachineConfig::default().check(1), Ok(()));
}
