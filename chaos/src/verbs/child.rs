//! `tercet-chaos child`: becomes another program, and ends when the parent does.

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context, Result, bail};
use tercet_chaos::cluster::child::become_child;
use tercet_chaos::report::Verdict;

#[derive(clap::Args)]
pub(crate) struct ChildArgs {
    #[arg(long)]
    parent: u32,
    #[arg(required = true, last = true)]
    command: Vec<OsString>,
}

pub(crate) fn be_child(args: &ChildArgs) -> Result<Verdict> {
    let Some((program, arguments)) = args.command.split_first() else { bail!("no program") };
    let error = become_child(args.parent, Path::new(program), arguments);
    Err(error).with_context(|| program.to_string_lossy().into_owned())
}
