// A stand-in for the Kryton server, as far as backups and restores see it: notes that are a row in PostgreSQL and a file
// on disk, migrations at the start, and the probes. README.md beside this file says what it is not.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

const (
	plugins         = "/plugins"
	shortestSecret  = 32
	largestNote     = 1 << 20
	betweenAttempts = time.Second
)

type server struct {
	version string
	notes   *os.Root
	rows    *database
}

func main() {
	log.SetFlags(0)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	if len(os.Getenv("BETTER_AUTH_SECRET")) < shortestSecret {
		log.Fatalf("BETTER_AUTH_SECRET must have at least %d characters", shortestSecret)
	}
	version := from("KRYTON_VERSION", "4.5.0")
	rows, err := open(os.Getenv("POSTGRES_URL"), version)
	if err != nil {
		log.Fatalf("POSTGRES_URL: %v", err)
	}
	folder, err := os.OpenRoot(from("NOTES_DIR", "/data/notes"))
	if err != nil {
		log.Fatalf("the notes directory: %v", err)
	}
	s := server{version: version, notes: folder, rows: rows}
	go s.prepare(ctx)

	listener := &http.Server{Addr: ":" + from("PORT", "3001"), Handler: s.routes(), ReadHeaderTimeout: 10 * time.Second}
	go func() {
		<-ctx.Done()
		closing, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = listener.Shutdown(closing)
	}()
	log.Printf("kryton %s (stand-in) listens on %s", version, listener.Addr)
	if err := listener.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
}

// prepare migrates the database, however long it takes to come up. /readyz refuses until then.
func (s server) prepare(ctx context.Context) {
	for {
		err := s.rows.migrate(ctx)
		if err == nil {
			log.Print("the database is ready")
			return
		}
		log.Printf("the database is not ready: %v", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(betweenAttempts):
		}
	}
}

func (s server) routes() http.Handler {
	routes := http.NewServeMux()
	routes.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	routes.HandleFunc("GET /readyz", s.ready)
	routes.HandleFunc("GET /api/version", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]string{"version": s.version})
	})
	routes.HandleFunc("GET /api/plugins", listPlugins)
	routes.HandleFunc("POST /api/notes", s.write)
	routes.HandleFunc("GET /api/notes", s.list)
	routes.HandleFunc("GET /api/notes/{id}", s.read)
	return routes
}

func (s server) ready(w http.ResponseWriter, r *http.Request) {
	if err := s.rows.isMigrated(r.Context()); err != nil {
		refuse(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	answer(w, http.StatusOK, map[string]string{"status": "ready"})
}

func (s server) write(w http.ResponseWriter, r *http.Request) {
	var asked struct{ Title, Body string }
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, largestNote)).Decode(&asked); err != nil || asked.Title == "" {
		refuse(w, http.StatusBadRequest, "a note is JSON with a title and a body")
		return
	}
	// The file first: a committed row without its file would be a note "not yet synced".
	written, err := s.rows.insert(r.Context(), asked.Title, asked.Body, func(path string) error { return s.store(path, asked.Body) })
	if err != nil {
		fail(w, err)
		return
	}
	answer(w, http.StatusCreated, written)
}

// store replaces the file at once and for good: a backup must never see half of a note.
func (s server) store(path, body string) error {
	unfinished := "." + path + ".part"
	file, err := s.notes.Create(unfinished)
	if err != nil {
		return err
	}
	_, err = file.WriteString(body)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	return s.notes.Rename(unfinished, path)
}

func (s server) list(w http.ResponseWriter, r *http.Request) {
	notes, err := s.rows.list(r.Context())
	if err != nil {
		fail(w, err)
		return
	}
	answer(w, http.StatusOK, notes)
}

func (s server) read(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil {
		refuse(w, http.StatusNotFound, "no such note")
		return
	}
	found, err := s.rows.find(r.Context(), id)
	if errors.Is(err, errNoNote) {
		refuse(w, http.StatusNotFound, "no such note")
		return
	}
	if err != nil {
		fail(w, err)
		return
	}
	body, err := s.notes.ReadFile(found.Path)
	if errors.Is(err, fs.ErrNotExist) {
		refuse(w, http.StatusNotFound, "not yet synced")
		return
	}
	if err != nil {
		fail(w, err)
		return
	}
	answer(w, http.StatusOK, struct {
		note
		Body string `json:"body"`
	}{found, string(body)})
}

func listPlugins(w http.ResponseWriter, _ *http.Request) {
	names := []string{}
	entries, err := os.ReadDir(plugins)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		fail(w, err)
		return
	}
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	answer(w, http.StatusOK, names)
}

func from(variable, otherwise string) string {
	if value := os.Getenv(variable); value != "" {
		return value
	}
	return otherwise
}

func fail(w http.ResponseWriter, err error) {
	log.Print(err)
	refuse(w, http.StatusInternalServerError, err.Error())
}

func refuse(w http.ResponseWriter, status int, reason string) {
	answer(w, status, map[string]string{"error": reason})
}

func answer(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value)
}
