#!/usr/bin/env python3
"""An independent reader of WAL-G's on-storage layout for PostgreSQL: full base backups and WAL, from a local folder.

It is part of the tests: what the program under test writes has to be readable by somebody who knows only the published
layout. So it was written from the published layout alone, so that it shares no mistake with the writer. It uses the
standard library, libsodium (through ctypes) and the command zstd, which reads .lz4 as well.

Below PREFIX it reads
  basebackups_005/<BACKUP>_backup_stop_sentinel.json      the backup exists; the newest by modification time is LATEST
  basebackups_005/<BACKUP>/metadata.json                  the same facts under other names
  basebackups_005/<BACKUP>/files_metadata.json            every file, and which archive holds it
  basebackups_005/<BACKUP>/tar_partitions/*.tar.<ext>     part_001, part_002, ..., backup_label and pg_control
  wal_005/<NAME>.<ext>                                    segments, timeline history and backup history files
where <ext> is zst, lz4 or nothing. With --key-hex-file the objects (never the documents) are libsodium secretstreams.

It is stricter than WAL-G: documents and archives that disagree in anything are an error, and deltas are refused.
A tablespace goes where --tablespace says, else where the sentinel says, and tablespace_map is made to say the same,
as PostgreSQL makes the links again from it. WALG_PG_WAL_SIZE is the size of a segment in megabytes, 16 if not set.

Exit code: 0 done; 1 an error, or (wal) no such object; 2 wrong usage, or a delta; 126 an error in `wal`, to stop
PostgreSQL, whose restore_command it is: any code up to 125 is the end of the archive to it, and it would start there.
"""
import argparse
import ctypes
import datetime
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile

BACKUP_NAME = re.compile(r"base_([0-9A-F]{24})(_D_[0-9A-F]{24})?(?:_[0-9A-F]{8})?")
WAL_NAME = re.compile(r"[0-9A-F]{8}\.history|[0-9A-F]{24}(\.partial|\.[0-9A-F]{8}\.backup)?")
SENTINEL_SUFFIX = "_backup_stop_sentinel.json"
EXTENSIONS = ("lz4", "lzma", "gz", "", "br", "zst")  # in the order in which WAL is looked for
MAGIC = {"zst": b"\x28\xb5\x2f\xfd", "lz4": b"\x04\x22\x4d\x18"}
UTILITY_FILES = {"/global/pg_control", "global/pg_control", "backup_label", "tablespace_map"}  # not in Files
DELTA_FIELDS = ("DeltaLSN", "DeltaFrom", "DeltaFullName", "DeltaCount")
SAME_FACTS = {  # in metadata.json: in the sentinel
    "start_time": "StartTime", "finish_time": "FinishTime", "date_fmt": "DateFmt", "hostname": "Hostname",
    "data_dir": "DataDir", "pg_version": "PgVersion", "start_lsn": "LSN", "finish_lsn": "FinishLSN",
    "is_permanent": "IsPermanent", "system_identifier": "SystemIdentifier",
    "uncompressed_size": "UncompressedSize", "compressed_size": "CompressedSize"}
SEALED_CHUNK, SEAL_OVERHEAD, FINAL_TAG = 8192 + 17, 17, 3


class Wrong(Exception):
    """What is read is not what the layout says. Its text is a sentence for people."""

    def __init__(self, sentence, exit_code=1):
        super().__init__(sentence)
        self.exit_code = exit_code


def require(condition, sentence):
    if not condition:
        raise Wrong(sentence)


# ---- Objects: Encrypt(Compress(bytes)) -------------------------------------------------------------------------------

def unseal(path, key, plain):
    """A libsodium secretstream: a header, chunks of 8192 bytes, and a shorter last one that is tagged as final."""
    stream = lambda name: getattr(ctypes.CDLL("libsodium.so.23"), "crypto_secretstream_xchacha20poly1305_" + name)
    state, pull = ctypes.create_string_buffer(stream("statebytes")()), stream("pull")
    opened, length, tag = ctypes.create_string_buffer(SEALED_CHUNK), ctypes.c_ulonglong(), ctypes.c_ubyte()
    with open(path, "rb") as file:
        header = file.read(24)
        require(len(header) == 24 and stream("init_pull")(state, header, key) == 0, f"{path} has no header of a seal")
        chunk = bytes(SEALED_CHUNK)
        while len(chunk) == SEALED_CHUNK:
            chunk = file.read(SEALED_CHUNK)
            require(len(chunk) >= SEAL_OVERHEAD, f"{path} ends before its final chunk")
            result = pull(state, opened, ctypes.byref(length), ctypes.byref(tag), chunk, ctypes.c_ulonglong(len(chunk)),
                          None, ctypes.c_ulonglong(0))
            require(result == 0, f"{path} cannot be unsealed: it is damaged, or the key is another")
            plain.write(opened.raw[:length.value])
            require(tag.value == (FINAL_TAG if len(chunk) < SEALED_CHUNK else 0),
                    f"{path} has a chunk of {len(chunk)} bytes tagged {tag.value}")


