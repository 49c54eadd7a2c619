//! Strategies that move data between a source and a repository.

pub mod postgres;
