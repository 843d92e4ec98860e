//! [`Scout`]: finds the node of a group that should be asked, and keeps it found.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use raftkv_proto::group::{DescribeRequest, Description};
use raftkv_runtime::shutdown::Shutdown;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::nodes::Nodes;
use raftkv_link::backoff::Backoff;

/// How often the node in use is asked how it is while all is well.
const CALM: Duration = Duration::from_secs(1);
/// First pause after a round that found no leader or followed trouble: an election takes a few of these.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
/// Longest pause while there is trouble.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// A node that does not say how it is within this is as good as down.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);
/// Once one node says it leads, the others get this long to say that a later one does: a leader that was cut off does not
/// know that it was replaced.
const LEADER_GRACE: Duration = Duration::from_millis(20);

/// Asks the nodes of a group who leads, about once a second and at once on trouble, and has the links follow.
///
/// Nothing depends on its being right: a node that does not lead asks the one that does. It only saves that step, and finds
/// another node when one is gone.
pub(super) struct Scout {
    name: String,
    nodes: Nodes,
    trouble: Arc<Notify>,
    pause: Backoff,
    /// Of the group, as long as one is known: a learned address may have come to belong to another.
    cluster_id: Option<String>,
    had_answer: bool,
}

/// What a node said of itself.
pub(super) struct Answer {
    address: String,
    description: Description,
}

impl Scout {
    pub(super) fn new(name: String, nodes: Nodes, trouble: Arc<Notify>) -> Self {
        let pause = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        Self { name, nodes, trouble, pause, cluster_id: None, had_answer: true }
    }

    /// Runs until `stop`.
    pub(super) async fn run(mut self, stop: Shutdown) {
        let mut in_trouble = true;
        loop {
            let found = tokio::select! {
                () = stop.wait() => return,
                found = self.look(in_trouble) => found,
            };
            let now = Instant::now();
            // Trouble that comes in a burst is answered by one round, and rounds in a row slow down.
            let pause = if found && !in_trouble { Duration::ZERO } else { self.pause.wait() };
            in_trouble = tokio::select! {
                () = stop.wait() => return,
                () = async {
                    sleep_until(now + pause).await;
                    self.trouble.notified().await;
                } => true,
                () = sleep_until(now + if found { CALM } else { pause }) => !found,
            };
            if !in_trouble {
                self.pause.reset();
            }
        }
    }

    /// One round; says whether a leader was found.
    async fn look(&mut self, in_trouble: bool) -> bool {
        let until = Instant::now() + ANSWER_TIMEOUT;
        if !in_trouble
            && let Some(target) = self.nodes.target()
            && let Some(answer) = ask(&self.nodes, target.address, until).await
            && leads(&answer.description)
        {
            self.learn(&answer.description);
            return true;
        }
        let answers = self.ask_all(until).await;
        let target = self.nodes.target().map(|target| target.address);
        self.report(&answers);
        let answers = of_one_cluster(answers, &mut self.cluster_id);
        for answer in &answers {
            self.learn(&answer.description);
        }
        let Some(best) = best(&answers, target.as_deref()) else { return false };
        if self.nodes.choose(&best.address) {
            tracing::info!(
                group = self.name,
                node = best.description.node,
                address = best.address,
                "found a node to ask"
            );
        }
        leads(&best.description)
    }

    /// Asks every known address at once. Returns soon after one that leads has answered.
    async fn ask_all(&self, until: Instant) -> Vec<Answer> {
        let mut asked: FuturesUnordered<_> =
            self.nodes.addresses().into_iter().map(|address| ask(&self.nodes, address, until)).collect();
        let mut answers = Vec::new();
        let mut until = until;
        while let Ok(Some(answer)) = timeout_at(until, asked.next()).await {
            let Some(answer) = answer else { continue };
            if leads(&answer.description) {
                until = until.min(Instant::now() + LEADER_GRACE);
            }
            answers.push(answer);
        }
        answers
    }

    fn learn(&self, description: &Description) {
        let addresses = description.members.iter().map(|member| member.group_address.clone());
        self.nodes.learn(addresses.filter(|address| !address.is_empty()));
    }

