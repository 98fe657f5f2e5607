//! Panics of actors: where they happened and whose they were.
//!
//! A payload alone has no location, so a process-wide hook keeps it for whoever catches the
//! panic on the same thread (dependencies §5, "Detecting").

use std::any::Any;
use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Once};

use futures_util::FutureExt as _;

thread_local! {
    static CURRENT: RefCell<Option<Arc<str>>> = const { RefCell::new(None) };
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Installs the hook; later calls do nothing. Panics outside actors go to the hook before it.
pub(crate) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let actor = CURRENT
                .try_with(|current| current.try_borrow().ok().and_then(|path| path.clone()))
                .ok()
                .flatten();
            let Some(actor) = actor else { return before(info) };
            let text = text(info.payload());
            let place = info
                .location()
                .map_or_else(|| "?".to_owned(), |at| format!("{}:{}", at.file(), at.line()));
            let line = format!("panicked at {place}: {text}");
            if tracing::enabled!(tracing::Level::ERROR) {
                tracing::error!(actor = %actor, "{line}");
            } else {
                before(info);
            }
            let _ = LAST.try_with(|last| {
                if let Ok(mut last) = last.try_borrow_mut() {
                    *last = Some(line);
                }
            });
        }));
    });
}

/// Says whose code runs on this thread until it is dropped.
pub(crate) struct Entered(Option<Arc<str>>);

pub(crate) fn enter(path: &Arc<str>) -> Entered {
    Entered(CURRENT.with(|current| current.replace(Some(path.clone()))))
}

impl Drop for Entered {
    fn drop(&mut self) {
        let _ = CURRENT.try_with(|current| current.replace(self.0.take()));
    }
}

fn text(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a value that is not text")
}

/// The line for people of a panic just caught on this thread.
pub(crate) fn describe(payload: Box<dyn Any + Send>) -> String {
    let line =
        LAST.with(|last| last.take()).unwrap_or_else(|| format!("panicked: {}", text(&*payload)));
    // Dropping a payload may panic in turn.
    let _ = catch_unwind(AssertUnwindSafe(move || drop(payload)));
    line
}

/// Runs `f` as the actor at `path`; a panic is an error.
pub(crate) fn guard<T>(path: &Arc<str>, f: impl FnOnce() -> T) -> Result<T, String> {
    let _entered = enter(path);
    catch_unwind(AssertUnwindSafe(f)).map_err(describe)
}

/// Runs `future` as the actor at `path`; a panic is an error.
pub(crate) async fn guarded<F: Future>(path: Arc<str>, future: F) -> Result<F::Output, String> {
    let mut future = pin!(AssertUnwindSafe(future).catch_unwind());
    poll_fn(|cx| {
        let _entered = enter(&path);
        future.as_mut().poll(cx).map(|done| done.map_err(describe))
    })
    .await
}
