//! `windlass doctor`: settings, tools, credentials, space and clocks, and what to fix.

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use windlass_core::application::{Physical, Postgres, Strategy};
use windlass_core::diagnose::{Diagnose, chain};
use windlass_core::duration::display;
use windlass_core::name::Name;
use windlass_core::repository::Format;
use windlass_engine::postgres::physical::{PhysicalError, Source};
use windlass_engine::postgres::tools::{Tools, server_folder};
use windlass_engine::postgres::wal::{Health, Owner};
use windlass_engine::restore::free_bytes;
use windlass_host::host::Host;
use windlass_host::wal::waiting as waiting_here;
use windlass_repo::live::now_of;
use windlass_repo::repository::Repository;

use crate::context::Context;
use crate::failure::{Result, Status};
use crate::printer::Printer;

/// More than this between this machine's clock and the store's is worth saying.
const SKEW: SignedDuration = SignedDuration::from_secs(60);

/// One thing that was looked at.
#[derive(Serialize)]
struct Finding {
    what: String,
    good: bool,
    said: String,
    fix: Vec<String>,
}

impl Finding {
    fn good(what: impl Into<String>, said: impl Into<String>) -> Self {
        Self { what: what.into(), good: true, said: said.into(), fix: Vec::new() }
    }

    fn bad(what: impl Into<String>, error: &dyn Diagnose, why: String) -> Self {
        Self { what: what.into(), good: false, said: why, fix: error.hints() }
    }
}

pub(crate) async fn run(context: &Context) -> Result {
    let mut findings = vec![Finding::good("settings", context.settings.file.display().to_string())];
    for problem in windlass::settings::check_world(&context.settings, None) {
        findings.push(Finding {
            what: "settings".into(),
            good: problem.is_warning(),
            said: problem.to_string(),
            fix: problem.hints(),
        });
    }
    findings.push(space(context));
    for place in windlass_engine::postgres::scratch::stale() {
        let fix = vec!["the next `windlass drill` removes it; or do so now, and end what runs in it".to_owned()];
        let said = format!("{} was left by a drill that was killed together with its supervisor", place.display());
        findings.push(Finding { what: "scratch place".into(), good: false, said, fix });
    }
    for repository in context.settings.repositories.values() {
        match &repository.format {
            Format::Windlass(_) => findings.extend(repositories(context, repository).await),
            Format::Restic { .. } | Format::WalG { .. } => {}
        }
    }
    for application in context.settings.applications.values() {
        findings.extend(keyring(context, &application.name).await);
        for component in &application.components {
            let name = format!("{}/{}", application.name, component.name);
            match &component.strategy {
                Strategy::Postgres(source) => findings.extend(postgres(&name, source).await),
                Strategy::Physical(source) => findings.extend(physical(&context.host, &name, source).await),
                Strategy::Disk(_) | Strategy::Action(_) => {}
            }
        }
    }
    let all = findings.iter().all(|finding| finding.good);
    context.printer.result(&findings, |_| {
        let row = |f: &Finding| {
            let fix = if f.fix.is_empty() { String::new() } else { format!(" -> {}", f.fix.join("; ")) };
            vec![
                if f.good { "ok".into() } else { "FIX".into() },
                f.what.clone(),
                format!("{}{fix}", f.said.replace('\n', " ")),
            ]
        };
        Printer::table(&["", "WHAT", "FOUND"], findings.iter().map(row).collect())
    });
    Ok(if all { Status::Done } else { Status::Failed })
}

fn space(context: &Context) -> Finding {
    let state = &context.settings.state;
    let free = free_bytes(state);
    Finding::good(
        "space",
        format!(
            "{} free for state in {}, {} for scratch places in /var/tmp",
            Printer::size(free),
            state.display(),
            Printer::size(free_bytes(std::path::Path::new("/var/tmp")))
        ),
    )
}

async fn repositories(context: &Context, settings: &windlass_core::repository::Repository) -> Vec<Finding> {
    let what = format!("repository {}", settings.name);
    let repository = match context.host.open_repository(settings).await {
        Ok(repository) => repository,
        Err(error) => return vec![Finding::bad(what, &error, chain(&error))],
    };
    let free = repository
        .store()
        .directory()
        .map_or_else(String::new, |folder| format!(", {} free", Printer::size(free_bytes(folder))));
    let found = format!("{} in {}{free}", repository.id(), repository.store().location());
    let mut findings = vec![Finding::good(&what, found)];
    match now_of(repository.store()).await {
        Err(error) => findings.push(Finding::bad(format!("{what}: write"), &error, chain(&error))),
        Ok(now) => {
            let skew = Timestamp::now().duration_since(now).abs();
            let said = format!("the store's clock and this one differ by {}", display(skew));
            let fix =
                if skew > SKEW { vec!["set this machine's clock, by NTP for one".to_owned()] } else { Vec::new() };
            findings.push(Finding { what: format!("{what}: clock"), good: skew <= SKEW, said, fix });
        }
    }
    findings.push(create_only(&what, repository).await);
    findings
}

/// Whether the store refuses to overwrite.
async fn create_only(what: &str, repository: Repository) -> Finding {
    let what = format!("{what}: create-only");
    match repository.probed().await {
        Ok(repository) if repository.store().looks_first() => Finding {
            what,
            good: false,
            said: "the store has no create-only writes: each write looks first, and one host alone may write".into(),
            fix: vec!["use a store with conditional writes".into()],
        },
        Ok(_) => Finding::good(what, "the store never overwrites"),
        Err(error) => Finding::bad(what, &error, chain(&error)),
    }
}

