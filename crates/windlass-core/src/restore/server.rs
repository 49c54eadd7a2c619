//! A server as a whole in the place of the one that is there.

use std::collections::BTreeMap;

use super::aside::{laid_down, recover_step, warn_of_damage};
use super::in_place::files_place;
use super::{LiveServer, Old, Refusal, ReplaceServer, Request, TablespacePlace};
use crate::name::Name;
use crate::point::PhysicalData;

/// The database every server has, which is nobody's.
const EVERYBODYS: &str = "postgres";

/// Recovers the server beside the one that is there, and puts it in its place. All its databases go back, so all of them have to be
/// the application's, unless that was consented to.
pub(super) fn server(
    name: &Name,
    data: &PhysicalData,
    live: &LiveServer,
    request: &Request,
    warnings: &mut Vec<String>,
) -> Result<ReplaceServer, Refusal> {
    let component = || name.clone();
    let Some((stop, start)) = live.control.clone() else {
        return Err(Refusal::NoServerControl { component: component() });
    };
    let all = || std::iter::once(&live.data).chain(live.tablespaces.values()).chain(&live.wal);
    if let Some(place) = all().find(|place| !place.obstacles.is_empty()) {
        let (what, why) = (format!("`{}`", place.path), place.obstacles.join("; "));
        return Err(Refusal::NotReplaceable { what, why });
    }
    let now = live.databases.as_deref().unwrap_or_default();
    let mut others: Vec<String> = now.iter().chain(&data.databases).cloned().collect();
    others.retain(|database| database != EVERYBODYS && Some(database) != live.own.as_ref());
    others.sort();
    others.dedup();
    if !others.is_empty() && !request.cluster {
        return Err(Refusal::SharedServer { component: component(), others });
    }
    // Which of its folders are on which disk is known, how much goes into which is not.
    let free: BTreeMap<u64, u64> = all().map(|place| (place.device, place.free_bytes)).collect();
    let (free, needed) = (free.values().sum(), laid_down(data, live.reach.as_ref()));
    if free < needed {
        return Err(Refusal::NoSpace { path: live.data.path.clone(), needed, free });
    }
    if live.databases.is_none() && live.data.exists {
        warnings.push(format!("{name}: its server does not answer: which databases it has now is not known"));
    }
    warn_of_damage(name, data, warnings);
    let tablespace = |(oid, place)| TablespacePlace { oid, place: files_place(place) };
    Ok(ReplaceServer {
        component: component(),
        backup: data.backup.clone(),
        server: data.system_identifier.clone(),
        major: data.server_version / 10_000,
        until: data.stop,
        recover: recover_step(name, data, live.reach.as_ref().zip(request.moment.as_ref()), warnings),
        stop,
        start,
        data: files_place(&live.data),
        tablespaces: live.tablespaces.iter().map(|(oid, place)| tablespace((*oid, place))).collect(),
        wal: live.wal.as_ref().map(files_place),
        databases: data.databases.clone(),
        gone: now.iter().filter(|database| !data.databases.contains(database)).cloned().collect(),
        bytes: data.data_bytes,
        old: if live.data.exists { Old::Kept } else { Old::None },
    })
}
