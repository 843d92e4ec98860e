//! Wall clocks that jump, by libfaketime.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, ensure};
use reqwest::Method;
use reqwest::header::DATE;

use super::story::Story;
use crate::node::Node;
use crate::wait::eventually_within;
use crate::wall_clock::WallClock;

/// How far the clock jumps: longer than the store remembers requests, which it would forget if it believed the clock.
const JUMP: Duration = Duration::from_secs(3 * 24 * 60 * 60);
const PATIENCE: Duration = Duration::from_secs(30);
/// The clock of a group may be told a little late, and so seem to go faster for a while.
const SLACK: Duration = Duration::from_secs(5);

/// The sidecar that leads runs by a wall clock that jumps ahead, then behind. The clocks that leases are measured with are
/// not touched: that they run evenly is an assumption.
pub(super) async fn jump(story: &Story<'_>) -> anyhow::Result<()> {
    let (node, _guard) = story.leader().await?;
    let sidecar = node.sidecar();
    let clock = WallClock::attach(sidecar, &story.store.dir())?.context("libfaketime was there when the soak began")?;
    sidecar.kill();
    sidecar.start()?;
    let jumped = jumped(story, &node, &clock).await;
    clock.detach(sidecar)?;
    sidecar.kill();
    sidecar.start()?;
    jumped
}

async fn jumped(story: &Story<'_>, node: &Node, wall: &WallClock) -> anyhow::Result<()> {
    wall.runs(node.sidecar()).await?;
    let (begin, before) = (Instant::now(), story.clock_of(node).await?);
    wall.set(&format!("+{}", JUMP.as_secs()))?;
    // The group's clock is told by whoever leads: so this node must.
    eventually_within(PATIENCE * 2, "the node whose clock has jumped leads", || async {
        if !node.status().await?.node.leads() {
            let path = format!("/transfer-leader?to={}", node.name());
            node.management().post(&path, "application/json", "").await?.success()?;
        }
        ensure!(node.status().await?.node.leads(), "it does not");
        Ok(())
    })
    .await?;
    eventually_within(PATIENCE, "the date of its answers is that of the wall clock that has jumped", || async {
        let answer = node.management().request(Method::GET, "/livez").send().await?;
        let date = answer.headers().get(DATE).context("a date")?.to_str()?;
        ensure!(httpdate::parse_http_date(date)? > SystemTime::now() + JUMP / 2, "it is {date}");
        Ok(())
    })
    .await?;
    story.fired();
    story.hold().await;
    wall.set(&format!("-{}", JUMP.as_secs()))?;
    story.hold().await;
    let passed = Duration::from_millis(story.clock_of(node).await?.saturating_sub(before));
    ensure!(passed <= begin.elapsed() + SLACK, "the group's clock went on by {passed:?} in {:?}", begin.elapsed());
    Ok(())
}
