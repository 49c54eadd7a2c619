//! A folder with everything that is hard to bring back, and a description of folders to compare them by.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write;
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use anyhow::Result;
use ring::digest::{SHA256, digest};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, mknodat, utimensat};

/// Describes everything below a folder: names as bytes, types, modes, owners, times to the nanosecond, link targets,
/// which names are hard links of each other, attributes, contents. Two folders with one description are alike.
pub fn describe(root: &Path) -> Result<String> {
    let mut text = String::new();
    let mut linked = BTreeMap::new();
    walk(root, root, &mut linked, &mut text)?;
    Ok(text)
}

/// Panics with the lines that differ where two descriptions do.
pub fn assert_same(found: &str, expected: &str) {
    if found == expected {
        return;
    }
    let (mut missing, mut extra): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), found.lines().collect());
    missing.retain(|line| !found.lines().any(|other| other == *line));
    extra.retain(|line| !expected.lines().any(|other| other == *line));
    assert!(
        found == expected,
        "expected, and not found:\n{}\nfound instead:\n{}",
        missing.join("\n"),
        extra.join("\n")
    );
}

fn walk(root: &Path, path: &Path, linked: &mut BTreeMap<(u64, u64), String>, text: &mut String) -> Result<()> {
    let meta = fs::symlink_metadata(path)?;
    let kind = meta.file_type();
    let name = path.strip_prefix(root)?.as_os_str().as_bytes().escape_ascii().to_string();
    write!(text, "{name:?} {:o} {}:{} {}.{:09}", meta.mode(), meta.uid(), meta.gid(), meta.mtime(), meta.mtime_nsec())?;
    if kind.is_symlink() {
        write!(text, " -> {}", fs::read_link(path)?.as_os_str().as_bytes().escape_ascii())?;
    } else {
        for attribute in xattr::list(path)? {
            let value = xattr::get(path, &attribute)?.unwrap_or_default();
            write!(text, " {}={}", attribute.display(), value.escape_ascii())?;
        }
    }
    if kind.is_file() {
        let bytes = fs::read(path)?;
        write!(text, " {} bytes {:x?}", bytes.len(), digest(&SHA256, &bytes).as_ref().get(..8))?;
        if meta.nlink() > 1 {
            let first = linked.entry((meta.dev(), meta.ino())).or_insert_with(|| name.clone());
            write!(text, " same as {first:?}")?;
        }
    } else if kind.is_char_device() || kind.is_block_device() {
        write!(text, " device {}", meta.rdev())?;
    }
    text.push('\n');
    if kind.is_dir() {
        let mut entries = fs::read_dir(path)?.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>()?;
        entries.sort();
        for entry in entries {
            if !fs::symlink_metadata(&entry)?.file_type().is_socket() {
                walk(root, &entry, linked, text)?;
            }
        }
    }
    Ok(())
}

/// Fills a folder with everything that is hard: odd names, not UTF-8 too, links, holes, times before 1970,
/// owners, attributes, special files, and a socket, which holds no data. Needs root for owners and devices.
pub fn make_hard(root: &Path) -> Result<()> {
    fs::create_dir_all(root.join("a/b/c"))?;
    fs::create_dir_all(root.join("empty folder"))?;
    fs::write(root.join("plain"), "plain\n")?;
    fs::write(root.join("empty"), "")?;
    fs::write(root.join("a/b/c/deep"), vec![7; 3_000_000])?;
    fs::write(root.join("new\nline \"quoted\" \u{1f9ed} \\ back"), "odd")?;
    fs::write(root.join(OsStr::from_bytes(b"not \xff\xfe utf-8")), "bytes")?;
    fs::write(root.join("-rf"), "dash")?;
    for number in 0..300 {
        fs::write(root.join(format!("a/small-{number:03}")), format!("{number}").repeat(number))?;
    }
    symlink("plain", root.join("link"))?;
    symlink("/nowhere/at all", root.join("dangling"))?;
    symlink(OsStr::from_bytes(b"\xff\xfe"), root.join("link to bytes"))?;
    fs::hard_link(root.join("plain"), root.join("a/hard"))?;
    fs::hard_link(root.join("plain"), root.join("a/b/harder"))?;
    let sparse = File::create(root.join("sparse"))?;
    sparse.set_len(50 << 20)?;
    sparse.write_all_at(b"island", 20 << 20)?;
    xattr::set(root.join("plain"), "user.comment", b"an attribute \xff")?;
    mknodat(CWD, root.join("fifo"), FileType::Fifo, Mode::RUSR, 0)?;
    drop(UnixListener::bind(root.join("socket"))?);
    if rustix::process::geteuid().is_root() {
        lchown(root.join("a/b"), Some(1234), Some(4321))?;
        lchown(root.join("link"), Some(1234), Some(4321))?;
        mknodat(CWD, root.join("null"), FileType::CharacterDevice, Mode::RUSR, rustix::fs::makedev(1, 3))?;
    }
    fs::set_permissions(root.join("-rf"), Permissions::from_mode(0o6750))?;
    fs::set_permissions(root.join("a/b"), Permissions::from_mode(0o1770))?;
    fs::set_permissions(root.join("empty folder"), Permissions::from_mode(0o500))?;
    set_time(&root.join("empty"), 1, 2)?;
    set_time(&root.join("-rf"), -86_400, 123_456_789)?;
    set_time(&root.join("link"), 1_600_000_000, 987_654_321)?;
    set_time(&root.join("a/b"), 1_700_000_000, 5)?;
    set_time(root, 1_500_000_000, 42)?;
    Ok(())
}

fn set_time(path: &Path, seconds: i64, nanos: i64) -> Result<()> {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}
