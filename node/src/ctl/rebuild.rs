//! Shows how a node that has just started rebuilds its state from the log.
//!
//! Invariant: silent when there is nothing to rebuild, or when it is done before anybody would wonder.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::output::notice;
use crate::server::Server;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// A rebuild that is over sooner is not shown.
const SHOWN_AFTER: u32 = 3;
/// Looks between two lines where there is no terminal.
const LOOKS_A_LINE: u32 = 20;

/// Shows the progress on standard error, as a bar on a terminal and as lines elsewhere, until the state is rebuilt.
pub(crate) async fn show_rebuild(server: &Server) {
    let mut bar = None;
    let mut looks = 0_u32;
    let mut is_shown = false;
    while let Some((applied, goal)) = server.rebuilding() {
        looks += 1;
        if looks > SHOWN_AFTER && std::io::stderr().is_terminal() {
            let bar = bar.get_or_insert_with(|| new_bar(server.node()));
            bar.set_length(goal);
            bar.set_position(applied);
        } else if looks % LOOKS_A_LINE == SHOWN_AFTER {
            is_shown = true;
            notice(&format!(
                "tercet: node {}: rebuilding the state from the log: {applied} of {goal} proposals",
                server.node()
            ));
        }
        tokio::time::sleep(LOOK).await;
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
        is_shown = true;
    }
    if is_shown {
        notice(&format!("tercet: node {}: the state is rebuilt", server.node()));
    }
}

fn new_bar(node: &str) -> ProgressBar {
    let bar = ProgressBar::new(0);
    // The template is a literal that is known to parse; the default style will do otherwise.
    if let Ok(style) = ProgressStyle::with_template("{msg} [{wide_bar}] {pos}/{len} {eta}") {
        bar.set_style(style);
    }
    bar.set_message(format!("tercet: node {node}: rebuilding the state from the log"));
    bar
}
