//! The `tercet` command; its verbs are in the library's `ctl`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tercet_node::ctl::main()
}
