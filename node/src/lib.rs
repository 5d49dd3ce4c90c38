//! The Tercet node: what one server process of the cluster is made of, in the order of an append's path.
//!
//! | module | about |
//! |---|---|
//! | [`identity`], [`server`], [`node`], [`groups`] | a data directory's owner; wiring a node; what its services share |
//! | [`rpc`] | gRPC services, statuses, forwarding |
//! | [`doors`] | who comes in through the ports, and how much each may make a node hold |
//! | [`admission`], [`descriptors`] | bounded work; how many files may be open |
//! | [`room`], [`ballast`] | a disk that is nearly full or stands still; room for a start on a full one |
//! | [`raft`] | openraft over the segment log, the network, the proposer and the placement gate |
//! | [`ledger`] | journals, keys, hashes, balances: pure |
//! | [`placement`] | durability classes: pure |
//! | [`reader`], [`keys`] | entries by position; the ledger's view of the index |
//! | [`regime`], [`exposure`], [`proof`] | telling of the remote site's regime; what a loss would mean now; what the remote site can prove |
//! | [`controller`] | forming the cluster, the registry of nodes |
//! | [`repair`], [`scrub`] | what rot took is asked of the peers; looking for rot |
//! | [`telemetry`], [`stderr`] | metrics; a log that nobody waits for |
//! | [`ctl`] | the verbs of the `tercet` command |
//! | [`loopback`], [`relay`] | addresses and delayed links for clusters on one machine: tests, benchmarks, chaos |

pub mod admission;
pub mod ballast;
pub mod controller;
pub mod ctl;
pub mod descriptors;
pub mod doors;
pub mod exposure;
pub mod groups;
pub mod identity;
pub mod keys;
pub mod ledger;
pub mod loopback;
pub mod node;
pub mod placement;
pub mod proof;
pub mod raft;
pub mod reader;
pub mod regime;
pub mod relay;
pub mod repair;
pub mod room;
pub mod rpc;
pub mod scrub;
pub mod server;
pub mod stderr;
pub mod telemetry;
