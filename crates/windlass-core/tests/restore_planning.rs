//! Planning restores: what is refused, what is planned, and when a digest is another one.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::collections::BTreeMap;

use jiff::Timestamp;
use proptest::prelude::*;
use windlass_core::id::{PointId, RepositoryId};
use windlass_core::name::Name;
use windlass_core::point::{
    ComponentData, ComponentManifest, Consistency, DatabaseDump, DiskData, FORMAT, ObjectRef, PostgresData,
    RecoveryPoint, TableCount, Window,
};
use windlass_core::restore::{
    CommandStep, DatabaseFacts, Differences, FolderFacts, LiveDatabase, LivePlace, Old, Plan, Refusal, Request, Source,
    Step, TargetFacts, Terms, plan, wanted,
};
use windlass_core::selector::Selector;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn now() -> Timestamp {
    "2026-06-15T12:00:00Z".parse().unwrap()
}

fn dump(database: &str) -> DatabaseDump {
    let count =
        |table: &str, rows| TableCount { schema: "public".into(), table: table.into(), rows, exact: true, bytes: 0 };
    DatabaseDump {
        name: database.into(),
        object: ObjectRef {
            key: format!("dumps/{database}"),
            size: 10,
            sha256: String::new(),
            plain_size: 10,
            plain_sha256: String::new(),
            sealed_to: None,
        },
        snapshot_at: now(),
        encoding: "UTF8".into(),
        locale_provider: "libc".into(),
        collate: "C".into(),
        ctype: "C".into(),
        provider_locale: None,
        owner: "app".into(),
        extensions: BTreeMap::new(),
        collations: vec![],
        tables: vec![count("orders", 100), count("items", 23)],
        database_bytes: 5000,
    }
}

fn manifest(component: &str, data: ComponentData) -> ComponentManifest {
    ComponentManifest {
        read_back: None,
        format: FORMAT,
        point: PointId::new(now(), 1),
        application: name("shop"),
        component: name(component),
        window: Window { from: now(), to: now() },
        consistency: Consistency::Component,
        started: now(),
        finished: now(),
        tools: vec![],
        warnings: vec![],
        data,
    }
}

fn manifests() -> Vec<ComponentManifest> {
    let databases = vec![dump("shop"), dump("stats")];
    let disk = DiskData {
        snapshot: "ab".into(),
        paths: vec!["/srv/uploads".into()],
        files: 7,
        folders: 2,
        bytes: 1000,
        added_bytes: 10,
    };
    vec![
        manifest("db", ComponentData::Postgres(PostgresData { server_version: 150_004, databases, globals: None })),
        manifest("uploads", ComponentData::Disk(disk)),
    ]
}

fn point() -> RecoveryPoint {
    RecoveryPoint {
        format: FORMAT,
        id: PointId::new(now(), 1),
        application: name("shop"),
        at: now(),
        started: now(),
        finished: now(),
        consistency: Consistency::Component,
        skew_ms: 0,
        components: vec![],
        failed: vec![],
        warnings: vec![],
        evidence: BTreeMap::new(),
    }
}

fn database_facts(database: &str) -> DatabaseFacts {
    DatabaseFacts {
        url: format!("postgresql:///{database}"),
        database: database.into(),
        server_version: 170_002,
        exists: false,
        tables: 0,
        unfinished: false,
        missing_roles: vec![],
        missing_extensions: vec![],
        missing_required_roles: vec![],
        missing_locale: None,
        missing_collations: vec![],
    }
}

fn folder_facts() -> FolderFacts {
    FolderFacts { path: "/back".into(), exists: false, entries: 0, free_bytes: 1 << 30, begun: None }
}

fn request(only: &str, into: &[&str]) -> Request {
    Request {
        only: if only.is_empty() { vec![] } else { Selector::parse_list(only).unwrap() },
        into: into.iter().map(|component| (name(component), "somewhere".to_owned())).collect(),
        ..Request::default()
    }
}

