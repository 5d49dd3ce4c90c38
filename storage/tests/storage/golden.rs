//! The bytes of format version 1, one by one. If one of these fails, the format has changed: that needs a new version.

use bytes::Bytes;
use proptest::prelude::*;
use tercet_storage::format::{
    BLOCK_BYTES, BatchHeader, CheckpointState, CutRecord, HEADER_BYTES, HeaderError, Kind, NO_TERM,
    NUMBER_LIMIT, ROW_BYTES, Row, RowState, Tag, batch_bytes, decode_table, encode_batch, flags,
    payload_start, read_batch,
};
use tercet_storage::{LogPoint, StoreId};

fn header() -> BatchHeader {
    BatchHeader {
        flags: 0,
        store: StoreId(*b"0123456789abcdef"),
        number: 0x0102_0304,
        durable_mark: 0x0102_0303,
        segment: 5,
        block: 6,
        blocks: 1,
        records: 2,
        table_crc: 0,
        payload_bytes: 3,
        previous_crc: 0xa1a2_a3a4,
        window_batches: 4,
        window_blocks: 0x1000,
        oldest_segment: 2,
        segment_blocks: 0x4000,
    }
}

fn rows() -> Vec<Row> {
    let start = u32::try_from(payload_start(2)).unwrap();
    vec![
        Row {
            group: 9,
            kind: Kind::Entry,
            tag: 1,
            index: 7,
            term: 3,
            leader: 2,
            previous_term: NO_TERM,
            offset: start,
            length: 3,
            crc: crc32fast::hash(b"abc"),
            zero_sectors: 0,
        },
        Row {
            group: 9,
            kind: Kind::Truncate,
            tag: Tag::KEEPS_POINT,
            index: 6,
            term: 2,
            leader: 0,
            previous_term: 0,
            offset: start + 3,
            length: 0,
            crc: 0,
            zero_sectors: 0,
        },
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_batch_byte_by_byte() {
    let mut bytes = vec![0xee; batch_bytes(2, 3)];
    let mut head = header();
    let crc = encode_batch(
        &mut head,
        &mut rows(),
        &[Bytes::from_static(b"abc"), Bytes::new()],
        &mut bytes,
        <[u8]>::copy_from_slice,
    );
    assert_eq!(bytes.len(), BLOCK_BYTES);
    assert_eq!(hex(&bytes[0..8]), hex(b"TERCETLG"));
    assert_eq!(bytes[8..12], crc.to_le_bytes());
    assert_eq!(crc, crc32fast::hash(&bytes[12..128]));
    assert_eq!(hex(&bytes[12..16]), "01000000", "version, flags");
    assert_eq!(&bytes[16..32], b"0123456789abcdef");
    assert_eq!(hex(&bytes[32..48]), "04030201000000000303020100000000", "number, durable mark");
    assert_eq!(hex(&bytes[48..64]), "05000000060000000100000002000000", "segment, block, blocks, records");
    assert_eq!(hex(&bytes[64..68]), "70000000", "table bytes");
    assert_eq!(bytes[68..72], crc32fast::hash(&bytes[128..240]).to_le_bytes());
    assert_eq!(hex(&bytes[72..80]), "03000000a4a3a2a1", "payload bytes, previous CRC");
    assert_eq!(
        hex(&bytes[80..96]),
        "04000000001000000200000000400000",
        "window, oldest segment, segment blocks"
    );
    assert!(bytes[96..128].iter().all(|byte| *byte == 0));
    let entry = concat!(
        "09000000",
        "01",
        "01",
        "0000",
        "0700000000000000",
        "0300000000000000",
        "0200000000000000",
        "ffffffffffffffff",
        "f0000000",
        "03000000",
        "c2412435",
        "00000000"
    );
    assert_eq!(hex(&bytes[128..184]), entry);
    let truncate = concat!(
        "09000000",
        "03",
        "01",
        "0000",
        "0600000000000000",
        "0200000000000000",
        "0000000000000000",
        "0000000000000000",
        "f3000000",
        "00000000",
        "00000000",
        "00000000"
    );
    assert_eq!(hex(&bytes[184..240]), truncate);
    assert_eq!(&bytes[240..243], b"abc");
    assert!(bytes[243..].iter().all(|byte| *byte == 0), "padding, nothing left of an earlier use");
    assert_eq!(hex(&bytes[8..12]), "fca2a2c0", "the CRCs are CRC-32 (IEEE)");
    let read = BatchHeader::decode(&bytes).unwrap();
    assert_eq!(read, head);
    assert!(read_batch(&read, &bytes).is_intact());
}

#[test]
fn checkpoint_and_cut_byte_by_byte() {
    let point = |index, term| LogPoint { index, term };
    let state = CheckpointState {
        vote_sequence: 2,
        vote: Some(Bytes::from_static(b"vote")),
        purged: Some(point(1, 1)),
        committed: None,
        last: Some(point(9, 4)),
        truncation: Some(None),
        tail_unknown: false,
        vote_lost: true,
    };
    let expected = concat!(
        "9b000000",
        "04000000",
        "0200000000000000",
        "0100000000000000",
        "0100000000000000",
        "0000000000000000",
        "0000000000000000",
        "0900000000000000",
        "0400000000000000",
        "0000000000000000",
        "0000000000000000",
        "766f7465"
    );
    assert_eq!(hex(&state.encode()), expected);
    assert_eq!(CheckpointState::decode(&state.encode()), Some(state));
    let cut = CutRecord { segment: 3, block: 17, last_batch: 99, last_crc: 0x0102_0304 };
    assert_eq!(hex(&cut.encode()), "03000000110000006300000000000000040302010000".to_owned() + "0000");
    assert_eq!(CutRecord::decode(&cut.encode()), Some(cut));
}

#[test]
fn repair_and_doubt_byte_by_byte() {
    let start = u32::try_from(payload_start(2)).unwrap();
    let repair = Row { kind: Kind::Repair, tag: 3, previous_term: 0, offset: start, ..rows()[0] };
    let doubt = Row {
        group: 0,
        kind: Kind::Doubt,
        tag: 0,
        index: 0x0102_0304,
        term: 0,
        leader: 0,
        previous_term: 0,
        offset: start + 3,
        length: 0,
        crc: 0,
        zero_sectors: 0,
    };
    let mut bytes = vec![0xee; batch_bytes(2, 3)];
    let mut head = header();
    let payloads = [Bytes::from_static(b"abc"), Bytes::new()];
    encode_batch(&mut head, &mut [repair, doubt], &payloads, &mut bytes, <[u8]>::copy_from_slice);
    let expected = concat!(
        "09000000",
        "08",
        "03",
        "0000",
        "0700000000000000",
        "0300000000000000",
        "0200000000000000",
        "0000000000000000",
        "f0000000",
        "03000000",
        "c2412435",
        "00000000"
    );
    assert_eq!(hex(&bytes[128..184]), expected);
    let expected = concat!(
        "00000000",
        "09",
        "00",
        "0000",
        "0403020100000000",
        "0000000000000000",
        "0000000000000000",
        "0000000000000000",
        "f3000000",
        "00000000",
        "00000000",
        "00000000"
    );
    assert_eq!(hex(&bytes[184..240]), expected);
    let found = read_batch(&BatchHeader::decode(&bytes).unwrap(), &bytes).rows.unwrap();
    assert_eq!(found, vec![(repair, RowState::Intact), (doubt, RowState::Intact)]);
}

#[test]
fn every_flipped_bit_of_a_header_is_seen() {
    let bytes = header().encode();
    for bit in 0..HEADER_BYTES * 8 {
        let mut damaged = bytes;
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(BatchHeader::decode(&damaged).is_err(), "bit {bit}");
    }
    assert_eq!(BatchHeader::decode(&bytes[..127]), Err(HeaderError::Short));
    assert_eq!(BatchHeader::decode(&[0; 128]), Err(HeaderError::Magic));
}

#[test]
fn a_newer_version_is_told_from_damage() {
    let mut bytes = header().encode();
    bytes[12] = 2;
    let crc = crc32fast::hash(&bytes[12..]);
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(BatchHeader::decode(&bytes), Err(HeaderError::Version(2)));
}

#[test]
fn zero_sectors_tell_a_torn_write_from_rot() {
    // A payload with 2,000 zeros of its own between other bytes.
    let mut payload = vec![1_u8; 3_000];
    payload[500..2_500].fill(0);
    let payload = Bytes::from(payload);
    let mut head = BatchHeader { records: 1, payload_bytes: 3_000, ..header() };
    let mut row = Row { offset: 184, length: 3_000, crc: crc32fast::hash(&payload), ..rows()[0] };
    let mut bytes = vec![0; batch_bytes(1, 3_000)];
    encode_batch(
        &mut head,
        std::slice::from_mut(&mut row),
        std::slice::from_ref(&payload),
        &mut bytes,
        <[u8]>::copy_from_slice,
    );
    assert_eq!(row.zero_sectors, 3, "sectors 2, 3 and 4 hold only zeros of it");
    let state = |bytes: &[u8]| read_batch(&head, bytes).rows.unwrap()[0].1;
    assert_eq!(state(&bytes), RowState::Intact);
    let mut flipped = bytes.clone();
    flipped[600] ^= 1;
    assert_eq!(state(&flipped), RowState::Damaged);
    let mut torn = bytes.clone();
    torn[3072..3584].fill(0);
    assert_eq!(state(&torn), RowState::NeverWritten);
}

fn any_row() -> impl Strategy<Value = (Row, Vec<u8>)> {
    let numbers =
        (any::<u32>(), 1_u8..=9, any::<u8>(), any::<[u64; 4]>(), prop::collection::vec(any::<u8>(), 0..700));
    numbers.prop_map(|(group, kind, tag, [index, term, leader, previous_term], payload)| {
        let row = Row {
            group,
            kind: Kind::from_byte(kind).unwrap(),
            tag,
            index: index % NUMBER_LIMIT,
            term,
            leader,
            previous_term,
            offset: 0,
            length: u32::try_from(payload.len()).unwrap(),
            crc: crc32fast::hash(&payload),
            zero_sectors: 0,
        };
        (row, payload)
    })
}

proptest! {
    #[test]
    fn any_batch_reads_back(items in prop::collection::vec(any_row(), 0..40), first: bool) {
        let (mut rows, payloads): (Vec<Row>, Vec<Vec<u8>>) = items.into_iter().unzip();
        let payloads: Vec<Bytes> = payloads.into_iter().map(Bytes::from).collect();
        let mut at = payload_start(rows.len());
        for row in &mut rows {
            row.offset = u32::try_from(at).unwrap();
            at += row.length as usize;
        }
        let total = payloads.iter().map(Bytes::len).sum();
        let mut bytes = vec![0xaa; batch_bytes(rows.len(), total)];
        let mut head = BatchHeader {
            flags: if first { flags::FIRST } else { flags::IDLE },
            block: u32::from(!first),
            blocks: u32::try_from(bytes.len() / BLOCK_BYTES).unwrap(),
            records: u32::try_from(rows.len()).unwrap(),
            payload_bytes: u32::try_from(total).unwrap(),
            ..header()
        };
        encode_batch(&mut head, &mut rows, &payloads, &mut bytes, <[u8]>::copy_from_slice);
        let read = BatchHeader::decode(&bytes).unwrap();
        prop_assert_eq!(&read, &head);
        let body = read_batch(&read, &bytes);
        prop_assert!(body.is_intact());
        let found: Vec<Row> = body.rows.unwrap().into_iter().map(|(row, _)| row).collect();
        prop_assert_eq!(&found, &rows);
        for (row, payload) in found.iter().zip(&payloads) {
            let from = row.offset as usize;
            prop_assert_eq!(&bytes[from..from + row.length as usize], payload.as_ref());
        }
        // One flipped bit anywhere in it is seen.
        let bit = (total * 7_919 + rows.len() * 31) % (bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        let seen = match BatchHeader::decode(&bytes) {
            Ok(header) => !read_batch(&header, &bytes).is_intact(),
            Err(_) => true,
        };
        prop_assert!(seen);
    }

    #[test]
    fn decoders_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), payload_bytes: u32) {
        let _ = BatchHeader::decode(&bytes);
        let _ = CheckpointState::decode(&bytes);
        let _ = CutRecord::decode(&bytes);
        let _ = decode_table(&bytes, payload_bytes);
        let rounded = bytes.len() / ROW_BYTES * ROW_BYTES;
        let _ = decode_table(&bytes[..rounded], payload_bytes);
        let _ = read_batch(&header(), &bytes);
    }

    #[test]
    fn a_state_that_decodes_encodes_to_the_same_bytes(
        flags: u8, vote in prop::collection::vec(any::<u8>(), 0..40), numbers: [u64; 9]
    ) {
        let point = |bit: u8, at: usize| {
            (flags & bit != 0).then_some(LogPoint { index: numbers[at] % NUMBER_LIMIT, term: numbers[at + 1] })
        };
        let state = CheckpointState {
            vote_sequence: numbers[0] % NUMBER_LIMIT,
            vote: (flags & 1 != 0).then(|| Bytes::from(vote)),
            purged: point(2, 1),
            committed: point(4, 3),
            last: point(8, 5),
            truncation: (flags & 16 != 0).then(|| point(32, 7)),
            tail_unknown: flags & 64 != 0,
            vote_lost: flags & 128 != 0,
        };
        prop_assert_eq!(CheckpointState::decode(&state.encode()), Some(state));
    }
}
