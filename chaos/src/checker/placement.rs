//! What receipts say of an entry's placement is true in the end, and no weaker than what was asked for unless it is marked
//! degraded: an entry that was acknowledged as `city` is on replicas of two zones, one that was acknowledged as `geo` and not
//! degraded on a replica of every site, and every zone that the receipt names holds it. Zones and sites of which no replica
//! is left are excused; whether the entry is there at all is `acknowledged`'s.
//!
//! The zones that a receipt names must by themselves show the class that it says was reached: two zones, or every site. A leader that
//! has just been elected may know from the log that an entry is placed, and not yet where; its receipts say so (`inherited`), and
//! name at least some of the zones, perhaps none.
//!
//! Judged only where receipts attest something and the header says where nodes stand.

use std::collections::BTreeSet;

use tercet_proto::canonical::EntryView;

use super::{Evidence, Findings};
use crate::history::{Attested, Call, Class, FinalLog, Place, Places};

/// Fewest zones of class `city`.
const CITY_ZONES: usize = 2;

pub(super) fn check(evidence: &Evidence<'_>, findings: &mut Findings) {
    let places = &evidence.history.header.places;
    if places.is_empty() {
        return;
    }
    let logs: Vec<Held<'_>> = evidence.finals.iter().map(|log| Held::new(log, places)).collect();
    let zones_left: BTreeSet<&String> = logs.iter().flat_map(|log| &log.zones).collect();
    let sites_left: BTreeSet<&String> = logs.iter().flat_map(|log| &log.sites).collect();
    for attempts in evidence.attempts_by_key() {
        for attempt in &attempts.all {
            let Some((receipt, attested)) =
                attempt.receipt.and_then(|receipt| Some((receipt, receipt.attested.as_ref()?)))
            else {
                continue;
            };
            let who = format!(
                "key {:?}, acknowledged by operation {} as {:?}",
                attempts.key,
                attempt.operation.op,
                attested.reliable()
            );
            if let Call::Append { class: Some(asked), .. } = &attempt.operation.call
                && attested.class < *asked
                && !attested.degraded
            {
                findings.add(format!("{who}: it had asked for {asked:?}, and is not marked degraded"));
            }
            if let Some(missing) = too_weak(attested, places) {
                findings
                    .add(format!("{who}: its receipt says {:?} and names {missing}", attested.reliable()));
            }
            let holders = || logs.iter().filter(|log| log.keys.contains(receipt.key.as_str()));
            if holders().next().is_none() {
                continue;
            }
            let zones: BTreeSet<&String> = holders().flat_map(|log| &log.zones).collect();
            if zones.len() < CITY_ZONES.min(zones_left.len()) {
                findings.add(format!("{who}, is on replicas of {zones:?} only"));
            }
            let known = |zone: &String| places.values().any(|place| place.zone == *zone);
            let untrue =
                |zone: &&String| !known(zone) || (zones_left.contains(zone) && !zones.contains(zone));
            if let Some(zone) = attested.zones.iter().find(untrue) {
                findings.add(format!("{who}: its receipt names zone {zone:?}, where no replica has it"));
            }
            let sites: BTreeSet<&String> = holders().flat_map(|log| &log.sites).collect();
            if attested.reliable() == Class::Geo && sites.len() < sites_left.len() {
                findings.add(format!("{who}, is on replicas in {sites:?} only"));
            }
        }
    }
}

/// What the named zones lack of the class that the receipt says was reached.
fn too_weak(attested: &Attested, places: &Places) -> Option<String> {
    if attested.inherited {
        return None;
    }
    let named = |place: &&Place| attested.zones.contains(&place.zone);
    let zones =
        |all: &mut dyn Iterator<Item = &Place>| all.map(|place| place.zone.clone()).collect::<BTreeSet<_>>();
    let sites =
        |all: &mut dyn Iterator<Item = &Place>| all.map(|place| place.site.clone()).collect::<BTreeSet<_>>();
    let there_are = zones(&mut places.values()).len();
    let (held, reached) =
        (zones(&mut places.values().filter(named)), sites(&mut places.values().filter(named)));
    if held.len() < CITY_ZONES.min(there_are) {
        return Some(format!("{held:?}, not two zones"));
    }
    (attested.reliable() == Class::Geo && reached.len() < sites(&mut places.values()).len())
        .then(|| format!("zones in {reached:?} only"))
}

/// One final log: what is in it, and where replicas hold it.
struct Held<'a> {
    keys: BTreeSet<&'a str>,
    zones: BTreeSet<String>,
    sites: BTreeSet<String>,
}

impl<'a> Held<'a> {
    fn new(log: &'a FinalLog, places: &Places) -> Self {
        let of_replicas = || log.replicas.iter().filter_map(|replica| places.get(replica));
        let keys = log.entries.iter().filter_map(|entry| {
            let (view, _) = EntryView::parse(&entry.client_part.0).ok()?;
            Some(view.key())
        });
        Self {
            keys: keys.collect(),
            zones: of_replicas().map(|place| place.zone.clone()).collect(),
            sites: of_replicas().map(|place| place.site.clone()).collect(),
        }
    }
}
