//! Wrong settings: each of these files has one mistake, in the line marked `# <--`, and gets exactly one
//! error that names the file, the line, what is wrong and the remedy, and never shows a secret.

#![expect(clippy::panic, clippy::expect_used, reason = "a test fails by panicking, also in its helpers")]

use std::path::Path;

use windlass::settings::{Fault, Problem, Settings, SettingsError};
use windlass_core::diagnose::{Diagnose, Outcome};

/// The secret that ends up in the wrong places below.
const SECRET: &str = "hunter2";

/// A repository, so that a case shows only what it is about. In every case it stands first.
const REPOSITORY: &str = "[repository.main]\nurl = \"file:///srv/backups\"\nencryption = \"none\"\n";
/// Likewise an application that has only to be given components.
const SHOP: &str = "[application.shop]\nrepository = \"main\"\n";
/// Likewise a component.
const FILES: &str = "[application.shop.component.files]\nkind = \"disk\"\npaths = [\"/srv/shop\"]\n";

fn problems_of(text: &str) -> Vec<Problem> {
    match Settings::parse(Path::new("windlass.toml"), text.as_bytes(), Path::new("/var/lib/windlass")) {
        Err(SettingsError::Invalid { problems, .. }) => problems,
        Err(other) => panic!("another error: {other}"),
        Ok(_) => Vec::new(),
    }
}

/// Asserts that the text has one mistake, where it is marked; returns its report.
fn only_mistake(text: &str, says: &str, remedy: &str) -> String {
    let marked = text.lines().position(|line| line.contains("# <--")).expect("a case marks the line") + 1;
    let problems = problems_of(text);
    let reports = problems.iter().map(Problem::report).collect::<Vec<_>>().join("\n");
    assert_eq!(problems.len(), 1, "one mistake, one error; for\n{text}\nthese were told:\n{reports}");
    assert!(reports.contains(says), "expected to read {says:?} in\n{reports}\nfor\n{text}");
    assert!(reports.contains(&format!("windlass.toml:{marked}:")), "expected line {marked} in\n{reports}\nfor\n{text}");
    let hints = problems[0].hints().join("\n");
    assert!(!hints.is_empty(), "every mistake has a remedy:\n{reports}");
    assert!(hints.contains(remedy), "expected the remedy {remedy:?} in\n{reports}\nfor\n{text}");
    assert!(!format!("{reports}{problems:?}").contains(SECRET), "the secret is shown:\n{reports}");
    assert_eq!(problems[0].outcome(), Outcome::CouldNotRun);
    let code = (problems[0].code(), problems[0].reason());
    assert!(Fault::CODES.contains(&code), "{code:?} is in no list");
    reports
}

/// A mistake in the text behind a right repository.
fn after_repository(rest: &str, says: &str, remedy: &str) {
    only_mistake(&format!("{REPOSITORY}{rest}"), says, remedy);
}

/// A mistake in a component, or anything else behind the header of an application.
fn in_shop(rest: &str, says: &str, remedy: &str) {
    after_repository(&format!("{SHOP}{rest}"), says, remedy);
}

/// A mistake in a PostgreSQL component whose kind is written.
fn in_postgres(rest: &str, says: &str, remedy: &str) {
    in_shop(&format!("[application.shop.component.db]\nkind = \"postgres\"\n{rest}"), says, remedy);
}

/// A mistake in a disk component whose kind is written.
fn in_disk(rest: &str, says: &str, remedy: &str) {
    in_shop(&format!("[application.shop.component.files]\nkind = \"disk\"\n{rest}"), says, remedy);
}

/// A mistake in a policy.
fn in_policy(rest: &str, says: &str, remedy: &str) {
    after_repository(&format!("[policy.daily]\n{rest}"), says, remedy);
}

/// A mistake in a repository's only table.
fn in_repository(rest: &str, says: &str, remedy: &str) {
    only_mistake(
        &format!("[repository.main] # <--\n{rest}").replacen(" # <--", "", usize::from(rest.contains("# <--"))),
        says,
        remedy,
    );
}

#[test]
fn an_error_names_what_where_and_the_remedy() {
    let text = format!("{REPOSITORY}{SHOP}{FILES}exlude = [\"*.tmp\"] # <--\n");
    let report = only_mistake(&text, "unknown key", "did you mean");
    assert_eq!(
        report,
        "error[WDL-0103]: unknown key `exlude` in [application.shop.component.files]\n  \
         --> windlass.toml:9:1\n  \
         hint: did you mean `exclude`? known keys: kind, after, policy, hooks, paths, exclude"
    );
}

