//! The formats at rest, each one open and readable by stock tools.

pub mod dump;
pub mod restic;
pub mod walg;
