package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

type kind string

const (
	volumes   kind = "volumes"
	snapshots kind = "snapshots"
)

// tree is the directory that holds all volumes and snapshots. An entry exists once its info.json does.
type tree string

type entry struct {
	ID     string
	Bytes  int64
	Source string // the volume a snapshot is of
	Made   time.Time
}

func (t tree) path(of kind, id string) string { return filepath.Join(string(t), string(of), id) }
func (t tree) data(of kind, id string) string { return filepath.Join(t.path(of, id), "data") }

func (t tree) read(of kind, id string) (found entry, err error) {
	if id == "" || strings.ContainsAny(id, "/.") {
		return found, status.Errorf(codes.InvalidArgument, "%q is no name for one of the %s", id, of)
	}
	info, err := os.ReadFile(filepath.Join(t.path(of, id), "info.json"))
	if os.IsNotExist(err) {
		return found, status.Errorf(codes.NotFound, "%s/%s does not exist", of, id)
	}
	if err == nil {
		err = json.Unmarshal(info, &found)
	}
	return found, err
}

// create makes an empty one; asked again, it returns the one that is there.
func (t tree) create(of kind, wanted entry) (entry, error) {
	return t.make(of, wanted, func(data string) error { return os.MkdirAll(data, 0o755) })
}

func (t tree) copy(from kind, id string, to kind, wanted entry) (entry, error) {
	source, err := t.read(from, id)
	if err != nil {
		return source, err
	}
	wanted.Bytes = max(wanted.Bytes, source.Bytes)
	return t.make(to, wanted, func(data string) error {
		output, err := exec.Command("cp", "--archive", "--reflink=auto", t.data(from, id), data).CombinedOutput()
		if err != nil {
			return status.Errorf(codes.Internal, "copy %s: %v: %s", t.data(from, id), err, output)
		}
		return nil
	})
}

func (t tree) make(of kind, wanted entry, fill func(data string) error) (entry, error) {
	made, err := t.read(of, wanted.ID)
	if status.Code(err) != codes.NotFound {
		return made, err
	}
	path := t.path(of, wanted.ID)
	if err := os.RemoveAll(path); err != nil { // what an earlier attempt left
		return entry{}, err
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return entry{}, err
	}
	if err := fill(filepath.Join(path, "data")); err != nil {
		return entry{}, err
	}
	wanted.Made = time.Now()
	info, err := json.Marshal(wanted)
	if err != nil {
		return entry{}, err
	}
	return wanted, os.WriteFile(filepath.Join(path, "info.json"), info, 0o644)
}

func (t tree) remove(of kind, id string) error {
	if _, err := t.read(of, id); status.Code(err) == codes.InvalidArgument {
		return err
	}
	return os.RemoveAll(t.path(of, id))
}
