//! Walks a dump while it goes by, and tells whoever packs it what goes by.

use std::collections::BTreeMap;

use super::DumpError;
use super::cursor::{Cursor, MAX_TEXT, Read, Stop};
use super::toc::{Entry, Layout, Toc};

/// The largest entry of the table of contents, in bytes.
const MAX_ENTRY: usize = 2 * MAX_TEXT;

/// The most entries accepted.
const MAX_ENTRIES: i64 = 10_000_000;

const DATA: u8 = 1;
const LARGE_OBJECTS: u8 = 3;

/// A push parser: give it the stream with [`Walker::feed`], and ask at the end.
#[derive(Debug)]
pub struct Walker {
    state: State,
    /// Bytes that are not understood yet: part of one entry, or of one integer.
    pending: Vec<u8>,
    /// The offset of the first pending byte.
    offset: u64,
    layout: Layout,
    toc: Toc,
    head: Option<u64>,
    /// By entry with data, how many bytes it has, once it was there.
    data: BTreeMap<i64, Option<u64>>,
}

/// A dump that is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walked {
    /// What it holds.
    pub toc: Toc,
    /// Bytes of the head: everything before the data.
    pub head: u64,
    /// Bytes of each entry's data as they lie in the dump, by entry.
    pub data: BTreeMap<i64, u64>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Head,
    Entries {
        left: i64,
    },
    /// Between blocks: here the dump may end.
    Block,
    /// Within the chunks of an entry, before a length.
    Chunk(Place),
    /// Within a chunk.
    Bytes {
        place: Place,
        left: u64,
    },
    /// Before the id of a large object.
    ObjectId(Place),
}

/// Whose chunks they are.
#[derive(Clone, Copy, Debug)]
struct Place {
    id: i64,
    large_objects: bool,
    size: u64,
}

/// Hears what goes by: everything but the lengths of chunks.
pub(super) trait Listener {
    /// The head, which is told entry by entry, and what stands before the chunks of a table or a large object.
    fn structure(&mut self, bytes: &[u8]);
    /// Bytes of a table or a large object.
    fn data(&mut self, bytes: &[u8]);
    /// These were all of its bytes.
    fn end(&mut self, id: i64, large_object: bool);
}

/// Nobody listens.
impl Listener for () {
    fn structure(&mut self, _: &[u8]) {}
    fn data(&mut self, _: &[u8]) {}
    fn end(&mut self, _: i64, _: bool) {}
}

impl Default for Walker {
    fn default() -> Self {
        Self::new()
    }
}

impl Walker {
    /// A walker at the beginning of a dump.
    pub fn new() -> Self {
        Self {
            state: State::Head,
            pending: Vec::new(),
            offset: 0,
            layout: Layout { minor: 0, int_size: 4, offset_size: 8 },
            toc: Toc::default(),
            head: None,
            data: BTreeMap::new(),
        }
    }

    /// What the dump holds, once the head has gone by.
    pub fn toc(&self) -> Option<&Toc> {
        self.head.map(|_| &self.toc)
    }

    /// How many bytes the head has, once it has gone by.
    pub fn head(&self) -> Option<u64> {
        self.head
    }

