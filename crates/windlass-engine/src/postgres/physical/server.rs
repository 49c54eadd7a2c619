//! The server of a data folder, while a base backup of it is taken: one session, with which backup mode ends.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Deserialize;
use windlass_core::wal::{Lsn, SegmentSize, Timeline};

use super::error::PhysicalError;
use crate::postgres::session::Session;
use crate::postgres::tools::Tools;

/// How often the data folder is compared with what the server says: a checkpoint may come in between.
const LOOKS: u32 = 5;

/// Where `pg_control` has what its server is doing, the place of the last checkpoint, and where replay from that begins; in all
/// versions from 13 to 18. Source: PostgreSQL, `src/include/catalog/pg_control.h`.
const STATE: usize = 16;
const CHECKPOINT: usize = 32;
const REDO: usize = 40;

/// Where it has up to where a standby has to replay before it is consistent, and on which timeline.
const NEEDED: usize = 136;
const NEEDED_ON: usize = 144;

/// What a primary that runs is doing, a standby, and a server that was ended in order.
pub(super) const IN_PRODUCTION: u64 = 6;
const IN_RECOVERY: u64 = 5;
pub(super) const SHUT_DOWN: u64 = 1;

const FACTS: &str = "select pg_catalog.current_setting('server_version_num')::int as version, \
    pg_catalog.pg_is_in_recovery() as is_standby, \
    (select system_identifier from pg_catalog.pg_control_system()) as system_identifier, \
    pg_catalog.current_setting('data_checksums') = 'on' as checksums, \
    pg_catalog.current_setting('block_size')::int as page, \
    (select setting::bigint from pg_catalog.pg_settings where name = 'wal_segment_size') as segment_size, \
    (select setting from pg_catalog.pg_settings where name = 'data_directory') as data_directory, \
    (select rolname from pg_catalog.pg_roles where oid = 10) as superuser, \
    array(select datname from pg_catalog.pg_database where datallowconn and not datistemplate order by 1) as databases";

/// Holds the WAL by a slot that goes with the session. What is refused is noted, as an error would end the session.
const HOLD: &str = "do $$ begin \
    perform pg_catalog.pg_create_physical_replication_slot('windlass_' || pg_catalog.pg_backend_pid(), true, true); \
    perform pg_catalog.set_config('windlass.refused', '', false); \
    exception when others then perform pg_catalog.set_config('windlass.refused', sqlerrm, false); end $$";

/// What is to be known of a server.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Facts {
    /// `server_version_num`.
    pub(super) version: u32,
    pub(super) is_standby: bool,
    pub(super) system_identifier: u64,
    pub(super) checksums: bool,
    page: usize,
    pub(super) segment_size: SegmentSize,
    /// Its data folder as it knows it; not every role is told.
    pub(super) data_directory: Option<String>,
    /// The role the cluster was made with.
    pub(super) superuser: String,
    /// All databases one may connect to, but templates.
    pub(super) databases: Vec<String>,
}

impl Facts {
    /// Asks a server; one that was built otherwise is refused.
    pub(super) async fn ask(session: &mut Session) -> Result<Self, PhysicalError> {
        let facts: Self = session.row(FACTS).await.map_err(PhysicalError::Server)?;
        if facts.page != super::pages::PAGE {
            let why = format!("the server was built with pages of {} bytes, and 8192 are known", facts.page);
            return Err(PhysicalError::Unsupported { why });
        }
        Ok(facts)
    }
}

/// What the server says at the end of backup mode.
#[derive(Debug, Deserialize)]
pub(super) struct Stopped {
    /// Where the backup is consistent.
    pub(super) lsn: Lsn,
    /// `backup_label`.
    pub(super) label: String,
    /// `tablespace_map`.
    pub(super) map: Option<String>,
}

/// A server, and the data folder that is its own.
pub struct Server {
    session: Session,
    pub(super) data: PathBuf,
    pub(super) facts: Facts,
}

impl Server {
    /// Opens the session. A server that cannot be backed up so, or whose data folder is another one, is refused.
    pub async fn open(tools: &Tools, data: Option<&Path>) -> Result<Self, PhysicalError> {
        let mut session = Session::open_any(tools).await.map_err(PhysicalError::Server)?;
        let facts = Facts::ask(&mut session).await?;
        let data = data.map(Path::to_owned).or_else(|| facts.data_directory.as_ref().map(PathBuf::from));
        let data = data.ok_or_else(|| PhysicalError::OtherFolder {
            folder: PathBuf::new(),
            why: "the server does not tell this role where its data folder is".to_owned(),
        })?;
        let mut server = Self { session, data, facts };
        server.is_its_own().await?;
        Ok(server)
    }

