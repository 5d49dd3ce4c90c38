//! The `tercet` command; its verbs are in the library's `ctl`.

use std::process::ExitCode;

/// An append allocates some hundred small pieces on the leader; this allocator halves what that costs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tercet_node::ctl::main()
}
