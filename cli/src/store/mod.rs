//! Commands on a store of several groups, through the HTTP interface of its routers.

mod group;
mod operation;
mod rebalance;
mod router;
mod slots;
mod status;
mod view;

pub(crate) use group::{
    GroupAddArgs, GroupListArgs, GroupRemoveArgs, GroupWeightArgs, add as group_add, list as group_list,
    remove as group_remove, weight as group_weight,
};
pub(crate) use operation::{
    OperationCancelArgs, OperationListArgs, OperationShowArgs, OperationWatchArgs, cancel as operation_cancel,
    list as operation_list, show as operation_show, watch as operation_watch,
};
pub(crate) use rebalance::{RebalanceArgs, run as rebalance};
pub(crate) use router::Router;
pub(crate) use slots::{SlotsArgs, run as slots};
pub(crate) use status::StoreStatus;
