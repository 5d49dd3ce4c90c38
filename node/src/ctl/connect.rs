//! How verbs reach the cluster: the `--endpoint` argument, and clients for the cluster or for one node of it.
//!
//! Invariant: what is asked of one node is never answered by another: its client neither follows the leader nor tries
//! other endpoints.

use std::time::Duration;

use clap::Args;
use tercet_proto::client::{Client, ClientError, ClientOptions};

use super::exit::Failure;

/// Where the cluster is, for every verb that talks to one.
#[derive(Debug, Clone, Args)]
pub(crate) struct EndpointArgs {
    /// A node's client address; may be given several times or separated by commas
    #[arg(
        long = "endpoint",
        env = "TERCET_ENDPOINT",
        value_name = "URL",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:7201"
    )]
    endpoints: Vec<String>,
    /// Seconds until a request is given up, repetitions included
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    timeout: u64,
}

impl EndpointArgs {
    /// A client that follows the leader.
    ///
    /// # Errors
    /// An endpoint is malformed. Whether one is reachable shows with the first request.
    pub(crate) fn connect(&self) -> Result<Client, Failure> {
        let options =
            ClientOptions { deadline: Duration::from_secs(self.timeout), ..ClientOptions::default() };
        Ok(Client::connect(self.endpoints.clone(), options)?)
    }
}

/// A client for the node at `endpoint` alone; a request is given up after `deadline`.
///
/// # Errors
/// The endpoint is malformed.
pub(crate) fn connect_to(endpoint: String, deadline: Duration) -> Result<Client, ClientError> {
    let options = ClientOptions { deadline, follow_leader: false, ..ClientOptions::default() };
    Client::connect(vec![endpoint], options)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Verb {
        #[command(flatten)]
        endpoint: EndpointArgs,
    }

    #[test]
    fn endpoints_are_repeated_or_separated_by_commas() {
        let parsed = |args: &[&str]| Verb::parse_from(args).endpoint.endpoints;
        assert_eq!(parsed(&["verb", "--endpoint", "http://h:1,h:2"]), ["http://h:1", "h:2"]);
        assert_eq!(parsed(&["verb", "--endpoint", "h:1", "--endpoint", "h:2"]), ["h:1", "h:2"]);
        assert!(Verb::try_parse_from(["verb", "--timeout", "0"]).is_err());
    }
}