    /// Takes the next bytes of the dump, however they are cut.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), DumpError> {
        self.feed_to(&mut (), bytes)
    }

    /// Takes the next bytes, and tells what they are.
    pub(super) fn feed_to(&mut self, listener: &mut impl Listener, mut bytes: &[u8]) -> Result<(), DumpError> {
        loop {
            // The bulk of a dump: bytes of a chunk are counted, never copied.
            if let State::Bytes { place, left } = self.state
                && self.pending.is_empty()
            {
                let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                let (data, behind) = bytes.split_at(here);
                listener.data(data);
                bytes = behind;
                self.offset += here as u64;
                let left = left - here as u64;
                if left > 0 {
                    self.state = State::Bytes { place, left };
                    return Ok(());
                }
                self.state = State::Chunk(place);
            }
            if bytes.is_empty() && self.pending.is_empty() {
                return Ok(());
            }
            if !self.step(listener, &mut bytes)? {
                return Ok(());
            }
        }
    }

    /// Understands one thing more; `false` where bytes are missing for it.
    fn step(&mut self, listener: &mut impl Listener, bytes: &mut &[u8]) -> Result<bool, DumpError> {
        let joined = if self.pending.is_empty() {
            None
        } else {
            // Only as much as one thing may need is added to what is pending.
            let more = self.pending.len().max(64).min(bytes.len());
            let (now, later) = bytes.split_at(more);
            self.pending.extend_from_slice(now);
            *bytes = later;
            Some(std::mem::take(&mut self.pending))
        };
        let at_hand: &[u8] = joined.as_deref().unwrap_or(bytes);
        let mut cursor = Cursor::new(at_hand, self.offset, self.layout.int_size);
        match self.understand(&mut cursor) {
            Ok(next) => {
                let read = cursor.read();
                tell(listener, self.state, next, at_hand.get(..read).unwrap_or_default());
                self.state = next;
                self.offset += read as u64;
                match joined {
                    None => *bytes = bytes.get(read..).unwrap_or_default(),
                    Some(mut joined) => {
                        joined.drain(..read);
                        self.pending = joined;
                        self.count_pending(listener);
                    }
                }
                Ok(true)
            }
            Err(Stop::Wrong(error)) => Err(error),
            Err(Stop::NeedMore) => {
                let starved = joined.is_none() || bytes.is_empty();
                self.pending = joined.unwrap_or_else(|| std::mem::take(bytes).to_vec());
                if self.pending.len() > MAX_ENTRY {
                    return Err(DumpError::TooLarge { offset: self.offset, what: "an entry", limit: MAX_ENTRY });
                }
                Ok(!starved)
            }
        }
    }

    /// Pending bytes that belong to a chunk need not be understood.
    fn count_pending(&mut self, listener: &mut impl Listener) {
        if let State::Bytes { place, left } = self.state {
            let here = usize::try_from(left).unwrap_or(usize::MAX).min(self.pending.len());
            listener.data(self.pending.get(..here).unwrap_or_default());
            self.pending.drain(..here);
            self.offset += here as u64;
            let left = left - here as u64;
            self.state = if left == 0 { State::Chunk(place) } else { State::Bytes { place, left } };
        }
    }

    fn understand(&mut self, cursor: &mut Cursor<'_>) -> Read<State> {
        match self.state {
            State::Head => {
                let (layout, toc) = head(cursor)?;
                let left = cursor.int()?;
                if !(0..=MAX_ENTRIES).contains(&left) {
                    return cursor.wrong("the number of entries cannot be true");
                }
                self.layout = layout;
                self.toc = toc;
                Ok(self.after_entry(left, cursor.offset()))
            }
            State::Entries { left } => {
                let entry = Entry::read(cursor, self.layout, self.toc.entries.last())?;
                if entry.has_data && self.data.insert(entry.id, None).is_some() {
                    return cursor.wrong("two entries have the same number");
                }
                self.toc.entries.push(entry);
                Ok(self.after_entry(left - 1, cursor.offset()))
            }
            State::Block => self.block(cursor),
            State::Chunk(place) => {
                let length = cursor.int()?;
                match u64::try_from(length) {
                    Err(_) => cursor.wrong("a chunk has a negative length"),
                    Ok(0) if place.large_objects => Ok(State::ObjectId(place)),
                    Ok(0) => Ok(self.end_of(place)),
                    Ok(left) => Ok(State::Bytes { place: Place { size: place.size + left, ..place }, left }),
                }
            }
            State::ObjectId(place) => match cursor.int()? {
                0 => Ok(self.end_of(place)),
                1.. => Ok(State::Chunk(place)),
                _ => cursor.wrong("a large object has a negative id"),
            },
            // Counted by `feed` and `count_pending`; nothing is left to understand.
            State::Bytes { place, .. } => Ok(State::Chunk(place)),
        }
    }

    fn after_entry(&mut self, left: i64, offset: u64) -> State {
        if left > 0 {
            return State::Entries { left };
        }
        self.head = Some(offset);
        State::Block
    }

    fn block(&mut self, cursor: &mut Cursor<'_>) -> Read<State> {
        let offset = cursor.offset();
        let kind = cursor.byte()?;
        if kind != DATA && kind != LARGE_OBJECTS {
            return Err(Stop::Wrong(DumpError::Malformed {
                offset,
                why: "neither a block of data nor the end stands",
            }));
        }
        let id = cursor.int()?;
        let wrong = |why| Err(Stop::Wrong(DumpError::Block { offset, id, why }));
        match self.data.get(&id) {
            None => return wrong("belongs to no entry with data"),
            Some(Some(_)) => return wrong("appears a second time"),
            Some(None) => {}
        }
        let place = Place { id, large_objects: kind == LARGE_OBJECTS, size: 0 };
        Ok(if place.large_objects { State::ObjectId(place) } else { State::Chunk(place) })
    }

    fn end_of(&mut self, place: Place) -> State {
        self.data.insert(place.id, Some(place.size));
        State::Block
    }

    /// The end of the stream: accepts the dump only if it is whole.
    pub fn finish(self) -> Result<Walked, DumpError> {
        let offset = self.offset + self.pending.len() as u64;
        let cut = |wanted: String| DumpError::Cut { offset, wanted };
        match self.state {
            State::Block if self.pending.is_empty() => {}
            State::Head => return Err(cut("within its head".into())),
            State::Entries { left } => {
                return Err(cut(format!("with {left} entries of its table of contents missing")));
            }
            State::Block => return Err(cut("at the beginning of a block".into())),
            State::Chunk(place) | State::Bytes { place, .. } | State::ObjectId(place) => {
                return Err(cut(format!("within the data of {}", name_of(&self.toc, place.id))));
            }
        }
        let missing = self.data.iter().find(|(_, size)| size.is_none()).map(|(id, _)| *id);
        if let Some(id) = missing {
            let count = self.data.values().filter(|size| size.is_none()).count();
            return Err(cut(format!("and the data of {count} entries never came, {} for one", name_of(&self.toc, id))));
        }
        let data = self.data.into_iter().filter_map(|(id, size)| Some((id, size?))).collect();
        Ok(Walked { toc: self.toc, head: self.head.unwrap_or(offset), data })
    }
}

