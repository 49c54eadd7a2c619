//! The settings file that `windlass init` writes: commented, and right as it stands.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use windlass_core::name::Name;

use super::postgres_url;

/// What was found on this machine.
#[derive(Clone, Debug)]
pub struct Findings {
    /// What the application is to be called.
    pub application: Name,
    /// The URL of the repository, `file:///…` or `s3://…`.
    pub repository: String,
    /// The file that holds, or will hold, the passphrase of the repository.
    pub passphrase: PathBuf,
    /// Databases, each with a name of its own.
    pub databases: Vec<FoundDatabase>,
    /// Folders of data, each with a name of its own.
    pub folders: Vec<FoundFolder>,
    /// A Compose file, and the service in it that uses the data.
    pub compose: Option<FoundCompose>,
}

/// A database.
#[derive(Clone, Debug)]
pub struct FoundDatabase {
    /// What the component is to be called.
    pub name: Name,
    /// Its URL. A password in it is not written: a line is written that says where to put it.
    pub url: String,
    /// The Compose service it runs in, where its own client tools are to be used.
    pub service: Option<String>,
}

/// A folder.
#[derive(Clone, Debug)]
pub struct FoundFolder {
    /// What the component is to be called.
    pub name: Name,
    /// Its absolute path.
    pub path: PathBuf,
}

/// A Compose file.
#[derive(Clone, Debug)]
pub struct FoundCompose {
    /// Its absolute path.
    pub file: PathBuf,
    /// The service that is stopped for a restore in place, if one stands out.
    pub service: Option<String>,
}

/// The text of a settings file for what was found. It can be read as it is; without a database or a folder
/// its application is a comment.
pub fn template(found: &Findings) -> String {
    let mut text = String::new();
    head(&mut text, found);
    let protects = !found.databases.is_empty() || found.folders.iter().any(|folder| folder.path.to_str().is_some());
    let mut body = String::new();
    application(&mut body, found);
    if !protects {
        text += "\n# Nothing to protect was found here. Take away the `#` below and write what there is.\n";
        let _ = write!(
            body,
            "\n[application.{}.component.files]\nkind  = \"disk\"\npaths = [\"/srv/data\"]\n",
            found.application
        );
        body =
            body.lines().map(|line| if line.is_empty() { "#\n".to_owned() } else { format!("# {line}\n") }).collect();
    }
    text += &body;
    text
}

// Writing to a String cannot fail, so what `write!` gives is ignored below.

fn head(text: &mut String, found: &Findings) {
    let _ = write!(
        text,
        "\
# What Windlass protects on this machine. Every key is described in docs/reference/settings.md.
# `windlass doctor` checks this file, `windlass backup {application}` takes the first recovery point.

[repository.main]
url        = {url}
# Keep the passphrase somewhere else as well: without it, or the recovery kit, nothing can be restored.
encryption = {{ passphrase = {{ file = {passphrase} }} }}
",
        application = found.application,
        url = quoted(&found.repository),
        passphrase = quoted_path(&found.passphrase),
    );
    if found.repository.starts_with("s3://") {
        *text += "\
# endpoint = \"https://s3.example.net\"    # for a store other than AWS
access_key = { env = \"S3_ACCESS_KEY\" }
secret_key = { env = \"S3_SECRET_KEY\" }
";
    }
    *text += "
[policy.daily]
schedule  = \"H 2 * * *\"    # once between 2 and 3 UTC; add a zone such as Europe/Zurich behind it
rpo       = \"26h\"          # older than this, the newest point no longer protects
retention = { within = \"24h\", daily = 30, weekly = 13, monthly = 12 }
verify    = { every = \"24h\", deep = \"30d\" }
drill     = \"90d\"
";
}

fn application(text: &mut String, found: &Findings) {
    let name = &found.application;
    let _ = write!(text, "\n[application.{name}]\nrepository = \"main\"\npolicy     = \"daily\"\n");
    if let Some(compose) = &found.compose {
        let _ = writeln!(text, "# found: {}", comment(&compose.file.to_string_lossy()));
        if let Some(service) = &compose.service {
            let command = |verb: &str| compose_command(&compose.file, &[verb, service]);
            let _ = writeln!(text, "control    = {{ stop = {}, start = {} }}", command("stop"), command("start"));
        }
    }
    if let Some(database) = found.databases.first() {
        let _ = writeln!(
            text,
            "# checks   = [ {{ component = \"{}\", sql = \"select count(*) > 0 from TABLE\" }} ]",
            database.name
        );
    }
    for database in &found.databases {
        self::database(text, found, database);
    }
    for folder in &found.folders {
        let Some(path) = folder.path.to_str() else {
            let _ = writeln!(
                text,
                "\n# left out, since its name is not UTF-8: {}",
                comment(&folder.path.to_string_lossy())
            );
            continue;
        };
        let _ = write!(
            text,
            "\n[application.{name}.component.{}]\nkind    = \"disk\"\npaths   = [{}]\n# exclude = [\"*.tmp\"]\n",
            folder.name,
            quoted(path)
        );
        if !found.databases.is_empty() {
            let after: Vec<String> = found.databases.iter().map(|database| format!("\"{}\"", database.name)).collect();
            let _ = writeln!(
                text,
                "after   = [{}]    # captured after, so that every file a row names is there",
                after.join(", ")
            );
        }
    }
}

fn database(text: &mut String, found: &Findings, database: &FoundDatabase) {
    let (url, had_password) = postgres_url::without_password(&database.url);
    let named = postgres_url::check(&url, true).is_ok();
    let _ = write!(
        text,
        "\n[application.{}.component.{}]\nkind      = \"postgres\"\nurl       = {}\n",
        found.application,
        database.name,
        quoted(&url)
    );
    let hash = if had_password { "" } else { "# " };
    let _ = writeln!(text, "{hash}password = {{ file = \"/etc/windlass/{}-password\" }}", database.name);
    let _ = writeln!(text, "databases = \"{}\"", if named { "named" } else { "all" });
    if let (Some(service), Some(compose)) = (&database.service, &found.compose) {
        let via = compose_command(&compose.file, &["exec", "-T", service]);
        let _ = writeln!(text, "via       = {via}    # the client tools of the database's own image");
    }
}

fn compose_command(file: &Path, words: &[&str]) -> String {
    let file = file.to_string_lossy();
    let words = ["docker", "compose", "-f", &file].into_iter().chain(words.iter().copied());
    format!("[{}]", words.map(quoted).collect::<Vec<_>>().join(", "))
}

/// The text as a string of TOML.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

fn quoted_path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

/// The text without what would end a comment.
fn comment(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}
