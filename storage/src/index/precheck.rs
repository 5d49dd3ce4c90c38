//! A look at sled's metadata before sled opens it, for damage that sled itself would not notice.
//!
//! Read in sled's source (1.0.0-alpha.124): beside its heaps lies a directory `metadata` with one snapshot and the logs
//! since, each a row of frames. Opening stops reading a log at the first frame that is damaged and goes on with what came
//! before, and with the next log: parts of the tree are then missing or old, and looking for a key may never end. A damaged
//! frame with nothing valid behind it is what a crash leaves and is harmless: the index is one batch older then. It must not
//! be two batches older: what the last one freed, in the heaps, the next one may have used, and an older tree leads there.
//! So each commit notes in a file of ours how far the newest log reached, and a log that ends before that is damaged.
//!
//! ```text
//! frame  0  6  length of the content      6  2  the lower half of the CRC-32 of those 6 bytes
//!        8  -  the content                -  4  CRC-32 of everything before it, xor 0xAF
//!
//! note   0  8  number of the newest log    8  8  how many bytes of it were durable   16  4  CRC-32 of those 16 bytes
//! ```
//!
//! Invariants: [`find_damage`] changes nothing and believes no length that reaches beyond the file; the note never runs ahead
//! of what is durable, so that it may itself be written lazily, and one that cannot be read asks for nothing.

use std::path::{Path, PathBuf};

use crate::types::StoreId;

const SIZE_BYTES: usize = 8;
const SUM_BYTES: usize = 4;
/// The note's name in the index's directory, where sled overlooks it.
const NOTE: &str = "committed";
/// The name of the note that says of which log the index is.
const OWNER: &str = "store";
const NOTE_BYTES: usize = 16;

/// Notes how far the newest log of metadata reaches. To be called when a flush has made all of it durable.
pub(super) fn note_committed(dir: &Path) -> std::io::Result<()> {
    let (logs, _) = numbered(&dir.join("metadata"))?;
    let Some((number, path)) = logs.last() else { return Ok(()) };
    let mut note = number.to_le_bytes().to_vec();
    note.extend(std::fs::metadata(path)?.len().to_le_bytes());
    note.extend(crc32fast::hash(&note).to_le_bytes());
    let unfinished = dir.join(format!("{NOTE}.new"));
    std::fs::write(&unfinished, note)?;
    std::fs::rename(unfinished, dir.join(NOTE))
}

/// Whether the index in a directory, if there is one, says that it is of this log. An empty directory is nobody's.
pub(super) fn is_of(dir: &Path, store: StoreId) -> std::io::Result<bool> {
    match std::fs::read_to_string(dir.join(OWNER)) {
        Ok(text) => return Ok(StoreId::parse(text.trim()) == Some(store)),
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => return Ok(false),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        Err(_) => {}
    }
    match std::fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// Says in an index's directory, made if it is missing, of which log it is. Comes before anything of sled's.
pub(super) fn note_store(dir: &Path, store: StoreId) -> std::io::Result<()> {
    let path = dir.join(OWNER);
    if path.exists() {
        return Ok(());
    }
    std::fs::create_dir_all(dir)?;
    let unfinished = dir.join(format!("{OWNER}.new"));
    std::fs::write(&unfinished, format!("{store}\n"))?;
    std::fs::File::open(&unfinished)?.sync_all()?;
    std::fs::rename(unfinished, path)?;
    std::fs::File::open(dir)?.sync_all()
}

/// The log and the length that were noted, if that can be read.
fn noted(dir: &Path) -> Option<(u64, u64)> {
    let note = std::fs::read(dir.join(NOTE)).ok()?;
    let (content, sum) = note.split_at_checked(NOTE_BYTES)?;
    if sum != crc32fast::hash(content).to_le_bytes() {
        return None;
    }
    let (number, length) = content.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*number), u64::from_le_bytes(length.try_into().ok()?)))
}

/// Logs and snapshots, each by number and in that order.
type Numbered = Vec<(u64, PathBuf)>;

fn numbered(metadata: &Path) -> std::io::Result<(Numbered, Numbered)> {
    let (mut logs, mut snapshots) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(metadata)? {
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
    Ok((logs, snapshots))
}

/// Says what is wrong, if something is.
pub(super) fn find_damage(dir: &Path) -> std::io::Result<Option<String>> {
    let metadata = dir.join("metadata");
    if !metadata.is_dir() {
        return Ok(noted(dir).map(|_| "the metadata is missing".to_owned()));
    }
    let (logs, snapshots) = numbered(&metadata)?;
    let newest = snapshots.last().map(|(number, _)| *number);
    if let Some((number, path)) = snapshots.last() {
        let content = std::fs::read(path)?;
        if frame(&content) != Some(content.len()) {
            return Ok(Some(format!("metadata snapshot {number} is damaged")));
        }
    }
    let mut expected = newest.map(|number| number + 1);
    let last = logs.last().map(|(number, _)| *number);
    let noted = noted(dir);
    if let Some((number, _)) = noted
        && last.max(newest) < Some(number)
    {
        return Ok(Some(format!("metadata log {number} is missing")));
    }
    for (number, path) in logs.into_iter().filter(|(number, _)| newest.is_none_or(|newest| *number > newest))
    {
        if expected.is_some_and(|expected| expected != number) {
            return Ok(Some(format!("metadata log {number} does not follow")));
        }
        expected = Some(number + 1);
        let content = std::fs::read(path)?;
        let Some(whole) = whole_bytes(&content, Some(number) == last) else {
            return Ok(Some(format!("metadata log {number} is damaged")));
        };
        if noted.is_some_and(|(log, bytes)| log == number && bytes > whole as u64) {
            return Ok(Some(format!("metadata log {number} is cut short")));
        }
    }
    Ok(None)
}

fn number_of(name: &str, prefix: &str) -> Option<u64> {
    let digits = name.strip_prefix(prefix).filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}

/// How many bytes of a log are frames, if it is nothing else; the newest one may end with one that was not finished.
fn whole_bytes(content: &[u8], is_newest: bool) -> Option<usize> {
    let mut at = 0;
    while at < content.len() {
        match frame(&content[at..]) {
            Some(length) => at += length,
            None => {
                let is_unfinished = (at + 1..content.len()).all(|later| frame(&content[later..]).is_none());
                return (is_newest && is_unfinished).then_some(at);
            }
        }
    }
    Some(at)
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