def open_object(path, key):
    """The file that it was made of, unsealed and decompressed."""
    extension = os.path.basename(path).rpartition(".")[2]
    require(extension in MAGIC or extension not in EXTENSIONS, f"{path}: this reader does not decompress {extension}")
    if key:
        source = tempfile.TemporaryFile()
        unseal(path, key, source)
        source.seek(0)
    else:
        source = open(path, "rb")
    if extension not in MAGIC:
        return source
    start = source.read(4)  # of a frame, or of one to be skipped; the zstd command would read anything that it knows
    require(start == MAGIC[extension] or (start[:1].hex()[:1] == "5" and start[1:] == b"\x2a\x4d\x18"),
            f"{path} does not begin as {extension} does: it is damaged, or sealed")
    os.lseek(source.fileno(), 0, os.SEEK_SET)
    plain = tempfile.TemporaryFile()
    with source:
        done = subprocess.run(["zstd", "-dcq"], stdin=source, stdout=plain, stderr=subprocess.PIPE)
    require(done.returncode == 0, f"{path} cannot be decompressed: {done.stderr.decode(errors='replace').strip()}")
    plain.seek(0)
    return plain


def tar_members(path, key):
    """(name, is it a folder, mode, modification time in whole seconds, body), in order."""
    def read(size):
        data = file.read(size)
        require(len(data) == size, f"{path} ends in the middle of its archive")
        return data

    def number(start, end):
        digits = header[start:end].strip(b"\0 ")
        require(re.fullmatch(rb"[0-7]+", digits), f"{path} has a header with a number that is not octal")
        return int(digits, 8)

    extended = {}
    with open_object(path, key) as file:
        while (header := read(512)).strip(b"\0"):
            require(sum(header[:148] + b" " * 8 + header[156:]) == number(148, 156) and header[257:263] == b"ustar\0",
                    f"{path} has a header that is not USTAR's, or with a wrong checksum")
            kind, size, prefix = header[156:157], number(124, 136), header[345:500].split(b"\0")[0]
            size = int(extended.get(b"size", size))
            body = read(size)
            require(not read(-size % 512).strip(b"\0"), f"{path} has a body that is not padded with zeros")
            if kind == b"x":  # "<length> <key>=<value>\n" ..., for the next header
                while body:
                    record = re.match(rb"(\d+) ([^=]+)=", body)
                    require(record and int(record[1]) > record.end(), f"{path} has a broken extended header")
                    extended[record[2]] = body[record.end():int(record[1]) - 1]
                    body = body[int(record[1]):]
                require(extended.get(b"size", b"0").isdigit(), f"{path} has a broken extended header")
                continue
            require(kind in (b"0", b"\0", b"5"), f"{path} has an entry of the kind {kind}: no file and no folder")
            name = extended.get(b"path", (prefix + b"/" if prefix else b"") + header[:100].split(b"\0")[0])
            yield os.fsdecode(name), kind == b"5", number(100, 108) & 0o7777, number(136, 148), body
            extended = {}
        end = read(512) + file.read()  # the second of two zero blocks, and what follows
        require(not end.strip(b"\0"), f"{path} has more than zeros after the end of its archive")


# ---- Documents -------------------------------------------------------------------------------------------------------

def read_document(path):
    def no_key_twice(pairs):
        require(len(dict(pairs)) == len(pairs), f"{path} has a key twice")
        return dict(pairs)
    try:
        with open(path, encoding="utf-8") as file:
            document = json.load(file, object_pairs_hook=no_key_twice)
    except ValueError as error:
        raise Wrong(f"{path} is not JSON: {error}") from None
    require(type(document) is dict, f"{path} is not an object")
    return document


