//! The command line: its words and their help. What they do is in `commands/`.

mod restore;

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use windlass_core::id::PointId;
use windlass_core::name::{InvalidName, Name};
use windlass_core::selector::Selector;
use windlass_engine::postgres::wal::{Owner, SOCKET};

pub(crate) use self::restore::{Drill, Restore, Undo};

/// Backup, restore and disaster recovery for stateful applications that proves itself.
#[derive(Debug, Parser)]
#[command(name = "windlass", version, max_term_width = 110, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    /// The settings file [default: ./windlass.toml, then /etc/windlass/windlass.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What to print on standard output
    #[arg(long, global = true, value_enum, default_value_t = Output::Text, value_name = "FORMAT")]
    pub output: Output,
    /// Say less: no progress, only what went wrong
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say more; twice: everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    #[command(subcommand)]
    pub verb: Verb,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done, and as verified as the verb promises
  1  ran and failed; `status`: not protected
  2  could not run: usage, settings, something unreachable; nothing was touched";

const FETCH_HELP: &str = "\
Exit codes, which are not those of other verbs: PostgreSQL ends recovery at 1 to 125.
  0    the file is there
  1    the archive ends before it
  126  anything else: PostgreSQL stops, and loses nothing";

const SERVE_HELP: &str = "\
It serves each component with `wal = \"archive\"`. In the settings of its server:
  archive_mode = on
  archive_command = 'windlass wal-push --component APPLICATION/COMPONENT %p'
It needs no rights of the server's, which hands over open files, and the server none of its secrets.";

const PUSH_HELP: &str = "\
It ends with 0 when the store has confirmed the file. Any other code has PostgreSQL keep it, and ask again.
Where nobody listens at the socket it stores the file itself, and needs settings and secrets that the server's user may read.";

/// A format of standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    Text,
    /// One JSON document with stable keys
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Write a commented settings file for what is found here
    Init(Init),
    /// Take a recovery point now
    Backup(Backup),
    /// Say whether applications are protected, and why not
    Status {
        /// One application; all where none is named
        application: Option<Name>,
    },
    /// List recovery points
    Points {
        /// The application, or a repository of `format = "restic"` or `"wal-g"`
        application: Name,
    },
    /// Restore a recovery point, or parts of it: plan, preview, confirm, run
    Restore(Box<Restore>),
    /// Put back what was there before a restore in place; without a restore, list them
    Undo(Undo),
    /// Read all bytes of a point back and hash them; --deep restores it into a scratch place and checks it
    Verify(Verify),
    /// Rehearse: restore into an isolated place, check, measure RTO and RPO, tear down
    Drill(Drill),
    /// Plan and carry out what is kept and what goes
    #[command(subcommand)]
    Retention(Retention),
    /// Make, check and look after a repository
    #[command(subcommand)]
    Repo(Repo),
    /// Check settings, tools, credentials, space and clocks; say what to fix
    Doctor,
    /// Run what has to be there all the time on this machine: the archiver of its servers' WAL
    #[command(after_help = SERVE_HELP)]
    Serve {
        /// The socket at which `wal-push` and `wal-fetch` ask
        #[arg(long, value_name = "PATH", default_value = SOCKET)]
        socket: PathBuf,
    },
    /// Store a file of WAL, as PostgreSQL's `archive_command`
    #[command(after_help = PUSH_HELP)]
    WalPush {
        /// The component whose server writes it
        #[arg(long, value_name = "APPLICATION/COMPONENT")]
        component: Owner,
        /// The socket at which `windlass serve` listens
        #[arg(long, value_name = "PATH", default_value = SOCKET)]
        socket: PathBuf,
        /// The file, `%p`
        path: PathBuf,
    },
    /// Fetch a file of the WAL archive, as PostgreSQL's `restore_command`
    #[command(after_help = FETCH_HELP)]
    WalFetch {
        /// The component whose server wrote it, or a repository of `format = "wal-g"`
        #[arg(long, value_name = "APPLICATION/COMPONENT|REPOSITORY")]
        component: WalOf,
        /// The system identifier of the cluster: a segment of another is refused [default: that of the data folder it runs in]
        #[arg(long, value_name = "IDENTIFIER")]
        cluster: Option<u64>,
        /// The socket at which `windlass serve` listens
        #[arg(long, value_name = "PATH", default_value = SOCKET)]
        socket: PathBuf,
        /// The file, `%f`
        name: String,
        /// Where it goes, `%p`
        path: PathBuf,
    },
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Reconcile the custom resources of a Kubernetes cluster
    Operator(Operator),
    /// Print the definitions of the custom resources
    Crds,
    /// Carry out what an operator ordered, in a Pod
    #[command(subcommand, hide = true)]
    Agent(Agent),
    /// Wait for the end of another process and do what it ordered
    #[command(name = windlass_engine::supervisor::SUBCOMMAND, hide = true)]
    Supervise,
}

