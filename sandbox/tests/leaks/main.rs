//! A hundred evaluations leave no descriptor, file or process behind. A binary of its own: descriptors are counted.
#![allow(clippy::unwrap_used)]

#[allow(dead_code)]
#[path = "../evaluate/fixtures.rs"]
mod fixtures;
#[allow(dead_code)]
#[path = "../evaluate/lab.rs"]
mod lab;

use std::path::Path;

use sandbox::executor::Executor;

use fixtures::*;
use lab::{LIMITS, candidate_of, config, task_of};

fn entries(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

/// Every process below `pid`.
fn below(pid: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let direct: Vec<u32> = text.split_whitespace().map(|p| p.parse().unwrap()).collect();
    direct.iter().flat_map(|p| [vec![*p], below(*p)].concat()).collect()
}

#[test]
fn a_hundred_evaluations_leak_nothing() {
    let Some(config) = config("leaks", LIMITS) else { return };
    let scratch = config.scratch.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let executor = Executor::start(config).await.unwrap();
        let zygote = executor.pids().await[0].unwrap();
        let orphan = add_with("", "subprocess.Popen(['sleep', '600'], start_new_session=True)\nreturn add(x, y)");
        let kinds = [add(), orphan, add_with("", "os._exit(0)"), add_with("raise ValueError", "")];
        for source in &kinds {
            executor.evaluate(&task_of(ADD_TASK), &candidate_of(source)).await.unwrap();
        }
        let inside = |pid: u32| {
            let pid = below(pid).first().copied().unwrap_or(pid);
            entries(Path::new(&format!("/proc/{pid}/fd")))
        };
        let ours = || entries(Path::new("/proc/self/fd"));
        let before = (ours(), inside(zygote), below(zygote).len(), entries(&scratch));
        for n in 0..100 {
            executor.evaluate(&task_of(ADD_TASK), &candidate_of(&kinds[n % kinds.len()])).await.unwrap();
        }
        assert_eq!((ours(), inside(zygote), below(zygote).len(), entries(&scratch)), before);
        assert_eq!(executor.pids().await[0], Some(zygote), "the zygote was replaced on the way");
        executor.shutdown().await;
        assert!(below(std::process::id()).iter().all(|p| *p != zygote));
    });
    assert!(!scratch.exists(), "something is left in the scratch directory");
}
