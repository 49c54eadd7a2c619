//! Drills: a recovery point restored into a throw-away copy of the application, started, checked, measured and removed.
//!
//! ```text
//! copy (a `Kryton`) → restore into it (a `Restore`, its plan confirmed) → copy removed → on record
//! ```
//!
//! The copy and the restore are objects like any other, made by the same reconcilers, and belong to the drill: whatever
//! becomes of this operator, deleting the drill deletes them. Promised: production is neither read from but for the
//! repository, nor written to; the copy takes no backups, has no ingress, and its mail settings are emptied. That it reaches
//! nothing outside is asked of the cluster by a NetworkPolicy, which not every cluster enforces.

mod copy;
mod reconcile;
mod verdict;

pub(crate) use self::reconcile::{is_over, run};
