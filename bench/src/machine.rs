//! What the figures were measured on.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

/// `statfs` type of a file system in memory.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// The machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Machine {
    /// CPUs that this process may use.
    pub(crate) cores: usize,
    /// As the kernel names it.
    pub(crate) cpu: String,
    /// Of the machine.
    pub(crate) memory_bytes: u64,
    /// Release.
    pub(crate) kernel: String,
    /// `x86_64`, `aarch64`
    pub(crate) architecture: String,
}

impl Machine {
    /// This one.
    pub(crate) fn this() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
        };
        let kib = field(&read("/proc/meminfo"), "MemTotal")
            .and_then(|value| value.strip_suffix("kB")?.trim().parse::<u64>().ok());
        let uname = rustix::system::uname();
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            cpu: field(&cpuinfo, "model name").unwrap_or_else(|| "unknown".into()),
            memory_bytes: kib.unwrap_or(0) * 1_024,
            kernel: uname.release().to_string_lossy().into_owned(),
            architecture: uname.machine().to_string_lossy().into_owned(),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cores, cpu, memory_bytes, kernel, architecture } = self;
        let gib = mebibytes(*memory_bytes) / 1_024.0;
        write!(f, "{cores} cores of {cpu}, {gib:.0} GiB, Linux {kernel}, {architecture}")
    }
}

/// Bytes for people.
#[expect(clippy::cast_precision_loss, reason = "a figure for people, not for sums")]
pub(crate) fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Whether a directory lies in memory, where a flush costs nothing and figures mean nothing.
pub(crate) fn is_in_memory(dir: &Path) -> Result<bool> {
    let stat = rustix::fs::statfs(dir).with_context(|| dir.display().to_string())?;
    Ok(stat.f_type == TMPFS_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_described() {
        let machine = Machine::this();
        assert!(machine.cores >= 1 && machine.memory_bytes > 1 << 20);
        assert!(!machine.kernel.is_empty());
        assert!(!is_in_memory(Path::new("/proc")).unwrap());
    }
}
