//! A look at sled's metadata before sled opens it, for damage that sled itself would not notice.
//!
//! Read in sled's source (1.0.0-alpha.124): beside its heaps lies a directory `metadata` with one snapshot and the logs
//! since, each a row of frames. Opening stops reading a log at the first frame that is damaged and goes on with what came
//! before, and with the next log: parts of the tree are then missing or old, and looking for a key may never end. A damaged
//! frame with nothing valid behind it is what a crash leaves and is harmless: the index is one batch older then.
//!
//! ```text
//! frame  0  6  length of the content      6  2  the lower half of the CRC-32 of those 6 bytes
//!        8  -  the content                -  4  CRC-32 of everything before it, xor 0xAF
//! ```
//!
//! Invariant: nothing is changed, and no length is believed that reaches beyond the file.

use std::path::Path;

const SIZE_BYTES: usize = 8;
const SUM_BYTES: usize = 4;

/// Says what is wrong, if something is.
pub(super) fn find_damage(dir: &Path) -> std::io::Result<Option<String>> {
    let metadata = dir.join("metadata");
    if !metadata.is_dir() {
        return Ok(None);
    }
    let (mut logs, mut snapshots) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(&metadata)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(number) = number_of(&name, "log_") {
            logs.push((number, entry.path()));
        } else if let Some(number) = number_of(&name, "snapshot_") {
            snapshots.push((number, entry.path()));
        }
    }
    logs.sort();
    snapshots.sort();
    let newest = snapshots.last().map(|(number, _)| *number);
    if let Some((number, path)) = snapshots.last() {
        let content = std::fs::read(path)?;
        if frame(&content) != Some(content.len()) {
            return Ok(Some(format!("metadata snapshot {number} is damaged")));
        }
    }
    let mut expected = newest.map(|number| number + 1);
    let last = logs.last().map(|(number, _)| *number);
    for (number, path) in logs.into_iter().filter(|(number, _)| newest.is_none_or(|newest| *number > newest))
    {
        if expected.is_some_and(|expected| expected != number) {
            return Ok(Some(format!("metadata log {number} does not follow")));
        }
        expected = Some(number + 1);
        let content = std::fs::read(path)?;
        if !is_whole(&content, Some(number) == last) {
            return Ok(Some(format!("metadata log {number} is damaged")));
        }
    }
    Ok(None)
}

fn number_of(name: &str, prefix: &str) -> Option<u64> {
    let digits = name.strip_prefix(prefix).filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}

/// Whether a log is frames to its end; the newest one may end with one that was not finished.
fn is_whole(content: &[u8], is_newest: bool) -> bool {
    let mut at = 0;
    while at < content.len() {
        match frame(&content[at..]) {
            Some(length) => at += length,
            None => {
                return is_newest && (at + 1..content.len()).all(|later| frame(&content[later..]).is_none());
            }
        }
    }
    true
}

/// The length of the frame that begins here, if one does.
fn frame(bytes: &[u8]) -> Option<usize> {
    let (size, _) = bytes.split_first_chunk::<SIZE_BYTES>()?;
    let [sum_low, sum_high] = [size[6], size[7]];
    let [low, high, ..] = crc32fast::hash(&size[..6]).to_le_bytes();
    if [low, high] != [sum_low, sum_high] {
        return None;
    }
    let content = u64::from_le_bytes([size[0], size[1], size[2], size[3], size[4], size[5], 0, 0]);
    let end = SIZE_BYTES.checked_add(usize::try_from(content).ok()?)?;
    let sum = bytes.get(end..end.checked_add(SUM_BYTES)?)?;
    let expected = (crc32fast::hash(&bytes[..end]) ^ 0xAF).to_le_bytes();
    (sum == expected).then_some(end + SUM_BYTES)
}
