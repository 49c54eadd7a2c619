//! Strategies that move data between a source and a repository, and the tasks made of them.

pub mod action;
pub mod agent;
pub mod backup;
pub mod checks;
pub mod exchange;
pub mod moment;
pub mod plugins;
pub mod postgres;
pub mod process;
pub mod progress;
pub mod restore;
pub mod supervisor;
