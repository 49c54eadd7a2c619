//! The operator: custom resources, and the reconcilers that make a cluster what they say.
//!
//! Promised: what matters is in objects and in repositories, never in memory, so that an operator that is killed at any
//! moment, or of which there are two, converges; data are deleted by nothing but a rule somebody wrote.

pub mod api;
mod backoff;
pub mod client;
mod connection;
mod context;
mod drill;
pub mod error;
mod job;
mod keeper;
mod kryton;
mod leadership;
mod lost;
mod metrics;
mod objects;
mod operator;
mod release;
mod restore;
pub mod snapshot;
mod status;
mod turns;

pub use self::operator::{Options, run};
