//! The settings file: what is read from a right one, where it is found, what `init` writes, and what is
//! told of a machine that lacks what it names.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use jiff::SignedDuration;
use windlass::settings::{
    EXAMPLE, Findings, FoundCompose, FoundDatabase, FoundFolder, Settings, SettingsError, check_world, load, reference,
    template,
};
use windlass_core::application::{Action, Check, Control, Databases, Disk, Hook, Hooks, Postgres, Strategy};
use windlass_core::diagnose::{Diagnose, Outcome};
use windlass_core::name::Name;
use windlass_core::repository::{Encryption, Format, Place, Repository, S3};
use windlass_core::secret::SecretRef;

fn read(text: &str) -> Result<Settings, SettingsError> {
    Settings::parse(Path::new("windlass.toml"), text.as_bytes(), Path::new("/home/ada/.local/state/windlass"))
}

fn settings(text: &str) -> Settings {
    read(text).unwrap_or_else(|error| panic!("{}\nin\n{text}", error.report()))
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

#[test]
fn the_example_of_the_reference_is_read_to_the_last_key() {
    let settings = settings(EXAMPLE);
    assert_eq!(settings.state, Path::new("/var/lib/windlass"));

    let main = Repository {
        name: name("main"),
        place: Place::S3(S3 {
            bucket: "backups".into(),
            prefix: "prod".into(),
            endpoint: Some("https://s3.example.net".into()),
            region: None,
            path_style: true,
            ca: None,
            access_key: SecretRef::Env("S3_ACCESS_KEY".into()),
            secret_key: SecretRef::File("/etc/windlass/s3-secret".into()),
        }),
        format: Format::Windlass(Encryption::Passphrase(SecretRef::File("/etc/windlass/passphrase".into()))),
    };
    assert_eq!(settings.repositories.into_values().collect::<Vec<_>>(), [main]);

    let daily = &settings.policies[&name("daily")];
    assert_eq!(daily.rpo, Some(SignedDuration::from_hours(26)));
    assert_eq!(daily.drill, Some(SignedDuration::from_hours(90 * 24)));
    assert_eq!(daily.verify.every, Some(SignedDuration::from_hours(24)));
    assert_eq!(daily.verify.deep, Some(SignedDuration::from_hours(30 * 24)));
    assert!(daily.schedule.is_some() && daily.retention.is_some());

    let shop = &settings.applications[&name("shop")];
    assert_eq!((&shop.repository, &shop.policy), (&name("main"), &Some(name("daily"))));
    let compose = |verb: &str| words(&format!("docker compose {verb} shop"));
    assert_eq!(shop.control, Some(Control { stop: compose("stop"), start: compose("start") }));
    assert_eq!(shop.undo, Some(SignedDuration::from_hours(72)));
    assert_eq!(
        shop.checks,
        [
            Check::Sql { component: name("db"), sql: "select count(*) > 0 from orders".into() },
            Check::Http { url: "http://127.0.0.1:8080/healthz".into() },
        ]
    );
    let hook = |program: &str| Hook { run: vec![program.into()], timeout: SignedDuration::from_secs(30) };
    let hooks = Hooks { before: vec![hook("/usr/local/bin/pause")], after: vec![hook("/usr/local/bin/resume")] };
    assert_eq!(shop.hooks, hooks);

    let components: Vec<(&str, &Strategy)> = shop.components.iter().map(|c| (c.name.as_str(), &c.strategy)).collect();
    let disk = |path: &str, exclude: &[&str]| {
        Strategy::Disk(Disk { paths: vec![path.into()], exclude: exclude.iter().map(|e| (*e).to_owned()).collect() })
    };
    assert_eq!(
        components,
        [
            (
                "db",
                &Strategy::Postgres(Postgres {
                    url: "postgresql://shop@localhost:5432/shop".into(),
                    password: Some(SecretRef::File("/etc/windlass/shop-password".into())),
                    databases: Databases::Named,
                    owners: true,
                    via: vec![],
                })
            ),
            ("uploads", &disk("/srv/shop/uploads", &["*.tmp"])),
            ("config", &disk("/etc/shop", &[])),
            (
                "index",
                &Strategy::Action(Action {
                    backup: vec!["/usr/local/bin/export-index".into()],
                    restore: Some(vec!["/usr/local/bin/import-index".into()]),
                    rehearse: None,
                    timeout: SignedDuration::from_mins(10),
                })
            ),
        ]
    );
    assert_eq!(shop.components[1].after, [name("db")]);
    assert_eq!(shop.components[2].policy, Some(name("often")));
}

#[test]
fn components_are_captured_in_the_order_they_ask_for_and_else_in_that_of_the_file() {
    let settings = settings(
        "[repository.r]\nurl = \"file:///b\"\nencryption = \"none\"\n\
         [application.a]\nrepository = \"r\"\n\
         [application.a.component.zebra]\nkind = \"disk\"\npaths = [\"/z\"]\nafter = [\"mole\"]\n\
         [application.a.component.yak]\nkind = \"disk\"\npaths = [\"/y\"]\n\
         [application.a.component.mole]\nkind = \"disk\"\npaths = [\"/m\"]\n",
    );
    let order: Vec<&str> = settings.applications[&name("a")].components.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(order, ["yak", "mole", "zebra"]);
}

#[test]
fn what_the_file_does_not_say_has_the_documented_default() {
    let settings = settings(
        "[repository.r]\nurl = \"file:///srv/my%20backups\"\nencryption = \"none\"\n\
         [application.a]\nrepository = \"r\"\nhooks.before = [{ run = [\"true\"] }]\n\
         [application.a.component.x]\nkind = \"action\"\nbackup = [\"true\"]\n",
    );
    assert_eq!(settings.state, Path::new("/home/ada/.local/state/windlass"));
    let repository = &settings.repositories[&name("r")];
    assert_eq!(repository.place, Place::Directory("/srv/my backups".into()), "a file URL is decoded");
    let application = &settings.applications[&name("a")];
    assert_eq!(application.hooks.before[0].timeout, SignedDuration::from_mins(10));
    let Strategy::Action(action) = &application.components[0].strategy else { panic!("an action") };
    assert_eq!((action.timeout, &action.restore), (SignedDuration::from_hours(6), &None));
}

#[test]
fn someone_elses_restic_repository_is_opened_with_its_password() {
    let settings = settings(
        "[repository.old]\nurl = \"file:///srv/restic\"\nformat = \"restic\"\n\
         encryption = { passphrase = { env = \"RESTIC_PASSWORD\" } }\n",
    );
    let format = &settings.repositories[&name("old")].format;
    assert_eq!(*format, Format::Restic { password: SecretRef::Env("RESTIC_PASSWORD".into()) });
}

#[test]
fn every_value_can_be_found_in_the_file_again() {
    let settings = settings(EXAMPLE);
    let line = |key: &str| settings.position(key).map(|at| at.line);
    let text_of = |key: &str| EXAMPLE.lines().nth(line(key).unwrap() - 1).unwrap().to_owned();
    assert!(text_of("application.shop.component.uploads.paths[0]").contains("/srv/shop/uploads"));
    assert!(text_of("application.shop.component.uploads").contains("[application.shop.component.uploads]"));
    assert!(text_of("application.shop.checks[1].http").contains("healthz"));
    assert_eq!(line("application.shop.colour"), None);
}

#[test]
fn a_file_cut_off_anywhere_is_an_error_in_the_file_or_right() {
    let lines = EXAMPLE.lines().count();
    for end in 0..EXAMPLE.len() {
        let Err(error) = read(&EXAMPLE[..end]) else { continue };
        let SettingsError::Invalid { problems, .. } = &error else { panic!("{error}") };
        assert!(!problems.is_empty());
        for problem in problems {
            assert!((1..=lines + 1).contains(&problem.at.line), "{}", problem.report());
            assert!(!problem.hints().is_empty(), "{}", problem.report());
        }
    }
}

#[test]
fn the_named_file_is_read_and_a_missing_one_is_told_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mine.toml");
    let error = load(Some(&file)).unwrap_err();
    assert_eq!((error.code(), error.outcome()), ("WDL-0101", Outcome::CouldNotRun));
    assert!(error.report().contains(&format!("there is no `{}`", file.display())), "{}", error.report());
    assert!(error.report().contains("windlass init"));

    fs::write(&file, EXAMPLE).unwrap();
    assert_eq!(load(Some(&file)).unwrap().file, file);
    assert_eq!(load(Some(folder.path())).unwrap_err().code(), "WDL-0102", "a folder is no settings file");
}

