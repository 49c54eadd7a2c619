//! The entries of an archive: tar, as Go writes it (USTAR, and PAX where that is too narrow) and as `pg_basebackup` does.
//!
//! ```text
//! header  512 bytes: name 100, mode 8, owners 16, size 12, time 12, checksum 8, kind 1, link 100, "ustar", ..., prefix 155
//! body    of the size, filled up with zeros to the next 512
//! ...
//! end     two headers of zeros, and zeros only behind them
//! ```
//!
//! A header of kind `x` (PAX) or `L` (GNU) says more about the entry behind it. Names are absolute-looking, `/base/1/1259`, or
//! plain, `base/1/1259`; which of them lead where is not judged here.

use std::io::{self, Read};

use super::error::Fault;
use super::open::{fill, fill_or_end};

pub(super) const BLOCK: usize = 512;

/// The largest size that fits into a header.
const LARGEST: u64 = 0o777_7777_7777;

/// The longest body of a header that says more about another: names are not longer than 4096 bytes.
const LONGEST: u64 = 64 << 10;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file, whose body follows.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    SymbolicLink,
    /// Something else.
    Other,
}

/// An entry without its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name, wherever that leads.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Its permissions.
    pub mode: u32,
    /// When it was changed last, in seconds since 1970.
    pub modified: u64,
    /// Bytes of its body.
    pub size: u64,
}

impl Entry {
    /// The bytes before its body.
    pub(super) fn header(&self) -> Vec<u8> {
        let split = split(&self.name);
        let mut more = Vec::new();
        if split.is_none() || !self.name.is_ascii() {
            more.extend(record("path", &self.name));
        }
        if self.size > LARGEST {
            more.extend(record("size", self.size.to_string().as_bytes()));
        }
        let mut header = Vec::with_capacity(BLOCK);
        if !more.is_empty() {
            header.extend(block(b"", b"PaxHeaders.0/entry", 0o644, more.len() as u64, self.modified, b'x'));
            header.extend(&more);
            header.resize(header.len().next_multiple_of(BLOCK), 0);
        }
        let cut = &self.name[..self.name.len().min(100)];
        let (prefix, name) = split.unwrap_or((b"", cut));
        let kind = if self.kind == Kind::Folder { b'5' } else { b'0' };
        let size = if self.size > LARGEST { 0 } else { self.size };
        header.extend(block(prefix, name, self.mode, size, self.modified, kind));
        header
    }
}

/// Prefix and name, as they fit into a header.
fn split(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if name.len() <= 100 {
        return Some((b"", name));
    }
    let fits = |at: &usize| name.get(*at) == Some(&b'/') && *at <= 155 && (1..=100).contains(&(name.len() - at - 1));
    let at = (1..name.len()).find(fits)?;
    Some((&name[..at], &name[at + 1..]))
}

/// A PAX record, whose length counts its own digits.
fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = 3 + key.len() + value.len();
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key.as_bytes(), b"=", value, b"\n"].concat()
}

fn block(prefix: &[u8], name: &[u8], mode: u32, size: u64, modified: u64, kind: u8) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name);
    put(100, format!("{:07o}", mode & 0o7777).as_bytes());
    put(108, b"0000000\x000000000");
    put(124, format!("{size:011o}").as_bytes());
    put(136, format!("{:011o}", modified.min(LARGEST)).as_bytes());
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    put(329, b"0000000\x000000000");
    put(345, prefix);
    let sum: u32 = block.iter().copied().map(u32::from).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// Reads an archive, entry by entry; as a reader it gives the current entry's body.
pub struct Entries<R> {
    from: R,
    /// What is left of the current entry's body, and what fills it up.
    body: u64,
    padding: u64,
}

impl<R: Read> Entries<R> {
    /// At its beginning.
    pub fn new(from: R) -> Self {
        Self { from, body: 0, padding: 0 }
    }

