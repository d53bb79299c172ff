//! What every store must do, on the file and on two versions of etcd; and what stands on it: the snapshot, ports of
//! several controllers at once, their history, elections.

mod basics;
mod competition;
mod etcd_only;
mod file_only;
mod follow;
mod history;
mod leases;
mod restored;
mod rig;
mod watches;

/// Makes a test of each function for each store.
macro_rules! on_every_store {
    ($($test:ident),* $(,)?) => {
        mod file { $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $test() -> anyhow::Result<()> { super::$test(crate::rig::Rig::file()?).await }
        )* }
        mod etcd_debian { $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $test() -> anyhow::Result<()> {
                super::$test(crate::rig::Rig::etcd(causeway_tests::etcd::EtcdVersion::Debian).await?).await
            }
        )* }
        mod etcd_newest { $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $test() -> anyhow::Result<()> {
                super::$test(crate::rig::Rig::etcd(causeway_tests::etcd::EtcdVersion::Newest).await?).await
            }
        )* }
    };
}

pub(crate) use on_every_store;