#[test]
fn text_that_is_not_toml() {
    only_mistake("[repository.main]\nurl = file:///srv # <--\n", "text without quotes", "double quotes");
    only_mistake("state = \"/var # <--\n", "invalid basic string", "close the quote");
    only_mistake(
        "[repository.main\nurl = 1 # <--\n".replace("main\n", "main # <--\n").replace("1 # <--", "1").as_str(),
        "unclosed table",
        "bracket",
    );
    only_mistake("state # <--\n", "key with no value", "key = value");
    after_repository("[repository.main] # <--\nurl = \"file:///b\"\n", "duplicate key", "stands in line 1 already");
    after_repository("[policy.p]\nrpo = \"1h\"\nrpo = \"2h\" # <--\n", "duplicate key", "stands in line 5 already");
    only_mistake("password = correct hunter2 # <--\n", "text without quotes", "double quotes");
}

#[test]
fn unknown_keys() {
    only_mistake(
        "[aplication.shop] # <--\nrepository = \"main\"\n",
        "unknown key `aplication` at the top",
        "`application`",
    );
    in_shop(
        &format!("polcy = \"daily\" # <--\n{FILES}"),
        "unknown key `polcy` in [application.shop]",
        "did you mean `policy`?",
    );
    in_shop(&format!("retention = \"30d\" # <--\n{FILES}"), "unknown key `retention`", "is a key of [policy.NAME]");
    in_repository(
        "url = \"file:///b\"\nencryption = { pasphrase = { env = \"P\" }, passphrase = { env = \"P\" } } # <--\n",
        "unknown key `pasphrase`",
        "`passphrase`",
    );
    in_postgres(
        "url = \"postgresql://db/shop\"\npaths = [\"/srv\"] # <--\n",
        "unknown key `paths`",
        r#"is a key of components with kind = "disk""#,
    );
}

#[test]
fn values_of_a_wrong_type() {
    only_mistake("application = 3 # <--\n", "is a number; a table is expected", "");
    in_disk("paths = \"/srv/shop\" # <--\n", "is a string; an array of paths is expected", "[\"/PATH\"]");
    in_disk("paths = [\"/srv\", 3] # <--\n", "`paths[1]` in [application.shop.component.files] is a number", "");
    in_policy("rpo = 26 # <--\n", "is a number; a string with a length of time", "12h");
    in_shop(
        &format!("control = {{ stop = \"docker stop\", start = [\"a\"] }} # <--\n{FILES}"),
        "an array of strings",
        "without a shell",
    );
    in_repository("url = \"file:///b\"\nencryption = true # <--\n", "is a boolean; a table", "");
}

#[test]
fn keys_that_are_missing() {
    in_repository("encryption = \"none\"\n", "`url` is missing in [repository.main]", "s3://");
    in_repository("url = \"file:///srv/backups\"\n", "`encryption` is missing", "encryption = \"none\"");
    in_repository(
        "url = \"s3://backups\"\nencryption = \"none\"\naccess_key = { env = \"A\" }\n",
        "`secret_key` is missing",
        "secret_key = { file =",
    );
    after_repository(&format!("[application.shop] # <--\n{FILES}"), "`repository` is missing", "repository = \"main\"");
    in_shop("[application.shop.component.x] # <--\npaths = [\"/srv\"]\n", "`kind` is missing", "postgres");
    in_shop("[application.shop.component.x] # <--\nkind = \"action\"\n", "`backup` is missing", "export-index");
    in_shop("[application.shop.component.x] # <--\nkind = \"postgres\"\n", "`url` is missing", "postgresql://");
    in_shop(
        &format!("[application.shop.hooks]\nbefore = [{{ timeout = \"3s\" }}] # <--\n{FILES}"),
        "`run` is missing in `application.shop.hooks.before[0]`",
        "pause",
    );
}

#[test]
fn names_that_cannot_be_one() {
    after_repository("[policy.Daily_Run] # <--\n", "`Daily_Run` is not a name", "`daily-run` would do");
    after_repository(
        &format!("[application.shop]\nrepository = \"ma in\" # <--\n{FILES}"),
        "`ma in` is not a name",
        "",
    );
    in_shop("[application.shop.component.\"../x\"] # <--\nkind = \"disk\"\npaths = [\"/srv\"]\n", "is not a name", "");
}

