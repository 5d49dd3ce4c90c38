//! Namespaces of the harness's own, for faults that need more than a process may do: mounts for the nodes' disks, a network
//! in which packets can be dropped.
//!
//! Invariants: this program *becomes* the one in the namespaces, so there is no second process that could be left; what is
//! made inside (mounts, addresses, rules) ends with the last process inside, however that ends.

use std::ffi::OsStr;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// Set in the environment of a harness that is inside.
const INSIDE: &str = "TERCET_CHAOS_NAMESPACES";

/// Which namespaces a run needs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    /// Mounts of its own; needs root.
    pub mounts: bool,
    /// A network of its own; needs no root where users may make namespaces.
    pub network: bool,
}

impl Needs {
    /// Whether the run can be done as it is.
    pub fn nothing(self) -> bool {
        self == Self::default()
    }

    fn arguments(self) -> Vec<&'static str> {
        let mut arguments = Vec::new();
        if self.network {
            arguments.push("--net");
            if !self.mounts && !rustix::process::geteuid().is_root() {
                arguments.extend(["--user", "--map-root-user"]);
            }
        }
        if self.mounts {
            arguments.extend(["--mount", "--propagation", "private"]);
        }
        arguments.push("--");
        arguments
    }

    /// Why these namespaces cannot be had here; none: they can.
    pub fn why_not(self) -> Option<String> {
        let tried = Command::new("unshare").args(self.arguments()).arg("true").stdin(Stdio::null()).output();
        match tried {
            Ok(output) if output.status.success() => None,
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                Some(format!("no namespaces of its own: {said}"))
            }
            Err(error) => Some(format!("no namespaces of its own: unshare: {error}")),
        }
    }
}

/// Whether this process is inside.
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Becomes this very command again, inside. Returns only on failure.
///
/// # Errors
/// It cannot be executed.
pub fn enter(needs: Needs) -> io::Error {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return error,
    };
    let error = Command::new("unshare")
        .args(needs.arguments())
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .exec();
    io::Error::new(error.kind(), format!("unshare: {error}"))
}

/// Runs a tool to its end.
///
/// # Errors
/// It cannot be started, or fails; with what it said.
pub(crate) fn run(program: &str, arguments: &[&OsStr]) -> io::Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| io::Error::new(error.kind(), format!("{program}: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{program}: {}: {}", output.status, said.trim())))
}
