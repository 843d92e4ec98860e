//! `raftkv operation`, and waiting for an operation with a live progress bar.

use std::io::Write;
use std::time::{Duration, Instant};

use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};

use super::router::{Router, RouterArgs};
use super::view::{OperationView, plain};
use crate::failure::Failure;
use crate::output::{self, JsonArgs, bytes, thousands};

/// How often to ask how far it is.
const POLL: Duration = Duration::from_millis(500);
/// Routers may be restarting, the meta group may be electing a leader; after this long nobody is there.
const SILENCE: Duration = Duration::from_secs(30);
/// In place of what is not known.
const UNKNOWN: &str = "-";
/// The exit code of a program ended by Ctrl-C, as shells have it.
const INTERRUPTED: i32 = 130;

/// Arguments of `raftkv operation list`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct OperationListArgs {
    #[command(flatten)]
    format: JsonArgs,
    #[command(flatten)]
    router: RouterArgs,
}

/// Arguments of `raftkv operation show`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct OperationShowArgs {
    /// Number of the operation
    id: u64,
    #[command(flatten)]
    format: JsonArgs,
    #[command(flatten)]
    router: RouterArgs,
}

/// Arguments of `raftkv operation cancel`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Moves that are complete stay; the move in progress is undone.")]
pub(crate) struct OperationCancelArgs {
    /// Number of the operation
    id: u64,
    /// Return before the operation has ended
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    router: RouterArgs,
}

/// Arguments of `raftkv operation watch`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct OperationWatchArgs {
    /// Number of the operation
    id: u64,
    #[command(flatten)]
    router: RouterArgs,
}

/// Lists operations.
pub(crate) async fn list(args: OperationListArgs) -> Result<(), Failure> {
    let raw: serde_json::Value = Router::new(&args.router).get("/v1/cluster/operations").await?;
    if args.format.is_json() {
        return output::line(raw);
    }
    output::line(table(&operations(raw)?))
}

/// Shows one operation.
pub(crate) async fn show(args: OperationShowArgs) -> Result<(), Failure> {
    let raw: serde_json::Value = Router::new(&args.router).get(&path(args.id)).await?;
    if args.format.is_json() {
        return output::line(raw);
    }
    let operation: OperationView = serde_json::from_value(raw).map_err(Failure::failed)?;
    output::line(details(&operation))
}

/// Asks an operation to end.
pub(crate) async fn cancel(args: OperationCancelArgs) -> Result<(), Failure> {
    let router = Router::new(&args.router);
    let _: serde_json::Value = router.post(&format!("{}/cancel", path(args.id)), &serde_json::json!({})).await?;
    if args.no_wait {
        return output::line(format!("operation {} is asked to end", args.id));
    }
    let began = Instant::now();
    let operation = until_over(&router, args.id).await?;
    match operation.state.as_str() {
        "cancelled" => output::line(format!("{} is cancelled", operation.title())),
        // It was past the point of no return, or over before.
        _ => output::line(verdict(&operation, began.elapsed())?),
    }
}

/// Follows an operation until it ends.
pub(crate) async fn watch(args: OperationWatchArgs) -> Result<(), Failure> {
    follow(&Router::new(&args.router), args.id).await
}

/// Follows what was just asked for, or with `no_wait` only says that it was accepted.
pub(super) async fn accepted(router: &Router, operation: &OperationView, no_wait: bool) -> Result<(), Failure> {
    if no_wait {
        return output::line(format!(
            "{} is accepted; `raftkv operation watch {}` shows it",
            operation.title(),
            operation.id
        ));
    }
    follow(router, operation.id).await
}

/// A progress bar until it is over; fails unless it did what it was to.
async fn follow(router: &Router, id: u64) -> Result<(), Failure> {
    let began = Instant::now();
    let operation = until_over(router, id).await?;
    output::line(verdict(&operation, began.elapsed())?)
}

/// Ctrl-C ends the watching, not the operation.
async fn until_over(router: &Router, id: u64) -> Result<OperationView, Failure> {
    let bar = ProgressBar::new(100);
    if let Ok(style) = ProgressStyle::with_template("{spinner} [{bar:32}] {percent:>3}% {msg} [{elapsed}]") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    let over = poll(router, id, &bar);
    let ended = tokio::select! {
        over = over => over,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            let message = format!(
                "operation {id} continues. `raftkv operation watch {id}` shows it, `raftkv operation cancel {id}` ends it"
            );
            Err(Failure { code: INTERRUPTED, ..Failure::failed(message) })
        }
    };
    bar.finish_and_clear();
    ended
}

