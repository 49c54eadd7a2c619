//! What is told of a restore: its status, and conditions that follow from it.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::{Value, json};

use crate::api::restore::{PLANNED, Phase, RESTORED, Restore, RestoreStatus, Step};
use crate::context::Context;
use crate::error::OperatorError;
use crate::kryton::apply;
use crate::status::{self, Now, Told};

const CONFIRMED: &str = "Confirmed";

impl Told for Restore {
    const EXACT: bool = true;

    fn told(&self) -> Value {
        json!(self.status)
    }

    fn conditions(&self) -> &[Condition] {
        self.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default()
    }
}

/// The present moment, as a status has it.
pub(super) fn now() -> String {
    status::whole_second(Timestamp::now()).to_string()
}

/// Writes the status, and says what is going on or why something does not go on.
pub(super) async fn tell(
    context: &Context,
    restore: &Restore,
    status: &RestoreStatus,
    said: &str,
) -> Result<(), OperatorError> {
    let conditions = conditions(restore, status, said);
    let Value::Object(mut fields) = json!(status) else { return Ok(()) };
    fields.remove("conditions");
    status::write(context, restore, apply::MANAGER, conditions, fields).await
}

fn conditions(restore: &Restore, status: &RestoreStatus, said: &str) -> Vec<Now> {
    let phase = status.phase.unwrap_or(Phase::Planning);
    let planned = match phase {
        Phase::Planning => Now::unknown(PLANNED, "Planning", said),
        Phase::Refused => Now::no(PLANNED, "Refused", said),
        _ => Now::yes(PLANNED, "Planned", summary(status)),
    };
    let confirmed = match (phase, &restore.spec.confirm, &status.digest) {
        (Phase::Planning | Phase::Refused, _, _) => Now::no(CONFIRMED, "NoPlan", "there is no plan to be confirmed"),
        (Phase::Planned, Some(confirm), Some(digest)) if confirm == digest => {
            Now::yes(CONFIRMED, "Confirmed", "the plan was confirmed by its digest")
        }
        (Phase::Planned, Some(_), _) => {
            Now::no(CONFIRMED, "OtherDigest", "spec.confirm is not the digest of this plan, which status.digest tells")
        }
        (Phase::Planned, None, digest) => Now::no(
            CONFIRMED,
            "Waiting",
            format!("nothing is touched until spec.confirm is `{}`", digest.as_deref().unwrap_or_default()),
        ),
        _ => Now::yes(CONFIRMED, "Confirmed", "the plan was confirmed by its digest"),
    };
    let failure = || status.failure.clone().unwrap_or_default();
    let with_notes = |text: String| status.notes.iter().fold(text, |text, note| format!("{text}; {note}"));
    let restored = match phase {
        Phase::Planning | Phase::Planned if said.is_empty() => Now::no(RESTORED, "NotBegun", "nothing was touched"),
        Phase::Planning | Phase::Planned => Now::no(RESTORED, "NotBegun", format!("nothing was touched; {said}")),
        Phase::Refused => Now::no(RESTORED, "Refused", "nothing was touched"),
        Phase::Running => Now::unknown(RESTORED, step(status), said),
        Phase::PuttingBack => {
            let said = if said.is_empty() { failure() } else { format!("{said}; {}", failure()) };
            Now::unknown(RESTORED, step(status), said.trim_end_matches("; "))
        }
        Phase::Failed if status.given_up => Now::no(
            RESTORED,
            "GivenUp",
            with_notes(format!(
                "{}; what was set aside may still be in the server, as a database whose name begins with `windlass_`",
                failure()
            )),
        ),
        Phase::Failed if !status.held => {
            Now::no(RESTORED, "Failed", with_notes(format!("{}; nothing was touched", failure())))
        }
        Phase::Failed => {
            Now::no(RESTORED, "Failed", with_notes(format!("{}; what was there before is there again", failure())))
        }
        Phase::PutBack => Now::no(
            RESTORED,
            "PutBack",
            with_notes("what was there before is there again, as it was asked for".to_owned()),
        ),
        Phase::Restored if said.is_empty() => Now::yes(RESTORED, "Restored", with_notes(done(status))),
        Phase::Restored => Now::yes(RESTORED, "Restored", with_notes(format!("{}; {said}", done(status)))),
        Phase::Final => {
            Now::yes(RESTORED, "Final", with_notes(format!("{}; what was there before is gone", done(status))))
        }
    };
    vec![planned, confirmed, restored]
}

fn step(status: &RestoreStatus) -> &'static str {
    match status.step {
        Some(Step::Look) => "Looking",
        Some(Step::Stop) => "Stopping",
        Some(Step::LayDown) => "LayingDown",
        Some(Step::Volume) => "MakingVolume",
        Some(Step::Switch) => "Switching",
        Some(Step::Start) => "Starting",
        Some(Step::Check) => "Checking",
        Some(Step::StopAgain) => "StoppingAgain",
        Some(Step::PutBack) => "PuttingBack",
        Some(Step::StartAgain) => "StartingAgain",
        Some(Step::Remove) => "Removing",
        None => "Beginning",
    }
}

fn summary(status: &RestoreStatus) -> String {
    let steps = status.plan.as_ref().and_then(|plan| plan.get("steps")).and_then(Value::as_array);
    let steps: Vec<&str> = steps.into_iter().flatten().filter_map(|step| step["step"].as_str()).collect();
    format!(
        "{} of {}: {}",
        status.point.as_deref().unwrap_or_default(),
        status.point_time.as_deref().unwrap_or_default(),
        steps.join(", ")
    )
}

fn done(status: &RestoreStatus) -> String {
    let mut text = format!("restored the point of {}", status.point_time.as_deref().unwrap_or_default());
    if let Some(until) = &status.undo_until {
        text.push_str(&format!("; what was there before can be put back until {until}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::restore::RestoreSpec;

    fn told(phase: Phase, confirm: Option<&str>) -> Vec<(&'static str, Option<bool>, String)> {
        let spec = json!({ "from": { "kryton": "shelf" }, "confirm": confirm });
        let restore = Restore::new("back", serde_json::from_value::<RestoreSpec>(spec).unwrap());
        let status = RestoreStatus { phase: Some(phase), digest: Some("ab".into()), ..RestoreStatus::default() };
        let all = conditions(&restore, &status, "so it stands");
        all.into_iter().map(|now| (now.type_, now.holds, now.reason)).collect()
    }

    #[test]
    fn success_is_said_only_of_what_was_restored() {
        for phase in [
            Phase::Planning,
            Phase::Planned,
            Phase::Refused,
            Phase::Running,
            Phase::PuttingBack,
            Phase::Failed,
            Phase::PutBack,
        ] {
            let restored = told(phase, None).into_iter().find(|(type_, ..)| *type_ == RESTORED).unwrap();
            assert_ne!(restored.1, Some(true), "{phase:?}: {restored:?}");
        }
        for phase in [Phase::Restored, Phase::Final] {
            assert!(told(phase, Some("ab")).iter().all(|(_, holds, _)| *holds == Some(true)), "{phase:?}");
        }
    }

    #[test]
    fn a_plan_says_what_confirms_it_and_another_digest_does_not() {
        let confirmed = |confirm| told(Phase::Planned, confirm).into_iter().find(|(type_, ..)| *type_ == CONFIRMED);
        assert_eq!(confirmed(None), Some((CONFIRMED, Some(false), "Waiting".into())));
        assert_eq!(confirmed(Some("cd")), Some((CONFIRMED, Some(false), "OtherDigest".into())));
    }
}
