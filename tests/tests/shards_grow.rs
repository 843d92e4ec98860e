//! A third group comes and goes while many clients write.

use std::time::Instant;

use anyhow::ensure;
use raftkv_tests::{Load, Registers, Seed, Shards, Tolerance, clients_from_env, eventually, figure};

/// Keys that stay as they are, to be counted.
const BASE_KEYS: u64 = 3_000;
/// Keys that the clients read and write.
const REGISTERS: usize = 96;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_a_third_group_joins_and_leaves_under_load() -> anyhow::Result<()> {
    let seed = Seed::from_env();
    let workers = clients_from_env()?;
    let mut shards = Shards::builder().groups(2).routers(2).start().await?;
    let base = Load::start("base/", BASE_KEYS, 16, shards.clients()).report().await?;
    ensure!(base.acked() as u64 == BASE_KEYS, "{} of {BASE_KEYS} keys", base.acked());

    let keys = (0..REGISTERS).map(|number| format!("register/{number}")).collect();
    let registers = Registers::start(keys, workers, shards.clients(), Tolerance::Waits, seed);
    progress(&registers, 500).await?;
    let at = Instant::now();
    let third = shards.add_group().await?;
    let view = shards.admin().settled(3).await?;
    figure("a third group has its third of the slots after", format!("{:.1?}", at.elapsed()));
    println!("{view:?}");
    progress(&registers, registers.done() + 500).await?;
    // Listed while clients write.
    let contents = raftkv_tests::Contents::read(&shards.clients()[0], "base/", "linearizable").await?;
    base.check(&contents)?;

    let at = Instant::now();
    let removal = shards.admin().remove_group(shards.group_id(third).await?).await?;
    let done = shards.admin().done(removal).await?;
    figure("and gives them back after", format!("{:.1?}; longest pause {} ms", at.elapsed(), done.longest_pause_ms));
    shards.admin().settled(2).await?;
    progress(&registers, registers.done() + 500).await?;

    let report = registers.check().await?;
    figure("clients", workers);
    figure("operations checked for linearizability", report.operations);
    figure("checked in", format!("{:.1?}", report.checked_in));
    figure(
        "waits of the clients: 99 % below, the longest",
        format!("{:.0?}, {:.0?}", report.p99_wait, report.longest_wait),
    );
    ensure!(report.unknown == 0 && report.refused == 0, "{report:?}");
    let contents = shards.spread().await?;
    base.check(&contents)?;
    let registers = contents.entries.keys().filter(|key| key.starts_with("register/")).count();
    ensure!(contents.len() == BASE_KEYS as usize + registers && registers <= REGISTERS, "{} keys", contents.len());
    let repeated = base.repeat(&shards.clients(), 200).await?;
    figure("repeats answered from records that moved twice", repeated);
    ensure!(shards.spread().await? == contents, "repeats changed something");
    shards.finish().await
}

async fn progress(registers: &Registers, operations: u64) -> anyhow::Result<()> {
    eventually(&format!("{operations} operations are done"), || async {
        if let Err(error) = registers.healthy() {
            panic!("{error:#}");
        }
        ensure!(registers.done() >= operations, "{} are", registers.done());
        Ok(())
    })
    .await
}
