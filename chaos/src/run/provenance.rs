//! What was tested: the executable by its bytes, the sources by their commit.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use tercet_proto::canonical::sha256;

use crate::history::Hash32;

/// The commit of the working directory, with a word if it was changed since; `unknown` where there is no git.
pub(super) fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output =
            Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
        String::from_utf8(output.stdout).ok().map(|text| text.trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "HEAD"]) else { return "unknown".to_owned() };
    match git(&["status", "--porcelain", "--untracked-files=no"]) {
        Some(changes) if changes.is_empty() => commit,
        _ => commit + ", changed",
    }
}

/// SHA-256 of a file.
pub(super) fn executable(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    Ok(Hash32(sha256(&bytes)).to_string())
}