#[test]
fn references_that_lead_nowhere() {
    after_repository(
        &format!("[application.shop]\nrepository = \"s3://AK:hunter2@b\" # <--\n{FILES}"),
        "is a URL, not a name",
        "into a table of its own",
    );
    after_repository(
        &format!("[application.shop]\nrepository = \"mian\" # <--\n{FILES}"),
        "names the repository `mian`, but there is none of that name",
        "did you mean `main`?",
    );
    in_shop(&format!("policy = \"daily\" # <--\n{FILES}"), "names the policy `daily`", "add a table [policy.daily]");
    in_shop(&format!("{FILES}after = [\"db\"] # <--\n"), "names the component `db`", "there is `files`");
    in_shop(&format!("{FILES}after = [\"files\"] # <--\n"), "names the component itself", "take it out");
    in_shop(
        &format!("checks = [{{ component = \"bd\", sql = \"select true\" }}] # <--\n{FILES}"),
        "names the component `bd`",
        "there is `files`",
    );
    in_shop(
        &format!("checks = [{{ component = \"files\", sql = \"select true\" }}] # <--\n{FILES}"),
        "names a component of kind \"disk\"",
        "of kind \"postgres\"",
    );
}

#[test]
fn components_that_wait_for_each_other() {
    in_shop(
        "[application.shop.component.a]\nkind = \"disk\"\npaths = [\"/a\"]\nafter = [\"b\"] # <--\n\
         [application.shop.component.b]\nkind = \"disk\"\npaths = [\"/b\"]\nafter = [\"c\"]\n\
         [application.shop.component.c]\nkind = \"disk\"\npaths = [\"/c\"]\nafter = [\"a\"]\n",
        "wait for each other: a after b after c after a",
        "take one of them out",
    );
}

#[test]
fn secrets_in_plain_text() {
    let s3 = "[repository.main]\nurl = \"s3://b\"\nencryption = \"none\"\n";
    only_mistake(
        &format!("{s3}access_key = \"hunter2\" # <--\nsecret_key = {{ env = \"S\" }}\n"),
        "`access_key` in [repository.main] is a secret in plain text",
        "access_key = { file =",
    );
    in_repository(
        "url = \"file:///b\"\nencryption = { passphrase = \"hunter2\" } # <--\n",
        "secret in plain text",
        "{ file =",
    );
    in_repository(
        "url = \"file:///b\"\nencryption = \"hunter2\" # <--\n",
        "is a text other than \"none\"",
        "passphrase = { file",
    );
    in_postgres(
        "url = \"postgresql://db/shop\"\npassword = \"hunter2\" # <--\n",
        "is a secret in plain text",
        "change the secret",
    );
    in_postgres(
        "url = \"postgresql://db/shop\"\npassword = { value = \"hunter2\" } # <--\n",
        "none of `env`, `file` and",
        "{ env =",
    );
    in_postgres(
        "url = \"postgresql://db/shop\"\npassword = { file = \"hunter2\" } # <--\n",
        "not an absolute path",
        "in full",
    );
    in_postgres(
        "url = \"postgresql://db/shop\"\npassword = { env = \"hunter2!\" } # <--\n",
        "is not the name of an environment",
        "its name".trim_start_matches("its "),
    );
    in_postgres(
        "url = \"postgresql://db/shop\"\npassword = { env = \"A\", file = \"/hunter2\" } # <--\n",
        "has more than one of",
        "is one of",
    );
}

#[test]
fn passwords_in_urls() {
    for url in [
        "postgresql://shop:hunter2@db/shop",
        "postgresql://db/shop?user=shop&password=hunter2",
        "postgres://shop:a@hunter2@db/shop",
    ] {
        in_postgres(
            &format!("url = \"{url}\" # <--\n"),
            "`url` in [application.shop.component.db] holds a user or a password",
            "password = {",
        );
    }
    in_postgres("url = \"postgresql://shop:hun/hunter2@db/shop\" # <--\n", "no valid host and port", "%2F");
    in_repository(
        "url = \"s3://AK:hunter2@b\" # <--\nencryption = \"none\"\n",
        "holds a user or a password",
        "access_key",
    );
    only_mistake(
        "[repository.main]\nurl = \"s3://b\"\nendpoint = \"https://u:hunter2@s3\" # <--\nencryption = \"none\"\n\
         access_key = { env = \"A\" }\nsecret_key = { env = \"S\" }\n",
        "`endpoint` in [repository.main] holds a user or a password",
        "take user and password out",
    );
}