    /// The identifier of its cluster.
    pub fn system_identifier(&self) -> u64 {
        self.facts.system_identifier
    }

    /// Its databases, but templates and those nobody may connect to.
    pub fn databases(&self) -> &[String] {
        &self.facts.databases
    }

    /// Its data folder.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// That the data folder at hand is the one the server writes to: not that of another standby, and no copy. Asked before backup mode
    /// and once more in it: the checkpoint it begins with is in no copy.
    async fn is_its_own(&mut self) -> Result<(), PhysicalError> {
        #[derive(Deserialize)]
        struct Checkpoint {
            lsn: Lsn,
        }
        if !self.facts.is_standby && self.data.join("standby.signal").exists() {
            return Err(self.other("it is that of a standby, and the server is none"));
        }
        let path = self.data.join("global/pg_control");
        for _ in 0..LOOKS {
            let control = std::fs::read(&path);
            let control = control.map_err(|source| PhysicalError::Read { path: path.clone(), source })?;
            if number::<8>(&control, 0) != Some(self.facts.system_identifier) {
                return Err(self.other("it is of another cluster than the server is"));
            }
            let said = "select checkpoint_lsn::text as lsn from pg_catalog.pg_control_checkpoint()";
            let now: Checkpoint = self.session.row(said).await.map_err(PhysicalError::Server)?;
            let running = if self.facts.is_standby { IN_RECOVERY } else { IN_PRODUCTION };
            let is_running = state(&control) == Some(running);
            if is_running && number::<8>(&control, CHECKPOINT) == Some(now.lsn.0) {
                return Ok(());
            }
        }
        Err(self.other(
            "it is a copy, or of another server: what it says of the last checkpoint is not what the server says",
        ))
    }

    /// The tablespaces there are. One that is made meanwhile would be made anew by replay, where it was.
    pub(super) async fn tablespaces(&mut self) -> Result<Vec<u32>, PhysicalError> {
        #[derive(Deserialize)]
        struct Tablespace {
            oid: u32,
        }
        let asked = "select oid::int8 as oid from pg_catalog.pg_tablespace order by 1";
        let all: Vec<Tablespace> = self.session.all(asked).await.map_err(PhysicalError::Server)?;
        Ok(all.into_iter().map(|one| one.oid).collect())
    }

    /// Has the server keep the WAL from now on, as long as the session lasts; why it does not.
    pub(super) async fn hold_wal(&mut self) -> Result<Result<(), String>, PhysicalError> {
        #[derive(Deserialize)]
        struct Refused {
            why: String,
        }
        self.session.lines(HOLD).await.map_err(PhysicalError::Server)?;
        let refused = "select pg_catalog.current_setting('windlass.refused') as why";
        let Refused { why } = self.session.row(refused).await.map_err(PhysicalError::Server)?;
        Ok(if why.is_empty() { Ok(()) } else { Err(why) })
    }

    /// Begins backup mode: where, and on which timeline.
    pub(super) async fn begin(&mut self) -> Result<(Lsn, Timeline), PhysicalError> {
        #[derive(Deserialize)]
        struct Begun {
            lsn: Lsn,
        }
        #[derive(Deserialize)]
        struct On {
            timeline: Timeline,
        }
        let start = if self.is_new() {
            "pg_backup_start('windlass', true)"
        } else {
            "pg_start_backup('windlass', true, false)"
        };
        let server = PhysicalError::Server;
        let begun: Begun =
            self.session.row(&format!("select pg_catalog.{start}::text as lsn")).await.map_err(server)?;
        // That of the checkpoint the backup begins with.
        let on = "select timeline_id as timeline from pg_catalog.pg_control_checkpoint()";
        let On { timeline } = self.session.row(on).await.map_err(server)?;
        self.is_its_own().await?;
        Ok((begun.lsn, timeline))
    }

    /// How far a standby has come; of a primary, nothing.
    pub(super) async fn replayed(&mut self) -> Result<Reached, PhysicalError> {
        Reached::ask(&mut self.session).await
    }

