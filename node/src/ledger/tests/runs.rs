//! Runs of keys: what is written is found, what is damaged is refused.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::support::MapIndex;
use crate::ledger::LedgerError;
use crate::ledger::keys::KeyRecord;
use crate::ledger::runs::{Runs, encode, scan};

fn hash(key: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

fn record(seq: u64) -> KeyRecord {
    KeyRecord { seq, content: [7; 16] }
}

/// `count` keys of journal 1, the one of seq n being `name(n)`.
fn table(from: u64, count: u64, name: impl Fn(u64) -> String) -> BTreeMap<Vec<u8>, KeyRecord> {
    (from..from + count)
        .map(|seq| ([1_u32.to_be_bytes().as_slice(), name(seq).as_bytes()].concat(), record(seq)))
        .collect()
}

fn write(index: &MapIndex, number: u64, keys: &BTreeMap<Vec<u8>, KeyRecord>) {
    let pairs = encode(5, number, keys.iter().map(|(key, record)| (key.as_slice(), record)));
    assert!(pairs.is_sorted_by(|a, b| a.0 < b.0));
    index.commit(pairs.into_iter().map(|(key, value)| (key, Some(value))).collect());
}

#[test]
fn every_key_of_every_run_is_found_and_no_other() {
    let index = MapIndex::default();
    let first = table(1, 1_000, |seq| format!("{:08x}", seq.wrapping_mul(0x9e37_79b9) & 0xffff_ffff));
    let second = table(1_001, 300, |seq| format!("order-{seq}"));
    write(&index, 1, &first);
    write(&index, 2, &second);
    let mut seen = BTreeMap::new();
    scan(5, &index, &mut |number, key, record| {
        assert_eq!(number, if record.seq <= 1_000 { 1 } else { 2 });
        assert!(seen.insert(key.to_vec(), record).is_none(), "twice");
    })
    .unwrap();
    let runs = Runs::restore(5, &index, &mut hash).unwrap();
    assert_eq!(runs.next_number(), 3);
    assert_eq!(seen.len(), 1_300);
    for (key, record) in first.iter().chain(&second) {
        assert_eq!(runs.find(5, &index, (hash(key), key)).unwrap().as_ref(), Some(record));
        assert_eq!(seen.get(key), Some(record));
        let longer = [key.as_slice(), b"x"].concat();
        assert_eq!(runs.find(5, &index, (hash(&longer), &longer)).unwrap(), None);
        assert_eq!(runs.find(4, &index, (hash(key), key)).unwrap(), None, "another group");
    }
}

#[test]
fn a_missing_run_a_torn_block_and_an_empty_index_are_told_apart() {
    let index = MapIndex::default();
    assert_eq!(Runs::restore(5, &index, &mut hash).unwrap().next_number(), 1);
    write(&index, 1, &table(1, 10, |seq| seq.to_string()));
    write(&index, 3, &table(11, 10, |seq| seq.to_string()));
    assert_eq!(Runs::restore(5, &index, &mut hash).unwrap_err(), LedgerError::Corrupt("run of keys"));
    write(&index, 2, &table(21, 10, |seq| seq.to_string()));
    assert_eq!(Runs::restore(5, &index, &mut hash).unwrap().next_number(), 4);
    let torn = encode(5, 4, [(b"\0\0\0\x01k".as_slice(), &record(9))].into_iter());
    index.commit(torn.into_iter().map(|(key, block)| (key, Some(block[..9].to_vec()))).collect());
    assert_eq!(Runs::restore(5, &index, &mut hash).unwrap_err(), LedgerError::Corrupt("run of keys"));
}

#[test]
fn a_block_has_these_bytes() {
    let keys = [
        (b"\0\0\0\x01order-1".as_slice(), KeyRecord { seq: 0x1234, content: [7; 16] }),
        (b"\0\0\0\x01order-10".as_slice(), KeyRecord { seq: 5, content: [8; 16] }),
        (b"\0\0\0\x02x".as_slice(), KeyRecord { seq: 1 << 56, content: [9; 16] }),
    ];
    let pairs = encode(5, 1, keys.iter().map(|(key, record)| (*key, record)));
    let [(_, block)] = pairs.as_slice() else { panic!("{pairs:?}") };
    let mut expected = vec![0, 11];
    expected.extend(b"\0\0\0\x01order-1\x02\x34\x12");
    expected.extend([7; 16]);
    expected.extend(b"\x0b\x010\x01\x05");
    expected.extend([8; 16]);
    expected.extend(b"\x03\x02\x02x\x08\0\0\0\0\0\0\0\x01");
    expected.extend([9; 16]);
    assert_eq!(*block, expected);
}
