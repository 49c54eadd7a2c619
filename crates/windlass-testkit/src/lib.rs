//! Real servers, real folders and a faulty store, for tests.
//!
//! Everything here is the real thing but [`fault::FaultStore`], which stands before a real store and misbehaves,
//! [`network::Proxy`], which stands before a real server as a bad network would, and [`api_proxy::ApiProxy`], which stands before
//! a real API server.
//! What is missing on the machine is an error that says `make tools`, never a test that passes by doing nothing.

#![expect(clippy::panic, clippy::missing_panics_doc, reason = "a test that cannot go on panics")]

pub mod api_proxy;
pub mod cluster;
pub mod fault;
pub mod network;
pub mod postgres;
pub mod process;
pub mod s3;
pub mod tree;
