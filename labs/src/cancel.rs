//! Stopping an `up` half-way: from a signal, or from the program that called it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::{Act, LabError};

/// A request to stop, shared by everything that works on one lab.
#[derive(Clone, Default)]
pub struct Cancel(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    cancelled: bool,
    hooks: Vec<Box<dyn FnOnce() + Send>>,
}

impl Cancel {
    /// A request that was not made yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks to stop. What blocks is woken; asking again changes nothing.
    pub fn cancel(&self) {
        let hooks = {
            let mut state = self.lock();
            state.cancelled = true;
            std::mem::take(&mut state.hooks)
        };
        self.0.wake.notify_all();
        for hook in hooks {
            hook();
        }
    }

    /// True after [`Cancel::cancel`].
    pub fn is_cancelled(&self) -> bool {
        self.lock().cancelled
    }

    /// # Errors
    /// [`LabError::Interrupted`] after [`Cancel::cancel`].
    pub fn check(&self) -> Result<(), LabError> {
        if self.is_cancelled() { Err(LabError::Interrupted) } else { Ok(()) }
    }

    /// Waits that long, or shorter if asked to stop.
    ///
    /// # Errors
    /// [`LabError::Interrupted`] after [`Cancel::cancel`].
    pub fn pause(&self, time: Duration) -> Result<(), LabError> {
        let state = self.lock();
        let waited = self.0.wake.wait_timeout_while(state, time, |state| !state.cancelled);
        let cancelled = waited.unwrap_or_else(PoisonError::into_inner).0.cancelled;
        if cancelled { Err(LabError::Interrupted) } else { Ok(()) }
    }

    /// Runs `hook` when asked to stop; at once if that has happened. For what blocks in the kernel.
    pub(crate) fn on_cancel(&self, hook: impl FnOnce() + Send + 'static) {
        let mut state = self.lock();
        if !state.cancelled {
            state.hooks.push(Box::new(hook));
            return;
        }
        drop(state);
        hook();
    }

    /// Asks to stop when this process gets SIGINT, SIGTERM or SIGHUP, from now on until it ends.
    ///
    /// # Errors
    /// The signals cannot be caught.
    pub fn on_signals(&self) -> Result<(), LabError> {
        let cancel = self.clone();
        let (ready, is_ready) = std::sync::mpsc::channel();
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
                let result = runtime.and_then(|runtime| runtime.block_on(signalled(&ready)));
                match result {
                    Ok(()) => cancel.cancel(),
                    Err(error) => drop(ready.send(Err(error))),
                }
            })
            .act(|| "start a thread for signals".to_owned())?;
        is_ready
            .recv()
            .unwrap_or_else(|_| Err(std::io::Error::other("the signal thread ended")))
            .act(|| "catch signals".to_owned())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn signalled(ready: &std::sync::mpsc::Sender<std::io::Result<()>>) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut int = signal(SignalKind::interrupt())?;
    let mut term = signal(SignalKind::terminate())?;
    let mut hup = signal(SignalKind::hangup())?;
    // Nobody waits for it any more when the caller gave up, which is no reason to miss a signal.
    let _ = ready.send(Ok(()));
    tokio::select! {
        _ = int.recv() => {}
        _ = term.recv() => {}
        _ = hup.recv() => {}
    }
    Ok(())
}

impl std::fmt::Debug for Cancel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cancel").field("cancelled", &self.is_cancelled()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_pause_ends_early_and_hooks_run_once() {
        let cancel = Cancel::new();
        let (sender, receiver) = std::sync::mpsc::channel();
        let late = sender.clone();
        cancel.on_cancel(move || sender.send("hook").unwrap());
        let other = cancel.clone();
        let start = Instant::now();
        let waiting = std::thread::spawn(move || other.pause(Duration::from_secs(60)));
        cancel.cancel();
        cancel.cancel();
        assert!(matches!(waiting.join().unwrap(), Err(LabError::Interrupted)));
        assert!(start.elapsed() < Duration::from_secs(30));
        cancel.on_cancel(move || late.send("late").unwrap());
        assert_eq!(receiver.iter().collect::<Vec<_>>(), ["hook", "late"]);
        assert!(cancel.check().is_err());
    }

    #[test]
    fn a_pause_that_nobody_ends_is_no_error() {
        assert!(Cancel::new().pause(Duration::from_millis(1)).is_ok());
    }
}
