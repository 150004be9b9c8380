package file

import (
	"bytes"
	"context"
	"net/url"
	"testing"
	"time"

	"plinth/internal/pg/pgtest"
)

// However many files there are, what calls and the background do reads few rows. What a list is filtered by and no index has, such as
// the size, is not among it.
func TestNothingReadsWholeTables(t *testing.T) {
	t.Parallel()
	rows := 20_000
	if ci() {
		rows = 1_000_000
	}
	f := newFixture(t, Limits{})
	if _, err := pgtest.Owner(t, f.url).Exec(t.Context(), `
		INSERT INTO files (tenant, id, filename, folder, state, size, reserved, created_at)
		SELECT 'acme', lpad(to_hex(i), 32, '0')::uuid, 'file' || i || '.txt', 'folder' || i % 100, 'ready', 1, 1, now()
		FROM generate_series(1, $1::int) AS i`, rows); err != nil {
		t.Fatal(err)
	}
	f.exec(t, `INSERT INTO file_previews (tenant, id, width, due_at) SELECT tenant, id, 100, 'infinity' FROM files`)
	f.exec(t, `INSERT INTO files (tenant, id, filename, state, size, verify_at) VALUES ('acme', gen_random_uuid(), 'to be read', 'verifying', 1, now())`)
	f.exec(t, `ANALYZE files, file_previews`)
	eventually(t, "what was read to make the previews is counted", func() (counted bool) {
		err := pgtest.Owner(t, f.url).QueryRow(t.Context(), `SELECT n_tup_ins >= $1 FROM pg_stat_user_tables WHERE relname = 'file_previews'`, rows).Scan(&counted)
		return err == nil && counted
	})
	list := func(filter Filter, want int) func(context.Context, *Service) error {
		return func(ctx context.Context, s *Service) error {
			for range 8 { // The server plans anew for the first five.
				files, _, err := s.ListFiles(ctx, filter, 10, "")
				if err != nil || len(files) != want {
					t.Errorf("%d files, %v; want %d", len(files), err, want)
				}
			}
			return nil
		}
	}
	for name, what := range map[string]func(context.Context, *Service) error{
		"all":              list(Filter{}, 10),
		"a folder":         list(Filter{Folder: "folder7"}, 10),
		"no such folder":   list(Filter{Folder: "none"}, 0),
		"a name":           list(Filter{NamePrefix: "file19999."}, 1),
		"no such name":     list(Filter{NamePrefix: "none"}, 0),
		"a name in folder": list(Filter{Folder: "folder7", NamePrefix: "file1007."}, 1),
		"pending":          list(Filter{State: Pending}, 0),
		"folders": func(ctx context.Context, s *Service) error {
			folders, more, err := s.ListFolders(ctx, "", 50, "")
			if len(folders) != 50 || more == "" {
				t.Errorf("%v, %q", folders, more)
			}
			return err
		},
		"a file": func(ctx context.Context, s *Service) error {
			file, err := s.UploadFile(ctx, Upload{Filename: "a", Size: 1, IdempotencyKey: "k"}, bytes.NewReader([]byte("a")))
			if err != nil {
				return err
			}
			if _, err := s.UpdateFile(ctx, file.ID, func(f *File) { f.Folder = "other" }); err != nil {
				return err
			}
			if _, err := s.GetFile(ctx, file.ID); err != nil {
				return err
			}
			return s.DeleteFile(ctx, file.ID)
		},
		"the background": func(ctx context.Context, s *Service) error {
			working, stop := context.WithTimeout(ctx, time.Second)
			defer stop()
			if err := s.Work(working); err != nil {
				return err
			}
			for _, job := range s.Jobs() {
				if err := job.Run(ctx); err != nil {
					return err
				}
			}
			return nil
		},
	} {
		before := f.rowsRead(t)
		t.Run(name, func(t *testing.T) {
			if err := what(as(t, "acme"), on(t, f.server, f.named(t, name), Limits{}).Service); err != nil {
				t.Error(err)
			}
		})
		eventually(t, "what the connections have counted is known, since they have ended", func() (ended bool) {
			err := pgtest.Owner(t, f.url).QueryRow(t.Context(), `SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = $1)`, name).Scan(&ended)
			return err == nil && ended
		})
		if read := f.rowsRead(t) - before; read >= int64(rows)/2 {
			t.Errorf("%s: %d rows were read", name, read)
		}
	}
}

// rowsRead returns how many rows of files and previews were read, from tables and indexes, by all connections that are closed.
func (f fixture) rowsRead(t *testing.T) (n int64) {
	t.Helper()
	if err := pgtest.Owner(t, f.url).QueryRow(t.Context(), `SELECT coalesce(sum(seq_tup_read), 0)::bigint + (
			SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname IN ('files', 'file_previews')
		)::bigint FROM pg_stat_user_tables WHERE relname IN ('files', 'file_previews')`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// named returns the URL of the database whose connections have a name.
func (f fixture) named(t *testing.T, name string) string {
	t.Helper()
	u, err := url.Parse(f.url)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("application_name", name)
	u.RawQuery = q.Encode()
	return u.String()
}
