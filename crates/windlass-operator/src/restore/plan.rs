//! Makes the plan: has an agent look at the database, and adds the volume of the notes.

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt;
use serde_json::Value;
use windlass_core::duration;
use windlass_core::hex;
use windlass_core::id::PointId;
use windlass_core::restore::{CommandStep, Impact, Plan, ReplaceVolume, Step};
use windlass_core::task::{Ask, Asked, Done, Work};

use super::build::{Order, job};
use super::jobs::{self, Ran};
use super::source::Source;
use super::world::World;
use crate::api::restore::Restore;
use crate::context::Context;
use crate::error::OperatorError;
use crate::kryton::claim;
use crate::kryton::component;
use crate::objects;
use crate::snapshot;

/// Seconds in which a plan is made.
const DEADLINE: i64 = 900;

/// The longest that an old copy may be asked to stay.
const UNDO: SignedDuration = SignedDuration::from_hours(10 * 366 * 24);

/// What came of planning.
pub(super) enum Planned {
    /// Nothing of it runs yet: why.
    Waiting(String),
    /// It is under way: in words.
    Pending(String),
    /// The plan, and what it does.
    Made(Box<Plan>, Box<Impact>),
    /// Why there is none.
    Refused(String),
}

/// How long the old copy is to stay.
pub(super) fn undo(restore: &Restore) -> Result<Option<SignedDuration>, String> {
    let Some(text) = restore.spec.undo.as_deref() else { return Ok(None) };
    match duration::parse(text) {
        Ok(undo) if undo <= UNDO => Ok(Some(undo)),
        Ok(_) => Err(format!("spec.undo: `{text}` is more than ten years")),
        Err(error) => Err(format!("spec.undo: {error}")),
    }
}

/// Plans, by a Job of this name.
pub(super) async fn make(
    context: &Context,
    restore: &Restore,
    world: &World,
    source: &Source,
    point: PointId,
    what: &'static str,
) -> Result<Planned, OperatorError> {
    if context.helm.is_none() {
        let why = "this operator runs without helm: it could not stop the application";
        return Ok(Planned::Refused(why.to_owned()));
    }
    let undo = match undo(restore) {
        Ok(undo) => undo,
        Err(why) => return Ok(Planned::Refused(why)),
    };
    let control = CommandStep {
        program: format!("Kryton {}", world.into.name_any()),
        command: hex::sha256(format!("scale {}", crate::kryton::names::full(&world.into)).as_bytes()),
    };
    let work = Work::Plan(Ask {
        point,
        component: component(),
        database: world.connection.database.clone(),
        control: Some((control.clone(), control)),
        undo_seconds: undo.map(|undo| undo.as_secs()),
    });
    let order = Order { what, work, deadline: DEADLINE, notes: None };
    let job = job(restore, world, order, Some(source), &context.image);
    let (mut plan, impact) = match jobs::run(context, restore, &job).await? {
        Ran::Waiting(why) => return Ok(Planned::Waiting(why)),
        Ran::Pending(why) => return Ok(Planned::Pending(why)),
        Ran::Failed(why) => return Ok(Planned::Refused(why)),
        Ran::Done(done) => match *done {
            Done::Asked(Asked::Planned(plan, impact)) => (plan, impact),
            Done::Asked(Asked::Refused(why)) => return Ok(Planned::Refused(why)),
            other => return Ok(Planned::Refused(format!("the agent did something else: {other:?}"))),
        },
    };
    match volume(context, restore, world, source, &mut plan).await? {
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
    source: &Source,
    plan: &mut Plan,
) -> Result<Result<Option<ReplaceVolume>, String>, OperatorError> {
    let Some(notes) = &restore.spec.notes else { return Ok(Ok(None)) };
    let (namespace, name) = (restore.namespace().unwrap_or_default(), notes.volume_snapshot.as_str());
    let values = world.into.spec.values.as_ref();
    if values.and_then(|values| values.get("persistence")?.get("enabled")) == Some(&Value::Bool(false)) {
        let why = format!("Kryton {} has no volume of notes: persistence.enabled is false", world.into.name_any());
        return Ok(Err(why));
    }
    let api = snapshot::all(context.client.clone(), &namespace);
    let found = match api.get_opt(name).await {
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
    let of = found.data["spec"]["source"]["persistentVolumeClaimName"].as_str().unwrap_or("no claim");
    let notes_of_source = claim::of_notes(&context.client, &namespace, &source.kryton.name_any()).await?;
    if notes_of_source.as_deref() != Some(of) {
        plan.warnings.push(format!(
            "the snapshot {name} is of the claim {of}, and the notes of {} are in {} now",
            source.kryton.name_any(),
            notes_of_source.as_deref().unwrap_or("none")
        ));
    }
    let kryton = world.into.name_any();
    let old = claim::of_notes(&context.client, &namespace, &kryton).await?;
    let size = match &old {
        Some(claim) => objects::find(&context.client, &namespace, claim).await?.and_then(|claim| requested(&claim)),
        None => None,
    };
    let Some(bytes) = status["restoreSize"].as_str().and_then(bytes).max(size) else {
        return Ok(Err(format!(
            "VolumeSnapshot {name} does not say how large a volume it needs, nor does the claim there is"
        )));
    };
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

fn requested(claim: &PersistentVolumeClaim) -> Option<u64> {
    bytes(&claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get("storage")?.0)
}

/// Bytes of a quantity (<https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>), rounded up. None of
/// one that is written with an exponent, or in parts of a byte.
fn bytes(quantity: &str) -> Option<u64> {
    let number = quantity.trim_end_matches(|c: char| !c.is_ascii_digit());
    let factor: u64 = match quantity.strip_prefix(number)? {
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
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let whole = whole.parse::<u64>().ok()?.checked_mul(factor)?;
    if part.is_empty() {
        return Some(whole);
    }
    let parts = u128::from(10_u32).checked_pow(u32::try_from(part.len()).ok()?)?;
    let more = part.parse::<u128>().ok()?.checked_mul(u128::from(factor))?.div_ceil(parts);
    whole.checked_add(u64::try_from(more).ok()?)
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
            ("1.5Gi", Some(3 << 29)),
            ("1e10", None),
            ("", None),
            ("99999999999Pi", None),
        ] {
            assert_eq!(bytes(text), wanted, "{text}");
        }
    }
}
