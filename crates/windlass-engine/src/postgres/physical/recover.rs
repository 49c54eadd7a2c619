//! Has a server recover on a data folder that was laid down, up to a moment, and ends it in order: what stays is a data folder that
//! needs nothing any more.
//!
//! Promised: recovery ended where the plan said, or it is an error; nothing of the source's settings was read while it ran; the
//! folder is durable when this returns, and belongs to the user its server ran as.

use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use windlass_core::point::PhysicalData;
use windlass_core::restore::RecoverStep;
use windlass_core::wal::{History, Lsn, Timeline};
use windlass_repo::format::walg::Backups;

use super::error::PhysicalError;
use super::recovery::{Recovery, Until, word};
use crate::backup::{tally, with_progress};
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

impl Recoverer<'_> {
    /// Recovers a component's server on its data folder.
    pub(crate) async fn recover(
        &self,
        owner: Owner,
        archive: Backups,
        (data, folder): (&PhysicalData, &Path),
        step: &RecoverStep,
        progress: &dyn Progress,
    ) -> Result<(), PhysicalError> {
        let component = &owner.component;
        let failed = |source| PhysicalError::Write { path: folder.to_owned(), source };
        let user = self.place.owner.map(|(user, _)| user);
        let socket = self.place.path.join("wal.sock");
        let (moved, mut counted) = tally();
        let cluster = data.system_identifier.parse().unwrap_or_default();
        let feed = Feed::start(&socket, archive, cluster, user, (step.reach.end, data.segment_size), moved)
            .map_err(PhysicalError::Listen)?;
        let program = self.program().map_err(failed)?;
        let restore_command = format!(
            "{} --quiet wal-fetch --component {owner} --cluster {cluster} --socket {} %f %p",
            word(&program),
            word(&socket)
        );
        let before = Recovery::overrides(folder).map_err(failed)?;
        let recovery =
            Recovery { restore_command, timeline: step.reach.timeline, until: Until::Behind(step.reach.record) };
        recovery.write(folder).map_err(failed)?;
        progress.event(Event::Step { component, text: "recover", total: Some(step.wal_bytes) });
        let (major, database) =
            (data.server_version / 10_000, data.databases.first().map_or("postgres", String::as_str));
        let started = ScratchServer::start_on(self.place, folder, major, &data.superuser, database);
        let server = with_progress(started, &mut counted, |more| progress.event(Event::Bytes { component, more }));
        server.await.map_err(PhysicalError::Server)?.stop().await.map_err(PhysicalError::Server)?;
        drop(feed);
        let reached = reached(folder).map_err(failed)?;
        if !is_planned(reached, step) {
            let (planned, timeline) = (step.reach.end, step.reach.timeline);
            let why = format!("recovery ended at {reached}, and the plan said {planned} on timeline {timeline}");
            return Err(PhysicalError::Changed { why });
        }
        Recovery::settle(folder, &before).map_err(failed)?;
        let synced = std::fs::File::open(folder).and_then(|open| Ok(rustix::fs::syncfs(open)?));
        synced.map_err(failed)
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

/// Whether that is the planned place: what lies between two records may be counted to either.
fn is_planned(reached: Lsn, step: &RecoverStep) -> bool {
    reached > step.reach.record && reached.0.abs_diff(step.reach.end.0) <= BETWEEN_RECORDS
}
