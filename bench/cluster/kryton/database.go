package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	patience      = 5 * time.Second
	migrationLock = 0x6b7279746f6e // any number, the same in every replica
)

var errNoNote = errors.New("no such note")

// migrations bring an older schema, such as a restored dump's, up to this version's. They are never edited, only added to.
var migrations = []struct {
	since string // the first version that has it
	sql   string
}{
	{"4.0.0", `CREATE TABLE notes (
		id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
		title text NOT NULL,
		path text NOT NULL,
		updated_at timestamptz NOT NULL DEFAULT now())`},
	// A plain PostgreSQL has no vectors; the stand-in then goes without embeddings.
	{"4.5.0", `DO $$ BEGIN
		IF EXISTS (SELECT FROM pg_available_extensions WHERE name = 'vector') THEN
			CREATE EXTENSION IF NOT EXISTS vector;
			ALTER TABLE notes ADD COLUMN embedding vector(3);
		END IF;
	END $$`},
	{"4.6.0", `ALTER TABLE notes ADD COLUMN pinned boolean NOT NULL DEFAULT false;
		CREATE INDEX notes_by_change ON notes (updated_at)`},
}

type note struct {
	ID      int64     `json:"id"`
	Title   string    `json:"title"`
	Path    string    `json:"path"`
	Updated time.Time `json:"updated_at"`
}

type database struct {
	pool *pgxpool.Pool
	mine int // how many of the migrations this version has
}

func open(url, version string) (*database, error) {
	if url == "" {
		return nil, errors.New("is not set")
	}
	pool, err := pgxpool.New(context.Background(), url)
	if err != nil {
		return nil, err
	}
	mine := 0
	for mine < len(migrations) && !isOlder(version, migrations[mine].since) {
		mine++
	}
	return &database{pool, mine}, nil
}

func (d *database) migrate(ctx context.Context) error {
	connecting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := d.pool.Ping(connecting); err != nil {
		return err
	}
	return pgx.BeginFunc(ctx, d.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", migrationLock); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "CREATE TABLE IF NOT EXISTS schema_migrations (number integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"); err != nil {
			return err
		}
		applied, err := count(ctx, tx)
		if err != nil {
			return err
		}
		for number := applied + 1; number <= d.mine; number++ {
			if _, err := tx.Exec(ctx, migrations[number-1].sql); err != nil {
				return fmt.Errorf("migration %d: %w", number, err)
			}
			if _, err := tx.Exec(ctx, "INSERT INTO schema_migrations (number) VALUES ($1)", number); err != nil {
				return err
			}
		}
		return nil
	})
}

// isMigrated asks the database each time: it may have been replaced under a running server.
func (d *database) isMigrated(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	applied, err := count(ctx, d.pool)
	if err != nil {
		return err
	}
	if applied < d.mine {
		return fmt.Errorf("%d of %d migrations are done", applied, d.mine)
	}
	return nil
}

// insert adds the row, once `store` has kept the note's content at the row's path.
func (d *database) insert(ctx context.Context, title, body string, store func(path string) error) (note, error) {
	var added note
	err := pgx.BeginFunc(ctx, d.pool, func(tx pgx.Tx) error {
		row, err := tx.Query(ctx, `INSERT INTO notes (title, path) VALUES ($1, '') RETURNING id, title, path, updated_at`, title)
		if err != nil {
			return err
		}
		if added, err = pgx.CollectExactlyOneRow(row, pgx.RowToStructByPos[note]); err != nil {
			return err
		}
		added.Path = fmt.Sprintf("%d.md", added.ID)
		if _, err := tx.Exec(ctx, "UPDATE notes SET path = $2 WHERE id = $1", added.ID, added.Path); err != nil {
			return err
		}
		if err := embed(ctx, tx, added.ID, body); err != nil {
			return err
		}
		return store(added.Path)
	})
	return added, err
}

func (d *database) list(ctx context.Context) ([]note, error) {
	rows, err := d.pool.Query(ctx, "SELECT id, title, path, updated_at FROM notes ORDER BY id")
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[note])
}

func (d *database) find(ctx context.Context, id int64) (note, error) {
	rows, err := d.pool.Query(ctx, "SELECT id, title, path, updated_at FROM notes WHERE id = $1", id)
	if err != nil {
		return note{}, err
	}
	found, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[note])
	if errors.Is(err, pgx.ErrNoRows) {
		return note{}, errNoNote
	}
	return found, err
}

// embed stands in for a language model: three counts are a vector, too.
func embed(ctx context.Context, tx pgx.Tx, id int64, body string) error {
	var there bool
	err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'notes'::regclass AND attname = 'embedding')").Scan(&there)
	if err != nil || !there {
		return err
	}
	vector := fmt.Sprintf("[%d,%d,%d]", len(body), len(strings.Fields(body)), strings.Count(body, "\n"))
	_, err = tx.Exec(ctx, "UPDATE notes SET embedding = $2::text::vector WHERE id = $1", id, vector)
	return err
}

func count(ctx context.Context, from interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}) (applied int, err error) {
	err = from.QueryRow(ctx, "SELECT count(*) FROM schema_migrations").Scan(&applied)
	return applied, err
}

// isOlder compares versions of three numbers. A tag that is none, such as "dev", is older than nothing.
func isOlder(version, than string) bool {
	var a, b [3]int
	if _, err := fmt.Sscanf(version, "%d.%d.%d", &a[0], &a[1], &a[2]); err != nil {
		return false
	}
	_, _ = fmt.Sscanf(than, "%d.%d.%d", &b[0], &b[1], &b[2])
	return slices.Compare(a[:], b[:]) < 0
}
