package main

import (
	"bytes"
	"errors"
	"log"
	"os"
	"path/filepath"
	"time"
)

// freezer is the cgroup all pods of the node are in: freezer of version 1, or version 2.
type freezer string

func (f freezer) freeze() error {
	if err := f.set("FROZEN", "1"); err != nil {
		return err
	}
	for range 1000 {
		state, _ := os.ReadFile(filepath.Join(string(f), "freezer.state"))
		events, _ := os.ReadFile(filepath.Join(string(f), "cgroup.events"))
		if bytes.Equal(bytes.TrimSpace(state), []byte("FROZEN")) || bytes.Contains(events, []byte("frozen 1")) {
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
	f.thaw()
	return errors.New("the pods did not freeze within 5 s")
}

func (f freezer) thaw() {
	if err := f.set("THAWED", "0"); err != nil {
		log.Printf("the pods stay frozen: %v", err)
	}
}

func (f freezer) set(version1, version2 string) error {
	path := filepath.Join(string(f), "freezer.state")
	if _, err := os.Stat(path); err == nil {
		return os.WriteFile(path, []byte(version1), 0)
	}
	return os.WriteFile(filepath.Join(string(f), "cgroup.freeze"), []byte(version2), 0)
}
