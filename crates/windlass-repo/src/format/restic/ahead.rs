//! Part of a pack, read at once for the blobs in it.
//!
//! `rustic_core` asks for one blob at a time. Whoever knows that it will ask for many of a pack reads their span first,
//! and runs the asking within [`reading`]: the backend then answers from the span, on this thread alone.

use std::cell::RefCell;

use bytes::Bytes;
use rustic_core::Id;

struct Span {
    pack: Id,
    offset: u32,
    bytes: Bytes,
}

thread_local! {
    static SPAN: RefCell<Option<Span>> = const { RefCell::new(None) };
}

/// Runs work for which a span of a pack was read.
pub(super) fn reading<T>(pack: Id, offset: u32, bytes: Bytes, work: impl FnOnce() -> T) -> T {
    SPAN.set(Some(Span { pack, offset, bytes }));
    let done = work();
    SPAN.set(None);
    done
}

/// Bytes of a pack, where they were read.
pub(super) fn find(pack: &Id, offset: u32, length: u32) -> Option<Bytes> {
    SPAN.with_borrow(|span| {
        let span = span.as_ref().filter(|span| span.pack == *pack)?;
        let from = usize::try_from(offset.checked_sub(span.offset)?).ok()?;
        let to = from.checked_add(usize::try_from(length).ok()?)?;
        (to <= span.bytes.len()).then(|| span.bytes.slice(from..to))
    })
}