    /// When the checkpoint was made that a backup begins with.
    pub(super) async fn checkpoint_at(&mut self) -> Result<Timestamp, PhysicalError> {
        checkpoint_at(&mut self.session).await
    }

    /// That a standby replays the timeline it replayed when the backup began.
    pub(super) async fn stays_on(&mut self, timeline: Timeline) -> Result<(), PhysicalError> {
        #[derive(Deserialize)]
        struct On {
            timeline: Timeline,
        }
        let on = "select min_recovery_end_timeline as timeline from pg_catalog.pg_control_recovery()";
        let On { timeline: now } = self.session.row(on).await.map_err(PhysicalError::Server)?;
        if now == timeline {
            return Ok(());
        }
        Err(PhysicalError::Changed { why: format!("the standby went on to timeline {now}") })
    }

    /// Ends backup mode. That the WAL is archived is not waited for: that is seen to by who asked.
    pub(super) async fn end(&mut self) -> Result<Stopped, PhysicalError> {
        let stop = if self.is_new() { "pg_backup_stop(false)" } else { "pg_stop_backup(false, false)" };
        let query = format!("select lsn::text, labelfile as label, spcmapfile as map from pg_catalog.{stop}");
        self.session.row(&query).await.map_err(PhysicalError::Server)
    }

    /// The session, and what is known.
    pub(super) fn session(&mut self) -> (&mut Session, &Facts) {
        (&mut self.session, &self.facts)
    }

    /// Ends the session, and with it what holds the WAL.
    pub(super) async fn close(self) -> Facts {
        self.session.close().await;
        self.facts
    }

    /// Since 15 the functions have other names.
    fn is_new(&self) -> bool {
        self.facts.version >= 150_000
    }

    fn other(&self, why: &str) -> PhysicalError {
        PhysicalError::OtherFolder { folder: self.data.clone(), why: why.to_owned() }
    }
}

/// How far a standby has come.
#[derive(Debug, Deserialize)]
pub(super) struct Reached {
    /// When the last transaction was committed that it has replayed, by the primary's clock: asked first, so that it is before `lsn`.
    pub(super) at: Option<Timestamp>,
    /// What it has replayed.
    pub(super) lsn: Option<Lsn>,
    /// What it has received, be it replayed or not.
    pub(super) received: Option<Lsn>,
}

impl Reached {
    pub(super) async fn ask(session: &mut Session) -> Result<Self, PhysicalError> {
        let asked = "select pg_catalog.pg_last_xact_replay_timestamp() as at, pg_catalog.pg_last_wal_replay_lsn()::text as lsn, \
            greatest(pg_catalog.pg_last_wal_receive_lsn(), pg_catalog.pg_last_wal_replay_lsn())::text as received";
        session.row(asked).await.map_err(PhysicalError::Server)
    }
}

/// When the last checkpoint was made, of a standby that of which it made a restartpoint.
pub(super) async fn checkpoint_at(session: &mut Session) -> Result<Timestamp, PhysicalError> {
    #[derive(Deserialize)]
    struct Made {
        at: Timestamp,
    }
    let asked = "select checkpoint_time as at from pg_catalog.pg_control_checkpoint()";
    let Made { at } = session.row(asked).await.map_err(PhysicalError::Server)?;
    Ok(at)
}

/// That a standby's `pg_control` asks for no WAL but that up to the backup's end: one of another standby may.
pub(super) fn recovers_to(control: &[u8], end: Lsn, timeline: Timeline) -> Result<(), PhysicalError> {
    let (needed, on) = (number::<8>(control, NEEDED), number::<4>(control, NEEDED_ON));
    if needed.is_some_and(|needed| needed <= end.0) && on == Some(u64::from(timeline.0)) {
        return Ok(());
    }
    let needed = needed.map_or_else(|| "nothing".to_owned(), |needed| Lsn(needed).to_string());
    let why = format!(
        "its `pg_control` asks for the WAL up to {needed}, and the backup ends at {end} of timeline {timeline}"
    );
    Err(PhysicalError::Changed { why })
}

/// A number of some bytes, the least first.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<u64> {
    Some(bytes.get(at..at + N)?.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// What its server was doing last.
pub(super) fn state(control: &[u8]) -> Option<u64> {
    number::<4>(control, STATE)
}

/// Where replay from the last checkpoint begins, as `pg_control` says.
pub(super) fn redo(control: &[u8]) -> Option<Lsn> {
    number::<8>(control, REDO).map(Lsn)
}
