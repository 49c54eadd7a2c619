//! What a running task tells whoever watches.

use windlass_core::name::Name;

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// A step began: `dump database shop`, for one.
    Step {
        /// The component it belongs to.
        component: &'a Name,
        /// What it does, in words.
        text: &'a str,
        /// How many bytes it will be, where that is known.
        total: Option<u64>,
    },
    /// Bytes were moved.
    Bytes {
        /// The component they belong to.
        component: &'a Name,
        /// How many more.
        more: u64,
    },
    /// How far it is, where that is not told by bytes.
    At {
        /// The component.
        component: &'a Name,
        /// The place: `0/3000000`, for one.
        place: &'a str,
    },
    /// A component is done.
    Done {
        /// The component.
        component: &'a Name,
        /// What came of it, in words.
        text: &'a str,
    },
    /// Something a person should know, though the task goes on.
    Warning {
        /// In words.
        text: &'a str,
    },
}

/// Whoever watches.
pub trait Progress: Send + Sync {
    /// Takes note; must not block.
    fn event(&self, event: Event<'_>);
}

/// Nobody watches.
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _: Event<'_>) {}
}
