//! The `tercet` command; its verbs are in the library's `ctl`.

use std::process::ExitCode;

/// An append allocates many small pieces on the leader. What this gained was measured with other changes only: bench/README.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tercet_node::ctl::main()
}
