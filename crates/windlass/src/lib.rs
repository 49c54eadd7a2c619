//! What the `windlass` command is made of, as a library: so that its tests and the generators of its
//! documents use the very code the command runs.

pub mod settings;
