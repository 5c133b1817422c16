//! Evaluations that are given up, and processes that are killed, while the device is leased.

use super::*;

use std::cell::Cell;
use std::time::Duration;

/// A lease takes milliseconds, and a machine that stalls sleeps through it: so many candidates until one was met in it.
const TRIES: usize = 20;

/// The `n`th of candidates that do the same.
fn another(n: usize) -> String {
    format!("{}\n# {n}\n", add())
}

fn kill(pid: u32) -> bool {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_ok()
}

/// Waits until the device's state begins with this; false where an evaluation was over before it was seen.
async fn meets(lab: &Lab, state: &str, over: &Cell<bool>) -> bool {
    for _ in 0..240_000 {
        if lab.device.state().starts_with(state) {
            return true;
        }
        if over.get() {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("never {state}: {}", lab.device.state());
}

/// A lease does not outlive who holds it: an evaluation that is given up while it is timed, then one whose process, then one whose
/// zygote is killed meanwhile.
#[test]
fn who_is_interrupted_while_it_is_timed_leaves_the_device_free() {
    runtime().block_on(async {
        let Some(lab) = lab(2, true).await else { return };
        let never = Cell::new(false);
        let mut met = false;
        for n in 0..TRIES {
            let code = another(n);
            met = tokio::select! {
                _ = lab.evaluate(0, ADD_TASK, &code) => false,
                seen = meets(&lab, "Leased", &never) => seen,
            };
            if met {
                break;
            }
        }
        assert!(met, "never given up while it was timed");
        let code = add();
        let next = lab.evaluate(1, ADD_TASK, &code).await.expect("the given up lease is settled");
        assert!(next.outcome.is_correct(), "{:?}", next.outcome);
        for zygote in [false, true] {
            let mut met = false;
            for n in 0..TRIES {
                let (code, over) = (another(n), Cell::new(false));
                let evaluation = async {
                    let report = lab.evaluate(0, ADD_TASK, &code).await;
                    over.set(true);
                    report
                };
                let strike = async {
                    let seen = meets(&lab, "Leased", &over).await;
                    let Some(parent) = lab.executors[0].running_pids()[0].filter(|_| seen) else { return };
                    kill(if zygote { parent } else { youngest(parent) });
                };
                // What a kill after the lease finds is no answer to the question.
                met = tokio::join!(evaluation, strike).0.is_err();
                if met {
                    break;
                }
            }
            assert!(met, "zygote {zygote}: no kill is a fault");
            let next = lab.evaluate(1, ADD_TASK, &code).await.expect("the next is not harmed");
            assert!(next.outcome.is_correct(), "{:?}", next.outcome);
        }
        assert_eq!((lab.device.state().as_str(), lab.device.load()), ("Free", (0, 0, 0)));
        lab.end().await;
    });
}

/// An evaluation that is given up while the slot is proved after it: the next one waits for that and goes on.
#[test]
fn who_is_given_up_while_the_device_is_proved_does_not_strand_it() {
    runtime().block_on(async {
        let Some(lab) = lab(2, true).await else { return };
        let code = add();
        let never = Cell::new(false);
        // It ends by itself while it is timed, which is suspicious: the proof takes a new process.
        let ends = only_there("global calls\n    calls += 1\n    calls > 12 and os._exit(3)");
        let ends = ends.replace("import stat", "import stat\ncalls = 0");
        let mut met = false;
        for n in 0..TRIES {
            let ends = format!("{ends}\n# {n}\n");
            met = tokio::select! {
                _ = lab.evaluate(0, ADD_TASK, &ends) => false,
                seen = meets(&lab, "Proving", &never) => seen,
            };
            if met {
                break;
            }
        }
        assert!(met, "never given up while the slot was proved");
        let next = lab.evaluate(1, ADD_TASK, &code).await.expect("the slot is not stranded");
        assert!(next.outcome.is_correct(), "{:?}", next.outcome);
        assert_eq!((lab.device.state().as_str(), lab.device.load()), ("Free", (0, 0, 0)));
        lab.end().await;
    });
}

/// What the referee knew went with it: who is timed and who waits for it are told, neither is judged, and the device is free again.
#[test]
fn a_referee_that_dies_takes_its_evaluations_along_and_nothing_else() {
    runtime().block_on(async {
        let Some(lab) = lab(2, true).await else { return };
        let code = add();
        let mut met = false;
        for n in 0..TRIES {
            let (mine, over) = (another(n), Cell::new(false));
            let first = async {
                let report = lab.evaluate(0, ADD_TASK, &mine).await;
                over.set(true);
                report
            };
            let strike = async {
                let seen = meets(&lab, "Leased", &over).await;
                if let Some(pid) = lab.device.running_referee().filter(|_| seen) {
                    kill(pid);
                }
            };
            let both = async { tokio::join!(first, lab.evaluate(1, ADD_TASK, &mine), strike) };
            let limit = Duration::from_secs(240);
            let (first, second, ()) = tokio::time::timeout(limit, both).await.expect("nobody waits for ever");
            let lost = |r: &Result<ExecReport, Fault>| r.as_ref().is_err_and(|f| f.code == "F005");
            met = lost(&first) || lost(&second);
            for report in [first, second].into_iter().flatten() {
                assert!(report.outcome.is_correct(), "{:?}", report.outcome);
            }
            if met {
                break;
            }
        }
        assert!(met, "nobody was timed when the referee died");
        for n in 0..2 {
            let next = lab.evaluate(n, ADD_TASK, &code).await.expect("there is a new one");
            assert!(next.outcome.is_correct(), "{:?}", next.outcome);
        }
        assert_eq!((lab.device.state().as_str(), lab.device.load()), ("Free", (0, 0, 0)));
        lab.end().await;
    });
}

/// The newest process below another.
fn youngest(pid: u32) -> u32 {
    let mut found = vec![];
    let mut queue = vec![pid];
    while let Some(pid) = queue.pop() {
        for thread in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let children = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            queue.extend(children.split_whitespace().filter_map(|n| n.parse::<u32>().ok()));
        }
        found.push(pid);
    }
    found.into_iter().max().unwrap()
}