#[test]
fn what_wal_g_sealed_is_opened_with_a_libsodium_key_or_not_at_all() {
    let in_walg = |encryption: &str, what: &str, hint: &str| {
        in_repository(
            &format!("url = \"file:///b\"\nformat = \"wal-g\"\nencryption = {encryption} # <--\n"),
            what,
            hint,
        );
    };
    in_walg("{ passphrase = { env = \"P\" } }", "has none", "libsodium");
    in_walg("\"some\"", "is a text other than", "libsodium");
    in_walg("{ libsodium = { env = \"K\" }, transform = \"rot13\" }", "is none of", "WALG_LIBSODIUM_KEY_TRANSFORM");
}

#[test]
fn what_goes_with_another_mode_is_told() {
    let url = "url = \"postgresql://db/shop\"\n";
    in_postgres(
        &format!("{url}data_directory = \"/var/lib/pg\" # <--\n"),
        "goes with mode = \"physical\"",
        "take it out",
    );
    let physical = format!("{url}mode = \"physical\"\n");
    in_postgres(&format!("{physical}databases = \"all\" # <--\n"), "goes with mode = \"logical\"", "take it out");
    in_postgres(&format!("{physical}via = [\"ssh\", \"db\"] # <--\n"), "goes with mode = \"logical\"", "take it out");
    in_postgres(&format!("{url}wal = \"archive\" # <--\n"), "goes with mode = \"physical\"", "take it out");
    in_postgres(&format!("{physical}wal = \"stream\" # <--\n"), "is no way for WAL", "write \"archive\"");
    in_postgres(
        &format!("{physical}spool = \"2GiB\" # <--\n"),
        "is for WAL that is archived",
        "add `wal = \"archive\"`",
    );
    in_postgres(&format!("{physical}data_directory = \"var/pg\" # <--\n"), "is not an absolute path", "from `/`");
    in_postgres(&format!("{url}mode = \"physiological\" # <--\n"), "is an unknown mode", "base backups");
}

#[test]
fn what_is_not_supported_yet_is_not_ignored() {
    let url = "url = \"postgresql://db/shop\"\n";
    in_postgres(&format!("{url}full = {{ every = \"7d\" }} # <--\n"), "is not supported yet", "full one");
    after_repository(
        "[notify.ops] # <--\nheartbeat = \"5m\"\n",
        "`notify` at the top of the file is not supported yet",
        "windlass status",
    );
    in_shop("[application.shop.component.x]\nkind = \"mariadb\" # <--\n", "kind = \"mariadb\" in", "kind = \"action\"");
}

#[test]
fn kinds_and_words_nobody_knows() {
    in_shop(
        "[application.shop.component.x]\nkind = \"postgress\" # <--\nurl = 3\n",
        "unknown kind `postgress`",
        "did you mean \"postgres\"?",
    );
    in_shop(
        "[application.shop.component.x]\nkind = \"volume\" # <--\n",
        "unknown kind `volume`",
        "postgres, disk, action",
    );
    in_postgres(
        "url = \"postgresql://db/shop\"\ndatabases = \"shop\" # <--\n",
        "neither \"named\" nor \"all\"",
        "\"all\"",
    );
    in_postgres("url = \"postgresql://db/shop\"\nmode = \"fysical\" # <--\n", "unknown mode", "logical");
    in_repository(
        "url = \"file:///b\"\nencryption = \"none\"\nformat = \"borg\" # <--\n",
        "unknown format, `borg`",
        "restic",
    );
}

#[test]
fn what_would_protect_nothing() {
    only_mistake("# <-- an empty file\n", "no repository and no application", "windlass init");
    after_repository(
        "[application.shop] # <--\nrepository = \"main\"\n",
        "[application.shop] has no components",
        "component.NAME]",
    );
    in_shop(
        "[application.shop.component.x] # <--\nkind = \"disk\"\n",
        "the disk component [application.shop.component.x] has no `paths`",
        "paths = [",
    );
    in_disk("paths = [] # <--\n", "`paths` in [application.shop.component.files] is empty", "at least one");
    in_shop(
        "[application.shop.component.x]\nkind = \"action\"\nbackup = [] # <--\n",
        "is an empty command",
        "without a shell",
    );
    in_shop(
        "[application.shop.component.x]\nkind = \"action\"\nbackup = [\"\"] # <--\n",
        "is empty, but is the program",
        "",
    );
}

