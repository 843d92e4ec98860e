//! Moves without a copy: slots that nobody owns are claimed, the last group gives all of them up.

use std::time::Instant;

use raftkv_kv::{Refusal, SystemAnswer, SystemCommand};

use crate::control::act::mover::{Mover, STEP_TIMEOUT, Trouble, settled};
use crate::control::act::pace::PurgeSize;
use crate::control::document::records::{GroupId, MoveRecord};
use crate::control::now_ms;

impl Mover {
    pub(super) async fn claim(&mut self, moving: &MoveRecord, to: GroupId) -> Result<(), Trouble> {
        let command = SystemCommand::Claim { id: moving.id, slots: moving.slots.clone() };
        let answer = self.command(to, "claim", command).await?;
        tracing::info!(move_id = moving.id, group = to, action = "claim", answer = ?answer, "move");
        let until = Instant::now() + STEP_TIMEOUT;
        settled(match answer {
            SystemAnswer::Done | SystemAnswer::Refused(Refusal::Committed) => {
                self.store.update(until, |state| state.claimed(moving.id, now_ms())).await
            }
            SystemAnswer::Refused(Refusal::PurgePending) => {
                let limit = PurgeSize::default().records();
                return self.command(to, "purge", SystemCommand::Purge { limit }).await.map(drop);
            }
            answer => {
                let failure = format!("group {to} refuses the slots: {answer:?}");
                self.store.update(until, |state| state.fail_claim(moving.id, &failure, now_ms())).await
            }
        })
    }

    pub(super) async fn disown(&mut self, moving: &MoveRecord, from: GroupId) -> Result<(), Trouble> {
        let command = SystemCommand::Disown { id: moving.id, slots: moving.slots.clone() };
        let answer = self.command(from, "disown", command).await?;
        tracing::info!(move_id = moving.id, group = from, action = "disown", answer = ?answer, "move");
        let until = Instant::now() + STEP_TIMEOUT;
        settled(match answer {
            SystemAnswer::Done | SystemAnswer::Refused(Refusal::Committed) => {
                self.store.update(until, |state| state.disowned(moving.id)).await
            }
            answer => {
                let failure = format!("group {from} does not give the slots up: {answer:?}");
                self.store.update(until, |state| state.fail_claim(moving.id, &failure, now_ms())).await
            }
        })
    }
}
