//! Stories of the operator against an API server that misbehaves, and of its own death: real API servers without nodes,
//! the real helm and chart, a real S3 server, and a proxy between operator and API server.
//!
//! The operator is a process here, with the rights that `config/` grants it. Nothing runs Pods: what a Job would come to is
//! written into its status by the story, and the application is never ready.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod crowd;
mod killed;
mod leaders;
mod operator;
mod releases;
mod stage;
mod trouble;
mod world;
mod wrong;