    /// Goes to the next entry, passing over what was not read of this one; `None` at the end, behind which only zeros were.
    #[expect(clippy::should_implement_trait, reason = "an iterator would end in two ways")]
    pub fn next(&mut self) -> io::Result<Option<Entry>> {
        self.pass_over()?;
        let (mut long_name, mut long_size) = (None, None);
        loop {
            let mut header = [0; BLOCK];
            if !fill_or_end(&mut self.from, &mut header)? {
                return Err(Fault::Cut.into());
            }
            if header.iter().all(|byte| *byte == 0) {
                self.end()?;
                return Ok(None);
            }
            let sum: u64 = header
                .iter()
                .enumerate()
                .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u64::from(*byte) })
                .sum();
            if number(&header[148..156]) != Some(sum) {
                return Err(Fault::Damaged("a header of the archive has another checksum").into());
            }
            let size = number(&header[124..136]).ok_or(Fault::Damaged("an entry of the archive has no size"))?;
            match header[156] {
                b'x' | b'L' => {
                    let more = self.more(size)?;
                    if header[156] == b'L' {
                        long_name = Some(until_zero(&more).to_vec());
                    } else {
                        for (key, value) in records(&more)? {
                            match key {
                                b"path" => long_name = Some(value.to_vec()),
                                b"size" => {
                                    let size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                                    long_size =
                                        Some(size.ok_or(Fault::Damaged("an entry of the archive has no size"))?);
                                }
                                _ => {}
                            }
                        }
                    }
                }
                // What holds for all entries behind it: nothing that is needed.
                b'g' | b'K' => drop(self.more(size)?),
                kind => {
                    let size = long_size.unwrap_or(size);
                    let kind = match kind {
                        b'0' | 0 | b'7' => Kind::File,
                        b'5' => Kind::Folder,
                        b'2' => Kind::SymbolicLink,
                        _ => Kind::Other,
                    };
                    self.body = if kind == Kind::File { size } else { 0 };
                    self.padding = self.body.wrapping_neg() % BLOCK as u64;
                    let name = long_name.unwrap_or_else(|| short_name(&header));
                    let mode = u32::try_from(number(&header[100..108]).unwrap_or(0) & 0o7777).unwrap_or(0);
                    let modified = number(&header[136..148]).unwrap_or(0);
                    return Ok(Some(Entry { name, kind, mode, modified, size: self.body }));
                }
            }
        }
    }

    /// The body of a header that says more about another.
    fn more(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > LONGEST {
            return Err(Fault::Damaged("a header of the archive is larger than any should be").into());
        }
        let mut more = vec![0; usize::try_from(size).unwrap_or_default()];
        self.from.read_exact(&mut more)?;
        (self.body, self.padding) = (0, size.wrapping_neg() % BLOCK as u64);
        self.pass_over()?;
        Ok(more)
    }

    fn pass_over(&mut self) -> io::Result<()> {
        let rest = std::mem::take(&mut self.body).saturating_add(std::mem::take(&mut self.padding));
        let passed = io::copy(&mut self.from.by_ref().take(rest), &mut io::sink())?;
        if passed < rest { Err(Fault::Cut.into()) } else { Ok(()) }
    }

    /// Reads to the end of the stream, where only zeros may be.
    fn end(&mut self) -> io::Result<()> {
        let mut rest = vec![0; 64 << 10];
        loop {
            let read = fill(&mut self.from, &mut rest)?;
            if rest[..read].iter().any(|byte| *byte != 0) {
                return Err(Fault::Damaged("something follows the end of the archive").into());
            }
            if read < rest.len() {
                return Ok(());
            }
        }
    }
}

impl<R: Read> Read for Entries<R> {
    /// Reads the body of the current entry.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.body).map_or(into.len(), |left| left.min(into.len()));
        if most == 0 {
            return Ok(0);
        }
        let read = self.from.read(&mut into[..most])?;
        if read == 0 {
            return Err(Fault::Cut.into());
        }
        self.body -= read as u64;
        Ok(read)
    }
}

fn short_name(header: &[u8; BLOCK]) -> Vec<u8> {
    let (prefix, name) = (until_zero(&header[345..500]), until_zero(&header[..100]));
    // GNU's own headers keep other things where USTAR has the prefix.
    let is_ustar = header.get(257..263) == Some(b"ustar\0");
    if is_ustar && !prefix.is_empty() { [prefix, b"/", name].concat() } else { name.to_vec() }
}

fn until_zero(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A number of a header: octal digits, or bytes behind one whose highest bit is set.
fn number(field: &[u8]) -> Option<u64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        let digits = std::iter::once(first & 0x7F).chain(rest.iter().copied());
        return digits.into_iter().try_fold(0_u64, |sum, byte| sum.checked_mul(256)?.checked_add(u64::from(byte)));
    }
    let text = std::str::from_utf8(until_zero(field)).ok()?.trim_matches(' ');
    if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
}

