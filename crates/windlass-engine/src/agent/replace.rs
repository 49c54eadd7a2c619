//! The parts of a restore in the place of what is there, each a task of its own: plan, lay down, switch, and the way back.
//!
//! Whoever orders them writes down, between one and the next, what came of it; each looks at how things are and does what is
//! missing, so that it may be carried out again.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::Timestamp;
use windlass_core::application::{Check, Postgres};
use windlass_core::diagnose::Diagnose;
use windlass_core::id::RestoreId;
use windlass_core::name::Name;
use windlass_core::point::{ComponentManifest, DatabaseDump};
use windlass_core::restore::{
    Impact, Old, Plan, Refusal, ReplaceDatabase, Request, Source, Step, TargetFacts, Terms, Wanted, plan, wanted,
};
use windlass_core::selector::Selector;
use windlass_core::task::{self, Ask, Asked, Done, LayDown, Mentioned, Replaced, Switch};
use windlass_core::verification::Verdict;
use windlass_repo::catalog::{Catalog, Entry};
use windlass_repo::live::{self, Pin};
use windlass_repo::vault::Vault;

use super::{AgentError, source};
use crate::checks::{self, Found};
use crate::postgres::impact::impact;
use crate::postgres::replace::{
    self, Names, PutBack, drop_private, drop_unfinished, end_what_was_left, fence, let_in, look_live, oid_of,
    server_identity,
};
use crate::postgres::tools::Tools;
use crate::postgres::{PostgresError, database_of};
use crate::progress::Progress;
use crate::restore::{self, RestoreError, dump_of, roles_of, tools_for};

/// Tables of an impact that are named; the rest are counted with those that are the same.
const NAMED: usize = 8;

/// Of a note that is read to see that it can be, at most.
const READ: u64 = 1 << 20;

/// The number of the one database that is replaced, in its private names.
const ONLY: usize = 0;

/// Plans; nothing is written.
pub(super) async fn ask(vault: &Vault, what: &Ask) -> Result<Asked, AgentError> {
    let catalog = Catalog::load(vault).await.map_err(AgentError::Repository)?;
    let entry = catalog.get(vault.application(), what.point).map_err(AgentError::Repository)?;
    let manifest = manifest(vault, entry, &what.component).await?;
    match planned(vault, entry, &manifest, what).await {
        Ok((plan, impact)) => Ok(Asked::Planned(Box::new(plan), Box::new(impact))),
        Err(AgentError::Restore(RestoreError::Refused(refusal))) => {
            Ok(Asked::Refused(format!("{refusal} ({})", refusal.hints().join("; "))))
        }
        Err(error) => Err(error),
    }
}

async fn planned(
    vault: &Vault,
    entry: &Entry,
    manifest: &ComponentManifest,
    what: &Ask,
) -> Result<(Plan, Impact), AgentError> {
    let refused = |refusal: Refusal| AgentError::Restore(RestoreError::Refused(refusal));
    let point = &entry.point;
    let from = Source { repository: vault.repository().id(), point, components: std::slice::from_ref(manifest) };
    let request = Request {
        only: vec![Selector { component: what.component.clone(), database: None, relation: None }],
        in_place: true,
        ..Request::default()
    };
    let parts = wanted(&from, &request).map_err(refused)?;
    let postgres = source(&what.database)?;
    let tools = tools_for(&postgres.url, Some(&postgres)).await.map_err(AgentError::Database)?;
    let target = target(&postgres)?;
    let mut facts = BTreeMap::new();
    for dump in parts.iter().flat_map(Wanted::databases) {
        let roles = roles_of(vault, dump, &[]).await.map_err(AgentError::Restore)?;
        let live = look_live(&tools, &target, dump, &roles).await.map_err(AgentError::Database)?;
        facts.insert(dump.name.clone(), live);
    }
    let live = facts.clone();
    let facts = BTreeMap::from([(what.component.clone(), TargetFacts::LiveDatabases(facts))]);
    let terms = Terms { control: what.control.clone(), undo_seconds: what.undo_seconds, ..Terms::default() };
    let plan = plan(&from, &parts, &facts, &request, &terms).map_err(refused)?;
    let mut told = Impact { span_seconds: Timestamp::now().duration_since(plan.at).as_secs(), ..Impact::default() };
    for step in &plan.steps {
        let Step::ReplaceDatabase(step) = step else { continue };
        let dump = dump_of(manifest, &step.fill.database).map_err(AgentError::Restore)?;
        let mut one = impact(Some(&tools), step, dump, live.get(&dump.name)).await;
        // Those that differ most are what a person wants to see.
        one.tables
            .sort_by_key(|table| std::cmp::Reverse(table.rows_now.unwrap_or(0).abs_diff(table.rows_then.unwrap_or(0))));
        one.more_tables = one.tables.len().saturating_sub(NAMED) as u64;
        one.tables.truncate(NAMED);
        told.databases.push(one);
    }
    Ok((plan, told))
}

