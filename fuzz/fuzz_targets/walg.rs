//! Base backups and WAL from the bucket: documents, names, archives however they are compressed, segments.
#![no_main]

use std::collections::BTreeMap;
use std::io::{Read, sink};

use libfuzzer_sys::fuzz_target;
use windlass_core::wal::SegmentSize;
use windlass_repo::format::walg::{
    Archive, Backup, BackupName, Codec, CommitWalk, FilesMetadata, KeyForm, Listing, Metadata, PartName, SealKey,
    SegmentHeader, Sentinel, Step, Target, open,
};

const CODECS: [Codec; 6] = [Codec::None, Codec::Lz4, Codec::Zstd, Codec::Gzip, Codec::Brotli, Codec::Lzma];

fuzz_target!(|bytes: &[u8]| {
    // The last byte says what they are, so that a real object is an input as it stands, but for that.
    let Some((kind, bytes)) = bytes.split_last() else { return };
    let name: BackupName = "base_000000010000000000000002".parse().expect("a name");
    match kind % 9 {
        0 => documents(&name, bytes),
        1 => {
            if let Ok(header) = SegmentHeader::read("segment", bytes) {
                let found = CommitWalk::new().segment(&header, bytes);
                assert!(found.end.since(header.start) <= bytes.len() as u64, "it ends within the segment");
            }
        }
        2 => archive(&name, bytes),
        kind => {
            let key = SealKey::parse("a key that is long enough", KeyForm::Raw).ok();
            let codec = CODECS[usize::from(kind) % CODECS.len()];
            for key in [None, key.as_ref()] {
                let content = open("object", codec, key, bytes).map(|content| content.take(64 << 20));
                let _ = content.map(|mut content| std::io::copy(&mut content, &mut sink()));
            }
        }
    }
});

fn documents(name: &BackupName, bytes: &[u8]) {
    if let Ok(sentinel) = Sentinel::read(name, bytes) {
        let again = sentinel.write().and_then(|written| Sentinel::read(name, &written)).expect("what was written");
        assert_eq!(again.delta, sentinel.delta);
    }
    let _ = Metadata::read(name, bytes);
    let _ = FilesMetadata::read(name, bytes);
    let text = String::from_utf8_lossy(bytes);
    let _ = Listing::read(text.lines(), SegmentSize::default());
}

/// Nothing is ever written beside the target.
fn archive(name: &BackupName, bytes: &[u8]) {
    let folder = std::env::temp_dir().join(format!("wl-fuzz-{}", std::process::id()));
    let data = folder.join("data");
    let _ = std::fs::remove_dir_all(&folder);
    let target = Target::create(&data, None, &BTreeMap::new()).expect("an empty folder");
    let backup = Backup { name: name.clone(), sentinel: Sentinel::default(), files: None };
    let steps = Step::plan(&[backup]).expect("a full backup");
    let part = PartName::numbered(1, Codec::None);
    let _ = target.unpack(&steps[0], Archive { name: &part, key: None, stored: bytes, again: false });
    let _ = target.finish(&steps);
    let beside = std::fs::read_dir(&folder).expect("the folder").count();
    assert_eq!(beside, 1, "something lies beside the target");
    let _ = std::fs::remove_dir_all(&folder);
}
