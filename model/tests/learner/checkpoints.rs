//! A learner on disk: it goes on to the bit, and what is damaged or another's is refused.

use model::config::Family;
use model::learner::{Execution, Learner, weights_digest};
use model::loss::LossConfig;
use model::optim::{LrSchedule, OptimConfig};

use super::policy::{network, parameters};
use super::{batch, learner};

#[test]
fn a_loaded_checkpoint_goes_on_bit_for_bit() {
    let net = network(Family::Qwen3, 22);
    let samples = batch(&net, 1.0);
    let config = OptimConfig { weight_decay: 0.1, schedule: LrSchedule::cosine(2, 9, 10), ..OptimConfig::default() };
    let loss = LossConfig { epochs: 2, ..LossConfig::default() };
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("deep/checkpoint");
    let mut through = Learner::new(net, config.clone());
    for _ in 0..2 {
        through.train_step(&samples, &loss).unwrap();
    }
    through.save_checkpoint(&place).unwrap();
    // Written over an older one: still whole.
    let manifest = through.save_checkpoint(&place).unwrap();
    assert_eq!(manifest.counters.updates, 4);
    let mut resumed = Learner::new(network(Family::Qwen3, 99), config);
    assert_eq!(resumed.load_checkpoint(&place).unwrap(), manifest);
    for _ in 0..2 {
        let (a, b) = (through.train_step(&samples, &loss).unwrap(), resumed.train_step(&samples, &loss).unwrap());
        assert_eq!((a.loss, a.grad_norm, a.lr, a.step), (b.loss, b.grad_norm, b.lr, b.step));
    }
    assert_eq!(parameters(through.network()), parameters(resumed.network()));
    assert_eq!(through.publish().manifest, resumed.publish().manifest);
    assert_eq!(weights_digest(&resumed.inference()), resumed.publish().manifest.digest);
    assert_eq!(std::fs::read_dir(dir.path().join("deep")).unwrap().count(), 1, "something temporary was left");
}

#[test]
fn a_damaged_or_foreign_checkpoint_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("c");
    let mut learner = learner(network(Family::Qwen3, 23), Execution::Host);
    learner.save_checkpoint(&place).unwrap();
    let before = parameters(learner.network());
    let mut other = super::learner(network(Family::Llama, 23), Execution::Host);
    let error = other.load_checkpoint(&place).unwrap_err().to_string();
    assert!(error.contains("param/"), "{error}");
    // Planted and seen to fail: the manifest has no digest of its own.
    let manifest = place.join("manifest.json");
    let good = std::fs::read_to_string(&manifest).unwrap();
    for (what, other) in [("\"adam_time\": 0", "\"adam_time\": 1"), ("\"lr_scale\": 1.0", "\"lr_scale\": 0.5")] {
        assert!(good.contains(what), "{good}");
        std::fs::write(&manifest, good.replace(what, other)).unwrap();
        let error = learner.load_checkpoint(&place).unwrap_err().to_string();
        assert!(error.contains("manifest.json is damaged"), "{error}");
    }
    std::fs::write(&manifest, good).unwrap();
    learner.load_checkpoint(&place).unwrap();
    let state = place.join("state.safetensors");
    let mut bytes = std::fs::read(&state).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&state, &bytes).unwrap();
    let error = learner.load_checkpoint(&place).unwrap_err().to_string();
    assert!(error.contains("SHA-256"), "{error}");
    bytes.truncate(100);
    std::fs::write(&state, &bytes).unwrap();
    assert!(learner.load_checkpoint(&place).is_err());
    assert!(learner.load_checkpoint(&dir.path().join("nowhere")).is_err());
    assert_eq!(parameters(learner.network()), before);
}
