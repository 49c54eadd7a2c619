//! Stories of the operator on a real cluster, under the very rights that `config/` grants it.
//!
//! They need root and Go, for `bench/cluster`; `make test` says by name which were skipped where there is none of them.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod backups;
mod chart;
mod misfortunes;
mod nodes;
mod outages;
mod plugins;
mod pods;
mod releases;
mod restores;
mod rules;
mod samples;
mod snapshots;
mod stage;
mod versions;
