//! Makes the plan: has an agent look at the database, and adds the volume of the notes.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::{Api, ResourceExt};
use serde_json::Value;
use windlass_core::duration;
use windlass_core::hex;
use windlass_core::id::PointId;
use windlass_core::restore::{CommandStep, Impact, Plan, ReplaceVolume, Step};
use windlass_core::task::{Ask, Asked, Done, Work};

use super::build::{Order, job};
use super::jobs::{self, Ran};
use super::world::World;
use crate::api::restore::Restore;
use crate::context::Context;
use crate::error::OperatorError;
use crate::keeper::Shut;
use crate::kryton::claim;
use crate::kryton::component;
use crate::kryton::validate::Fault;
use crate::snapshot;

/// Seconds in which a plan is made.
const DEADLINE: i64 = 900;

/// What came of planning.
pub(super) enum Planned {
    /// It is under way: in words.
    Pending(String),
    /// The plan, and what it does.
    Made(Box<Plan>, Box<Impact>),
    /// Why there is none.
    Refused(String),
}

/// Plans.
pub(super) async fn make(context: &Context, restore: &Restore, world: &World, point: PointId) -> Result<Planned, Shut> {
    if context.helm.is_none() {
        let why = "this operator runs without helm: it could not stop the application";
        return Ok(Planned::Refused(why.to_owned()));
    }
    let control = CommandStep {
        program: format!("Kryton {}", world.into.name_any()),
        command: hex::sha256(format!("scale {}", crate::kryton::names::full(&world.into)).as_bytes()),
    };
    let undo = restore.spec.undo.as_deref().map(duration::parse).transpose();
    let undo = undo.map_err(|error| Shut::Fault(Fault::new("UndoInvalid", format!("spec.undo: {error}"))))?;
    let work = Work::Plan(Ask {
        point,
        component: component(),
        database: world.connection.database.clone(),
        control: Some((control.clone(), control)),
        undo_seconds: undo.map(|undo| undo.as_secs()),
    });
    let order = Order { what: "plan", work, deadline: DEADLINE, notes: None };
    let (mut plan, impact) = match jobs::run(context, restore, &job(restore, world, order, &context.image)).await? {
        Ran::Pending(why) => return Ok(Planned::Pending(why)),
        Ran::Failed(why) => return Ok(Planned::Refused(why)),
        Ran::Done(done) => match *done {
            Done::Asked(Asked::Planned(plan, impact)) => (plan, impact),
            Done::Asked(Asked::Refused(why)) => return Ok(Planned::Refused(why)),
            other => return Ok(Planned::Refused(format!("the agent did something else: {other:?}"))),
        },
    };
    match volume(context, restore, world, &plan).await? {
        Ok(None) => {
            plan.warnings.push("the notes stay as they are: spec.notes names no snapshot of their volume".into());
        }
        Ok(Some(step)) => {
            let start = plan.steps.iter().position(|step| matches!(step, Step::Start(_)));
            plan.steps.insert(start.unwrap_or(plan.steps.len()), Step::ReplaceVolume(step));
        }
        Err(why) => return Ok(Planned::Refused(why)),
    }
    Ok(Planned::Made(plan, impact))
}

/// The step that replaces the volume of the notes, where a snapshot is named; or why it cannot be used.
async fn volume(
    context: &Context,
    restore: &Restore,
    world: &World,
    plan: &Plan,
) -> Result<Result<Option<ReplaceVolume>, String>, OperatorError> {
    let Some(notes) = &restore.spec.notes else { return Ok(Ok(None)) };
    let (namespace, name) = (restore.namespace().unwrap_or_default(), notes.volume_snapshot.as_str());
    let api = snapshot::all(context.client.clone(), &namespace);
    let found = api.get_opt(name).await;
    let found = match found {
        Ok(Some(found)) => found,
        Ok(None) => return Ok(Err(format!("there is no VolumeSnapshot {name} in namespace {namespace}"))),
        Err(error) => return Err(OperatorError::read("VolumeSnapshot", &namespace, name, error)),
    };
    let status = &found.data["status"];
    if status["readyToUse"] != Value::Bool(true) {
        return Ok(Err(format!("VolumeSnapshot {name} is not ready to be used")));
    }
    let taken = status["creationTime"].as_str().and_then(|time| time.parse().ok());
    let Some(taken) = taken else { return Ok(Err(format!("VolumeSnapshot {name} does not say when it was taken"))) };
    let kryton = world.into.name_any();
    let old = claim::of_notes(&context.client, &namespace, &kryton).await?;
    let size = match &old {
        Some(claim) => claim_of(context, &namespace, claim).await?.and_then(|claim| requested(&claim)),
        None => None,
    };
    let bytes = status["restoreSize"].as_str().and_then(bytes).max(size).unwrap_or(1 << 30);
    // Of the plan, so that two plans never mean one volume.
    let suffix: String = plan.digest().chars().take(8).collect();
    Ok(Ok(Some(ReplaceVolume {
        component: notes_component(),
        snapshot: name.to_owned(),
        taken,
        old,
        new: format!("{kryton}-data-{suffix}"),
        bytes,
    })))
}

fn notes_component() -> windlass_core::name::Name {
    #[expect(clippy::expect_used, reason = "it is written here")]
    "notes".parse().expect("a name")
}

/// A claim, where it is there.
pub(super) async fn claim_of(
    context: &Context,
    namespace: &str,
    name: &str,
) -> Result<Option<PersistentVolumeClaim>, OperatorError> {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(context.client.clone(), namespace);
    let found = claims.get_opt(name).await;
    found.map_err(|error| OperatorError::read("PersistentVolumeClaim", namespace, name, error))
}

fn requested(claim: &PersistentVolumeClaim) -> Option<u64> {
    bytes(&claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get("storage")?.0)
}

/// Bytes of a quantity (<https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>); parts of a byte
/// are none.
fn bytes(quantity: &str) -> Option<u64> {
    let digits = quantity.trim_end_matches(|c: char| !c.is_ascii_digit());
    let factor: u64 = match quantity.strip_prefix(digits)? {
        "" => 1,
        "k" => 1000,
        "M" => 1000_u64.pow(2),
        "G" => 1000_u64.pow(3),
        "T" => 1000_u64.pow(4),
        "P" => 1000_u64.pow(5),
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "Pi" => 1 << 50,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn quantities_are_read_as_kubernetes_writes_them() {
        for (text, wanted) in [
            ("1073741824", Some(1 << 30)),
            ("10Gi", Some(10 << 30)),
            ("500M", Some(500_000_000)),
            ("1Xi", None),
            ("1.5Gi", None),
            ("", None),
            ("99999999999Pi", None),
        ] {
            assert_eq!(bytes(text), wanted, "{text}");
        }
    }
}
