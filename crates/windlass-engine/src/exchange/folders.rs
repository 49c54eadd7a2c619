//! What folders are, written down before their entries are moved and set again when others are in.
//!
//! One JSON object a line, a folder's own folders before it: setting a folder's time must be the last thing done in it.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Timespec, Timestamps, futimens};
use serde::{Deserialize, Serialize};
use windlass_core::hex;
use xattr::FileExt;

use super::walk::{Folder, Scope};
use super::{ExchangeError, wrong};

#[derive(Serialize, Deserialize)]
struct Line {
    /// The path below the root, its bytes in hex; empty for the root.
    path: String,
    mode: u32,
    uid: u32,
    gid: u32,
    seconds: i64,
    nanoseconds: i64,
    /// Names and values, in hex.
    attributes: Vec<(String, String)>,
}

/// Writes down all folders that are meant, and the root where it is one of them.
pub(super) fn record(root: &Folder, scope: &Scope<'_>, list: &Path, with_root: bool) -> Result<(), ExchangeError> {
    let failed = |error| wrong("write", list, error);
    let new = list.with_extension("new");
    let mut out = BufWriter::new(File::create(&new).map_err(failed)?);
    write(root, scope, &mut out, list, with_root)?;
    let file = out.into_inner().map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(failed)?;
    std::fs::rename(&new, list).map_err(failed)
}

fn write(
    folder: &Folder,
    scope: &Scope<'_>,
    out: &mut impl Write,
    list: &Path,
    with_it: bool,
) -> Result<(), ExchangeError> {
    for entry in folder.entries()? {
        let relative = folder.relative.join(entry.name());
        if entry.kind == FileType::Directory && scope.holds(&relative) && !scope.is_mount(&relative) {
            write(&folder.enter(entry.name())?, scope, out, list, true)?;
        }
    }
    if !with_it {
        return Ok(());
    }
    let line = look(folder).map_err(|error| wrong("look at the folder", &folder.relative, error))?;
    let mut text = serde_json::to_vec(&line).map_err(|error| wrong("write", list, error.into()))?;
    text.push(b'\n');
    out.write_all(&text).map_err(|error| wrong("write", list, error))
}

fn look(folder: &Folder) -> std::io::Result<Line> {
    let file = File::from(folder.handle.try_clone()?);
    let meta = file.metadata()?;
    let mut attributes = Vec::new();
    for name in attribute_names(&file)? {
        if let Some(value) = file.get_xattr(&name)? {
            attributes.push((hex::encode(name.as_bytes()), hex::encode(&value)));
        }
    }
    Ok(Line {
        path: hex::encode(folder.relative.as_os_str().as_bytes()),
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        seconds: meta.mtime(),
        nanoseconds: meta.mtime_nsec(),
        attributes,
    })
}

fn attribute_names(file: &File) -> std::io::Result<Vec<std::ffi::OsString>> {
    match file.list_xattr() {
        Ok(names) => Ok(names.collect()),
        // The file system has none.
        Err(error) if error.kind() == std::io::ErrorKind::Unsupported => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Sets what was written down; says what could not be set. A folder that is not there is passed over: it is made with its
/// parent, or it is somebody else's.
pub(super) fn dress(root: &Folder, list: &Path, not_the_root: bool) -> Result<Vec<String>, ExchangeError> {
    let failed = |error| wrong("read", list, error);
    let mut warnings = Vec::new();
    for line in BufReader::new(File::open(list).map_err(failed)?).lines() {
        let line: Line = serde_json::from_str(&line.map_err(failed)?).map_err(|error| failed(error.into()))?;
        let bytes = hex::decode(&line.path).ok_or_else(|| failed(std::io::Error::other("it is damaged")))?;
        let relative = PathBuf::from(std::ffi::OsString::from_vec(bytes));
        if relative.as_os_str().is_empty() && not_the_root {
            continue;
        }
        let Some(folder) = descend(root, &relative) else { continue };
        for (what, error) in set(&folder, &line) {
            warnings.push(format!("the {what} of the folder `{}` could not be set: {error}", relative.display()));
        }
    }
    Ok(warnings)
}

fn descend(root: &Folder, relative: &Path) -> Option<File> {
    let mut folder = File::from(root.handle.try_clone().ok()?);
    for name in relative {
        let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC;
        folder = rustix::fs::openat(&folder, name, flags, rustix::fs::Mode::empty()).ok()?.into();
    }
    Some(folder)
}

/// Sets all that can be set; what could not, and why.
fn set(folder: &File, line: &Line) -> Vec<(&'static str, std::io::Error)> {
    let is_owned = folder.metadata().is_ok_and(|meta| (meta.uid(), meta.gid()) == (line.uid, line.gid));
    let owner = if is_owned { Ok(()) } else { fchown(folder, Some(line.uid), Some(line.gid)) };
    let mode = folder.set_permissions(std::fs::Permissions::from_mode(line.mode));
    let attributes = set_attributes(folder, line);
    let time = Timespec { tv_sec: line.seconds, tv_nsec: line.nanoseconds };
    let times = futimens(folder, &Timestamps { last_access: time, last_modification: time });
    let all = [("owner", owner), ("mode", mode), ("attributes", attributes), ("time", times.map_err(Into::into))];
    all.into_iter().filter_map(|(what, done)| Some((what, done.err()?))).collect()
}

fn set_attributes(folder: &File, line: &Line) -> std::io::Result<()> {
    let there = attribute_names(folder)?;
    for name in &there {
        if !line.attributes.iter().any(|(wanted, _)| *wanted == hex::encode(name.as_bytes())) {
            folder.remove_xattr(name)?;
        }
    }
    for (name, value) in &line.attributes {
        let (Some(name), Some(value)) = (hex::decode(name), hex::decode(value)) else { continue };
        let name = std::ffi::OsString::from_vec(name);
        // Some may be read by everybody and set by few; those that are right already are left alone.
        if folder.get_xattr(&name)?.as_ref() != Some(&value) {
            folder.set_xattr(name, &value)?;
        }
    }
    Ok(())
}