/// `length key=value\n`, one behind the other.
fn records(mut rest: &[u8]) -> io::Result<Vec<(&[u8], &[u8])>> {
    let mut all = Vec::new();
    while !rest.is_empty() {
        let parse = || {
            let space = rest.iter().position(|byte| *byte == b' ')?;
            let length: usize = std::str::from_utf8(rest.get(..space)?).ok()?.parse().ok()?;
            let (record, behind) = rest.split_at_checked(length)?;
            let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
            let equals = record.iter().position(|byte| *byte == b'=')?;
            Some((&record[..equals], &record[equals + 1..], behind))
        };
        let (key, value, behind) = parse().ok_or(Fault::Damaged("a header of the archive is not what it should be"))?;
        all.push((key, value));
        rest = behind;
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::{BLOCK, Entries, Entry, Kind, LARGEST};

    fn entry(name: &str, size: u64) -> Entry {
        Entry { name: name.into(), kind: Kind::File, mode: 0o600, modified: 1_700_000_000, size }
    }

    #[test]
    fn a_header_comes_back_from_its_bytes() {
        let deep = format!("/pg_tblspc/16384/{}/5/16385", "x".repeat(100));
        let hopeless = format!("/{}", "y".repeat(300));
        for name in ["/", "/base/1/1259", "backup_label", &deep, &hopeless, "/ünïcödé"] {
            for size in [0, 1, LARGEST, LARGEST + 1, 1 << 40] {
                let written = entry(name, size);
                let header = written.header();
                assert_eq!(header.len() % BLOCK, 0);
                assert_eq!(Entries::new(&header[..]).next().unwrap(), Some(written), "{name} {size}");
            }
        }
    }

    #[test]
    fn what_gnu_tar_makes_of_the_header_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tar");
        let deep = format!("pg_tblspc/16384/{}/5/{}", "x".repeat(100), "z".repeat(160));
        let mut archive = entry(&deep, 3).header();
        archive.extend(b"abc");
        archive.resize(archive.len().next_multiple_of(BLOCK) + 2 * BLOCK, 0);
        std::fs::write(&path, &archive).unwrap();
        let listed = std::process::Command::new("tar").arg("tf").arg(&path).output().unwrap();
        assert_eq!(String::from_utf8(listed.stdout).unwrap().trim(), deep);
        assert!(listed.stderr.is_empty());

        let long = format!("{}/{}", "d".repeat(90), "e".repeat(120));
        std::fs::create_dir_all(folder.path().join(&long).parent().unwrap()).unwrap();
        std::fs::write(folder.path().join(&long), "text").unwrap();
        for format in ["gnu", "pax", "ustar"] {
            let tar = std::process::Command::new("tar")
                .arg("-C")
                .arg(folder.path())
                .arg(format!("--format={format}"))
                .args(["-c", &long])
                .output()
                .unwrap();
            if !tar.status.success() {
                continue; // USTAR is too narrow.
            }
            let mut entries = Entries::new(&tar.stdout[..]);
            let found = entries.next().unwrap().unwrap();
            assert_eq!((String::from_utf8(found.name).unwrap(), found.size), (long.clone(), 4), "{format}");
            let mut body = String::new();
            entries.read_to_string(&mut body).unwrap();
            assert_eq!(body, "text");
            assert_eq!(entries.next().unwrap(), None);
        }
    }

    #[test]
    fn an_end_that_is_none_is_an_error() {
        let mut archive = entry("a", 3).header();
        archive.extend(b"abc");
        archive.resize(2 * BLOCK, 0);
        let mut cut = Entries::new(&archive[..]);
        assert!(cut.next().unwrap().is_some());
        assert!(cut.next().is_err(), "without an end");
        archive.resize(4 * BLOCK, 0);
        archive.push(1);
        let mut more = Entries::new(&archive[..]);
        assert!(more.next().unwrap().is_some());
        assert!(more.next().is_err(), "with something behind the end");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..3000), place in 0_usize..1024, value: u8) {
            let walk = |bytes: &[u8]| {
                let mut entries = Entries::new(bytes);
                while let Ok(Some(_)) = entries.next() {}
            };
            walk(&bytes);
            let mut archive = [entry(&"n".repeat(200), 1 << 40).header(), bytes].concat();
            let place = place % archive.len();
            archive[place] = value;
            walk(&archive);
        }
    }
}
