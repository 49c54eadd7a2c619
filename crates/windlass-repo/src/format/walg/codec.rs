//! How objects are compressed.
//!
//! What is written is cut into pieces of at most [`FRAME`], each compressed by itself into a frame: several threads can do that
//! side by side, and frames one behind the other are one object to every reader of the formats, stock `wal-g` among them.

use std::io::Write;

pub use windlass_core::wal::{Codec, Compression};

use super::WalgError;

/// The bytes that are compressed into one frame, if there are as many.
pub const FRAME: usize = 4 << 20;

/// Compresses pieces into frames; one for each thread, as it keeps its memory.
pub struct Compressor {
    inner: Inner,
    frame: Vec<u8>,
}

enum Inner {
    Zstd(Box<zstd::bulk::Compressor<'static>>),
    Lz4,
}

impl Compressor {
    /// At the settings given.
    pub fn new(compression: Compression) -> Result<Self, WalgError> {
        let inner = match compression {
            Compression::Lz4 => Inner::Lz4,
            Compression::Zstd(level) => {
                let mut context = zstd::bulk::Compressor::new(level).map_err(failed)?;
                context.include_checksum(true).map_err(failed)?;
                context.include_contentsize(true).map_err(failed)?;
                Inner::Zstd(Box::new(context))
            }
        };
        Ok(Self { inner, frame: Vec::new() })
    }

    /// One piece as a frame that carries a checksum of its content. An empty one is a frame too.
    pub fn frame(&mut self, plain: &[u8]) -> Result<&[u8], WalgError> {
        match &mut self.inner {
            Inner::Zstd(context) => {
                self.frame.clear();
                self.frame.reserve(zstd::zstd_safe::compress_bound(plain.len()));
                context.compress_to_buffer(plain, &mut self.frame).map_err(failed)?;
            }
            Inner::Lz4 => {
                let mut into = std::mem::take(&mut self.frame);
                into.clear();
                let block = match plain.len() {
                    0..=0x1_0000 => lz4::BlockSize::Max64KB,
                    0x1_0001..=0x10_0000 => lz4::BlockSize::Max1MB,
                    _ => lz4::BlockSize::Max4MB,
                };
                let mut encoder = lz4::EncoderBuilder::new()
                    .block_size(block)
                    .block_mode(lz4::BlockMode::Independent)
                    .checksum(lz4::ContentChecksum::ChecksumEnabled)
                    .block_checksum(lz4::liblz4::BlockChecksum::NoBlockChecksum)
                    .content_size(plain.len() as u64)
                    .build(into)
                    .map_err(failed)?;
                encoder.write_all(plain).map_err(failed)?;
                let (frame, done) = encoder.finish();
                done.map_err(failed)?;
                self.frame = frame;
            }
        }
        Ok(&self.frame)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is handed to map_err")]
fn failed(error: std::io::Error) -> WalgError {
    WalgError::Pack { why: error.to_string() }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "the numbers of tests are small, or meant to be cut")]
mod tests {
    use std::io::{Read, Write};
    use std::process::{Command, Stdio};

    use proptest::prelude::*;
    use windlass_core::hex;

    use super::{Codec, Compression, Compressor};
    use crate::format::walg::WalgError;
    use crate::format::walg::open::decompress;

    fn unpack(codec: Codec, packed: &[u8]) -> Result<Vec<u8>, WalgError> {
        let mut plain = Vec::new();
        let read = decompress(codec, packed).and_then(|mut reader| reader.read_to_end(&mut plain));
        read.map(|_| plain).map_err(|error| WalgError::of_read("object", error))
    }

    /// What compresses well, and what does not at all.
    fn sample(length: usize) -> Vec<u8> {
        let mut state = 7_u32;
        let noise = |index: usize| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if (index / 5000).is_multiple_of(2) { (index / 100) as u8 } else { (state >> 24) as u8 }
        };
        (0..length).map(noise).collect()
    }

    /// What a stock program makes of bytes.
    fn piped(program: &str, args: &[&str], input: &[u8]) -> Vec<u8> {
        let mut child =
            Command::new(program).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect(program);
        let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_vec());
        let writing = std::thread::spawn(move || stdin.write_all(&input));
        let output = child.wait_with_output().unwrap();
        writing.join().unwrap().unwrap();
        assert!(output.status.success(), "{program}");
        output.stdout
    }

    #[test]
    fn a_name_says_how_it_is_compressed() {
        for name in ["part_001.tar.lz4", "000000010000000000000002.zst", "a.br", "a.lzma", "a.gz"] {
            let (stem, codec) = Codec::split(name);
            assert_eq!(format!("{stem}.{}", codec.extension().unwrap()), name);
        }
        assert_eq!(Codec::split("part_001.tar"), ("part_001.tar", Codec::None));
        assert_eq!(Codec::split("lz4"), ("lz4", Codec::None));
    }

    #[test]
    fn frames_one_behind_the_other_are_one_object_to_us_and_to_the_stock_tools() {
        let plain = sample(3_000_000);
        for (compression, program) in [(Compression::Lz4, "lz4"), (Compression::Zstd(1), "zstd")] {
            let mut compressor = Compressor::new(compression).unwrap();
            let mut packed = Vec::new();
            for piece in plain.chunks(1 << 20) {
                packed.extend(compressor.frame(piece).unwrap());
            }
            packed.extend(compressor.frame(&[]).unwrap());
            assert!(packed.len() < plain.len());
            assert_eq!(unpack(compression.codec(), &packed).unwrap(), plain);
            assert_eq!(piped(program, &["-dc"], &packed), plain);
        }
    }

