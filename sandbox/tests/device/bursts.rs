//! What a measurement takes, of a small kernel and of a larger one. For figures, by hand:
//! `cargo test --release -p sandbox --test device -- --ignored --nocapture what_a_measurement_takes`.

use super::*;

/// Sizes of the two tensors that are added; the interpreter's are the same.
const SIZES: [(&str, usize); 2] = [("small", 16), ("large", 1_000)];
const EVALUATIONS: usize = 3;

fn task(rows: usize) -> String {
    let lines = ADD_TASK.lines().filter(|l| !l.starts_with("INTERPRETER_SHAPES"));
    let text = lines.collect::<Vec<_>>().join("\n").replace("N = 16000", &format!("N = {rows}"));
    if rows < 100 { text.replace("1000", "64") } else { text }
}

#[test]
#[ignore = "takes minutes; prints figures and asserts none"]
fn what_a_measurement_takes() {
    runtime().block_on(async {
        let Some(python) = environment::python() else { return };
        for (name, rows) in SIZES {
            let scratch = scratch();
            let (kind, inventory) = host();
            let config = DeviceConfig {
                sampler: SamplerConfig::default(),
                ..device_config(kind, &python, scratch.path(), true)
            };
            let device = Arc::new(Device::start(config, inventory).await.expect("the device starts"));
            let config = executor_config(&python, scratch.path().join("executor"), &device);
            let executor = Executor::start(config).await.expect("the executor starts");
            // A larger block: fewer of them are interpreted.
            let code = add().replace("256", "8192");
            for _ in 0..EVALUATIONS {
                let report = executor.evaluate(&task_of(&task(rows)), &candidate_of(&code)).await.expect("no fault");
                let Some(t) = &report.timing else { panic!("{:?}", report.outcome) };
                println!(
                    "{name}: {} samples, converged {}, speed-up {:.4} [{:.4}, {:.4}], reference {:.1} us, candidate {:.1} us",
                    t.samples, t.converged, t.speedup, t.low, t.high, t.reference_us, t.candidate_us
                );
                for (step, ms) in report.phase_ms.iter().filter(|(step, _)| step.starts_with("device_time") || step.as_str() == "device_reference") {
                    println!("    {step:<24} {ms:9.1} ms");
                }
            }
            executor.shutdown().await;
            device.shutdown().await;
        }
    });
}
