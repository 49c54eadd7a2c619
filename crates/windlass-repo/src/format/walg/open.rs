//! Opens an object: what is sealed is opened, what is compressed is unpacked, while it is read.

use std::io::{self, BufRead, BufReader, Cursor, Read};

use zlib_rs::{Inflate, InflateFlush, Status};

use super::error::Fault;
use super::seal::{Opener, SealKey};
use super::{Codec, WalgError};

/// The most memory that unpacking LZMA may ask for, in KiB: its dictionary. `wal-g` writes 8 MiB ones.
const LZMA_MEMORY: u32 = 256 << 10;

/// Compressed bytes that are read at once.
const BUFFER: usize = 128 << 10;

/// gzip's header, and the largest window: zlib's way to say that.
const GZIP_WINDOW: u8 = 16 + 15;

/// The content of an object by this name, from its bytes as stored. What goes wrong while it is read is understood by
/// [`WalgError::of_read`], which tells errors of the stream from damage of the object.
pub fn open<'a>(
    object: &str,
    codec: Codec,
    key: Option<&SealKey>,
    stored: impl Read + Send + 'a,
) -> Result<Box<dyn Read + Send + 'a>, WalgError> {
    let stored = Source(stored);
    match key {
        Some(key) => decompress(codec, Opener::new(key, BufReader::with_capacity(BUFFER, stored))),
        None => decompress(codec, stored),
    }
    .map_err(|error| WalgError::of_read(object, error))
}

pub(super) fn decompress<'a>(codec: Codec, packed: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut packed = BufReader::with_capacity(BUFFER, packed);
    Ok(match codec {
        Codec::None => Box::new(packed),
        Codec::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(packed)?),
        Codec::Lz4 => Box::new(Lz4(Lz4State::Between(packed))),
        Codec::Gzip => Box::new(Gzip { packed, stream: None, members: 0 }),
        Codec::Brotli => Box::new(brotli_decompressor::Decompressor::new(packed, BUFFER)),
        Codec::Lzma => {
            // Where it is empty there is no header to read the memory from.
            if packed.fill_buf()?.is_empty() {
                return Err(Fault::Cut.into());
            }
            Box::new(lzma_rust2::LzmaReader::new_mem_limit(packed, LZMA_MEMORY, None)?)
        }
    })
}

/// Marks the errors of the stream an object comes from, so that they are not taken for damage of the object.
struct Source<R>(R);

impl<R: Read> Read for Source<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into).map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => error,
            kind => io::Error::new(kind, Fault::Source(error)),
        })
    }
}

/// Frames of LZ4 one behind the other, with frames to skip between them.
struct Lz4<R>(Lz4State<R>);

type Frame<R> = io::Chain<Cursor<[u8; 4]>, R>;

enum Lz4State<R> {
    Between(R),
    /// The decoder reads beyond its frame where it is given little room, so the room is never less than [`BUFFER`].
    Within(Box<BufReader<lz4::Decoder<Frame<R>>>>),
    Over,
}

const LZ4_FRAME: u32 = 0x184D_2204;
const SKIPPABLE: std::ops::RangeInclusive<u32> = 0x184D_2A50..=0x184D_2A5F;

impl<R: Read> Lz4<R> {
    /// Goes to the next frame with content; `false` where there is none.
    fn begin(&mut self, mut packed: R) -> io::Result<bool> {
        loop {
            let mut magic = [0; 4];
            if !fill_or_end(&mut packed, &mut magic)? {
                return Ok(false);
            }
            match u32::from_le_bytes(magic) {
                LZ4_FRAME => {
                    let frame = lz4::Decoder::new(Cursor::new(magic).chain(packed))?;
                    self.0 = Lz4State::Within(Box::new(BufReader::with_capacity(BUFFER, frame)));
                    return Ok(true);
                }
                frame if SKIPPABLE.contains(&frame) => {
                    let mut length = [0; 4];
                    packed.read_exact(&mut length)?;
                    let length = u64::from(u32::from_le_bytes(length));
                    if io::copy(&mut packed.by_ref().take(length), &mut io::sink())? < length {
                        return Err(Fault::Cut.into());
                    }
                }
                _ => return Err(Fault::Damaged("where an LZ4 frame should begin is something else").into()),
            }
        }
    }
}

impl<R: Read> Read for Lz4<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        loop {
            match std::mem::replace(&mut self.0, Lz4State::Over) {
                Lz4State::Over => return Ok(0),
                Lz4State::Between(packed) => {
                    if !self.begin(packed)? {
                        return Ok(0);
                    }
                }
                Lz4State::Within(mut frame) => {
                    let read = frame.read(into);
                    if !matches!(read, Ok(0)) {
                        self.0 = Lz4State::Within(frame);
                        return read;
                    }
                    let (packed, ended) = frame.into_inner().finish();
                    ended.map_err(|_| Fault::Cut)?;
                    self.0 = Lz4State::Between(packed.into_inner().1);
                }
            }
        }
    }
}

/// Fills a buffer; `false` where the stream is at its end.
pub(super) fn fill_or_end(from: &mut impl Read, into: &mut [u8]) -> io::Result<bool> {
    match fill(from, into)? {
        0 => Ok(false),
        filled if filled == into.len() => Ok(true),
        _ => Err(Fault::Cut.into()),
    }
}

/// Reads until a buffer is full or the stream is at its end. Returns how much was read.
pub(super) fn fill(from: &mut impl Read, into: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < into.len() {
        match from.read(&mut into[filled..]) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Members of gzip one behind the other.
struct Gzip<R> {
    packed: BufReader<R>,
    /// The member being read.
    stream: Option<Inflate>,
    members: u64,
}

impl<R: Read> Read for Gzip<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        loop {
            let packed = self.packed.fill_buf()?;
            if packed.is_empty() {
                let is_whole = self.stream.is_none() && self.members > 0;
                return if is_whole { Ok(0) } else { Err(Fault::Cut.into()) };
            }
            let stream = self.stream.get_or_insert_with(|| Inflate::new(true, GZIP_WINDOW));
            let (read, written) = (stream.total_in(), stream.total_out());
            let status = stream
                .decompress(packed, into, InflateFlush::NoFlush)
                .map_err(|_| Fault::Damaged("what is compressed cannot be unpacked"))?;
            let (read, written) = (stream.total_in() - read, stream.total_out() - written);
            self.packed.consume(usize::try_from(read).unwrap_or(usize::MAX));
            if matches!(status, Status::StreamEnd) {
                self.stream = None;
                self.members += 1;
            } else if read == 0 && written == 0 {
                return Err(Fault::Damaged("what is compressed cannot be unpacked").into());
            }
            if written > 0 {
                return Ok(usize::try_from(written).unwrap_or(usize::MAX));
            }
        }
    }
}
