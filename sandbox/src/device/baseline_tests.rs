//! What references take alone: who takes it, what is refused, and what replaces it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rollout::outcome::{Fault, Outcome};
use serde_json::json;

use super::baseline::{let_in, take};
use super::gate::Use;
use super::lease::Measured;
use super::lease_tests::{Calls, Lab, UUID, calls, lab, quiet, script, times};
use crate::gpu::inventory::{Process, Reading};
use crate::trial::Ending;

/// As an evaluation takes it before its candidate has a context; a referee that answers with these, one after the other.
async fn taken(lab: &Lab, answers: &[f64]) -> Result<f64, Fault> {
    let left = Mutex::new(answers.iter().copied().collect::<VecDeque<f64>>());
    let ask = || {
        let us = left.lock().unwrap().pop_front().expect("no more answers");
        async move { Ok(json!({"times": times(calls(us), 30)})) }
    };
    take(&lab.device, &lab.task, 1 << 20, ask).await
}

fn about(found: f64, us: f64) -> bool {
    (found / us - 1.0).abs() < 0.005
}

/// Planted bug: a time that was taken beside somebody is kept.
#[tokio::test]
async fn what_is_taken_beside_somebody_is_taken_again_and_then_a_fault() {
    let lab = lab();
    let other = Process { pid: 1, memory_bytes: Some(5 << 20), graphics: false };
    let met = Reading { processes: Some(vec![other]), ..quiet() };
    // At rest, before, after; then before and after once more.
    lab.inventory.script(UUID, [Ok(quiet()), Ok(quiet()), Ok(met.clone()), Ok(quiet())]);
    assert!(about(taken(&lab, &[300.0, 100.0]).await.unwrap(), 100.0));
    lab.inventory.script(UUID, [Ok(quiet()), Err("gone".into()), Ok(quiet())]);
    assert!(about(taken(&lab, &[90.0, 95.0]).await.unwrap(), 95.0), "nobody looked at the first");
    // Somebody stays.
    let lab = super::lease_tests::lab();
    lab.inventory.script(UUID, [Ok(met.clone())]);
    let fault = taken(&lab, &[100.0; 3]).await.expect_err("somebody is there each time");
    assert!(fault.code == "F014" && fault.message.matches("process 1 is on it").count() == 3, "{fault}");
    assert_eq!(lab.device.baseline(&lab.task), None);
    // So it is in a lease, where it was not known.
    let fault = lab.measure(&mut script(&[calls(100.0)], &[calls(50.0)])).await.expect_err("somebody is there");
    assert!(fault.code == "F014" && fault.message.contains("the reference alone: process 1"), "{fault}");
    assert_eq!(lab.device.baseline(&lab.task), None);
    // Hidden, and at work while nothing of ours is.
    let busy = Reading { processes: None, utilisation_percent: 90, memory_used_bytes: 5 << 30, ..quiet() };
    lab.inventory.script(UUID, [Ok(busy)]);
    let fault = taken(&lab, &[]).await.expect_err("somebody is at work");
    assert!(fault.code == "F014" && fault.message.contains("90 %"), "{fault}");
}

/// Planted bug: after one lease that was slow on every try, what is taken next, beside the neighbour that is still there, is what the
/// reference takes alone, and the lease after it is accepted.
#[tokio::test]
async fn a_slower_time_alone_replaces_a_lower_one_when_it_was_found_twice() {
    let lab = lab();
    lab.accepted(&mut script(&[calls(100.0)], &[calls(50.0)])).await;
    let slow = || script(&[calls(200.0)], &[calls(50.0)]);
    let refused = async |lab: &Lab| {
        assert_eq!(lab.measure(&mut slow()).await.expect_err("it is twice as slow").code, "F014");
        assert!(about(lab.device.baseline(&lab.task).unwrap(), 100.0));
    };
    assert!(!lab.device.baseline_wanted(&lab.task));
    refused(&lab).await;
    assert!(lab.device.baseline_wanted(&lab.task));
    assert!(about(taken(&lab, &[200.0]).await.unwrap(), 100.0), "once is a neighbour's");
    assert!(!lab.device.baseline_wanted(&lab.task), "another lane's next look is no later one");
    refused(&lab).await;
    // It is gone: what was found slower is forgotten.
    assert!(about(taken(&lab, &[100.0]).await.unwrap(), 100.0));
    assert!(!lab.device.baseline_wanted(&lab.task));
    refused(&lab).await;
    assert!(about(taken(&lab, &[200.0]).await.unwrap(), 100.0));
    refused(&lab).await;
    assert!(about(taken(&lab, &[150.0]).await.unwrap(), 100.0), "two that do not agree");
    refused(&lab).await;
    assert!(about(taken(&lab, &[151.0]).await.unwrap(), 150.0), "two that do: the lower one");
    // A lease in peace settles it too.
    lab.accepted(&mut script(&[calls(150.0)], &[calls(50.0)])).await;
    assert!(!lab.device.baseline_wanted(&lab.task));
}

