//! Every key of the settings file, once: the reader takes the known keys from here, the errors their
//! examples, and `docs/reference/settings.md` its text.

mod application;

pub(super) use application::{ACTION, APPLICATION, CHECK, COMPONENT, CONTROL, DISK, HOOK, HOOKS, POSTGRES};

/// A key of a table.
#[derive(Debug)]
pub(super) struct Key {
    /// As written.
    pub(super) name: &'static str,
    /// What is written behind it.
    pub(super) shape: &'static str,
    /// Whether it must be there, and what holds if it is not.
    pub(super) absent: Absent,
    /// What it does.
    pub(super) meaning: &'static str,
    /// A value, as TOML.
    pub(super) example: &'static str,
}

/// What the absence of a key means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Absent {
    /// An error.
    Refused,
    /// What this text says.
    Means(&'static str),
    /// Nothing: the key itself is refused, since this version does not do what it asks for. The text is the remedy.
    NotYet(&'static str),
}

/// A table and its keys.
#[derive(Debug)]
pub(super) struct Spec {
    /// How its header is written, `NAME` standing for a name.
    pub(super) table: &'static str,
    /// What it is for.
    pub(super) about: &'static str,
    /// Its keys, in the order of the reference.
    pub(super) keys: &'static [Key],
}

impl Spec {
    pub(super) fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}

const fn required(name: &'static str, shape: &'static str, example: &'static str, meaning: &'static str) -> Key {
    Key { name, shape, absent: Absent::Refused, meaning, example }
}

const fn optional(
    name: &'static str,
    shape: &'static str,
    absent: &'static str,
    example: &'static str,
    meaning: &'static str,
) -> Key {
    Key { name, shape, absent: Absent::Means(absent), meaning, example }
}

const fn later(name: &'static str, meaning: &'static str, remedy: &'static str) -> Key {
    Key { name, shape: "", absent: Absent::NotYet(remedy), meaning, example: "" }
}

/// All tables, in the order of the reference.
pub(super) const ALL: &[&Spec] = &[
    &ROOT,
    &REPOSITORY,
    &ENCRYPTION,
    &SECRET,
    &POLICY,
    &RETENTION,
    &VERIFY,
    &APPLICATION,
    &CONTROL,
    &HOOKS,
    &HOOK,
    &CHECK,
    &COMPONENT,
    &POSTGRES,
    &DISK,
    &ACTION,
];

pub(super) const ROOT: Spec = Spec {
    table: "",
    about: "What stands above the first table.",
    keys: &[
        optional(
            "state",
            "absolute path",
            "`/var/lib/windlass` for root, else `$XDG_STATE_HOME/windlass` or `~/.local/state/windlass`",
            r#""/var/lib/windlass""#,
            "What this machine remembers. Losing this folder loses no recovery point; but every undo, for the journals of restores in place are in it.",
        ),
        optional("repository", "tables", "none", "", "The repositories, each in a table `[repository.NAME]`."),
        optional("policy", "tables", "none", "", "The policies, each in a table `[policy.NAME]`."),
        optional("application", "tables", "none", "", "The applications, each in a table `[application.NAME]`."),
        later(
            "notify",
            "Where to report to.",
            "take the table out; call `windlass status` from your monitoring instead: it exits 1 while something is not protected",
        ),
    ],
};

pub(super) const REPOSITORY: Spec = Spec {
    table: "repository.NAME",
    about: "A place that holds recovery points. Names are 1 to 63 characters of `a-z`, `0-9` and `-`, beginning with a letter.",
    keys: &[
        required(
            "url",
            "URL",
            r#""s3://backups/prod""#,
            "`s3://BUCKET/PREFIX`, or `file:///FOLDER` for a directory of this machine. Never with a user or password.",
        ),
        optional(
            "endpoint",
            "URL",
            "AWS",
            r#""https://s3.example.net""#,
            "The server of an S3-compatible store. Only with `s3://`.",
        ),
        optional("region", "string", "`us-east-1`", r#""eu-central-1""#, "The region. Only with `s3://`."),
        optional(
            "path_style",
            "boolean",
            "`true` with an `endpoint`, else `false`",
            "true",
            "Whether the bucket is part of the path (`endpoint/bucket/key`) or of the host (`bucket.endpoint/key`). Only with `s3://`.",
        ),
        optional(
            "ca",
            "absolute path",
            "the built-in authorities",
            r#""/etc/windlass/ca.pem""#,
            "A file of PEM certificates trusted beside the built-in ones. Only with `s3://`.",
        ),
        optional(
            "access_key",
            "secret",
            "required with `s3://`",
            r#"{ env = "S3_ACCESS_KEY" }"#,
            "The access key. Only with `s3://`.",
        ),
        optional(
            "secret_key",
            "secret",
            "required with `s3://`",
            r#"{ file = "/etc/windlass/s3-secret" }"#,
            "The secret key. Only with `s3://`.",
        ),
        required(
            "encryption",
            r#"table, or `"none"`"#,
            r#"{ passphrase = { file = "/etc/windlass/passphrase" } }"#,
            "How what is stored is sealed. To seal nothing must be said: `\"none\"`.",
        ),
        optional(
            "format",
            r#"`"restic"` or `"wal-g"`"#,
            "Windlass's own layout",
            r#""restic""#,
            "Someone else's repository: listed, verified and restored, never written or swept. restic's password is `encryption.passphrase`; what `wal-g` sealed is opened with `encryption.libsodium`.",
        ),
    ],
};

pub(super) const ENCRYPTION: Spec = Spec {
    table: "repository.NAME.encryption",
    about: "Either a passphrase or recipients; of `format = \"wal-g\"` a libsodium key.",
    keys: &[
        optional(
            "passphrase",
            "secret",
            "`recipients` are given",
            r#"{ file = "/etc/windlass/passphrase" }"#,
            "Seals the keyring; needed by everything that reads or writes the repository.",
        ),
        optional(
            "recipients",
            "array of `age1…`",
            "a `passphrase` is given",
            r#"["age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"]"#,
            "Public keys of age (X25519). A host that holds only these can write dumps, but neither files nor read anything.",
        ),
        optional(
            "identity",
            "secret",
            "this host only writes dumps",
            r#"{ file = "/etc/windlass/identity" }"#,
            "The age identity that opens what is sealed to `recipients`. Only with them.",
        ),
        optional(
            "libsodium",
            "secret",
            "nothing is sealed",
            r#"{ file = "/etc/wal-g/key" }"#,
            "What `WALG_LIBSODIUM_KEY` held. Only with `format = \"wal-g\"`.",
        ),
        optional(
            "transform",
            r#"`"none"`, `"base64"` or `"hex"`"#,
            r#"`"none"`"#,
            r#""base64""#,
            "What `WALG_LIBSODIUM_KEY_TRANSFORM` held. Only with `libsodium`.",
        ),
    ],
};

pub(super) const SECRET: Spec = Spec {
    table: "SECRET",
    about: "A secret is never written into this file. It is a table with one of these keys; one line break at the end of the value is not part of it.",
    keys: &[
        optional("env", "string", "", r#""S3_ACCESS_KEY""#, "The name of an environment variable."),
        optional(
            "file",
            "absolute path",
            "",
            r#""/etc/windlass/passphrase""#,
            "A file, best readable for one user only (mode 600).",
        ),
        optional(
            "command",
            "command",
            "",
            r#"["pass", "show", "backup"]"#,
            "A command that prints it on its standard output.",
        ),
    ],
};

pub(super) const POLICY: Spec = Spec {
    table: "policy.NAME",
    about: "How often, how long, and how well proved.",
    keys: &[
        optional(
            "schedule",
            "cron expression",
            "nothing runs by itself",
            r#""0 2 * * * Europe/Zurich""#,
            "Minute, hour, day of month, month, day of week, and a time zone (UTC if absent). `H` takes a value of the application's own, so that not everything starts at once.",
        ),
        optional(
            "rpo",
            "duration",
            "any age is accepted",
            r#""26h""#,
            "The recovery point objective: how old the newest recovery point may get before the application counts as not protected.",
        ),
        optional(
            "retention",
            "duration or table",
            "everything is kept",
            r#""30d""#,
            "What is kept. As a duration: every point younger than that. The newest complete point is always kept.",
        ),
        optional(
            "verify",
            "table",
            "see its keys",
            r#"{ every = "24h", deep = "30d" }"#,
            "How often stored data must be proved.",
        ),
        optional("drill", "duration", "no drill is due", r#""90d""#, "How often a restore must be rehearsed."),
    ],
};

pub(super) const RETENTION: Spec = Spec {
    table: "policy.NAME.retention",
    about: "A point is kept if any of these keeps it. A table without a rule that keeps something is refused; without the table everything is kept.",
    keys: &[
        optional("within", "duration", "no such rule", r#""24h""#, "Keeps every point younger than this."),
        optional("daily", "whole number", "no such rule", "30", "Keeps the newest point of each of that many days."),
        optional("weekly", "whole number", "no such rule", "13", "Keeps the newest point of each of that many weeks."),
        optional(
            "monthly",
            "whole number",
            "no such rule",
            "12",
            "Keeps the newest point of each of that many months.",
        ),
        optional("yearly", "whole number", "no such rule", "5", "Keeps the newest point of each of that many years."),
        optional(
            "max_delete",
            "percentage",
            "no limit",
            r#""20%""#,
            "Stops when one run would delete more of an application's points than this.",
        ),
        optional(
            "pitr",
            "duration",
            "as far back as there is a base backup",
            r#""7d""#,
            "How far back every moment can be restored of servers with `wal = \"archive\"`: WAL and the base backup it begins with stay that long.",
        ),
    ],
};

pub(super) const VERIFY: Spec = Spec {
    table: "policy.NAME.verify",
    about: "How often stored data must be proved for the application to count as protected.",
    keys: &[
        optional("every", "duration", "not asked for", r#""24h""#, "How often all bytes must be read back and hashed."),
        optional("deep", "duration", "not asked for", r#""30d""#, "How often a point must be restored and checked."),
    ],
};
