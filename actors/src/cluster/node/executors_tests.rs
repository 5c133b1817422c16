//! Executors are built once for each kit, whatever becomes of the connection meanwhile.

use super::*;
use crate::cluster::kit::{Work, stand_in};
use crate::cluster::node::scene::Scene;

fn built(digest: impl Into<String>) -> Event {
    let kit = Kit { work: Work::StandIn { takes_ms: 0 }, tasks: vec![], deadline_ms: 1000, executors: 1 };
    Event::Built(digest.into(), Ok(Built { kit, factory: stand_in(Duration::ZERO) }))
}

fn executors() -> Executors {
    Executors::new(Some(1), std::env::temp_dir(), Logbook::in_memory())
}

/// Should fail with (not tried): a second one takes the first one's place (as it was). then: another pool.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn executors_that_are_at_work_are_not_replaced_by_the_same() {
    let scene = Scene::new(Role::Executor).await;
    let (mut executors, digest) = (executors(), scene.welcome.kit.digest.clone());
    let pool = |executors: &Executors| executors.bench.as_ref().map(|(_, bench)| bench.pool.get_id());
    executors.happened(built("another"), &scene.line()).await.unwrap();
    assert_eq!(pool(&executors), None);
    executors.happened(built(digest.clone()), &scene.line()).await.unwrap();
    let first = pool(&executors);
    assert!(first.is_some());
    executors.happened(built(digest), &scene.line()).await.unwrap();
    assert_eq!(pool(&executors), first);
}

/// Nobody listens at the side channel. Should fail with (not tried): `welcomed` builds whenever there are no executors (as it was). then: two answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kit_is_asked_for_once_and_again_only_of_a_new_head() {
    let scene = Scene::new(Role::Executor).await;
    let mut executors = executors();
    executors.welcomed(&scene.line());
    executors.parted();
    executors.welcomed(&scene.line());
    let first = executors.next().await;
    assert!(matches!(first, Event::Built(_, Err(_))));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(executors.already().is_none(), "a second one was under way");
    // The old head had it no more: no reason to end.
    executors.happened(first, &scene.line()).await.unwrap();
    let second = executors.next().await;
    assert!(matches!(second, Event::Built(_, Err(_))));
    assert!(executors.happened(second, &scene.line()).await.is_err(), "this head was asked itself");
}
