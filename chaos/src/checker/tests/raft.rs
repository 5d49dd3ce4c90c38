//! Leaders, terms, votes and progress as nodes tell of them.

use super::*;

#[test]
fn two_leaders_and_falling_terms_are_caught() {
    let mut two = truth();
    two.observe(110, "b1", 2, "leader");
    assert_eq!(violated(&two), ["leaders"]);
    let mut falls = truth();
    falls.observe(110, "b1", 1, "follower");
    assert_eq!(violated(&falls), ["leaders"]);
}

#[test]
fn what_falls_between_starts_is_caught_and_what_a_restart_forgets_is_not() {
    let with = |start: u64, committed: u64, applied: u64| {
        move |forge: &mut Forge| {
            forge.observe(start * 1_000 + committed, "b1", 2, "follower");
            let Some(Line::Observe(seen)) = forge.lines.last_mut() else { panic!() };
            (seen.start, seen.committed, seen.applied) = (start, committed, applied);
        }
    };
    let mut forge = truth();
    with(1, 10, 9)(&mut forge);
    with(2, 4, 9)(&mut forge);
    with(2, 12, 12)(&mut forge);
    assert!(forge.judge().pass, "a start begins with what is known to be committed then");
    for (committed, applied) in [(11, 12), (12, 11)] {
        let mut falls = truth();
        falls.lines.clone_from(&forge.lines);
        with(2, committed, applied)(&mut falls);
        assert_eq!(violated(&falls), ["leaders"]);
    }
}

#[test]
fn votes_that_go_back_are_caught() {
    let mut forge = truth();
    for (term, for_node, committed) in
        [(1, 1, false), (1, 1, true), (3, 2, false), (3, 2, true), (4, 3, false)]
    {
        forge.vote("a1", term, for_node, committed);
        forge.vote("b1", term, for_node, false);
    }
    assert!(forge.judge().pass, "{:#?}", forge.judge().violations);
    for (node, term, for_node, committed, why) in [
        ("a1", 3, 2, true, "after one of"),
        ("a1", 4, 5, false, "then for node 5"),
        ("a1", 4, 5, true, ""),
        ("b1", 4, 3, false, ""),
        ("b1", 5, 1, true, ""),
    ] {
        let mut other = truth();
        other.lines.clone_from(&forge.lines);
        other.vote(node, term, for_node, committed);
        if why.is_empty() {
            assert!(other.judge().pass);
        } else {
            assert_eq!(violated(&other), ["votes"]);
            assert!(other.judge().violations[0].messages[0].contains(why), "{why}");
        }
    }
    forge.vote("b1", 5, 1, true);
    forge.vote("b1", 5, 1, false);
    forge.vote("a1", 5, 2, true);
    let judgement = forge.judge();
    assert_eq!(judgement.violations[0].count, 2, "forgot who had won; two winners: {judgement:#?}");
}
