//! Where an evaluation is now, for whoever watches: each step is told as it is entered. Nobody needs to listen.

use std::future::Future;
use std::sync::Arc;

/// Told of each stage as it is entered; called on the evaluation's own task, so it must be quick.
pub type OnStage = Arc<dyn Fn(&'static str) + Send + Sync>;

tokio::task_local! {
    static LISTENER: OnStage;
}

/// `evaluation`, with its stages told to `listener`.
pub async fn told_to<T>(listener: OnStage, evaluation: impl Future<Output = T>) -> T {
    LISTENER.scope(listener, evaluation).await
}

/// The evaluation on this task enters `stage`.
pub fn enter(stage: &'static str) {
    let _ = LISTENER.try_with(|listener| listener(stage));
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn a_stage_is_told_to_the_listener_of_its_own_task_and_to_nobody_else() {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let listener = |mark: &'static str| -> OnStage {
            let heard = heard.clone();
            Arc::new(move |stage| heard.lock().unwrap().push((mark, stage)))
        };
        let evaluation = |stage: &'static str| async move {
            enter(stage);
            tokio::task::yield_now().await;
            enter("end");
        };
        enter("nobody listens");
        tokio::join!(told_to(listener("a"), evaluation("compile")), told_to(listener("b"), evaluation("run")));
        // `join!` does not say whom it polls first.
        let of = |mark| heard.lock().unwrap().iter().filter(|h| h.0 == mark).map(|h| h.1).collect::<Vec<_>>();
        assert_eq!((of("a"), of("b")), (vec!["compile", "end"], vec!["run", "end"]));
    }
}
