//! Which followers an append does not wait for: those beyond the nearest set that satisfies class `city`, and, while something
//! of class `geo` is under way, one voter of each other site.
//!
//! Invariant: a voter is spare only while others, all of them prompt, satisfy the class together with the leader; without such
//! a set nobody is.

use super::{Class, Voter, satisfies};

/// Whether an append reaches class `city` without `target`: the leader and the prompt voters before it are enough. Voters of the
/// leader's site come first, then the topology's order.
#[must_use]
pub fn is_spare(voters: &[Voter], leader: u64, target: u64, is_prompt: impl Fn(u64) -> bool) -> bool {
    let Some(own) = voters.iter().find(|voter| voter.node_id == leader) else { return false };
    let near = voters.iter().filter(|voter| voter.site == own.site);
    let far = voters.iter().filter(|voter| voter.site != own.site);
    let mut holding = vec![own];
    for voter in near.chain(far).filter(|voter| voter.node_id != leader && is_prompt(voter.node_id)) {
        if voter.node_id == target {
            return false;
        }
        holding.push(voter);
        if satisfies(Class::City, voters, &holding) {
            return true;
        }
    }
    false
}

/// Whether class `geo` waits for `target`: it stands in another site than the leader, and no prompt voter of that site comes before
/// it in the topology's order.
#[must_use]
pub fn stands_for_its_site(
    voters: &[Voter],
    leader: u64,
    target: u64,
    is_prompt: impl Fn(u64) -> bool,
) -> bool {
    let of = |node| voters.iter().find(|voter| voter.node_id == node);
    let (Some(own), Some(asked)) = (of(leader), of(target)) else { return false };
    let mut before = voters.iter().take_while(|voter| voter.node_id != target);
    asked.site != own.site && !before.any(|voter| voter.site == asked.site && is_prompt(voter.node_id))
}
