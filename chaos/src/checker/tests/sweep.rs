//! The sweep against the definition: all orders of small histories.

use proptest::prelude::*;

use super::*;

/// What a generated operation is, with its place in the order of effects.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Append,
    /// Took effect, but was never answered.
    Unknown,
    Read,
}

#[derive(Debug, Clone)]
struct Planned {
    kind: Kind,
    invoked: u64,
    returned: u64,
}

fn planned() -> impl Strategy<Value = Planned> {
    let kind = prop_oneof![3 => Just(Kind::Append), 1 => Just(Kind::Unknown), 2 => Just(Kind::Read)];
    (kind, 0_u64..40, 0_u64..20).prop_map(|(kind, invoked, lasts)| Planned {
        kind,
        invoked,
        returned: invoked + lasts,
    })
}

/// Whether some order of the operations is a ledger's and never puts an operation before one that had returned before it
/// was invoked. Tries all orders: the definition, not the sweep.
fn linearizable(plan: &[Planned], places: &[u64]) -> bool {
    fn search(plan: &[Planned], places: &[u64], done: &mut Vec<usize>, length: u64) -> bool {
        if done.len() == plan.len() {
            return true;
        }
        for next in 0..plan.len() {
            if done.contains(&next) {
                continue;
            }
            let too_early = (0..plan.len()).any(|other| {
                let answered = !matches!(plan[other].kind, Kind::Unknown);
                other != next
                    && !done.contains(&other)
                    && answered
                    && plan[other].returned < plan[next].invoked
            });
            let fits = match plan[next].kind {
                Kind::Read => places[next] == length,
                Kind::Append | Kind::Unknown => places[next] == length + 1,
            };
            if too_early || !fits {
                continue;
            }
            done.push(next);
            let grown = if matches!(plan[next].kind, Kind::Read) { length } else { length + 1 };
            if search(plan, places, done, grown) {
                return true;
            }
            done.pop();
        }
        false
    }
    search(plan, places, &mut Vec::new(), 0)
}

fn forge_plan(plan: &[Planned], places: &[u64]) -> Forge {
    let mut forge = Forge::new();
    let mut appends: Vec<usize> =
        (0..plan.len()).filter(|at| !matches!(plan[*at].kind, Kind::Read)).collect();
    appends.sort_by_key(|at| places[*at]);
    for at in appends {
        let (op, key) = (at as u64 + 1, format!("k{at}"));
        match plan[at].kind {
            Kind::Append => forge.append(op, plan[at].invoked, plan[at].returned, &key),
            _ => forge.unknown(op, plan[at].invoked, Some(plan[at].returned), &key, true),
        }
    }
    for (at, planned) in plan.iter().enumerate() {
        if matches!(planned.kind, Kind::Read) {
            forge.read(at as u64 + 1, planned.invoked, planned.returned, places[at]);
        }
    }
    // The verdict must not depend on the order of the lines.
    forge.lines.sort_by_key(|line| match line {
        Line::Header(_) => (0, 0),
        Line::Invoke { t, .. } => (t + 1, 0),
        Line::Return { t, .. } => (t + 1, 1),
        _ => (u64::MAX, 0),
    });
    forge
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    /// Exact: the sweep accepts exactly the histories for which an order exists.
    #[test]
    fn the_sweep_agrees_with_the_definition(
        plan in proptest::collection::vec(planned(), 1..7),
        shuffle in proptest::collection::vec(0_usize..100, 8),
        reads in proptest::collection::vec(0_u64..100, 8),
    ) {
        let mut appends: Vec<usize> =
            (0..plan.len()).filter(|at| !matches!(plan[*at].kind, Kind::Read)).collect();
        // Mostly in the order of their invocations, so that many histories are valid.
        appends.sort_by_key(|at| (plan[*at].invoked + shuffle[*at] as u64 % 15, *at));
        let mut places = vec![0; plan.len()];
        for (seq, at) in (1..).zip(&appends) {
            places[*at] = seq;
        }
        for (at, planned) in plan.iter().enumerate() {
            if matches!(planned.kind, Kind::Read) {
                places[at] = reads[at] % (appends.len() as u64 + 1);
            }
        }
        let expected = linearizable(&plan, &places);
        let judgement = forge_plan(&plan, &places).judge();
        prop_assert_eq!(judgement.pass, expected, "{:#?} at {:?}: {:#?}", plan, places, judgement.violations);
    }
}
