//! The runtime that actors need, built the one right way (dependencies §5).

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use crate::tree::TreeError;

/// Runs `main` on an actix system that shares one multi-thread runtime with every actor's thread.
/// Blocks until it ends. `main` gets the runtime for [`crate::TreeConfig::runtime`] and runs on
/// this thread; new actors' threads are made here, so it must not block.
///
/// # Errors
/// [`TreeError::Threads`] if the machine gives no threads.
pub fn block_on_system<T>(main: impl AsyncFnOnce(Arc<Runtime>) -> T) -> Result<T, TreeError> {
    let runtime = Builder::new_multi_thread()
        .enable_all()
        .thread_name("weft-pool")
        .build()
        .map(Arc::new)
        .map_err(|error| TreeError::Threads(error.to_string()))?;
    let shared = runtime.clone();
    let system = actix_rt::System::with_tokio_rt(move || shared);
    let done = system.block_on(main(runtime.clone()));
    drop(system);
    // A thread that hangs still holds the runtime; then the end of the process ends it.
    if let Some(runtime) = Arc::into_inner(runtime) {
        runtime.shutdown_timeout(Duration::from_secs(2));
    }
    Ok(done)
}