/// Plans with facts that can be changed before.
fn planned(request: &Request, change: impl FnOnce(&mut DatabaseFacts, &mut FolderFacts)) -> Result<Plan, Refusal> {
    let (point, components) = (point(), manifests());
    let source = Source { repository: RepositoryId::new(now(), 2), point: &point, components: &components };
    let parts = wanted(&source, request)?;
    let (mut shop, mut folder) = (database_facts("shop"), folder_facts());
    change(&mut shop, &mut folder);
    let databases = [("shop".to_owned(), shop), ("stats".to_owned(), database_facts("stats"))].into();
    let facts =
        [(name("db"), TargetFacts::Databases(databases)), (name("uploads"), TargetFacts::Folder(folder))].into();
    plan(&source, &parts, &facts, request, &Terms::default())
}

#[test]
fn everything_with_a_target_is_planned_and_the_rest_is_said_to_be_left_out() {
    let plan = planned(&request("", &["db"]), |_, _| ()).unwrap();
    assert_eq!(plan.steps.len(), 2, "two databases");
    assert_eq!(plan.left_out, [name("uploads")]);
    let all = planned(&request("", &["db", "uploads"]), |_, _| ()).unwrap();
    assert_eq!(all.steps.len(), 3);
    assert_eq!(all.bytes(), 11_000);
}

#[test]
fn a_selection_narrows_to_what_it_names() {
    let plan = planned(&request("db/shop/public.orders", &["db"]), |_, _| ()).unwrap();
    let [Step::Database(step)] = plan.steps.as_slice() else { panic!("{plan:?}") };
    assert_eq!((step.database.as_str(), step.tables, step.rows), ("shop", 1, 100));
}

#[test]
fn what_would_harm_or_do_nothing_is_refused_by_name() {
    let refused = |only: &str, into: &[&str]| planned(&request(only, into), |_, _| ()).unwrap_err();
    assert!(matches!(refused("", &[]), Refusal::Nothing { .. }));
    assert!(matches!(refused("", &["cache"]), Refusal::NoComponent { .. }));
    assert!(matches!(refused("db", &[]), Refusal::NoTarget { .. }));
    assert!(matches!(refused("db", &["db", "uploads"]), Refusal::NotSelected { .. }));
    assert!(matches!(refused("db/shopp", &["db"]), Refusal::NoDatabase { .. }));
    assert!(matches!(refused("uploads/shop", &["uploads"]), Refusal::NoDatabases { .. }));

    let all = request("", &["db", "uploads"]);
    let with = |change: fn(&mut DatabaseFacts, &mut FolderFacts)| planned(&all, change).unwrap_err();
    assert!(matches!(with(|db, _| (db.exists, db.tables) = (true, 1)), Refusal::DatabaseNotEmpty { .. }));
    assert!(matches!(with(|db, _| db.server_version = 140_010), Refusal::OlderServer { theirs: 14, ours: 15, .. }));
    assert!(matches!(with(|db, _| db.missing_extensions.push("vector".into())), Refusal::MissingExtensions { .. }));
    assert!(matches!(with(|db, _| (db.exists, db.unfinished) = (true, true)), Refusal::Unfinished { .. }));
    assert!(matches!(with(|db, _| db.missing_required_roles.push("clerk".into())), Refusal::MissingRoles { .. }));
    assert!(matches!(with(|db, _| db.missing_locale = Some("none".into())), Refusal::MissingLocale { .. }));
    assert!(matches!(with(|db, _| db.missing_collations.push("sv".into())), Refusal::MissingCollations { .. }));
    assert!(matches!(with(|_, folder| folder.entries = 1), Refusal::FolderNotEmpty { .. }));
    assert!(matches!(with(|_, folder| folder.free_bytes = 999), Refusal::NoSpace { needed: 1000, free: 999, .. }));
}

#[test]
fn missing_roles_are_a_warning_and_leave_owners_out() {
    let plan = planned(&request("db/shop", &["db"]), |db, _| db.missing_roles.push("app".into())).unwrap();
    let [Step::Database(step)] = plan.steps.as_slice() else { panic!("{plan:?}") };
    assert!(!step.owners && plan.warnings[0].contains("app"));
}

