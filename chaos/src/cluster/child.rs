//! Child processes that never outlive the harness.
//!
//! A child is started through this program itself (`tercet-chaos child`), which asks the kernel to be killed when its
//! parent dies, then becomes the wanted program. The wish survives the exec, so `kill -9` of the harness leaves nothing
//! behind, stopped (SIGSTOP) children included. The kernel means the parent *thread*, therefore one thread that lives as
//! long as the cluster starts them all. Beyond that, dropping a [`Child`] kills and reaps it.
//!
//! Limit: what a child itself starts is not covered; `tercet serve` starts nothing.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

/// The hidden subcommand that [`become_child`] serves.
pub const CHILD_COMMAND: &str = "child";

/// How often an ending process is looked at.
const POLL: Duration = Duration::from_millis(10);

/// Ties this process to its parent, then replaces it by `program`. Returns only on failure.
///
/// # Errors
/// The kernel refuses, the parent is gone already, or the program cannot be executed.
pub fn become_child(parent: u32, program: &Path, arguments: &[OsString]) -> io::Error {
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        return error.into();
    }
    // The parent may have died before the kernel was asked.
    let now = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
    if now.and_then(|pid| u32::try_from(pid).ok()) != Some(parent) {
        return io::Error::other("the parent process is gone");
    }
    Command::new(program).args(arguments).exec()
}

/// Starts children, all from one thread. Children must be gone before it is dropped, else the kernel ends them.
#[derive(Debug)]
pub struct Nursery {
    launcher: PathBuf,
    orders: Option<mpsc::Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

struct Order {
    command: Command,
    answer: mpsc::Sender<io::Result<std::process::Child>>,
}

impl Nursery {
    /// `launcher`: the `tercet-chaos` executable.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn new(launcher: PathBuf) -> io::Result<Self> {
        let (orders, arriving) = mpsc::channel::<Order>();
        let thread = std::thread::Builder::new().name("nursery".into()).spawn(move || {
            for mut order in arriving {
                let child = order.command.spawn();
                if let Err(mpsc::SendError(Ok(mut child))) = order.answer.send(child) {
                    // Nobody waits for it; its end is all that is wanted.
                    let _ = child.kill();
                    let _ = child.wait();
                }
            }
        })?;
        Ok(Self { launcher, orders: Some(orders), thread: Some(thread) })
    }

    /// Starts `program`; its output is appended to `log`.
    ///
    /// # Errors
    /// The log cannot be opened, or the process cannot be started.
    pub fn start(
        &self,
        name: &str,
        program: &Path,
        arguments: &[OsString],
        environment: &[(&str, String)],
        log: &Path,
    ) -> io::Result<Child> {
        let log_file = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
        let mut command = Command::new(&self.launcher);
        command
            .args([CHILD_COMMAND, "--parent", &std::process::id().to_string(), "--"])
            .arg(program)
            .args(arguments)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log_file.try_clone()?)
            .stderr(log_file);
        let (answer, answered) = mpsc::channel();
        let gone = || io::Error::other("the thread that starts processes is gone");
        self.orders.as_ref().ok_or_else(gone)?.send(Order { command, answer }).map_err(|_| gone())?;
        let process = answered.recv().map_err(|_| gone())??;
        Ok(Child { name: name.to_owned(), process, ended: None })
    }
}

impl Drop for Nursery {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed already.
            let _ = thread.join();
        }
    }
}

/// A running or ended child. Dropping it kills it.
#[derive(Debug)]
pub struct Child {
    name: String,
    process: std::process::Child,
    ended: Option<ExitStatus>,
}

impl Child {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// The system does not say.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.process.try_wait()?;
        }
        Ok(self.ended)
    }

    /// SIGKILL, without waiting for the end.
    ///
    /// # Errors
    /// The system refuses.
    pub fn begin_kill(&mut self) -> io::Result<()> {
        if self.ended()?.is_none() { self.process.kill() } else { Ok(()) }
    }

    /// SIGKILL, and waits for the end.
    ///
    /// # Errors
    /// The system refuses.
    pub fn kill(&mut self) -> io::Result<()> {
        if self.ended()?.is_none() {
            self.process.kill()?;
            self.ended = Some(self.process.wait()?);
        }
        Ok(())
    }

    /// SIGSTOP.
    ///
    /// # Errors
    /// It has ended, or the system refuses.
    pub fn pause(&mut self) -> io::Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// It has ended, or the system refuses.
    pub fn resume(&mut self) -> io::Result<()> {
        self.signal(Signal::CONT)
    }

    /// SIGTERM, without waiting for what comes of it.
    ///
    /// # Errors
    /// It has ended, or the system refuses.
    pub fn terminate(&mut self) -> io::Result<()> {
        self.signal(Signal::TERM)
    }

    /// Waits for its end; SIGKILL if it has not come within `patience`. Returns how it ended.
    ///
    /// # Errors
    /// The system refuses.
    pub fn wait_or_kill(&mut self, patience: Duration) -> io::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + patience;
        while self.ended()?.is_none() && Instant::now() < deadline {
            std::thread::sleep(POLL);
        }
        self.kill()?;
        Ok(self.ended)
    }

    fn signal(&mut self, signal: Signal) -> io::Result<()> {
        // Not reaped yet, so the id is still this process's.
        if let Some(status) = self.ended()? {
            return Err(io::Error::other(format!("{} has ended: {}", self.name, describe(status))));
        }
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("no process id"))?;
        Ok(rustix::process::kill_process(pid, signal)?)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            tracing::error!(name = self.name, pid = self.pid(), %error, "a process could not be killed");
        }
    }
}

/// An end in words.
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "unknown status".into(),
    }
}
