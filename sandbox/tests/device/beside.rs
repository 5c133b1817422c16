//! A device on which the run's own model works too.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sandbox::device::Tenant;

use super::*;

/// The model works in pieces of a millisecond all the time. A candidate is timed meanwhile: the model rests for as long as that takes,
/// works before and after, and does not rest for the rest of the evaluation.
#[test]
fn a_model_at_work_rests_while_a_candidate_is_timed_and_only_then() {
    runtime().block_on(async {
        let Some(python) = environment::python() else { return };
        let (kind, inventory) = host();
        let scratch = scratch();
        let tenant = Tenant::default();
        let (stop, pieces) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let model = {
            let (tenant, stop, pieces) = (tenant.clone(), stop.clone(), pieces.clone());
            std::thread::spawn(move || {
                // Between the ends of two pieces.
                let (mut gaps, mut last) = (Vec::new(), Instant::now());
                while !stop.load(Ordering::SeqCst) {
                    let work = tenant.work();
                    std::thread::sleep(Duration::from_millis(1));
                    drop(work);
                    pieces.fetch_add(1, Ordering::SeqCst);
                    gaps.push(last.elapsed().as_secs_f64() * 1e3);
                    last = Instant::now();
                }
                gaps
            })
        };
        let config = DeviceConfig { tenant: Some(tenant), ..device_config(kind, &python, scratch.path(), true) };
        let device = Arc::new(Device::start(config, inventory).await.expect("the device starts"));
        let executor = executor_config(&python, scratch.path().join("executor"), &device);
        let executor = Executor::start(executor).await.expect("the executor starts");
        let (before, began) = (pieces.load(Ordering::SeqCst), Instant::now());
        let report = executor.evaluate(&task_of(ADD_TASK), &candidate_of(&add())).await.expect("no fault");
        let (whole_ms, during) = (began.elapsed().as_secs_f64() * 1e3, pieces.load(Ordering::SeqCst) - before);
        let after = pieces.load(Ordering::SeqCst);
        while pieces.load(Ordering::SeqCst) < after + 20 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        stop.store(true, Ordering::SeqCst);
        let gaps = model.join().unwrap();
        assert!(matches!(report.outcome, Outcome::Passed { speedup: Some(_) }), "{:?}", report.outcome);
        let timed_ms = report.phase_ms["device_time"];
        let longest = gaps[before as usize..].iter().copied().fold(0.0, f64::max);
        assert!(longest >= timed_ms, "it rested {longest:.0} ms at most, {timed_ms:.0} ms were measured");
        assert!(longest < whole_ms, "it rested {longest:.0} ms of {whole_ms:.0}");
        assert!(during > 20, "{during} pieces in the {whole_ms:.0} ms of the evaluation");
        executor.shutdown().await;
        device.shutdown().await;
    });
}