proptest! {
    #[test]
    fn the_same_world_gives_the_same_digest_and_another_world_another(
        exists: bool, version in 150_000u32..190_000, role in "[a-z]{0,3}", folder in "[a-z]{1,8}",
        other_exists: bool, other_version in 150_000u32..190_000, other_role in "[a-z]{0,3}", other_folder in "[a-z]{1,8}",
    ) {
        let all = request("", &["db", "uploads"]);
        let digest = |exists: bool, version: u32, role: &str, folder: &str| {
            planned(&all, |db, files| {
                (db.exists, db.server_version) = (exists, version);
                if !role.is_empty() {
                    db.missing_roles.push(role.to_owned());
                }
                files.path = format!("/{folder}");
            }).unwrap().digest()
        };
        let one = digest(exists, version, &role, &folder);
        prop_assert_eq!(&one, &digest(exists, version, &role, &folder));
        let same = (exists, version, &role, &folder) == (other_exists, other_version, &other_role, &other_folder);
        prop_assert_eq!(one == digest(other_exists, other_version, &other_role, &other_folder), same);
    }

    #[test]
    fn a_manifest_is_read_as_it_was_written(database in "\\PC{1,20}", rows: u64, bytes: u64, path in "\\PC{1,30}") {
        let mut shop = dump(&database);
        shop.tables[0].rows = rows;
        let postgres = PostgresData { server_version: 150_004, databases: vec![shop], globals: None };
        let disk = DiskData { snapshot: "ab".into(), paths: vec![path], files: 1, folders: 1, bytes, added_bytes: bytes };
        for data in [ComponentData::Postgres(postgres), ComponentData::Disk(disk)] {
            let written = manifest("x", data);
            let json = serde_json::to_string(&written).unwrap();
            prop_assert_eq!(serde_json::from_str::<ComponentManifest>(&json).unwrap(), written);
        }
    }
}

/// Plans a restore in place with facts that can be changed before.
fn planned_in_place(
    request: &Request,
    terms: &Terms,
    change: impl FnOnce(&mut LiveDatabase, &mut LivePlace),
) -> Result<Plan, Refusal> {
    let (point, components) = (point(), manifests());
    let source = Source { repository: RepositoryId::new(now(), 2), point: &point, components: &components };
    let parts = wanted(&source, request)?;
    let live = |database: &str| LiveDatabase {
        facts: database_facts(database),
        server: Some("7300000000000000001".into()),
        closed: false,
        oid: Some(16_400),
        obstacles: vec![],
        notes: vec![],
        free_bytes: Some(1 << 30),
        bytes: 6000,
        wal_bytes: 1000,
    };
    let mut place = LivePlace {
        path: "/srv/uploads".into(),
        is_file: false,
        exists: true,
        mounts: vec![],
        obstacles: vec![],
        differences: Differences::default(),
        bytes: 1000,
        device: 7,
        free_bytes: 1 << 30,
    };
    let (mut shop, mut stats) = (live("shop"), live("stats"));
    change(&mut shop, &mut place);
    stats.free_bytes = shop.free_bytes;
    let databases = [("shop".to_owned(), shop), ("stats".to_owned(), stats)].into();
    let facts =
        [(name("db"), TargetFacts::LiveDatabases(databases)), (name("uploads"), TargetFacts::LivePlaces(vec![place]))];
    plan(&source, &parts, &facts.into(), request, terms)
}

fn in_place(only: &str) -> Request {
    Request { in_place: true, ..request(only, &[]) }
}

fn controlled() -> Terms {
    Terms {
        control: Some((CommandStep::of(&["stop".into()]), CommandStep::of(&["start".into()]))),
        undo_seconds: Some(3600),
        ..Terms::default()
    }
}

#[test]
fn in_place_everything_is_replaced_between_a_stop_and_a_start() {
    let plan = planned_in_place(&in_place(""), &controlled(), |_, _| ()).unwrap();
    let kinds: Vec<bool> =
        plan.steps.iter().map(|step| matches!(step, Step::ReplaceDatabase(_) | Step::ReplaceFiles(_))).collect();
    assert_eq!(kinds, [false, true, true, true, false]);
    assert!(matches!((plan.steps.first(), plan.steps.last()), (Some(Step::Stop(_)), Some(Step::Start(_)))));
    assert_eq!((plan.undo_seconds, plan.warnings.len()), (Some(3600), 0));
    let uncontrolled = planned_in_place(&in_place("uploads"), &Terms::default(), |_, _| ()).unwrap();
    assert!(uncontrolled.warnings[0].contains("nothing stops the application"), "{:?}", uncontrolled.warnings);
    assert_eq!(uncontrolled.steps.len(), 1);
}

