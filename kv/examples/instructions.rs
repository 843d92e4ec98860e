//! Goes one hot path so many times and does nothing else, for `scripts/instructions.sh` to count the instructions.
//!
//! ```text
//! instructions                 the names of the paths
//! instructions NAME TIMES      goes one
//! ```

use std::process::ExitCode;

#[path = "../benches/workloads/mod.rs"]
mod workloads;

// The allocator of the programs; the C library's would differ from one machine to the next.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let workloads = workloads::all();
    match args.as_slice() {
        [] => {
            for workload in &workloads {
                println!("{}", workload.name);
            }
            ExitCode::SUCCESS
        }
        [name, times] => {
            let found = workloads.iter().find(|workload| workload.name == name);
            let (Some(workload), Ok(times)) = (found, times.parse::<u32>()) else { return usage() };
            for _ in 0..times {
                (workload.run)();
            }
            ExitCode::SUCCESS
        }
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: instructions [NAME TIMES]");
    ExitCode::from(64)
}
