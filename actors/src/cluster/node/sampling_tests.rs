//! A generator node's errands.

use super::*;
use crate::cluster::node::scene::Scene;

/// The answer of the old life's errand waits while the next head gives the same one. Planted: errands are known by rollout and attempt (as it
/// was). Seen: the old one is told as the answer to the new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_of_an_earlier_connection_is_nobodys() {
    let dir = tempfile::tempdir().unwrap();
    let scene = Scene::new(Role::Generator).await;
    let mut sampling = Sampling::new(&scene.args, dir.path().to_path_buf()).await.unwrap();
    let (rollout, attempt) = (RolloutId(3), Attempt(1));
    let old = sampling.take(1, rollout, attempt);
    sampling.parted();
    let new = sampling.take(1, rollout, attempt);
    let refused =
        |key: Key, why| Event::Drawn(Drawn::Refused { rollout: key.0, attempt: key.1, fault: fault("F101", why) });
    sampling.happened(refused(old, "old"), &scene.line()).await.unwrap();
    assert_eq!(sampling.answers(), []);
    sampling.happened(refused(new, "new"), &scene.line()).await.unwrap();
    assert_eq!(sampling.answers(), [Answer { lease: 1, report: Err(fault("F101", "new")) }]);
}