def sentinels(prefix):
    """[(backup, sentinel)], oldest first."""
    folder, found = os.path.join(prefix, "basebackups_005"), []
    paths = [os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(SENTINEL_SUFFIX)]
    for path in sorted(paths, key=lambda path: (os.stat(path).st_mtime_ns, path)):
        backup, sentinel = os.path.basename(path)[:-len(SENTINEL_SUFFIX)], read_document(path)
        require(BACKUP_NAME.fullmatch(backup), f"{path} is not named as a backup is")
        for field in ("LSN", "FinishLSN", "PgVersion", "SystemIdentifier"):
            require(type(sentinel.get(field)) is int and sentinel[field] > 0, f"{path}: {field} is no positive number")
        require(sentinel["LSN"] <= sentinel["FinishLSN"] < 1 << 64, f"{path}: the backup ends before it starts")
        require(sentinel.get("Version") == 2, f"{path}: the version is not 2")
        found.append((backup, sentinel))
    return found


def segment_size():
    megabytes = os.environ.get("WALG_PG_WAL_SIZE", "16")
    require(re.fullmatch("[1-9][0-9]{0,3}", megabytes), f"WALG_PG_WAL_SIZE is {megabytes!r}, no number of megabytes")
    return int(megabytes) << 20


def lsn_text(lsn):
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def segment_start(name):
    """Of the 24 hexadecimal digits of a segment's name."""
    return (int(name[8:16], 16) << 32) + int(name[16:24], 16) * segment_size()


def full_backup(prefix, wanted):
    """(backup, its folder, sentinel); the name, the sentinel and metadata.json agree."""
    known = sentinels(prefix)
    chosen = known[-1:] if wanted == "LATEST" else [item for item in known if item[0] == wanted]
    require(chosen, f"there is no backup {wanted} in {prefix}")
    backup, sentinel = chosen[0]
    folder = os.path.join(prefix, "basebackups_005", backup)
    segment, delta = BACKUP_NAME.fullmatch(backup).groups()
    has = [sentinel.get(field) is not None for field in DELTA_FIELDS]
    require(all(has) == any(has) == bool(delta), f"{backup}: the name or the sentinel is a delta's, not both")
    if delta:
        raise Wrong(f"{backup} is a delta of {sentinel['DeltaFrom']}: this reader restores full backups only", 2)
    lsn = sentinel["LSN"]  # of a primary; a standby names the segment of the byte before
    require(segment_start(segment) in {at - at % segment_size() for at in (lsn, lsn - 1)},
            f"{backup} is not named after the segment of {lsn_text(lsn)}")
    metadata = read_document(os.path.join(folder, "metadata.json"))
    for there, here in {**SAME_FACTS, "user_data": "UserData"}.items():
        needed = there in SAME_FACTS
        require(not needed or (there in metadata and here in sentinel), f"{backup}: there is no {there}, or no {here}")
        one, other = repr(metadata.get(there)), repr(sentinel.get(here))  # a number and its text are not the same
        require(one == other, f"{backup}: {there} is {one}, but {here} is {other}")
    return backup, folder, sentinel


def files_metadata(folder, sentinel):
    """(Files, TarFileSets), empty where they say nothing."""
    if sentinel.get("FilesMetadataDisabled", False):
        return {}, {}
    path = os.path.join(folder, "files_metadata.json")
    document = read_document(path)
    files, sets = document.get("Files"), document.get("TarFileSets")
    require(type(files) is dict and type(sets) is dict, f"{path} has no Files, or no TarFileSets")
    for name, facts in files.items():
        require(type(facts) is dict and facts.get("IsIncremented") is facts.get("IsSkipped") is False
                and type(facts.get("MTime")) is str, f"{path}: {name} is not described as a whole file")
    lists = all(type(names) is list and all(type(name) is str for name in names) for names in sets.values())
    require(lists, f"{path}: TarFileSets does not hold lists of names")
    return files, sets


def find_archives(folder, sets):
    """[part_001, part_002, ..., backup_label if there, pg_control], as paths."""
    where, found = os.path.join(folder, "tar_partitions"), {}
    for name in sorted(os.listdir(where)):
        known = re.fullmatch(r"(part_\d{3,}|backup_label|pg_control)\.tar(?:\.(.+))?", name)
        require(known and (known[2] or "") in EXTENSIONS, f"{where} holds {name}, which is not one of its archives")
        require(known[1] not in found, f"{where} holds {known[1]} twice")
        found[known[1]] = os.path.join(where, name)
    parts = [f"part_{number:03}" for number in range(1, sum(name.startswith("part_") for name in found) + 1)]
    order = parts + ["backup_label"] * ("backup_label" in found) + ["pg_control"]
    require(sorted(order) == sorted(found), f"{where} has no pg_control, or not every part from 001 on")
    differ = sets and {os.path.basename(path) for path in found.values() if path != found["pg_control"]} ^ set(sets)
    require(not differ, f"TarFileSets and {where} disagree on {', '.join(sorted(differ))}")
    return [found[name] for name in order]


