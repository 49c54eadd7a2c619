//! Stories of restores where the data live, and of going back.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]
#![allow(dead_code, clippy::panic, reason = "each file of stories uses what it needs of the stage")]

mod databases;
mod folders;
mod killed;
mod stage;
#[path = "../story/mod.rs"]
mod story;
mod trouble;
mod whole;
