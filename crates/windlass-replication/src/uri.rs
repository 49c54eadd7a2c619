//! The parts of a connection URI, decoded and not yet understood.

use percent_encoding::percent_decode_str;

use crate::AddressError;

/// Parameters that are secrets.
const SECRETS: [&str; 4] = ["password", "sslpassword", "scram_client_key", "scram_server_key"];

/// What a URL says. A parameter goes before what stands in front of it, and the last of two before the first.
#[derive(Default)]
pub(crate) struct Given {
    pub(crate) user: Option<String>,
    pub(crate) database: Option<String>,
    pub(crate) host: Option<String>,
    pub(crate) hostaddr: Option<String>,
    pub(crate) port: Option<String>,
    pub(crate) sslmode: Option<String>,
    pub(crate) sslrootcert: Option<String>,
    pub(crate) sslcert: Option<String>,
    pub(crate) sslkey: Option<String>,
    pub(crate) channel_binding: Option<String>,
    pub(crate) connect_timeout: Option<String>,
    pub(crate) application_name: Option<String>,
    pub(crate) passfile: Option<String>,
}

/// Takes a URL apart.
pub(crate) fn read(url: &str) -> Result<Given, AddressError> {
    let rest = url.strip_prefix("postgresql://").or_else(|| url.strip_prefix("postgres://"));
    let (before, query) = {
        let rest = rest.ok_or(AddressError::Scheme)?;
        rest.split_once('?').unwrap_or((rest, ""))
    };
    let (authority, database) = before.split_once('/').unwrap_or((before, ""));
    let (user, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let parameters: Vec<&str> = query.split('&').filter(|parameter| !parameter.is_empty()).collect();
    let is_secret = |parameter: &&str| SECRETS.contains(&parameter.split('=').next().unwrap_or(parameter));
    if user.contains(':') || parameters.iter().any(is_secret) {
        return Err(AddressError::Password);
    }
    let (hosts, ports) = split_hosts(hosts)?;
    let mut given = Given {
        user: decoded("user", user)?,
        database: decoded("database", database)?,
        host: decoded("host", &hosts)?,
        port: decoded("port", &ports)?,
        ..Given::default()
    };
    for parameter in parameters {
        let (name, value) = parameter.split_once('=').ok_or_else(|| unknown(parameter))?;
        given.take(name, value)?;
    }
    Ok(given)
}

impl Given {
    fn take(&mut self, name: &str, value: &str) -> Result<(), AddressError> {
        let (part, field) = match name {
            "user" => ("user", &mut self.user),
            "dbname" => ("dbname", &mut self.database),
            "host" => ("host", &mut self.host),
            "hostaddr" => ("hostaddr", &mut self.hostaddr),
            "port" => ("port", &mut self.port),
            "sslmode" => ("sslmode", &mut self.sslmode),
            "sslrootcert" => ("sslrootcert", &mut self.sslrootcert),
            "sslcert" => ("sslcert", &mut self.sslcert),
            "sslkey" => ("sslkey", &mut self.sslkey),
            "channel_binding" => ("channel_binding", &mut self.channel_binding),
            "connect_timeout" => ("connect_timeout", &mut self.connect_timeout),
            "application_name" => ("application_name", &mut self.application_name),
            "passfile" => ("passfile", &mut self.passfile),
            "target_session_attrs" if value == "any" => return Ok(()),
            "target_session_attrs" => {
                return Err(AddressError::Value { part: "target_session_attrs", why: "can only be any here" });
            }
            _ => return Err(unknown(name)),
        };
        // A file or host that is named by nothing is the usual one; no word is none of the words.
        let is_word = matches!(part, "sslmode" | "channel_binding" | "connect_timeout");
        *field = decoded(part, value)?.or_else(|| is_word.then(String::new));
        Ok(())
    }
}

/// A name is only repeated where it looks like one: an odd character in a password may have put it anywhere.
fn unknown(name: &str) -> AddressError {
    let is_name = (1..=40).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    AddressError::Parameter { name: is_name.then(|| name.to_owned()) }
}

/// Hosts and ports, each a list with commas; a list of nothing is empty.
fn split_hosts(text: &str) -> Result<(String, String), AddressError> {
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for one in text.split(',') {
        let (name, port) = match one.strip_prefix('[') {
            None => one.split_once(':').unwrap_or((one, "")),
            Some(rest) => {
                let (name, behind) = rest
                    .split_once(']')
                    .ok_or(AddressError::Value { part: "host", why: "has a bracket that is not closed" })?;
                let wrong = AddressError::Value { part: "host", why: "has something other than a port behind `]`" };
                let port = if behind.is_empty() { "" } else { behind.strip_prefix(':').ok_or(wrong)? };
                (name, port)
            }
        };
        names.push(name);
        ports.push(port);
    }
    let joined = |list: Vec<&str>| if list.iter().all(|one| one.is_empty()) { String::new() } else { list.join(",") };
    // Where no host is named there is one all the same, with the port.
    Ok(if names.len() == 1 { (names.concat(), ports.concat()) } else { (names.join(","), joined(ports)) })
}

/// Without percent-encoding; `None` where nothing is there.
fn decoded(part: &'static str, text: &str) -> Result<Option<String>, AddressError> {
    let text = percent_decode_str(text).decode_utf8();
    let text = text.map_err(|_| AddressError::Value { part, why: "is not UTF-8" })?;
    if text.contains('\0') {
        return Err(AddressError::Value { part, why: "has a zero byte in it" });
    }
    Ok((!text.is_empty()).then(|| text.into_owned()))
}

/// Who asks, as the system calls them.
pub(crate) fn os_user() -> Result<String, AddressError> {
    let uid = rustix::process::geteuid().as_raw();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let mut fields = users.lines().map(|line| line.split(':'));
    let name = fields.find_map(|mut line| {
        let name = line.next()?;
        (line.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.ok_or(AddressError::NoUser { uid })
}