#[test]
fn paths_and_patterns() {
    only_mistake(
        "state = \"state\" # <--\n[repository.m]\nurl = \"file:///b\"\nencryption = \"none\"\n",
        "`state` at the top of the file is not an absolute path",
        "from `/`",
    );
    in_disk(
        "paths = [\"srv/shop\"] # <--\n",
        "`paths[0]` in [application.shop.component.files] is not an absolute path",
        "from `/`",
    );
    in_disk("paths = [\"~/shop\"] # <--\n", "not an absolute path", "neither `~` nor variables");
    in_disk("paths = [\"/srv/../etc\"] # <--\n", "goes up by `..`", "without `..`");
    in_disk("paths = [\"/srv\", \"/srv/\"] # <--\n", "`paths[1]`", "take it out");
    in_disk("paths = [\"/srv\"]\nexclude = [\"a[\"] # <--\n", "is not a pattern", "`[a-z]`");
    in_disk("paths = [\"/srv\"]\nexclude = [\"!keep\"] # <--\n", "begins with `!`", "is kept");
}

#[test]
fn places_of_repositories() {
    for (url, says, remedy) in [
        ("s3://", "names no bucket", "s3://BUCKET/PREFIX"),
        ("s3:///prefix", "names no bucket", "s3://BUCKET/PREFIX"),
        ("s3://b/x//y", "empty part", "single slashes"),
        ("file://srv/backups", "names no absolute path", "three slashes"),
        ("file://./backups", "names no absolute path", "three slashes"),
        ("file:///srv/%zz", "two hexadecimal digits", "%25"),
        ("/srv/backups", "is a path, not a URL", "file:///"),
        ("https://s3.example.net/b", "is the address of a server", "endpoint"),
        ("sftp://host/b", "does not know", "s3://BUCKET/PREFIX"),
        ("backups", "is not a URL", "s3://BUCKET/PREFIX"),
        ("", "is empty", "give it a value"),
    ] {
        in_repository(&format!("url = \"{url}\" # <--\nencryption = \"none\"\n"), says, remedy);
    }
    after_repository(
        "[repository.other]\nurl = \"file:///srv/backups/\" # <--\nencryption = \"none\"\n",
        "`url` in [repository.other] is the place of [repository.main] already",
        "take one of them out",
    );
    in_repository(
        "url = \"file:///b\"\nregion = \"x\" # <--\nencryption = \"none\"\n",
        "`region` in [repository.main] means nothing for a directory",
        "take it out",
    );
    only_mistake(
        "[repository.main]\nurl = \"s3://b\"\nendpoint = \"s3.example.net\" # <--\nencryption = \"none\"\n\
         access_key = { env = \"A\" }\nsecret_key = { env = \"S\" }\n",
        "is not a URL of http or https",
        "https://",
    );
}

#[test]
fn keys_that_seal_a_repository() {
    const KEY: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
    let sealed = |encryption: &str, says, remedy| {
        in_repository(&format!("url = \"file:///b\"\nencryption = {encryption} # <--\n"), says, remedy);
    };
    let slip = KEY.replace("ql3z", "ql4z");
    sealed(&format!("{{ recipients = [\"{slip}\"] }}"), "`recipients[0]`", "copy the whole public key");
    sealed(&format!("{{ recipients = [\"{}\"] }}", &KEY[..50]), "is not a public key of age", "copy the whole");
    sealed("{ recipients = [\"ssh-ed25519 AAAA\"] }", "is a key of ssh", "age-keygen");
    sealed("{ recipients = [\"AGE-SECRET-KEY-1hunter2\"] }", "is a secret in plain text", "identity = {");
    sealed("{ recipients = [] }", "is empty", "at least one");
    sealed("{ }", "neither a passphrase nor recipients", "passphrase = {");
    sealed(
        &format!("{{ recipients = [\"{KEY}\"], passphrase = {{ env = \"P\" }} }}"),
        "both a passphrase and",
        "passphrase = {",
    );
    sealed("{ passphrase = { env = \"P\" }, identity = { env = \"I\" } }", "an identity beside a passphrase", "");
    only_mistake(
        &format!(
            "[repository.main]\nurl = \"file:///b\"\nencryption = {{ recipients = [\"{KEY}\"] }}\n\
             [application.shop]\nrepository = \"main\" # <--\n{FILES}"
        ),
        "for which this host has no key: the folders of `files`",
        "add `identity = {",
    );
    only_mistake(
        &format!(
            "[repository.main]\nurl = \"file:///b\"\nformat = \"restic\"\nencryption = {{ passphrase = {{ env = \"P\" }} }}\n\
             [application.shop]\nrepository = \"main\" # <--\n{FILES}"
        ),
        "someone else's repository, which Windlass never writes",
        "a repository of its own",
    );
    in_repository(
        "url = \"file:///b\"\nformat = \"restic\"\nencryption = \"none\" # <--\n",
        "a restic repository is opened with a password",
        "restic-password",
    );
}

