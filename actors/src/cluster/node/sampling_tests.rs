//! A generator node's errands.

use super::*;
use crate::cluster::node::scene::Scene;

/// The answer of the old life's errand waits while the next head gives the same one. Should fail with (not tried): errands are known by rollout and attempt (as it
/// was). then: the old one is told as the answer to the new one.
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

/// The head's side channel lets everybody in and says nothing. Should fail with (not tried): one fetch at a time, whatever becomes of it (as it was). then: version 1
/// for minutes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_does_not_come_does_not_keep_a_newer_one_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let mut scene = Scene::new(Role::Generator).await;
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    scene.welcome.bulk_port = mute.local_addr().unwrap().port();
    let mut sampling = Sampling::new(&scene.args, dir.path().to_path_buf()).await.unwrap();
    sampling.plan = Some((scene.welcome.kit.digest.clone(), plan()));
    let offer = |n: u64| {
        let manifest = BlobRef { digest: format!("{n:064}"), bytes: 10 };
        ToNode::Weights(Offer { policy: PolicyVersion(n), manifest, peers: Vec::new() })
    };
    sampling.told(offer(1), &scene.line());
    let coming = |sampling: &Sampling| sampling.fetching.as_ref().map(|under_way| under_way.offer.policy.0);
    assert_eq!(coming(&sampling), Some(1));
    sampling.told(offer(2), &scene.line());
    let until = Instant::now() + Duration::from_secs(25);
    while coming(&sampling) == Some(1) {
        assert!(Instant::now() < until, "version 2 waits");
        tokio::time::sleep(Duration::from_millis(100)).await;
        sampling.told(ToNode::Ping, &scene.line());
    }
    assert_eq!(coming(&sampling), Some(2));
    // What the first one had to say in its last moment is nobody's.
    let late = Event::Loaded(1, scene.welcome.kit.digest.clone(), offer_of(offer(1)), Err("late".into()));
    sampling.happened(late, &scene.line()).await.unwrap();
    assert_eq!(coming(&sampling), Some(2));
}

fn offer_of(said: ToNode) -> Offer {
    match said {
        ToNode::Weights(offer) => offer,
        other => panic!("{other:?}"),
    }
}

fn plan() -> Plan {
    let sampling = model::sampling::Sampling { temperature: 1.0, top_p: 1.0, top_k: 0, min_p: 0.0 };
    let recipe = Recipe {
        run: "r".into(),
        device: crate::config::Device::Cpu,
        single_precision: false,
        cache_bytes: 0,
        gpu_wait_s: 0,
        max_batch: 1,
        max_seq_len: 8,
        sampling,
        max_new_tokens: 1,
        stop_at_code: false,
        eos: Vec::new(),
        lora: None,
        prompts: Vec::new(),
        files: Vec::new(),
        tagged: false,
    };
    Plan {
        entries: HashMap::new(),
        workshop: Arc::new(Mutex::new(recipe.workshop().unwrap())),
        recipe: Arc::new(recipe),
    }
}
