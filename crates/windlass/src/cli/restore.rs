//! The words of restores: aside, in place, undone, rehearsed.

use std::path::PathBuf;

use clap::Args;
use windlass_core::id::PointId;
use windlass_core::wal::Lsn;

use super::Application;

#[derive(Debug, Args)]
pub(crate) struct Drill {
    /// The application; `kryton/NAME` is one of a Kubernetes cluster
    pub application: Application,
    /// The point to rehearse with [default: the newest complete one]
    #[arg(long, value_name = "ID")]
    pub point: Option<PointId>,
    /// In a cluster: the VolumeSnapshot of the notes, which the copy gets
    #[arg(long, value_name = "SNAPSHOT")]
    pub notes: Option<String>,
    /// In a cluster: the namespace [default: that of the kubeconfig's context]
    #[arg(long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = RESTORE_HELP)]
pub(crate) struct Restore {
    /// The application; `kryton/NAME` is one of a Kubernetes cluster; with --from it may be left out where the kit holds
    /// one only
    pub application: Option<Application>,
    /// The point [default: the newest complete one]
    #[arg(long, value_name = "ID")]
    pub point: Option<String>,
    /// This time, such as 2026-03-01T14:30:00+01:00: servers whose WAL is archived to that very moment, everything else as of the
    /// newest complete point at or before it; `latest`: all there is
    #[arg(long, value_name = "TIME", group = "moment")]
    pub at: Option<String>,
    /// A server whose WAL is archived, as it was when its log had come to this place
    #[arg(long, value_name = "LSN", group = "moment")]
    pub at_lsn: Option<Lsn>,
    /// The same as it was when this transaction had ended
    #[arg(long, value_name = "XID", group = "moment")]
    pub at_xid: Option<u32>,
    /// The same as it was at this restore point, of `pg_create_restore_point`
    #[arg(long, value_name = "NAME", group = "moment")]
    pub at_name: Option<String>,
    /// The timeline the moment is on [default: the newest that leads on from the base backup]
    #[arg(long, value_name = "NUMBER", requires = "moment")]
    pub timeline: Option<u32>,
    /// The parts wanted, with SQL quoting
    #[arg(long, value_name = "COMPONENT[/DATABASE[/SCHEMA.TABLE]],…")]
    pub only: Option<String>,
    /// Where a component goes: a database URL, or a folder; may be repeated
    #[arg(long, value_name = "COMPONENT=TARGET", required_unless_present = "in_place")]
    pub into: Vec<String>,
    /// With --into: the server of a base backup becomes a standby, which follows the archive
    #[arg(long, conflicts_with_all = ["in_place", "moment"])]
    pub standby: bool,
    /// With --into and a moment: the server stays there, paused, to be read until `pg_wal_replay_resume()` has it go on
    #[arg(long, conflicts_with_all = ["in_place", "standby"], requires = "moment")]
    pub pause: bool,
    /// Replace what is there: the application is stopped and started, and what was there is kept for `windlass undo`
    #[arg(long, conflicts_with_all = ["into", "from"])]
    pub in_place: bool,
    /// With --in-place: go on also where what is there cannot be kept; the plan says where
    #[arg(long, requires = "in_place")]
    pub without_undo: bool,
    /// With --in-place: servers go back as a whole also where they have databases of others; the plan names them
    #[arg(long, requires = "in_place")]
    pub cluster: bool,
    /// With --in-place: the application is stopped already; its command to stop it is not run
    #[arg(long, requires = "in_place")]
    pub stopped: bool,
    /// In a cluster: the VolumeSnapshot from which a new volume of the notes is made; without it they stay as they are
    #[arg(long, value_name = "SNAPSHOT")]
    pub notes: Option<String>,
    /// In a cluster: how long what was there before stays, such as 72h [default: until `windlass undo --forget`]
    #[arg(long, value_name = "DURATION", value_parser = windlass_core::duration::parse)]
    pub undo: Option<jiff::SignedDuration>,
    /// In a cluster: the namespace [default: that of the kubeconfig's context]
    #[arg(long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// Print the plan and stop
    #[arg(long, conflicts_with_all = ["confirm", "yes"])]
    pub plan: bool,
    /// Run exactly the plan with this digest, without asking
    #[arg(long, value_name = "DIGEST", conflicts_with = "yes")]
    pub confirm: Option<String>,
    /// Run the plan shown, without asking
    #[arg(long)]
    pub yes: bool,
    /// Restore from this repository without settings: file:///…, or s3://BUCKET/PREFIX
    #[arg(long, value_name = "URL", requires = "kit")]
    pub from: Option<String>,
    /// The recovery kit, where there are no settings
    #[arg(long, value_name = "FILE", requires = "from")]
    pub kit: Option<PathBuf>,
    /// With --from: the S3 server, where it is not AWS
    #[arg(long, value_name = "URL", requires = "from")]
    pub endpoint: Option<String>,
    /// With --from: the S3 region
    #[arg(long, requires = "from")]
    pub region: Option<String>,
    /// With --from: a file of PEM certificates to trust
    #[arg(long, value_name = "FILE", requires = "from")]
    pub ca: Option<PathBuf>,
}

const RESTORE_HELP: &str = "\
With --into nothing that exists is ever overwritten: a database or folder that is not there is created, and one
that is there must be empty. With --in-place what is there is set aside first, and `windlass undo` puts it back
until the `undo` of the settings has passed. Passwords of target databases come from PGPASSWORD or ~/.pgpass;
with --from, S3 credentials come from S3_ACCESS_KEY and S3_SECRET_KEY.

