//! Times of the data model's hot paths.

use criterion::Criterion;

mod workloads;

// The allocator of the programs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for workload in workloads::all() {
        criterion.bench_function(&format!("kv/{}", workload.name), |bencher| bencher.iter(&workload.run));
    }
    criterion.final_summary();
}
