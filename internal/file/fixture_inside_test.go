package file

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"io"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"go.uber.org/zap"

	"plinth/internal/auth"
	"plinth/internal/blob"
	"plinth/internal/blob/blobtest"
	"plinth/internal/broker/postgres"
	"plinth/internal/message"
	"plinth/internal/pg"
	"plinth/internal/pg/pgtest"
)

const patience = 30 * time.Second

// ci reports whether tests run at their full length.
func ci() bool { return os.Getenv("CI") == "true" }

// fixture is a service of one process, with a bucket of its own behind a proxy. Its worker does not run unless the test wants it.
type fixture struct {
	*Service
	db     *pg.DB
	server *blobtest.Server
	proxy  *blobtest.Proxy
	url    string // of the database
}

func newFixture(t *testing.T, limits Limits) fixture {
	t.Helper()
	return onServer(t, blobtest.Share(t), limits)
}

func onServer(t *testing.T, server *blobtest.Server, limits Limits) fixture {
	t.Helper()
	return on(t, server, pgtest.New(t), limits)
}

// on is a process on a database.
func on(t *testing.T, server *blobtest.Server, url string, limits Limits) fixture {
	t.Helper()
	f := fixture{server: server, url: url}
	f.proxy = f.server.Proxy(t)
	db, err := pg.Open(t.Context(), pg.Config{URL: f.url, MaxConns: 8})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	notifier, err := pg.NewNotifier(pg.NotifierConfig{System: db.System(), URL: f.url, Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	messages := message.New(message.Config{
		DB: db, Handlers: db, System: db.System(), Notifier: notifier, Broker: postgres.New(db.System(), notifier, zap.NewNop()), Log: zap.NewNop(),
	})
	f.db = db
	f.Service = New(Config{
		DB: db, System: db.System(), Notifier: notifier, Bucket: server.Open(t, f.proxy.Endpoint), Messages: messages, Limits: limits, Log: zap.NewNop(),
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); notifier.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	return f
}

// work runs the worker until the test ends, or stop is called.
func (f fixture) work(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = f.Work(ctx) }()
	stop = func() { cancel(); <-ended }
	t.Cleanup(stop)
	return stop
}

func as(t *testing.T, tenant string) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return auth.AsService(ctx, tenant)
}

// listen makes messages of events wait, which nobody relays.
func (f fixture) listen(t *testing.T, tenant string) {
	t.Helper()
	queue, err := message.ParseQueueName("heard")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.messages.CreateQueue(as(t, tenant), queue, message.Policy{Bindings: []message.Binding{{Topic: topic, Pattern: "#"}}}); err != nil {
		t.Fatal(err)
	}
}

// heard counts the events of a kind.
func (f fixture) heard(t *testing.T, what string) (n int) {
	t.Helper()
	if err := pgtest.Owner(t, f.url).QueryRow(t.Context(), `SELECT count(*) FROM message_waiting WHERE routing_key = $1`, what).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// usage is what the quotas count of a tenant.
func (f fixture) usage(t *testing.T, tenant string) (count, size int64) {
	t.Helper()
	row := pgtest.Owner(t, f.url).QueryRow(t.Context(), `
		SELECT coalesce(sum(n) FILTER (WHERE resource = 'file_count'), 0)::bigint, coalesce(sum(n) FILTER (WHERE resource = 'file_bytes'), 0)::bigint
		FROM (SELECT tenant, resource, n FROM tenant_usage UNION ALL SELECT tenant, resource, n FROM tenant_usage_deltas) AS u WHERE tenant = $1`, tenant)
	if err := row.Scan(&count, &size); err != nil {
		t.Fatal(err)
	}
	return count, size
}

// objects are the keys in the bucket, and begun those of uploads in parts.
func (f fixture) objects(t *testing.T) (keys, begun []string) {
	t.Helper()
	bucket := f.server.Open(t, f.server.Endpoint)
	objects, _, err := bucket.List(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range objects {
		keys = append(keys, o.Key)
	}
	uploads, _, err := bucket.Uploads(t.Context(), "", blob.Begun{})
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range uploads {
		begun = append(begun, u.Key)
	}
	return keys, begun
}

// noTrace wants nothing left but rows of failed uploads.
func (f fixture) noTrace(t *testing.T, tenant string) {
	t.Helper()
	eventually(t, "no trace is left", func() bool {
		keys, begun := f.objects(t)
		count, size := f.usage(t, tenant)
		return len(keys) == 0 && len(begun) == 0 && count == 0 && size == 0
	})
	files, _, err := f.ListFiles(as(t, tenant), Filter{}, 1000, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if file.State != Failed || file.Failure == "" {
			t.Errorf("%+v is left", file)
		}
	}
}

func (f fixture) upload(t *testing.T, tenant string, u Upload, content []byte) File {
	t.Helper()
	file, err := f.UploadFile(as(t, tenant), u, bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func (f fixture) read(t *testing.T, file File) []byte {
	t.Helper()
	var got bytes.Buffer
	err := f.DownloadFile(as(t, file.tenant), file, 0, file.Size, func(chunk []byte) error { got.Write(chunk); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return got.Bytes()
}

// random returns size bytes that differ everywhere, and are the same each time.
func random(size int) []byte {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8(sha256.Sum256(binary.AppendUvarint(nil, uint64(size)))).Read(b)
	return b
}

func sum(content []byte) string {
	s := sha256.Sum256(content)
	return hex.EncodeToString(s[:])
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); <-time.After(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it never happens: %s", what)
		}
	}
}

// exec runs SQL as the owner of the tables.
func (f fixture) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	if _, err := pgtest.Owner(t, f.url).Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

// breaking is a body that ends with an error after some bytes.
func breaking(content []byte, err error) io.Reader {
	return io.MultiReader(bytes.NewReader(content), failing{err})
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// endless repeats a text.
type endless string

func (e endless) Read(p []byte) (int, error) {
	n := 0
	for n+len(e) <= len(p) {
		n += copy(p[n:], e)
	}
	return n, nil
}