  windlass restore shop --into db=postgresql://localhost/shop_old --into uploads=/srv/restored
  windlass restore shop --in-place --at 2026-03-01T14:30:00+01:00 --plan
  windlass restore kryton/shelf --namespace notes --in-place --plan
  windlass restore shop --only 'db/shop/public.orders' --into db=postgresql://localhost/look --plan

Of a server with `mode = \"physical\"`, a folder takes all of it and a database URL single databases or tables:

  windlass restore shop --at latest --into db=/srv/restored
  windlass restore shop --at 2026-03-01T14:30:00+01:00 --only db/shop/public.orders --into db=postgresql://localhost/look";

#[derive(Debug, Args)]
#[command(after_help = UNDO_HELP)]
pub(crate) struct Undo {
    /// The restore, as `windlass restore --in-place` and `windlass undo` print it
    pub restore: Option<windlass_core::id::RestoreId>,
    /// Print what would be done and stop
    #[arg(long, conflicts_with_all = ["confirm", "yes"], requires = "restore")]
    pub plan: bool,
    /// Undo exactly what was shown with this digest, without asking
    #[arg(long, value_name = "DIGEST", conflicts_with = "yes", requires = "restore")]
    pub confirm: Option<String>,
    /// Undo without asking
    #[arg(long, requires = "restore")]
    pub yes: bool,
    /// Instead, remove what is kept of the restore: after that it cannot be undone
    #[arg(long, requires = "restore")]
    pub forget: bool,
    /// Instead, give up a restore that can neither be finished nor undone: nothing is moved or removed, and what it may
    /// have left is named
    #[arg(long, requires = "restore", conflicts_with = "forget")]
    pub abandon: bool,
    /// The application is stopped already; its command to stop it is not run
    #[arg(long, requires = "restore", conflicts_with_all = ["forget", "abandon"])]
    pub stopped: bool,
    /// A restore of a Kubernetes cluster: the namespace it is in
    #[arg(long, value_name = "NAMESPACE", requires = "restore", conflicts_with = "stopped")]
    pub namespace: Option<String>,
}

const UNDO_HELP: &str = "\
What was written since the restore is lost to the application; it is kept aside until the grace ends. A restore
that was interrupted is put back likewise. Needs the settings and this machine's `state`, not the repository.";

impl Restore {
    /// Options of a restore in a cluster, and whether they are given.
    pub(crate) fn of_cluster(&self) -> [(&'static str, bool); 3] {
        [("--namespace", self.namespace.is_some()), ("--notes", self.notes.is_some()), ("--undo", self.undo.is_some())]
    }

    /// Options of a restore by the settings, or by a kit.
    pub(crate) fn of_settings(&self) -> [(&'static str, bool); 11] {
        [
            ("--standby", self.standby),
            ("--pause", self.pause),
            ("--timeline", self.timeline.is_some()),
            ("--at-lsn", self.at_lsn.is_some()),
            ("--at-xid", self.at_xid.is_some()),
            ("--at-name", self.at_name.is_some()),
            ("--only", self.only.is_some()),
            ("--into", !self.into.is_empty()),
            ("--stopped", self.stopped),
            ("--without-undo", self.without_undo),
            ("--from", self.from.is_some()),
        ]
    }

    /// Options that mean nothing for someone else's repository, and whether they are given.
    pub(crate) fn of_ours(&self) -> [(&'static str, bool); 4] {
        [
            ("--standby", self.standby),
            ("--timeline", self.timeline.is_some()),
            ("--in-place", self.in_place),
            ("--from", self.from.is_some()),
        ]
    }

    /// Options that mean nothing where no WAL is, and whether they are given.
    pub(crate) fn of_wal(&self) -> [(&'static str, bool); 4] {
        [
            ("--at-lsn", self.at_lsn.is_some()),
            ("--at-xid", self.at_xid.is_some()),
            ("--at-name", self.at_name.is_some()),
            ("--pause", self.pause),
        ]
    }
}

impl Drill {
    /// Options of a drill in a cluster, and whether they are given.
    pub(crate) fn of_cluster(&self) -> [(&'static str, bool); 2] {
        [("--namespace", self.namespace.is_some()), ("--notes", self.notes.is_some())]
    }
}
