//! Ctrl-C: the first asks to stop, the second ends at once.

/// Waits for Ctrl-C, or for the signal that a service manager sends. Where neither can be listened for, waits for
/// ever.
pub async fn first() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = match signal(SignalKind::terminate()) {
        Ok(stream) => stream,
        Err(_) => return std::future::pending().await,
    };
    tokio::select! {
        result = tokio::signal::ctrl_c() => {
            if result.is_err() {
                std::future::pending::<()>().await;
            }
        }
        _ = terminate.recv() => {}
    }
}
