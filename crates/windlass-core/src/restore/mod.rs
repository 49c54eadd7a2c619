//! Planning a restore: what is asked, what is there, and the plan that is shown and then run.
//!
//! [`plan`] is pure. What it needs to know of the world - does the target exist, is it empty, which roles and
//! extensions are there - is given to it as [`TargetFacts`], and becomes part of the plan: so a world that changed
//! between the preview and the run gives another digest, and a confirmed plan of the old one is refused.
//!
//! A restore is either *aside*, into databases and folders that are empty or do not exist yet, or *in place*, where
//! what is there is set aside first and can be put back. What an application that goes on running changes from one
//! second to the next - rows, sizes, files - is no part of the plan but of its [`Impact`], which is shown beside it.

mod aside;
mod extract;
mod facts;
mod impact;
mod in_place;
mod moment;
mod refusal;
mod server;
mod source;
mod steps;

use std::collections::BTreeMap;

use crate::name::Name;
use crate::selector::Selector;
use crate::wal::Timeline;

pub use facts::{DatabaseFacts, FolderFacts, LiveDatabase, LivePlace, LiveServer, TargetFacts};
pub use impact::{DatabaseImpact, Differences, Estimate, FilesImpact, Impact, Measured, TableImpact};
pub use moment::{Moment, Reach};
pub use refusal::Refusal;
pub use source::{Destination, Source, Wanted, wanted};
pub use steps::{
    ActionStep, CommandStep, DataFolderStep, DatabaseStep, ExtractStep, ExtractedDatabase, FilesPlace, FolderStep, Old,
    Plan, RecoverStep, Relation, ReplaceDatabase, ReplaceFiles, ReplaceServer, ReplaceVolume, Step, TablespacePlace,
};

use self::aside::aside;
pub use self::aside::{fill, is_free};
use self::in_place::{InPlace, in_place};

/// Where a component goes, as people wrote it: `--into COMPONENT=TARGET`.
pub type Targets = BTreeMap<Name, String>;

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The parts wanted; empty for all components that have a target.
    pub only: Vec<Selector>,
    /// Where each component goes.
    pub into: Targets,
    /// Whether what is there is replaced; then there are no targets.
    pub in_place: bool,
    /// Whether to go on where what is there cannot be kept.
    pub without_undo: bool,
    /// Whether a server is replaced with all its databases, also those of others.
    pub cluster: bool,
    /// Whether servers become standbys of what is archived.
    pub standby: bool,
    /// Whether servers that are brought to a moment stay there, paused.
    pub paused: bool,
    /// The moment that servers are brought to whose WAL is archived; that of the point where there is none.
    pub moment: Option<Moment>,
    /// The timeline it is looked for on; the newest where there is none.
    pub timeline: Option<Timeline>,
}

/// What a restore in place has to know of the application.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// How it is stopped and started.
    pub control: Option<(CommandStep, CommandStep)>,
    /// How long old copies stay, in seconds; until they are removed by hand where absent.
    pub undo_seconds: Option<i64>,
    /// By component, the patterns of what is not captured, and so not touched.
    pub exclude: BTreeMap<Name, Vec<String>>,
}

/// Plans a restore of what [`wanted`] found, with what was found at the targets.
pub fn plan(
    source: &Source<'_>,
    wanted: &[Wanted<'_>],
    facts: &BTreeMap<Name, TargetFacts>,
    request: &Request,
    terms: &Terms,
) -> Result<Plan, Refusal> {
    let mut warnings = Vec::new();
    let steps = if request.in_place {
        in_place(&InPlace { wanted, facts, terms, request }, &mut warnings)?
    } else {
        aside(wanted, facts, request, &mut warnings)?
    };
    if !source.point.is_complete() {
        let failed: Vec<&str> = source.point.failed.iter().map(|f| f.name.as_str()).collect();
        warnings.push(format!("the point is partial: it lacks {}", failed.join(", ")));
    }
    let is_left_out = |name: &&Name| !steps.iter().any(|step| step.component() == Some(*name));
    let left_out: Vec<Name> = source.components.iter().map(|c| &c.component).filter(is_left_out).cloned().collect();
    Ok(Plan {
        application: source.point.application.clone(),
        repository: source.repository,
        point: source.point.id,
        at: source.point.at,
        left_out,
        steps,
        warnings,
        undo_seconds: if request.in_place { terms.undo_seconds } else { None },
    })
}