#[test]
fn an_application_nobody_knows_is_told_with_those_there_are() {
    let settings = settings(EXAMPLE);
    assert_eq!(settings.application("shop").unwrap().name, name("shop"));
    let error = settings.application("shpo").unwrap_err();
    assert_eq!(error.code(), "WDL-0118");
    assert!(error.report().contains("hint: did you mean `shop`?"), "{}", error.report());
    let error = settings.application("warehouse").unwrap_err();
    assert!(error.report().contains("known applications: shop"), "{}", error.report());
}

#[test]
fn the_reference_names_every_key_of_the_example() {
    let reference = reference();
    for line in EXAMPLE.lines() {
        if let Some((key, _)) =
            line.split_once('=').filter(|(key, _)| key.trim().chars().all(|c| c.is_alphanumeric() || c == '_'))
        {
            assert!(reference.contains(&format!("| `{}` |", key.trim())), "`{}` is not in the reference", key.trim());
        }
    }
}

fn findings() -> Findings {
    Findings {
        application: name("shop"),
        repository: "file:///srv/backups".into(),
        passphrase: "/etc/windlass/passphrase".into(),
        databases: vec![],
        folders: vec![],
        compose: None,
    }
}

#[test]
fn what_init_writes_can_be_read_and_holds_what_was_found() {
    let text = template(&Findings {
        databases: vec![
            FoundDatabase {
                name: name("db"),
                url: "postgresql://shop:hunter2@localhost:5432/shop".into(),
                service: Some("postgres".into()),
            },
            FoundDatabase { name: name("other"), url: "postgresql://localhost".into(), service: None },
        ],
        folders: vec![FoundFolder { name: name("uploads"), path: "/srv/a \"quoted\" \\ folder\n".into() }],
        compose: Some(FoundCompose { file: "/srv/shop/compose.yaml".into(), service: Some("web".into()) }),
        ..findings()
    });
    assert!(!text.contains("hunter2"), "a password is never written:\n{text}");
    let settings = settings(&text);
    let shop = &settings.applications[&name("shop")];
    let Strategy::Postgres(db) = &shop.components[0].strategy else { panic!("a database first") };
    assert_eq!(db.url, "postgresql://shop@localhost:5432/shop");
    assert_eq!(db.password, Some(SecretRef::File("/etc/windlass/db-password".into())));
    assert_eq!(db.via, words("docker compose -f /srv/shop/compose.yaml exec -T postgres"));
    let Strategy::Postgres(other) = &shop.components[1].strategy else { panic!("another database") };
    assert_eq!((other.databases, &other.password), (Databases::All, &None));
    let Strategy::Disk(disk) = &shop.components[2].strategy else { panic!("a folder") };
    assert_eq!(disk.paths, [PathBuf::from("/srv/a \"quoted\" \\ folder\n")]);
    assert_eq!(shop.control.as_ref().unwrap().stop, words("docker compose -f /srv/shop/compose.yaml stop web"));
}