#[test]
fn what_cannot_be_kept_goes_only_with_consent() {
    let full = |live: &mut LiveDatabase, _: &mut LivePlace| live.free_bytes = Some(5999);
    let refused = planned_in_place(&in_place("db/shop"), &controlled(), full).unwrap_err();
    assert!(matches!(refused, Refusal::NoRoomForTwo { needed: 6000, free: 5999, .. }), "{refused}");
    let consent = Request { without_undo: true, ..in_place("db/shop") };
    let plan = planned_in_place(&consent, &controlled(), full).unwrap();
    assert!(matches!(&plan.steps[1], Step::ReplaceDatabase(step) if step.old == Old::Deleted));
    assert!(plan.warnings.iter().any(|warning| warning.contains("DELETED")), "{:?}", plan.warnings);
    // Consent deletes nothing that can be kept.
    let plan = planned_in_place(&consent, &controlled(), |_, _| ()).unwrap();
    assert!(matches!(&plan.steps[1], Step::ReplaceDatabase(step) if step.old == Old::Kept));
    // Nor does it delete what would not make room enough.
    let hopeless = |live: &mut LiveDatabase, _: &mut LivePlace| (live.free_bytes, live.bytes) = (Some(10), 100);
    assert!(matches!(planned_in_place(&consent, &controlled(), hopeless).unwrap_err(), Refusal::NoSpace { .. }));
    // Where nothing is there, nothing can make room either.
    let gone = |live: &mut LiveDatabase, _: &mut LivePlace| (live.oid, live.free_bytes) = (None, Some(0));
    assert!(matches!(planned_in_place(&consent, &controlled(), gone).unwrap_err(), Refusal::NoSpace { .. }));
    // Two databases share a disk: what one takes the other has not.
    let for_one = |live: &mut LiveDatabase, _: &mut LivePlace| live.free_bytes = Some(6500);
    assert!(planned_in_place(&in_place("db/shop"), &controlled(), for_one).is_ok());
    let both = planned_in_place(&in_place("db"), &controlled(), for_one).unwrap_err();
    assert!(matches!(both, Refusal::NoRoomForTwo { .. }), "{both}");
    let tight = |_: &mut LiveDatabase, place: &mut LivePlace| place.free_bytes = 999;
    assert!(planned_in_place(&consent, &controlled(), tight).is_ok(), "the files are not asked for");
    let files = Request { without_undo: true, ..in_place("uploads") };
    assert!(matches!(planned_in_place(&files, &controlled(), tight).unwrap_err(), Refusal::NoSpace { .. }));
}

#[test]
fn in_place_what_stands_in_the_way_is_refused_and_another_world_has_another_digest() {
    let plan = |change: fn(&mut LiveDatabase, &mut LivePlace)| planned_in_place(&in_place(""), &controlled(), change);
    let refused = plan(|live, _| live.obstacles.push("it has 2 prepared transactions".into())).unwrap_err();
    assert!(refused.to_string().contains("2 prepared transactions"), "{refused}");
    let refused = plan(|_, place| place.obstacles.push("a file is mounted there".into())).unwrap_err();
    assert!(matches!(refused, Refusal::NotReplaceable { .. }), "{refused}");
    let several = plan(|live, place| {
        live.obstacles.push("it is a template".into());
        place.obstacles.push("a file is mounted there".into());
    });
    let several = several.unwrap_err().to_string();
    assert!(several.contains("2 things stand in the way"), "{several}");
    assert!(several.contains("it is a template") && several.contains("a file is mounted there"), "{several}");
    let table = planned_in_place(&in_place("db/shop/public.orders"), &controlled(), |_, _| ()).unwrap_err();
    assert!(matches!(table, Refusal::RelationInPlace { .. }), "{table}");
    let as_it_is = plan(|_, _| ()).unwrap().digest();
    assert_eq!(
        plan(|live, place| (live.free_bytes, place.differences.deleted) = (None, 7)).unwrap().digest(),
        as_it_is
    );
    assert_ne!(plan(|live, _| live.oid = Some(16_401)).unwrap().digest(), as_it_is);
    assert_ne!(plan(|_, place| place.mounts.push("/srv/uploads/disk".into())).unwrap().digest(), as_it_is);
}
