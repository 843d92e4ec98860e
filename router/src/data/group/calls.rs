//! [`Calls`]: questions to a group that are asked once in a while, each by itself.

use std::time::{Duration, Instant};

use raftkv_backend::BackendError;
use raftkv_link::backoff::Backoff;
use raftkv_link::trouble::Trouble;
use raftkv_proto::group::group_client::GroupClient as Rpc;
use raftkv_proto::group::{DescribeRequest, Description};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use super::nodes::{Node, Nodes};

/// A node gets this long for an answer; then another one is asked, if there is time.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// First wait before asking again.
const FIRST_WAIT: Duration = Duration::from_millis(10);
/// Longest wait before asking again: a fraction of an election.
const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// Asks the node in use, and again where asking again may help, until the deadline. Only for what changes nothing, or
/// may be asked for any number of times.
#[derive(Debug, Clone)]
pub(super) struct Calls {
    pub(super) nodes: Nodes,
    pub(super) trouble: Trouble,
}

impl Calls {
    /// `message` is made for each attempt, told how much time it has.
    pub(super) async fn ask<Q, A, F>(
        &self,
        deadline: Instant,
        message: impl Fn(u32) -> Q,
        call: impl Fn(Rpc<Channel>, Request<Q>) -> F,
    ) -> Result<A, BackendError>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        loop {
            let asked = match self.nodes.target() {
                Some(node) => self.attempt(&node, deadline, &message, &call).await,
                None => Err(Status::unavailable("no address of the group is known")),
            };
            let error = match asked {
                Ok(answer) => return Ok(answer),
                Err(status) => error_of(&status),
            };
            let BackendError::Unavailable(reason) = error else { return Err(error) };
            self.trouble.note(reason);
            let again = Instant::now() + backoff.wait();
            if again >= deadline {
                return Err(BackendError::Unavailable(self.trouble.explain("no node of the group answered in time")));
            }
            tokio::time::sleep_until(again.into()).await;
        }
    }

    async fn attempt<Q, A, F>(
        &self,
        node: &Node,
        deadline: Instant,
        message: &impl Fn(u32) -> Q,
        call: &impl Fn(Rpc<Channel>, Request<Q>) -> F,
    ) -> Result<A, Status>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let left = deadline.saturating_duration_since(Instant::now()).min(ATTEMPT_TIMEOUT);
        let timeout_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX).max(1);
        let request = self.nodes.request(message(timeout_ms));
        let late = |_| Status::unavailable(format!("the node at {} does not answer", node.address));
        Ok(tokio::time::timeout(left, call(self.nodes.calls(node), request)).await.map_err(late)??.into_inner())
    }

    /// How one node is, asked once.
    pub(super) async fn describe(&self, node: &Node, deadline: Instant) -> Result<Description, BackendError> {
        let call = |mut rpc: Rpc<Channel>, request| async move { rpc.describe(request).await };
        let asked = self.attempt(node, deadline, &|_| DescribeRequest {}, &call).await;
        asked.map_err(|status| error_of(&status))
    }
}

fn error_of(status: &Status) -> BackendError {
    // Only what our own side made, the transport, has a source.
    let of_transport = std::error::Error::source(status).is_some();
    let message = if of_transport {
        format!("the node cannot be reached: {}", raftkv_runtime::reason::call(status, ""))
    } else {
        status.message().to_owned()
    };
    match status.code() {
        Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::NotFound
        | Code::AlreadyExists
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::PermissionDenied => BackendError::Rejected(message),
        Code::ResourceExhausted => BackendError::Overloaded { retry_after: Duration::from_secs(1) },
        Code::Internal | Code::DataLoss if !of_transport => BackendError::Internal(message),
        _ => BackendError::Unavailable(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_whether_asking_again_may_help() {
        assert!(matches!(error_of(&Status::unavailable("x")), BackendError::Unavailable(_)));
        assert!(matches!(error_of(&Status::deadline_exceeded("x")), BackendError::Unavailable(_)));
        assert!(matches!(error_of(&Status::failed_precondition("x")), BackendError::Rejected(_)));
        assert!(matches!(error_of(&Status::resource_exhausted("x")), BackendError::Overloaded { .. }));
        assert!(matches!(error_of(&Status::data_loss("x")), BackendError::Internal(_)));
    }
}