#[test]
fn where_nothing_is_found_init_still_writes_what_can_be_read() {
    let text = template(&findings());
    let read = settings(&text);
    assert_eq!((read.repositories.len(), read.policies.len(), read.applications.len()), (1, 1, 0));
    let s3 = settings(&template(&Findings { repository: "s3://backups/prod".into(), ..findings() }));
    assert!(matches!(s3.repositories[&name("main")].place, Place::S3(_)));

    let uncommented: String = text
        .lines()
        .skip_while(|line| !line.contains("Take away the `#` below"))
        .skip(1)
        .flat_map(|line| [line.trim_start_matches('#').trim_start_matches(' '), "\n"])
        .collect();
    let (head, _) = text.split_once("# Nothing to protect").unwrap();
    assert_eq!(settings(&format!("{head}{uncommented}")).applications.len(), 1, "without `#` it is right:\n{text}");
}

/// A machine: a folder with what the settings below name, and those settings.
struct Machine {
    root: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let machine = Self { root };
        machine.folder("uploads");
        fs::write(machine.path("uploads/cat.jpg"), "cat").unwrap();
        fs::write(machine.path("passphrase"), "hunter2").unwrap();
        machine.mode("passphrase", 0o600);
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn folder(&self, name: &str) {
        fs::create_dir_all(self.path(name)).unwrap();
    }