# ---- The commands ----------------------------------------------------------------------------------------------------

def make_empty_folder(path):
    os.makedirs(path, mode=0o700, exist_ok=True)
    require(not os.listdir(path), f"{path} is not empty")


def make_tablespaces(spec, data_folder, folders):
    """Makes the folders and the links; returns {OID: folder}."""
    oids = spec.get("tablespaces") if type(spec) is dict else None
    require(type(oids) is list and all(type(oid) is str for oid in oids)
            and set(spec) == {"base_prefix", "tablespaces", *oids}, "Spec lists other tablespaces than it has")
    require(set(folders) <= set(oids), f"the backup has no tablespace {', '.join(set(folders) - set(oids))}")
    for oid in oids:
        fits = oid.isdigit() and type(spec[oid]) is dict and spec[oid].get("link") == "pg_tblspc/" + oid
        require(fits and type(spec[oid].get("loc")) is str, f"Spec does not say where the tablespace {oid} is")
        folders[oid] = os.path.abspath(folders.get(oid, spec[oid]["loc"]))
        make_empty_folder(folders[oid])
        os.makedirs(os.path.join(data_folder, "pg_tblspc"), mode=0o700, exist_ok=True)
        os.symlink(folders[oid], os.path.join(data_folder, "pg_tblspc", oid))
    return folders


def check_time(name, said, seconds):
    """A header has whole seconds, cut or rounded."""
    time = re.fullmatch(r"(....-..-..T..:..:..)(\.\d{1,9})?Z", said)
    try:
        expected = time and datetime.datetime.fromisoformat(time[1] + "+00:00").timestamp()
    except ValueError:
        time = None
    require(time and seconds - expected in (0, 1), f"{name} is of another time than the {said} of files_metadata.json")


def write_member(data_folder, name, is_folder, mode, body):
    relative = name.removeprefix("/")
    usable = "\0" not in name and (relative == "" or not {"", ".", ".."} & set(relative.split("/")))
    require(usable, f"{name!r} is no name in a data folder")
    path = os.path.join(data_folder, relative)
    os.makedirs(path if is_folder else os.path.dirname(path), mode=0o700, exist_ok=True)
    if not is_folder:
        with open(path, "xb") as file:
            file.write(body)
    os.chmod(path, mode)