    #[test]
    fn skippable_frames_are_passed_over_wherever_they_are() {
        let skippable = [&0x184D_2A5E_u32.to_le_bytes()[..], &5_u32.to_le_bytes(), b"index"].concat();
        for compression in [Compression::Lz4, Compression::Zstd(1)] {
            let frame = Compressor::new(compression).unwrap().frame(b"content").unwrap().to_vec();
            let packed = [&skippable[..], &frame, &skippable, &frame, &skippable].concat();
            assert_eq!(unpack(compression.codec(), &packed).ok(), Some(b"contentcontent".to_vec()), "{compression:?}");
        }
    }

    #[test]
    fn what_the_stock_tools_pack_is_read() {
        let plain = sample(700_000);
        for (program, args, codec) in [
            ("lz4", &["-c", "-BD", "-B4"][..], Codec::Lz4),
            ("zstd", &["-c"], Codec::Zstd),
            ("xz", &["-c", "--format=lzma"], Codec::Lzma),
            ("gzip", &["-c"], Codec::Gzip),
        ] {
            let packed = piped(program, args, &plain);
            assert_eq!(unpack(codec, &packed).unwrap(), plain, "{program}");
            if codec != Codec::Lzma {
                let twice = [&packed[..], &packed].concat();
                assert_eq!(unpack(codec, &twice).unwrap().len(), 2 * plain.len(), "{program}");
            }
            for cut in [packed.len() / 3, packed.len() - 1] {
                let error = unpack(codec, &packed[..cut]).expect_err(program);
                assert!(matches!(error, WalgError::Cut { .. } | WalgError::Damaged { .. }), "{program}: {error}");
            }
        }
        assert_eq!(unpack(Codec::None, &plain).unwrap(), plain);
    }

    #[test]
    fn brotli_is_read() {
        // 40 times "hello brotli, ", by libbrotlienc 1.0.9 with quality 3.
        let packed = hex::decode("1b2f0200006a87d3faf65fa788e2785230180fdcd310d5e5590b").unwrap();
        assert_eq!(unpack(Codec::Brotli, &packed).unwrap(), b"hello brotli, ".repeat(40));
        for cut in 0..packed.len() {
            let error = unpack(Codec::Brotli, &packed[..cut]).unwrap_err();
            assert!(matches!(error, WalgError::Cut { .. } | WalgError::Damaged { .. }), "{cut}");
        }
        // The stream of no bytes (RFC 7932, 9.1).
        assert_eq!(unpack(Codec::Brotli, &[0x06]).unwrap(), b"");
    }

    /// A frame as others may make it: blocks that lean on those before, checksums of each or none at all.
    fn lz4_frame(plain: &[u8], block: u8, linked: bool, checksums: bool) -> Vec<u8> {
        let mut builder = lz4::EncoderBuilder::new();
        builder.block_size(match block {
            0 => lz4::BlockSize::Max64KB,
            1 => lz4::BlockSize::Max256KB,
            _ => lz4::BlockSize::Max4MB,
        });
        builder.block_mode(if linked { lz4::BlockMode::Linked } else { lz4::BlockMode::Independent });
        if !checksums {
            builder
                .block_checksum(lz4::liblz4::BlockChecksum::NoBlockChecksum)
                .checksum(lz4::ContentChecksum::NoChecksum);
        }
        let mut encoder = builder.build(Vec::new()).unwrap();
        encoder.write_all(plain).unwrap();
        encoder.finish().0
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn no_frame_is_read_beyond_its_end(
            lengths in proptest::collection::vec(0_usize..600_000, 1..4), block in 0_u8..3, linked: bool, checksums: bool,
            noise: bool, at_once in 1_usize..5000
        ) {
            let skippable = [&0x184D_2A50_u32.to_le_bytes()[..], &3_u32.to_le_bytes(), b"abc"].concat();
            let mut packed = Vec::new();
            let mut plain = Vec::new();
            for length in lengths {
                let more = if noise { crate::random::bytes::<5000>().unwrap().repeat(length / 5000 + 1) } else { sample(length) };
                packed.extend(lz4_frame(&more, block, linked, checksums));
                packed.extend(&skippable);
                plain.extend(more);
            }
            let (mut reader, mut read, mut piece) = (decompress(Codec::Lz4, &packed[..]).unwrap(), Vec::<u8>::new(), vec![0; at_once]);
            loop {
                match reader.read(&mut piece).unwrap() {
                    0 => break,
                    some => read.extend(&piece[..some]),
                }
            }
            prop_assert!(read == plain);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn damage_is_an_error_and_never_a_panic(
            position in 0_usize..1000, value: u8, cut in 0_usize..1000, compression in prop_oneof![
                Just(Compression::Lz4), Just(Compression::Zstd(1))
            ]
        ) {
            let plain = sample(20_000);
            let frame = Compressor::new(compression).unwrap().frame(&plain).unwrap().to_vec();
            let mut damaged = frame.clone();
            let place = position % damaged.len();
            damaged[place] = value;
            if damaged != frame && let Ok(read) = unpack(compression.codec(), &damaged) {
                // Only what says nothing of the content may differ, as the first nibble of a skippable frame does.
                prop_assert!(read == plain || read.is_empty());
            }
            let kept = cut % frame.len();
            prop_assert!(kept == 0 || unpack(compression.codec(), &frame[..kept]).is_err());
        }

        #[test]
        fn no_bytes_make_a_reader_panic(bytes: Vec<u8>) {
            for codec in [Codec::Lz4, Codec::Zstd, Codec::Brotli, Codec::Lzma, Codec::Gzip] {
                let _ = unpack(codec, &bytes);
            }
        }
    }
}