/// Sets aside what is there, lays the database of the point down beside it, and checks it.
pub(super) async fn lay_down(vault: &Vault, what: &LayDown, progress: &dyn Progress) -> Result<Done, AgentError> {
    let replaced = &what.replaced;
    let step = &replaced.step;
    let component = &step.fill.component;
    let catalog = Catalog::load(vault).await.map_err(AgentError::Repository)?;
    let entry = catalog.get(vault.application(), what.point).map_err(AgentError::Repository)?;
    let pin = Pin::set(vault, what.point, "restore").await.map_err(AgentError::Repository)?;
    // The pin is written first: a sweep that did not see it has marked the point before.
    if live::is_going(vault, what.point).await.map_err(AgentError::Repository)? {
        pin.lift().await;
        return Err(AgentError::Damaged { point: what.point, findings: vec!["it is about to be deleted".to_owned()] });
    }
    let manifest = manifest(vault, entry, component).await?;
    // Every byte is read back before the first is written.
    let read = windlass_repo::verify::objects(vault, &manifest, &|_| ()).await;
    let read = read.map_err(|error| AgentError::Restore(RestoreError::Object(error)))?;
    if read.verdict != Verdict::Passed {
        return Err(AgentError::Damaged { point: what.point, findings: read.findings });
    }
    let at = At::of(replaced).await?;
    let dump = dump_of(&manifest, &step.fill.database).map_err(AgentError::Restore)?;
    at.is_as_planned(vault, dump, step).await?;
    fence(&at.tools, &at.replaced).await.map_err(AgentError::Database)?;
    drop_unfinished(&at.tools, at.names()).await.map_err(AgentError::Database)?;
    let mut fill = step.fill.clone();
    fill.target.database.clone_from(&at.names().new);
    let left_out = restore::database(vault, &manifest, &fill, &at.tools, progress).await;
    let left_out = left_out.map_err(AgentError::Restore)?;
    let sql = |sql: &String| Check::Sql { component: component.clone(), sql: sql.clone() };
    let asked: Vec<Check> = what.sql.iter().map(sql).collect();
    let found = checks::database(&asked, component, dump, &at.tools, &at.names().new).await;
    let found = held(found.map_err(AgentError::Database)?)?;
    let oid = oid_of(&at.tools, &at.names().new).await.map_err(AgentError::Database)?;
    let oid = oid.ok_or_else(|| AgentError::Database(gone(at.names())))?;
    pin.lift().await;
    Ok(Done::LaidDown { oid, checked: found.held, left_out })
}

/// Gives the restored database the name, and looks for the files it mentions.
pub(super) async fn switch(what: &Switch) -> Result<Done, AgentError> {
    let at = At::of(&what.replaced).await?;
    replace::switch(&at.tools, at.names(), what.replaced.restored).await.map_err(AgentError::Database)?;
    let mut notes = Found::default();
    if let Some(mentioned) = &what.mentioned {
        notes = mentioned_files(&at, mentioned).await?;
    }
    Ok(Done::Switched { checked: notes.held, notes: notes.noted })
}

async fn mentioned_files(at: &At, what: &Mentioned) -> Result<Found, AgentError> {
    let found = checks::mentioned(&at.tools, &at.names().live, &what.sql, &[&what.folder], "the notes").await;
    let (mut found, newest) = found.map_err(AgentError::Database)?;
    // A query that does not fit this database says nothing of what was restored.
    found.noted.append(&mut found.failed);
    if let Some(newest) = newest {
        let path = newest.strip_prefix(&what.folder).unwrap_or(&newest).display();
        match read(&newest) {
            Ok(bytes) => found.held.push(format!("{path} is there and reads, {bytes} bytes of it")),
            Err(error) => found.noted.push(format!("the file {path} cannot be read: {error}")),
        }
    }
    Ok(found)
}

fn read(path: &Path) -> std::io::Result<u64> {
    use std::io::Read;
    std::io::copy(&mut std::fs::File::open(path)?.take(READ), &mut std::io::sink())
}

/// Asks addresses of the application whether it works.
pub(super) async fn answer(urls: &[String]) -> Result<Done, AgentError> {
    let found = held(checks::addresses(urls.iter().map(String::as_str)).await)?;
    Ok(Done::Answered { checked: found.held })
}

/// Puts back what was there before. Where nothing was begun, there is nothing to be done.
pub(super) async fn put_back(what: &task::PutBack) -> Result<Done, AgentError> {
    let (replaced, keep) = (&what.replaced, what.keep);
    let at = At::reach(replaced).await?;
    let names = at.names();
    let is_there = async |name: &str| oid_of(&at.tools, name).await.map_err(AgentError::Database);
    let is_begun = is_there(&names.old).await?.is_some() || is_there(&names.new).await?.is_some();
    if replaced.restored.is_none() && !is_begun {
        return Ok(Done::PutBack { beside: None });
    }
    at.is_same_server(replaced).await?;
    if replaced.restored.is_none() {
        // Nothing has its name yet but what is being filled.
        drop_unfinished(&at.tools, names).await.map_err(AgentError::Database)?;
    }
    let back = replace::put_back(&at.tools, &at.replaced, replaced.restored).await.map_err(AgentError::Database)?;
    if back == PutBack::Gone {
        return Err(AgentError::Database(gone(names)));
    }
    if !keep {
        // What was restored is in the repository still.
        for name in [&names.undone, &names.new] {
            drop_private(&at.tools, name, replaced.restored).await.map_err(AgentError::Database)?;
        }
    }
    let beside = is_there(&names.undone).await?.map(|_| names.undone.clone());
    if beside.is_some() {
        let_in(&at.tools, names, &names.undone).await.map_err(AgentError::Database)?;
    }
    Ok(Done::PutBack { beside })
}

