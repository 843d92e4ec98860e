//! Wall clock jumps, with libfaketime.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, ensure};
use reqwest::Method;
use reqwest::header::DATE;

use super::story::Story;
use crate::node::Node;
use crate::wait::eventually_within;
use crate::wall_clock::WallClock;

/// Size of a jump: longer than the store remembers requests. A store that trusted the wall clock would forget them.
const JUMP: Duration = Duration::from_secs(3 * 24 * 60 * 60);
const PATIENCE: Duration = Duration::from_secs(30);
/// The group clock may be read with a small delay, and so seem fast for a moment.
const SLACK: Duration = Duration::from_secs(5);

/// Makes the wall clock of the leader's sidecar jump ahead, then behind. Lease clocks are unaffected: their steady rate is an assumption.
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
    // The leader sets the group clock, so this node must lead.
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
