//! The formats at rest, each one open and readable by stock tools.

mod deflate;
pub mod dump;
pub mod restic;
