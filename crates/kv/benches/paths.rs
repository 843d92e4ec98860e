//! Benchmarks of the hot paths of the data model.

use criterion::Criterion;

mod workloads;

// The allocator used by the RaftKV processes.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for workload in workloads::all() {
        criterion.bench_function(&format!("kv/{}", workload.name), |bencher| bencher.iter(&workload.run));
    }
    criterion.final_summary();
}
