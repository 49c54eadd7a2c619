//! Strategies that move data between a source and a repository.

pub mod action;
pub mod postgres;
pub mod process;
pub mod progress;
pub mod supervisor;
