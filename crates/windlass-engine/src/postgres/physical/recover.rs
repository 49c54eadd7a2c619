//! Has a server recover on a data folder that was laid down, and ends it in order.
//!
//! Promised: recovery ended where the plan said, or it is an error; nothing of the source's settings was read while it ran; the
//! folder is durable at its end, and belongs to the user its server ran as.

use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use windlass_core::point::PhysicalData;
use windlass_core::restore::RecoverStep;
use windlass_core::wal::{History, Lsn, Timeline};
use windlass_repo::format::walg::Backups;

use super::error::PhysicalError;
use super::laid_down::LaidDown;
use super::recovery::{NOTHING_MORE, Recovery, Until, word};
use crate::backup::{tally, with_progress};
use crate::moment;
use crate::postgres::scratch::{Place, ScratchServer};
use crate::postgres::wal::{Feed, Owner};
use crate::progress::{Event, Progress};

/// Bytes of headers and of filling that may lie between the end of a record and the beginning of the next.
const BETWEEN_RECORDS: u64 = 64;

/// Where a server is recovered.
#[derive(Clone, Copy)]
pub struct Recoverer<'a> {
    /// For its socket, its log, and settings of ours.
    pub place: &'a Place,
    /// The `windlass` that it fetches WAL with.
    pub program: &'a Path,
}

/// A server that has recovered, and runs: up to the place that was planned.
pub struct Recovered<'a> {
    /// The server.
    pub server: ScratchServer,
    laid_down: &'a LaidDown,
    /// What the data folder overrides of its settings, as they were.
    overrides: Vec<u8>,
    /// How it stays where it is, where it is to be left paused.
    paused: Option<Paused<'a>>,
}

/// A server that stays where it was brought to.
struct Paused<'a> {
    step: &'a RecoverStep,
    place: &'a Place,
    data: &'a PhysicalData,
}

/// What a server does that is started on a data folder in which another recovered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// It archives nothing, until somebody says so: it is a copy.
    Silent,
    /// What its source did: it takes its place.
    AsItWas,
}

