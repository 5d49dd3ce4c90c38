//! `tercet transfer`: moves a group's leadership on purpose.

use clap::Args;
use serde_json::json;

use super::connect::EndpointArgs;
use super::exit::Failure;
use super::output::print;

/// Arguments of `tercet transfer`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tercet transfer --to b1
  tercet transfer --group 1 --to a2

The leader refuses a node that is down, lags or may not lead (exit code 3); leadership is then where it was.")]
pub(crate) struct TransferArgs {
    #[command(flatten)]
    endpoint: EndpointArgs,
    /// The group
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    group: u32,
    /// The node that shall lead
    #[arg(long, value_name = "NODE")]
    to: String,
    /// Prints one JSON object
    #[arg(long)]
    json: bool,
}

/// Moves leadership.
///
/// # Errors
/// What the cluster refused, or why it cannot be reached.
pub(crate) async fn transfer(args: TransferArgs) -> Result<(), Failure> {
    let client = args.endpoint.connect()?;
    let moved = client.transfer_leader(args.group, &args.to).await?;
    if args.json {
        return print(
            &json!({ "group": args.group, "leader": moved.leader, "term": moved.term }).to_string(),
        );
    }
    print(&format!("group {}: led by {} in term {}", args.group, moved.leader, moved.term))
}
