use std::path::PathBuf;
use std::time::Duration;

use super::{Address, AddressError, ChannelBinding, Place, Roots, SslMode};

fn parse(url: &str) -> Address {
    Address::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"))
}

#[test]
fn hosts_are_those_libpq_would_try() {
    let cases: [(&str, &[&str]); 19] = [
        ("postgresql://u@h", &["h:5432"]),
        ("postgres://u@h:6000/db", &["h:6000"]),
        ("postgresql://u@h:/db", &["h:5432"]),
        ("postgresql://u@", &["/var/run/postgresql/.s.PGSQL.5432"]),
        ("postgresql://u@/db", &["/var/run/postgresql/.s.PGSQL.5432"]),
        ("postgresql://u@:6000/db", &["/var/run/postgresql/.s.PGSQL.6000"]),
        ("postgresql://u@/db?host=/run/pg&port=6000", &["/run/pg/.s.PGSQL.6000"]),
        ("postgresql://u@%2Frun%2Fpg:6000/db", &["/run/pg/.s.PGSQL.6000"]),
        ("postgresql://u@[2001:db8::1]:6000/db", &["[2001:db8::1]:6000"]),
        ("postgresql://u@[::1]", &["[::1]:5432"]),
        ("postgresql://u@a:1,b:2/db", &["a:1", "b:2"]),
        ("postgresql://u@a,b:2", &["a:5432", "b:2"]),
        ("postgresql://u@a,b?port=7", &["a:7", "b:7"]),
        ("postgresql://u@a,[::1]:3,%2Frun", &["a:5432", "[::1]:3", "/run/.s.PGSQL.5432"]),
        ("postgresql://u@ignored:1?host=x&port=2", &["x:2"]),
        ("postgresql://?user=u&host=a,b&port=1,2", &["a:1", "b:2"]),
        ("postgresql://u@h?hostaddr=10.0.0.1", &["h (10.0.0.1):5432"]),
        ("postgresql://u@?hostaddr=::1,10.0.0.1", &["[::1]:5432", "10.0.0.1:5432"]),
        ("postgresql://u@?host=,h", &["/var/run/postgresql/.s.PGSQL.5432", "h:5432"]),
    ];
    for (url, expected) in cases {
        let shown: Vec<String> = parse(url).hosts().iter().map(ToString::to_string).collect();
        assert_eq!(shown, expected, "{url}");
    }
    assert_eq!(parse("postgresql://u@%2Frun/x").hosts[0].place, Place::Folder(PathBuf::from("/run")));
}

#[test]
fn parameters_say_the_rest() {
    let address = parse("postgresql://a%20b@h/my%2Fdb");
    assert_eq!((address.user(), address.database.as_str()), ("a b", "my/db"));
    assert_eq!((address.tls.mode, address.tls.roots), (SslMode::Prefer, Roots::Usual));
    assert_eq!((address.channel_binding, address.patience), (ChannelBinding::Prefer, Some(Duration::from_mins(1))));

    let address = parse(
        "postgresql://x@h/d?user=u&dbname=e&sslmode=verify-ca&sslrootcert=/r%20t&sslcert=/c&sslkey=/k&connect_timeout=3\
         &application_name=n%3D1&passfile=/p&target_session_attrs=any&channel_binding=require&sslmode=require",
    );
    assert_eq!((address.user(), address.database.as_str()), ("u", "e"));
    assert_eq!(address.tls.mode, SslMode::Require, "the last one counts");
    assert_eq!(address.tls.roots, Roots::File("/r t".into()));
    assert_eq!((address.tls.cert, address.tls.key), (Some("/c".into()), Some("/k".into())));
    assert_eq!(address.patience, Some(Duration::from_secs(3)));
    assert_eq!(address.application_name.as_deref(), Some("n=1"));
    assert_eq!((address.passfile, address.channel_binding), (Some("/p".into()), ChannelBinding::Require));

    assert_eq!(parse("postgresql://u@h?connect_timeout=0").patience, None);
    assert_eq!(parse("postgresql://u@h").database, "u", "as libpq has it");
    let system = parse("postgresql://u@h?sslrootcert=system").tls;
    assert_eq!((system.mode, system.roots), (SslMode::VerifyFull, Roots::System));
    assert!(!parse("postgresql://h").user().is_empty(), "who runs this");
}

#[test]
fn what_is_not_understood_is_refused_by_name() {
    let cases = [
        ("mysql://u@h", "does not begin"),
        ("host=h user=u", "does not begin"),
        ("postgresql://u@h?sslcrl=/x", "`sslcrl`"),
        ("postgresql://u@h?require_auth=scram-sha-256", "`require_auth`"),
        ("postgresql://u@h?hots=x", "`hots`"),
        ("postgresql://u@h?sslmode", "`sslmode`"),
        ("postgresql://u@h?sslmode=on", "sslmode is none of"),
        ("postgresql://u@h?sslmode=", "sslmode is none of"),
        ("postgresql://u@h?channel_binding=yes", "channel_binding is none of"),
        ("postgresql://u@h?target_session_attrs=read-write", "target_session_attrs can only be any"),
        ("postgresql://u@h?sslrootcert=system&sslmode=require", "must be verify-full"),
        ("postgresql://u@h?connect_timeout=soon", "connect_timeout is no number"),
        ("postgresql://u@h:0", "port is no number"),
        ("postgresql://u@h:70000", "port is no number"),
        ("postgresql://u@h:1:2", "port is no number"),
        ("postgresql://u@a,b?port=1,2,3", "port has not as many"),
        ("postgresql://u@a,b?hostaddr=10.0.0.1", "hostaddr has not as many"),
        ("postgresql://u@h?hostaddr=h", "hostaddr is no IP address"),
        ("postgresql://u@[::1", "bracket"),
        ("postgresql://u@[::1]x", "behind `]`"),
        ("postgresql://u@h/%FF", "database is not UTF-8"),
        ("postgresql://u%00@h", "user has a zero byte"),
        ("postgresql://u@?host=@abstract", "abstract socket"),
    ];
    for (url, expected) in cases {
        let error = Address::parse(url).expect_err(url).to_string();
        assert!(error.contains(expected), "{url}: {error}");
    }
}

#[test]
fn a_password_is_refused_and_no_part_of_it_repeated() {
    let refused = [
        "postgresql://u:s3cret@h/x",
        "postgresql://u:a@s3cret@h",
        "postgres://u@h/x?sslmode=require&password=s3cret",
        "postgresql://u@h?sslpassword=s3cret",
    ];
    for url in refused {
        assert_eq!(Address::parse(url), Err(AddressError::Password), "{url}");
    }
    // Its odd characters make something else of it.
    for url in ["postgresql://u:s3cret/x@h", "postgresql://u:?S3cret@h", "postgresql://u:12?s3cret=x@h", "u:s3cret@h"] {
        let error = Address::parse(url).expect_err(url);
        assert!(!format!("{error} {error:?}").to_lowercase().contains("s3cret"), "{url}: {error:?}");
    }
}