    fn report(&mut self, answers: &[Answer]) {
        let has_answer = !answers.is_empty();
        match (self.had_answer, has_answer) {
            (true, false) => {
                tracing::warn!(group = self.name, addresses = ?self.nodes.addresses(), "no node of the group answers");
            }
            (false, true) => tracing::info!(group = self.name, "a node of the group answers again"),
            _ => {}
        }
        self.had_answer = has_answer;
    }
}

async fn ask(nodes: &Nodes, address: String, until: Instant) -> Option<Answer> {
    let node = nodes.node(&address)?;
    let mut rpc = nodes.calls(&node);
    let asked = timeout_at(until, rpc.describe(nodes.request(DescribeRequest {}))).await.ok()?;
    match asked {
        Ok(answer) => Some(Answer { address, description: answer.into_inner() }),
        Err(status) => {
            tracing::debug!(address, "a node does not say how it is: {status}");
            None
        }
    }
}

fn leads(description: &Description) -> bool {
    description.role == "leader"
}

/// Leaves out nodes of another cluster than the one known, or, when no node of that one is left, than the first that
/// answered.
fn of_one_cluster(mut answers: Vec<Answer>, known: &mut Option<String>) -> Vec<Answer> {
    let of = |answer: &Answer| answer.description.cluster_id.clone();
    let joined: Vec<String> = answers.iter().map(of).filter(|id| !id.is_empty()).collect();
    if known.as_ref().is_none_or(|known| !joined.contains(known))
        && let Some(first) = joined.into_iter().next()
    {
        *known = Some(first);
    }
    answers.retain(|answer| answer.description.cluster_id.is_empty() || Some(of(answer)) == *known);
    answers
}

/// The node to ask: the leader of the latest term; else a voter, so that it can find the leader; else any. Among equals
/// the one in use, for a change has its price.
fn best<'a>(answers: &'a [Answer], target: Option<&str>) -> Option<&'a Answer> {
    answers.iter().max_by_key(|answer| {
        let description = &answer.description;
        let latest_leader = if leads(description) { description.term } else { 0 };
        let votes = matches!(description.role.as_str(), "leader" | "follower" | "candidate");
        (latest_leader, votes, !description.leader.is_empty(), Some(answer.address.as_str()) == target)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(address: &str, role: &str, term: u64) -> Answer {
        let description = Description {
            role: role.to_owned(),
            term,
            cluster_id: "c1".to_owned(),
            leader: if role == "candidate" { String::new() } else { "somebody".to_owned() },
            ..Description::default()
        };
        Answer { address: address.to_owned(), description }
    }

    fn chosen(answers: &[Answer], target: Option<&str>) -> String {
        best(answers, target).unwrap().address.clone()
    }

    #[test]
    fn the_leader_of_the_latest_term_is_asked() {
        let answers = [answer("a", "leader", 3), answer("b", "follower", 4), answer("c", "leader", 4)];
        assert_eq!(chosen(&answers, Some("a")), "c");
        assert_eq!(chosen(&answers[..2], Some("b")), "a");
        assert!(best(&[], Some("a")).is_none());
    }

    #[test]
    fn without_a_leader_the_node_in_use_is_kept_if_it_can_vote() {
        let answers = [answer("a", "follower", 3), answer("b", "follower", 3), answer("c", "learner", 3)];
        assert_eq!(chosen(&answers, Some("a")), "a");
        assert_eq!(chosen(&answers, Some("b")), "b");
        assert_ne!(chosen(&answers, Some("c")), "c");
        let electing = [answer("a", "candidate", 4), answer("b", "follower", 3)];
        assert_eq!(chosen(&electing, Some("a")), "b", "it knows a leader");
    }

    #[test]
    fn nodes_of_another_cluster_are_left_out_until_it_is_the_only_one() {
        let other = || {
            let mut other = answer("x", "leader", 9);
            other.description.cluster_id = "c2".to_owned();
            other
        };
        let mut known = None;
        let left = of_one_cluster(vec![answer("a", "follower", 3), other()], &mut known);
        assert_eq!((left.len(), known.as_deref()), (1, Some("c1")));
        let left = of_one_cluster(vec![other()], &mut known);
        assert_eq!((left.len(), known.as_deref()), (1, Some("c2")), "made anew at the same addresses");
    }
}
