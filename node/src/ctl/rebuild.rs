//! Shows how a node that has just started rebuilds its state from the log.
//!
//! Invariants: silent when there is nothing to rebuild, or when it is done before anybody would wonder; like everything that a
//! serving process says, it waits for nobody who reads it (so it is no bar, which would write by itself).

use std::io::IsTerminal;
use std::time::Duration;

use super::output::notice;
use crate::server::Server;
use crate::stderr;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// A rebuild that is over sooner is not shown.
const SHOWN_AFTER: u32 = 3;
/// Looks between two lines where there is no terminal.
const LOOKS_A_LINE: u32 = 20;
/// Begins the line anew and clears it, on a terminal.
const SAME_LINE: &str = "\r\x1b[2K";

/// Shows the progress on standard error, in one line on a terminal and as lines elsewhere, until the state is rebuilt.
pub(crate) async fn show_rebuild(server: &Server) {
    let is_terminal = std::io::stderr().is_terminal();
    let mut looks = 0_u32;
    let mut is_shown = false;
    while let Some((applied, goal)) = server.rebuilding() {
        looks += 1;
        let line = format!(
            "tercet: node {}: rebuilding the state from the log: {applied} of {goal} proposals",
            server.node()
        );
        if is_terminal && looks > SHOWN_AFTER {
            is_shown = true;
            stderr::write(format!("{SAME_LINE}{line}").as_bytes());
        } else if looks % LOOKS_A_LINE == SHOWN_AFTER {
            is_shown = true;
            notice(&line);
        }
        tokio::time::sleep(LOOK).await;
    }
    if is_shown {
        let begin = if is_terminal { SAME_LINE } else { "" };
        notice(&format!("{begin}tercet: node {}: the state is rebuilt", server.node()));
    }
}
