//! The tasks of a restore in place, and those that go back.

use serde::{Deserialize, Serialize};
use windlass_core::restore::{Old, Plan, Step};

use super::journal::{Journal, Task};

/// A task of a restore; the number is a step of the plan, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "task", content = "step", rename_all = "kebab-case")]
pub enum Forward {
    /// Stop the application.
    Stop,
    /// Set a database aside.
    Fence(usize),
    /// Delete the database that was set aside, where there is no room for two.
    Delete(usize),
    /// Restore a database or files beside what is there.
    LayDown(usize),
    /// Check a restored database.
    Check(usize),
    /// Give a restored database its name.
    Switch(usize),
    /// Stop a server.
    Halt(usize),
    /// Take files away that are there.
    TakeOut(usize),
    /// Remove folders that will not be there.
    Prune(usize),
    /// Put the restored files in.
    PutIn(usize),
    /// Start the restored server.
    Launch(usize),
    /// Give an object to a command.
    Command(usize),
    /// Start the application.
    Start,
    /// Check the application.
    Prove,
}

/// A task that goes back; the number is a step of the plan, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "task", content = "step", rename_all = "kebab-case")]
pub enum Back {
    /// Stop the application.
    Stop,
    /// Stop the restored server.
    Halt(usize),
    /// Take the restored files away.
    TakeOut(usize),
    /// Remove folders that were not there.
    Prune(usize),
    /// Put the files in that were there.
    PutIn(usize),
    /// Start the server that was there.
    Launch(usize),
    /// Give the database that was there its name again.
    Switch(usize),
    /// Start the application.
    Start,
    /// Remove what was restored and is of no use.
    Discard(usize),
}

impl Back {
    /// Whether it changes data, which the application must not use meanwhile.
    pub(super) fn moves_data(self) -> bool {
        matches!(self, Self::TakeOut(_) | Self::Prune(_) | Self::PutIn(_) | Self::Switch(_))
    }
}

/// The tasks of a plan, in order: nothing that is there is touched before everything is laid down and checked, but for
/// databases, which are fenced first so that nothing is written to them that would be lost.
pub(super) fn forward(plan: &Plan) -> Vec<Task<Forward>> {
    let steps = || plan.steps.iter().enumerate();
    let databases = || steps().filter_map(|(index, step)| matches!(step, Step::ReplaceDatabase(_)).then_some(index));
    let files = || steps().filter_map(|(index, step)| matches!(step, Step::ReplaceFiles(_)).then_some(index));
    let servers = || steps().filter_map(|(index, step)| matches!(step, Step::ReplaceServer(_)).then_some(index));
    let deleted =
        |index: &usize| matches!(&plan.steps[*index], Step::ReplaceDatabase(step) if step.old == Old::Deleted);
    let commands = steps().filter_map(|(index, step)| matches!(step, Step::Action(_)).then_some(index));
    let mut tasks = Vec::new();
    let stop = steps().any(|(_, step)| matches!(step, Step::Stop(_))).then_some(Forward::Stop);
    // A server takes hours to be laid down: where nothing else has to be stopped for, the application works on until it is there.
    let works_on = servers().next().is_some() && databases().next().is_none();
    tasks.extend(stop.filter(|_| !works_on));
    tasks.extend(databases().map(Forward::Fence));
    tasks.extend(databases().filter(deleted).map(Forward::Delete));
    tasks.extend(databases().map(Forward::LayDown));
    tasks.extend(files().map(Forward::LayDown));
    tasks.extend(servers().map(Forward::LayDown));
    tasks.extend(stop.filter(|_| works_on));
    tasks.extend(databases().map(Forward::Check));
    tasks.extend(databases().map(Forward::Switch));
    tasks.extend(files().flat_map(|index| [Forward::TakeOut(index), Forward::Prune(index), Forward::PutIn(index)]));
    tasks.extend(servers().map(Forward::Halt));
    tasks.extend(servers().flat_map(|index| [Forward::TakeOut(index), Forward::Prune(index), Forward::PutIn(index)]));
    tasks.extend(servers().map(Forward::Launch));
    tasks.extend(commands.map(Forward::Command));
    tasks.extend(steps().any(|(_, step)| matches!(step, Step::Start(_))).then_some(Forward::Start));
    tasks.push(Forward::Prove);
    tasks.into_iter().map(Task::new).collect()
}

/// The tasks that put back what was there, by how far the restore came.
pub(super) fn back(journal: &Journal, keep_what_was_restored: bool) -> Vec<Task<Back>> {
    let mut tasks = Vec::new();
    let begun = |task| journal.has_begun(task);
    let has_control = begun(Forward::Stop);
    if has_control && (begun(Forward::Start) || begun(Forward::Prove)) {
        tasks.push(Back::Stop);
    }
    for (index, step) in journal.plan.steps.iter().enumerate() {
        match step {
            Step::ReplaceFiles(_) => {
                if begun(Forward::PutIn(index)) {
                    tasks.extend([Back::TakeOut(index), Back::Prune(index)]);
                }
                if begun(Forward::TakeOut(index)) {
                    tasks.push(Back::PutIn(index));
                }
            }
            Step::ReplaceServer(_) => {
                if begun(Forward::Launch(index)) {
                    tasks.push(Back::Halt(index));
                }
                if begun(Forward::PutIn(index)) {
                    tasks.extend([Back::TakeOut(index), Back::Prune(index)]);
                }
                if begun(Forward::TakeOut(index)) {
                    tasks.push(Back::PutIn(index));
                }
                if begun(Forward::Halt(index)) {
                    tasks.push(Back::Launch(index));
                }
            }
            Step::ReplaceDatabase(_) if begun(Forward::Fence(index)) || begun(Forward::Switch(index)) => {
                tasks.push(Back::Switch(index));
            }
            _ => {}
        }
    }
    if has_control {
        tasks.push(Back::Start);
    }
    if !keep_what_was_restored {
        // Where what was there is deleted, what is being restored is all there is.
        let is_the_only_one = |index: &usize| begun(Forward::Delete(*index));
        let laid_down =
            (0..journal.plan.steps.len()).filter(|index| begun(Forward::LayDown(*index)) && !is_the_only_one(index));
        tasks.extend(laid_down.map(Back::Discard));
    }
    tasks.into_iter().map(Task::new).collect()
}