#[test]
fn addresses_of_databases() {
    for (url, says, remedy) in [
        ("mysql://db/shop", "is not a URL of PostgreSQL", "postgresql://USER@HOST"),
        ("host=db dbname=shop", "is not a URL of PostgreSQL", "postgresql://USER@HOST"),
        ("postgresql://db", "names no database", "databases = "),
        ("postgresql://db:port/shop", "no valid host and port", "HOST:PORT"),
        ("postgresql://db/shop?sslmod=require", "libpq does not know", "`sslmode`"),
        ("postgresql://db/shop?sslmode=verify", "unknown `sslmode`", "verify-full"),
        ("postgresql://db/sh%op", "two hexadecimal digits", "%25"),
    ] {
        in_postgres(&format!("url = \"{url}\" # <--\n"), says, remedy);
    }
}

#[test]
fn times_and_numbers_of_a_policy() {
    in_policy("rpo = \"26x\" # <--\n", "is not a length of time", "12h");
    in_policy("rpo = \"0s\" # <--\n", "it is zero", "30d");
    in_policy("drill = \"soon\" # <--\n", "is not a length of time", "30d");
    in_policy("verify = { every = \"1 month\" } # <--\n", "`every` in [policy.daily.verify]", "30d");
    in_policy("schedule = \"0 2 * *\" # <--\n", "`schedule` in [policy.daily]", "0 2 * * *");
    in_policy("schedule = \"0 25 * * *\" # <--\n", "`schedule` in [policy.daily]", "0 2 * * *");
    in_policy("schedule = \"0 2 * * * Europe/Zuerich\" # <--\n", "`schedule` in [policy.daily]", "Europe/Zurich");
    in_policy("retention = \"forever\" # <--\n", "is not a length of time", "30d");
    in_policy("retention = { } # <--\n", "keeps nothing", "daily");
    in_policy("retention = { dayly = 3 } # <--\n", "unknown key `dayly`", "`daily`");
    in_policy("retention = { daily = -1 } # <--\n", "`daily` in [policy.daily.retention]", "whole number");
    in_policy("retention = { daily = 3, max_delete = \"20\" } # <--\n", "`max_delete`", "20%");
    in_policy("retention = { daily = 3, max_delete = \"120%\" } # <--\n", "`max_delete`", "100%");
}

#[test]
fn checks_and_hooks() {
    in_shop(
        &format!("checks = [{{ component = \"files\" }}] # <--\n{FILES}"),
        "neither `sql` nor `http`",
        "a check is {",
    );
    in_shop(
        &format!("checks = [{{ http = \"http://a\", sql = \"select 1\" }}] # <--\n{FILES}"),
        "both `sql` and `http`",
        "a check is {",
    );
    in_shop(&format!("checks = [{{ http = \"127.0.0.1:8080\" }}] # <--\n{FILES}"), "is not a URL of http", "http://");
    in_shop(
        &format!("checks = [{{ http = \"http://a\", after = \"backup\" }}] # <--\n{FILES}"),
        "is not \"restore\"",
        "after = \"restore\"",
    );
    in_shop(&format!("undo = \"0h\" # <--\n{FILES}"), "it is zero", "");
    in_shop(
        &format!("[application.shop.hooks]\nbefore = [{{ run = [\"a\"], timeout = \"soon\" }}] # <--\n{FILES}"),
        "`timeout` in `application.shop.hooks.before[0]`",
        "10m",
    );
}

#[test]
fn every_mistake_is_told_at_once_in_the_order_of_the_file() {
    let text = format!("colour = 1\n{REPOSITORY}{SHOP}{FILES}exlude = []\n[policy.daily]\nrpo = \"x\"\n[notify.ops]\n");
    let lines: Vec<usize> = problems_of(&text).iter().map(|problem| problem.at.line).collect();
    assert_eq!(lines, [1, 10, 12, 13]);
}

#[test]
fn bytes_that_are_not_text_are_told_with_their_line() {
    let error = Settings::parse(Path::new("windlass.toml"), b"state = \"/x\"\n\xff\n", Path::new("/s")).unwrap_err();
    assert!(error.report().contains("not UTF-8\n  --> windlass.toml:2:1"), "{}", error.report());
}