    fn mode(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// What is told of settings that protect `uploads`, with more keys of that component.
    fn told(&self, more: &str) -> Vec<String> {
        let root = self.root.path().display();
        let text = format!(
            "[repository.main]\nurl = \"file://{root}/backups\"\nencryption = {{ passphrase = {{ file = \"{root}/passphrase\" }} }}\n\
             [application.shop]\nrepository = \"main\"\n\
             [application.shop.component.uploads]\nkind = \"disk\"\n{}",
            more.replace("ROOT", &root.to_string())
        );
        check_world(&settings(&text), Some(&name("shop"))).iter().map(windlass::settings::Problem::report).collect()
    }

    /// Asserts that one thing is told, and what.
    fn tells(&self, more: &str, says: &[&str]) {
        let told = self.told(more);
        assert_eq!(told.len(), 1, "{}", told.join("\n"));
        for part in says {
            assert!(told[0].contains(part), "expected {part:?} in\n{}", told[0]);
        }
        assert!(!told[0].contains("hunter2"));
    }
}

#[test]
fn a_machine_that_has_everything_gets_no_word() {
    let machine = Machine::new();
    assert_eq!(machine.told("paths = [\"ROOT/uploads\"]\n"), [""; 0]);
}

#[test]
fn what_is_not_on_the_machine_is_told_with_line_and_remedy() {
    let machine = Machine::new();
    machine.tells(
        "paths = [\"ROOT/uplaods\"]\n",
        &["error[WDL-0121]", "windlass.toml:8:10", "nothing of that name is there", "did you mean", "/uploads\"?"],
    );
    machine.tells("paths = [\"ROOT/elsewhere\"]\n", &["nothing of that name is there", "not mounted"]);
    machine.tells("paths = [\"ROOT/up*\"]\n", &["nothing of that name is there", "paths are names, not patterns"]);
    machine.folder("empty");
    machine.tells(
        "paths = [\"ROOT/empty\"]\n",
        &["WDL-0115", "is empty: there is nothing to protect", "windlass.toml:8:"],
    );
    assert_eq!(machine.told("paths = [\"ROOT/empty\", \"ROOT/uploads\"]\n").len(), 0, "one folder may be empty");
    std::os::unix::fs::symlink(machine.path("uploads"), machine.path("link")).unwrap();
    machine.tells("paths = [\"ROOT/link\"]\n", &["a symbolic link", "name what it leads to", "uploads\""]);
    machine.tells(
        "paths = [\"ROOT/uploads\"]\nhooks.before = [{ run = [\"no-such-program\"] }]\n",
        &["WDL-0122", "`no-such-program`, which is in no folder of PATH", "windlass.toml:9:"],
    );
    machine.tells(
        "paths = [\"ROOT/uploads\"]\nhooks.before = [{ run = [\"ROOT/uploads/cat.jpg\"] }]\n",
        &["not a program that may be run"],
    );
}

#[test]
fn a_program_written_with_its_arguments_in_one_word_is_told_without_them() {
    let machine = Machine::new();
    machine.tells(
        "paths = [\"ROOT/uploads\"]\nhooks.before = [{ run = [\"mysql -phunter2 -e flush\"] }]\n",
        &["runs `mysql …`", "words stand in one string"],
    );
}

#[test]
fn a_pattern_that_leaves_nothing_out_is_worth_a_warning() {
    let machine = Machine::new();
    machine.folder("uploads/cache/old");
    let paths = "paths = [\"ROOT/uploads\"]\n";
    for matching in ["*.jpg", "cache", "cache/", "/cache", "cache/old", "**/old", "ROOT/uploads/cache", "c?ch[a-e]"] {
        assert_eq!(machine.told(&format!("{paths}exclude = [\"{matching}\"]\n")), [""; 0], "{matching}");
    }
    machine.tells(
        &format!("{paths}exclude = [\"*.jpg\", \"*.tpm\"]\n"),
        &["warning[WDL-0126]", "`exclude[1]` in [application.shop.component.uploads] matches nothing", ":9:21"],
    );
    machine.tells(&format!("{paths}exclude = [\"cach\"]\n"), &["matches nothing"]);
}

#[test]
fn a_repository_inside_what_it_keeps_is_told() {
    let machine = Machine::new();
    machine.folder("backups");
    fs::write(machine.path("backups/windlass.json"), "{}").unwrap();
    machine.tells("paths = [\"ROOT/backups\"]\n", &["WDL-0116", "holds the repository itself"]);
    machine.tells("paths = [\"ROOT/\"]\n", &["holds the repository itself", "`exclude`"]);
    assert_eq!(machine.told("paths = [\"ROOT/\"]\nexclude = [\"ROOT/backups\"]\n").len(), 0);
}

#[test]
fn secrets_that_are_missing_or_open_to_others_are_told_but_never_shown() {
    let machine = Machine::new();
    machine.mode("passphrase", 0o644);
    machine.tells("paths = [\"ROOT/uploads\"]\n", &["warning[WDL-0123]", "mode 644", "chmod 600", "windlass.toml:3:"]);
    fs::remove_file(machine.path("passphrase")).unwrap();
    machine.tells(
        "paths = [\"ROOT/uploads\"]\n",
        &["error[WDL-0121]", "`file` in [repository.main.encryption.passphrase]"],
    );

    let unset = settings(
        "[repository.r]\nurl = \"file:///b\"\nencryption = { passphrase = { env = \"WINDLASS_TEST_IS_NOT_SET\" } }\n",
    );
    let told = check_world(&unset, None);
    assert_eq!(told.len(), 1);
    assert!(told[0].report().contains("`WINDLASS_TEST_IS_NOT_SET`, which is not set"), "{}", told[0].report());
}

#[test]
fn an_action_that_cannot_be_restored_is_worth_a_warning() {
    let text = "[repository.r]\nurl = \"file:///b\"\nencryption = \"none\"\n[application.a]\nrepository = \"r\"\n\
                [application.a.component.x]\nkind = \"action\"\nbackup = [\"true\"]\n";
    let told = check_world(&settings(text), None);
    assert_eq!(told.len(), 1);
    assert!(told[0].is_warning());
    assert!(
        told[0].report().contains("warning[WDL-0124]") && told[0].report().contains(":6:1"),
        "{}",
        told[0].report()
    );
}
