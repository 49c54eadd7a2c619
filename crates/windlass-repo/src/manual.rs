//! The manual way: how everything is brought back without Windlass. Followed word for word by a test.

use crate::repository::Identity;

/// `README.txt` of a repository.
pub fn readme(identity: &Identity) -> String {
    format!(
        "This is a Windlass repository, {made}.

Everything in it can be brought back without Windlass, with stock tools: age, pg_restore, psql, restic, jq.
<APPLICATION> and <COMPONENT> are names of your own; <POINT> is the newest (greatest) name in points/<APPLICATION>/ that
does not end in .partial.json: those lack what could not be captured. Step 2 says what a point holds.

1. THE KEYRING opens everything. In keys/<APPLICATION>/ take the newest (greatest) file.
   It ends in .age:  age --decrypt --output keyring.txt keys/<APPLICATION>/<FILE>.age
                     (asks for the passphrase; or --identity <FILE> where it was sealed to recipients)
   It ends in .txt:  cp keys/<APPLICATION>/<FILE>.txt keyring.txt
   The recovery kit holds the same file.

2. WHAT A POINT HOLDS:  head -n 1 points/<APPLICATION>/<POINT>.json | jq
   Each component:      head -n 1 runs/<APPLICATION>/<POINT>/component.<COMPONENT>.json | jq

3. A DATABASE is one file in dumps/<APPLICATION>/<COMPONENT>/<POINT>/, a dump of pg_dump in custom format.
   Sealed (.dump.age):  age --decrypt --identity keyring.txt --output database.dump <FILE>.dump.age
   Roles and settings:  globals-*.sql, likewise; then  psql --dbname=postgres --file=globals.sql
   The database:        createdb --template=template0 <DATABASE>
                        pg_restore --dbname=<DATABASE> database.dump

4. FOLDERS AND FILES are a restic repository, files/<APPLICATION>.
   Its password:        sed -n 's/^# restic-password: //p' keyring.txt > restic-password
   The snapshot:        jq .snapshot in the component's manifest (2.), or  restic snapshots --tag <POINT>
   Everything in it:    restic --no-lock --repo files/<APPLICATION> --password-file restic-password restore <SNAPSHOT> --target <FOLDER>
   In a bucket, restic reads it in place:  --repo s3:https://<SERVER>/<BUCKET>/<PREFIX>/files/<APPLICATION>

5. THE OUTPUT OF A COMMAND (an action) is one file in dumps/<APPLICATION>/<COMPONENT>/<POINT>/, *.out or *.out.age.
   Unseal it as in 3. and give it to the command that imports it.

6. A POSTGRESQL SERVER AS A WHOLE is a base backup in postgres/<APPLICATION>.<COMPONENT>/<NUMBER>/, laid out as by wal-g 3.
   Which one:           jq .backup in the component's manifest (2.)
   Its key, if sealed:  sed -n 's/^# walg-libsodium-key: //p' keyring.txt > libsodium-key
                        export WALG_LIBSODIUM_KEY_PATH=libsodium-key WALG_LIBSODIUM_KEY_TRANSFORM=hex
   The data folder:     WALG_FILE_PREFIX=postgres/<APPLICATION>.<COMPONENT>/<NUMBER> wal-g backup-fetch <FOLDER> <BACKUP>
   Not sealed, by hand: zstd -dc <PART>.tar.zst | tar --extract --absolute-names --transform 's,^/,,' --directory <FOLDER>
                        for every part, pg_control last; the WAL:  zstd -d wal_005/<SEGMENT>.zst -o <FOLDER>/pg_wal/<SEGMENT>
   Tablespaces:         jq .Spec basebackups_005/<BACKUP>_backup_stop_sentinel.json; before unpacking, for each of them
                        mkdir -p <PLACE> <FOLDER>/pg_tblspc; ln -s <PLACE> <FOLDER>/pg_tblspc/<OID>
                        after it, name the same places in <FOLDER>/tablespace_map: a line `<OID> <PLACE>` for each
   Everything has to belong to the server's user: chown -R postgres: <FOLDER> <PLACE>

Nothing here is ever overwritten. Do not run `restic forget` or `restic prune` in files/: Windlass does that,
without locks, and two that prune at once can lose data.
",
        made = made(identity),
    )
}

/// What the manual of every version says of the repository itself.
pub fn made(identity: &Identity) -> String {
    format!("{}, made on {} at {}", identity.id, identity.owner, identity.created)
}
