//! Evaluations that are given up, and processes that are killed, while the device is leased.

use super::*;

/// A lease does not outlive who holds it: an evaluation that is given up while it is timed, then one whose process, then one whose
/// zygote is killed meanwhile.
#[test]
fn who_is_interrupted_while_it_is_timed_leaves_the_device_free() {
    runtime().block_on(async {
        let Some(lab) = lab(2, true).await else { return };
        let leased = || async {
            for _ in 0..6000 {
                if lab.device.state().starts_with("Leased") {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
            panic!("never timed: {}", lab.device.state());
        };
        let code = add();
        tokio::select! {
            report = lab.evaluate(0, ADD_TASK, &code) => panic!("it was over before it was timed: {report:?}"),
            () = leased() => {}
        }
        let next = lab.evaluate(1, ADD_TASK, &code).await.expect("the given up lease is settled");
        assert!(next.outcome.is_correct(), "{:?}", next.outcome);
        for zygote in [false, true] {
            let kill = async {
                leased().await;
                let parent = lab.executors[0].running_pids()[0].expect("a zygote");
                let pid = if zygote { parent } else { youngest(parent) };
                let status = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status();
                assert!(status.unwrap().success());
            };
            let (report, ()) = tokio::join!(lab.evaluate(0, ADD_TASK, &code), kill);
            assert!(report.is_err(), "zygote {zygote}: {:?}", report.map(|r| r.outcome));
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
        // It ends by itself while it is timed, which is suspicious: the proof takes a new process.
        let ends = only_there("global calls\n    calls += 1\n    calls > 12 and os._exit(3)");
        let ends = ends.replace("import stat", "import stat\ncalls = 0");
        let proving = async {
            while !lab.device.state().starts_with("Proving") {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            report = lab.evaluate(0, ADD_TASK, &ends) => panic!("it was over before it was proved: {report:?}"),
            () = proving => {}
        }
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
        let kill = async {
            while !lab.device.state().starts_with("Leased") {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
            let pid = lab.device.running_referee().expect("a referee");
            let status = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status();
            assert!(status.unwrap().success());
        };
        let both = async { tokio::join!(lab.evaluate(0, ADD_TASK, &code), lab.evaluate(1, ADD_TASK, &code), kill) };
        let limit = std::time::Duration::from_secs(240);
        let (first, second, ()) = tokio::time::timeout(limit, both).await.expect("nobody waits for ever");
        let lost = |r: &Result<ExecReport, Fault>| r.as_ref().is_err_and(|f| f.code == "F005");
        assert!(lost(&first) || lost(&second), "{first:?} {second:?}");
        for report in [first, second].into_iter().flatten() {
            assert!(report.outcome.is_correct(), "{:?}", report.outcome);
        }
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