/// Planted bug: all lanes of a group that come at once take it, and the lowest of their figures is kept.
#[tokio::test]
async fn one_lane_of_a_group_takes_it() {
    let lab = lab();
    let held = lab.device.enter(Use::Alone).await.unwrap();
    let took = Arc::new(AtomicUsize::new(0));
    let mut lanes = tokio::task::JoinSet::new();
    for n in 0..4 {
        let (device, task, took) = (lab.device.clone(), lab.task.clone(), took.clone());
        lanes.spawn(async move {
            let (_pass, first) = let_in(&device, &task).await.unwrap();
            if first {
                took.fetch_add(1, Ordering::Relaxed);
                let us = 100.0 - f64::from(n);
                take(&device, &task, 0, || async move { Ok(json!({"times": times(calls(us), 30)})) }).await.unwrap();
            }
        });
    }
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    drop(held);
    lanes.join_all().await;
    assert_eq!(took.load(Ordering::Relaxed), 1);
}

/// Planted bug: an honest kernel that is by turns fast and slow, by what it is given, ends in a fault on every try.
#[tokio::test]
async fn who_is_by_turns_slow_by_itself_is_accepted_and_not_called_converged() {
    let early_exit: Vec<Calls> = (0..200).map(|n| calls(if n == 1 || n == 3 { 60.0 } else { 40.0 })).collect();
    let lab = lab();
    let timing = lab.accepted(&mut script(&[calls(100.0)], &early_exit)).await;
    assert!(!timing.converged && (timing.speedup - 2.5).abs() < 0.05, "{timing:?}");
    assert!(
        timing.refused.len() == 1 && timing.refused[0].starts_with("accepted, not converged: in 2 of"),
        "{timing:?}"
    );
    // And one that lies is not better off for it.
    let lie = |us: f64| Calls { first_us: Some(1_600.0), ..calls(us) };
    let lies: Vec<Calls> = early_exit.iter().map(|c| lie(c.us / 10.0)).collect();
    assert!(lab.implausible(&mut script(&[calls(100.0)], &lies)).await.contains("the work of others"));
}

/// Planted bug: whoever is measured beside somebody that takes slices of the time is blamed for what they make of its figures. And who
/// disturbs the reference so that its own lie is not seen gets a fault, on every try, and no number.
#[tokio::test]
async fn a_lie_beside_a_disturbed_reference_is_a_fault_and_never_a_number() {
    let lie = Calls { first_us: Some(1_600.0), ..calls(3.0) };
    let uneven = Calls { first_us: Some(1_600.0), ..calls(100.0) };
    for (reference, candidate) in [(calls(120.0), lie), (uneven, lie), (uneven, Calls { us: 50.0, ..lie })] {
        let lab = lab();
        let mut script = script(&[reference], &[candidate]);
        script.alone = [100.0].into();
        let fault = lab.measure(&mut script).await.expect_err("neither is to be believed");
        assert_eq!((fault.code.as_str(), fault.message.matches("on average").count()), ("F014", 3), "{fault}");
    }
    // In peace it is its own doing.
    let lab = lab();
    match lab.measure(&mut script(&[calls(100.0)], &[lie])).await {
        Ok(Measured::Ended(Ending::Outcome(Outcome::Implausible { .. }))) => {}
        other => panic!("{other:?}"),
    }
}
