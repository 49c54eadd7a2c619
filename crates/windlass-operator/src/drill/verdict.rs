//! What came of a drill: judged by its restore, measured, and put on record.

use jiff::{SignedDuration, Timestamp};
use windlass_core::diagnose::without_output;
use windlass_core::id::{EntryId, PointId};
use windlass_core::verification::{ComponentVerdict, DrillReport, Level, Verdict, Verification};
use windlass_repo::verify;

use crate::api::drill::DrillStatus;
use crate::api::kryton::Kryton;
use crate::api::restore::{PLANNED, Phase, RestoreStatus};
use crate::error::OperatorError;
use crate::keeper::Opened;
use crate::kryton::{component, names};

/// What a restore into a copy says of the point; `None` while it is under way.
pub(super) fn judge(restore: &RestoreStatus) -> Option<(Verdict, Vec<String>)> {
    let planned = restore.conditions.iter().find(|condition| condition.type_ == PLANNED);
    match restore.phase? {
        Phase::Restored | Phase::Final => Some((Verdict::Passed, Vec::new())),
        Phase::Failed => {
            let failure = restore.failure.clone().unwrap_or_default();
            let verdict = if says_something(&failure) { Verdict::Failed } else { Verdict::Inconclusive };
            Some((verdict, vec![failure]))
        }
        // What it would take is not to be had here: that says nothing of the point.
        Phase::Refused => {
            Some((Verdict::Inconclusive, planned.map(|condition| condition.message.clone()).into_iter().collect()))
        }
        Phase::PutBack => Some((Verdict::Inconclusive, vec!["somebody had the restore put back".to_owned()])),
        Phase::Planning | Phase::Planned | Phase::Running | Phase::PuttingBack => None,
    }
}

/// Whether a failure says something of what was restored: an agent has tried, and did not merely fail to reach something; or the
/// application did not work with it. A Pod that was never made, or ran out of time, says nothing.
fn says_something(failure: &str) -> bool {
    let is_of_agent = failure.contains("error[WDL-") && !failure.contains("error[WDL-2111]");
    is_of_agent || failure.contains("it did not start within")
}

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    pub(super) started: Timestamp,
    pub(super) finished: Timestamp,
    /// The moment the point stands for.
    pub(super) at: Timestamp,
}

impl Measured {
    pub(super) fn rto(&self) -> SignedDuration {
        self.finished.duration_since(self.started)
    }

    pub(super) fn rpo(&self) -> SignedDuration {
        self.started.duration_since(self.at)
    }
}

/// Puts a drill on record, once: its record's identifier was chosen before.
pub(super) async fn record(
    opened: &Opened,
    from: &Kryton,
    status: &DrillStatus,
    id: EntryId,
    point: PointId,
    verdict: Verdict,
    measured: Measured,
) -> Result<(), OperatorError> {
    let (known, _) = verify::load(&opened.vault).await?;
    if known.iter().any(|verification| verification.id == id) {
        return Ok(());
    }
    let ms = |duration: SignedDuration| u64::try_from(duration.as_millis()).unwrap_or(0);
    let findings = status.findings.iter().map(|finding| without_output(finding).to_owned()).collect();
    let component = ComponentVerdict {
        name: component(),
        verdict,
        findings,
        bytes_read: 0,
        restore_ms: Some(ms(measured.rto())),
        left_out: status.notes.clone(),
        checked: status.checked.clone(),
    };
    let verification = Verification {
        format: windlass_core::point::FORMAT,
        id,
        application: opened.vault.application().clone(),
        point,
        level: Level::Restored,
        verdict,
        started: measured.started,
        finished: measured.finished,
        host: names::full(from),
        components: vec![component],
        drill: Some(DrillReport { rto_ms: ms(measured.rto()), rpo_ms: ms(measured.rpo()) }),
    };
    verify::record(&opened.vault, &opened.writer, &verification).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(phase: Phase) -> Option<Verdict> {
        of_failure(
            phase,
            "Job friday-lay-down: BackoffLimitExceeded: …; restore ended with 1 (Error): error[WDL-2402]: check",
        )
    }

    fn of_failure(phase: Phase, failure: &str) -> Option<Verdict> {
        let failure = Some(failure.to_owned());
        judge(&RestoreStatus { phase: Some(phase), failure, ..RestoreStatus::default() }).map(|(verdict, _)| verdict)
    }

    #[test]
    fn only_what_was_restored_and_checked_passes_and_what_could_not_be_tried_says_nothing_of_the_point() {
        assert_eq!(verdict(Phase::Restored), Some(Verdict::Passed));
        assert_eq!(verdict(Phase::Failed), Some(Verdict::Failed));
        assert_eq!(of_failure(Phase::Failed, "Job friday-check: DeadlineExceeded"), Some(Verdict::Inconclusive));
        assert_eq!(verdict(Phase::Refused), Some(Verdict::Inconclusive));
        assert_eq!(verdict(Phase::PutBack), Some(Verdict::Inconclusive));
        for under_way in [Phase::Planning, Phase::Planned, Phase::Running, Phase::PuttingBack] {
            assert_eq!(verdict(under_way), None, "{under_way:?}");
        }
    }

    #[test]
    fn time_is_measured_from_the_word_to_begin_and_loss_from_the_moment_of_the_point() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let measured = Measured {
            started: at("2026-11-21T12:00:00Z"),
            finished: at("2026-11-21T12:00:41Z"),
            at: at("2026-11-21T03:00:00Z"),
        };
        assert_eq!(measured.rto(), SignedDuration::from_secs(41));
        assert_eq!(measured.rpo(), SignedDuration::from_hours(9));
    }
}