/// Drops what was there before, or what was restored and then put aside: it can no longer be put back.
pub(super) async fn forget(what: &Replaced) -> Result<Done, AgentError> {
    let at = At::of(what).await?;
    drop_private(&at.tools, &at.names().old, what.step.oid).await.map_err(AgentError::Database)?;
    drop_private(&at.tools, &at.names().undone, what.restored).await.map_err(AgentError::Database)?;
    Ok(Done::Forgotten)
}

/// A database that is replaced, at its server.
struct At {
    tools: Tools,
    replaced: replace::Replaced,
}

impl At {
    /// Reaches its server, which has to be that of the plan.
    async fn of(what: &Replaced) -> Result<Self, AgentError> {
        let at = Self::reach(what).await?;
        at.is_same_server(what).await?;
        Ok(at)
    }

    /// Ends what an earlier attempt has left at the server: nobody else calls itself so.
    async fn reach(what: &Replaced) -> Result<Self, AgentError> {
        let postgres = source(&what.database)?;
        let tools = tools_for(&postgres.url, Some(&postgres)).await.map_err(AgentError::Database)?;
        let tools = tools.called(called(what.restore));
        end_what_was_left(&tools).await.map_err(AgentError::Database)?;
        let names = Names::of(what.restore, ONLY, &what.step.fill.target.database);
        let replaced = replace::Replaced { names, oid: what.step.oid, closed: what.step.closed };
        Ok(Self { tools, replaced })
    }

    async fn is_same_server(&self, what: &Replaced) -> Result<(), AgentError> {
        let now = server_identity(&self.tools).await.map_err(AgentError::Database)?;
        match (now, &what.step.server) {
            (Some(now), Some(then)) if now != *then => Err(AgentError::Database(PostgresError::Moved {
                database: self.names().live.clone(),
                why: "its server is another one than the plan was made for".into(),
            })),
            _ => Ok(()),
        }
    }

    fn names(&self) -> &Names {
        &self.replaced.names
    }

    /// Whether what is there is what the plan was made for: but for what an earlier attempt has done.
    async fn is_as_planned(
        &self,
        vault: &Vault,
        dump: &DatabaseDump,
        step: &ReplaceDatabase,
    ) -> Result<(), AgentError> {
        let names = self.names();
        let is_begun = oid_of(&self.tools, &names.old).await.map_err(AgentError::Database)?.is_some();
        if is_begun {
            return Ok(());
        }
        let roles = roles_of(vault, dump, &[]).await.map_err(AgentError::Restore)?;
        let live = look_live(&self.tools, &names.live, dump, &roles).await.map_err(AgentError::Database)?;
        let changed = |why: &str| {
            Err(AgentError::Database(PostgresError::Moved { database: names.live.clone(), why: why.to_owned() }))
        };
        if live.oid != step.oid {
            return changed("since the plan was made it was dropped, or made anew");
        }
        if let Some(obstacle) = live.obstacles.first() {
            return changed(&format!("since the plan was made {obstacle}"));
        }
        if !live.facts.missing_extensions.is_empty() && step.old != Old::Deleted {
            return changed(&format!(
                "since the plan was made its server lost the extensions {}",
                live.facts.missing_extensions.join(", ")
            ));
        }
        Ok(())
    }
}

/// What sessions of a restore call themselves.
fn called(restore: RestoreId) -> String {
    format!("windlass {restore}")
}

fn gone(names: &Names) -> PostgresError {
    PostgresError::Moved { database: names.live.clone(), why: "what was set aside is gone".into() }
}

/// The name of the database an address leads to.
fn target(postgres: &Postgres) -> Result<String, AgentError> {
    let named = database_of(&postgres.url).map_err(AgentError::Database)?;
    named.ok_or_else(|| {
        let why = "it names no database";
        AgentError::Database(PostgresError::Url { url: postgres.url.clone(), why })
    })
}

async fn manifest(vault: &Vault, entry: &Entry, component: &Name) -> Result<ComponentManifest, AgentError> {
    let found = entry.point.components.iter().find(|summary| summary.name == *component);
    let missing = || AgentError::Restore(RestoreError::Mismatch { component: component.clone() });
    vault.component(&entry.point, found.ok_or_else(missing)?).await.map_err(AgentError::Repository)
}

/// What was found, unless something did not hold.
fn held(found: Found) -> Result<Found, AgentError> {
    if found.failed.is_empty() { Ok(found) } else { Err(AgentError::Checks { findings: found.failed }) }
}
