//! CPU and memory of a process, from `/proc`.
//!
//! Units: seconds of all threads, in user space and in the kernel, at the kernel's tick (10 ms); resident bytes, page cache
//! not included.

use std::fs;

use anyhow::{Context, Result};
use serde::Serialize;

/// What a process has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct Usage {
    /// Since it was started.
    pub(crate) user_seconds: f64,
    /// Since it was started.
    pub(crate) system_seconds: f64,
    /// Now.
    pub(crate) resident_bytes: u64,
    /// At its highest.
    pub(crate) peak_bytes: u64,
}

impl Usage {
    /// Of a running process.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let read = |name: &str| {
            let path = format!("/proc/{pid}/{name}");
            fs::read_to_string(&path).context(path)
        };
        let (user_seconds, system_seconds) = parse_stat(&read("stat")?, ticks_per_second())
            .with_context(|| format!("/proc/{pid}/stat is not understood"))?;
        let status = read("status")?;
        let bytes =
            |field| parse_kib(&status, field).with_context(|| format!("/proc/{pid}/status has no {field}"));
        Ok(Self {
            user_seconds,
            system_seconds,
            resident_bytes: bytes("VmRSS")?,
            peak_bytes: bytes("VmHWM")?,
        })
    }

    /// CPU time since `earlier`, in seconds.
    pub(crate) fn cpu_seconds_since(&self, earlier: &Self) -> f64 {
        self.user_seconds + self.system_seconds - earlier.user_seconds - earlier.system_seconds
    }
}

#[expect(clippy::cast_precision_loss, reason = "the kernel's tick rate is a small number")]
fn ticks_per_second() -> f64 {
    rustix::param::clock_ticks_per_second() as f64
}

/// Fields 14 and 15, counted behind the command's name, which may hold blanks and parentheses.
fn parse_stat(stat: &str, ticks_per_second: f64) -> Option<(f64, f64)> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    let mut fields = behind_name.split_whitespace().skip(11);
    let mut seconds = || Some(fields.next()?.parse::<f64>().ok()? / ticks_per_second);
    Some((seconds()?, seconds()?))
}

fn parse_kib(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_any_name() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 9 0 100 0 0";
        assert_eq!(parse_stat(stat, 100.0), Some((2.5, 0.5)));
        assert_eq!(parse_stat("42 (x", 100.0), None);
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(parse_kib(status, "VmRSS"), Some(1 << 20));
        assert_eq!(parse_kib(status, "VmHWM"), Some(2 << 20));
        assert_eq!(parse_kib(status, "VmSwap"), None);
    }

    #[test]
    fn this_process_uses_something() {
        let before = Usage::of(std::process::id()).unwrap();
        let mut sum = 0_u64;
        while Usage::of(std::process::id()).unwrap().cpu_seconds_since(&before) < 0.02 {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(before.resident_bytes > 100_000 && before.peak_bytes >= before.resident_bytes);
    }
}