async fn poll(router: &Router, id: u64, bar: &ProgressBar) -> Result<OperationView, Failure> {
    let mut heard = Instant::now();
    loop {
        match router.get::<OperationView>(&path(id)).await {
            Ok(operation) if operation.is_over() => return Ok(operation),
            Ok(operation) => {
                heard = Instant::now();
                bar.set_position(operation.percent.unwrap_or(0.0).clamp(0.0, 100.0) as u64);
                bar.set_message(progress(&operation));
            }
            // The router that is asked may be restarting; another one continues the operation.
            Err(failure) if failure.code != raftkv_runtime::exit::UNAVAILABLE => return Err(failure),
            Err(failure) if heard.elapsed() > SILENCE => {
                let message =
                    format!("{}; operation {id} may continue: `raftkv operation watch {id}`", failure.message);
                return Err(Failure::unavailable(message));
            }
            Err(failure) => bar.set_message(failure.message),
        }
        tokio::time::sleep(POLL).await;
    }
}

/// What stands behind the bar.
fn progress(operation: &OperationView) -> String {
    let mut parts = vec![operation.state.clone()];
    if let Some(step) = operation.step.as_ref().filter(|step| !step.is_empty()) {
        parts.push(step.clone());
    }
    if let (Some(done), Some(total)) = (operation.slots_done, operation.slots_total.filter(|total| *total > 0)) {
        parts.push(format!("{} of {} slots", thousands(done), thousands(total)));
    }
    if let Some(keys) = operation.keys {
        parts.push(format!("{} keys", thousands(keys)));
    }
    if let Some(rate) = operation.bytes_per_second.filter(|rate| *rate > 0.0) {
        parts.push(format!("{}/s", bytes(rate as u64)));
    }
    if let Some(left) = operation.remaining_seconds {
        parts.push(format!("about {} left", seconds(left)));
    }
    if let Some(why) = operation.stalled.as_ref().or(operation.error.as_ref()) {
        parts.push(why.clone());
    }
    parts.join(", ")
}

/// How it ended; a failure unless it did what it was to.
fn verdict(operation: &OperationView, watched: Duration) -> Result<String, Failure> {
    let title = operation.title();
    match operation.state.as_str() {
        "done" => {
            let mut text = format!("{title} is done");
            if let Some(slots) = operation.slots_done.filter(|slots| *slots > 0) {
                text.push_str(&format!(
                    ": {} slots with {} keys, {} moved; none stood still for longer than {} ms",
                    thousands(slots),
                    thousands(operation.keys.unwrap_or(0)),
                    bytes(operation.bytes.unwrap_or(0)),
                    operation.longest_pause_ms.unwrap_or(0),
                ));
            }
            if watched > POLL {
                text.push_str(&format!(" (watched for {})", seconds(watched.as_secs_f64())));
            }
            Ok(text)
        }
        "cancelled" => Err(Failure::failed(format!("{title} was cancelled; what it had moved stays where it is"))),
        state => {
            let why = operation.error.as_deref().unwrap_or("no reason given");
            Err(Failure::failed(format!("{title} {state}: {why}")))
        }
    }
}

fn operations(raw: serde_json::Value) -> Result<Vec<OperationView>, Failure> {
    // A list, alone or with a name.
    let list = match raw {
        serde_json::Value::Object(mut fields) => fields.remove("operations").unwrap_or_default(),
        list => list,
    };
    serde_json::from_value(list).map_err(|error| Failure::failed(format!("the list cannot be understood: {error}")))
}

fn table(operations: &[OperationView]) -> String {
    if operations.is_empty() {
        return "no operations".to_owned();
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["id", "kind", "state", "%", "slots", "keys", "moved", "pause", "error"]);
    for operation in operations {
        let number = |number: Option<u64>| number.map_or_else(|| UNKNOWN.to_owned(), thousands);
        table.add_row([
            operation.id.to_string(),
            operation.kind.replace('_', " "),
            operation.state.clone(),
            operation.percent.map_or_else(|| UNKNOWN.to_owned(), |percent| format!("{percent:.0}")),
            match operation.slots_total {
                Some(total) => format!("{}/{}", number(operation.slots_done), thousands(total)),
                None => number(operation.slots_done),
            },
            number(operation.keys),
            operation.bytes.map_or_else(|| UNKNOWN.to_owned(), bytes),
            operation.longest_pause_ms.map_or_else(|| UNKNOWN.to_owned(), |pause| format!("{pause} ms")),
            operation.error.clone().or_else(|| operation.stalled.clone()).unwrap_or_default(),
        ]);
    }
    for column in [0, 3, 4, 5, 6, 7] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.to_string()
}

