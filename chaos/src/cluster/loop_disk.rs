//! A disk for one node whose power can be cut: an ext4 file system of its own in an image file, on a loop device.
//!
//! Cutting the power is the file system's own shutdown (`EXT4_IOC_SHUTDOWN`, without flushing its journal): from that
//! instant on every write and flush of it fails, and what was not on the device is gone. Making and mounting needs root.
//!
//! A stall is a freeze (`FIFREEZE`): what is written meanwhile waits, and is done when the file system thaws.
//!
//! Invariants: mounts are made in a mount namespace of the harness's own ([`super::namespace`]), so that they end with it,
//! however it ends; the loop device goes with its mount; who freezes also thaws, without the harness.

use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::FallocateFlags;

use super::namespace::run;

/// How long a killed process may keep its file system busy.
const UNMOUNT_PATIENCE: Duration = Duration::from_secs(20);
/// `EXT4_IOC_SHUTDOWN` of <linux/fs.h> with `EXT4_GOING_FLAGS_NOLOGFLUSH`, for where xfs_io is not installed.
const SHUTDOWN_IN_PERL: &str = "open(my $dir, '<', $ARGV[0]) or die $!; my $flags = pack('L', 2); ioctl($dir, 0x8004587d, $flags) or die $!;";

/// Freezes $1 for $2 seconds.
const STALL: &str = "fsfreeze --freeze \"$1\" || exit 1; sleep \"$2\"; fsfreeze --unfreeze \"$1\"";

/// One node's disk.
#[derive(Debug)]
pub(crate) struct LoopDisk {
    image: PathBuf,
    mount: PathBuf,
}

impl LoopDisk {
    /// Makes an image of so many MiB beside `mount`, and mounts it there.
    ///
    /// # Errors
    /// No rights, no room, or no mkfs.ext4.
    pub(crate) fn make(mount: &Path, mib: u64) -> io::Result<Self> {
        std::fs::create_dir_all(mount)?;
        let image = mount.with_extension("img");
        std::fs::File::create(&image)?.set_len(mib << 20)?;
        run("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), image.as_os_str()])?;
        let disk = Self { image, mount: mount.to_path_buf() };
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&self) -> io::Result<()> {
        run("mount", &["-o".as_ref(), "loop".as_ref(), self.image.as_os_str(), self.mount.as_os_str()])
    }

    /// Begins to cut the power; the file system is down when the returned child has ended.
    ///
    /// # Errors
    /// Neither xfs_io nor perl can be started.
    pub(crate) fn begin_cut(&self) -> io::Result<std::process::Child> {
        let quiet = |command: &mut Command| {
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
        };
        match quiet(Command::new("xfs_io").args(["-x", "-c", "shutdown"]).arg(&self.mount)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                quiet(Command::new("perl").args(["-e", SHUTDOWN_IN_PERL]).arg(&self.mount))
            }
            begun => begun,
        }
    }

    /// Freezes the file system for so long. The returned child thaws it again and ends then, with or without the harness: a
    /// frozen file system would outlive its mounts.
    ///
    /// # Errors
    /// No shell.
    pub(crate) fn begin_stall(&self, lasts: Duration) -> io::Result<std::process::Child> {
        Command::new("sh")
            .args(["-c", STALL, "sh"])
            .arg(&self.mount)
            .arg(format!("{:.3}", lasts.as_secs_f64()))
            .stdin(Stdio::null())
            .spawn()
    }

    /// Leaves no free byte.
    ///
    /// # Errors
    /// The ballast cannot be written.
    pub(crate) fn fill(&self) -> io::Result<()> {
        let mut ballast = std::fs::File::create(self.ballast())?;
        // All but the rest is allocated, which takes no time; with five disks on one, writing it would.
        let mut offset = 0;
        for piece in [64_u64 << 20, 1 << 20] {
            while rustix::fs::fallocate(&ballast, FallocateFlags::empty(), offset, piece).is_ok() {
                offset += piece;
            }
        }
        ballast.seek(SeekFrom::Start(offset))?;
        let chunk = vec![0x5a; 1 << 20];
        loop {
            match ballast.write_all(&chunk) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => return ballast.sync_all(),
                Err(error) => return Err(error),
            }
        }
    }

    /// Frees what [`LoopDisk::fill`] took.
    ///
    /// # Errors
    /// The ballast cannot be removed.
    pub(crate) fn free(&self) -> io::Result<()> {
        std::fs::remove_file(self.ballast())
    }

    fn ballast(&self) -> PathBuf {
        self.mount.join("ballast")
    }

    /// Power again: what was on the device is mounted anew, its journal replayed. The node must have ended.
    ///
    /// # Errors
    /// It cannot be unmounted in time, or not mounted.
    pub(crate) fn restore(&self) -> io::Result<()> {
        let deadline = Instant::now() + UNMOUNT_PATIENCE;
        while let Err(error) = run("umount", &[self.mount.as_os_str()]) {
            if Instant::now() >= deadline {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        self.mount()
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        // Lazily: a process that is being killed may still hold it. Otherwise the namespace's end does it.
        if let Err(error) = run("umount", &["--lazy".as_ref(), self.mount.as_os_str()]) {
            tracing::warn!(mount = %self.mount.display(), %error, "not unmounted");
        }
    }
}

/// Why no such disk can be made here; none: it can.
pub fn why_not(scratch: &Path) -> Option<String> {
    let probe = scratch.join("probe");
    let tried = LoopDisk::make(&probe, 16).and_then(|disk| {
        std::fs::remove_file(&disk.image)?;
        let cut = disk.begin_cut()?.wait()?;
        if cut.success() { Ok(()) } else { Err(io::Error::other(format!("its shutdown: {cut}"))) }
    });
    // Whether it is there or not, the probe's directory is of no use any more.
    let _ = std::fs::remove_dir(&probe);
    tried.err().map(|error| format!("a file system of each node's own cannot be made here: {error}"))
}