def check_small_files(backup, sentinel, data_folder, places):
    """PG_VERSION and backup_label against the sentinel, and tablespace_map against its Spec; the map is rewritten."""
    def read(name):
        path = os.path.join(data_folder, name)
        require(os.path.isfile(path) or name == "tablespace_map", f"{backup} has no {name}")
        with open(path if os.path.exists(path) else os.devnull, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    version = read("PG_VERSION").strip()
    require(version == str(sentinel["PgVersion"] // 10000), f"{backup}: PgVersion is not of PostgreSQL {version}")
    start = f"START WAL LOCATION: {lsn_text(sentinel['LSN'])} (file {backup[5:13]}"
    require(read("backup_label").startswith(start), f"{backup}: backup_label does not begin with {start}")
    oids = [line.split(" ")[0] for line in read("tablespace_map").splitlines()]
    require(sorted(oids) in ([], sorted(places)), f"{backup}: tablespace_map and Spec have different tablespaces")
    if oids:
        with open(os.path.join(data_folder, "tablespace_map"), "w", encoding="utf-8", errors="surrogateescape") as file:
            file.writelines(f"{oid} {places[oid]}\n" for oid in oids)


def restore(prefix, wanted, data_folder, folders, key):
    backup, folder, sentinel = full_backup(prefix, wanted)
    files, sets = files_metadata(folder, sentinel)
    *archives, control_archive = find_archives(folder, sets)
    make_empty_folder(data_folder)
    places = make_tablespaces(sentinel.get("Spec", {"base_prefix": "", "tablespaces": []}), data_folder, folders)
    seen = set()
    for archive in archives:
        names = []
        for name, is_folder, mode, seconds, body in tar_members(archive, key):
            names.append(name)
            require(name not in seen, f"{name} is in the archives twice")
            seen.add(name)
            if name == "global/pg_control":  # a streamed backup has it in a part, too
                continue
            require(not files or name in files or name in UTILITY_FILES, f"{archive} holds {name}, but Files does not")
            require(name != "/global/pg_control", f"{archive} holds pg_control, which has an archive of its own")
            if name in files:
                check_time(name, files[name]["MTime"], seconds)
            write_member(data_folder, name, is_folder, mode, body)
        listed = sets.get(os.path.basename(archive), names)
        differ = sorted(map(str, set(names) ^ set(listed))) or ["how often"] * (len(names) != len(listed))
        require(not differ, f"{archive} and TarFileSets disagree on {', '.join(differ[:5])}")
    missing = sorted(set(files) - seen)
    require(not missing, f"Files lists what no archive holds: {', '.join(missing[:5])}")
    check_small_files(backup, sentinel, data_folder, places)
    control = list(tar_members(control_archive, key))
    require(len(control) == 1 and control[0][0].removeprefix("/") == "global/pg_control" and len(control[0][4]) == 8192,
            f"{control_archive} does not hold pg_control and nothing else")
    name, is_folder, mode, _, body = control[0]
    identifier = struct.unpack_from("<Q", body)[0]
    require(identifier == sentinel["SystemIdentifier"], f"{backup}: pg_control is of the system {identifier}")
    write_member(data_folder, name, is_folder, mode, body)
    print(f"{backup}: {len(seen) + 1} files and folders, {len(archives) + 1} archives")


def check_segment(path, name, first_page, length, identifiers):
    """The long header of the first page: flags, timeline, address, the system's identifier, the size of a segment."""
    size, expected = segment_size(), segment_start(name)
    require(length == size, f"{path} holds {length} bytes, not a segment of {size}")
    _, flags, timeline, address, _, _, identifier, said = struct.unpack_from("<HHIQIIQI", first_page)
    require(flags & 2 and said == size, f"{path} does not begin as a segment of {size} bytes does")
    require(address == expected, f"{path} begins at {lsn_text(address)}, not at {lsn_text(expected)} as its name says")
    require(timeline <= int(name[:8], 16), f"{path} is of the timeline {timeline}, after the one of its name")
    require(identifier in identifiers, f"{path} is of the system {identifier}, but the backups are of {identifiers}")


def wal(prefix, name, target, key):
    require(WAL_NAME.fullmatch(name), f"{name!r} is no name of a WAL object")
    require(os.path.isdir(prefix), f"there is no folder {prefix}")
    paths = [os.path.join(prefix, "wal_005", f"{name}.{extension}".rstrip(".")) for extension in EXTENSIONS]
    path = next(filter(os.path.isfile, paths), None)
    if path is None:
        print(f"walg_reader: {name} is not in {prefix}", file=sys.stderr)
        sys.exit(1)
    with open_object(path, key) as file:
        if re.fullmatch(r"[0-9A-F]{24}(\.partial)?", name):
            first_page, length = file.read(8192).ljust(64, b"\0"), file.seek(0, os.SEEK_END)
            check_segment(path, name, first_page, length, {found["SystemIdentifier"] for _, found in sentinels(prefix)})
        file.seek(0)
        with open(target, "wb") as written:
            shutil.copyfileobj(file, written)


def main():
    parser = argparse.ArgumentParser(description="Reads WAL-G's layout for PostgreSQL.")
    parser.add_argument("--key-hex-file", metavar="FILE")
    commands = parser.add_subparsers(dest="command", required=True)
    for command, arguments in {"restore": ("prefix", "backup", "data_folder"), "wal": ("prefix", "name", "target"),
                               "list": ("prefix",)}.items():
        subparser = commands.add_parser(command)
        for argument in arguments:
            subparser.add_argument(argument)
        if command == "restore":
            subparser.add_argument("--tablespace", action="append", default=[], metavar="OID=FOLDER")
    options = parser.parse_args()
    try:
        key = None
        if options.key_hex_file:
            with open(options.key_hex_file, "rb") as file:
                text = file.read().strip().decode(errors="replace")
            require(re.fullmatch(r"[0-9A-Fa-f]{64}", text), f"{options.key_hex_file} holds no 32 bytes in hexadecimal")
            key = bytes.fromhex(text)
        if options.command == "restore":
            folders = dict(item.partition("=")[::2] for item in options.tablespace)
            require(all(folders.values()), "--tablespace takes OID=FOLDER")
            restore(options.prefix, options.backup, options.data_folder, folders, key)
        elif options.command == "wal":
            wal(options.prefix, options.name, options.target, key)
        else:
            for backup, sentinel in sentinels(options.prefix):
                print(backup, lsn_text(sentinel["LSN"]), lsn_text(sentinel["FinishLSN"]), sentinel["PgVersion"],
                      sentinel["SystemIdentifier"])
    except (Wrong, OSError) as error:
        print(f"walg_reader: {error}", file=sys.stderr)
        sys.exit(126 if options.command == "wal" else getattr(error, "exit_code", 1))


if __name__ == "__main__":
    main()
