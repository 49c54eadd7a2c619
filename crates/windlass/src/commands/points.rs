//! `windlass points`: the recovery points and what is known of each.

use jiff::Timestamp;
use serde::Serialize;
use windlass_core::id::PointId;
use windlass_core::name::Name;
use windlass_core::point::Consistency;
use windlass_core::verification::{Level, Verdict};
use windlass_repo::catalog::{Catalog, Entry};
use windlass_repo::verify;

use crate::commands::foreign;
use crate::context::Context;
use crate::failure::{Result, Status};
use crate::printer::Printer;

/// One point, as printed.
#[derive(Serialize)]
struct Row {
    id: PointId,
    at: Timestamp,
    complete: bool,
    consistency: Consistency,
    skew_ms: i64,
    data_bytes: u64,
    stored_bytes: u64,
    components: Vec<Component>,
    failed: Vec<Name>,
    /// Components whose source was damaged already when it was captured.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    source_corrupt: Vec<Name>,
    verified: Level,
    verified_at: Option<Timestamp>,
    damaged: bool,
    held: Vec<String>,
    deleted_after_grace: bool,
}

#[derive(Serialize)]
struct Component {
    name: Name,
    kind: String,
    data_bytes: u64,
    stored_bytes: u64,
}

/// All there is to say.
#[derive(Serialize)]
struct Report {
    application: Name,
    points: Vec<Row>,
    unreadable: Vec<Unreadable>,
}

#[derive(Serialize)]
struct Unreadable {
    key: String,
    why: String,
}

pub(crate) async fn run(context: &Context, application: &Name) -> Result {
    if let Some(repository) = context.foreign(application) {
        return foreign::points(context, repository).await;
    }
    let vault = context.open_vault(application).await?;
    let catalog = Catalog::load(&vault).await?;
    let (verifications, _) = verify::load(&vault).await?;
    let rows = catalog.entries.iter().rev().map(|entry| {
        let newest = verify::newest_of(&verifications, entry.point.id);
        row(entry, &newest)
    });
    let report = Report {
        application: application.clone(),
        points: rows.collect(),
        unreadable: catalog
            .damaged
            .iter()
            .map(|d| Unreadable { key: d.key.to_string(), why: windlass_core::diagnose::chain(&d.error) })
            .collect(),
    };
    for unreadable in &report.unreadable {
        context.printer.warning(&format!("`{}` is not listed: {}", unreadable.key, unreadable.why));
    }
    context.printer.result(&report, |printer| describe(printer, &report));
    Ok(if report.unreadable.is_empty() { Status::Done } else { Status::Failed })
}

fn row(entry: &Entry, verifications: &[&windlass_core::verification::Verification]) -> Row {
    let point = &entry.point;
    let passed = verifications.iter().filter(|v| v.verdict == Verdict::Passed).max_by_key(|v| v.level);
    let newest = verifications.iter().max_by_key(|v| v.finished);
    Row {
        id: point.id,
        at: point.at,
        complete: point.is_complete(),
        consistency: point.consistency,
        skew_ms: point.skew_ms,
        data_bytes: point.data_bytes(),
        stored_bytes: point.stored_bytes(),
        components: point
            .components
            .iter()
            .map(|c| Component {
                name: c.name.clone(),
                kind: c.kind.clone(),
                data_bytes: c.data_bytes,
                stored_bytes: c.stored_bytes,
            })
            .collect(),
        failed: point.failed.iter().map(|f| f.name.clone()).collect(),
        source_corrupt: point.components.iter().filter(|c| c.source_corrupt).map(|c| c.name.clone()).collect(),
        verified: passed.map_or(Level::Stored, |v| v.level),
        verified_at: passed.map(|v| v.finished),
        damaged: newest.is_some_and(|v| v.verdict == Verdict::Failed),
        held: entry.holds.iter().map(|hold| hold.reason.clone()).collect(),
        deleted_after_grace: entry.tombstone.is_some(),
    }
}

fn describe(printer: &Printer, report: &Report) -> String {
    if report.points.is_empty() && !report.unreadable.is_empty() {
        let (name, all) = (&report.application, report.unreadable.len());
        return format!("{name} has {all} points that cannot be read or trusted: run `windlass repo check`");
    }
    if report.points.is_empty() {
        return format!("{} has no recovery points yet: run `windlass backup {0}`", report.application);
    }
    let rows = report.points.iter().map(|row| {
        let components: Vec<&str> = row.components.iter().map(|c| c.name.as_str()).collect();
        vec![
            row.id.to_string(),
            printer.time(row.at),
            components.join(","),
            row.consistency.to_string(),
            format!("{:#}", jiff::SignedDuration::from_millis(row.skew_ms)),
            Printer::size(row.data_bytes),
            Printer::size(row.stored_bytes),
            verified(row),
            remarks(row),
        ]
    });
    Printer::table(
        &["POINT", "AT", "COMPONENTS", "CLASS", "SKEW", "DATA", "NEW", "VERIFIED", "REMARKS"],
        rows.collect(),
    )
}

fn verified(row: &Row) -> String {
    if row.damaged { "DAMAGED".to_owned() } else { row.verified.to_string() }
}

fn remarks(row: &Row) -> String {
    let mut remarks = Vec::new();
    if !row.complete {
        let failed: Vec<&str> = row.failed.iter().map(Name::as_str).collect();
        remarks.push(format!("PARTIAL: lacks {}", failed.join(",")));
    }
    if !row.source_corrupt.is_empty() {
        let corrupt: Vec<&str> = row.source_corrupt.iter().map(Name::as_str).collect();
        remarks.push(format!("SOURCE CORRUPT: {}", corrupt.join(",")));
    }
    remarks.extend(row.held.iter().map(|reason| format!("held: {reason}")));
    if row.deleted_after_grace {
        remarks.push("marked for deletion".to_owned());
    }
    remarks.join("; ")
}
