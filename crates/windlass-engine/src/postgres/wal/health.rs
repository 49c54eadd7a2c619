//! How a server's archiving goes, as the server tells: what it is set to, what waits, what failed last.

use serde::Deserialize;
use windlass_core::application::Physical;

use super::source::ask;
use crate::postgres::PostgresError;
use crate::restore::free_bytes;

/// How archiving goes.
#[derive(Clone, Debug, Deserialize)]
pub struct Health {
    /// Whether it is a standby, whose WAL its primary archives.
    pub is_standby: bool,
    /// `archive_mode`.
    pub mode: String,
    /// `archive_command`; not every role is told.
    pub command: Option<String>,
    /// `archive_timeout`, in seconds: after so many an idle server ends its segment. 0 is never.
    pub timeout: u32,
    /// Files that wait.
    pub waiting: u64,
    /// Bytes of `pg_wal`.
    pub wal_bytes: u64,
    /// Whether the last try failed, and of which file.
    pub failing: Option<String>,
    data: Option<String>,
    /// Bytes free on the disk of `pg_wal`, where that can be seen from here.
    #[serde(skip)]
    pub free_bytes: Option<u64>,
}

impl Health {
    /// Asks the server, as a role that may see its files (`pg_monitor`, say).
    pub async fn ask(settings: &Physical) -> Result<Self, PostgresError> {
        let asked = "select pg_catalog.pg_is_in_recovery() as is_standby, pg_catalog.current_setting('archive_mode') as mode, \
            (select setting from pg_catalog.pg_settings where name = 'archive_command') as command, \
            (select setting::int from pg_catalog.pg_settings where name = 'archive_timeout') as timeout, \
            (select count(*) from pg_catalog.pg_ls_archive_statusdir() where name like '%.ready') as waiting, \
            (select coalesce(sum(size), 0)::bigint from pg_catalog.pg_ls_waldir()) as wal_bytes, \
            (select case when last_failed_time > coalesce(last_archived_time, '-infinity') then last_failed_wal end \
             from pg_catalog.pg_stat_archiver) as failing, \
            (select setting from pg_catalog.pg_settings where name = 'data_directory') as data";
        let mut health: Self = ask(settings, asked).await?;
        let data = settings.data_directory.clone().or_else(|| health.data.clone().map(Into::into));
        let wal = data.map(|data| data.join("pg_wal")).filter(|wal| wal.is_dir());
        health.free_bytes = wal.map(|wal| free_bytes(&wal));
        Ok(health)
    }

    /// Whether the disk of `pg_wal` is about to be full: less is free than a tenth of what lies there already and what is free.
    pub fn is_near_full(&self) -> bool {
        self.free_bytes.is_some_and(|free| free < self.wal_bytes.saturating_add(free) / 10)
    }
}