/// Tells what was just understood.
fn tell(listener: &mut impl Listener, before: State, next: State, bytes: &[u8]) {
    match (before, next) {
        (State::Bytes { .. }, _) | (State::Chunk(_), State::Bytes { .. }) => {}
        (State::Chunk(place), _) => listener.end(place.id, place.large_objects),
        _ => listener.structure(bytes),
    }
}

fn head(cursor: &mut Cursor<'_>) -> Read<(Layout, Toc)> {
    if cursor.take(5)? != b"PGDMP" {
        return Err(Stop::Wrong(DumpError::Malformed { offset: 0, why: "no dump in custom format begins" }));
    }
    let (major, minor, _revision) = (cursor.byte()?, cursor.byte()?, cursor.byte()?);
    if major != 1 || !(12..=16).contains(&minor) {
        return Err(Stop::Wrong(DumpError::Version { major, minor }));
    }
    let (int_size, offset_size) = (usize::from(cursor.byte()?), usize::from(cursor.byte()?));
    if !(4..=8).contains(&int_size) || !(4..=8).contains(&offset_size) {
        return cursor.wrong("integers or offsets have a size nobody uses");
    }
    cursor.set_int_size(int_size);
    if cursor.byte()? != 1 {
        return cursor.wrong("the archive is not in custom format");
    }
    if minor >= 15 {
        cursor.byte()?; // compression algorithm
    } else {
        cursor.int()?; // compression level
    }
    for _ in 0..7 {
        cursor.int()?; // second, minute, hour, day, month, year, daylight saving
    }
    let database = cursor.string()?;
    let server_version = cursor.string()?;
    let dump_version = cursor.string()?;
    let toc = Toc { database, server_version, dump_version, entries: Vec::new() };
    Ok((Layout { minor, int_size, offset_size }, toc))
}

fn name_of(toc: &Toc, id: i64) -> String {
    let entry = toc.entries.iter().find(|entry| entry.id == id);
    entry.map_or_else(|| format!("entry {id}"), |entry| format!("{} {}.{}", entry.kind, entry.schema, entry.tag))
}
