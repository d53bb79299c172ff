//! Waiting for a condition.

use std::time::{Duration, Instant};

use anyhow::{Error, Result, anyhow};

/// Pause between two looks at a condition.
const POLL: Duration = Duration::from_millis(15);

/// Calls `look` until it gives a value, at most for `limit`; its errors mean "not yet, because …", and the last one is
/// part of the error when time is up. Prints how long it took.
pub async fn wait_for<T>(what: &str, limit: Duration, mut look: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let mut before: Option<Error> = None;
    loop {
        // A look that hangs (a vtysh on a stopped daemon) must not outlive the limit by much.
        let left = limit.saturating_sub(start.elapsed()).max(Duration::from_secs(1));
        let why = match tokio::time::timeout(left, look()).await {
            Ok(Ok(value)) => {
                println!("{what}: after {} ms", start.elapsed().as_millis());
                return Ok(value);
            }
            Ok(Err(why)) => why,
            // What was seen before says more than that the last look was cut short.
            Err(_) => match before.take() {
                Some(why) => why.context(format!("looking took more than {left:?}; before that")),
                None => anyhow!("looking took more than {left:?}"),
            },
        };
        if start.elapsed() >= limit {
            return Err(why.context(format!("waited {limit:?} in vain for: {what}")));
        }
        before = Some(why);
        tokio::time::sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::ensure;

    #[tokio::test]
    async fn a_look_that_is_cut_short_does_not_hide_the_reason() {
        let mut n = 0;
        let err = wait_for("the impossible", Duration::from_millis(60), async || -> Result<()> {
            n += 1;
            if n > 1 {
                std::future::pending::<()>().await;
            }
            Err(anyhow!("the reason"))
        })
        .await
        .unwrap_err();
        let text = format!("{err:#}");
        assert!(text.contains("looking took more") && text.ends_with("the reason"), "{text}");
    }

    #[tokio::test]
    async fn the_last_reason_is_told() {
        let mut n = 0;
        let err = wait_for("the impossible", Duration::from_millis(60), async || -> Result<()> {
            n += 1;
            ensure!(n < 0, "look {n} was too early");
            Ok(())
        })
        .await
        .unwrap_err();
        let text = format!("{err:#}");
        assert!(text.contains("the impossible") && text.contains(&format!("look {n}")), "{text}");
        assert!(n > 1);
    }

    #[tokio::test]
    async fn a_value_ends_the_wait() {
        let mut n = 0;
        let got = wait_for("three looks", Duration::from_secs(5), async || {
            n += 1;
            ensure!(n == 3, "{n}");
            Ok(n)
        });
        assert_eq!(got.await.unwrap(), 3);
    }
}