impl<'a> Recoverer<'a> {
    /// Recovers a component's server on what was laid down of it: up to a moment, by the WAL of the archive, or as far as it
    /// must by the WAL that lies in it. `before` is what it overrode of its settings, where it was begun before and killed.
    pub async fn recover(
        &self,
        owner: Owner,
        archive: Backups,
        (data, laid_down): (&'a PhysicalData, &'a LaidDown),
        step: Option<&'a RecoverStep>,
        before: Option<&[u8]>,
        progress: &dyn Progress,
    ) -> Result<Recovered<'a>, PhysicalError> {
        let folder = laid_down.data.as_path();
        let failed = |source| PhysicalError::Write { path: folder.to_owned(), source };
        let overrides = before.map_or_else(|| Recovery::overrides(folder), |before| Ok(before.to_vec()));
        let overrides = overrides.map_err(failed)?;
        // A server that was killed when it had recovered would not know where to go to again.
        let has_recovered = before.is_some() && Recovery::is_over(folder)?;
        let component = owner.component.clone();
        let (moved, mut counted) = tally();
        let mut feed = None;
        if let Some(step) = step {
            let user = self.place.owner.map(|(user, _)| user);
            let socket = self.place.path.join("wal.sock");
            let cluster = data.system_identifier.parse().unwrap_or_default();
            let started = Feed::start(&socket, archive, cluster, user, (step.reach.end, data.segment_size), moved);
            feed = Some(started.map_err(PhysicalError::Listen)?);
            let program = self.program().map_err(failed)?;
            let restore_command = format!(
                "{} --quiet wal-fetch --component {owner} --cluster {cluster} --socket {} %f %p",
                word(&program),
                word(&socket)
            );
            if !has_recovered {
                recovery(step, restore_command).write(folder).map_err(failed)?;
            }
        }
        let total = step.map(|step| step.wal_bytes);
        let text = step.map_or("recover".to_owned(), |step| format!("recover up to {}", step.reach.end));
        progress.event(Event::Step { component: &component, text: &text, total });
        let is_paused = step.is_some_and(|step| step.paused);
        let recovering = async {
            let server = ScratchServer::start_on(self.place, laid_down, data, is_paused).await?;
            let stays = if is_paused { Some(server.paused().await?) } else { None };
            Ok((server, stays))
        };
        let heard = |more| {
            if let Some(at) = feed.as_ref().and_then(Feed::at) {
                progress.event(Event::At { component: &component, place: &at.to_string() });
            }
            progress.event(Event::Bytes { component: &component, more });
        };
        let recovered = with_progress(recovering, &mut counted, heard).await;
        let (server, stays) = recovered.map_err(PhysicalError::Server)?;
        if let Some(step) = step {
            let reached = stays.map_or_else(|| reached(folder), Ok).map_err(failed)?;
            is_where_planned(reached, step)?;
        }
        drop(feed);
        let paused = step.filter(|step| step.paused).map(|step| Paused { step, place: self.place, data });
        Ok(Recovered { server, laid_down, overrides, paused })
    }

    /// The program where the server's user can run it.
    fn program(&self) -> std::io::Result<PathBuf> {
        let program = std::fs::canonicalize(self.program)?;
        let can_be_run = || -> std::io::Result<bool> {
            for part in program.ancestors() {
                if part.metadata()?.mode() & 0o001 == 0 {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        if self.place.owner.is_none() || can_be_run()? {
            return Ok(program);
        }
        let copy = self.place.path.join("windlass");
        // A new one: who owns the place may have put a link there.
        let mut to = std::fs::File::options().write(true).create_new(true).mode(0o755).open(&copy)?;
        std::io::copy(&mut std::fs::File::open(&program)?, &mut to)?;
        Ok(copy)
    }
}

impl Recovered<'_> {
    /// Ends the server in order: what stays is a data folder that needs nothing any more, and is durable. One that is paused has the WAL
    /// it comes back to its place with.
    pub async fn end(self, after: After) -> Result<(), PhysicalError> {
        let folder = self.laid_down.data.as_path();
        let failed = |source| PhysicalError::Write { path: folder.to_owned(), source };
        self.server.stop().await.map_err(PhysicalError::Server)?;
        match self.paused {
            Some(Paused { step, place, data }) => {
                let recovery = recovery(step, NOTHING_MORE.to_owned());
                let stay = || recovery.write_over(folder, &self.overrides).map_err(failed);
                stay()?;
                moment::reach("after", &"stay");
                // Whoever starts it begins at a later checkpoint, with the WAL that lies there alone.
                let again = ScratchServer::start_on(place, self.laid_down, data, true).await;
                let again = again.map_err(PhysicalError::Server)?;
                is_where_planned(again.paused().await.map_err(PhysicalError::Server)?, step)?;
                again.stop().await.map_err(PhysicalError::Server)?;
                stay()?;
            }
            None => Recovery::settle(folder, &self.overrides, after == After::Silent).map_err(failed)?,
        }
        self.laid_down.sync().map_err(failed)
    }
}

/// How a server comes to where a plan goes.
fn recovery(step: &RecoverStep, restore_command: String) -> Recovery {
    let (timeline, until) = (step.reach.timeline, Until::Behind(step.reach.record));
    Recovery { restore_command, timeline, until, paused: step.paused }
}

/// Where recovery ended: the newest timeline there says where it left the one before.
fn reached(folder: &Path) -> std::io::Result<Lsn> {
    let unclear = || std::io::Error::other("no history tells where recovery ended");
    let names = std::fs::read_dir(folder.join("pg_wal"))?.flatten();
    let number = |name: String| u32::from_str_radix(name.strip_suffix(".history")?, 16).ok().map(Timeline);
    let newest = names.filter_map(|entry| number(entry.file_name().into_string().ok()?)).max();
    let newest = newest.ok_or_else(unclear)?;
    let text = std::fs::read_to_string(folder.join("pg_wal").join(format!("{:08X}.history", newest.0)))?;
    let history = History::parse(newest, &text).map_err(std::io::Error::other)?;
    history.switches().last().map(|switch| switch.at).ok_or_else(unclear)
}

/// That this is the planned place: what lies between two records may be counted to either.
fn is_where_planned(reached: Lsn, step: &RecoverStep) -> Result<(), PhysicalError> {
    if reached > step.reach.record && reached.0.abs_diff(step.reach.end.0) <= BETWEEN_RECORDS {
        return Ok(());
    }
    let (planned, timeline) = (step.reach.end, step.reach.timeline);
    let why = format!("recovery ended at {reached}, and the plan said {planned} on timeline {timeline}");
    Err(PhysicalError::Changed { why })
}
