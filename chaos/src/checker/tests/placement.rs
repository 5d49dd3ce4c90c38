//! Receipts that promise more than is kept, or name what does not hold the entry.

use super::*;

#[test]
fn a_receipt_that_names_a_zone_without_the_entry_is_caught() {
    let mut forge = truth();
    forge.place();
    for (zones, good) in [(&[] as &[&str], true), (&["a", "b", "c"], true), (&["a", "moon"], false)] {
        forge.attest_inherited(14, Class::City, zones);
        assert_eq!(violated(&forge), if good { vec![] } else { vec!["placement"] }, "{zones:?}");
    }
    forge.attest(14, Class::City, false, &["a", "b", "c"]);
    let mut remote = forge.log.clone();
    remote.entries.pop();
    remote.replicas = vec!["c1".into()];
    forge.log.replicas.retain(|replica| replica != "c1");
    let judgement = check(&forge.history(), &[forge.log.clone(), remote]);
    let placement = judgement.violations.iter().find(|violation| violation.invariant == "placement");
    assert!(placement.unwrap().messages[0].contains("zone \"c\""), "{judgement:#?}");
    forge.log.gone = vec!["c1".into()];
    assert!(forge.judge().pass, "of zone c no replica is left");
}

#[test]
fn a_receipt_whose_zones_do_not_show_its_class_is_caught_unless_it_is_inherited() {
    let mut forge = truth();
    forge.place();
    let rows: [(Class, bool, &[&str], bool); 8] = [
        (Class::City, false, &[], false),
        (Class::City, false, &["b"], false),
        (Class::City, false, &["a", "c"], true),
        (Class::Geo, false, &["a", "b"], false),
        (Class::Geo, false, &["b", "c"], true),
        (Class::Geo, false, &["c"], false),
        (Class::City, true, &["a"], false),
        (Class::City, true, &["a", "b"], true),
    ];
    for (class, degraded, zones, good) in rows {
        forge.attest(14, class, degraded, zones);
        assert_eq!(violated(&forge), if good { vec![] } else { vec!["placement"] }, "{class:?} {zones:?}");
        forge.attest_inherited(14, class, zones);
        assert!(forge.judge().pass, "{class:?} {zones:?}, inherited");
    }
}

#[test]
fn a_receipt_that_is_weaker_than_asked_and_not_marked_is_caught() {
    let mut forge = Forge::new();
    forge.place();
    let receipt = forge.commit("k", 1);
    forge.invoke(1, 0, Call::Append { entries: vec![sent("k", 1)], class: Some(Class::Geo) });
    forge.returns(1, 10, Outcome::Appended { receipts: vec![receipt] });
    for (class, degraded, good) in
        [(Class::Geo, false, true), (Class::City, true, true), (Class::City, false, false)]
    {
        forge.attest(1, class, degraded, &["a", "b", "c"]);
        assert_eq!(violated(&forge), if good { vec![] } else { vec!["placement"] }, "{class:?}");
    }
}

#[test]
fn an_entry_that_is_in_too_few_places_is_caught() {
    let mut forge = truth();
    forge.place();
    forge.attest(14, Class::Geo, false, &["a", "b", "c"]);
    let mut remote = forge.log.clone();
    remote.entries.pop();
    remote.replicas = vec!["c1".into()];
    forge.log.replicas.retain(|replica| replica != "c1");
    let names = |forge: &Forge, remote: &FinalLog| -> Vec<&'static str> {
        let judgement = check(&forge.history(), &[forge.log.clone(), remote.clone()]);
        judgement.violations.iter().map(|violation| violation.invariant).collect()
    };
    assert_eq!(names(&forge, &remote), ["replicas", "placement"], "the remote lacks what it acknowledged");
    forge.attest(14, Class::Geo, true, &["a", "b"]);
    assert_eq!(names(&forge, &remote), ["replicas"], "degraded, it was promised to the city only");
    forge.log.replicas.retain(|replica| replica.starts_with('a'));
    remote.replicas = vec!["b1".into(), "b2".into(), "c1".into()];
    assert_eq!(names(&forge, &remote), ["replicas", "placement"], "one zone is not enough for class city");
}

#[test]
fn a_lost_city_excuses_what_was_promised_to_it_alone() {
    let mut forge = truth();
    forge.place();
    forge.attest(14, Class::City, false, &["a", "b"]);
    forge.log.entries.pop();
    forge.log.replicas = vec!["c1".into()];
    assert_caught(&forge, "acknowledged");
    forge.log.gone = ["a1", "a2", "b1", "b2"].map(String::from).to_vec();
    let judgement = forge.judge();
    assert!(judgement.pass, "{:#?}", judgement.violations);
    assert_eq!(judgement.by_class[&Class::City], ByClass { acknowledged: 5, lost: 1 });
    forge.attest(14, Class::Geo, false, &["a", "b", "c"]);
    let judgement = forge.judge();
    assert_caught(&forge, "acknowledged");
    assert_eq!(judgement.by_class[&Class::Geo], ByClass { acknowledged: 1, lost: 1 });
    forge.attest(14, Class::Geo, true, &["a", "b"]);
    assert!(forge.judge().pass, "degraded");
    forge.log.gone.pop();
    assert_caught(&forge, "acknowledged");
}
