//! Random faults under load, with checks: about a minute of it in every test run, and as long as one likes with `make soak`.

use raftkv_tests::{figure, soak};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_nothing_is_lost_or_seen_wrong_whatever_fails() -> anyhow::Result<()> {
    let outcome = soak::run().await?;
    figure("operations checked in the soak", outcome.operations_checked);
    figure("faults fired in the soak", outcome.fired());
    figure("longest write gap in the soak", format!("{} ms", outcome.longest_write_gap_ms));
    outcome.verdict()
}