/// Whether the keyring opens; where there is no repository yet, that has been said.
async fn keyring(context: &Context, application: &Name) -> Option<Finding> {
    let what = format!("{application}: keyring");
    match context.open_vault(application).await {
        Ok(vault) if vault.keyring().is_ok() => Some(Finding::good(what, "it opens")),
        Ok(_) => Some(Finding::good(what, "sealed to recipients; this host can write dumps only")),
        Err(failure)
            if ["WDL-1501", "WDL-1503", "WDL-1504", "WDL-1505", "WDL-1506", "WDL-1510"].contains(&failure.0.code()) =>
        {
            Some(Finding::bad(what, &*failure.0, chain(&*failure.0)))
        }
        Err(_) => None,
    }
}

async fn physical(host: &Host, name: &str, source: &Physical) -> Vec<Finding> {
    let mut findings = postgres(name, &source.server).await;
    let Ok(tools) = Tools::find(&source.server).await else { return findings };
    let what = format!("{name}: data folder");
    findings.push(match readable(&tools, source).await {
        Ok(said) => Finding::good(what, said),
        Err(error) => Finding::bad(what, &error, chain(&error)),
    });
    if source.archives {
        findings.push(archiving(host, name, source).await);
    }
    findings
}

/// How base backups of a server are read.
async fn readable(tools: &Tools, source: &Physical) -> std::result::Result<String, PhysicalError> {
    let found = Source::open(tools, source).await?;
    let cluster = found.system_identifier();
    match found {
        Source::Folder(server) => Ok(format!("{} is at hand, of the cluster {cluster}", server.data().display())),
        Source::Protocol(remote) => {
            remote.connect().await?;
            let why = remote.why();
            Ok(format!("not at hand ({why}): base backups of the cluster {cluster} come by the replication protocol"))
        }
    }
}

/// How the server's archiving goes, and what to set where it does not.
async fn archiving(host: &Host, name: &str, source: &Physical) -> Finding {
    let what = format!("{name}: WAL");
    let health = match Health::ask(source).await {
        Ok(health) => health,
        Err(error) => return Finding::bad(what, &error, chain(&error)),
    };
    if health.is_standby {
        return Finding::good(what, "the server is a standby: its primary has to archive as this component".to_owned());
    }
    let (waiting, held) = (health.waiting, windlass_core::size::display(health.wal_bytes));
    let free = health.free_bytes.map_or(String::new(), |free| format!(", {} free", windlass_core::size::display(free)));
    let said = format!("{waiting} files wait, pg_wal holds {held}{free}");
    let command = format!("archive_command = 'windlass wal-push --component {name} %p'");
    let bad = |said: String, fix: Vec<String>| Finding { what: what.clone(), good: false, said, fix };
    if !matches!(health.mode.as_str(), "on" | "always") {
        let fix = vec!["in the server's settings: archive_mode = on, which takes a restart".to_owned(), command];
        return bad(format!("the server archives nothing: archive_mode is {}", health.mode), fix);
    }
    if health.command.as_ref().is_some_and(|set| !set.contains("wal-push") || !set.contains(name)) {
        return bad("the server's archive_command does not bring WAL here".to_owned(), vec![command]);
    }
    if health.timeout == 0 {
        let fix = vec!["in the server's settings: archive_timeout = 60, which is no more than a reload".to_owned()];
        return bad(
            "a segment is archived when it is full, which may be in days: archive_timeout is 0".to_owned(),
            fix,
        );
    }
    let owner = name.parse::<Owner>();
    let (spooled, refused) = owner.ok().and_then(|owner| waiting_here(host, &owner).ok()).unwrap_or_default();
    let said = if spooled > 0 { format!("{said}; {spooled} files wait in the spool of this machine") } else { said };
    if refused > 0 {
        let fix = vec!["compare them with the archive: another server may archive as this component; then remove them from `state`/spool".to_owned()];
        return bad(format!("the archive refused {refused} files of the spool, which begin with `refused-`"), fix);
    }
    if let Some(failing) = &health.failing {
        let fix =
            vec!["see what `windlass serve` says; the server's log has what `archive_command` printed".to_owned()];
        return bad(format!("{failing} could not be archived; {said}"), fix);
    }
    if health.is_near_full() {
        return bad(
            format!("the disk is nearly full: {said}"),
            vec!["make room: a server that cannot write WAL stops".to_owned()],
        );
    }
    Finding::good(what, said)
}

async fn postgres(name: &str, source: &Postgres) -> Vec<Finding> {
    let tools = match Tools::find(source).await {
        Ok(tools) => tools,
        Err(error) => return vec![Finding::bad(name, &error, chain(&error))],
    };
    let major = tools.server_version / 10_000;
    let mut findings =
        vec![Finding::good(name, format!("PostgreSQL {major}, with client tools of version {}", tools.major))];
    match server_folder(major).await {
        Ok((found, _)) => {
            findings.push(Finding::good(format!("{name}: scratch server"), format!("PostgreSQL {found} is installed")));
        }
        Err(error) => findings.push(Finding::bad(format!("{name}: scratch server"), &error, chain(&error))),
    }
    findings
}
