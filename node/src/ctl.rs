//! The `tercet` command: its verbs, and how they begin and end.
//!
//! | module | about |
//! |---|---|
//! | `serve` | one node |
//! | `dev` | the default cluster in one process, with a sample |
//! | `topology` | what a topology file survives |
//! | `status`, `transfer`, `member` | operating a cluster |
//! | `journal`, `append`, `read`, `balance` | using it |
//! | `verify` | recomputing a journal on every replica |
//! | `inspect` | a node's data directory, offline |
//! | `connect`, `exit`, `output`, `money` | what the verbs share |
//!
//! Invariants: data goes to standard output and everything else to standard error; every way to end has a documented exit
//! code ([`exit`]); verbs use the client library as any other client would, and nothing of a running node's inside.

mod append;
mod balance;
mod connect;
mod dev;
mod exit;
mod inspect;
mod journal;
mod member;
mod money;
mod output;
mod read;
mod rebuild;
mod serve;
mod status;
mod topology;
mod transfer;
mod verify;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use exit::{EXIT_CODES_HELP, Exit, Failure};

/// Names the environment variable with the filter of the log on standard error.
const LOG_VARIABLE: &str = "TERCET_LOG";

/// A replicated ledger store: two sites, three centers.
#[derive(Debug, Parser)]
#[command(
    name = "tercet",
    version,
    about,
    long_about = "A replicated ledger store: two sites, three centers.\n\n\
        Start with `tercet dev`: a whole cluster in one process, with a sample of real payments.\n\
        Data goes to standard output, everything else to standard error.",
    after_help = EXIT_CODES_HELP,
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Runs one node of a cluster
    Serve(serve::ServeArgs),
    /// Runs a whole cluster in this process and loads a sample of real payments
    Dev(dev::DevArgs),
    /// Checks topology files
    #[command(subcommand)]
    Topology(topology::TopologyCommand),
    /// Shows every node of the cluster
    Status(status::StatusArgs),
    /// Makes and shows journals
    #[command(subcommand)]
    Journal(journal::JournalCommand),
    /// Appends entries from NDJSON
    Append(append::AppendArgs),
    /// Writes a range of entries as NDJSON
    Read(read::ReadArgs),
    /// Writes entries as NDJSON as they are appended
    Tail(read::TailArgs),
    /// Shows the balances of a journal
    Balance(balance::BalanceArgs),
    /// Shows and changes which nodes belong to the cluster
    #[command(subcommand)]
    Member(member::MemberCommand),
    /// Moves a group's leadership to a node
    Transfer(transfer::TransferArgs),
    /// Recomputes a journal on every replica and compares them
    Verify(verify::VerifyArgs),
    /// Shows what is in a node's data directory, offline and read-only
    Inspect(inspect::InspectArgs),
}

impl Verb {
    /// Whether nodes run in this process: nothing may hold them up.
    const fn serves(&self) -> bool {
        matches!(self, Self::Serve(_) | Self::Dev(_))
    }

    /// What is logged unless `TERCET_LOG` says otherwise.
    const fn log_filter(&self) -> &'static str {
        match self {
            // A lost peer is an event of its own; openraft would warn of every heartbeat that misses it.
            Self::Serve(_) => "warn,openraft=error,tercet_node=info,tercet_storage=info",
            Self::Dev(_) => "error,tercet_node=warn,tercet_storage=warn",
            _ => "error",
        }
    }
}

/// A worker for each core, or what `TOKIO_WORKER_THREADS` says. With one worker nothing is ever stolen: a runtime that does not
/// provide for it wakes no other thread.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let one_worker = std::env::var("TOKIO_WORKER_THREADS").is_ok_and(|workers| workers.trim() == "1");
    let mut builder = if one_worker {
        tokio::runtime::Builder::new_current_thread()
    } else {
        tokio::runtime::Builder::new_multi_thread()
    };
    builder.enable_all().build()
}

/// Runs the `tercet` command with the process' arguments, and says what it ends with.
pub fn main() -> ExitCode {
    let verb = Cli::parse().verb;
    if verb.serves()
        && let Err(error) = crate::stderr::detach()
    {
        output::notice(&format!("tercet: standard error is written directly: {error}"));
    }
    start_log(verb.log_filter());
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::notice(&format!("tercet: cannot start: {error}"));
            return Exit::Failed.into();
        }
    };
    let result = runtime.block_on(Box::pin(run(verb)));
    // Whatever a verb left running (a read of standard input, a lookup) must not keep the process.
    runtime.shutdown_background();
    match result {
        Ok(()) => {
            crate::stderr::flush();
            ExitCode::SUCCESS
        }
        Err(failure) => {
            if failure.exit != Exit::OutputClosed {
                crate::stderr::say_last(&format!("tercet: {failure}"));
            }
            failure.exit.into()
        }
    }
}

async fn run(verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Serve(args) => serve::serve(args).await,
        Verb::Dev(args) => dev::dev(args).await,
        Verb::Topology(command) => topology::topology(&command),
        Verb::Status(args) => status::status(args).await,
        Verb::Journal(command) => journal::journal(command).await,
        Verb::Append(args) => append::append(args).await,
        Verb::Read(args) => read::read(args).await,
        Verb::Tail(args) => read::tail(args).await,
        Verb::Balance(args) => balance::balance(args).await,
        Verb::Transfer(args) => transfer::transfer(args).await,
        Verb::Member(command) => member::member(command).await,
        Verb::Verify(args) => verify::verify(args).await,
        Verb::Inspect(args) => inspect::inspect(&args),
    }
}

fn start_log(default: &str) {
    let filter = EnvFilter::try_from_env(LOG_VARIABLE).unwrap_or_else(|_| EnvFilter::new(default));
    let colours = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colours)
        .with_writer(crate::stderr::LogWriter);
    if let Err(error) = log.try_init() {
        output::notice(&format!("tercet: no log: {error}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_has_help_with_an_example() {
        fn check(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            if command.has_subcommands() {
                command.get_subcommands().for_each(check);
            } else {
                let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                let example = format!(" {} ", command.get_name());
                assert!(
                    help.starts_with("Examples:\n") && help.contains(example.trim_end()),
                    "{}",
                    command.get_name()
                );
            }
        }
        Cli::command().get_subcommands().for_each(check);
    }

    #[test]
    fn the_documented_command_lines_are_taken() {
        for line in [
            "serve --topology topology.toml --node a1 --data-dir d",
            "dev --once --data-dir d --base-port 8000 --link-delay west=15ms",
            "dev --topology topology.toml",
            "topology check topology.toml",
            "status --json --endpoint http://127.0.0.1:7202",
            "journal create j --currency CZK:2 --currency JPY:0 --class city --business-date 1999-01-04",
            "journal list",
            "journal show j",
            "append --journal j --file - --batch 100 --json",
            "read --journal j --from 1 --to 10 --local",
            "tail --journal j --from 7",
            "balance --journal j AB --json",
            "transfer --group 0 --to b1",
            "verify --journal j --allow-unreachable",
            "inspect data/dev/a1 --json",
        ] {
            let arguments = std::iter::once("tercet").chain(line.split(' '));
            Cli::try_parse_from(arguments).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }
}