fn details(operation: &OperationView) -> String {
    let mut lines = vec![operation.title(), format!("  {}", progress(operation))];
    if let Some(percent) = operation.percent {
        lines.push(format!("  {percent:.0} %"));
    }
    if let Some(moved) = operation.bytes {
        lines.push(format!("  moved {}", bytes(moved)));
    }
    if let Some(pause) = operation.longest_pause_ms {
        lines.push(format!("  slots stood still for {pause} ms at most"));
    }
    for (what, when) in [("started", &operation.started), ("ended", &operation.ended)] {
        if let Some(when) = plain(when) {
            lines.push(format!("  {what} {when}"));
        }
    }
    lines.join("\n")
}

fn path(id: u64) -> String {
    format!("/v1/cluster/operations/{id}")
}

fn seconds(seconds: f64) -> String {
    indicatif::HumanDuration(Duration::from_secs_f64(seconds.clamp(0.0, 1e9))).to_string()
}

/// Something worth a second look, on stderr; that nobody reads it is no reason to stop.
pub(super) fn remark(text: &str) {
    let _ = writeln!(std::io::stderr(), "raftkv: {text}");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn operation(state: &str) -> OperationView {
        let operation = json!({"id": 5, "kind": "rebalance", "state": state, "percent": 41.7, "step": "copying",
            "slots_total": 5461, "slots_done": 2048, "keys": 123456, "bytes": 10485760, "bytes_per_second": 1048576,
            "remaining_seconds": 12, "started": "2026-01-01T00:00:00Z", "error": null, "longest_pause_ms": 31});
        serde_json::from_value(operation).expect("a view")
    }

    #[test]
    fn progress_tells_what_is_known() {
        let text = progress(&operation("running"));
        let parts = ["running", "copying", "2,048 of 5,461 slots", "123,456 keys", "1.0 MiB/s", "12 seconds left"];
        for part in parts {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert_eq!(progress(&OperationView { state: "pending".to_owned(), ..OperationView::default() }), "pending");
    }

    #[test]
    fn the_end_is_told_with_the_exit_code_that_fits() {
        let done = verdict(&operation("done"), Duration::ZERO).expect("done");
        assert!(done.contains("2,048 slots") && done.contains("31 ms"), "{done}");
        let cancelled = verdict(&operation("cancelled"), Duration::ZERO).expect_err("cancelled");
        assert_eq!(cancelled.code, 1);
        let failed = OperationView { error: Some("group 2 is gone".to_owned()), ..operation("failed") };
        let failed = verdict(&failed, Duration::ZERO).expect_err("failed");
        assert!(failed.code == 1 && failed.message.contains("group 2 is gone"), "{failed:?}");
    }

    #[test]
    fn a_list_is_read_alone_or_with_a_name_and_shown_as_a_table() {
        let one = json!({"id": 5, "kind": "add_group", "state": "stalled", "stalled": "group 2 does not answer"});
        for raw in [json!([one]), json!({"operations": [one]})] {
            let text = table(&operations(raw).expect("a list"));
            for part in ["add group", "stalled", "group 2 does not answer"] {
                assert!(text.contains(part), "{part} in\n{text}");
            }
        }
        assert_eq!(table(&operations(json!({"operations": []})).expect("empty")), "no operations");
        assert!(details(&operation("running")).contains("started 2026-01-01"));
    }

    /// A router whose operation is over when it is asked for the third time; in between it is restarting.
    #[tokio::test]
    async fn watching_goes_on_until_the_end_over_a_restart_of_the_router() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let answers = [
            (200, r#"{"id":5,"kind":"rebalance","state":"running","percent":10}"#),
            (503, "{}"),
            (200, r#"{"id":5,"kind":"rebalance","state":"done"}"#),
        ];
        tokio::spawn(async move {
            for (status, body) in answers {
                let (mut stream, _) = listener.accept().await.expect("a question");
                let _ = stream.read(&mut [0; 1024]).await;
                let answer =
                    format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        let router = Router::at(address.to_string().parse().expect("address"), Duration::from_secs(10));
        let over = poll(&router, 5, &ProgressBar::hidden()).await.expect("over");
        assert_eq!(over.state, "done");
    }
}
