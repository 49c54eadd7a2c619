//! The pure brain of Windlass.
//!
//! Everything here is a value or a function of values: identifiers, schedules, retention, plans, and the
//! rule that says whether an application is protected. Nothing reads a clock, a file, the network or the
//! environment; the present moment is an argument called `now`. So every decision Windlass takes can be
//! shown before it is carried out, and tested without a machine.

pub mod application;
pub mod coverage;
pub mod diagnose;
pub mod duration;
pub mod evidence;
pub mod hex;
pub mod id;
pub mod name;
pub mod plugin;
pub mod point;
pub mod protection;
pub mod repository;
pub mod restore;
pub mod retention;
pub mod schedule;
pub mod secret;
pub mod selector;
pub mod size;
pub mod task;
pub mod verification;
pub mod wal;