#[derive(Debug, Args)]
pub(crate) struct Operator {
    /// The image that Pods copy the agent from: usually the operator's own
    #[arg(long, env = "WINDLASS_IMAGE", value_name = "IMAGE")]
    pub image: String,
    /// The namespace of the Lease by which one of several operators leads
    #[arg(long, env = "POD_NAMESPACE", default_value = "windlass", value_name = "NAMESPACE")]
    pub namespace: String,
    /// What this operator is called in the Lease and in Events
    #[arg(long, env = "POD_NAME", default_value = "windlass-operator", value_name = "NAME")]
    pub identity: String,
    /// The helm that installs the application; without it the application is installed by others
    #[arg(long, env = "WINDLASS_HELM", value_name = "FILE", requires = "chart")]
    pub helm: Option<PathBuf>,
    /// The folder of the application's chart
    #[arg(long, env = "WINDLASS_CHART", value_name = "FOLDER")]
    pub chart: Option<PathBuf>,
    /// Where metrics and health are served
    #[arg(long, default_value = "0.0.0.0:8080", value_name = "ADDRESS")]
    pub listen: std::net::SocketAddr,
}

#[derive(Debug, Args)]
pub(crate) struct SnapshotOf {
    /// The Kryton
    #[arg(long)]
    pub name: String,
    /// The claim of the volume
    #[arg(long)]
    pub claim: String,
    /// The class; the cluster's default where none is named
    #[arg(long)]
    pub class: Option<String>,
    /// How long snapshots are kept, such as 7d; for ever where nothing is said
    #[arg(long, value_parser = windlass_core::duration::parse)]
    pub retention: Option<jiff::SignedDuration>,
    /// How long one may take until it can be used
    #[arg(long, value_parser = windlass_core::duration::parse, default_value = "30m")]
    pub patience: jiff::SignedDuration,
    /// The namespace
    #[arg(long, env = "POD_NAMESPACE")]
    pub namespace: String,
    /// The Job this runs in
    #[arg(long, env = "JOB_NAME")]
    pub job: String,
    /// Its unique identifier
    #[arg(long, env = "JOB_UID")]
    pub uid: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Agent {
    /// Copy this binary to where another container finds it
    Install {
        /// The file to write
        to: PathBuf,
    },
    /// Fetch plugins before an application starts
    Plugins {
        /// The folder they go to
        folder: PathBuf,
        /// What to fetch: a JSON list of name, url and sha256
        #[arg(long, env = "PLUGINS", hide_env_values = true)]
        plugins: String,
    },
    /// Take a snapshot of a volume, and delete old ones
    Snapshot(SnapshotOf),
    /// Carry out a task
    Run {
        /// The task
        task: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// The file to write; nothing is overwritten
    #[arg(long, default_value = "windlass.toml", value_name = "FILE")]
    pub file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Backup {
    /// The application
    pub application: Name,
    /// Capture only these components
    #[arg(long, value_name = "COMPONENT", value_delimiter = ',')]
    pub only: Vec<Name>,
}

/// An application: of the settings, or of a Kubernetes cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Application {
    /// One that the settings describe.
    Named(Name),
    /// `kryton/NAME`.
    Kryton(String),
}

impl FromStr for Application {
    type Err = <Name as FromStr>::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("kryton/") {
            // A name in a cluster is one here, too.
            Some(kryton) => Ok(Self::Kryton(kryton.parse::<Name>()?.to_string())),
            None => Ok(Self::Named(text.parse()?)),
        }
    }
}

/// The name of an application of the settings.
pub(crate) fn named(application: &Application) -> crate::failure::Result<&Name> {
    match application {
        Application::Named(name) => Ok(name),
        Application::Kryton(name) => Err(crate::failure::Failure::usage(
            format!("`kryton/{name}` is an application of a cluster, and this is asked of the settings"),
            "leave out what belongs to settings, such as --from and --kit",
        )),
    }
}

/// Refuses options that mean nothing for an application of this kind.
pub(crate) fn without(given: &[(&str, bool)], kind: &str) -> crate::failure::Result<()> {
    match given.iter().find(|(_, is_given)| *is_given) {
        Some((option, _)) => Err(crate::failure::Failure::usage(
            format!("{option} means nothing for {kind}"),
            "leave it out, or name another application",
        )),
        None => Ok(()),
    }
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// The application, or a repository of `format = "restic"`
    pub application: Name,
    /// Restore into a scratch place as well, and check what is there
    #[arg(long)]
    pub deep: bool,
    /// The point to verify [default: the newest complete one]
    #[arg(long, value_name = "ID", conflicts_with = "all")]
    pub point: Option<String>,
    /// Verify every point
    #[arg(long)]
    pub all: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Retention {
    /// Show which points are kept and why, which would go, and the plan's digest
    Plan {
        /// The application
        application: Name,
    },
    /// Mark what the plan lets go, then sweep what was marked a grace ago
    Apply {
        /// The application
        application: Name,
        /// Carry out exactly the plan with this digest, without asking
        #[arg(long, value_name = "DIGEST", conflicts_with = "yes")]
        confirm: Option<String>,
        /// Carry out the plan shown, without asking
        #[arg(long)]
        yes: bool,
        /// Also where the plan lets more go than the policy's `max_delete`
        #[arg(long)]
        beyond_max_delete: bool,
    },
    /// Say why a point is kept or goes
    Explain {
        /// The application
        application: Name,
        /// The point
        point: PointId,
    },
    /// Keep a point until it is released, whatever the policy says
    Hold {
        /// The application
        application: Name,
        /// The point
        point: PointId,
        /// Why, in words
        #[arg(long)]
        reason: String,
    },
    /// Lift all holds of a point
    Release {
        /// The application
        application: Name,
        /// The point
        point: PointId,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Repo {
    /// Make the repository, and the keys of every application in the settings that uses it
    Init {
        /// The repository [default: the only one in the settings]
        repository: Option<Name>,
    },
    /// Find what is missing, truncated, changed, extra or foreign, and say what it costs
    Check {
        /// The repository [default: the only one in the settings]
        repository: Option<Name>,
        /// Also read every byte back and hash it
        #[arg(long)]
        read_data: bool,
    },
    /// Show how much lies there
    Stats {
        /// The repository [default: the only one in the settings]
        repository: Option<Name>,
    },
    /// List keyrings and writers; vouch for writers; seal keyrings anew
    #[command(subcommand)]
    Keys(Keys),
    /// Print the recovery kit: with it and the repository alone everything comes back
    Kit {
        /// The repository [default: the only one in the settings]
        repository: Option<Name>,
        /// Write it to a new file, readable by its owner only, instead of printing it
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Print how everything is brought back without Windlass
    Manual {
        /// The repository [default: the only one in the settings]
        repository: Option<Name>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// List keyrings and writers
    List {
        /// The repository [default: the only one in the settings]
        repository: Option<Name>,
    },
    /// Vouch for a writer that was made where the keyring could not be opened
    Enroll {
        /// The writer
        writer: windlass_core::id::WriterId,
        /// The repository [default: the only one in the settings]
        #[arg(long)]
        repository: Option<Name>,
    },
    /// Say that a writer writes no more, because its host is gone; what it wrote stays good
    Retire {
        /// The writer
        writer: windlass_core::id::WriterId,
        /// The repository [default: the only one in the settings]
        #[arg(long)]
        repository: Option<Name>,
    },
    /// Put keyrings back that are gone, from the recovery kit
    Restore {
        /// The repository [default: the only one in the settings]
        repository: Option<Name>,
        /// The recovery kit
        #[arg(long, value_name = "FILE")]
        kit: PathBuf,
    },
    /// Seal the keyrings anew, to what the settings name now; no data are rewritten
    Reseal {
        /// The repository [default: the only one in the settings]
        repository: Option<Name>,
        /// A file with the passphrase, or the age identity, that opens them now
        #[arg(long, value_name = "FILE")]
        old: PathBuf,
    },
}

/// Whose WAL it is.
#[derive(Clone, Debug)]
pub(crate) enum WalOf {
    /// That of a component.
    Component(Owner),
    /// That of somebody else's repository.
    Repository(Name),
}

impl FromStr for WalOf {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if text.contains('/') { text.parse().map(Self::Component) } else { text.parse().map(Self::Repository) }
    }
}

/// Reads `--only`.
pub(crate) fn selectors(text: Option<&str>) -> Result<Vec<Selector>, windlass_core::selector::InvalidSelector> {
    text.map_or(Ok(Vec::new()), Selector::parse_list)
}
